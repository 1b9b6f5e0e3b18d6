"""What grows with the library: libraries of 1,000 pictures and of ever more, each measured in turn.

Pictures are of about 120 bytes, so that what is measured is what is known of them. A session has a thousand. Each
library is a column; the ratio of the largest to the smallest is what should be near 1.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from measuring import Mixfs, Report, drop_caches, fill, seconds, tiny_png

from mixfs.library.api import Library

PART = "scale"
A_SESSION = 1000
LOOKUPS = 1000
LISTED = 20_000
IMPORTED = 200


def make_library(mixfs: Mixfs, images: int, a_session: int = A_SESSION) -> None:
    with Library.open(mixfs.library) as library:
        fill(
            library,
            ((f"Session {n // a_session:05}", b"image %06d.png" % n, tiny_png(n)) for n in range(images)),
        )  # fmt: skip


def size_of(folder: Path) -> int:
    return sum(os.stat(path).st_blocks * 512 for path in folder.rglob("*"))


def some_names(images: int, point: Path, a_session: int, count: int, seed: int) -> list[str]:
    """Names all over the library, each once."""
    numbers = random.Random(seed).sample(range(images), min(count, images))
    return [f"{point}/sessions/Session {n // a_session:05}/images/image {n:06}.png" for n in numbers]


def lstat_all(names: list[str]) -> None:
    for name in names:
        os.lstat(name)


def list_sessions(point: Path, images: int) -> int:
    """`find -printf %s` of sessions' images; how many entries."""
    folders = sorted(os.listdir(point / "sessions"))[: -(-LISTED // A_SESSION)]
    paths = [point / "sessions" / folder / "images" for folder in folders]
    done = subprocess.run(["find", *paths, "-type", "f", "-printf", "%s\n"], capture_output=True, check=True)
    return done.stdout.count(b"\n")


def measure(report: Report, mixfs: Mixfs, images: int, turn: int, source: Path) -> None:
    """One round on one library."""
    column = f"{images:,} images"

    def note(name: str, unit: str, value: float) -> None:
        report.note(PART, name, unit, column, value)

    drop_caches()
    # What a daemon reads of a disk is not what is measured here.
    for path in (mixfs.library / "index" / "data.mdb", mixfs.library / "lock"):
        path.read_bytes()
    with contextlib.ExitStack() as stack:
        note("mount ready", "s", seconds(lambda: stack.enter_context(mixfs.mounted())))
        point = mixfs.point
        names = some_names(images, point, A_SESSION, LOOKUPS, turn)
        # The ways there first: a small library has fewer folders to look up.
        for folder in {os.path.dirname(name) for name in names}:
            os.lstat(folder)
        note("lookup", "µs", seconds(lstat_all, names) / len(names) * 1e6)
        began = time.perf_counter()
        listed = list_sessions(point, images)
        note("listing, an entry", "µs", (time.perf_counter() - began) / listed * 1e6)
        began = time.perf_counter()
        shutil.copytree(source, point / "import" / f"Turn {turn}")
        mixfs.wait()
        note("import, a file", "ms", (time.perf_counter() - began) / len(os.listdir(source)) * 1e3)


def measure_memory(report: Report, mixfs: Mixfs, images: int) -> None:
    """A daemon's memory before and after the kernel knows every picture, and when it has forgotten them."""
    column = f"{images:,} images"
    with mixfs.mounted():
        list(os.scandir(mixfs.point / "sessions"))
        before, nodes = mixfs.memory(), mixfs.status("stats")["nodes_remembered"]
        subprocess.run(["find", mixfs.point / "sessions", "-printf", "%s\n"], stdout=subprocess.DEVNULL, check=True)
        after, known = mixfs.memory(), mixfs.status("stats")["nodes_remembered"]
        drop_caches()
        # The daemon looks every ten seconds whether there is anything to give back.
        time.sleep(12)
        forgotten = mixfs.memory()
    report.note(PART, "daemon's own memory", "MiB", column, before / 2**20)
    report.note(PART, "… a node that the kernel remembers", "bytes", column, (after - before) / max(1, known - nodes))
    report.note(PART, "… when the kernel has forgotten", "MiB", column, forgotten / 2**20)


def measure_room(report: Report, mixfs: Mixfs, images: int) -> None:
    """The journal's and the index's bytes, and how long the index takes to be made again."""
    column = f"{images:,} images"
    report.note(PART, "index, an image", "bytes", column, size_of(mixfs.library / "index") / images)
    report.note(PART, "journal, an image", "bytes", column, size_of(mixfs.library / "journal") / images)
    took = seconds(lambda: mixfs("rebuild-index"))
    report.note(PART, "rebuild-index, a million images", "s", column, took / images * 1e6)


def measure_one_session(report: Report, mixfs: Mixfs, images: int) -> None:
    """The first entries of a very long listing."""
    drop_caches()
    with mixfs.mounted():
        folder = mixfs.point / "sessions" / "Session 00000" / "images"
        os.lstat(folder)
        began = time.perf_counter()
        with os.scandir(folder) as scan:
            next(scan)
        took = time.perf_counter() - began
    report.note(PART, "first entries of one session", "ms", f"{images:,} images", took * 1e3)


def prepare(work: Path, counts: list[int], one_session: int) -> tuple[dict[int, Mixfs], Mixfs, Path]:
    """The libraries, the one with one session, and what is imported into each."""
    libraries = {}
    for count in counts:
        libraries[count] = Mixfs(work / f"{count}")
        make_library(libraries[count], count)
    single = Mixfs(work / "one session")
    make_library(single, one_session, a_session=one_session)
    return libraries, single, work / "source"


def new_source(source: Path, turn: int) -> None:
    """Other files each turn, which no library has."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for n in range(IMPORTED):
        (source / f"{n}.png").write_bytes(tiny_png(10**9 + turn * IMPORTED + n))
