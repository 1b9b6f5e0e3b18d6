"""A daemon, imports and `rebuild-index` on one library, killed at any moment, with index/ deleted meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_host import rebind
from test_every_call import ALL

sys.path.append(str(Path(__file__).parents[1] / "mount"))
from live import Live, environment, living, needs_fuse, python, until

from mixfs.library import fsck
from mixfs.library.api import Library
from mixfs.records import Placement

pytestmark = [pytest.mark.mount, needs_fuse]

# Imports without end; a line for each that was reported. The blobs' names are their digests.
IMPORTER = """
import os, sys
from mixfs.library.api import Library
tag, n = sys.argv[2], 0
with Library.open(sys.argv[1]) as library:
    while True:
        data = f"{tag} {n} ".encode() * (1 + n % 300)
        os.write(1, (library.import_bytes(data, f"{tag}-{n}.bin").digest.hex() + "\\n").encode())
        n += 1
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "live") as live:
        yield live


class Importer:
    """A process that imports; `reported` grows while it lives, and is complete once it is dead."""

    def __init__(self, library: Path, tag: str) -> None:
        self.process = subprocess.Popen(
            python("-c", IMPORTER, library, tag), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.reported: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            self.reported.extend(line.decode().rstrip("\n") for line in pipe if line.endswith(b"\n"))

    def kill(self) -> list[str]:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        return self.reported


class Rebuilder:
    """`mixfs rebuild-index`, to be killed if it isn't done by then."""

    def __init__(self, library: Path) -> None:
        self.process = subprocess.Popen(
            python("-m", "mixfs.cli.main", "rebuild-index", "--library", library), env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> list[str]:
        self.process.kill()
        assert self.process.wait() in (0, -signal.SIGKILL)
        return []


def check(root: Path, reported: set[str]) -> None:
    with Library.open(root, create=False) as library:
        with library.read() as view:
            there = {placement.digest.hex() for placement in view.records(Placement)}
        lost = reported - there
        assert not lost, f"{len(lost)} of {len(reported)} acknowledged imports are lost"
        problems = library.store.problems.read()
    assert b'"journal-damaged"' not in problems
    report = fsck.check(root)
    assert report.clean, report.problems


def test_a_storm_of_kills_among_a_daemon_imports_and_rebuilds(tmp_path: Path, live: Live) -> None:
    chance = random.Random(11)
    reported: set[str] = set()
    closed: dict[str, bytes] = {}
    live.start()
    daemon_dead = False
    for round_ in range(60 if ALL else 4):
        if daemon_dead:
            live.start()
            daemon_dead = False
        others = [Importer(live.library, f"{round_}-{n}") for n in range(2)]
        rebuilder = Rebuilder(live.library)
        trip = live.point / "import" / "Trip"
        trip.mkdir(exist_ok=True)
        until(lambda others=others: all(len(other.reported) > 3 for other in others), "imports go on")  # type: ignore[misc]
        for n in range(chance.randint(1, 30)):
            name, data = f"{round_}-{n}.bin", b"mount %d %d" % (round_, n) * 50
            (trip / name).write_bytes(data)
            closed[name] = data
        if round_ % 4 == 1:
            # Whoever is at work goes on, and loses nothing: the journal is the truth.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(live.library / "index")
        victims = [others[0], rebuilder]
        chance.shuffle(victims)
        for victim in victims:
            reported.update(victim.kill())
        if chance.random() < 0.5:
            live.kill()
            daemon_dead = True
        else:
            live.take_in()
        reported.update(others[1].kill())
    if daemon_dead:
        live.start()
    live.take_in()
    files = live.point / "sessions" / "Trip" / "files"
    until(lambda: len(os.listdir(files)) == len(closed), "the mount shows what everybody did")
    assert {path.name: path.read_bytes() for path in files.iterdir()} == closed
    live.stop()
    check(live.library, reported | {hashlib.sha256(data).hexdigest() for data in closed.values()})


def test_the_index_deleted_under_a_live_daemon(live: Live) -> None:
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    other = Importer(live.library, "other")
    for n in range(5):
        (trip / f"before-{n}").write_bytes(b"before %d" % n)
        live.take_in()
        shutil.rmtree(live.library / "index", ignore_errors=True)
        assert (trip / f"before-{n}").read_bytes() == b"before %d" % n
        (trip / f"after-{n}").write_bytes(b"after %d" % n)
        live.take_in()
    expected = {f"{word}-{n}": f"{word} {n}".encode() for word in ("before", "after") for n in range(5)}
    reported = other.kill()
    assert {path.name: path.read_bytes() for path in trip.iterdir()} == expected
    live.stop()
    check(live.library, {*reported, *(hashlib.sha256(data).hexdigest() for data in expected.values())})


@pytest.mark.parametrize("index", ["kept", "deleted"])
def test_a_flipped_bit_in_a_segment_costs_its_item_and_no_other(tmp_path: Path, index: str) -> None:
    """In each item but the last, in turn: reported, never cut, every other item read; new commits go behind it."""
    template = tmp_path / "template"
    with Library.open(template) as library:
        for n in range(6):
            library.create_session(f"session {n}")
        items = [item for item in library.store.journal.read() if item.payload is not None]
        segment = next(library.store.journal.sizes())[0].relative_to(template)
    chance = random.Random(3)
    for number, item in enumerate(items[:-1]):
        root = tmp_path / f"{number}"
        shutil.copytree(template, root)
        rebind(root)
        data = bytearray((root / segment).read_bytes())
        at = chance.randrange(item.start.offset, item.end.offset)
        data[at] ^= 1 << chance.randrange(8)
        (root / segment).write_bytes(data)
        if index == "deleted":
            shutil.rmtree(root / "index")
        for title in ("one", "two"):
            with Library.open(root) as library:
                library.create_session(title)
        with Library.open(root) as library:
            library.store.rebuild_index()
            titles = {session.title for session in library.sessions()}
            problems = library.store.problems.read()
        assert titles == {"one", "two", *(f"session {n}" for n in range(6) if n != number)}
        assert b'"journal-damaged"' in problems and b'"journal-tail-cut"' not in problems
        assert (root / segment).read_bytes()[: len(data)] == data, "bytes of a damaged segment were changed"
        assert (root / segment).stat().st_size > len(data), "new commits go on in the same journal"
        assert not fsck.check(root).clean
