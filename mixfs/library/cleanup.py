"""Trashing pictures by rule: older than an age, all but the newest N, of a session or a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mixfs.library import editing
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.records import Placement, Session

if TYPE_CHECKING:
    from mixfs.library.api import Library

_BATCH = 200


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


class Chosen(NamedTuple):
    """A placement that a rule takes, and when its picture was made."""

    placement: Placement
    session: Session
    time_ns: int


def choose(library: Library, rule: Rule) -> list[Chosen]:
    """What a rule would trash, the oldest first."""
    with library.read() as view:
        found = sorted(_matching(view, rule), key=lambda chosen: (chosen.time_ns, chosen.placement.id))
    if rule.keep:
        found = found[: -rule.keep]
    if rule.older_than_s is not None:
        before_ns = time.time_ns() - int(rule.older_than_s * 1e9)
        found = [chosen for chosen in found if chosen.time_ns < before_ns]
    return found


def _matching(view: View, rule: Rule) -> Iterator[Chosen]:
    if rule.session_id is not None:
        sessions = [editing.require_session(view, rule.session_id)]
    else:
        sessions = list(view.records(Session))
    for session in sessions:
        for placement in view.members(Placement, session.id):
            generation = view.generation_of(placement.digest, session.id)
            if rule.model is not None and not (generation and _is_model(generation.model, rule.model)):
                continue
            yield Chosen(placement, session, generation.time_ns if generation else placement.mtime_ns)


def _is_model(model: str | None, wanted: str) -> bool:
    if model is None:
        return False
    model, wanted = model.casefold(), wanted.casefold()
    return model.startswith(wanted[:-1]) if wanted.endswith("*") else model == wanted


def trash(library: Library, chosen: list[Chosen]) -> int:
    """Move what was chosen to the trash; returns how many there still were."""

    def write(txn: Txn, batch: list[Chosen]) -> int:
        gone = 0
        for placement, *_ in batch:
            if txn.get(Placement, placement.id) == placement:
                editing.delete_placement(txn, placement.id, "cleaned up")
                gone += 1
        return gone

    return sum(
        library.commit(lambda txn, batch=chosen[at : at + _BATCH]: write(txn, batch))  # type: ignore[misc]
        for at in range(0, len(chosen), _BATCH)
    )
