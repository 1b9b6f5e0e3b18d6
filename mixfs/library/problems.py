"""What went wrong and was survived: one JSON line each in `LIBRARY/problems.jsonl`, shown as .mixfs/problems.jsonl."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from mixfs.library.documents import iso

LIMIT = 4 << 20


class Problems:
    """Appends lines; the file starts anew, keeping the last one as `.old`, when it is longer than `LIMIT` bytes."""

    def __init__(self, root: Path) -> None:
        self.path = root / "problems.jsonl"

    def report(self, kind: str, reason: str, **fields: object) -> None:
        """Note a problem: what kind it is, the reason and remedy, and the fields that say where."""
        line = {"time": iso(time.time_ns()), "kind": kind, "reason": reason} | fields
        data = json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
