"""A library of every format version, as it was made then, opens and shows what it showed (promise 7)."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs.library import fsck
from mixfs.library.api import Library
from mixfs.library.place import FORMAT_VERSION

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "mount"))

from live import Live, everything, living, needs_fuse  # noqa: E402

VERSIONS = sorted(path.stem for path in HERE.glob("*.tar"))
# These say when this library was made, which a copy doesn't know.
OWN = ("README.txt", ".trackerignore")


def thaw(version: str, to: Path) -> None:
    to.mkdir(mode=0o700)
    with tarfile.open(HERE / f"{version}.tar") as tar:
        tar.extractall(to, filter="fully_trusted")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path) as live:
        yield live


def test_the_version_at_hand_is_frozen() -> None:
    assert str(FORMAT_VERSION) in VERSIONS


@pytest.mark.mount
@needs_fuse
@pytest.mark.parametrize("version", VERSIONS)
def test_it_mounts_and_shows_what_it_showed(live: Live, version: str) -> None:
    thaw(version, live.library)
    live.start()
    wanted = json.loads((HERE / f"{version}.json").read_text())
    found = {os.fsdecode(name): list(what) for name, what in everything(live.point).items()}
    for name in OWN:
        del wanted[name], found[name]
    # Views that came since show something of it too.
    then = {name.partition("/")[0] for name in wanted}
    assert {name: what for name, what in found.items() if name.partition("/")[0] in then} == wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_it_opens_and_is_whole(tmp_path: Path, version: str) -> None:
    thaw(version, tmp_path / "library")
    with Library.open(tmp_path / "library") as library:
        titles = [session.title for session in library.sessions()]
        assert titles == ["Trip", "Inbox", "A canvas, retitled"]
        canvas = library.find_session("A canvas, retitled")
        unknown = next(entry for entry in library.entries(canvas.id) if entry.id == "e2").unknown
        assert unknown == {99: "kept"}
        for session in library.sessions():
            for placement in library.placements(session.id):
                library.read_image(placement.digest)
    report = fsck.check(tmp_path / "library")
    assert report.clean, report.problems
