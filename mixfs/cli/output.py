"""How commands speak: results on stdout, everything else on stderr; names from files never reach a terminal raw."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from mixfs import jsontext

# What JSON leaves as it is, and a terminal may act upon.
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def plain(text: str | bytes) -> str:
    """Text that can be printed anywhere: what could move a terminal's cursor, or is no UTF-8, is shown as an escape."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode()


def quoted(text: str) -> str:
    """A title or another name inside a sentence."""
    return f"'{plain(text)}'"


def one_line(text: str, limit: int = 72) -> str:
    """The beginning of a text, as one line."""
    text = plain(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def say(text: str = "") -> None:
    """A line of the result, for people."""
    print(text)


def note(text: str) -> None:
    """A line beside the result: what is going on, or what is wrong."""
    print(f"mixfs: {plain(text)}", file=sys.stderr)


def confirmed(question: str) -> bool:
    """Ask on the terminal; no answer is No."""
    print(f"mixfs: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """The result for programs. Bytes in names that are no UTF-8 come out as U+FFFD."""
    # A stream that can't say everything gets ASCII, which JSON can always be written in. There is none after `>&-`.
    utf8 = ((sys.stdout and sys.stdout.encoding) or "").lower().replace("-", "") == "utf8"
    text = jsontext.dumps(value, indent=indent, ascii=not utf8, default=str, deep=False)
    print(_NOT_ASCII.sub(_in_json, text), flush=True)


def _in_json(found: re.Match[str]) -> str:
    """A character as it is, or as JSON's escape where `plain` would show one: a terminal may be reading."""
    char = found[0]
    return char if _shown(char) == char else json.dumps(char)[1:-1]


def human_bytes(size: float) -> str:
    """1536 → `1.5 kB`, by thousands, as file managers show sizes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> None:
    """Columns in line; those in `right` are set flush right. Nothing is cut, so that a pipe sees all of it."""
    from rich.cells import cell_len

    lines = [list(heads), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(heads))]
    to_right = set(right)
    for line in lines:
        cells = []
        for i, (cell, width) in enumerate(zip(line, widths, strict=True)):
            pad = " " * (width - cell_len(cell))
            cells.append(pad + cell if i in to_right else cell + pad)
        say("  ".join(cells).rstrip())


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """`name: value` lines, the values in line; what is None or empty is left out."""
    shown = [(name, value) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0) + 1
    for name, value in shown:
        first, *rest = str(value).split("\n")
        say(f"{name + ':':<{width}} {plain(first)}")
        for line in rest:
            say(" " * (width + 1) + plain(line))
