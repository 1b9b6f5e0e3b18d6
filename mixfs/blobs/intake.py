"""The one choke point through which bytes get a digest: a file in staging that is hashed while it is written.

Concurrency: one thread at a time. Written in order, digest and block sums cost nothing more at the end; a write that
goes back, or a truncation, makes `digest` read the file again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from mixfs.blobs.copying import copy_data, next_data, next_hole
from mixfs.blobs.sums import BlockSums
from mixfs.ids import Digest
from mixfs.modes import create_file

CHUNK = 1 << 20
_ZEROS = memoryview(bytes(CHUNK))
# The longest file that is kept: its block sums are 32 MiB of one record.
MAX_SIZE = 1 << 38
_BLOCK = 512  # what st_blocks counts in, whatever the file system has


class Intake:
    """A file being written at `path`. `fd` is open for reading and writing until `close`, unless it is parked."""

    __slots__ = ("_closed", "_fd", "_hash", "_hashed", "_sums", "path")

    def __init__(self, path: Path, *, exists: bool = False) -> None:
        """Make the file (0600), or take up one that is there."""
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC
        self._fd = os.open(path, flags) if exists else create_file(path, flags | os.O_EXCL)
        self._closed = False
        self._begin_again()
        # How far the digest has come; -1 when what it saw is no longer what the file begins with.
        self._hashed = 0 if os.fstat(self.fd).st_size == 0 else -1

    def _begin_again(self) -> None:
        self._hash, self._sums, self._hashed = hashlib.sha256(), BlockSums(), 0

    def _take(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._sums.update(data)
        self._hashed += len(data)

    @property
    def fd(self) -> int:
        """Opened again where it was parked; -1 when closed."""
        if self._fd < 0 and not self._closed:
            with contextlib.suppress(PermissionError):
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                return self._fd
            # A publishing that failed made it read-only.
            os.chmod(self.path, 0o600)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    def park(self) -> None:
        """Give the descriptor back until it is used again: more files may wait than a process may have open.

        The file must lie at `path`, and nobody be at work with `fd`.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def status(self) -> os.stat_result:
        return os.stat(self.path) if self._fd < 0 else os.fstat(self._fd)

    def set_times(self, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self.path if self._fd < 0 else self._fd, ns=(atime_ns, mtime_ns))

    @property
    def size(self) -> int:
        return self.status().st_size

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`; returns its length. Raises OSError (ENOSPC, …), with the file usable."""
        view, at = memoryview(data), offset
        if offset != self._hashed:
            self._hashed = -1
        while view:
            written = os.pwrite(self.fd, view, at)
            if self._hashed >= 0:
                self._take(view[:written])
            view, at = view[written:], at + written
        return len(data)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        if size == 0:
            self._begin_again()
        elif size != self._hashed:
            self._hashed = -1

    @property
    def hashed(self) -> int:
        """How far the digest has come. Any thread may ask."""
        return max(0, self._hashed)

    def digest(self, go_on: Callable[[], None] = lambda: None) -> Digest:
        """The SHA-256 of the file as it is now.

        `go_on` is called now and then and may raise: the next call goes on from there.
        """
        size = self.size
        if not 0 <= self._hashed <= size:
            self._begin_again()
        data_at = self._hashed
        while self._hashed < size:
            go_on()
            if data_at <= self._hashed:
                data_at = next_data(self.fd, self._hashed, size)
            if data_at > self._hashed:
                # Holes are not read.
                self._take(_ZEROS[: data_at - self._hashed])
            elif chunk := os.pread(self.fd, CHUNK, self._hashed):
                self._take(chunk)
            else:
                break
        return Digest(self._hash.digest())

    def sums(self) -> bytes:
        """The block sums of the file as it is now (`mixfs.blobs.sums`)."""
        self.digest()
        return self._sums.value()

    def copy_whole(self, source: int) -> None:
        """Hold what another file holds, holes as holes, and take its digest on the way; nothing was written yet.

        Its position is of no matter: others may share the descriptor. Of a file that grows meanwhile the beginning.
        Raises OSError before anything is written: EFBIG beyond MAX_SIZE, ENOSPC where there is no room for it.
        """
        status = os.fstat(source)
        size = status.st_size
        if size > MAX_SIZE:
            raise OSError(errno.EFBIG, f"It has {size >> 30} GiB; a file may have {MAX_SIZE >> 30} GiB")
        self._check_room(min(size, status.st_blocks * _BLOCK))
        # A file system that has no holes, or none so long, says so at once.
        os.ftruncate(self.fd, size)
        at = 0
        while at < size:
            data_at = next_data(source, at, size)
            hole_at = next_hole(source, data_at, size)
            while at < data_at:
                part = _ZEROS[: data_at - at]
                self._take(part)
                at += len(part)
            while at < hole_at:
                chunk = os.pread(source, min(CHUNK, hole_at - at), at)
                if not chunk:
                    # It became shorter.
                    os.ftruncate(self.fd, at)
                    return
                at += self.write(chunk, at)

    def _check_room(self, size: int) -> None:
        found = os.fstatvfs(self.fd)
        if size > found.f_bavail * found.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def take_copy(self, source: int) -> None:
        """Hold what another file holds, copied as cheaply as can be; nothing may have been written yet."""
        copy_data(source, self.fd)
        self._hashed = -1

    def close(self) -> None:
        self.park()
        self._closed = True

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)
