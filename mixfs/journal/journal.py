"""The journal: append-only segments of one replica, `journal/REPLICA/00000001.seg` and so on.

Concurrency: `append`, `cut_tail`, `begin_after` and `end` are called under the library's flock only. `read` may run at
any time; it sees whole frames, and what it calls torn may be an append that is under way in another process. No method
is called from two threads at once: the library's write lock sees to that.

A segment begins with a header frame: CBOR {1: format, 2: replica, 3: segment number, 4: durable length of the segment
before, or nil, 5: the last segment that this one replaces and 7: the last of those that replace it together
(`mixfs.journal.compaction`), 8: in the last of those its length when it was published, 6: XXH3-128 of the segment
before, up to its durable length}. So segments form a chain. It is verified wherever segments are opened: numbers,
replicas and lengths of all of them always, digests of those that are read. A broken link is an item without payload,
like any other damage.

After a failed append or fdatasync nothing is known of the file's tail, so the segment is closed at its last durable
length, which the next header names, and bytes beyond that are never read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
from xxhash import xxh3_128

from mixfs.errors import FormatTooNew, JournalDamaged, JournalReplaced
from mixfs.ids import ReplicaId
from mixfs.journal import frames
from mixfs.journal.files import fsync_directory, make_directory_durably, write_durably

FORMAT = 2
SEGMENT_LIMIT = 64 << 20
_PIECE = 1 << 20


class Position(NamedTuple):
    """A place in a replica's journal: segment number from 1, byte offset. Positions order as tuples do."""

    segment: int
    offset: int


START = Position(1, 0)


class Item(NamedTuple):
    """One frame read back. `payload` None is damage between `start` and `end`; `torn` when nothing valid follows.

    `reason` says what is wrong with the chain of segments, where that is the damage.
    """

    start: Position
    end: Position
    payload: bytes | None
    torn: bool
    reason: str = ""

    def is_damage(self, known: Position) -> bool:
        """Whether something is missing here, of a journal that was acknowledged up to `known`.

        A torn tail behind that may be an append under way, or one that was cut short.
        """
        return not self.torn or self.start < known


class Journal:
    """The segments of one replica below `root` (the library's journal/ directory)."""

    def __init__(self, root: Path, replica: ReplicaId, *, segment_limit: int = SEGMENT_LIMIT) -> None:
        self.replica = replica
        self.directory = root / replica.hex()
        self.segment_limit = segment_limit
        self._fd = -1
        self._segment = 0
        self._path = self._next_path = ""
        self._known = 0  # bytes of the open segment that were seen or written: it never gets shorter
        self._stream: bytes | None = None
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
        """The numbers of the segments that count, in order.

        These are all that exist, except for one side of a compaction that is under way or was cut short: the old
        segments once all new ones stand, and until then the new ones. So at any instant a reader sees the journal as it
        was before the compaction, or as it is after it.
        """
        numbers = self._numbers()
        for number in reversed(numbers):
            header = self._header(number)
            if not header or header.get(5) is None:
                continue
            replaced, last = header[5], header.get(7)
            new = [each for each in numbers if each > replaced]
            # Before journal format 2 a header did not say how many segments replace the others together.
            if last is not None and new[: last - replaced] == list(range(replaced + 1, last + 1)):
                return new
            if last is not None and replaced in numbers and new == list(range(replaced + 1, replaced + 1 + len(new))):
                # The newest of the old segments goes first: while it is there, all of them are.
                return [each for each in numbers if each <= replaced]
            break
        return numbers

    def settle_compaction(self) -> None:
        """Remove the side of a compaction that does not count (`segments`). Call under the library's lock.

        Only while the other side is just what the compaction read or wrote: else both stay.
        """
        counting = self.segments()
        superfluous = [number for number in self._numbers() if number not in counting]
        if superfluous and self._replaces(counting, superfluous):
            # The names of those that count must be durable first.
            fsync_directory(self.directory)
            for number in reversed(superfluous):
                os.unlink(self.path(number))

    def _replaces(self, counting: list[int], superfluous: list[int]) -> bool:
        """Whether nothing is lost with the segments that don't count."""
        if superfluous[0] > counting[-1]:
            # The new ones go: the old ones must be those that they were made from.
            header = self._header(superfluous[0]) or {}
            length = header.get(4)
            return (
                length is not None and self.path(counting[-1]).stat().st_size == length
                and header.get(6) == self.digest(counting[-1], length)
            )  # fmt: skip
        last = int((self._header(counting[0]) or {}).get(7) or 0)
        length = (self._header(last) or {}).get(8)
        if length is None or self.path(last).stat().st_size < length:
            return False
        new = [number for number in counting if number <= last]
        return all(item.payload is not None for number in new for item in self._read_segment(number, 0))

    def resume(self, position: Position) -> Position | None:
        """Where to read on after everything before `position` was seen.

        That is behind the compacted segments when they replaced just what was seen, and None when they replaced more.
        """
        first = next(iter(self.segments()), 0)
        header = self._header(first) if first > position.segment and position != START else None
        if not header or header.get(5) is None:
            return position
        last = header.get(7) or 0
        length = (self._header(last) or {}).get(8)
        if position == Position(header[5], header.get(4) or 0) and length is not None:
            return Position(last, length)
        return None

    def _numbers(self) -> list[int]:
        """The numbers of the segments that exist, in order."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(name[:-4]) for name in names if name.endswith(".seg") and name[:-4].isdigit())

    def _open_last(self) -> None:
        """Hold the last segment open for writing; another process may have begun a new one since.

        Or compacted the journal, more than once: then neither ours nor the next one is there any more.
        Raises JournalReplaced when the open segment isn't the one that lies there, or was cut.
        """
        if self._fd >= 0 and not self._was_superseded():
            return
        self.close()
        self._failed = None
        with contextlib.suppress(OSError):
            self.settle_compaction()
        segments = self.segments()
        if not segments:
            self._begin_segment(1, None)
            segments = [1]
        header = self._header(segments[-1])
        if header:
            self._check_format(segments[-1], header)
        self._segment = segments[-1]
        # Looked at by each commit, so they are spelled once.
        self._path, self._next_path = str(self.path(self._segment)), str(self.path(self._segment + 1))
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._known = os.fstat(self._fd).st_size
        self._stream = self._stream_of(self._segment, header)

    def _was_superseded(self) -> bool:
        status = os.fstat(self._fd)
        if not status.st_nlink and self._failed is None:
            segments = self.segments()
            if segments and segments[-1] > self._segment:
                return True
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
            raise JournalReplaced(
                f"{self._path} was taken away or replaced while it was open here: nothing is written. "
                "Close or unmount the library, put its own files back, and open it again."
            )
        if os.path.exists(self._next_path):
            return True
        if status.st_size < self._known and self._failed is None:
            raise JournalReplaced(
                f"{self._path} had {self._known} bytes and has {status.st_size} now: nothing is written. "
                "Close or unmount the library and restore the segment from a backup."
            )
        self._known = status.st_size
        return False

    def _stream_of(self, number: int, header: dict[int, Any] | None, data: bytes = b"") -> bytes | None:
        """What the checksums of a segment's frames contain besides the offset; None for journal format 1."""
        # Where the header is damaged, the items tell: those of both formats never stand in one segment.
        is_plain = header[1] == 1 if header else frames.MAGIC not in data and frames.PLAIN_MAGIC in data[1:]
        return None if is_plain else stream_of(self.replica, number)

    def _begin_segment(self, number: int, previous: Position | None, digest: bytes | None = None) -> None:
        fields: dict[int, Any] = {1: FORMAT, 2: self.replica, 3: number, 4: previous.offset if previous else None}
        if digest is not None:
            fields[6] = digest
        make_directory_durably(self.directory)
        write_durably(self.path(number), frames.encode(cbor2.dumps(fields)))

    def _rotate(self, durable_length: int) -> None:
        digest = digest_of(self._fd, durable_length)
        self._begin_segment(self._segment + 1, Position(self._segment, durable_length), digest)
        self.close()
        self._open_last()

    def begin_after(self, lost: Position) -> None:
        """Continue behind `lost`, the end of acknowledged commits that are missing. Call under the library's lock.

        The header of the new segment demands that length of the segment before, so the gap shows until its segment is
        put back.
        """
        number = max([lost.segment, *self.segments()])
        length = lost.offset if number == lost.segment else self.path(number).stat().st_size
        self.close()
        self._begin_segment(number + 1, Position(number, length))

    def digest(self, number: int, length: int) -> bytes:
        """XXH3-128 of the first `length` bytes of a segment, big-endian. Raises OSError."""
        fd = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return digest_of(fd, length)
        finally:
            os.close(fd)

    # -- writing

    def written(self) -> Position:
        """Where the journal ends now, torn tail included. Call under the library's lock."""
        self._open_last()
        if self._failed is not None:
            self._rotate(self._durable_length(*self._failed))
        return Position(self._segment, os.fstat(self._fd).st_size)

    def end(self) -> Position:
        """Where the next item goes. Call under the library's lock, when a torn tail has been cut."""
        position = self.written()
        if position.offset < self.segment_limit and self._stream is not None:
            return position
        # A full segment, or one of an older format. Its last writer may have been killed before the fdatasync.
        self.sync()
        self._rotate(position.offset)
        return self.written()

    def written_end(self) -> Position:
        """Where the journal ends, torn tail included, as far as can be told without the lock."""
        sizes = list(self.sizes())
        return Position(int(sizes[-1][0].stem), sizes[-1][1]) if sizes else START

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
        frame = frames.encode_at(payload, start.offset, self._stream or b"")
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
        self._known = offset
        return Position(start.segment, offset)

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
        self._known = item.start.offset
        return kept

    # -- reading

    def read(self, start: Position = START) -> Iterator[Item]:
        """Every item from `start` on, across segments; stretches of damage are items without a payload.

        So are broken links of the chain, where they come in order. Raises OSError for a segment that can't be read.
        """
        segments, first = self.segments(), self._first_needed()
        previous = start.segment - 1
        while number := next((each for each in segments if each > previous), 0):
            if number > max(previous + 1, first):
                yield _missing(max(previous + 1, first), number)
            yield from self._read_segment(number, start.offset if number == start.segment else 0)
            previous = number
            if not self.path(number).exists():
                # A compaction replaced it while it was read: what is read on is in the new segments.
                segments, first = self.segments(), self._first_needed()

    def broken_links(self) -> Iterator[Item]:
        """What is wrong with the chain as far as headers and sizes tell, and the digest of the last but one segment.

        For whoever opens the journal: what is read of it is verified by `read`.
        """
        segments, first = self.segments(), self._first_needed()
        previous = first - 1
        for number in segments:
            if number < first:
                continue
            if number > previous + 1:
                yield _missing(previous + 1, number)
            header = self._header(number)
            if reason := self._wrong_with(number, header):
                yield Item(Position(number, 0), Position(number, frames.HEAD_SIZE), None, False, reason)
            if header and number - 1 in segments and header.get(4) is not None and number > first:
                size = self.path(number - 1).stat().st_size
                if size < header[4]:
                    yield _short(number - 1, size, header[4])
                elif number == segments[-1] and header.get(6) not in (None, self.digest(number - 1, header[4])):
                    yield _other(number - 1, header[4])
            previous = number

    def _first_needed(self) -> int:
        """The first segment of the chain: what a complete compaction replaces is not needed."""
        segments = self.segments()
        for number in reversed(segments):
            header = self._header(number)
            replaced = header.get(5) if header else None
            if header and replaced is not None:
                # Before journal format 2 a header did not say how many replace the others together.
                last = header.get(7, replaced + 1)
                if all(each in segments for each in range(replaced + 1, last + 1)):
                    return int(replaced) + 1
        return 1

    def _wrong_with(self, number: int, header: dict[int, Any] | None) -> str:
        if not header:
            return "its header is not what was written"
        if header.get(2) != self.replica:
            return "its header is that of another library's segment"
        if header.get(3) != number:
            return f"its header is that of segment {header.get(3)}"
        return ""

    def _read_segment(self, number: int, offset: int) -> Iterator[Item]:
        # The successor first: what was appended to this one before it was begun is read then.
        following = self._header(number + 1)
        try:
            data = self.path(number).read_bytes()
        except FileNotFoundError:
            return
        length = following.get(4) if following is not None else None
        size = len(data)
        if length is not None:
            data = data[:length]
        view = memoryview(data)
        plain = frames.decode_at(view, 0, None)
        header = _parse_header(plain)
        if header:
            self._check_format(number, header)
        if offset == 0 and plain is not None:
            offset = frames.HEAD_SIZE + len(plain)
            if reason := self._wrong_with(number, header):
                yield Item(Position(number, 0), Position(number, offset), None, False, reason)
        sound = True
        for found in frames.scan(view, offset, self._stream_of(number, header, data)):
            start, end = Position(number, found.start), Position(number, found.end)
            sound = sound and found.payload is not None
            yield Item(start, end, found.payload, found.torn and following is None)
        if following is None or length is None:
            return
        if size < length:
            yield _short(number, size, length)
        elif sound and following.get(6) not in (None, xxh3_128(data).digest()):
            yield _other(number, length)

    def _header(self, number: int) -> dict[int, Any] | None:
        try:
            with open(self.path(number), "rb") as file:
                payload = frames.decode_at(memoryview(file.read(4096)), 0, None)
        except FileNotFoundError:
            return None
        # A damaged header still says that the segment before is not the last one.
        return _parse_header(payload)

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
            # A compaction may take segments away at any time.
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_size


def digest_of(fd: int, length: int) -> bytes:
    """XXH3-128 of the first `length` bytes of a file, big-endian. Raises OSError."""
    digest, offset = xxh3_128(), 0
    while offset < length and (piece := os.pread(fd, min(_PIECE, length - offset), offset)):
        digest.update(piece)
        offset += len(piece)
    return digest.digest()


def stream_of(replica: bytes, number: int) -> bytes:
    """What the checksums of a segment's frames contain besides the offset."""
    return replica + number.to_bytes(8, "little")


def _missing(first: int, following: int) -> Item:
    last = following - 1
    reason = f"segment {first} is missing" if first == last else f"segments {first} to {last} are missing"
    return Item(Position(first, 0), Position(following, 0), None, False, reason)


def _short(number: int, size: int, length: int) -> Item:
    reason = f"the segment has {size} bytes, and had {length} when the next one was begun"
    return Item(Position(number, size), Position(number, length), None, False, reason)


def _other(number: int, length: int) -> Item:
    reason = "the segment is not the one that was there when the next one was begun"
    return Item(Position(number, 0), Position(number, length), None, False, reason)


def _parse_header(payload: bytes | None) -> dict[int, Any]:
    """The map of a header frame; empty when it is none."""
    if payload is None:
        return {}
    try:
        header = cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError, TypeError):
        return {}
    sound = isinstance(header, dict) and isinstance(header.get(1), int)
    return header if sound and all(isinstance(header.get(key), int | None) for key in (3, 4, 5, 7, 8)) else {}
