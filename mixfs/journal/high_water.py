"""The high-water mark of a journal: how far commits were acknowledged, kept apart from the journal itself.

A journal that was cut at the end of an item, or restored from a backup, looks whole. The mark tells that more had been
there, also when the index is gone. It is written after each append has become durable and is not synced itself: after a
power cut it may be older than the journal, which does no harm, and never newer.

Concurrency: `note` is called under the library's flock.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

from mixfs.ids import ReplicaId
from mixfs.journal.files import make_directory_durably
from mixfs.journal.journal import START, Position
from mixfs.modes import create_file

_SIZE = 64


class HighWater:
    """The mark of one replica's journal, a line of text in `LIBRARY/high-water/REPLICA`."""

    def __init__(self, root: Path, replica: ReplicaId) -> None:
        self._path = root / "high-water" / replica.hex()
        self._noted: Position | None = None

    def read(self) -> Position:
        """The mark; `START` when there is none, or it is not what was written.

        Raises OSError when it can't be read: without the mark, damage would pass for a torn tail.
        """
        try:
            words = self._path.read_bytes().split()
            segment, offset, crc = (int(word) for word in words)
        except (FileNotFoundError, ValueError):
            return START
        return Position(segment, offset) if crc == _crc(Position(segment, offset)) else START

    @property
    def known(self) -> Position:
        """The mark as it was when it was first looked at, or as it was noted here since."""
        if self._noted is None:
            self._noted = self.read()
        return self._noted

    def note(self, position: Position) -> OSError | None:
        """Raise the mark to `position`; returns what keeps it from that. An older mark does no harm by itself."""
        try:
            if position <= self.known:
                return None
        except OSError as error:
            return error
        line = f"{position.segment} {position.offset} {_crc(position)}".encode().ljust(_SIZE - 1) + b"\n"
        try:
            try:
                fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                make_directory_durably(self._path.parent)
                fd = create_file(self._path, os.O_WRONLY)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            return error
        self._noted = position
        return None


def replicas_in(root: Path) -> set[ReplicaId]:
    """The replicas whose journals lie in a library, or did: a mark outlives its journal."""
    found = set()
    for directory in (root / "journal", root / "high-water"):
        for name in os.listdir(directory) if directory.is_dir() else []:
            with contextlib.suppress(ValueError):
                found.add(ReplicaId(bytes.fromhex(name)))
    return found


def _crc(position: Position) -> int:
    return zlib.crc32(b"%d %d" % position)
