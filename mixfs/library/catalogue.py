"""The files of all sessions with what is known of how they were made: chosen by rule, listed, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mixfs.library import editing
from mixfs.library.view import View
from mixfs.library.wanted import dates
from mixfs.records import Generation, Image, Placement, Session


class Listed(NamedTuple):
    """A placement, and when its picture was made: by its generation where there is one, else by the file's own time."""

    placement: Placement
    session: Session
    generation: Generation | None
    image: Image | None
    time_ns: int

    @property
    def day(self) -> str:
        """`2025-12-08`: the day where the picture was made."""
        offset = self.generation.utc_offset_s if self.generation else self.image.utc_offset_s if self.image else 0
        return dates(self.time_ns, offset)[1]

    @property
    def category(self) -> str | None:
        """The category that an outputs folder said."""
        told = self.generation.foreign.get("outputs") if self.generation else None
        category = told.get("category") if isinstance(told, dict) else None
        return category if isinstance(category, str) else None

    @property
    def pixels(self) -> str:
        """`1024x768`; empty for what is no picture."""
        return f"{self.image.width}x{self.image.height}" if self.image and self.image.width else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which files are meant. What isn't named doesn't limit.

    `since` and `until` are days, both included; `model`, `provider` (the generator) and `category` a name in any case,
    or the part of it before a `*`; `size` says of each whether it has the right one.
    """

    session_id: str | None = None
    since: str | None = None
    until: str | None = None
    model: str | None = None
    provider: str | None = None
    category: str | None = None
    size: Callable[[Listed], bool] | None = None


def listed(view: View, wanted: Wanted) -> Iterator[Listed]:
    """The files that are meant, session by session. Raises NotFoundError for the session."""
    if wanted.session_id is not None:
        sessions = [editing.require_session(view, wanted.session_id)]
    else:
        sessions = list(view.records(Session))
    for session in sessions:
        for placement in view.members(Placement, session.id):
            generation = view.generation_of(placement.digest, session.id)
            time_ns = generation.time_ns if generation else placement.mtime_ns
            item = Listed(placement, session, generation, view.image(placement.digest), time_ns)
            if _is_meant(item, wanted):
                yield item


def _is_meant(item: Listed, wanted: Wanted) -> bool:
    generation = item.generation
    return (
        (wanted.since is None or item.day >= wanted.since)
        and (wanted.until is None or item.day <= wanted.until)
        and _is_named(generation.model if generation else None, wanted.model)
        and _is_named(generation.generator if generation else None, wanted.provider)
        and _is_named(item.category, wanted.category)
        and (wanted.size is None or wanted.size(item))
    )


def _is_named(name: str | None, wanted: str | None) -> bool:
    if wanted is None:
        return True
    if name is None:
        return False
    name, wanted = name.casefold(), wanted.casefold()
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


class Group(NamedTuple):
    """Files that have something in common: how many, and their bytes."""

    name: str
    files: int
    bytes: int


GROUPS: dict[str, Callable[[Listed], str]] = {
    "model": lambda item: (item.generation.model if item.generation else None) or "",
    "day": lambda item: item.day,
    "type": lambda item: item.image.media_type if item.image else "other files",
    "session": lambda item: item.session.title,
    "size": lambda item: item.pixels,
}


def groups(view: View, by: str) -> list[Group]:
    """The files of all sessions, by what `GROUPS` has under a name; in order of names."""
    found: dict[str, list[int]] = {}
    for item in listed(view, Wanted()):
        counts = found.setdefault(GROUPS[by](item), [0, 0])
        counts[0] += 1
        counts[1] += item.placement.size
    return [Group(name, *counts) for name, counts in sorted(found.items())]
