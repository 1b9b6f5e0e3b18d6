"""The one choke point through which bytes get a digest: a file in staging that is hashed while it is written.

Concurrency: one thread at a time. Written in order, the digest costs nothing more at the end; a write that goes back,
or a truncation, makes `digest` read the file again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mixfs.ids import Digest

CHUNK = 1 << 20


class Intake:
    """A file being written at `path`. `fd` is open for reading and writing until `close`."""

    __slots__ = ("_hash", "_hashed", "fd", "path")

    def __init__(self, path: Path, *, exists: bool = False) -> None:
        """Make the file (0600), or take up one that is there."""
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if exists else os.O_CREAT | os.O_EXCL)
        self.fd = os.open(path, flags, 0o600)
        self._hash = hashlib.sha256()
        # How far the digest has come; -1 when what it saw is no longer what the file begins with.
        self._hashed = 0 if os.fstat(self.fd).st_size == 0 else -1

    @classmethod
    def around(cls, path: Path, fd: int) -> Intake:
        """Bytes that are open at `fd`, for reading only, and that would lie at `path`."""
        intake = cls.__new__(cls)
        intake.path, intake.fd, intake._hash, intake._hashed = path, fd, hashlib.sha256(), -1
        return intake

    @classmethod
    def twin(cls, other: Intake) -> Intake:
        """The same file and what is known of its digest, with a descriptor of its own."""
        twin = cls(other.path, exists=True)
        twin._hash, twin._hashed = other._hash.copy(), other._hashed
        return twin

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`; returns its length. Raises OSError (ENOSPC, …), with the file usable."""
        view, at = memoryview(data), offset
        if offset != self._hashed:
            self._hashed = -1
        while view:
            written = os.pwrite(self.fd, view, at)
            if self._hashed >= 0:
                self._hash.update(view[:written])
                self._hashed += written
            view, at = view[written:], at + written
        return len(data)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        if size == 0:
            self._hash, self._hashed = hashlib.sha256(), 0
        elif size != self._hashed:
            self._hashed = -1

    def digest(self) -> Digest:
        """The SHA-256 of the file as it is now."""
        if self._hashed != self.size:
            self._hash = hashlib.sha256()
            self._hashed = 0
            while chunk := os.pread(self.fd, CHUNK, self._hashed):
                self._hash.update(chunk)
                self._hashed += len(chunk)
        return Digest(self._hash.digest())

    def copy_from(self, source: int) -> int:
        """Write all of another file's bytes behind what is there; returns how many."""
        at = start = self.size
        while chunk := os.read(source, CHUNK):
            at += self.write(chunk, at)
        return at - start

    def copy_whole(self, source: int) -> None:
        """Write all of another file, from its beginning, whatever its position: others may share the descriptor."""
        at = 0
        while chunk := os.pread(source, CHUNK, at):
            at += self.write(chunk, at)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)
