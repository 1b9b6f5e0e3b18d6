"""Trashing pictures by rule: older than an age, all but the newest N, of a session or a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixfs import clock
from mixfs.library import editing, pieces
from mixfs.library.catalogue import Listed, Wanted, listed
from mixfs.library.transaction import Txn
from mixfs.records import Placement, Trash

if TYPE_CHECKING:
    from mixfs.library.api import Library

_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which placements go. What isn't named doesn't limit; of what is left, the newest `keep` stay.

    `older_than_s` is seconds of age; `session_id` one session; `model` a model's name, in any case, or the part of it
    before a `*`.
    """

    older_than_s: float | None = None
    keep: int = 0
    session_id: str | None = None
    model: str | None = None


def choose(library: Library, rule: Rule) -> list[Listed]:
    """What a rule would trash, the oldest first."""
    with library.read() as view:
        wanted = Wanted(session_id=rule.session_id, model=rule.model)
        found = sorted(listed(view, wanted), key=lambda chosen: (chosen.time_ns, chosen.placement.id))
    if rule.keep:
        found = found[: -rule.keep]
    if rule.older_than_s is not None:
        library.store.steadiness.require("Nothing was moved to the trash.")
        before_ns = clock.now_ns() - int(rule.older_than_s * 1e9)
        found = [chosen for chosen in found if chosen.time_ns < before_ns]
    return found


def trash(library: Library, chosen: list[Listed]) -> int:
    """Move what was chosen to the trash, as one deletion; returns how many there still were."""

    def write(txn: Txn, batch: list[Listed], first: Trash | None) -> tuple[int, Trash | None]:
        gone = 0
        for placement, *_ in batch:
            if txn.get(Placement, placement.id) == placement:
                item = editing.delete_placement(txn, placement.id, "cleaned up", of=first)
                first, gone = first or item, gone + 1
        return gone, first

    total, first = 0, None
    for at in range(0, len(chosen), _BATCH):
        batch = chosen[at : at + _BATCH]
        gone, first = library.commit(lambda txn: write(txn, batch, first))  # noqa: B023
        total += gone
        pieces.rest()
    return total
