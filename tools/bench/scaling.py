"""What grows with the library: libraries of 1,000 pictures and of ever more, each measured in turn.

Pictures are of about 120 bytes, so that what is measured is what is known of them. A session has a thousand, in one
library ten. Each library is a column; the ratio of the largest to the smallest is what should be near 1.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from measuring import Mixfs, Report, drop_caches, fill, run, seconds, tiny_png

from mixfs.library.api import Library

PART = "scale"
A_SESSION, A_SMALL_SESSION = 1000, 10
LOOKUPS = 1000
LISTED = 20_000
IMPORTED = 200


class Shape(NamedTuple):
    """A library: how many pictures, and how many of them in each session."""

    images: int
    a_session: int = A_SESSION

    @property
    def column(self) -> str:
        crowd = f" in {self.images // self.a_session:,} sessions" if self.a_session == A_SMALL_SESSION else ""
        return f"{self.images:,} images{crowd}"


def make_library(mixfs: Mixfs, shape: Shape) -> None:
    with Library.open(mixfs.library) as library:
        fill(
            library,
            ((f"Session {n // shape.a_session:05}", b"image %06d.png" % n, tiny_png(n)) for n in range(shape.images)),
        )  # fmt: skip


def size_of(folder: Path) -> int:
    return sum(os.stat(path).st_blocks * 512 for path in folder.rglob("*"))


def some_names(shape: Shape, point: Path, count: int, seed: int) -> list[str]:
    """Names all over the library, each once."""
    numbers = random.Random(seed).sample(range(shape.images), min(count, shape.images))
    return [f"{point}/sessions/Session {n // shape.a_session:05}/images/image {n:06}.png" for n in numbers]


def lstat_all(names: list[str]) -> None:
    for name in names:
        os.lstat(name)


def list_sessions(shape: Shape, point: Path) -> int:
    """`find -printf %s` of sessions' images; how many entries."""
    folders = sorted(os.listdir(point / "sessions"))[: -(-LISTED // shape.a_session)]
    paths = [point / "sessions" / folder / "images" for folder in folders]
    done = subprocess.run(["find", *paths, "-type", "f", "-printf", "%s\n"], capture_output=True, check=True)
    return done.stdout.count(b"\n")


def list_view(top: Path, most: int) -> int:
    """Look at the first entries of a view's folders, that many files at most; returns how many."""
    done, folders = 0, [top]
    while folders and done < most:
        with os.scandir(folders.pop()) as scan:
            for entry in scan:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    entry.stat(follow_symlinks=False)
                    done += 1
                if done == most:
                    break
    return done


def measure(report: Report, mixfs: Mixfs, shape: Shape, turn: int, source: Path) -> None:
    """One round on one library."""

    def note(name: str, unit: str, value: float) -> None:
        report.note(PART, name, unit, shape.column, value)

    drop_caches()
    # What is read of a disk is not what is measured here: neither the library, nor the program.
    for path in (mixfs.library / "index" / "data.mdb", mixfs.library / "lock"):
        path.read_bytes()
    run(sys.executable, "-P", "-c", "import mixfs.cli.app, mixfs.cli.mount, mixfs.daemon.run", env=mixfs.env)
    with contextlib.ExitStack() as stack:
        note("mount ready", "s", seconds(lambda: stack.enter_context(mixfs.mounted())))
        point = mixfs.point
        names = some_names(shape, point, LOOKUPS, turn)
        # The ways there first: a small library has fewer folders to look up.
        for folder in {os.path.dirname(name) for name in names}:
            os.lstat(folder)
        note("lookup", "µs", seconds(lstat_all, names) / len(names) * 1e6)
        began = time.perf_counter()
        listed = list_sessions(shape, point)
        note("listing, an entry", "µs", (time.perf_counter() - began) / listed * 1e6)
        began = time.perf_counter()
        listed = list_view(point / "by-date", LISTED)
        note("view by date, an entry", "µs", (time.perf_counter() - began) / listed * 1e6)
        began = time.perf_counter()
        shutil.copytree(source, point / "import" / f"Turn {turn}")
        mixfs.wait()
        note("import, a file", "ms", (time.perf_counter() - began) / len(os.listdir(source)) * 1e3)


def measure_memory(report: Report, mixfs: Mixfs, shape: Shape) -> None:
    """A daemon's memory before and after the kernel knows every picture, and when it has forgotten them."""
    with mixfs.mounted():
        list(os.scandir(mixfs.point / "sessions"))
        before, nodes = mixfs.memory(), mixfs.status("stats")["nodes_remembered"]
        subprocess.run(["find", mixfs.point / "sessions", "-printf", "%s\n"], stdout=subprocess.DEVNULL, check=True)
        after, known = mixfs.memory(), mixfs.status("stats")["nodes_remembered"]
        drop_caches()
        # The daemon looks every ten seconds whether there is anything to give back.
        time.sleep(12)
        forgotten = mixfs.memory()
    report.note(PART, "daemon's own memory", "MiB", shape.column, before / 2**20)
    a_node = (after - before) / max(1, known - nodes)
    report.note(PART, "… a node that the kernel remembers", "bytes", shape.column, a_node)
    report.note(PART, "… when the kernel has forgotten", "MiB", shape.column, forgotten / 2**20)


def measure_room(report: Report, mixfs: Mixfs, shape: Shape) -> None:
    """The journal's and the index's bytes, and how long the index takes to be made again."""
    column, images = shape.column, shape.images
    report.note(PART, "index, an image", "bytes", column, size_of(mixfs.library / "index") / images)
    report.note(PART, "journal, an image", "bytes", column, size_of(mixfs.library / "journal") / images)
    took = seconds(lambda: mixfs("rebuild-index"))
    report.note(PART, "rebuild-index, a million images", "s", column, took / images * 1e6)


def measure_one_session(report: Report, mixfs: Mixfs, shape: Shape) -> None:
    """The first entries of a very long listing."""
    drop_caches()
    with mixfs.mounted():
        folder = mixfs.point / "sessions" / "Session 00000" / "images"
        os.lstat(folder)
        began = time.perf_counter()
        with os.scandir(folder) as scan:
            next(scan)
        took = time.perf_counter() - began
    report.note(PART, "first entries of one session", "ms", shape.column, took * 1e3)


def prepare(work: Path, shapes: list[Shape], one_session: int) -> tuple[dict[Shape, Mixfs], tuple[Shape, Mixfs]]:
    """The libraries, and the one with one session."""
    libraries = {shape: Mixfs(work / f"{shape.images} {shape.a_session}") for shape in shapes}
    single = Shape(one_session, one_session), Mixfs(work / "one session")
    for shape, mixfs in (*libraries.items(), single):
        make_library(mixfs, shape)
    return libraries, single


def new_source(source: Path, turn: int) -> None:
    """Other files each turn, which no library has."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for n in range(IMPORTED):
        (source / f"{n}.png").write_bytes(tiny_png(10**9 + turn * IMPORTED + n))
