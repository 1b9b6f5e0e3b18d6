"""What keeps a mount from ending is named within seconds, and a foreign process is never taken for its daemon."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, needs_fuse

from mixfs.daemon import mounts

pytestmark = [pytest.mark.mount, needs_fuse]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    live.start()
    yield live
    live.close()


def test_a_bind_mount_is_named_and_nothing_is_changed(live: Live, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: only root can bind")
    app = tmp_path / "app"
    app.mkdir()
    subprocess.run(["mount", "--bind", live.point / "storage-v2", app], check=True)
    try:
        done = live.mixfs("umount", live.point, check=False)
        assert done.returncode == 6 and str(app) in done.stderr and "bind mount" in done.stderr
        assert os.path.ismount(live.point)
    finally:
        subprocess.run(["umount", app], check=True)
    assert live.mixfs("umount", live.point, check=False).returncode == 0
    assert not os.path.ismount(live.point)


def test_a_bind_mount_in_another_namespace_is_named(live: Live) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: only root can make a namespace")
    script = "echo; read line"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        done = live.mixfs("umount", live.point, check=False)
        assert done.returncode == 6 and f"{live.point} of process" in done.stderr
        other.communicate(b"\n")
    assert live.mixfs("umount", live.point, check=False).returncode == 0


def test_another_s_process_with_our_command_line_is_not_believed(live: Live) -> None:
    point = str(live.point)
    words = ["sh", "-c", "echo; read line", "mixfs.daemon", "--mountpoint", point, "--library", "/another"]
    assert mounts.find_daemon(point) == mounts.Served(live.pid, point, str(live.library))
    os.kill(live.pid, signal.SIGKILL)
    live.wait_for_end()
    try:
        # One of the same user has no device; one of another user may have any.
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for as_user in ([], *([nobody] if os.geteuid() == 0 else [])):
            with subprocess.Popen(
                [*as_user, *words], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as impostor:
                assert impostor.stdout is not None and impostor.stdout.readline() == b"\n"
                assert mounts.find_daemon(point) is None
                impostor.communicate(b"\n")
    finally:
        subprocess.run(["fusermount3", "-uz", point], check=True)
