"""Thumbnails a second and core: MixFS's own maker, as its workers run it, against `vipsthumbnail` on the same files.

Both keep to one core, make PNGs of 256 pixels, and are given many files at once, so that starting costs little. Files
are in the page cache.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

from measuring import MIXFS, Report, png, run, seconds

PART = "thumbnails"
SIDE = 256
TIMES = 8
VIPS = "vipsthumbnail"
MAKE = """
import sys
from mixfs.media.thumbnails import make_thumbnail
size, folder, *sources = sys.argv[1:]
for source in sources:
    with open(f"{folder}/{source.rpartition('/')[2]}.png", "wb") as file:
        file.write(make_thumbnail(source, int(size)))
"""


def make_data(data: Path, count: int, side: int) -> dict[str, list[Path]]:
    """Pictures of three kinds: noise as PNG, and something like a photograph as PNG and as JPEG."""
    from PIL import Image

    data.mkdir(parents=True)
    kinds: dict[str, list[Path]] = {"PNG, noise": [], "PNG": [], "JPEG": []}
    for number in range(count):
        rough = Image.frombytes("RGB", (32, 32), random.Random(number).randbytes(32 * 32 * 3))
        photo = rough.resize((side, side), Image.Resampling.BICUBIC)
        noise = Image.frombytes("L", (side, side), random.Random(-number).randbytes(side * side))
        photo = Image.blend(photo, Image.merge("RGB", (noise, noise, noise)), 0.03)
        for kind, ending, options in (("PNG", "png", {"compress_level": 1}), ("JPEG", "jpg", {"quality": 90})):
            path = data / f"{number}.{ending}"
            photo.save(path, **options)
            kinds[kind].append(path)
        path = data / f"{number}-noise.png"
        path.write_bytes(png(number, side, side))
        kinds["PNG, noise"].append(path)
    return kinds


def _on_one_core(core: str, command: list[str]) -> None:
    run("taskset", "-c", core, *command, env={"VIPS_CONCURRENCY": "1", "PYTHONPATH": os.pathsep.join(sys.path)})


def measure(report: Report, kinds: dict[str, list[Path]], work: Path) -> None:
    """One round; each picture several times, because a worker starts once for thousands."""
    core = str(min(os.sched_getaffinity(0)))
    for kind, paths in kinds.items():
        many = [str(path) for path in paths] * TIMES
        for who in (MIXFS, VIPS):
            if who == VIPS and shutil.which(VIPS) is None:
                continue
            work.mkdir(parents=True)
            if who == MIXFS:
                command = [sys.executable, "-c", MAKE, str(SIDE), str(work), *many]
            else:
                command = [VIPS, "--size", f"{SIDE}x{SIDE}>", "-o", f"{work}/%s.png", *many]
            took = seconds(_on_one_core, core, command)
            if len(list(work.iterdir())) != len(paths):
                raise RuntimeError(f"{who} made too few thumbnails")
            report.note(PART, kind, "files/s and core", who, len(many) / took)
            shutil.rmtree(work)
