"""Starting the daemon: in the background, before it is certain that it is needed, and waited for until it answers."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mixfs.cli.config import find_library, trash_days
from mixfs.daemon import mounts
from mixfs.errors import MixfsError, MountError
from mixfs.modes import create_file, make_directory

PATIENCE_S = 5.0
_LAST_LINES = 12


def daemon_command(library: Path, mountpoint: str, options: Sequence[str]) -> list[str]:
    """The command line of a daemon. -P keeps the working directory off the import path."""
    command = [sys.executable, "-P", "-m", "mixfs.daemon", "--library", str(library), "--mountpoint", mountpoint,
               "--trash-days", str(trash_days())]  # fmt: skip
    for option in options:
        # libfuse 3 mounts over anything and knows nonempty no more: it was for us.
        if option and option != "nonempty":
            command += ["--option", option]
    return command


class _Begun(NamedTuple):
    """A daemon that waits for its log's name on `go`, or for the end of it, and answers on `ready` (descriptors)."""

    command: list[str]
    process: subprocess.Popen[bytes]
    go: int
    ready: int


_begun: _Begun | None = None


def begin(words: Sequence[str]) -> None:
    """Start the daemon that `mixfs mount WORDS` will come to, if that is plain, and have it load what it needs.

    It touches nothing before `start` comes to the same command. Otherwise it ends without a word, with us at latest.
    """
    global _begun
    try:
        command = _foreseen(words)
        if command is None:
            return
        theirs, go = os.pipe2(os.O_CLOEXEC)
        try:
            process, ready = _spawn([*command, "--wait"], theirs, subprocess.DEVNULL)
        finally:
            os.close(theirs)
    except (OSError, ValueError, MixfsError):
        # Whatever it is, the command comes to it again and has words for it.
        return
    _begun = _Begun(command, process, go, ready)


def _foreseen(words: Sequence[str]) -> list[str] | None:
    """The daemon's command line for the words after `mixfs mount`; None where they are not of the plainest kind."""
    points: list[str] = []
    options: list[str] = []
    library: Path | None = None
    left = iter(words)
    for word in left:
        if word == "--library":
            library = Path(next(left, ""))
        elif word == "-o":
            options += next(left, "").split(",")
        elif word.startswith("-") or not word:
            return None
        else:
            points.append(word)
    if len(points) != 1:
        return None
    return daemon_command(find_library(library), mounts.absolute(points[0]), options)


def cancel() -> None:
    """Let the daemon that was begun end: it is not needed."""
    global _begun
    if _begun is not None:
        os.close(_begun.go)
        os.close(_begun.ready)
        # It may still be loading, which nobody is to wait for, and has touched nothing.
        _begun.process.kill()
        _begun.process.wait()
        _begun = None


def _told_to_go(command: Sequence[str], log: Path) -> _Begun | None:
    """The daemon that was begun, if it is the one that is wanted and still lives."""
    global _begun
    begun = _begun
    if begun is not None and begun.command == list(command):
        with contextlib.suppress(BrokenPipeError):
            os.write(begun.go, os.fsencode(log) + b"\n")
            os.close(begun.go)
            _begun = None
            return begun
    cancel()
    return None


def start(command: Sequence[str], log: Path, waiting: Callable[[], None] = lambda: None) -> int:
    """Start a daemon in the background and return its pid when its mount answers.

    It writes one line to the descriptor of --ready-fd: `ready`, or `error: …` before it ends. `waiting` is called once
    when that takes long. Raises MountError, with the daemon's exit code.
    """
    make_directory(log.parent, parents=True, exist_ok=True)
    out = create_file(log, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(out).st_size
        line = ""
        if (begun := _told_to_go(command, log)) is not None:
            daemon, line = begun.process, _answer(begun.process, begun.ready, waiting)
        if not line:
            # None was begun, or it could not so much as load, and nobody heard why.
            daemon, ready = _spawn([*command, "--log", str(log)], subprocess.DEVNULL, out)
            line = _answer(daemon, ready, waiting)
    finally:
        os.close(out)
    if line == "ready":
        # It is no child that anyone waits for: without this, Python would warn of it at exit.
        daemon.returncode = 0
        return daemon.pid
    code = daemon.wait()
    if line.startswith("error: "):
        raise _failed(line.removeprefix("error: "), code)
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise _failed(f"The daemon {ended} before it mounted anything. {_last_words(log, size)}", 0)


def _spawn(command: Sequence[str], stdin: int, out: int) -> tuple[subprocess.Popen[bytes], int]:
    """A daemon that prints to `out`, and the descriptor on which it answers."""
    ready, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        daemon = subprocess.Popen(
            [*command, "--ready-fd", str(theirs)],
            stdin=stdin, stdout=out, stderr=out, pass_fds=(theirs,), start_new_session=True, cwd="/",
        )  # fmt: skip
    finally:
        os.close(theirs)
    return daemon, ready


def _answer(daemon: subprocess.Popen[bytes], ready: int, waiting: Callable[[], None]) -> str:
    """The daemon's line, or "" when it ends without one."""
    try:
        return _read_line(ready, waiting)
    except BaseException:
        # Ctrl-C while it starts: nothing is to be left half mounted.
        daemon.terminate()
        daemon.wait()
        raise
    finally:
        os.close(ready)


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
            # It may have started again meanwhile.
            file.seek(begin if begin <= os.fstat(file.fileno()).st_size else 0)
            lines = file.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
    except OSError:
        lines = []
    # A traceback's last line says what it was; the rest stays in the log.
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"Its log is {log}" + (f", which ends: {words}" if words else ", where it said nothing") + "."
