"""Segments that will take the place of all before them: written aside, put in place at once by `publish`.

A compacted segment's header says under key 5 up to which number it replaces, and under key 7 which is the last that
does. Nothing that it replaces is removed before every new segment stands and is durable. Killed in between, old and new
lie there together, and only one side counts: the old segments until the last new one stands, then the new ones. Both
are never read together, because a compacted journal sets times of folders that a change which is read twice does not
set again.

The checksum of a frame contains its segment's number, which is known for certain only when it is published: a number is
assumed, and the frames are written again where the journal went on to another segment meanwhile.

Concurrency: `add` needs no lock; `publish` is called under the library's flock.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import cbor2

from mixfs.journal import frames
from mixfs.journal.journal import FORMAT, Journal, Position, digest_of, stream_of
from mixfs.modes import create_file

# The number of a segment is known when it is published: its header is written then, into room that is kept for it.
_HEADER_SIZE = 128
_FILLER = 15


class Compacted:
    """New segments of `journal` in the making, in `directory`, which must be on the same file system."""

    def __init__(self, journal: Journal, directory: Path) -> None:
        self._journal = journal
        self._directory = directory
        self._parts: list[Path] = []
        self._last = max(journal.segments(), default=0)  # the segment that they are assumed to follow
        self._fd = -1
        self._size = 0

    def add(self, payload: bytes) -> None:
        """Append one item. Raises OSError."""
        if self._fd < 0 or self._size >= self._journal.segment_limit:
            self._begin()
        stream = stream_of(self._journal.replica, self._last + len(self._parts))
        self._write(frames.encode_at(payload, self._size, stream))

    def _begin(self) -> None:
        self._finish_part()
        path = self._directory / f"part-{len(self._parts)}"
        self._fd = create_file(path, os.O_RDWR | os.O_EXCL)
        self._parts.append(path)
        self._size = 0
        self._write(bytes(_HEADER_SIZE))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(data)

    def _finish_part(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def publish(self, last: Position) -> Position:
        """Put the new segments behind `last`, the journal's end, and remove what they replace; returns the new end.

        Raises OSError. Then the journal says what it said before, with or without the new segments.
        """
        self._finish_part()
        number, length, digest = last.segment, last.offset, self._journal.digest(*last)
        for path in self._parts:
            if last.segment != self._last:
                self._renumber(path, self._last + (number - last.segment) + 1, number + 1)
            fields = {
                1: FORMAT, 2: self._journal.replica, 3: number + 1, 4: length, 5: last.segment, 6: digest,
                7: last.segment + len(self._parts),
            }  # fmt: skip
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                length = os.fstat(fd).st_size
                if path == self._parts[-1]:
                    fields[8] = length
                os.pwrite(fd, _header(fields), 0)
                os.fsync(fd)
                digest = digest_of(fd, length)
            finally:
                os.close(fd)
            number += 1
        # Until the last one stands, the old segments count (`Journal.segments`).
        for offset, path in enumerate(self._parts):
            os.rename(path, self._journal.path(last.segment + 1 + offset))
        self._parts.clear()
        self._journal.close()
        self._journal.settle_compaction()
        return Position(number, length)

    def _renumber(self, path: Path, assumed: int, number: int) -> None:
        """Write a part's frames again for another segment number."""
        replica = self._journal.replica
        with open(path, "r+b") as file:
            data = file.read()
            for found in frames.scan(memoryview(data), _HEADER_SIZE, stream_of(replica, assumed)):
                assert found.payload is not None, "a part has changed since it was written"
                file.seek(found.start)
                file.write(frames.encode_at(found.payload, found.start, stream_of(replica, number)))

    def discard(self) -> None:
        """Leave no trace of what was not published."""
        self._finish_part()
        for path in self._parts:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _header(fields: dict[int, Any]) -> bytes:
    """A segment's first frame, of just `_HEADER_SIZE` bytes."""
    bare = len(frames.encode(cbor2.dumps(fields | {_FILLER: b""})))
    filler = _HEADER_SIZE - bare
    if filler >= 24:
        # From 24 bytes on the filler's own length takes one byte more.
        filler -= 1
    header = frames.encode(cbor2.dumps(fields | {_FILLER: bytes(filler)}))
    assert len(header) == _HEADER_SIZE
    return header
