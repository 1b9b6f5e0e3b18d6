"""Waiting for the kernel's next request, without a turn of trio's scheduler for each.

pyfuse3 takes each request in a task that waits for a lock, and then in epoll for /dev/fuse: several switches of tasks
and four system calls a request, and a processor that has gone to sleep. That took longer than all that MixFS does for a
lookup. A program that lists or opens files comes back within microseconds of an answer: so the task that has just
answered looks out for its next request first, and only then queues up. docs/performance.md has the figures.

It is put in by the way that pyfuse3 has for another event loop (`pyfuse3.asyncio.enable`): the name `trio` in its
module, from which it takes the lock and `wait_readable`.

Concurrency: event loop only. When a request was there at once nothing awaits between `__aenter__` and `__aexit__`, so
that `_at_once` speaks of one task. A task that waits in epoll is woken for what another has taken meanwhile: it looks
again before it goes on, because pyfuse3 would block the loop with its read.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import perf_counter
from types import SimpleNamespace

import pyfuse3
import trio

# How long the next request is looked out for (s). No other task runs then, and a processor is kept awake for it.
LINGER_S = 100e-6
# After so many requests at once all other tasks have a turn.
IN_A_ROW = 8
# select(2) knows no other descriptors; pyfuse3's is among the first that a daemon opens.
_DESCRIPTORS = 1024


class Receiving:
    """The lock that pyfuse3's tasks hold while they wait. `busy` says whether a request waits for something."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._lock = trio.Lock()
        self._fd = -1
        self._at_once = False
        self._in_a_row = 0

    def _is_there(self) -> bool:
        return bool(select.select((self._fd,), (), (), 0)[0])

    def _comes(self) -> bool:
        """Whether there is a request now, or soon."""
        if self._is_there():
            return True
        if self._busy():
            # A thread may be about to end; the loop must be free for it.
            return False
        until = perf_counter() + LINGER_S
        while perf_counter() < until:
            if self._is_there():
                return True
        return False

    async def __aenter__(self) -> None:
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        if 0 <= self._fd < _DESCRIPTORS and self._comes():
            self._in_a_row += 1
            self._at_once = True
            return
        self._in_a_row = 0
        await self._lock.acquire()

    async def __aexit__(self, *error: object) -> None:
        if self._at_once:
            self._at_once = False
        else:
            self._lock.release()

    async def wait_readable(self, fd: int) -> None:
        """Until there is a request for this task."""
        self._fd = fd
        while not self._at_once:
            await trio.lowlevel.wait_readable(fd)
            if fd >= _DESCRIPTORS or self._is_there():
                return


def install(busy: Callable[[], bool]) -> None:
    """Have pyfuse3 wait so. Before each `pyfuse3.main`."""
    receiving = Receiving(busy)
    lowlevel = SimpleNamespace(**vars(trio.lowlevel) | {"wait_readable": receiving.wait_readable})
    pyfuse3.trio = SimpleNamespace(**vars(trio) | {"Lock": lambda: receiving, "lowlevel": lowlevel})  # type: ignore[attr-defined]
