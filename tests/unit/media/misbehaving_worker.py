"""A worker that also does what somebody would who has taken one over: run in its place by the tests of the pool."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import termios
from collections.abc import Callable
from typing import Any

from mixfs.media import worker

_do = worker._do


def _misbehave(job: dict[str, Any]) -> Any:
    kind = job["kind"]
    if kind == "hang":
        signal.pause()
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "memory":
        return len(bytearray(4 * worker.MEMORY_LIMIT))
    if kind == "lie":
        return {"media_type": 7}
    if kind == "limits":
        names = ("RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_CPU")
        return {name: resource.getrlimit(getattr(resource, name)) for name in names}
    if kind == "escape":
        return {name: _outcome(attempt) for name, attempt in _escapes(job["target"]).items()}
    return _do(job)


def _escapes(target: str) -> dict[str, Callable[[], object]]:
    """What somebody who has taken over a worker would try first."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments) == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    return {
        "socket": socket.socket,
        "socketpair": socket.socketpair,
        "execve": lambda: os.execv("/bin/true", ["true"]),
        "fork": fork,
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "ptrace": lambda: call("ptrace", 16, os.getppid(), 0, 0),
        "kill": lambda: os.kill(os.getppid(), 0),
        "write": lambda: os.open(target, os.O_WRONLY | os.O_CREAT),
        "create": lambda: os.open(target, os.O_RDONLY | os.O_CREAT),
        "overwrite": lambda: os.open(os.devnull, os.O_RDWR),
        "mkdir": lambda: os.mkdir(target),
        "symlink": lambda: os.symlink("/", target),
        "unlink": lambda: os.unlink(target),
        "rename": lambda: os.rename(target, f"{target}.2"),
        "chmod": lambda: os.chmod("/", 0o755),
        "memfd": lambda: os.memfd_create("x"),
        "unshare": lambda: call("unshare", 0x10000000),
        "mount": lambda: call("mount", b"none", b"/", b"tmpfs", 0, None),
        "other's limits": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
        "terminal": lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"),
        "signal by fcntl": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid()),
    }


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


worker._do = _misbehave
worker.main()
