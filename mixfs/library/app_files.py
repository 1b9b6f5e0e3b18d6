"""What of a Storage V2 folder is no record: logs.jsonl and thumbnails/, plain files in LIBRARY/storage-v2/.

Concurrency: nothing is kept in memory. A line is appended by one write(2) with O_APPEND, so that several processes may
append at once. All that writes blocks on the disk.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from mixfs.errors import InvalidValue
from mixfs.journal.files import fsync_directory
from mixfs.modes import create_file, make_directory
from mixfs.names import is_name
from mixfs.regular_files import open_regular

_BLOCK = 64 << 10
MAX_THUMBNAIL = 64 << 20


class AppFiles:
    """The files of one library; docs/decisions/0020 says why they are files."""

    def __init__(self, root: Path) -> None:
        self.path = root / "storage-v2"
        self.log = self.path / "logs.jsonl"
        self.thumbnails = self.path / "thumbnails"

    def open_log(self) -> int:
        """A descriptor that reads the log, and appends to it. Raises OSError."""
        fresh = not self.log.exists()
        make_directory(self.path, exist_ok=True)
        fd = create_file(self.log, os.O_RDWR | os.O_APPEND)
        if fresh:
            fsync_directory(self.path)
            fsync_directory(self.path.parent)
        return fd

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines, each without its line feed; they are durable when this returns. Raises OSError."""
        data = b"".join(line + b"\n" for line in lines)
        if not data:
            return
        fd = self.open_log()
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                # A line that was cut short stays a line of its own.
                data = b"\n" + data
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def take(self, lines: Iterable[bytes]) -> None:
        """Append those lines of another log that are not here yet, as often as they stand there."""
        here = Counter(_mark(line) for line in self.lines())
        fresh = []
        for line in lines:
            mark = _mark(line)
            if here[mark]:
                here[mark] -= 1
            else:
                fresh.append(line)
        self.append(fresh)

    def lines(self) -> Iterator[bytes]:
        """Every line that is not empty, without its line feed, the oldest first."""
        try:
            file = self.log.open("rb")
        except FileNotFoundError:
            return
        with file:
            for line in file:
                if line.strip():
                    yield line.rstrip(b"\r\n")

    def last(self, count: int) -> list[bytes]:
        """The last lines, the oldest first; reads no more of the file than it must."""
        try:
            file = self.log.open("rb")
        except FileNotFoundError:
            return []
        with file:
            at, data = file.seek(0, os.SEEK_END), b""
            while True:
                lines = [line.rstrip(b"\r") for line in data.split(b"\n")[1 if at else 0 :] if line.strip()]
                if len(lines) >= count or not at:
                    return lines[-count:] if count > 0 else []
                step = min(at, max(_BLOCK, len(data)))
                at -= step
                data = os.pread(file.fileno(), step, at) + data

    def all_thumbnails(self) -> Iterator[tuple[str, str, Path]]:
        """`(folder, name, path)` of each thumbnail, folder by folder."""
        if not self.thumbnails.is_dir():
            return
        for folder in sorted(os.listdir(self.thumbnails)):
            for name in sorted(os.listdir(self.thumbnails / folder)):
                yield folder, name, self.thumbnails / folder / name

    def take_thumbnail(self, folder: str, source: Path) -> None:
        """Keep a copy of a thumbnail unless there is one of its name. Raises OSError, InvalidValue."""
        if not is_name(os.fsencode(folder)) or not is_name(os.fsencode(source.name)):
            raise InvalidValue(f"{folder!r:.80} is no name of a folder.")
        path = self.thumbnails / folder / source.name
        make_directory(path.parent, parents=True, exist_ok=True)
        if not path.exists():
            beside = path.with_name(f".{path.name}"[:255])
            with (
                open(open_regular(source, MAX_THUMBNAIL, follow=False), "rb") as file,
                open(create_file(beside, os.O_WRONLY | os.O_TRUNC), "wb") as out,
            ):
                shutil.copyfileobj(file, out)
            os.replace(beside, path)


def _mark(line: bytes) -> bytes:
    return blake2b(line.strip(), digest_size=16).digest()
