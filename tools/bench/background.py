"""Listing a library while thumbnails that nobody waits for are made, against the same when none is left.

As after `mixfs import`: the pictures have no thumbnails, and the first mount makes them. Names and sizes of all
pictures of one session are listed over and over, each time after the kernel forgot them; then all thumbnails are waited
for, and the same is done again.
"""

from __future__ import annotations

import statistics

from browsing import find
from measuring import Mixfs, Report, drop_caches, fill, png, seconds

from mixfs.library.api import Library
from mixfs.media.types import Inspection

PART = "background"
BESIDE, IDLE = "mixfs, beside thumbnails", "mixfs, idle"
SIDE = 96
LISTINGS = 5


def make_library(mixfs: Mixfs, count: int) -> None:
    """Pictures without thumbnails."""
    found = Inspection(media_type="image/png", width=SIDE, height=SIDE)
    with Library.open(mixfs.library) as library:
        files = (("Session", b"image %06d.png" % number, png(number, SIDE, SIDE)) for number in range(count))
        fill(library, files, lambda number: found, marked=False)


def measure(report: Report, mixfs: Mixfs) -> None:
    """One round; the library has no thumbnails."""

    def list_all() -> list[float]:
        times = []
        for _ in range(LISTINGS):
            drop_caches()
            times.append(seconds(find, point / "sessions" / "Session" / "images") * 1e3)
        return times

    with mixfs.mounted() as point:
        beside = list_all()
        waiting = mixfs.status("stats")["thumbnails_waiting"]
        if not waiting:
            report.leave_out(BESIDE, "all thumbnails were made before the listings ended: take more pictures")
        mixfs.wait_for_thumbnails()
        idle = list_all()
    for who, times in ((BESIDE, beside), (IDLE, idle)):
        report.note(PART, "listing with sizes", "ms", who, statistics.median(times))
