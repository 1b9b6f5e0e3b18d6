"""What a program waits for while many pictures come in: lstat of a name that the kernel has not seen, and 4 KiB of a
file that was not read yet, each five milliseconds after the last, idle and during an import with thumbnails.

The import is `cp -r` into import/, and goes on until all are taken in and have thumbnails.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measuring import MIXFS, Mixfs, Report, drop_caches

PART = "latency"
PAUSE_S = 0.005
IDLE = "mixfs, idle"


def read_some(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.read(fd, 4096)
    finally:
        os.close(fd)


def sample(paths: Iterator[str], ended: Callable[[], bool]) -> dict[str, list[float]]:
    """Milliseconds of each call. Names are used once; the first that does not exist ends it."""
    found: dict[str, list[float]] = {"lstat": [], "open, read 4 KiB, close": []}
    for path in paths:
        if ended():
            break
        for (_, times), call in zip(found.items(), (os.lstat, read_some), strict=True):
            began = time.perf_counter()
            try:
                call(path)
            except FileNotFoundError:
                return found
            times.append((time.perf_counter() - began) * 1e3)
        time.sleep(PAUSE_S)
    return found


def measure(report: Report, mixfs: Mixfs, source: Path, turn: int, idle_s: float) -> None:
    """One round; the library has one session of many small pictures."""
    drop_caches()
    with mixfs.mounted() as point:
        folder = point / "sessions" / "Session 00000" / "images"
        os.lstat(folder)
        paths = (f"{folder}/image {number:06}.png" for number in range(10**9))
        # Blobs come from the page cache: the disk's latency is not MixFS's.
        subprocess.run(["grep", "-rqs", "nothing is like this", mixfs.library / "blobs"], check=False)

        def note(who: str, found: dict[str, list[float]]) -> None:
            for name, times in found.items():
                report.note(PART, f"{name}, median", "ms", who, statistics.median(times))
                report.note(PART, f"{name}, p99", "ms", who, statistics.quantiles(times, n=100)[98])
                report.note(PART, f"{name}, longest", "ms", who, max(times))

        until = time.monotonic() + idle_s
        note(IDLE, sample(paths, lambda: time.monotonic() > until))
        done = threading.Event()

        def bring_in() -> None:
            try:
                subprocess.run(["cp", "-r", source, point / "import" / f"Turn {turn}"], check=True)
                mixfs.wait()
                mixfs.wait_for_thumbnails()
            finally:
                done.set()

        worker = threading.Thread(target=bring_in)
        worker.start()
        try:
            note(MIXFS, sample(paths, done.is_set))
        finally:
            worker.join()
