"""What the tests of a mount share: a corner of it for each test, pictures, and real programs."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from live import Live, sha256

from mixfs.library.api import Library
from mixfs.records import Placement, Session, Trash

_numbers = itertools.count(1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int = 24, height: int = 16) -> bytes:
    """A PNG whose pixels no other call gives."""
    rng = random.Random(next(_numbers))
    rows = b"".join(b"\0" + rng.randbytes(3 * width) for _ in range(height))
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def run(*words: object, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run a real program; skips the test, with the reason, when it isn't installed."""
    command = [os.fspath(word) if isinstance(word, Path) else str(word) for word in words]
    if shutil.which(command[0]) is None:
        pytest.skip(f"NOT RUN: there is no program {command[0]} here")
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=60, check=False)
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done


class Box:
    """A test's own corner of a mount that it shares: a folder of import/, the session of that name, and a source."""

    def __init__(self, live: Live, library: Library, title: str, source: Path) -> None:
        self.live, self.library, self.title, self.source = live, library, title, source
        self.point = live.point
        self.inbox = self.point / "import" / title
        self.session = self.point / "sessions" / title
        self.images = self.session / "images"

    def take_in(self) -> None:
        self.live.take_in()

    def put(self, name: str, data: bytes | None = None, where: Path | None = None) -> Path:
        """A file in the source folder, or elsewhere."""
        path = (where or self.source) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png() if data is None else data)
        return path

    def imported(self, name: str = "a.png", data: bytes | None = None) -> Path:
        """A file that was copied into import/TITLE/ and taken in."""
        path = self.put(name, data, self.inbox)
        self.take_in()
        return path

    def record(self, title: str | None = None) -> Session | None:
        with self.library.read() as view:
            return next(view.sessions_titled(title or self.title), None)

    def placements(self, title: str | None = None) -> dict[bytes, Placement]:
        session = self.record(title)
        assert session is not None
        return {placement.name: placement for placement in self.library.placements(session.id)}

    def trash(self) -> list[Trash]:
        with self.library.read() as view:
            return [item for item in view.records(Trash) if item.session_title == self.title]

    def problems(self) -> list[str]:
        return (self.point / ".mixfs" / "problems.jsonl").read_text().splitlines()


def same(first: Path, second: Path) -> None:
    """Two files have the same bytes and size."""
    assert sha256(first) == sha256(second)
    assert first.stat().st_size == second.stat().st_size
