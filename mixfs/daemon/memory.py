"""Giving memory back, in a daemon that lives for months. How its malloc is set: `mixfs.process`.

Three things make a daemon large that has nothing to do. malloc keeps what is free between what is not, after very many
things that were there at once went. LMDB's map counts as the daemon's, each page that was read once: after a new index,
a look for missing thumbnails or gc that is all of the index. And malloc again, after a large commit or listing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sized
from pathlib import Path

import trio

from mixfs.library.store import Store

_EVERY_S = 10
_MANY = 1000
# Bytes of either kind of memory that are worth the while.
_WORTH = 16 << 20
# Requests in the time between two looks that may come of somebody who watches.
_FEW = 200


async def give_back(kept: Sized) -> None:
    """For as long as the mount lives: when most of very many things went, give back what is free."""
    most = 0
    while True:
        await trio.sleep(_EVERY_S)
        there = len(kept)
        most = max(most, there)
        if most > _MANY and there < most // 10:
            most = 0
            await trio.to_thread.run_sync(_trim)


async def give_back_when_idle(store: Store, requests: Callable[[], int]) -> None:
    """For as long as the mount lives: when hardly a request came for a while, and it grew since the last time.

    `requests` says how many came so far.
    """
    before, private, mapped = requests(), *_resident()
    while True:
        await trio.sleep(_EVERY_S)
        count = requests()
        is_busy = count > before + _FEW
        before = count
        if is_busy:
            continue
        now_private, now_mapped = _resident()
        if now_mapped > mapped + _WORTH:
            await trio.to_thread.run_sync(store.release_pages)
        if now_private > private + _WORTH:
            await trio.to_thread.run_sync(_trim)
        now_private, now_mapped = _resident()
        # What stays is in use: it is not looked for again.
        private, mapped = min(private, now_private), min(mapped, now_mapped)
        if now_private > private + _WORTH:
            private = now_private


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident() -> tuple[int, int]:
    """Bytes of memory of our own, and of maps of files."""
    private = mapped = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            private = int(line.split()[1]) << 10
        elif line.startswith("RssFile:"):
            mapped = int(line.split()[1]) << 10
    return private, mapped
