"""Reading ahead of who goes through a folder: the next pictures' first bytes, while one is being looked at.

A file manager, `cp -r` and an import of another program read one picture after another in the order of the listing. The
kernel reads ahead within a file; that a blob is the next one only we know. Blobs lie by digest, each in another
directory of the disk, so that a cold one takes three waits: its name, its inode, its bytes.

Nothing is read ahead before two pictures that are neighbours had to wait for the disk, nor for those whose bytes are in
the page cache.

Concurrency: event loop only, but for the threads that open, ask the kernel to read, and close.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import islice

import trio

from mixfs.ids import Digest
from mixfs.library.api import Library
from mixfs.library.wanted import placement_place
from mixfs.records import Placement
from mixfs.vfs.views.mirrors import given_name

# How many pictures are read ahead of the one that is being read.
PICTURES = 8
# How much of each: of those that are read whole, and of those of which only the first bytes are asked for.
WHOLE, HEAD = 1 << 20, 1 << 16
# Pictures that were read ahead for somebody who then did not come are forgotten when there are so many.
_MOST = 32 * PICTURES


class _Row:
    """Somebody going through a folder: the last name that was read ahead, and how many wait to be read."""

    __slots__ = ("directory", "name", "waiting")

    def __init__(self, directory: bytes, name: bytes) -> None:
        self.directory, self.name, self.waiting = directory, name, 0


class Ahead:
    """What is read ahead in one mount."""

    def __init__(self, library: Library) -> None:
        self._library = library
        # The neighbours of the last picture that had to wait, and by node key what was read ahead for whom.
        self._near: frozenset[bytes] = frozenset()
        self._asked: dict[bytes, _Row] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def begun(self, key: bytes, *, waited: bool, whole: bool) -> None:
        """The first bytes of a file were read, for which it `waited` or not. Never awaits."""
        row = self._asked.pop(key, None)
        if row is not None:
            row.waiting -= 1
        elif not waited or key[:1] != b"P":
            return
        else:
            row = self._row(key)
            if row is None:
                return
            if key not in self._near:
                self._near = frozenset(neighbour for _, neighbour, _ in self._next(row))
                return
        if row.waiting <= PICTURES // 2:
            self._go_on(row, WHOLE if whole else HEAD)

    def _row(self, key: bytes) -> _Row | None:
        with self._library.read() as view:
            placement = view.get_raw(Placement, key[1:])
            if placement is None:
                return None
            directory, wanted = placement_place(placement)
            return _Row(directory, given_name(view, directory, wanted, key))

    def _next(self, row: _Row) -> list[tuple[bytes, bytes, Digest]]:
        """Name, node key and digest of the pictures that come next."""
        with self._library.read() as view:
            listed = [each for each in islice(view.dentries(row.directory, row.name), PICTURES) if each.key[:1] == b"P"]
            found = ((each, view.get_raw(Placement, each.key[1:])) for each in listed)
            return [(each.name, each.key, placement.digest) for each, placement in found if placement is not None]

    def _go_on(self, row: _Row, size: int) -> None:
        if len(self._asked) > _MOST:
            self._asked.clear()
        for name, key, digest in self._next(row):
            row.name = name
            if key not in self._asked:
                self._asked[key] = row
                row.waiting += 1
                trio.lowlevel.start_thread_soon(partial(self._fetch, digest, size), _nobody_asks)

    def _fetch(self, digest: Digest, size: int) -> None:
        fd = self._library.blobs.open(digest)
        try:
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def _nobody_asks(outcome: object) -> None:
    """How a fetch ended, an error too: whoever reads the picture is told what is wrong with it."""
