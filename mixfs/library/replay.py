"""From journal items to the index: what a change looks like in an item, how it is applied, how far that has come.

The same code serves the catching up of an open library, a rebuilt index, and fsck's index for comparison. What can't be
understood is left out and reported (`Bad`), never cut and no reason to stop.

Concurrency: whatever takes a transaction runs inside it; `replay` is called under the library's lock, or on an index
that nobody else has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import cbor2

from mixfs.errors import IndexFull
from mixfs.ids import ReplicaId, Stamp
from mixfs.index import keys
from mixfs.index.engine import Engine, ReadTxn, WriteTxn, prefix_end
from mixfs.journal import START, Item, Journal, Position
from mixfs.library.projections import Projector
from mixfs.library.view import View
from mixfs.records import KINDS, SENSELESS, Record, from_map, problem_of

# Set in a change's flags when it stays in this library: receipts and folders of import/.
LOCAL = 1
# Commits whose changes are kept for a daemon that looks; one that is further behind forgets everything it told.
EVENTS_KEPT = 256
_BATCH = 500
# Why a whole item was left out, in the words of a gap.
UNAPPLICABLE = "it can't be applied"
# Rows whose times compaction keeps: a directory's and a session's (`mixfs.index.keys`).
_TIMED = ((b"n", 18), (b"z", 17))


class RawChange(NamedTuple):
    """A change as it stands in an item: [kind, id, stamp, flags, record map | nil for a delete]."""

    kind: int
    entity_id: str
    stamp: Stamp
    flags: int
    data: Mapping[int | str, Any] | None

    def record(self) -> Record | None:
        """The record that was put; None for a delete or a kind that this version doesn't know."""
        cls = KINDS.get(self.kind)
        return from_map(cls, self.data) if cls is not None and self.data is not None else None


class Bad(NamedTuple):
    """A stretch of the journal that is not what was written, or an item that makes no sense (`reason`)."""

    item: Item
    reason: str = ""


def pack_changes(changes: list[RawChange], now_ns: int) -> bytes:
    """The payload of a commit's item; `now_ns` is the time by the clock, which stamps needn't be."""
    data: bytes = cbor2.dumps({1: [list(change) for change in changes], 3: now_ns})
    return data


def read_changes(payload: bytes) -> tuple[list[RawChange], str]:
    """The changes of an item that make sense, and what is wrong with the others ("" when nothing is). Never raises."""
    try:
        raw = cbor2.loads(payload)[1]
    except SENSELESS as error:
        return [], f"no changes can be read: {error}"
    if not isinstance(raw, list):
        return [], "no list of changes"
    out, problems = [], []
    for change in raw:
        problem = _problem_of(change)
        if problem is None:
            out.append(RawChange(*change[:5]))
        else:
            problems.append(problem)
    return out, "; ".join(problems)


def _problem_of(change: Any) -> str | None:
    # A later version may add to the end of a change.
    if not isinstance(change, list) or len(change) < 5 or not all(isinstance(change[n], int) for n in (0, 2, 3)):
        return "a change that is none"
    kind, entity_id, stamp, _, data = change[:5]
    if not isinstance(entity_id, str) or not 0 <= kind < 256 or not 0 <= stamp < 2**64:
        return "a change that is none"
    cls = KINDS.get(kind)
    if cls is None or data is None:
        return None
    problem = problem_of(cls, data)
    if problem is None and from_map(cls, data).entity_id != entity_id:
        problem = f"{cls.__name__}: a record of another id"
    return f"{entity_id[:64]}: {problem}" if problem is not None else None


# -- how far the index has come


def noted_position(txn: ReadTxn, replica: ReplicaId) -> Position:
    """Up to where the index has seen a journal."""
    value = txn.get(keys.position(replica))
    if value is None:
        return START
    segment, offset = cbor2.loads(value)
    return Position(int(segment), int(offset))


def note_position(txn: WriteTxn, replica: ReplicaId, position: Position) -> None:
    txn.put(keys.position(replica), cbor2.dumps(list(position)))


def note_commit(txn: WriteTxn, projector: Projector, last_stamp: int) -> None:
    """Note the last stamp, and what a kernel must forget under the next sequence number."""
    value = txn.get(keys.META_STAMP)
    # 0 is no stamp: who only notes times, or thumbnails, leaves a library without a commit as it is.
    if (cbor2.loads(value) if value is not None else 0) < last_stamp:
        txn.put(keys.META_STAMP, cbor2.dumps(last_stamp))
    sequence = View(txn).sequence() + 1
    txn.put(keys.META_SEQUENCE, cbor2.dumps(sequence))
    txn.put(keys.event(sequence), projector.changes.dump())
    if sequence > EVENTS_KEPT:
        txn.delete(keys.event(sequence - EVENTS_KEPT))


def events_since(txn: ReadTxn, sequence: int) -> Iterator[tuple[int, bytes]]:
    """(sequence number, packed `dentries.Changes`) of the commits after `sequence` that are still kept."""
    for key, value in txn.scan(keys.event(sequence + 1), prefix_end(b"e")):
        yield int.from_bytes(key[1:], "big"), value


# -- replaying


def replay(
    engine: Engine, journal: Journal, start: Position, until: Position | None = None,
    progress: Callable[[int], None] = lambda items: None,
) -> tuple[Position, list[Bad]]:  # fmt: skip
    """Apply a journal from `start` on, to its end or to `until`; returns how far it came, and what was bad there.

    Stops at a torn tail, which is the last of what was bad then. `progress` is told of each batch's items.
    """
    batch: list[Item] = []
    bad: list[Bad] = []
    position = start
    for item in journal.read(start):
        if until is not None and item.end > until:
            break
        if item.payload is None:
            bad.append(Bad(item))
            if item.torn:
                break
        else:
            batch.append(item)
        position = item.end
        if len(batch) >= _BATCH:
            bad += _apply_batch(engine, journal.replica, batch, position)
            progress(len(batch))
            batch = []
    bad += _apply_batch(engine, journal.replica, batch, position)
    progress(len(batch))
    # In the order in which they stand there; a torn tail stays the last.
    return position, sorted(bad, key=lambda each: each.item.start)


def _apply_batch(engine: Engine, replica: ReplicaId, batch: list[Item], position: Position) -> list[Bad]:
    try:
        return _apply(engine, replica, batch, position)
    except SENSELESS as error:
        if len(batch) == 1:
            # Fields of the right types that no row can be made of: left out whole.
            _apply(engine, replica, [], position)
            return [Bad(batch[0], f"{UNAPPLICABLE}: {error}")]
        # One of them spoils the transaction: one by one.
        return [bad for item in batch for bad in _apply_batch(engine, replica, [item], position)]


def _apply(engine: Engine, replica: ReplicaId, batch: list[Item], position: Position) -> list[Bad]:
    while True:
        bad: list[Bad] = []
        try:
            with engine.write() as txn:
                for item in batch:
                    reason = apply_item(txn, replica, item.payload or b"")
                    if reason:
                        bad.append(Bad(item, reason))
                note_position(txn, replica, position)
            return bad
        except IndexFull:
            engine.grow()


def apply_item(txn: WriteTxn, replica: ReplicaId, payload: bytes) -> str:
    """Apply an item, {1: the changes of a commit, 2: times that compaction kept, 3: when it was made, 4: stamps of 2}.

    Returns what in it makes no sense.
    """
    changes, reason = read_changes(payload)
    now_ns, times = _read_times(payload)
    projector = Projector(txn, now_ns)
    for change in changes:
        projector.apply(change.kind, change.entity_id, change.stamp, replica, change.data)
    projector.set_times(times)
    projector.finish()
    note_commit(txn, projector, max((change.stamp for change in changes), default=0))
    return reason


def read_time(payload: bytes) -> int:
    """When an item's commit was made, by the clock: ns; 0 where that was not kept."""
    return _read_times(payload)[0]


def _read_times(payload: bytes) -> tuple[int, dict[bytes, tuple[int, int]]]:
    """When the commit was made, and the (time, stamp) of rows that compaction kept."""
    try:
        item = cbor2.loads(payload)
        now_ns, times, stamps = item.get(3, 0), item.get(2, {}), item.get(4, {})
        kept = {
            bytes(key): (int(mtime_ns), int(stamps.get(key, mtime_ns)))
            for key, mtime_ns in times.items() if (key[:1], len(key)) in _TIMED
        }  # fmt: skip
    except SENSELESS:
        return 0, {}
    return now_ns if isinstance(now_ns, int) and abs(now_ns) < 2**63 else 0, kept
