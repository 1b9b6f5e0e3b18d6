"""What the suite holds all JSON to that MixFS writes: RFC 8259, in UTF-8, of the size that stat(2) says."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_DOCUMENTS = 300
"""Documents of a mount that are looked at: those of the first sessions, where there are many."""


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def strict(text: str | bytes) -> Any:
    """The value of JSON that keeps to the standard. Fails for any other."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "strict")
    value = json.loads(text, parse_constant=_refuse)
    # Half a surrogate pair that is written as an escape can't be kept as UTF-8 either.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def check_output(words: Sequence[object], out: str) -> None:
    """The output of a command that was asked for JSON: one document, or one a line. It may have been interrupted."""
    if "--json" not in map(str, words) or not out.endswith("\n"):
        return
    try:
        strict(out)
    except json.JSONDecodeError:
        for line in out.splitlines():
            strict(line)


def check_mount(point: Path) -> None:
    """The documents that a mount makes."""
    for path in itertools.islice(_documents(point), _DOCUMENTS):
        # A changed document is another file from then on. Those of .mixfs/ are made at each look, whatever their size.
        with open(path, "rb") as file:
            size, data = os.fstat(file.fileno()).st_size, file.read()
        assert path.parent.name == ".mixfs" or size in (0, len(data)), (path, size, len(data))
        for text in data.splitlines() if path.suffix == ".jsonl" else [data]:
            try:
                strict(text)
            except ValueError as error:
                raise AssertionError(f"{path}: {error}: {text[:200]!r}") from error


def _documents(point: Path) -> Iterator[Path]:
    yield from (point / ".mixfs").glob("*.json*")
    yield from (point / "storage-v2").glob("*.json")
    yield from (point / "storage-v2" / "sessions").glob("*.json")
    for session in (point / "sessions").iterdir():
        yield from session.glob("*.json")
        # Files of the user's own may be called so, too.
        for made in ("metadata", "generations", "canvas"):
            yield from (path for path in (session / made).rglob("*.json") if not path.is_symlink())
