"""What an export can't carry, for a human: line by line, how often. Said before anything is written."""

from __future__ import annotations

from mixfs.library import documents
from mixfs.library.view import View
from mixfs.names import safe_name
from mixfs.records import Edge, Entry, Folder, Generation, Placement, Session

ANNOTATIONS = "tags, ratings and comments of pictures"
FOLDERS = "folders"
NAMES = "names of files"
NEWER = "fields of a newer MixFS"
TIMES = "times of files"
ZONES = "time zones of generations"


class Lost:
    """Counts of what is lost; the lines are in the order in which they were first asked about."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, what: str, times: int = 1) -> None:
        self._counts[what] = self._counts.get(what, 0) + times

    def lines(self) -> tuple[str, ...]:
        return tuple(f"{what} ({times})" for what, times in self._counts.items() if times)

    # What no layout has a place for.

    def annotations(self, view: View, session_id: str) -> None:
        placements = view.members(Placement, session_id)
        self.count(ANNOTATIONS, sum(view.annotation(placement.digest) is not None for placement in placements))

    def folders(self, view: View, session_id: str) -> None:
        self.count(FOLDERS, sum(1 for _ in view.members(Folder, session_id)))

    def newer(self, view: View, session_id: str) -> None:
        """Fields that this version doesn't know."""
        session = view.get(Session, session_id)
        self.count(NEWER, int(session is not None and bool(session.unknown)))
        for cls in (Entry, Edge, Placement, Generation):
            self.count(NEWER, sum(bool(record.unknown) for record in view.members(cls, session_id)))

    def zones(self, view: View, session_id: str) -> None:
        self.count(ZONES, sum(bool(generation.utc_offset_s) for generation in view.members(Generation, session_id)))


def keeps_name(placement: Placement, fallback: str) -> bool:
    """Whether a file's name comes back from a text: it is UTF-8, and nothing in it has to be made safe."""
    return safe_name(documents.text_of(placement.name), fallback) == placement.name
