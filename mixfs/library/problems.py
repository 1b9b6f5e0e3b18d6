"""What went wrong and was survived: one JSON line each in `LIBRARY/problems.jsonl`, shown as .mixfs/problems.jsonl."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

from mixfs import clock, jsontext
from mixfs.library.documents import iso
from mixfs.modes import create_file

LIMIT = 4 << 20


def shown_json(value: Any, indent: int | None = None) -> bytes:
    """JSON, in UTF-8, that a terminal can show and that has no line ends but its own.

    JSON's own escapes leave out DEL, C1 (U+009B begins an escape sequence), U+2028 and what turns text around.
    """
    text = jsontext.dumps(value, default=str, indent=indent)
    if not text.isascii() or "\x7f" in text:
        text = "".join(_escaped(char) for char in text)
    return text.encode("utf-8") + b"\n"


def _escaped(char: str) -> str:
    # Such characters stand within texts only, and `\n` only between them.
    if char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


class Problems:
    """Appends lines; the file starts anew, keeping the last one as `.old`, when it is longer than `LIMIT` bytes."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.path = root / "problems.jsonl"
        self._read_only = read_only

    def report(self, kind: str, reason: str, **fields: object) -> None:
        """Note a problem: what kind it is, the reason and remedy, and the fields that say where."""
        if self._read_only:
            return
        line = {"time": iso(clock.now_ns()), "kind": kind, "reason": reason} | fields
        data = shown_json(line)
        try:
            fd = create_file(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, data)
                if os.fstat(fd).st_size > LIMIT:
                    os.rename(self.path, self.path.with_suffix(".jsonl.old"))
            finally:
                os.close(fd)
        except OSError:
            # A full or read-only disk: the problem itself is reported to whoever asked.
            return

    def read(self) -> bytes:
        """Every line so far."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""
