"""A daemon that a test may kill: started as `mixfs mount` starts it, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from strict_json import check_output

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


def fuse_works() -> bool:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


needs_fuse = pytest.mark.skipif(not fuse_works(), reason="NOT RUN: a mount needs /dev/fuse")


def until(condition: Callable[[], object], what: str, within_s: float = DEADLINE_S) -> float:
    """Look until `condition` holds; returns how long that took (s), fails after `within_s`."""
    pause, began = threading.Event(), time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        pause.wait(0.01)
    return time.monotonic() - began


def environment() -> dict[str, str]:
    # `-S` leaves site-packages out and starts a good deal faster; so the path is handed over.
    path = [str(ROOT), *(entry for entry in sys.path if entry)]
    return os.environ | {"PYTHONPATH": ":".join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def python(*words: str | Path) -> list[str]:
    return [sys.executable, "-S", *map(str, words)]


class Live:
    """A library, a mount point, and the daemon between them."""

    def __init__(self, path: Path) -> None:
        self.library, self.point, self.log = path / "library", path / "mount", path / "log.jsonl"
        self.point.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, env: dict[str, str] | None = None) -> None:
        """Mount, and wait until it answers."""
        assert self.process is None
        reading, writing = os.pipe()
        command = python(
            "-m", "mixfs.daemon", "--library", self.library, "--mountpoint", self.point, "--log", self.log,
            "--ready-fd", str(writing), *(f"--option={option}" for option in options),
        )  # fmt: skip
        # Other threads' children must not inherit the pipe, or its end never comes.
        with open(f"{self.log}.stderr", "ab") as stderr:
            self.process = subprocess.Popen(
                command, env=environment() | (env or {}), pass_fds=[writing], stdin=subprocess.DEVNULL,
                stdout=stderr, stderr=stderr,
            )  # fmt: skip
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert select.select([pipe], [], [], DEADLINE_S)[0], self.told()
            line = pipe.readline()
        assert line == b"ready\n", (line, self.told())

    def told(self) -> str:
        """What the daemon logged."""
        found = [Path(f"{self.log}.stderr"), self.log]
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in found if path.exists())

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def wait_for_end(self) -> int:
        assert self.process is not None
        code = self.process.wait(timeout=DEADLINE_S)
        self.process = None
        return code

    def stop(self) -> None:
        """Unmount as a user does."""
        subprocess.run(["fusermount3", "-u", self.point], check=True, timeout=DEADLINE_S)
        assert self.wait_for_end() == 0, self.told()

    def kill(self) -> None:
        """SIGKILL, and the dead mount taken away."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.buried()

    def buried(self) -> None:
        """As `kill`, when something else does the killing."""
        assert self.wait_for_end() == -signal.SIGKILL, self.told()
        subprocess.run(["fusermount3", "-uz", self.point], check=True, timeout=DEADLINE_S)

    def close(self) -> None:
        """Whatever state it is in: leave nothing behind."""
        if self.process is None:
            return
        # A daemon that hangs would hang whoever waits for its mount, so that goes first.
        done = subprocess.run(["fusermount3", "-u", self.point], capture_output=True, timeout=DEADLINE_S, check=False)
        if done.returncode:
            subprocess.run(["fusermount3", "-uz", self.point], capture_output=True, timeout=DEADLINE_S, check=False)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
        self.process = None

    def take_in(self) -> None:
        """`mixfs wait`: all that was closed is in the library."""
        fd = os.open(self.point / ".mixfs" / "imported", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def mixfs(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, in a process of its own."""
        command = python("-m", "mixfs.cli.main", *words)
        env = environment() | {"MIXFS_LIBRARY": str(self.library)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        check_output(words, done.stdout)
        return done

    def api(self, program: str, *words: str) -> None:
        """Run a program with `library` open, in a process of its own."""
        whole = (
            "import sys\nfrom mixfs.library.api import Library\nwith Library.open(sys.argv[1]) as library:\n"
            + "".join(f"    {line}\n" for line in program.strip().splitlines())
        )
        done = subprocess.run(
            python("-c", whole, self.library, *words), env=environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


class Seen(NamedTuple):
    """What a name in the mount was when it was looked at."""

    ino: int
    mode: int
    size: int
    mtime_ns: int
    digest: str


def sha256(path: str | bytes | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def everything(point: Path) -> dict[bytes, Seen]:
    """Every name below a mount that should outlive a remount, and what it is."""
    out: dict[bytes, Seen] = {}
    root = os.fsencode(point)
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in (b".mixfs", b"thumbnails"))
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            digest = "" if name in folders else sha256(path)
            out[os.path.relpath(path, root)] = Seen(
                status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, digest
            )
    return out


@contextlib.contextmanager
def living(path: Path) -> Iterator[Live]:
    live = Live(path)
    try:
        yield live
    finally:
        live.close()
