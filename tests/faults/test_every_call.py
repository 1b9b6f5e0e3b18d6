"""Every call that changes a disk, of every kind of operation: killed at it, killed in the middle of it, refused by it.

See fault_host.py. All of them take many minutes; so the longest are sampled here unless MIXFS_FAULTS=all is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ALL = os.environ.get("MIXFS_FAULTS") == "all"
HERE = Path(__file__).parent


def fuse_works() -> bool:
    return os.access("/dev/fuse", os.R_OK | os.W_OK)


needs_fuse = pytest.mark.skipif(not fuse_works(), reason="NOT RUN: a mount needs /dev/fuse")


def host(program: str, *words: object) -> dict[str, int]:
    # `-S` leaves site-packages out and starts a good deal faster; so the path is handed over.
    paths = [str(HERE.parents[1]), str(HERE), *(path for path in sys.path if path)]
    environment = os.environ | {"PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-S", str(HERE / program), *map(str, words)], env=environment, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("mode", ["kill", "torn", "EIO", "ENOSPC"])
@pytest.mark.parametrize(
    ("operation", "at_least"),
    [
        ("create", 30), ("edit", 7), ("delete", 9), ("rebuild", 10), ("without-index", 15), ("import", 60),
        ("repair", 40), ("gc", 30), ("compact", 30), ("restore", 3), ("adopt", 20), ("empty-lost", 10),
    ],
)
def test_an_operation_struck_at_every_call(tmp_path: Path, mode: str, operation: str, at_least: int) -> None:
    step = 1 if ALL else {"import": 9, "repair": 7, "compact": 3, "gc": 3, "adopt": 3}.get(operation, 1)
    assert host("fault_host.py", mode, operation, tmp_path / "attempts", step)["attempts"] >= at_least // step


@needs_fuse
@pytest.mark.mount
@pytest.mark.parametrize("mode", ["kill", "torn", "EIO", "ENOSPC"])
def test_a_mount_struck_at_every_call(tmp_path: Path, mode: str) -> None:
    # Another part of them in each mode.
    step = 1 if ALL else {"kill": 13, "torn": 29, "EIO": 17, "ENOSPC": 23}[mode]
    assert host("fault_mounts.py", mode, tmp_path / "attempts", step)["calls"] >= 100


@needs_fuse
@pytest.mark.mount
def test_whatever_a_handler_raises_is_eio_and_the_mount_lives(tmp_path: Path) -> None:
    assert host("fault_handlers.py", "raise", tmp_path / "mount")["tried"] >= 160


@needs_fuse
@pytest.mark.mount
def test_a_disk_that_hangs_keeps_only_who_reads_from_it(tmp_path: Path) -> None:
    assert host("fault_handlers.py", "hang", tmp_path / "mount")
