"""The index in LMDB: the only module that knows it.

Opened with `metasync=False` (a lost last transaction is replayed from the journal), never `sync=False` or `writemap`
(both lost acknowledged commits under simulated power cuts). `lib_version=0` is pinned: py-lmdb 3 bundles two on-disk
formats that can't read each other.

Concurrency: LMDB's own lock is not what serialises writers; the library's flock is (a killed process frees LMDB's lock
at once, and a deleted index/ gives a second one). Readers are counted, so that `close` and `grow` wait until no
transaction of this process is open: unmapping under a reader is a crash. So is reading a map whose file was cut short:
the length is checked when the file is opened and by `is_current`, not at each read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import lmdb

from mixfs.errors import (
    IndexDamaged,
    IndexDiskFull,
    IndexFailed,
    IndexFull,
    IndexUnavailable,
    LibraryBusy,
    LibraryError,
)
from mixfs.index import lmdb_pages
from mixfs.modes import create_file, make_directory

INITIAL_MAP = 1 << 30
# How long a read may take before a commit that must make the map larger gives up on it.
READ_S = 60.0
# sys/mman.h
_MADV_DONTNEED = 4
# The indexes (device, inode) that this process has open.
_OPEN: set[tuple[int, int]] = set()


def _damaged(path: Path, reason: object) -> IndexDamaged:
    return IndexDamaged(
        f"{path}: {reason}. The index is made again from the journal by `mixfs rebuild-index`; nothing is lost."
    )


# Errors of LMDB's own that say nothing about the file: a limit was reached, or a transaction failed before.
_UNAVAILABLE = (
    lmdb.MemoryError, lmdb.ReadersFullError, lmdb.TlsFullError, lmdb.TxnFullError, lmdb.BadRslotError,
    lmdb.BadTxnError, lmdb.BadDbiError, lmdb.BadValsizeError, lmdb.DbsFullError, lmdb.LockError, lmdb.ReadonlyError,
    lmdb.PanicError,
)  # fmt: skip
# And such errors of the system.
_HARMLESS = frozenset(
    (
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EROFS, errno.EAGAIN, errno.EINTR,
        errno.EFBIG, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.ENOLCK, errno.ENOTCONN,
    )
)  # fmt: skip
_ERRNOS = {os.strerror(number): number for number in errno.errorcode}


def _translate(error: lmdb.Error, path: Path) -> IndexFailed:
    """What an error of LMDB means. What is not known to be harmless is damage."""
    if isinstance(error, lmdb.MapFullError | lmdb.MapResizedError):
        return IndexFull(f"{path}: the map is full")
    # LMDB names an error of the system as strerror(3) does, behind what it was doing.
    number = _ERRNOS.get(str(error).rpartition(": ")[2], 0)
    if isinstance(error, lmdb.DiskError) or number == errno.EDQUOT or (number == errno.EIO and _is_full(path)):
        return IndexDiskFull(f"{path}: there is no room left on the disk. Make some; nothing is lost.")
    if isinstance(error, _UNAVAILABLE) or number in _HARMLESS:
        words = f"{path} can't be used just now: {error}. Nothing is wrong with it, and nothing is lost."
        return IndexUnavailable(words, number or errno.EIO)
    return _damaged(path, error)


def _is_full(path: Path) -> bool:
    """LMDB says EIO for a write that was cut short, as the last one on a full disk is."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < 1 << 16


class _Txn:
    """One transaction as a context manager; also its own read and write interface."""

    __slots__ = ("_cursor", "_engine", "_thread", "_txn", "_write")

    def __init__(self, engine: LmdbEngine, write: bool) -> None:
        self._engine, self._write = engine, write

    def __enter__(self) -> _Txn:
        try:
            self._begin()
        except lmdb.MapResizedError as error:
            # Another process grew the map: take its size over, which needs a moment without transactions.
            if not self._engine._take_over_size():
                raise _translate(error, self._engine.path) from error
            self._begin()
        return self

    def _begin(self) -> None:
        self._engine._enter()
        self._thread = threading.get_ident()
        try:
            self._txn = self._engine._env.begin(write=self._write)
        except lmdb.MapResizedError:
            self._engine._leave(self._thread)
            raise
        except lmdb.Error as error:
            self._engine._leave(self._thread)
            raise _translate(error, self._engine.path) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._write:
                self._txn.commit()
                self._engine.is_current()  # notes the length
            else:
                self._txn.abort()
        except lmdb.Error as failure:
            raise _translate(failure, self._engine.path) from failure
        finally:
            self._engine._leave(self._thread)
        if error is not None and isinstance(error, lmdb.Error):
            raise _translate(error, self._engine.path) from error

    @property
    def transaction(self) -> int:
        """The number of the state that is read."""
        return int(self._txn.id())

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(key)
        return value

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._write:
            yield from self._scan_while_writing(start, stop)
            return
        cursor = self._txn.cursor()
        if not cursor.set_range(start):
            return
        for key, value in cursor:
            if key >= stop:
                return
            yield key, value

    def _scan_while_writing(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        # A put or delete between two steps moves LMDB's cursors, so each step looks its place up anew.
        cursor = self._txn.cursor()
        found = cursor.set_range(start)
        while found:
            key, value = cursor.item()
            if key >= stop:
                return
            yield key, value
            found = cursor.set_range(key + b"\0")

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value)

    def delete(self, key: bytes) -> bool:
        return bool(self._txn.delete(key))


class LmdbEngine:
    """An `Engine` in the directory `path` (data.mdb, lock.mdb), which is made when it is not there.

    To read only, use `mixfs.index.reading.open_for_reading`. `lock=False` is for what nobody can write to, and for a
    copy of the index in `copied_from`, whose files need not stay.
    """

    def __init__(
        self, path: Path, *, map_size: int = INITIAL_MAP, read_only: bool = False, lock: bool = True,
        copied_from: Path | None = None,
    ) -> None:  # fmt: skip
        self.path = path
        self._idle = threading.Condition()
        self._open_by: dict[int, int] = {}  # thread -> how many transactions it has open
        self._copied_from = copied_from
        self._is_closing = False
        self._table = _ReaderTable.of(path / "lock.mdb") if read_only and lock else None
        self._waiting = 0  # threads that need a moment without transactions
        if not read_only:
            make_directory(path, exist_ok=True)
        data = path / "data.mdb"
        identity = _identity(data)
        if identity is not None and identity in _OPEN:
            # Before lock.mdb is so much as opened: closing it again would take the lock of the one that has it open.
            raise _busy(path)
        if not read_only:
            # LMDB opens its files several times.
            for name in ("data.mdb", "lock.mdb"):
                os.close(create_file(path / name, os.O_RDWR))
        size = max(map_size, data.stat().st_size if data.exists() else 0)
        try:
            if data.exists():
                lmdb_pages.check_openable(data)
            self._env = lmdb.open(
                os.fsencode(path),  # lmdb would have a str be UTF-8
                map_size=size,
                readonly=read_only,
                lock=lock,
                metasync=False,
                max_readers=512,
                max_spare_txns=4,
                mode=0o600,
                lib_version=0,
            )
            self._env.reader_check()
        except lmdb_pages.PagesDamaged as error:
            raise _damaged(path, error) from error
        except MemoryError as error:
            raise IndexUnavailable(f"{path}: no memory is left to map it.", errno.ENOMEM) from error
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                raise _busy(path) from error
            raise _translate(error, path) from error
        # Held open: a copy's files go at once.
        self._fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
        self._of_copied = _signature(copied_from / "data.mdb") if copied_from is not None else None
        self._inode = os.fstat(self._fd).st_ino
        self._identity = _identity(data)
        if lock and self._identity is not None:
            _OPEN.add(self._identity)
        self._longest = 0  # bytes that the file was seen to have: it never shrinks by itself

    def read(self) -> _Txn:
        return _Txn(self, write=False)

    def write(self) -> _Txn:
        return _Txn(self, write=True)

    def _enter(self) -> None:
        with self._idle:
            # Steady readers must not starve who waits; a thread may hold another transaction, so not for ever.
            if self._waiting:
                self._idle.wait_for(lambda: not self._waiting, timeout=0.1)
            if self._is_closing:
                raise IndexUnavailable(f"{self.path}: it was closed here, to be opened again.")
            thread = threading.get_ident()
            self._open_by[thread] = self._open_by.get(thread, 0) + 1

    def _leave(self, thread: int) -> None:
        with self._idle:
            self._open_by[thread] -= 1
            if not self._open_by[thread]:
                del self._open_by[thread]
            if not self._open_by:
                if self._is_closing:
                    self._close()
                self._idle.notify_all()

    @contextmanager
    def _alone(self, timeout: float | None = None) -> Iterator[bool]:
        """A moment without transactions; False when it did not come in time (s)."""
        with self._idle:
            self._waiting += 1
            try:
                yield self._idle.wait_for(lambda: not self._open_by, timeout)
            finally:
                self._waiting -= 1
                self._idle.notify_all()

    def grow(self) -> None:
        if threading.get_ident() in self._open_by:
            raise LibraryError(
                f"{self.path} must be made larger, which can't be done within a read of the same thread: end the read "
                "(`with library.read()`) first."
            )
        with self._alone(timeout=READ_S) as alone:
            if not alone:
                raise LibraryError(
                    f"{self.path} must be made larger, and a read of it has gone on for more than {READ_S:.0f} s. "
                    "A read is for one bounded page of work: end it, and try again."
                )
            # Another process may have grown it further already: 0 takes over the size that the file has.
            before = self._env.info()["map_size"]
            self._env.set_mapsize(0)
            if self._env.info()["map_size"] <= before:
                self._env.set_mapsize(before * 2)

    def _take_over_size(self) -> bool:
        # Not for ever: a thread that begins a second transaction inside its first would wait for itself.
        with self._alone(timeout=5) as alone:
            if alone:
                self._env.set_mapsize(0)
            return alone

    def is_current(self) -> bool:
        if self._copied_from is not None:
            return self._of_copied == _signature(self._copied_from / "data.mdb")
        try:
            status = os.stat(self.path / "data.mdb")
        except FileNotFoundError:
            return False
        if status.st_ino != self._inode or status.st_size < self._longest:
            return False
        self._longest = status.st_size
        return True

    def is_replaced(self) -> bool:
        if self._copied_from is not None:
            return True
        try:
            return os.stat(self.path / "data.mdb").st_ino != self._inode
        except FileNotFoundError:
            return True

    def check(self) -> None:
        while True:
            with self.read() as txn:
                try:
                    if lmdb_pages.check_tree(Path(f"/proc/self/fd/{self._fd}"), txn.transaction):
                        return
                except lmdb_pages.PagesDamaged as error:
                    raise _damaged(self.path, error) from error

    def readers(self) -> int:
        try:
            with self._idle:
                # A table below a line of titles, or the one line "(no active readers)". Up to four are kept for reuse.
                return len(self._env.readers().splitlines()) - 1
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def release_pages(self) -> None:
        """Take the map's pages off this process's account: they stay in the page cache, and are mapped when read again.

        A process that reads all of a large index once would else look as large as that for as long as it lives.
        """
        # Within a transaction the map stays where it is.
        with self.read():
            for start, end in _maps_of(self._inode):
                _madvise(start, end - start, _MADV_DONTNEED)

    def close(self) -> None:
        if threading.get_ident() in self._open_by:
            # It would wait for itself.
            self.retire()
            return
        with self._alone():
            self._close()

    def retire(self) -> None:
        """As `close`, without waiting: the last transaction that is open closes it."""
        with self._idle:
            self._is_closing = True
            if not self._open_by:
                self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._env.close()
        if self._identity is not None:
            _OPEN.discard(self._identity)
        os.close(self._fd)
        self._fd = -1
        if self._table is not None:
            self._table.put_back()


def _busy(path: Path) -> LibraryBusy:
    # No damage: making the index anew would take it from under the one that has it open.
    return LibraryBusy(f"{path.parent} is open in this process already: share that Library between threads.")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _maps_of(inode: int) -> Iterator[tuple[int, int]]:
    """The shared maps that this process has of a data.mdb: beginning and end."""
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        fields = line.split(None, 5)
        # Private ones hold what was written into them.
        if len(fields) > 5 and fields[1] == b"r--s" and fields[4] == b"%d" % inode and b"data.mdb" in fields[5]:
            start, _, end = fields[0].partition(b"-")
            yield int(start, 16), int(end, 16)


def _madvise(start: int, size: int, advice: int) -> None:
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class _ReaderTable:
    """lock.mdb as it was before a reader wrote into it. What it says of those who are gone is of no use to anybody."""

    def __init__(self, path: Path, data: bytes, times: tuple[int, int]) -> None:
        self._path, self._data, self._times = path, data, times

    @classmethod
    def of(cls, path: Path) -> _ReaderTable | None:
        """None where another process has the index open: what it says of itself must not come back later."""
        try:
            with open(path, "r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
                status = os.fstat(file.fileno())
                return cls(path, file.read(), (status.st_atime_ns, status.st_mtime_ns))
        except OSError:
            return None

    def put_back(self) -> None:
        """Unless another process has the index open, which holds a lock on the file's first byte."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
                if os.fstat(fd).st_size == len(self._data):
                    os.pwrite(fd, self._data, 0)
                    os.utime(fd, ns=self._times)
            finally:
                os.close(fd)
