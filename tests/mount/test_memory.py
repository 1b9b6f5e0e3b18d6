"""What a daemon holds after others worked beside it: imports, new indexes, compactions, gc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import png
from live import Live, living, needs_fuse, until

pytestmark = [pytest.mark.mount, needs_fuse]

ROUNDS = 2
# A daemon has 30 MB of its own when it begins.
MOST = 120 << 20


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "home") as made:
        yield made


def maps(pid: int) -> tuple[int, list[str]]:
    """How many maps of an index there are, and those whose file is gone."""
    lines = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "data.mdb" in line]
    return len(lines), [line for line in lines if "(deleted)" in line]


def private(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def test_work_beside_it_leaves_nothing_behind(live: Live, tmp_path: Path) -> None:
    live.start()
    subprocess.run(["ls", "-lR", live.point], stdout=subprocess.DEVNULL, check=True)
    descriptors = len(os.listdir(f"/proc/{live.pid}/fd"))
    for number in range(ROUNDS):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        for at in range(40):
            (folder / f"{at}.png").write_bytes(png())
        live.mixfs("import", folder)
        until(lambda folder=folder: (live.point / "sessions" / folder.name).exists(), "the mount sees the import")
        subprocess.run(["ls", "-lR", live.point], stdout=subprocess.DEVNULL, check=True)
        for words in (["rebuild-index"], ["compact"], ["gc"], ["export", folder.name, tmp_path / f"out{number}"]):
            live.mixfs(*words)
        until(lambda: maps(live.pid) == (1, []), f"it has let go of the old index: {maps(live.pid)}")
    assert private(live.pid) < MOST
    # Two workers at most, whose pipes are held while they wait for work.
    until(lambda: len(os.listdir(f"/proc/{live.pid}/fd")) <= descriptors + 16, "descriptors are given back")
