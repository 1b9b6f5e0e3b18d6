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

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import lmdb

from mixfs.errors import IndexDamaged, IndexDiskFull, IndexFailed, IndexFull, IndexUnavailable, LibraryBusy
from mixfs.index import lmdb_pages

INITIAL_MAP = 1 << 30


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

    __slots__ = ("_cursor", "_engine", "_txn", "_write")

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
        try:
            self._txn = self._engine._env.begin(write=self._write)
        except lmdb.MapResizedError:
            self._engine._leave()
            raise
        except lmdb.Error as error:
            self._engine._leave()
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
            self._engine._leave()
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
    """An `Engine` in the directory `path` (data.mdb, lock.mdb), which is made when it is not there."""

    def __init__(self, path: Path, *, map_size: int = INITIAL_MAP, read_only: bool = False, lock: bool = True) -> None:
        self.path = path
        self._idle = threading.Condition()
        self._open_count = 0
        self._waiting = 0  # threads that need a moment without transactions
        if not read_only:
            path.mkdir(mode=0o700, exist_ok=True)
        data = path / "data.mdb"
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
                # No damage: making the index anew would take it from under the one that has it open.
                raise LibraryBusy(
                    f"{path.parent} is open in this process already: share that Library between threads."
                ) from error
            raise _translate(error, path) from error
        self._inode = data.stat().st_ino
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
            self._open_count += 1

    def _leave(self) -> None:
        with self._idle:
            self._open_count -= 1
            if not self._open_count:
                self._idle.notify_all()

    @contextmanager
    def _alone(self, timeout: float | None = None) -> Iterator[bool]:
        """A moment without transactions; False when it did not come in time (s)."""
        with self._idle:
            self._waiting += 1
            try:
                yield self._idle.wait_for(lambda: not self._open_count, timeout)
            finally:
                self._waiting -= 1
                self._idle.notify_all()

    def grow(self) -> None:
        with self._alone():
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
        try:
            status = os.stat(self.path / "data.mdb")
        except FileNotFoundError:
            return False
        if status.st_ino != self._inode or status.st_size < self._longest:
            return False
        self._longest = status.st_size
        return True

    def is_replaced(self) -> bool:
        try:
            return os.stat(self.path / "data.mdb").st_ino != self._inode
        except FileNotFoundError:
            return True

    def check(self) -> None:
        while True:
            with self.read() as txn:
                try:
                    if lmdb_pages.check_tree(self.path / "data.mdb", txn.transaction):
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

    def close(self) -> None:
        with self._alone():
            self._env.close()
