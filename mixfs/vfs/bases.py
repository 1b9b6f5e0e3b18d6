"""What programs last read of each document, so that a save changes only what its program changed.

A program that reads a document, keeps it in memory and saves it later must not undo what others changed meanwhile. So
the document as it was when the process last opened it for reading, or last saved it, is kept as the base of its next
save (`mixfs/library/three_way.py`). Of a process that is not known to have read it (a script that reads with one
program and writes with another), the base is what was shown last to any.

Concurrency: event loop only. Bounded: the least recently used bases go, and a save without one replaces the document.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import Any, NamedTuple

from mixfs import jsontext
from mixfs.errors import InvalidValue

# Bytes of all bases together, compressed; one that is larger than a quarter of it is not kept.
MAX_BYTES = 16 << 20
_OVERHEAD = 200

Owner = tuple[int, int]
NOBODY: Owner = (0, 0)


class Base(NamedTuple):
    """A document as a program knows it; `revision` is None for one that it saved itself."""

    revision: int | None
    packed: bytes

    def document(self) -> Any:
        """The JSON value; None where it can't be read."""
        try:
            return jsontext.loads(zlib.decompress(self.packed))
        except (InvalidValue, zlib.error):
            return None


def pack(data: bytes | bytearray) -> bytes:
    return zlib.compress(data, 1)


def owner_of(pid: int) -> Owner:
    """The process of a request's thread: its id and when it was started, for ids are used again."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            process = next(int(line[5:]) for line in status if line.startswith(b"Tgid:"))
        with open(f"/proc/{process}/stat", "rb") as stat:
            started = int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, StopIteration, ValueError, IndexError):
        # Gone already, or of another PID namespace.
        return NOBODY
    return process, started


def document_of(key: bytes) -> bytes:
    """What names a document whatever its revision, from its node key."""
    return key[:2] if key[:2] == b"Vr" else key[:18]


def revision_of(key: bytes) -> int:
    return int.from_bytes(key[-8:], "little")


class Bases:
    """The bases of one mount."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Owner, bytes], Base] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def shown(self, owner: Owner, key: bytes, packed: bytes | None = None) -> bool:
        """Note that a process has opened a document for reading; False where `packed`, the document, is needed."""
        document, revision = document_of(key), revision_of(key)
        last = self._held.get((NOBODY, document))
        if last is None or last.revision != revision:
            if packed is None:
                return False
            last = Base(revision, packed)
        for each in {owner, NOBODY}:
            self._keep(each, document, last)
        return True

    def saved(self, owner: Owner, document: bytes, packed: bytes) -> None:
        """Note that a process has saved a document: that is what it believes it to be now."""
        base = Base(None, packed)
        for each in {owner, NOBODY}:
            self._keep(each, document, base)

    def of(self, owner: Owner, document: bytes) -> Base | None:
        """The base of the next save."""
        return self._held.get((owner, document)) or self._held.get((NOBODY, document))

    def _keep(self, owner: Owner, document: bytes, base: Base) -> None:
        old = self._held.pop((owner, document), None)
        if old is not None:
            self._bytes -= len(old.packed) + _OVERHEAD
        if len(base.packed) > MAX_BYTES // 4:
            return
        self._held[owner, document] = base
        self._bytes += len(base.packed) + _OVERHEAD
        while self._bytes > MAX_BYTES:
            _, gone = self._held.popitem(last=False)
            self._bytes -= len(gone.packed) + _OVERHEAD
