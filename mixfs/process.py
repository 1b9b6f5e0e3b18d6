"""What processes of our own are given, how their malloc is set, how their threads take turns, and what /proc says of a
process.

malloc through ctypes: the standard library has no word for it, and other C libraries than glibc need none of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

# linux/ioprio.h; who 0 is the calling thread.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_NONE, _IOPRIO_CLASS_IDLE = 1, 0, 3
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def environment() -> dict[str, str]:
    """What a Python that we start is given, so that it finds this very package from wherever it runs."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths))


def take_short_turns() -> None:
    """For a process in which a thread that commits computes for tens of milliseconds.

    Others ask for the interpreter after each system call, as an event loop does and who feeds the workers; Python's own
    5 ms add up over what one request or one picture needs.
    """
    sys.setswitchinterval(0.0005)


def give_way() -> None:
    """Let this process have the processor and the disk only when nobody else wants them. It can't be taken back."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _set_io_class(_IOPRIO_CLASS_IDLE)


@contextlib.contextmanager
def idle_io() -> Iterator[None]:
    """Let this thread have the disk only when nobody else wants it. Not while it holds a lock that others wait for."""
    _set_io_class(_IOPRIO_CLASS_IDLE)
    try:
        yield
    finally:
        _set_io_class(_IOPRIO_CLASS_NONE)


def _set_io_class(number: int) -> None:
    """ioprio_set(2) of the calling thread, for which Python has no word."""
    call = _IOPRIO_SET.get(platform.machine())
    if call is not None:
        ctypes.CDLL(None).syscall(call, _IOPRIO_WHO_PROCESS, 0, number << 13)


def use_one_arena() -> None:
    """Before the first thread: those that come later use the arena that is there.

    Each thread gets one of its own otherwise, up to eight a core, and glibc keeps what is free at the end of each: some
    MiB, more after a few big reads. Under an hour of mixed load that came to 20 MiB which nobody used. Threads take
    turns at the interpreter's lock anyway, so one arena serves them as fast.
    """
    _mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Up to 8 MiB that were freed stay with the process: who does the same for one picture after the other would have
    each page of it made anew by the kernel every time."""
    _mallopt(_M_TRIM_THRESHOLD, 8 << 20)
    _mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def _mallopt(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)


# -- what /proc says


def arguments_of(pid: int) -> list[str]:
    """The command line of a process; empty when it is gone. Any user's process may have any."""
    try:
        return [os.fsdecode(part) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []


def owner_of(pid: int) -> int | None:
    """The effective user of a process; None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
        return int(next(line for line in status.split(b"\n") if line.startswith(b"Uid:")).split()[2])
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def start_of(pid: int) -> str | None:
    """When a process was started, in a form that no later process with its number has; None when it is gone."""
    try:
        # The name in parentheses may contain anything; the start time is field 22.
        ticks = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {int(ticks)}"
    except (OSError, ValueError, IndexError):
        return None
