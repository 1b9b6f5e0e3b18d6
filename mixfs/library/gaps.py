"""Gaps: what is missing from the journals of a library, or can't be read in them.

What the damaged part of a journal said is not known: it may have named any original. So a gap is remembered in
`LIBRARY/incomplete.json` until the journal is whole again or a person has accepted the loss, and while one is open
nothing is deleted (`Store.require_whole`). Making the index again closes a gap only if the journal is whole by then.

Concurrency: the file is changed under the library's flock, and replaced whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mixfs.journal import HighWater, Item, Journal, Position
from mixfs.journal.files import write_durably
from mixfs.library.documents import iso

UNREADABLE = "this file is not what was written"


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a replica's journal: from a byte of a segment to a byte of the same or a later one.

    `found` and `accepted` are times (ISO 8601); `accepted` is empty until a person has accepted the loss.
    """

    replica: str
    segment: int
    offset: int
    end_segment: int
    end_offset: int
    reason: str
    found: str
    accepted: str = ""

    @property
    def place(self) -> tuple[str, int, int, int, int]:
        return self.replica, self.segment, self.offset, self.end_segment, self.end_offset

    def __str__(self) -> str:
        if self.segment == self.end_segment:
            where = f"segment {self.segment}, bytes {self.offset} to {self.end_offset}"
        else:
            where = f"segment {self.segment}, byte {self.offset}, to segment {self.end_segment}, byte {self.end_offset}"
        return f"journal/{self.replica}: {where}: {self.reason}"


def gap_of(journal: Journal, item: Item, now_ns: int, reason: str = "") -> Gap:
    """The gap that a bad item of a journal is; `reason` says what in its content makes no sense."""
    if reason:
        reason = f"the item makes no sense ({reason})"
    reason = reason or item.reason or "the bytes are not what was written"
    return Gap(journal.replica.hex(), *item.start, *item.end, reason, iso(now_ns))


class Gaps:
    """`LIBRARY/incomplete.json`: the gaps that are known, accepted ones included."""

    def __init__(self, root: Path) -> None:
        self.path = root / "incomplete.json"

    def all(self) -> list[Gap]:
        """Every known gap. A file that can't be understood is one itself. Raises OSError when it can't be read."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            return [_gap(fields) for fields in json.loads(data)["gaps"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return [Gap("", 0, 0, 0, 0, f"{self.path}: {UNREADABLE}", "")]

    def open(self) -> list[Gap]:
        """Those whose loss nobody has accepted."""
        return [gap for gap in self.all() if not gap.accepted]

    def add(self, gaps: Iterable[Gap]) -> list[Gap]:
        """Remember gaps that were met, next to those that are known; returns those that were not."""
        known = self.all()
        places = {gap.place for gap in known}
        fresh = [gap for gap in gaps if gap.place not in places]
        if fresh:
            self._write(known + fresh)
        return fresh

    def review(self, gaps: Iterable[Gap], read: Collection[str]) -> None:
        """Replace the gaps of the replicas in `read`, whose journals were read whole, by those that were met there.

        What was accepted of them stays so. A journal that is not there any more keeps its gaps.
        """
        known = {gap.place: gap for gap in self.all()}
        current = [gap for gap in known.values() if gap.replica and gap.replica not in read]
        current += [known.get(gap.place, gap) for gap in gaps]
        if current != list(known.values()):
            self._write(current)

    def accept(self, gaps: Iterable[Gap], now_ns: int) -> list[Gap]:
        """Accept the loss of these gaps, and of no other; returns those that were still open."""
        places = {gap.place for gap in gaps}
        accepted = [gap for gap in self.open() if gap.place in places]
        if accepted:
            self._write([replace(gap, accepted=iso(now_ns)) if gap in accepted else gap for gap in self.all()])
        return accepted

    def _write(self, gaps: list[Gap]) -> None:
        if gaps:
            write_durably(self.path, json.dumps({"gaps": [asdict(gap) for gap in gaps]}, indent=2).encode() + b"\n")
        else:
            self.path.unlink(missing_ok=True)


def _gap(fields: dict[str, Any]) -> Gap:
    gap = Gap(**fields)
    if not all(isinstance(value, int) for value in gap.place[1:]) or not isinstance(gap.accepted, str):
        raise ValueError("a field is of another type")
    return gap


def missing_end(known: Position, written: Position) -> Item:
    """What is missing of a journal that ends at `written`, before commits that were acknowledged."""
    return Item(written, known, None, False, "acknowledged commits that stood here are missing")


def bad_items(journal: Journal, known: Position) -> Iterator[Item]:
    """Everything that is wrong in a journal of which `known` had been acknowledged, by checksums and links alone.

    Raises OSError.
    """
    for item in journal.read():
        if item.payload is None and item.is_damage(known):
            yield item
    written = journal.written_end()
    if known > written:
        yield missing_end(known, written)


def continue_behind(root: Path, journal: Journal, now_ns: int) -> bool:
    """Let commits continue behind what is missing at the end of a journal, if anything is. Call under the lock.

    The gap is remembered, and the header of the new segment demands what is missing.
    """
    high_water = HighWater(root, journal.replica)
    known, written = high_water.read(), journal.written()
    if known <= written:
        return False
    Gaps(root).add([gap_of(journal, missing_end(known, written), now_ns)])
    journal.begin_after(known)
    high_water.note(journal.written())
    return True
