"""Giving memory back, in a daemon that lives for months. How its malloc is set: `mixfs.process`."""

from __future__ import annotations

import ctypes
from collections.abc import Sized

import trio

_EVERY_S = 10
_MANY = 1000


async def give_back(kept: Sized) -> None:
    """For as long as the mount lives: when most of very many things went, give back what is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    most = 0
    while trim is not None:
        await trio.sleep(_EVERY_S)
        there = len(kept)
        most = max(most, there)
        if most > _MANY and there < most // 10:
            most = 0
            await trio.to_thread.run_sync(trim, 0)
