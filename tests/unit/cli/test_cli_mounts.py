"""mixfs.daemon.mounts, the launcher, and what `mixfs mount` refuses: all without a mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cli_home import Home

from mixfs import mountinfo
from mixfs.cli import launch
from mixfs.daemon import mounts
from mixfs.errors import MountError, UnsuitablePlace
from mixfs.fuse.mount import Mount as FuseMount
from mixfs.library import place
from mixfs.process import start_of

MOUNTINFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /home/u/My\040Pictures\134 rw,nosuid,nodev,relatime shared:20 - fuse.mixfs mixfs rw,user_id=1000
41 22 0:36 / /mnt/x ro - tmpfs tmpfs rw
nonsense
42 22 0:37 / /caf\303\251 rw - fuse.mixfs mixfs rw
43 22 0:38 /
"""


def test_mountinfo_is_understood() -> None:
    found = mountinfo.parse_mountinfo(MOUNTINFO)
    assert [(mount.mountpoint, mount.kind) for mount in found] == [
        ("/", "ext4"), ("/home/u/My Pictures\\", "fuse.mixfs"), ("/mnt/x", "tmpfs"), ("/café", "fuse.mixfs"),
    ]  # fmt: skip
    assert {"rw", "nosuid", "user_id=1000"} <= found[1].options
    assert found[1].minor == 35


def test_a_carriage_return_in_a_path_ends_no_line() -> None:
    # Anybody may mount at such a place: the kernel escapes space, tab, line feed and backslash only.
    lines = b"22 1 0:35 / / rw - ext4 /dev/sda1 rw\n44 22 0:39 / /tmp/a\r\x85\x0cb rw - fuse.mixfs mixfs rw\n"
    assert [mount.mountpoint for mount in mountinfo.parse_mountinfo(lines)] == ["/", "/tmp/a\r\udc85\x0cb"]


def test_a_library_beside_such_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"22 1 0:35 / / rw - ext4 /dev/sda1 rw\n44 22 0:39 / /tmp/a\rb rw - fuse.mixfs mixfs rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda path: lines)
    assert place.filesystem_type(tmp_path) == "ext4"
    assert place.filesystem_type(Path("/tmp/a\rb/c")) == "fuse.mixfs"
    lines += b"45 22 0:40 / /tmp/\r\r rw - fuse.mixfs mixfs rw\n"
    monkeypatch.setattr(Path, "read_text", lambda path, errors="strict": lines.decode(errors=errors))
    FuseMount(None, tmp_path, set())._tune()  # type: ignore[arg-type]


def test_the_mounts_of_this_machine() -> None:
    root = mountinfo.mount_at("/")
    assert root is not None and root.kind
    assert mountinfo.mount_at("/no/such/place") is None
    assert not mounts.is_stale("/")
    assert mounts.answer("/") is mounts.Answer.ALIVE


def test_absolute_follows_links_above_and_at_the_mount_point(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert mounts.absolute(tmp_path / "link" / "M") == str(tmp_path / "real" / "M")
    assert mounts.absolute(tmp_path / "link") == str(tmp_path / "real")


def test_inside_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = str(tmp_path / "M")
    mounted = mountinfo.Mount(point, mounts.KIND, "mixfs", frozenset())
    monkeypatch.setattr(mounts, "mounts", lambda: [mounted])
    (tmp_path / "link").symlink_to(point)
    (tmp_path / "deep").symlink_to("link/sessions")
    assert mounts.inside_mount(f"{point}/sessions/X/") == (point, "sessions/X")
    assert mounts.inside_mount(point) == (point, "")
    assert mounts.inside_mount(str(tmp_path / "link" / "a")) == (point, "a")
    assert mounts.inside_mount(str(tmp_path / "deep" / "X")) == (point, "sessions/X")
    assert mounts.inside_mount(str(tmp_path / "Mother")) is None
    assert mounts.inside_mount(str(tmp_path)) is None


def test_mount_point_and_library_lie_apart(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (tmp_path / "link").symlink_to(library)
    mounts.check_apart(str(tmp_path / "M"), str(library))
    mounts.check_apart(str(tmp_path / "library2"), str(library))
    for point in (library, library / "M", tmp_path, tmp_path / "link" / "M"):
        with pytest.raises(UnsuitablePlace):
            mounts.check_apart(str(point), str(library))


def test_the_mount_point_is_made_and_must_be_empty(tmp_path: Path) -> None:
    mounts.check_mountpoint(str(tmp_path / "M"))
    assert (tmp_path / "M").is_dir()
    (tmp_path / "M" / "mine").write_text("")
    with pytest.raises(MountError, match="not empty"):
        mounts.check_mountpoint(str(tmp_path / "M"))
    mounts.check_mountpoint(str(tmp_path / "M"), nonempty=True)
    with pytest.raises(MountError, match="is a file"):
        mounts.check_mountpoint(str(tmp_path / "M" / "mine"))
    with pytest.raises(MountError, match="no folder"):
        mounts.check_mountpoint(str(tmp_path / "no" / "where"))


def test_holders_are_found_by_directory_and_by_file(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("x")
    code = "import sys, time; f = open(sys.argv[1]) if sys.argv[1:] else None; print(flush=True); time.sleep(60)"
    sitting = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    reading = subprocess.Popen([sys.executable, "-c", code, tmp_path / "open"], cwd="/", stdout=subprocess.PIPE)
    try:
        for process in (sitting, reading):
            assert process.stdout is not None
            process.stdout.readline()
        found = {holder.pid: holder for holder in mounts.holders(str(tmp_path))}
        assert found[sitting.pid].what == str(tmp_path)
        assert found[reading.pid].what == str(tmp_path / "open") and found[reading.pid].name
        assert not mounts.wait_gone(reading.pid, 0.05)
    finally:
        for process in (sitting, reading):
            process.kill()
            process.communicate()
    assert mounts.wait_gone(reading.pid, 5)


def test_a_note_of_a_daemon_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    assert mounts.read_mounted(tmp_path) is None
    for text in ("", "[]", '{"pid": 1}', f'{{"pid": {os.getpid()}, "mountpoint": "/m", "library": "/l"}}'):
        (tmp_path / "mounted").write_text(text)
        # Our own process lives and is no daemon: a number that was used again.
        assert mounts.read_mounted(tmp_path) is None


def test_a_command_line_alone_makes_no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user's process may have ours: it must belong to who mounted, and have the device open."""
    point = str(tmp_path / "M")
    code = "import os, sys, time; fd = os.open(sys.argv[1], os.O_RDONLY); print(flush=True); time.sleep(60)"
    words = ["mixfs.daemon", "--library", "/some/library", "--mountpoint", point]
    device = tmp_path / "device"
    device.touch()
    monkeypatch.setattr(mounts, "FUSE_DEVICE", device)

    def mount_of(user: int) -> mountinfo.Mount:
        return mountinfo.Mount(point, mounts.KIND, "mixfs", frozenset({f"user_id={user}"}))

    with (
        subprocess.Popen([sys.executable, "-c", code, device, *words], stdout=subprocess.PIPE) as daemon,
        subprocess.Popen([sys.executable, "-c", code, "/dev/null", *words], stdout=subprocess.PIPE) as impostor,
    ):
        try:
            for process in (daemon, impostor):
                assert process.stdout is not None
                process.stdout.readline()
            user, served = os.geteuid(), mounts.Served(daemon.pid, point, "/some/library")
            monkeypatch.setattr(mounts, "mount_at", lambda path: mount_of(user) if path == point else None)
            assert mounts.find_daemon(point) == served
            assert mounts.find_daemon(point + "x") is None
            monkeypatch.setattr(mounts, "mount_at", lambda path: mount_of(user + 1))
            assert mounts.find_daemon(point) is None
            note = {"pid": daemon.pid, "mountpoint": point, "library": str(tmp_path)}
            here = served._replace(library=str(tmp_path))
            # A copy of the library has the note of the library that it was copied from.
            (tmp_path / "mounted").write_text(json.dumps(note | {"library": "/"}))
            assert mounts.read_mounted(tmp_path) is None
            for started, expected in ((None, here), (start_of(daemon.pid), here), (start_of(1), None)):
                (tmp_path / "mounted").write_text(json.dumps(note | {"started": started}))
                assert mounts.read_mounted(tmp_path) == expected
            if user == 0:
                os.chown(tmp_path / "mounted", 65534, 65534)
                monkeypatch.setattr(mounts, "owner_of", lambda pid: 65533)
                assert mounts.read_mounted(tmp_path) is None
        finally:
            for process in (daemon, impostor):
                process.kill()


# -- starting a daemon


def fake(tmp_path: Path, code: str) -> list[str]:
    """A daemon that does what `code` says; `tell(text)` writes to its ready descriptor."""
    script = tmp_path / "daemon.py"
    script.write_text(
        "import os, sys, time\n"
        "ready = int(sys.argv[sys.argv.index('--ready-fd') + 1])\n"
        "def tell(text): os.write(ready, text.encode())\n" + code
    )
    return [sys.executable, str(script)]


def test_a_daemon_that_is_ready(tmp_path: Path) -> None:
    log = tmp_path / "state" / "a.log"
    code = "print('hello log', flush=True); time.sleep(0.2); tell('ready\\n'); time.sleep(60)"
    pid = launch.start(fake(tmp_path, code), log)
    try:
        assert os.getsid(pid) == pid
        assert log.read_text() == "hello log\n" and log.stat().st_mode & 0o777 == 0o600
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


def test_a_daemon_that_says_why_not(tmp_path: Path) -> None:
    code = "tell('error: no room in here\\n'); sys.exit(4)"
    with pytest.raises(MountError, match=r"^no room in here$") as caught:
        launch.start(fake(tmp_path, code), tmp_path / "a.log")
    assert caught.value.exit_code == 4


def test_a_daemon_that_dies(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("from another time\n")
    with pytest.raises(MountError, match=f"exit code 3 .* {log}, .* ends: ValueError: no") as caught:
        launch.start(fake(tmp_path, "print('ValueError: no', file=sys.stderr); sys.exit(3)"), log)
    assert caught.value.exit_code == 6
    log.write_text("from another time\n")
    with pytest.raises(MountError, match=r"killed by signal 9.*said nothing"):
        launch.start(fake(tmp_path, "os.kill(os.getpid(), 9)"), log)


def test_a_slow_daemon_is_waited_for_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE_S", 0.1)
    told: list[float] = []
    pid = launch.start(
        fake(tmp_path, "time.sleep(0.6); tell('rea'); tell('dy\\n'); time.sleep(60)"), tmp_path / "a.log",
        lambda: told.append(time.monotonic()),
    )  # fmt: skip
    os.kill(pid, 15)
    os.waitpid(pid, 0)
    assert len(told) == 1


# -- what `mixfs mount` refuses before it starts anything


def test_mount_refuses_bad_places(fresh: Home, tmp_path: Path) -> None:
    if mounts.fuse_device_problem():
        assert "/dev/fuse" in fresh.run("mount", tmp_path / "M", code=6).err
        return
    assert "inside the library" in fresh.run("mount", fresh.library / "M", code=4).err
    assert "lies inside the mount point" in fresh.run("mount", fresh.path, code=4).err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    assert "not empty" in fresh.run("mount", tmp_path / "full", code=6).err
    assert "is a file" in fresh.run("mount", tmp_path / "full" / "mine", code=6).err
    assert "no folder" in fresh.run("mount", tmp_path / "no" / "where", code=6).err


def test_a_mount_that_hangs_is_named_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(os, "statvfs", lambda path: answers.wait())
    assert mounts.answer("/", 0.1) is mounts.Answer.HUNG
    answers.set()
