"""How soon a mount whose listings the kernel has cached shows what another process changed.

All names of one session are listed and looked at in the mount. Another process then renames every picture in one
commit, as a command would. Measured from the commit's return: when the last new name is seen, and how many
invalidations that took. And a single change: from its commit's return until it is seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from measuring import MIXFS, Mixfs, Report, run

PART = "coherence"
PATIENCE_S = 600.0
# Prints the time at which the commit stood, as CLOCK_MONOTONIC has it for every process.
RENAME = """
import sys, time
from mixfs.library import editing
from mixfs.library.api import Library
root, count, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Library.open(root) as library:
    placements = library.placements(library.sessions()[0].id)[:count]
    def rename(txn):
        for number, one in enumerate(placements):
            editing.move_placement(txn, one.id, one.session_id, one.folder_id, b"%s %06d.png" % (name.encode(), number))
    library.commit(rename)
    print(time.monotonic())
"""


def rename(mixfs: Mixfs, count: int, name: str) -> float:
    return float(run(sys.executable, "-P", "-c", RENAME, mixfs.library, str(count), name, env=mixfs.env))


def seen(paths: list[str], since: float) -> float:
    """When the last of these names is there (s)."""
    for path in paths:
        while not os.path.exists(path):
            if time.monotonic() - since > PATIENCE_S:
                raise TimeoutError(f"{path} is not seen within {PATIENCE_S:g} s")
            time.sleep(0.001)
    return time.monotonic() - since


def measure(report: Report, mixfs: Mixfs, images: int, turn: int) -> None:
    """One round."""
    with mixfs.mounted() as point:
        folder = point / "sessions" / "Session 00000" / "images"

        def look(name: str, count: int) -> list[str]:
            """Everything that is there is remembered, and that these names are not."""
            subprocess.run(["find", folder, "-printf", "%s\n"], stdout=subprocess.DEVNULL, check=True)
            paths = [f"{folder}/{name} {number:06}.png" for number in range(count)]
            for path in paths:
                os.path.exists(path)
            return paths

        paths = look(f"one {turn}", 1)
        took = seen(paths, rename(mixfs, 1, f"one {turn}"))
        report.note(PART, "one change, until it is seen", "ms", MIXFS, took * 1e3)
        paths = look(f"all {turn}", images)
        before = mixfs.status("stats")["invalidations"]
        took = seen(paths, rename(mixfs, images, f"all {turn}"))
        invalidations = mixfs.status("stats")["invalidations"] - before
        report.note(PART, f"{images:,} changes, until the last is seen", "s", MIXFS, took)
        report.note(PART, "invalidations", "k/s", MIXFS, invalidations / 1e3 / took)
