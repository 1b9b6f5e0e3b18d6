"""What a mounted library does for itself: quarantine for damage that a read met, gc once a day, and the scrub, which
reads every original once a month and compares it with its digest.

Concurrency: one thread at the lowest priority, beside everything else. `damaged` may be called from any thread and
returns at once. How far it has come stands in LIBRARY/upkeep.json, so that a scrub goes on where it was left.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import structlog

from mixfs import clock
from mixfs.errors import ClockJumped, IndexDamaged, LibraryIncomplete, os_words
from mixfs.ids import Digest, digest_from_hex
from mixfs.journal.files import write_durably
from mixfs.library import gc, healing
from mixfs.library.api import Library
from mixfs.library.lost import LostTotals, totals
from mixfs.process import idle_io

log = structlog.get_logger("mixfs.upkeep")

DAY_S = 86400.0
SCRUB_EVERY_S = 30 * DAY_S
# The part of the time that the scrub may keep a disk busy.
SCRUB_SHARE = 0.1
# Whoever just mounted has other work for the disk.
SETTLE_S = 600.0
_SAVE_EVERY_S = 30.0
_WATCH_EVERY_S = 60.0
_RETRY_S = 600.0
_DIGEST = re.compile("[0-9a-f]{64}")
_SCRUBBED = re.compile("[0-9a-f]{64}|done")


def _moment(value: object) -> float:
    """A time of upkeep.json; now, where it makes no sense."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else clock.now_s()


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_past(began: float, every_s: float) -> bool:
    """Also when the clock was set back: what began in the future would else wait for it."""
    return not 0 <= clock.now_s() - began <= every_s


class Upkeep:
    """The upkeep of one mounted library."""

    def __init__(
        self, library: Library, trash_days: float = gc.TRASH_DAYS, settle_s: float = SETTLE_S
    ) -> None:
        self._library = library
        self._trash_days = trash_days
        self._begin = time.monotonic() + settle_s
        self._path = library.root / "upkeep.json"
        self._condition = threading.Condition()
        self._damaged: list[Digest] = []
        # What could not be read for a reason that is not its own, when to try again, and whether that was reported.
        self._unchecked: list[Digest] = []
        self._retry_at, self._told = 0.0, False
        self._lost = LostTotals()
        self._refused = ""  # why the last gc changed nothing
        self._refused_incomplete = False  # because the library was incomplete
        self._rebuilt = False  # the index was made again here, because gc found it damaged
        self._closed = False
        self._thread: threading.Thread | None = None
        state = self._load()
        # A library that has no state yet: its first day, and its first scrub, begin now.
        self._collected = _moment(state.get("collected"))
        self._scrub_began = _moment(state.get("scrub_began"))
        unchecked = state.get("unchecked")
        if isinstance(unchecked, list):
            self._unchecked = [digest_from_hex(text) for text in unchecked if _is_digest(text)]
        scrubbed = state.get("scrubbed")  # the digest that was looked at last, or "done"
        self._scrubbed = scrubbed if isinstance(scrubbed, str) and _SCRUBBED.fullmatch(scrubbed) else ""
        self._saved = time.monotonic()
        self._watched = -math.inf

    def status(self) -> dict[str, object]:
        """For .mixfs/health.json: when gc ran, why it refused to, how far the scrub is (0 to 1), lost/."""
        done = 1.0 if self._scrubbed == "done" else int(self._scrubbed[:4] or "0", 16) / 0x10000
        return {
            "collected": self._collected, "scrub_began": self._scrub_began, "scrubbed": round(done, 3),
            "lost": self._lost.originals, "lost_bytes": self._lost.bytes, "lost_words": self._lost.words(),
            "refused": self._refused,
        }  # fmt: skip

    def refusal(self) -> str:
        """Why nothing is collected now; "" when the next gc is free to."""
        if _is_past(self._collected, DAY_S) and (words := self._library.store.steadiness.words()):
            return words
        if self._refused_incomplete and not self._library.store.gaps():
            # Somebody put that right.
            return ""
        return self._refused

    # -- the thread

    def start(self) -> None:
        self._save()
        self._thread = threading.Thread(target=self._run, name="upkeep")
        self._thread.start()

    def close(self) -> None:
        """Stop, at the next file at the latest; blocks until then."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    def damaged(self, digest: Digest) -> None:
        """A read met bytes that are not what was imported."""
        with self._condition:
            if digest not in self._damaged:
                self._damaged.append(digest)
                self._condition.notify_all()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        blobs: Iterator[Digest] = iter(())
        with contextlib.suppress(OSError):
            self._lost = totals(self._library.blobs.removal)
        while True:
            pause = 1.0
            self._watch_clock()
            try:
                if digest := self._next_damaged():
                    self._check(digest)
                elif time.monotonic() < self._begin:
                    pause = self._begin - time.monotonic()
                elif _is_past(self._collected, DAY_S) and self._library.store.steadiness.wait_s() <= 0:
                    self._collect()
                elif self._unchecked and time.monotonic() >= self._retry_at:
                    self._check_again()
                elif (digest := next(blobs, None)) is not None:
                    pause = self._scrub(digest)
                elif self._scrubbed != "done":
                    blobs = self._blobs_left()
                    if (digest := next(blobs, None)) is not None:
                        pause = self._scrub(digest)
                    elif self._unchecked:
                        pause = self._retry_at - time.monotonic()
                    else:
                        self._scrubbed = "done"
                        self._save()
                elif _is_past(self._scrub_began, SCRUB_EVERY_S):
                    self._scrub_began, self._scrubbed = clock.now_s(), ""
                else:
                    pause = _RETRY_S
            except Exception as error:
                log.exception("upkeep_failed", error=repr(error))
                pause = _RETRY_S
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._damaged, min(pause, _WATCH_EVERY_S))
                if self._closed:
                    self._save()
                    return

    def _watch_clock(self) -> None:
        if time.monotonic() - self._watched < _WATCH_EVERY_S:
            return
        self._watched = time.monotonic()
        try:
            if words := self._library.store.steadiness.words():
                log.info("clock_jumped", words=words)
        except Exception as error:
            log.exception("clock_not_watched", error=repr(error))

    def _next_damaged(self) -> Digest | None:
        with self._condition:
            return self._damaged.pop() if self._damaged else None

    def _collect(self) -> None:
        self._collected = clock.now_s()
        self._save()
        try:
            try:
                freed = gc.collect(self._library, trash_days=self._trash_days)
            except IndexDamaged as error:
                if self._rebuilt:
                    raise
                # Made again from the journal it is right, or the journal is at fault.
                self._rebuilt = True
                log.warning("index_made_again", error=str(error))
                self._library.store.rebuild_index()
                freed = gc.collect(self._library, trash_days=self._trash_days)
        except (LibraryIncomplete, IndexDamaged, ClockJumped) as error:
            self._refused_incomplete = isinstance(error, LibraryIncomplete)
            self._refused = str(error)
            self._library.store.problems.report("gc-refused", self._refused)
            log.warning("gc_refused", error=self._refused)
            return
        finally:
            self._lost = totals(self._library.blobs.removal)
        self._refused = ""
        log.info("collected", **asdict(freed))

    def _blobs_left(self) -> Iterator[Digest]:
        for digest, _ in self._library.blobs.enumerate():
            if digest.hex() > self._scrubbed:
                yield digest

    def _scrub(self, digest: Digest) -> float:
        """Check one blob; returns how long to leave the disk alone after it."""
        began = time.monotonic()
        # The reading alone: gc commits, and whoever waits for the library's lock must not wait for an idle disk.
        with idle_io():
            self._check(digest)
        self._scrubbed = digest.hex()
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self._save()
        return (time.monotonic() - began) * (1 / SCRUB_SHARE - 1)

    def _check(self, digest: Digest) -> None:
        """Check one blob, and move it to quarantine/ when it is damaged."""
        try:
            healing.quarantine_if_damaged(self._library, digest)
            if digest in self._unchecked:
                self._unchecked.remove(digest)
        except OSError as error:
            # Too many open files, say: nothing about its bytes. It is tried again.
            log.warning("original_not_checked", digest=digest.hex(), error=os_words(error))
            if digest not in self._unchecked:
                self._unchecked.append(digest)
                self._retry_at = time.monotonic() + _RETRY_S

    def _check_again(self) -> None:
        """Check what could not be read before; what still can't be is reported once."""
        for digest in list(self._unchecked):
            self._check(digest)
        self._retry_at = time.monotonic() + _RETRY_S
        if self._unchecked and not self._told:
            self._library.store.problems.report(
                "originals-unchecked",
                f"{len(self._unchecked)} originals could not be read, for a reason that says nothing about their "
                "bytes. They are tried again; log.jsonl has the reasons.",
                digests=[digest.hex() for digest in self._unchecked[:100]],
            )  # fmt: skip
        self._told = bool(self._unchecked)

    # -- what is kept

    def _load(self) -> dict[str, Any]:
        try:
            state = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _save(self) -> None:
        self._saved = time.monotonic()
        state: dict[str, object] = {
            "collected": self._collected, "scrub_began": self._scrub_began, "scrubbed": self._scrubbed,
        }  # fmt: skip
        if self._unchecked:
            state["unchecked"] = [digest.hex() for digest in self._unchecked]
        with contextlib.suppress(OSError):
            write_durably(self._path, json.dumps(state).encode())
