"""The daemon that `mixfs mount` begins before it knows whether it is needed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import DEADLINE_S, environment, needs_fuse, python

from mixfs.cli import launch
from mixfs.daemon import mounts
from mixfs.errors import MountError
from mixfs.process import arguments_of

pytestmark = needs_fuse


class User:
    """Somebody with a home, a library and a mount point in it."""

    def __init__(self, home: Path) -> None:
        self.home, self.library, self.point = home, home / "library", home / "mount"
        # What the daemon is told is a path like any other.
        self.state = home / "the\nstate"
        self.env = environment() | {"HOME": str(home), "XDG_STATE_HOME": str(self.state)}

    def mixfs(self, *words: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            python("-m", "mixfs.cli.main", *words), env=self.env, capture_output=True, text=True, timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def mount(self, *options: str, code: int = 0) -> str:
        return self.mixfs("mount", self.point, "--library", self.library, *options, code=code)

    def daemons(self) -> list[int]:
        """Of this mount point, those that are begun and those that serve."""
        return [
            pid for pid in mounts._pids()
            if str(self.point) in (words := arguments_of(pid)) and "mixfs.daemon" in words
        ]  # fmt: skip


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    user = User(tmp_path / "home")
    user.home.mkdir()
    yield user
    if os.path.ismount(user.point):
        user.mixfs("umount", user.point)
    for pid in user.daemons():
        _ends(pid)


def _ends(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], DEADLINE_S)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


def test_the_daemon_that_was_begun_is_the_one_that_serves(user: User) -> None:
    user.mount()
    [pid] = user.daemons()
    assert "--wait" in arguments_of(pid)
    assert mounts.find_daemon(str(user.point)) == mounts.Served(pid, str(user.point), str(user.library))
    [log] = (user.state / "mixfs").iterdir()
    # As a daemon is that was started with its log.
    assert [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in range(3)] == [Path("/dev/null"), log, log]
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/") and os.getsid(pid) == pid
    assert '"mounted"' in log.read_text()
    # None is left of a second one, which finds that there is nothing to do.
    assert "already" in user.mount()
    assert user.daemons() == [pid]


def test_what_was_begun_in_vain_leaves_nothing(user: User) -> None:
    user.point.mkdir()
    (user.point / "mine").touch()
    assert "not empty" in user.mount(code=6)
    for pid in user.daemons():
        _ends(pid)
    assert not user.state.exists()
    assert os.listdir(user.point) == ["mine"]
    # It was begun without this option, as libfuse knows it no more.
    user.mount("-o", "nonempty")
    assert len(user.daemons()) == 1 and (user.point / "sessions").is_dir()


def test_what_is_not_plain_is_not_begun(user: User) -> None:
    user.mount("--", code=0)
    [pid] = user.daemons()
    assert "--wait" not in arguments_of(pid)


def _begin(monkeypatch: pytest.MonkeyPatch, code: str) -> list[str]:
    """Begin a daemon that does what `code` says."""
    command = [sys.executable, "-c", f"import os, sys\nready = int(sys.argv[sys.argv.index('--ready-fd') + 1])\n{code}"]
    monkeypatch.setattr(launch, "_foreseen", lambda words: command)
    launch.begin([])
    return command


def test_one_that_died_while_it_loaded_is_started_again_to_hear_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _begin(monkeypatch, "sys.exit('ImportError: no trio')")
    begun = launch._begun
    assert begun is not None
    with pytest.raises(MountError, match=r"exit code 1 .*ends: ImportError: no trio"):
        launch.start(command, tmp_path / "log")
    assert launch._begun is None and begun.process.wait() == 1


def test_one_that_says_why_not_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = _begin(
        monkeypatch,
        "sys.stdin.readline(); os.write(ready, b'error: no room in here\\n'); sys.exit(4)",
    )
    with pytest.raises(MountError, match=r"^no room in here$") as caught:
        launch.start(command, tmp_path / "log")
    assert caught.value.exit_code == 4 and (tmp_path / "log").read_text() == ""


def test_one_that_loads_when_another_is_wanted_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _begin(monkeypatch, "os.read(0, 1); os.read(0, 1); import signal; signal.pause()")
    begun = launch._begun
    assert begun is not None
    other = [sys.executable, "-c", "import sys; sys.exit('no')"]
    with pytest.raises(MountError, match="ends: no"):
        launch.start(other, tmp_path / "log")
    assert begun.process.returncode == -9


def test_a_daemon_nobody_tells_to_go_ends_without_a_word(user: User) -> None:
    done = subprocess.run(
        python("-m", "mixfs.daemon", "--library", user.library, "--mountpoint", user.point, "--wait"),
        env=user.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.listdir(user.home) == []
