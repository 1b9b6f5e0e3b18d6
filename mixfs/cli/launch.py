"""Starting the daemon: in the background, waited for until it answers, or in place of this process."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mixfs.cli.config import trash_days
from mixfs.errors import MountError

PATIENCE_S = 5.0
_LAST_LINES = 12


def daemon_command(library: Path, mountpoint: str, options: Sequence[str]) -> list[str]:
    """The command line of a daemon. -P keeps the working directory off the import path."""
    command = [sys.executable, "-P", "-m", "mixfs.daemon", "--library", str(library), "--mountpoint", mountpoint,
               "--trash-days", str(trash_days())]  # fmt: skip
    for option in options:
        command += ["--option", option]
    return command


def start(command: Sequence[str], log: Path, waiting: Callable[[], None] = lambda: None) -> int:
    """Start a daemon in the background and return its pid when its mount answers.

    It writes one line to the descriptor of --ready-fd: `ready`, or `error: …` before it ends. `waiting` is called once
    when that takes long. Raises MountError, with the daemon's exit code.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    begin = os.fstat(out).st_size
    try:
        ready, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            daemon = subprocess.Popen(
                [*command, "--log", str(log), "--ready-fd", str(theirs)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=(theirs,), start_new_session=True, cwd="/",
            )  # fmt: skip
        finally:
            os.close(theirs)
    finally:
        os.close(out)
    try:
        line = _read_line(ready, waiting)
    except BaseException:
        # Ctrl-C while it starts: nothing is to be left half mounted.
        daemon.terminate()
        daemon.wait()
        raise
    finally:
        os.close(ready)
    if line == "ready":
        # It is no child that anyone waits for: without this, Python would warn of it at exit.
        daemon.returncode = 0
        return daemon.pid
    code = daemon.wait()
    if line.startswith("error: "):
        raise _failed(line.removeprefix("error: "), code)
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise _failed(f"The daemon {ended} before it mounted anything. {_last_words(log, begin)}", 0)


def _failed(words: str, code: int) -> MountError:
    error = MountError(words)
    if code > 0:
        error.exit_code = code
    return error


def _read_line(fd: int, waiting: Callable[[], None]) -> str:
    """The first line that comes, or "" when the other end is closed without one."""
    data, patient_until, told = b"", time.monotonic() + PATIENCE_S, False
    while b"\n" not in data:
        left = None if told else max(0.0, patient_until - time.monotonic())
        if not select.select([fd], [], [], left)[0]:
            told = True
            waiting()
            continue
        part = os.read(fd, 65536)
        if not part:
            break
        data += part
    return data.split(b"\n")[0].decode("utf-8", "replace") if b"\n" in data else ""


def _last_words(log: Path, begin: int) -> str:
    """Where its log is, and how that ends."""
    try:
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
    except OSError:
        lines = []
    # A traceback's last line says what it was; the rest stays in the log.
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"Its log is {log}" + (f", which ends: {words}" if words else ", where it said nothing") + "."
