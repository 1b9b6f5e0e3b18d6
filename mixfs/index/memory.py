"""The index in memory: for tests and for read-only media. Stricter than LMDB: it refuses what LMDB lets pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sortedcontainers import SortedDict

from mixfs.errors import IndexDamaged, IndexFailed

MAX_KEY = 511


class _Txn:
    def __init__(self, data: SortedDict, writable: bool) -> None:
        self._data, self._writable, self._open = data, writable, True
        self._thread = threading.get_ident()

    def _check(self, key: bytes, write: bool = False) -> None:
        if not self._open:
            raise IndexDamaged("a transaction was used after its end")
        if write and (not self._writable or self._thread != threading.get_ident()):
            raise IndexDamaged("a write outside the write transaction's own thread")
        if not isinstance(key, bytes) or not 0 < len(key) <= MAX_KEY:
            raise IndexFailed(f"a key must be 1 to {MAX_KEY} bytes, not {key!r}")

    def get(self, key: bytes) -> bytes | None:
        self._check(key)
        value: bytes | None = self._data.get(key)
        return value

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check(start)
        if not self._writable:
            for key in self._data.irange(start, stop, inclusive=(True, False)):
                self._check(start)
                yield key, self._data[key]
            return
        # A writer may change what it scans, as LMDB's cursors allow: keys are looked up anew one after the other.
        inclusive = True
        while True:
            self._check(start)
            key = next(self._data.irange(start, stop, inclusive=(inclusive, False)), None)
            if key is None:
                return
            yield key, self._data[key]
            start, inclusive = key, False

    def put(self, key: bytes, value: bytes) -> None:
        self._check(key, write=True)
        if not isinstance(value, bytes):
            raise IndexDamaged(f"a value must be bytes, not {type(value).__name__}")
        self._data[key] = value

    def delete(self, key: bytes) -> bool:
        self._check(key, write=True)
        return self._data.pop(key, None) is not None

    def end(self) -> None:
        self._open = False


class MemoryEngine:
    """An `Engine` over a sorted dictionary. A write works on a copy, so that readers keep their state."""

    def __init__(self) -> None:
        self._data = SortedDict()
        self._lock = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[_Txn]:
        txn = _Txn(self._data, writable=False)
        try:
            yield txn
        finally:
            txn.end()

    @contextmanager
    def write(self) -> Iterator[_Txn]:
        with self._lock:
            txn = _Txn(self._data.copy(), writable=True)
            try:
                yield txn
            finally:
                txn.end()
            self._data = txn._data

    def grow(self) -> None:
        pass

    def is_current(self) -> bool:
        return True

    def is_replaced(self) -> bool:
        return False

    def check(self) -> None:
        pass

    def readers(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def retire(self) -> None:
        pass

    def release_pages(self) -> None:
        pass
