"""A disk that is full, and an index that fails under a live mount. Single calls that fail: test_every_call.py."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_kills import needs_strace

sys.path.append(str(Path(__file__).parents[1] / "mount"))
from live import Live, living, needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: a small file system needs root to be mounted")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "live") as live:
        yield live


def fill(path: Path, leave: int) -> None:
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)


def in_session(live: Live) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (live.point / "sessions" / "Trip" / "files").iterdir()}


def waiting(live: Live) -> list[str]:
    names: list[str] = json.loads((live.point / ".mixfs" / "imported").read_bytes())["waiting"]
    return names


@needs_root
def test_a_full_disk_is_enospc_to_the_program_and_nothing_to_the_library(tmp_path: Path, small: Path, live: Live):
    live.library = small / "library"
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    for name in ("one", "two"):
        (trip / name).write_bytes(name.encode() * 1000)
    live.take_in()
    before = in_session(live)
    (tmp_path / "big").write_bytes(os.urandom(2_000_000))

    for leave in (0, 4096, 60_000, 300_000, 1_000_000):
        fill(small / "filler", leave)
        copied = subprocess.run(["cp", tmp_path / "big", trip / "big"], capture_output=True, check=False)
        assert copied.returncode == 1 and b"No space left on device" in copied.stderr
        for attempt in (
            lambda: (trip / "one").write_bytes(b"another"),
            lambda: (live.point / "sessions" / "Other").mkdir(),
            lambda: (trip / "two").rename(trip / "three"),
        ):
            with pytest.raises(OSError) as raised:
                attempt()
            assert raised.value.errno == errno.ENOSPC
        # What is there can be looked at, and what came in part can be removed: that is how room is made.
        assert (trip / "two").read_bytes() == b"two" * 1000
        assert set(os.listdir(trip)) >= {"one", "two", "big"}
        live.take_in()
        assert "big" in waiting(live)
        (trip / "big").unlink()
        assert "big" not in os.listdir(trip)
        assert in_session(live) == before, "what was cut short came into the library"

        (small / "filler").unlink()
        (trip / "one").write_bytes(b"room %d" % leave)
        (trip / "whole").write_bytes(b"%d" % leave)
        live.take_in()
        before |= {"one": b"room %d" % leave, "whole": b"%d" % leave}
        assert in_session(live) == before
        assert waiting(live) == []
    live.stop()
    live.mixfs("fsck")
    assert not list((live.library / "staging").iterdir())


@needs_root
def test_a_program_that_goes_on_when_there_is_room_loses_nothing(small: Path, live: Live):
    live.library = small / "library"
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    data = os.urandom(3_000_000)
    fill(small / "filler", 1_000_000)
    fd, at = os.open(trip / "download", os.O_WRONLY | os.O_CREAT), 0
    refused = 0
    while at < len(data):
        try:
            at += os.pwrite(fd, data[at : at + 100_000], at)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
            (small / "filler").unlink()
    os.close(fd)
    live.take_in()
    assert refused == 1 and in_session(live) == {"download": data}


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_index_that_panics_is_reopened_under_the_mount(live: Live, error: str):
    """LMDB refuses everything after an error on its meta page, until it is opened anew."""
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    for n in range(1, 5):
        # -P: calls on that file only. Each thread's n-th write of data pages or meta page.
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", "/dev/null", "-P", live.library / "index" / "data.mdb",
             "-e", f"inject=pwrite64,pwritev,fdatasync:error={error}:when={n}", "-p", str(live.pid)],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert tracer.stderr is not None
        try:
            assert b"attached" in tracer.stderr.readline()
            for i in range(4):
                (trip / f"{n}-{i}").write_bytes(b"%d %d" % (n, i))
                # An index that fails after the journal has it is no failure; nor is the mount's any of it.
                live.take_in()
                assert (trip / f"{n}-{i}").read_bytes() == b"%d %d" % (n, i)
        finally:
            tracer.terminate()
            tracer.wait()
            tracer.stderr.close()
    assert in_session(live) == {f"{n}-{i}": b"%d %d" % (n, i) for n in range(1, 5) for i in range(4)}
    live.stop()
    live.mixfs("fsck")


