"""What one process removes of one session in one go is one deletion: `rm -r` comes as a request for each file.

Concurrency: under the tree's lock, as all changes of names.
"""

from __future__ import annotations

import time

from mixfs.records import Trash

# How long a process may think between two removals of one deletion: `rm` asks for the next as soon as it has an answer.
PAUSE_S = 10.0


class Removals:
    """The last removal of each process that has just removed something."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Trash, float]] = {}  # in order of time

    def __len__(self) -> int:
        return len(self._last)

    def last(self, pid: int | None) -> Trash | None:
        """What a process removed a moment ago."""
        found = self._last.get(pid) if pid is not None else None
        return found[0] if found is not None and time.monotonic() - found[1] < PAUSE_S else None

    def note(self, pid: int | None, item: Trash | None) -> None:
        """A process has removed something."""
        now = time.monotonic()
        while self._last and now - next(iter(self._last.values()))[1] > PAUSE_S:
            del self._last[next(iter(self._last))]
        if pid is not None and item is not None:
            self._last.pop(pid, None)
            self._last[pid] = item, now


def same(before: Trash | None, session_id: str) -> Trash | None:
    """What was removed before, where that was of the same session."""
    return before if before is not None and before.session_id == session_id else None
