"""A daemon that is dead, or hangs: its mount heals, its clients are freed, systemd hears when its loop stands still."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "mount"))
from live import DEADLINE_S, Live, environment, living, needs_fuse, python, until

from mixfs import mountinfo
from mixfs.daemon import mounts

pytestmark = [pytest.mark.mount, needs_fuse]
CONTROL = mounts.FUSE_CONTROL


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "live") as live:
        yield live


@pytest.fixture
def control() -> Iterator[None]:
    """The FUSE control file system, as most machines have it mounted."""
    ours = not any(mount.kind == "fusectl" for mount in mountinfo.mounts())
    if ours and os.geteuid() != 0:
        pytest.skip(f"NOT RUN: {CONTROL} is not mounted here, and only root can mount it")
    yield
    if ours:
        subprocess.run(["umount", "--lazy", CONTROL], check=False, capture_output=True)


def cli(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python("-m", "mixfs.cli.main", *map(str, words)), env=environment(), capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def test_abort_frees_who_waits_for_a_daemon_that_hangs(live: Live, control: None) -> None:
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    (trip / "closed").write_bytes(b"closed")
    os.kill(live.pid, signal.SIGSTOP)
    clients = [
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (["stat", trip / "never seen"], ["cp", __file__, trip / "copy"], ["mkdir", trip / "folder"])
    ]
    try:
        for client in clients:
            with pytest.raises(subprocess.TimeoutExpired):
                client.wait(0.2)
        done = cli("abort", live.point)
        assert done.returncode == 0, done.stderr
        for client in clients:
            assert client.wait(5) != 0
    finally:
        os.kill(live.pid, signal.SIGCONT)
        for client in clients:
            client.kill()
            client.wait()
    # Cut off from its mount, the daemon ends by itself; the stale mount point heals as after a crash.
    live.wait_for_end()
    assert mounts.is_stale(str(live.point))
    healed = cli("mount", "--library", live.library, live.point)
    assert healed.returncode == 0, healed.stderr
    try:
        assert (trip / "closed").read_bytes() == b"closed"
    finally:
        assert cli("umount", live.point).returncode == 0


def test_abort_says_what_it_can_not_abort(tmp_path: Path) -> None:
    done = cli("abort", tmp_path)
    assert done.returncode == 6 and "No MixFS is mounted" in done.stderr


def test_the_watchdog_is_fed_while_the_loop_turns_and_only_then(tmp_path: Path, live: Live) -> None:
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(DEADLINE_S)
        live.start(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"})
        told: list[bytes] = []
        while told.count(b"WATCHDOG=1") < 4:
            told += systemd.recv(1000).splitlines()
        os.kill(live.pid, signal.SIGSTOP)
        try:
            systemd.settimeout(0.5)
            with pytest.raises(TimeoutError):
                # One may be under way; no more come.
                systemd.recv(1000)
                systemd.recv(1000)
        finally:
            os.kill(live.pid, signal.SIGCONT)
        systemd.settimeout(DEADLINE_S)
        until(lambda: b"WATCHDOG=1" in systemd.recv(1000), "it lives again")
        live.stop()


def test_a_watchdog_of_another_process_is_not_ours(tmp_path: Path, live: Live) -> None:
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        live.start(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000", "WATCHDOG_PID": "1"})
        os.stat(live.point / "import")
        live.stop()
        systemd.setblocking(False)
        told = b""
        while True:
            try:
                told += systemd.recv(1000)
            except BlockingIOError:
                break
    assert b"READY=1" in told and b"WATCHDOG" not in told


def test_a_supervisor_has_the_mount_back_at_once(live: Live) -> None:
    """What the unit does after a kill: the stale mount is taken away, and the daemon started again."""
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    (trip / "closed").write_bytes(b"closed")
    os.kill(live.pid, signal.SIGKILL)
    assert live.wait_for_end() == -signal.SIGKILL
    with pytest.raises(OSError):
        os.listdir(live.point)
    done = cli("mount", "--library", live.library, live.point)
    assert done.returncode == 0 and "left behind" in done.stderr
    try:
        assert (trip / "closed").read_bytes() == b"closed"
    finally:
        assert cli("umount", live.point).returncode == 0
