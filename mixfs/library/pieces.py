"""Large deletions and restorations, a piece in each commit, so that others write and read between two of them.

The first commit makes all of it look done: a deleted session has no name any more, a restored one has it again. What is
left stands in `Trash.pending` of the item that speaks for the deletion, so whoever opens the library next goes on where
a killed process stopped. Each piece looks again at what is there: two processes at the same work do no harm.

Concurrency: no lock is held between two pieces. The thread rests after each, or it would have the writers' lock again
before anybody who waits for it wakes up.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from mixfs.library import editing, restoring
from mixfs.library.transaction import Txn
from mixfs.records import Record, Session, Trash, from_map

if TYPE_CHECKING:
    from mixfs.library.api import Library

# How long a piece is to take, and how many records it is made of at most and at least.
PIECE_S = 0.05
LARGEST, SMALLEST = 200, 10
# What opening a library does at most of what a killed process left; a mount, and the next opening, do the rest.
AT_OPEN = 20
# How long to leave the lock to others after each piece: half as long as it took, within these. On a busy machine those
# who wait are slow to wake.
REST_S, LONGEST_REST_S = 0.01, 0.05


class Pieces:
    """What is left of one deletion or restoration; `trash_id` is the item that speaks for it."""

    def __init__(self, trash_id: str) -> None:
        self.trash_id = trash_id
        self.records: list[Record] = []  # what came back
        self.own: set[bytes] = set()
        self._after = b""
        self._size = min(LARGEST, editing.PIECE // 2)
        self.rest_s = REST_S  # after the last piece

    def restore(self, library: Library, group_id: str) -> list[Record]:
        """Put back a whole deletion, or one item of the trash; returns the records. Raises NotFoundError."""

        def write(txn: Txn) -> tuple[list[Record], list[str]]:
            return restoring.restore_deletion(txn, group_id, self.own, self._size), txn.unfinished

        self.records, unfinished = library.store.commit(write)
        if unfinished:
            self.trash_id = unfinished[0]
            self.finish(library)
        return self.records

    def finish(self, library: Library, at_most: int | None = None) -> None:
        """Do what is left, or some pieces of it."""
        while (at_most is None or at_most > 0) and self.step(library):
            at_most = at_most - 1 if at_most is not None else None
            time.sleep(self.rest_s)

    def step(self, library: Library) -> bool:
        """One piece, if there is one left; True when there may be more."""
        with library.read() as view:
            head = view.get(Trash, self.trash_id)
            if head is None or not head.pending:
                return False
        began = 0.0

        def write(txn: Txn) -> tuple[list[Record], bytes, bool]:
            nonlocal began
            began = time.monotonic()
            return self._piece(txn)

        records, self._after, more = library.store.commit(write)
        self.records += records
        took = max(time.monotonic() - began, 1e-6)
        self.rest_s = max(REST_S, min(LONGEST_REST_S, took / 2))
        self._size = max(SMALLEST, min(LARGEST, int(self._size * PIECE_S / took)))
        return more

    def _piece(self, txn: Txn) -> tuple[list[Record], bytes, bool]:
        """What came back, the place in the session to go on from, and whether there may be more."""
        head = txn.get(Trash, self.trash_id)
        if head is None or not head.pending:
            return [], b"", False
        if head.pending == editing.PENDING_RESTORE:
            records = restoring.restore_deletion(txn, head.group, self.own, self._size)
            return records, b"", txn.get(Trash, head.id) is not None
        sessions = [data for kind, _, data in head.records if kind == Session.KIND]
        after = b""
        if head.pending == editing.PENDING_DELETE and sessions:
            after = editing.trash_members(txn, head, from_map(Session, sessions[0]), self._after, self._size)
        if not after:
            txn.put(dataclasses.replace(head, pending=""))
        return [], after, bool(after)


def rest() -> None:
    """Let those write who waited for the last piece."""
    time.sleep(REST_S)


def finish_all(library: Library, at_most: int | None = None) -> None:
    """Go on with what killed processes left."""
    with library.read() as view:
        unfinished = view.unfinished_deletions()
    for trash_id in unfinished:
        Pieces(trash_id).finish(library, at_most)


def restore_session(library: Library, words: str) -> Session:
    """Put back a session, by its id or title. Raises NotFoundError, ExistsError while it lives."""

    def write(txn: Txn) -> Session:
        deleted = restoring.deleted_session(txn, words)
        session = restoring.restore_session(txn, deleted, work.own)
        work.trash_id = deleted.id
        return session

    work = Pieces("")
    session = library.store.commit(write)
    work.finish(library)
    return session
