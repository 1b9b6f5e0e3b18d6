"""Cuts the power of a disk on which a library is at work, and looks at what is left: `power_host.py ...`.

    power_host.py import|mount|restart|replay whole|blob|directory|order journal|nojournal CUTS SEED DIRECTORY

The disk is an image on an XFS of its own, mounted through a loop device with direct I/O. A `cp --reflink` of the image
is what the block device holds at that instant: what the inner file system has only in its page cache is not in it,
and XFS waits for the writes under way before it clones. That is what a power cut leaves on a disk without a volatile
cache. The inner file system is ext4, with its journal, or without: then nothing but an fsync makes a name durable,
where a journal makes all names durable with whatever is synced next.

The third word names what is left out: nothing, the fsync of files, that of directories, or the fdatasync before the
index's commit and the acknowledgement. Only this process's children are changed for that.

Prints one line of JSON: how many cuts were made, and what was wrong in those where something was. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_host import ended, fork, sha256
from fault_mounts import Mounted, write

from mixfs.ids import Digest
from mixfs.journal.files import write_durably
from mixfs.library import fsck
from mixfs.library.api import Library
from mixfs.records import Placement


def run(*words: object, ok: tuple[int, ...] = (0,)) -> str:
    ran = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode in ok, (words, ran.stdout, ran.stderr)
    return ran.stdout.strip()


class Disk:
    """An ext4 on a loop device on an image on an XFS on a loop device."""

    def __init__(self, directory: Path, journal: bool) -> None:
        self.outer, self.point, self.cut_point = directory / "xfs", directory / "disk", directory / "cut"
        for path in (self.outer, self.point, self.cut_point):
            path.mkdir(parents=True)
        self.stack = contextlib.ExitStack()
        try:
            backing = directory / "xfs.img"
            run("truncate", "--size=2G", backing)
            run("mkfs.xfs", "-q", "-m", "reflink=1", backing)
            self._mount(self._loop(backing), self.outer)
            self.image = self.outer / "disk.img"
            run("truncate", "--size=512M", self.image)
            features = [] if journal else ["-O", "^has_journal"]
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", *features, self.image)
            self.device = self._loop(self.image, "--direct-io=on")
            self._mount(self.device, self.point)
        except BaseException:
            self.close()
            raise

    def _loop(self, image: Path, *options: str) -> str:
        device = run("losetup", "--find", "--show", *options, image)
        self.stack.callback(run, "losetup", "--detach", device)
        return device

    def _mount(self, device: str, point: Path) -> None:
        run("mount", device, point)
        # Lazily: a test that failed may hold a file open, and is not to leave the mount behind.
        self.stack.callback(run, "umount", "--lazy", point)

    def cut(self, number: int) -> Path:
        """What is on the disk at this instant."""
        path = self.outer / f"cut-{number}.img"
        run("cp", "--reflink=always", self.image, path)
        return path

    @contextlib.contextmanager
    def after(self, image: Path) -> Iterator[Path]:
        """The cut mounted as at the next start: with the recovery of its file system."""
        # 1: it mended something. Without a journal that is how such a disk is started.
        run("e2fsck", "-fy", image, ok=(0, 1))
        device = run("losetup", "--find", "--show", image)
        try:
            run("mount", device, self.cut_point)
            # The next start is another boot.
            (self.cut_point / "library" / "index" / "boot").unlink(missing_ok=True)
            try:
                yield self.cut_point
            finally:
                run("umount", self.cut_point)
        finally:
            run("losetup", "--detach", device)
            image.unlink()

    def close(self) -> None:
        self.stack.close()


def leave_out(what: str) -> None:
    """Make calls of this process do nothing."""
    fsync = os.fsync

    def some(fd: int) -> None:
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        if what != ("directory" if directory else "blob"):
            fsync(fd)

    if what == "order":
        os.fdatasync = lambda fd: None  # type: ignore[assignment]
    elif what != "whole":
        os.fsync = some  # type: ignore[assignment]


# -- two processes that import


def importing(root: Path, tag: int, seed: int, tell: int) -> None:
    rng = random.Random(seed * 7 + tag)
    with Library.open(root) as library:
        number = 0
        while True:
            data = rng.randbytes(rng.choice((200, 5000, 70_000)))
            placement = library.import_bytes(data, f"{tag}-{number}.bin")
            os.write(tell, f"{placement.digest.hex()} {placement.id}\n".encode())
            number += 1


def imports(disk: Disk, what: str, cuts: int, seed: int) -> list[list[str]]:
    root, rng = disk.point / "library", random.Random(seed)
    assert ended(fork(lambda: Library.open(root).close())) == 0
    run("sync", "-f", disk.point)
    reading, writing = os.pipe()
    taken: list[tuple[Path, list[str]]] = []

    def work(tag: int) -> None:
        leave_out(what)
        importing(root, tag, seed, writing)

    workers = [fork(lambda tag=tag: work(tag)) for tag in range(2)]  # type: ignore[misc]
    try:
        with os.fdopen(reading) as pipe:
            acknowledged: list[str] = []
            for number in range(cuts):
                for _ in range(rng.randint(1, 12)):
                    acknowledged.append(pipe.readline().rstrip("\n"))
                taken.append((disk.cut(number), list(acknowledged)))
    finally:
        for pid in workers:
            os.kill(pid, 9)
            ended(pid)
        os.close(writing)
    return [problems_of(disk, image, lambda point, told=told: look_at_imports(point, told)) for image, told in taken]  # type: ignore[misc]


def look_at_imports(point: Path, acknowledged: list[str]) -> None:
    with Library.open(point / "library", create=False) as library:
        with library.read() as view:
            there = {placement.id for placement in view.records(Placement)}
        for line in acknowledged:
            digest, placement_id = line.split()
            assert placement_id in there, "a reported import is lost"
            assert sha256(library.read_image(Digest(bytes.fromhex(digest)))) == digest
        library.import_bytes(b"afterwards", "afterwards.bin")
    report = fsck.check(point / "library")
    assert report.clean, report.problems[0]


# -- a program that writes into a mount, and fsyncs


def mounts(disk: Disk, what: str, cuts: int, seed: int, directory: Path) -> list[list[str]]:
    rng = random.Random(seed)
    taken: list[tuple[Path, dict[str, str]]] = []
    place = directory / "program"
    place.mkdir()
    mounted = Mounted(place, before=lambda: leave_out(what), root=disk.point / "library")
    try:
        trip = mounted.point / "import" / "Trip"
        trip.mkdir()
        run("sync", "-f", disk.point)
        synced: dict[str, str] = {}
        for number in range(cuts):
            for _ in range(rng.randint(1, 4)):
                name, data = f"{len(synced)}.bin", rng.randbytes(rng.choice((200, 5000, 70_000)))
                write(trip / name, data, sync=True)
                synced[name] = sha256(data)
            if rng.random() < 0.5:
                mounted.sync()
            taken.append((disk.cut(number), dict(synced)))
    finally:
        mounted.end()
    return [
        problems_of(disk, image, lambda point, told=told: look_at_mount(point, told, directory))  # type: ignore[misc]
        for image, told in taken
    ]


def look_at_mount(point: Path, synced: dict[str, str], directory: Path) -> None:
    place = directory / "again"
    place.mkdir(exist_ok=True)
    mounted = Mounted(place, root=point / "library")
    try:
        trip = mounted.point / "import" / "Trip"
        for name, digest in synced.items():
            assert sha256((trip / name).read_bytes()) == digest, f"{name} was fsynced and is not what it was"
        write(trip / "afterwards", b"afterwards")
        mounted.sync()
    finally:
        mounted.end()
    report = fsck.check(point / "library")
    assert report.clean, report.problems[0]


# -- a crash, a start that takes up what was left, and then the power cut


def restarts(disk: Disk, what: str, cuts: int, seed: int, directory: Path) -> list[list[str]]:
    """A daemon killed, and the power cut as soon as the next one answers: what it took over is durable by then."""
    rng, synced = random.Random(seed), {}  # type: ignore[var-annotated]
    taken: list[tuple[Path, dict[str, str]]] = []
    place, root = directory / "program", disk.point / "library"
    place.mkdir()
    mounted = Mounted(place, before=lambda: leave_out(what), root=root)
    try:
        trip = mounted.point / "import" / "Trip"
        trip.mkdir()
        for number in range(cuts):
            # A temporary name: so it stays in staging, from one mount to the next.
            name, data = f"{number}.part", rng.randbytes(5000)
            write(trip / name, data, sync=True)
            synced[name] = sha256(data)
            os.kill(mounted.pid, 9)
            mounted.end()
            mounted = Mounted(place, before=lambda: leave_out(what), root=root)
            # Another program's fsync, which makes renames durable, and not the bytes of other files.
            write_durably(disk.point / "other", b"")
            taken.append((disk.cut(number), dict(synced)))
    finally:
        mounted.end()
    return [
        problems_of(disk, image, lambda point, told=told: look_at_mount(point, told, directory))  # type: ignore[misc]
        for image, told in taken
    ]


def replays(disk: Disk, what: str, cuts: int, seed: int) -> list[list[str]]:
    """A process killed between its append and the fdatasync, and the power cut as soon as another has caught up."""
    root = disk.point / "library"
    taken: list[Path] = []
    for number in range(cuts):

        def die(number: int = number) -> None:
            with Library.open(root) as library:
                library.create_session(f"acknowledged {number}")
                os.fdatasync = lambda fd: os.kill(os.getpid(), 9)  # type: ignore[assignment]
                library.create_session(f"cut short {number}")

        def open_again() -> None:
            leave_out(what)
            with Library.open(root) as library:
                # A commit of derived rows alone, as thumbnails make them: it syncs the index and not the journal.
                library.store.annotate_index(lambda view: ({b"h" + bytes(32): b"\x82\x00\x00"}, []))

        assert ended(fork(die)) == -9 and ended(fork(open_again)) == 0
        taken.append(disk.cut(number))
    return [problems_of(disk, image, lambda point: look_at_imports(point, [])) for image in taken]


def problems_of(disk: Disk, image: Path, look: Callable[[Path], None]) -> list[str]:
    """What was wrong after a cut; looked at in a fork, which opens the library."""
    with disk.after(image) as point:
        reading, writing = os.pipe()

        def tell() -> None:
            try:
                look(point)
            except BaseException as error:  # noqa: BLE001 - whatever it is, that is the finding
                words = traceback.format_exc() if os.environ.get("POWER_TRACE") else f"{type(error).__name__}: {error}"
                os.write(writing, words.encode()[:4000])

        pid = fork(tell)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            words = pipe.read()
        assert ended(pid) == 0
    return [words] if words else []


def main(kind: str, what: str, journal: str, cuts: int, seed: int, directory: Path) -> dict[str, Any]:
    disk = Disk(directory, journal == "journal")
    try:
        if kind in ("import", "replay"):
            found = (imports if kind == "import" else replays)(disk, what, cuts, seed)
        else:
            found = (mounts if kind == "mount" else restarts)(disk, what, cuts, seed, directory)
    finally:
        disk.close()
    return {"cuts": len(found), "bad": sum(map(bool, found)), "problems": [words for each in found for words in each]}


if __name__ == "__main__":
    kind_, what_, journal_, cuts_, seed_, directory_ = sys.argv[1:]
    print(json.dumps(main(kind_, what_, journal_, int(cuts_), int(seed_), Path(directory_))))
