"""Whether the clock can be trusted: nothing expires within a day of a jump of more than a day.

What expires by age (trash, `lost/`, unreferenced originals, the journal's history) is gone for good, and a clock that
is wrong by years would take all of it at once. LIBRARY/clock.json holds what the clock said last, and the machine's
uptime then. If by now the clock has gone on by a day more, or less, than the uptime has, it jumped: that is reported,
and everything stays until the machine has been up for a day since. Steps of less than a day add up.

The uptime says nothing across a restart. A clock that went back since is a jump. One that went forward by more than a
day may be one: it looks the same as a machine that was off. So a day is waited then too, but such a gap doesn't begin a
wait again that is under way; otherwise a machine that runs for some hours each week would never collect anything.

Concurrency: any thread and process may call `observe`; the file is replaced whole, and the one written last counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mixfs import clock
from mixfs.errors import ClockJumped
from mixfs.journal.files import write_durably
from mixfs.library.documents import iso
from mixfs.library.problems import Problems

DAY_S = 86400.0
# A jump is more than this, and this long nothing expires after it.
JUMP_S = WAIT_S = DAY_S
# How old clock.json may be: what passes in between is known from the uptime.
_WRITE_EVERY_S = 3600.0
_DRIFT_S = 60.0


@dataclass(slots=True)
class _Seen:
    """What clock.json holds: clock (s since the epoch), uptime and boot then; the last jump, and how long to wait."""

    clock_s: float
    uptime_s: float
    boot: str
    jumped_at_s: float | None = None
    jumped_by_s: float = 0.0
    # Across a restart: the machine may have been off.
    may_be_off: bool = False
    wait_s: float = 0.0
    # What smaller steps of this boot add up to.
    drift_s: float = 0.0


class Steadiness:
    """What is known of the clock in one library. `last_commit_ns` stands in for a missing clock.json (0: unknown)."""

    def __init__(
        self, root: Path, problems: Problems, last_commit_ns: Callable[[], int] = lambda: 0, *, read_only: bool = False
    ) -> None:
        self._path = root / "clock.json"
        self._problems = problems
        self._last_commit_ns = last_commit_ns
        self._read_only = read_only
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """How long nothing may expire yet; 0 when the clock is steady."""
        return self._observe().wait_s

    def require(self, what: str) -> None:
        """Raise ClockJumped unless the clock is steady; `what` stays as it is, in words."""
        seen = self._observe()
        if seen.wait_s > 0:
            raise ClockJumped(f"{self._words(seen)} {what}")

    def words(self) -> str:
        """What there is to say of a jump that is waited for; empty when there was none."""
        seen = self._observe()
        return self._words(seen) if seen.wait_s > 0 else ""

    def trust(self) -> None:
        """A person says that the clock is right."""
        with self._lock:
            seen = self._look()
            seen.wait_s = 0.0
            self._write(seen)

    @staticmethod
    def _words(seen: _Seen) -> str:
        by = abs(seen.jumped_by_s) / DAY_S
        way = "forward" if seen.jumped_by_s > 0 else "back"
        at = iso(int((seen.jumped_at_s or 0.0) * 1e9))
        off = ", or the machine was off for so long" if seen.may_be_off else ""
        return (
            f"The clock went {way} by {by:.1f} days, to {at}{off}. Nothing expires until the machine has been up for "
            f"{seen.wait_s / 3600:.1f} hours more; if the clock is right, `mixfs gc --trust-clock` ends the wait."
        )

    def _observe(self) -> _Seen:
        with self._lock:
            return self._look()

    def _look(self) -> _Seen:
        now_s, uptime_s, boot = clock.now_s(), clock.uptime_s(), clock.boot_id()
        old = self._load()
        if old is None:
            last_s = self._last_commit_ns() / 1e9
            old = _Seen(last_s or now_s, 0.0, "unknown" if last_s else boot)
            if not last_s:
                old.uptime_s = uptime_s
        is_same_boot = old.boot == boot and uptime_s >= old.uptime_s
        passed_s = uptime_s - old.uptime_s if is_same_boot else min(uptime_s, max(0.0, now_s - old.clock_s))
        by_s = now_s - old.clock_s - (passed_s if is_same_boot else 0.0)
        wait_s = max(0.0, old.wait_s - passed_s)
        if is_same_boot:
            by_s += old.drift_s
        seen = _Seen(now_s, uptime_s, boot, old.jumped_at_s, old.jumped_by_s, old.may_be_off, wait_s)
        seen.drift_s = by_s if is_same_boot else 0.0
        jumped = abs(by_s) > JUMP_S
        if jumped:
            seen.jumped_at_s, seen.jumped_by_s, seen.may_be_off = now_s, by_s, not is_same_boot and by_s > 0
            seen.drift_s = 0.0
            if not seen.may_be_off or not seen.wait_s:
                seen.wait_s = WAIT_S
        if abs(seen.drift_s - old.drift_s) > _DRIFT_S or jumped or self._is_worth_writing(old, seen):
            self._write(seen)
        if jumped:
            self._problems.report("clock-jumped", self._words(seen), by_s=round(by_s))
        return seen

    def _is_worth_writing(self, old: _Seen, seen: _Seen) -> bool:
        passed_s = seen.uptime_s - old.uptime_s
        is_over = old.wait_s > 0 and not seen.wait_s
        return old.boot != seen.boot or not 0 <= passed_s < _WRITE_EVERY_S or is_over or not self._path.exists()

    def _load(self) -> _Seen | None:
        try:
            data = json.loads(self._path.read_bytes())
            seen = _Seen(**data)
            numbers = [seen.clock_s, seen.uptime_s, seen.jumped_by_s, seen.wait_s, seen.jumped_at_s or 0.0]
            return seen if all(map(math.isfinite, numbers)) and isinstance(seen.boot, str) else None
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, seen: _Seen) -> None:
        if self._read_only:
            return
        # On a full disk the next one sees the same jump again.
        with contextlib.suppress(OSError):
            write_durably(self._path, json.dumps(asdict(seen)).encode())
