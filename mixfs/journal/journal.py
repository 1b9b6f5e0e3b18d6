"""The journal: append-only segments of one replica, `journal/REPLICA/00000001.seg` and so on.

Concurrency: `append`, `cut_tail` and `end` are called under the library's flock only. `read` may run at any time; it
sees whole frames, and what it calls torn may be an append that is under way in another process. No method is called
from two threads at once: the library's write lock sees to that.

A segment begins with a header frame: CBOR {1: format, 2: replica, 3: segment number, 4: durable length of the segment
before, or nil, 5: the last segment that this one replaces (`mixfs.journal.compaction`)}. After a failed append or
fdatasync nothing is known of the file's tail, so the segment is closed at its last durable length, which the next
header names, and bytes beyond that are never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cbor2

from mixfs.errors import FormatTooNew, JournalDamaged
from mixfs.ids import ReplicaId
from mixfs.journal import frames
from mixfs.journal.files import make_directory_durably, write_durably

FORMAT = 1
SEGMENT_LIMIT = 64 << 20


class Position(NamedTuple):
    """A place in a replica's journal: segment number from 1, byte offset. Positions order as tuples do."""

    segment: int
    offset: int


START = Position(1, 0)


class Item(NamedTuple):
    """One frame read back. `payload` None is damage between `start` and `end`; `torn` when nothing valid follows."""

    start: Position
    end: Position
    payload: bytes | None
    torn: bool


class Journal:
    """The segments of one replica below `root` (the library's journal/ directory)."""

    def __init__(self, root: Path, replica: ReplicaId, *, segment_limit: int = SEGMENT_LIMIT) -> None:
        self.replica = replica
        self.directory = root / replica.hex()
        self.segment_limit = segment_limit
        self._fd = -1
        self._segment = 0
        self._failed: tuple[int, bytes] | None = None  # set after a failed write: the last durable length, the frame

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._segment = 0

    # -- segments

    def path(self, segment: int) -> Path:
        """Where a segment lies, or would."""
        return self.directory / f"{segment:08d}.seg"

    def segments(self) -> list[int]:
        """The numbers of the segments that exist, in order."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(name[:-4]) for name in names if name.endswith(".seg") and name[:-4].isdigit())

    def _open_last(self) -> None:
        """Hold the last segment open for writing; another process may have begun a new one since.

        Or compacted the journal, more than once: then neither ours nor the next one is there any more.
        """
        if self._fd >= 0 and os.fstat(self._fd).st_nlink and not self.path(self._segment + 1).exists():
            return
        self.close()
        self._failed = None
        segments = self.segments()
        if not segments:
            self._begin_segment(1, None)
            segments = [1]
        header = self._header(segments[-1])
        if header:
            self._check_format(segments[-1], header)
        self._segment = segments[-1]
        self._fd = os.open(self.path(self._segment), os.O_RDWR | os.O_CLOEXEC)

    def _begin_segment(self, number: int, previous_length: int | None) -> None:
        header = cbor2.dumps({1: FORMAT, 2: self.replica, 3: number, 4: previous_length})
        make_directory_durably(self.directory)
        write_durably(self.path(number), frames.encode(header))

    def _rotate(self, durable_length: int) -> None:
        self._begin_segment(self._segment + 1, durable_length)
        self.close()
        self._open_last()

    # -- writing

    def end(self) -> Position:
        """Where the next item goes. Call under the library's lock."""
        self._open_last()
        if self._failed is not None:
            self._rotate(self._durable_length(*self._failed))
        size = os.fstat(self._fd).st_size
        if size >= self.segment_limit:
            # Whoever wrote the last item may have been killed before its fdatasync.
            self.sync()
            self._rotate(size)
            size = os.fstat(self._fd).st_size
        return Position(self._segment, size)

    def sync(self) -> None:
        """Make durable what a killed writer appended. Call under the library's lock."""
        self._open_last()
        os.fdatasync(self._fd)

    def _durable_length(self, length: int, frame: bytes) -> int:
        """Where to close a segment after `frame` could not be written at `length`.

        Another process may have gone on there since (the lock was free): what it acknowledged stays.
        """
        size = os.fstat(self._fd).st_size
        left_over = os.pread(self._fd, len(frame), length)
        return length if size <= length + len(frame) and frame.startswith(left_over) else size

    def append(self, payload: bytes) -> Position:
        """Append one item and make it durable; returns the position after it.

        Raises OSError when it could not be written; then nothing of it will ever be read, as far as the file system
        allows: the segment ends where it ended before.
        """
        start = self.end()
        frame = frames.encode(payload)
        try:
            view, offset = memoryview(frame), start.offset
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
            os.fdatasync(self._fd)
        except BaseException:
            self._failed = start.offset, frame
            try:
                os.ftruncate(self._fd, start.offset)
                self._rotate(start.offset)
            except OSError:
                # The next `end` tries again; `_failed` is remembered until a new segment stands.
                pass
            raise
        return Position(start.segment, start.offset + len(frame))

    def cut_tail(self, item: Item, quarantine: Path) -> Path:
        """Cut a torn tail off the last segment; its bytes are kept in `quarantine`, whose file is returned."""
        self._open_last()
        if item.payload is not None or not item.torn or item.start.segment != self._segment:
            raise JournalDamaged(f"{self.path(item.start.segment)}: refusing to cut bytes that are no torn tail")
        data = os.pread(self._fd, item.end.offset - item.start.offset, item.start.offset)
        make_directory_durably(quarantine)
        stem, number = f"journal-{self.replica.hex()}-{self._segment:08d}-{item.start.offset}", 1
        while (kept := quarantine / f"{stem}{f'-{number}' if number > 1 else ''}.torn").exists():
            number += 1
        write_durably(kept, data)
        os.ftruncate(self._fd, item.start.offset)
        os.fsync(self._fd)
        return kept

    # -- reading

    def read(self, start: Position = START) -> Iterator[Item]:
        """Every item from `start` on, across segments; stretches of damage are items without a payload."""
        for number in [n for n in self.segments() if n >= start.segment]:
            yield from self._read_segment(number, start.offset if number == start.segment else 0)

    def _read_segment(self, number: int, offset: int) -> Iterator[Item]:
        try:
            data = self.path(number).read_bytes()
        except FileNotFoundError:
            return
        following = self._header(number + 1)
        if following is not None and following.get(4) is not None:
            data = data[: following[4]]
        view = memoryview(data)
        last = following is None
        for found in frames.scan(view, offset):
            payload = found.payload
            if found.start == 0 and payload is not None:
                header = _parse_header(payload)
                if header:
                    self._check_format(number, header)
                    continue
                payload = None
            yield Item(Position(number, found.start), Position(number, found.end), payload, found.torn and last)

    def _header(self, number: int) -> dict[int, Any] | None:
        try:
            with open(self.path(number), "rb") as file:
                payload = frames.decode_at(memoryview(file.read(4096)), 0)
        except FileNotFoundError:
            return None
        # A damaged header still says that the segment before is not the last one.
        return _parse_header(payload) if payload is not None else {}

    def _check_format(self, number: int, header: dict[int, Any]) -> None:
        if header[1] > FORMAT:
            raise FormatTooNew(
                f"{self.path(number)} was written in journal format {header[1]}; this MixFS reads up to {FORMAT}. "
                "Install a newer MixFS."
            )

    def size(self) -> int:
        """All segments' bytes."""
        return sum(size for _, size in self.sizes())
    def sweep(self) -> None:
        """Remove what killed writers left of segments that they began. Call under the library's lock.

        Segments are begun under that lock only, so whoever made such a file is gone, whatever its number says.
        """
        for leftover in self.directory.glob(".*.seg.*.new"):
            leftover.unlink(missing_ok=True)

    def sizes(self) -> Iterator[tuple[Path, int]]:
        """Each segment's path and size in bytes."""
        for number in self.segments():
            path = self.path(number)
            yield path, path.stat().st_size


def _parse_header(payload: bytes) -> dict[int, Any]:
    """The map of a header frame; empty when it is none."""
    try:
        header = cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError, TypeError):
        return {}
    sound = isinstance(header, dict) and isinstance(header.get(1), int) and isinstance(header.get(4), int | None)
    return header if sound else {}
