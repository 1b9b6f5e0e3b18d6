"""What others wait for while something large is done to the library by another process: a small commit and a lookup
through the mount, each five milliseconds after the last, idle and during each operation.

The library has one session of many pictures. Each operation is to take as many commits as it has pieces.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from measuring import ROOT, Mixfs, Report, fill, run, tiny_png

from mixfs.library.api import Library

PART = "large"
PAUSE_S = 0.005
IDLE = "idle"
TITLE = "Large"
# Each a program with `library`; what the last left is what the next works on.
OPERATIONS = {
    "delete a session": "library.delete_session(library.find_session('Large').id)",
    "restore a session": "library.restore_session('Large')",
    "retitle a session": "library.retitle_session(library.find_session('Large').id, 'Larger')",
    "cleanup": "from mixfs.library import cleanup as c; c.trash(library, c.choose(library, c.Rule(keep=1)))",
    "restore a cleanup": "library.restore(library.deletions()[0].id)",
    "delete it again": "library.delete_session(library.find_session('Larger').id)",
    "empty the trash (gc)": "from mixfs.library import gc; gc.collect(library, trash_days=-1)",
}


def make_library(mixfs: Mixfs, count: int) -> None:
    with Library.open(mixfs.library) as library:
        fill(library, ((TITLE, b"image %06d.png" % number, tiny_png(number)) for number in range(count)))
        library.create_session("Beside")


def sample(point: Path, ended: Callable[[], bool]) -> dict[str, list[float]]:
    """Milliseconds of each call."""
    images = point / "sessions" / "Beside" / "images"
    found: dict[str, list[float]] = {"commit (mkdir, rmdir)": [], "lookup": []}
    number = 0
    while not ended():
        number += 1
        began = time.perf_counter()
        os.mkdir(images / "made")
        os.rmdir(images / "made")
        between = time.perf_counter()
        # A name that is not there and that the kernel has not heard of.
        os.path.lexists(images / f"nothing {time.monotonic_ns()}")
        found["commit (mkdir, rmdir)"].append((between - began) * 1e3)
        found["lookup"].append((time.perf_counter() - between) * 1e3)
        time.sleep(PAUSE_S)
    return found


def measure(report: Report, mixfs: Mixfs, count: int, idle_s: float) -> None:
    """One round over a library of `make_library`."""

    def note(who: str, found: dict[str, list[float]]) -> None:
        for name, times in found.items():
            report.note(PART, f"{name}, median", "ms", who, statistics.median(times))
            report.note(PART, f"{name}, longest", "ms", who, max(times))

    with mixfs.mounted() as point:
        until = time.monotonic() + idle_s
        note(IDLE, sample(point, lambda: time.monotonic() > until))
        for name, program in OPERATIONS.items():
            done = threading.Event()
            took = 0.0

            def work(program: str = program, done: threading.Event = done) -> None:
                nonlocal took
                began = time.perf_counter()
                opened = f"import mixfs\nwith mixfs.Library.open({str(mixfs.library)!r}) as library:\n    {program}\n"
                try:
                    run(sys.executable, "-P", "-c", opened, env={"PYTHONPATH": str(ROOT)})
                finally:
                    took = time.perf_counter() - began
                    done.set()

            worker = threading.Thread(target=work)
            worker.start()
            try:
                note(name, sample(point, done.is_set))
            finally:
                worker.join()
            report.note(PART, "the operation itself", "s", name, took)
        measure_trash(report, mixfs, point, count // 4)


def measure_trash(report: Report, mixfs: Mixfs, point: Path, count: int) -> None:
    """Listing a folder of trash/, and opening its files one after the other."""
    with Library.open(mixfs.library) as library:
        files = (("Thrown away", b"image %06d.png" % number, tiny_png(10**6 + number)) for number in range(count))
        fill(library, files)
        library.delete_session(library.find_session("Thrown away").id)
    folder = point / "trash" / "Thrown away"
    began = time.perf_counter()
    names = os.listdir(folder)
    listed = time.perf_counter()
    for name in names:
        with open(folder / name, "rb") as file:
            file.read(1)
    read = time.perf_counter()
    report.note(PART, "trash/: list a folder, a file", "ms", "mixfs", (listed - began) * 1e3 / len(names))
    report.note(PART, "trash/: open and read them all, a file", "ms", "mixfs", (read - listed) * 1e3 / len(names))
