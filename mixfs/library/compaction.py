"""Compaction: the journal rewritten without superseded changes.

For each entity the newest change before a horizon stays, and all since: so the state at any time after the horizon can
still be told. Deletes stay too, for a replica that has not heard of them. What has been done before the change that is
left, and shows only in the time of a folder, is kept as a time.

Nothing is replaced on trust: an index made from the new segments must equal the one there is, row by row, before they
take their place; else all is left as it was.

Concurrency: the long part runs beside everybody else. The lock is held from the last look at the journal's end, while
the two indexes are compared: writers wait for that, readers never.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cbor2

from mixfs import clock
from mixfs.errors import IndexFull, JournalDamaged
from mixfs.index import keys
from mixfs.index.dentries import DirectoryRow
from mixfs.index.engine import Engine, ReadTxn, WriteTxn, prefix_end
from mixfs.index.lmdb_engine import LmdbEngine
from mixfs.index.seal import unseal
from mixfs.journal import START, Item, Journal, Position
from mixfs.journal.compaction import Compacted
from mixfs.journal.files import fsync_directory
from mixfs.library.fsck_report import Report
from mixfs.library.fsck_rows import compare
from mixfs.library.gaps import Gap, gap_of
from mixfs.library.merging import merge_rows
from mixfs.library.replay import UNAPPLICABLE, apply_item, read_changes, read_time
from mixfs.library.view import SessionRow
from mixfs.modes import make_directory
from mixfs.records import KINDS

if TYPE_CHECKING:
    from mixfs.library.api import Library
    from mixfs.library.store import Store

KEEP_DAYS = 90.0
_BATCH = 500


@dataclass(slots=True)
class Compaction:
    """What a compaction did: bytes of the journal, and changes in it, before and after."""

    bytes_before: int = 0
    bytes_after: int = 0
    changes_before: int = 0
    changes_after: int = 0


def compact(library: Library, *, keep_days: float = KEEP_DAYS) -> Compaction:
    """Write this replica's journal anew; history of the last `keep_days` stays whole.

    Bad stretches whose loss was accepted are left out, and of items that make no sense in part the senseless changes;
    their segments are kept in quarantine/.
    Raises JournalDamaged when the journal has others, or when what was written would not say the same; OSError.
    Nothing is changed then.
    """
    store, done = library.store, Compaction()
    accepted = store.accepted_gaps()
    workplace = library.staging.open() / "compaction"
    make_directory(workplace)
    compacted = Compacted(store.journal, workplace)
    fold, fresh = LmdbEngine(workplace / "fold"), LmdbEngine(workplace / "index")

    def write_out(item: dict[int, Any]) -> None:
        payload = cbor2.dumps(item)
        compacted.add(payload)
        _write(fresh, lambda txn: apply_item(txn, store.journal.replica, payload))
        done.changes_after += len(item[1])

    try:
        now_ns = clock.now_ns()
        horizon = now_ns - int(keep_days * 86400e9)
        if store.steadiness.wait_s() > 0:
            # After a jump of the clock nobody can say what is old: all history stays.
            horizon, now_ns = -(2**63), 2**64
        store.fill_from_others(fresh)
        with store.locked() as end:
            pass
        recent = _fold_until(horizon, now_ns, fold, store.journal, end, done, accepted)
        for item in _folded(fold):
            write_out(item)
        for item in _items(store.journal, recent, end, accepted):
            done.changes_before += len(item[1])
            write_out(item)
        with store.locked() as last:
            for item in _items(store.journal, end, last, accepted):
                done.changes_before += len(item[1])
                write_out(item)
            with store.read() as view:
                times = dict(_times(view.txn, fresh))
                write_out(
                    {
                        1: [],
                        2: {key: mtime_ns for key, (mtime_ns, _) in times.items()},
                        4: {key: stamp for key, (_, stamp) in times.items()},
                    }
                )
                report = Report()
                with fresh.read() as wanted:
                    compare(wanted, view.txn, store.alone(), report)
            if report.problems:
                first = report.problems[0]
                raise JournalDamaged(
                    f"The journal is left as it is: written anew it would not say the same ({first.where}: "
                    f"{first.reason}). `mixfs fsck` tells what is wrong."
                )
            done.bytes_before = store.journal.size()
            _keep_segments(store, accepted)
            store.replace_journal(compacted)
            done.bytes_after = store.journal.size()
        return done
    finally:
        compacted.discard()
        fold.close()
        fresh.close()
        shutil.rmtree(workplace, ignore_errors=True)


def _keep_segments(store: Store, gaps: Sequence[Gap]) -> None:
    """Give segments that can't be read in part a second name in quarantine/, before the first one goes."""
    for number in {gap.segment for gap in gaps if gap.replica == store.journal.replica.hex()}:
        kept = store.root / "quarantine" / f"journal-{store.journal.replica.hex()}-{number:08d}.seg"
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.link(store.journal.path(number), kept)
    fsync_directory(store.root / "quarantine")


def _write(engine: Engine, function: Callable[[WriteTxn], object]) -> None:
    while True:
        try:
            with engine.write() as txn:
                function(txn)
            return
        except IndexFull:
            engine.grow()


def _items(
    journal: Journal, start: Position, end: Position, accepted: Sequence[Gap]
) -> Iterator[dict[int, Any]]:
    for _, commit in _read(journal, start, end, accepted):
        yield commit


def _read(
    journal: Journal, start: Position, end: Position, accepted: Sequence[Gap]
) -> Iterator[tuple[Item, dict[int, Any]]]:
    """The items and what they hold; of those whose loss was accepted, the changes that make sense and are applied."""
    places = {gap.place: gap for gap in accepted}
    for item in journal.read(start):
        if item.start >= end:
            return
        gap = places.get(gap_of(journal, item, 0).place)
        if gap is not None and (item.payload is None or UNAPPLICABLE in gap.reason):
            continue
        changes, problem = read_changes(item.payload) if item.payload is not None else ([], "damaged")
        if item.payload is None or (problem and gap is None):
            raise JournalDamaged(
                f"{journal.path(item.start.segment)}: bytes {item.start.offset} to {item.end.offset} are not what was "
                "written, or make no sense. The journal is left as it is; `mixfs fsck` tells more."
            )
        if not problem:
            yield item, cbor2.loads(item.payload)
        elif changes:
            yield item, {1: [list(change) for change in changes], 3: read_time(item.payload)}


# -- the newest change of each entity


def _fold_until(
    horizon: int, now_ns: int, fold: Engine, journal: Journal, end: Position, done: Compaction, accepted: Sequence[Gap]
) -> Position:
    """Keep the newest change of each entity before the horizon; returns where what is newer begins."""
    batch: list[dict[int, Any]] = []

    def flush() -> None:
        _write(fold, lambda txn: _fold(txn, journal.replica, batch))
        batch.clear()

    for item, commit in _read(journal, START, end, accepted):
        # A time that is yet to come is that of a clock which was wrong.
        if commit[1] and horizon <= (commit.get(3) or commit[1][0][2]) <= now_ns:
            flush()
            return item.start
        done.changes_before += len(commit[1])
        batch.append(commit)
        if len(batch) >= _BATCH:
            flush()
    flush()
    return end


def _fold(txn: WriteTxn, replica: bytes, commits: list[dict[int, Any]]) -> None:
    """Rows of the fold: a record's key → [place in order, flags, entity id, row as the index keeps it].

    A place in order → the time of its commit.
    """
    for commit in commits:
        changes, time_of_it = commit[1], cbor2.dumps(commit.get(3, 0))
        for kind, entity_id, stamp, flags, data, *_ in changes:
            key = keys.record(kind, entity_id)
            value = txn.get(key)
            held: list[Any] = [0, b"", None]
            if value is not None:
                before, _, _, held = cbor2.loads(value)
                txn.delete(before)
            cls = KINDS.get(kind)
            if cls is not None and cls.FIELD_STAMPS:
                row = merge_rows(cls, held, [stamp, replica, data])
            else:
                row = max(held, [stamp, replica, data], key=lambda row: (row[0], row[1]))
            place = b"o" + changes[0][2].to_bytes(8, "big") + stamp.to_bytes(8, "big") + key
            txn.put(key, cbor2.dumps([place, flags, entity_id, row]))
            txn.put(place, time_of_it)


def _folded(fold: Engine) -> Iterator[dict[int, Any]]:
    """What is left of each commit, in order: together still, for what follows from a commit bears its last stamp."""
    commit, changes, now_ns = b"", list[Any](), 0
    after = b"o"
    while after:
        with fold.read() as txn:
            page = list(itertools.islice(txn.scan(after, prefix_end(b"o")), _BATCH))
            after = page[-1][0] + b"\0" if len(page) == _BATCH else b""
            for key, value in page:
                if key[1:9] != commit and changes:
                    yield _item(changes, now_ns)
                    changes = []
                commit, now_ns = key[1:9], cbor2.loads(value)
                changes += _changes_of(txn, key[17:])
    if changes:
        yield _item(changes, now_ns)


def _item(changes: list[Any], now_ns: int) -> dict[int, Any]:
    return {1: changes, 3: now_ns} if now_ns else {1: changes}


def _changes_of(txn: ReadTxn, key: bytes) -> Iterator[list[Any]]:
    value = txn.get(key)
    assert value is not None
    _, flags, entity_id, row = cbor2.loads(value)
    if row[2] is None and len(row) > 3:
        # A delete of a record whose fields carry stamps: what it deleted may win again by another replica's change.
        yield [key[1], entity_id, row[3], flags, row[5]]
    yield [key[1], entity_id, row[0], flags, row[2]]


# -- times that only lost changes told


def _times(held: ReadTxn, fresh: Engine) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The times of directories and sessions that an index made from the compacted journal would not have."""
    with fresh.read() as made:
        for prefix in (b"n", b"z"):
            for key, value in held.scan(prefix, prefix_end(prefix)):
                found = made.get(key)
                # A directory that every mount has keeps its row when the last thing in it goes.
                emptied = prefix == b"n" and not DirectoryRow.load(value).children
                if found != value and (found is not None or emptied):
                    yield key, _time_of(prefix, value)


def _time_of(prefix: bytes, value: bytes) -> tuple[int, int]:
    row = SessionRow(cbor2.loads(unseal(value))) if prefix == b"z" else DirectoryRow.load(value)
    return row.mtime_ns, row.stamp
