"""The index engine: an ordered map from bytes to bytes with one writer and many readers.

`tests/conformance/test_engine.py` runs on every engine. Keys are 1 to 511 bytes (LMDB's limit), values up to 2 GiB.
A read transaction sees one state for as long as it lives and must live for one bounded page of work only: while it
is open, the file can't reuse the pages that writers free. A write transaction belongs to the thread that began it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class ReadTxn(Protocol):
    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) with start <= key < stop, in order of keys (memcmp)."""


class WriteTxn(ReadTxn, Protocol):
    def put(self, key: bytes, value: bytes) -> None:
        """Set a value. Raises IndexFull when the map must grow first."""

    def delete(self, key: bytes) -> bool:
        """Remove a key; True when it was there."""


class Engine(Protocol):
    """Raises IndexFull (grow, then run the transaction again), IndexDamaged (reopen, or rebuild), and other kinds of
    IndexFailed (reopen, and tell the caller: nothing is wrong with the index)."""

    def read(self) -> AbstractContextManager[ReadTxn]:
        """A read transaction."""

    def write(self) -> AbstractContextManager[WriteTxn]:
        """A write transaction: committed when the block ends, undone when it raises."""

    def grow(self) -> None:
        """Make room after IndexFull. No transaction of this process may be open."""

    def is_current(self) -> bool:
        """False when the files under the engine were replaced, deleted or cut short: it must be reopened."""

    def is_replaced(self) -> bool:
        """True when other files lie there now, or none: a new engine can be opened before this one is closed."""

    def check(self) -> None:
        """Look at all that the newest state leads to. Raises IndexDamaged."""

    def readers(self) -> int:
        """How many places for readers are taken, by all processes: one that is never given back keeps old pages."""

    def release_pages(self) -> None:
        """Give back memory that only repeats what is on the disk."""

    def close(self) -> None:
        """Give everything back. Waits for transactions that other threads have open."""

    def retire(self) -> None:
        """As `close`, without waiting: the last transaction that is open closes it."""


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys that begin with `prefix`."""
    for i in range(len(prefix) - 1, -1, -1):
        if prefix[i] != 0xFF:
            return prefix[:i] + bytes([prefix[i] + 1])
    return b"\xff" * 512
