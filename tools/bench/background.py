"""Listing a library while thumbnails that nobody waits for are made, against one that has none to make.

As after `mixfs import`: the pictures have no thumbnails, and the first mount makes them. Names and sizes of all
pictures of one session are listed over and over, each time after the kernel forgot them.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from browsing import find
from measuring import Mixfs, Report, drop_caches, fill, png, seconds

from mixfs.library.api import Library
from mixfs.media.types import Inspection

PART = "background"
BESIDE, IDLE = "mixfs, beside thumbnails", "mixfs, idle"
SIDE = 96
LISTINGS = 5


def make_libraries(top: Path, count: int) -> dict[str, Mixfs]:
    """The same pictures twice: without thumbnails, and as such of which none can be made."""
    found = Inspection(media_type="image/png", width=SIDE, height=SIDE)
    made = {who: Mixfs(top / who) for who in (BESIDE, IDLE)}
    for who, mixfs in made.items():
        with Library.open(mixfs.library) as library:
            files = (("Session", b"image %06d.png" % number, png(number, SIDE, SIDE)) for number in range(count))
            fill(library, files, lambda number: found, marked=who == IDLE)
    return made


def measure(report: Report, libraries: dict[str, Mixfs]) -> None:
    """One round."""
    for who, mixfs in libraries.items():
        with mixfs.mounted() as point:
            times = []
            for _ in range(LISTINGS):
                drop_caches()
                times.append(seconds(find, point / "sessions" / "Session" / "images") * 1e3)
            if who == BESIDE and not mixfs.status("stats")["thumbnails_waiting"]:
                report.leave_out(BESIDE, "all thumbnails were made before the listings ended: take more pictures")
        report.note(PART, "listing with sizes", "ms", who, statistics.median(times))
