"""Thumbnails: derived data in `thumbnails/ab/cdef….png`, made after an import and on demand, in worker processes.

Concurrency: `wish` and `ask` may be called from any thread and return at once; `make` blocks on a worker process and on
the disk. Rows (`h` in the key table) are written in batches, beside the journal: a rebuild takes them from the
directory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import cbor2

from mixfs.ids import Digest
from mixfs.index import keys
from mixfs.index.engine import ReadTxn, prefix_end
from mixfs.library.leftovers import UNFINISHED_THUMBNAILS
from mixfs.library.wanted import placement_place
from mixfs.media.pool import ThumbnailFailed
from mixfs.modes import make_directory
from mixfs.records import Placement

if TYPE_CHECKING:
    from mixfs.library.api import Library
    from mixfs.library.view import View

SIZE = 256
# While pictures come in, the workers are for looking into those, for which somebody may be waiting: thumbnails wait for
# half a second in which none came, and for ten seconds at most.
QUIET_S = 0.5
HELD_S = 10.0
# Pictures that one read of the index looks at for missing thumbnails: some milliseconds.
PAGE = 1000


class Thumbnails:
    """The thumbnails of one open library, and the queue of those that are wished for."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.root = library.root / "thumbnails"
        self._wishes: OrderedDict[Digest, None] = OrderedDict()
        # Those that somebody waits for, and how to tell them; and those of them that nobody makes yet.
        self._waiting: dict[Digest, list[Callable[[], None]]] = {}
        self._asked: deque[Digest] = deque()
        self._condition = threading.Condition()
        # When the last wish came, and the first of those that there are (time.monotonic).
        self._last = self._since = 0.0
        self._placing = threading.Lock()
        self._closed = threading.Event()

    def path(self, digest: Digest) -> Path:
        text = digest.hex()
        return self.root / text[:2] / f"{text[2:]}.png"

    def wish(self, digest: Digest, *, first: bool = False) -> None:
        """Have a thumbnail made when there is time; `first`: before the others."""
        if self._library.store.read_only:
            return
        with self._condition:
            now = time.monotonic()
            if not self._wishes:
                self._since = now
            self._last = now
            self._wishes[digest] = None
            if first:
                self._wishes.move_to_end(digest, last=False)
            self._condition.notify()

    def ask(self, digest: Digest, tell: Callable[[], None]) -> None:
        """Somebody waits for a thumbnail. `tell` is called, from another thread, when it is recorded or can't be made.

        Returns at once: threads of the library's owner make what is asked for, beside those for wishes.
        """
        with self._condition:
            if digest not in self._waiting:
                self._asked.append(digest)
            self._waiting.setdefault(digest, []).append(tell)
            self._condition.notify_all()

    def next_asked(self, *, wait: bool) -> Digest | None:
        """The next one that somebody waits for; None after `close`, or when there is none and it is not to `wait`."""
        with self._condition:
            if wait:
                self._condition.wait_for(lambda: self.closed or self._asked)
            return None if self.closed or not self._asked else self._asked.popleft()

    def tell(self, digests: Iterable[Digest]) -> None:
        """These were asked for, and are recorded or can't be made."""
        with self._condition:
            waiting = [tell for digest in digests for tell in self._waiting.pop(digest, ())]
        for tell in waiting:
            tell()

    @property
    def waiting(self) -> int:
        return len(self._wishes)

    def next_wish(self, timeout_s: float | None = None) -> Digest | None:
        """The next wish, waited for; None after `close` or at the timeout."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._condition:
            while not self.closed:
                now = time.monotonic()
                left = None if end is None else end - now
                if self._wishes:
                    held = min(self._last + QUIET_S, self._since + HELD_S) - now
                    if held <= 0:
                        return self._wishes.popitem(last=False)[0]
                    left = held if left is None else min(left, held)
                if end is not None and now >= end:
                    return None
                self._condition.wait(left)
            return None

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def rest(self, seconds: float) -> None:
        """Wait for so long, or until `close`."""
        self._closed.wait(seconds)

    def make_if_missing(self, digest: Digest) -> tuple[int, int] | None:
        """As `make`, when nobody waits for it; None when its row is there already: there is nothing to record then."""
        with self._library.read() as view:
            row = view.thumbnail(digest)
        missing = row is None or (row != (0, 0) and not self.path(digest).exists())
        return self.make(digest, idle=True) if missing else None

    def close(self) -> None:
        with self._condition:
            self._closed.set()
            self._condition.notify_all()

    def make(self, digest: Digest, *, idle: bool = False) -> tuple[int, int] | None:
        """Make the thumbnail of an image if there is none; returns `(size, mtime_ns)`, (0, 0) when none can be made.

        None when the blob is no image of the library. `idle` when nobody waits for it. The row isn't written: `record`
        does that, for many at once.
        """
        with self._library.read() as view:
            image, row = view.image(digest), view.thumbnail(digest)
        target = self.path(digest)
        if image is None:
            return None
        if image.problem is not None:
            return 0, 0
        if row == (0, 0):
            return row
        with contextlib.suppress(FileNotFoundError):
            # Perhaps made by another thread, which has yet to record it.
            status = target.stat()
            return status.st_size, status.st_mtime_ns
        if self._library.store.read_only:
            return None
        # Apart from the others: what a killed process left is found without looking through all of them.
        temporary = self.root / UNFINISHED_THUMBNAILS / f"{digest.hex()}.{os.getpid()}.{threading.get_ident()}"
        for folder in (target.parent, temporary.parent):
            make_directory(folder, parents=True, exist_ok=True)
        try:
            self._library.pool.thumbnail(str(self._library.blobs.path(digest)), str(temporary), idle=idle)
            with self._placing:
                # Not over one that was made meanwhile: two threads must record one size and time.
                if not target.exists():
                    os.rename(temporary, target)
            status = target.stat()
            return status.st_size, status.st_mtime_ns
        except ThumbnailFailed as error:
            self._library.store.problems.report("no-thumbnail", str(error), digest=digest.hex())
            return 0, 0
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def record(self, made: dict[Digest, tuple[int, int]]) -> None:
        """Note thumbnails in the index and tell who remembers the listings that they appear in."""

        def derive(view: View) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
            rows: dict[bytes, bytes] = {}
            places = []
            for digest, row in made.items():
                if view.image(digest) is None:
                    # gc took the picture away since, and perhaps came before the thumbnail had its name.
                    self.path(digest).unlink(missing_ok=True)
                    continue
                rows[keys.thumbnail(digest)] = cbor2.dumps(list(row))
                places += [placement_place(each) for each in view.referrers(Placement, digest) if each.area == "images"]
            return rows, places

        self._library.store.annotate_index(derive)

    def missing(self, after: bytes = b"", count: int = PAGE) -> tuple[list[Digest], bytes]:
        """Which of the next `count` pictures in images/ have no thumbnail, and where to go on (b"" at the end)."""
        with self._library.read() as view:
            pictures = list(islice(_digests(view.txn, keys.view_rows(Digest(b"")), after), count))
            if not pictures:
                return [], b""
            made = _digests(view.txn, keys.thumbnail(Digest(b"")), after)
            there = set(takewhile(lambda digest: digest <= pictures[-1], made))
            end = len(pictures) < count
            return [digest for digest in pictures if digest not in there], b"" if end else pictures[-1]

    def wish_missing(self, after: bytes = b"") -> bytes:
        """Wish for what `missing` finds on its next page; where to go on. Nothing comes in there: none is held."""
        found, after = self.missing(after)
        with self._condition:
            for digest in found:
                self._wishes.setdefault(digest, None)
            self._condition.notify_all()
        return after


def _digests(txn: ReadTxn, prefix: bytes, after: bytes) -> Iterator[Digest]:
    """The digests behind a prefix that are greater than `after`, in order."""
    for key, _ in txn.scan(prefix + after + b"\0" if after else prefix, prefix_end(prefix)):
        yield Digest(key[len(prefix) :])
