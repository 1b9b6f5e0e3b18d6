"""Browsing: many small files in one folder, pictures, and one large file, through each peer's mount, cold and warm.

Cold: the page cache, dentries and inodes are dropped first (root only); what a peer's process keeps for itself stays.
Warm: the same once more at once.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from measuring import Report, drop_caches, make_images, png, seconds, tiny_png
from peers import Peer

PART = "browse"
LSTATS = 10_000
PIECE = 1 << 17
"""Bytes of one read(2)."""


def make_data(data: Path, small: int, images: int, side: int, large_bytes: int) -> None:
    (data / "small").mkdir(parents=True)
    for number in range(small):
        (data / "small" / f"{number:06}.png").write_bytes(tiny_png(number))
    make_images(data / "images", images, side, side)
    (data / "large").mkdir()
    with open(data / "large" / "large.bin", "wb") as file:
        piece = png(-1, 512, 512)
        for number in range(large_bytes // len(piece) + 1):
            file.write((number.to_bytes(8, "big") + piece)[: large_bytes - file.tell()])


def find(folder: Path) -> None:
    """Names and sizes of all: a listing, and what it says of each."""
    subprocess.run(["find", folder, "-printf", "%s\n"], stdout=subprocess.DEVNULL, check=True)


def lstat_all(folder: str, names: Iterable[str]) -> None:
    """As find, ls and rsync do: from the open folder, so that nobody's depth below the mount point counts."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in names:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)


def read_all(paths: Iterable[str], at_most: int = 1 << 62) -> None:
    """Open, read in pieces to the end (or so many bytes), close."""
    buffer = bytearray(min(PIECE, at_most))
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            left = at_most
            while left > 0 and (count := os.readv(fd, [buffer])):
                left -= count
        finally:
            os.close(fd)


def by_four(paths: list[str]) -> None:
    """`read_all` by four processes, each every fourth file."""
    children = []
    for first in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                read_all(paths[first::4])
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in children]
    if any(ends):
        raise RuntimeError("a reader failed")


def measure(report: Report, peer: Peer) -> None:
    """One round of one peer."""

    def note(name: str, unit: str, amount: float, work: Callable[..., object], *arguments: object) -> None:
        """Cold and then warm, in `amount` of `unit` a second."""
        for state in ("cold", "warm"):
            if state == "cold":
                drop_caches()
            report.note(PART, f"{name}, {state}", f"{unit}/s", peer.name, amount / seconds(work, *arguments))

    with peer.mounted():
        small, images, large = (peer.folder(name) for name in ("small", "images", "large"))
        names = sorted(os.listdir(small))
        some = names[:: max(1, len(names) // LSTATS)][:LSTATS]
        note("find with sizes", "k entries", len(names) / 1e3, find, small)

        # Names come from a listing right before, as any program has them: the listing is not in the time.
        drop_caches()
        os.listdir(small)
        for state in ("cold", "warm"):
            rate = len(some) / 1e3 / seconds(lstat_all, small, some)
            report.note(PART, f"lstat of {LSTATS:,}, {state}", "k entries/s", peer.name, rate)
        # Nothing was listed: each name is looked up by itself.
        drop_caches()
        rate = len(some) / 1e3 / seconds(lstat_all, small, some)
        report.note(PART, f"lstat of {LSTATS:,} that were not listed, cold", "k entries/s", peer.name, rate)

        pictures = [f"{images}/{name}" for name in sorted(os.listdir(images))]
        megabytes = sum(os.stat(path).st_size for path in pictures) / 1e6
        note("images, one process", "MB", megabytes, read_all, pictures)
        note("images, four processes", "MB", megabytes, by_four, pictures)
        note("first 4 KiB of each image", "k files", len(pictures) / 1e3, read_all, pictures, 4096)
        file = f"{large}/large.bin"
        note("large file, sequential", "MB", os.stat(file).st_size / 1e6, read_all, [file])
