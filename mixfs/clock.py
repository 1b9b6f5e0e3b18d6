"""What time it is: the only module that asks the system for the wall clock.

A wall clock jumps: it is set by hand, by a time server, or is wrong until one is reached. `uptime_s` and `boot_id` do
not, and let `mixfs.library.steadiness` notice a jump. The uptime is read from /proc, because a program that fakes the
clock for others (faketime) fakes every clock of the C library, and not that.

Tests name a file in MIXFS_TEST_CLOCK; the number in it is added to the wall clock (seconds).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_TEST_CLOCK = os.environ.get("MIXFS_TEST_CLOCK")


def now_ns() -> int:
    """Nanoseconds since the epoch."""
    if _TEST_CLOCK is not None:
        return time.time_ns() + int(float(Path(_TEST_CLOCK).read_text()) * 1e9)
    return time.time_ns()


def now_s() -> float:
    """Seconds since the epoch."""
    return now_ns() / 1e9


def uptime_s() -> float:
    """Seconds since the machine started, suspended ones too: they pass at the same pace whatever is set."""
    try:
        return float(Path("/proc/uptime").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Which start of the machine this is; empty where the kernel doesn't tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return ""
