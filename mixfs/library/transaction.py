"""The one place through which every change goes: a write transaction that journals what it puts.

`Txn` collects changes, applies each at once to the index (so that later reads of the same transaction see it), and the
store makes them durable in the journal before it commits the index. A transaction function may run twice (when the map
had to grow): it must not do anything but read and write through its `Txn`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import cbor2

from mixfs import jsontext
from mixfs.errors import InvalidValue
from mixfs.ids import Digest, ReplicaId, Stamp
from mixfs.index.engine import WriteTxn
from mixfs.library import derived_generations
from mixfs.library.projections import Projector
from mixfs.library.replay import LOCAL, RawChange
from mixfs.library.view import View
from mixfs.names import MAX_NAME, is_name
from mixfs.records import (
    Entry,
    Folder,
    Image,
    ImportFolder,
    Placement,
    Record,
    Session,
    Trash,
    field_keys,
    field_path,
    problem_of,
    to_map,
)

R = TypeVar("R", bound=Record)

# Levels of a field's value: those of foreign JSON, and what a record of the trash wraps it in. cbor2 reads 400.
_LEVELS = jsontext.DEPTH + 16


def check_name(record: Record) -> None:
    """Raise InvalidValue for a name that leaves its directory, or that no directory can list."""
    if isinstance(record, Placement | Folder | Session) and not is_name(record.name):
        raise InvalidValue(
            f"{record.name[:80]!r} can't be a file name: it needs 1 to {MAX_NAME} bytes without / and NUL, not . or .."
        )


def require_kept(record: Record) -> dict[int | str, Any]:
    """A record's map. Raises InvalidValue for one that can't be kept: a replay would leave it out.

    What is nested more deeply than the journal's reader follows becomes a text (`mixfs.jsontext`).
    """
    data = to_map(record)
    for key, value in data.items():
        data[key] = jsontext.keepable(value, field_path(type(record), key), _LEVELS)
    problem = problem_of(type(record), data)
    if problem is not None:
        raise InvalidValue(f"{problem}, which is not of the field's type.")
    check_name(record)
    return data


class Txn(View):
    """Reads and writes of one commit."""

    def __init__(self, txn: WriteTxn, replica: ReplicaId, stamp: Stamp, now_ns: int) -> None:
        super().__init__(txn)
        self._began_ns = now_ns
        self._projector = Projector(txn, now_ns)
        self._replica = replica
        self._next = stamp
        self.changes: list[RawChange] = []
        # The items that speak for what this commit began and left to be done in pieces: see `mixfs.library.pieces`.
        self.unfinished: list[str] = []

    @property
    def now_ns(self) -> int:
        """The time by the clock, for what is shown as one: a nanosecond later after each change of the commit."""
        return self._began_ns + len(self.changes)

    @property
    def next_stamp(self) -> int:
        """The stamp of the next change: of two names that one commit gives, the one that was given first is older."""
        return self._next

    @property
    def last_stamp(self) -> int:
        return self._next - 1

    def put(self, record: R) -> R:
        """Put a record whole; returns it as it was kept (sessions and annotations get stamps for changed fields).

        Raises InvalidValue when its name can't be listed, or a field isn't of its type: a replay would leave such a
        record out.
        """
        stamp = Stamp(self._next)
        record = self._with_times(record)
        if record.FIELD_STAMPS:
            record = self._with_field_stamps(record, stamp)
        data = require_kept(record)
        if isinstance(record, Trash) and record.pending:
            self.unfinished.append(record.id)
        self._change(record.KIND, record.entity_id, data, LOCAL if record.LOCAL else 0)
        return record

    def delete(self, cls: type[Record], entity_id: str) -> bool:
        """Delete a record; True when there was one."""
        if self.get(cls, entity_id) is None:
            return False
        self._change(cls.KIND, entity_id, None, LOCAL if cls.LOCAL else 0)
        return True

    def _change(self, kind: int, entity_id: str, data: Any, flags: int) -> None:
        stamp = Stamp(self._next)
        self._next = Stamp(stamp + 1)
        self.changes.append(RawChange(kind, entity_id, stamp, flags, data))
        try:
            self._projector.apply(kind, entity_id, stamp, self._replica, data)
        except (cbor2.CBOREncodeError, UnicodeEncodeError) as error:
            raise InvalidValue(f"{entity_id}: a value of a kind that can't be kept ({error}).") from error

    def _with_times(self, record: R) -> R:
        """When it changed, or got its name; and its place in the order of what has no name of its own."""
        if isinstance(record, Session | Entry):
            return dataclasses.replace(record, changed_ns=self.now_ns)
        held: Any
        if isinstance(record, Placement | Folder | ImportFolder):
            held = self.get(type(record), record.entity_id)
            is_named = held is None or held.named_ns != record.named_ns
            return dataclasses.replace(record, named_at_ns=self.now_ns if is_named else held.named_at_ns)
        if isinstance(record, Image | Trash) and not record.order_ns:
            held = self.get(type(record), record.entity_id)
            return dataclasses.replace(record, order_ns=self._next if held is None else held.order)
        return record

    def _with_field_stamps(self, record: R, stamp: Stamp) -> R:
        held: Any = self.get(type(record), record.entity_id)
        stamps = dict(held.stamps) if held is not None else {}
        for name, key in field_keys(type(record)).items():
            if held is None or getattr(held, name) != getattr(record, name):
                stamps[key] = [stamp, self._replica]
        return dataclasses.replace(record, stamps=stamps)  # type: ignore[call-arg]

    def made_by(self, origin: bytes, *names: tuple[bytes, bytes]) -> None:
        """Say which mount makes this change, and which (directory, name) pairs its kernel changes by itself."""
        self._projector.changes.origin = origin
        self._projector.changes.known.update(dict.fromkeys(names))

    def had_picture(self, session_id: str, digest: Digest) -> bool:
        return self._projector.had.get((digest, session_id), False) or self.has_picture(session_id, digest)

    def settle(self) -> None:
        """Add the changes that follow from those made so far: derived generations follow their pictures."""
        projector = self._projector
        derived_generations.settle(
            self, projector.had, projector.deleted_generations, restores=projector.leaves_trash
        )  # fmt: skip

    def finish(self) -> Projector:
        """Complete the rows that follow from the changes."""
        self._projector.finish()
        return self._projector
