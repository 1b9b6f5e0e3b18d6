"""A mount with `-o ro`, and every command that reads, change nothing: not a byte, not a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import png
from live import Live, environment, living, needs_fuse, python, until

pytestmark = [pytest.mark.mount, needs_fuse]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A library that a killed mount left: with a file and a document that were closed and not taken in."""
    with living(tmp_path / "home") as made:
        made.start()
        trip = made.point / "import" / "Trip"
        trip.mkdir()
        (trip / "a.png").write_bytes(png())
        made.take_in()
        (made.point / "sessions" / "Trip" / "images" / "b.png").write_bytes(png())
        made.take_in()
        (made.point / "sessions" / "Trip" / "images" / "b.png").unlink()
        (trip / "waits.part").write_bytes(png())
        made.kill()
        yield made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("some text")
    return path


def contents(root: Path) -> dict[str, tuple[int, int, str]]:
    """Each file's and folder's mode and time, and what is in it."""
    out = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names, "."]:
            path = Path(folder, name)
            status = path.lstat()
            data = path.read_bytes() if path.is_file() else b""
            out[str(path)] = status.st_mode, status.st_mtime_ns, hashlib.sha256(data).hexdigest()
    return out


def browse(point: Path) -> dict[str, int]:
    """Read and list all that a mount shows; sizes of what was read."""
    out = {}
    for folder, folders, names in os.walk(point):
        for name in [*folders, *names]:
            os.stat(os.path.join(folder, name))
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                out[os.path.relpath(os.path.join(folder, name), point)] = len(file.read())
    return out


def test_a_read_only_mount_changes_nothing(live: Live) -> None:
    before = contents(live.library)
    live.start("ro")
    seen = browse(live.point)
    assert "sessions/Trip/images/a.png" in seen and "trash/Trip/b.png" in seen
    with pytest.raises(OSError, match="Read-only"):
        (live.point / "import" / "new.png").write_bytes(png())
    # A thumbnail that is not there is not made.
    assert not (live.point / "sessions" / "Trip" / "thumbnails" / "none.png.png").exists()
    live.take_in()
    done = live.mixfs("wait", live.point, check=False)
    assert done.returncode == 1 and "read-only" in done.stderr and "left (1)" in done.stderr and done.stdout == ""
    live.stop()
    assert contents(live.library) == before
    live.start()
    assert (live.point / "import" / "Trip" / "waits.part").exists(), "the next mount that may write takes it up"


def test_commands_that_read_change_nothing(live: Live, tmp_path: Path) -> None:
    before = contents(live.library)
    for words in (
        ["list"], ["sessions"], ["stats"], ["stats", "--by", "model"], ["show", "Trip"], ["log"], ["trash"], ["doctor"],
        ["export", "Trip", tmp_path / "out"],
    ):  # fmt: skip
        live.mixfs(*words, check=False)
        assert contents(live.library) == before, words
    assert (tmp_path / "out").exists()
    live.mixfs("fsck")
    staging = str(live.library / "staging" / ".")
    after = contents(live.library)
    assert {path: what for path, what in after.items() if before.get(path) != what and path != staging} == {}


def test_a_read_only_mount_shows_what_is_written_beside_it(live: Live, text: Path) -> None:
    live.start("ro")
    assert not (live.point / "sessions" / "Second").exists()
    live.mixfs("import", "--session", "Second", text)
    until(lambda: (live.point / "sessions" / "Second" / "files" / "text").exists(), "the mount sees the import")
    live.mixfs("rebuild-index")
    live.mixfs("import", "--session", "Third", text)
    until(lambda: (live.point / "sessions" / "Third").exists(), "the mount sees the import after a new index")


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root mounts a disk")
@pytest.mark.parametrize("kind", ["bind", "disk"])
def test_a_snapshot_on_a_read_only_disk_can_be_mounted_and_read(
    live: Live, tmp_path: Path, text: Path, kind: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if kind == "bind":
        subprocess.run(["mount", "--bind", live.library, disk], check=True)
        remount = ["mount", "-o", "remount,bind,ro", disk]
        snapshot = disk
    else:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
        remount = ["mount", "-o", "remount,ro", disk]
        snapshot = disk / "library"
        shutil.copytree(live.library, snapshot)
    try:
        subprocess.run(remount, check=True)
        before = contents(snapshot)
        listed = live.mixfs("list", "--library", snapshot)
        assert "a.png" in listed.stdout
        assert live.mixfs("fsck", "--library", snapshot).returncode == 0
        live.library, original = snapshot, live.library
        live.start("ro")
        assert "sessions/Trip/images/a.png" in browse(live.point)
        if kind == "bind":
            # Somebody may write to it all the same.
            live.mixfs("import", "--library", original, "--session", "Second", text)
            until(lambda: (live.point / "sessions" / "Second").exists(), "the mount sees the import")
            before = contents(snapshot)
        live.stop()
        assert contents(snapshot) == before
    finally:
        live.close()
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_mount_says_whom_it_waits_for(live: Live) -> None:
    fd = os.open(live.library / "lock", os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    mount = subprocess.Popen(
        python("-m", "mixfs.cli.main", "mount", live.point), stderr=subprocess.PIPE, text=True,
        env=environment() | {"MIXFS_LIBRARY": str(live.library)},
    )  # fmt: skip
    try:
        assert mount.stderr is not None
        assert f"waiting for process {os.getpid()} (" in mount.stderr.readline()
    finally:
        os.close(fd)
        mount.communicate(timeout=60)
    live.mixfs("umount", live.point)
