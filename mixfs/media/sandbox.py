"""The system calls that a worker may make: a seccomp filter, by way of libseccomp, over whatever parses foreign bytes.

A list of what is allowed, not of what is forbidden: what the kernel learns tomorrow is refused too. What is not on the
list answers ENOSYS and not EPERM, since that is what glibc expects of a kernel that is too old for a call, and then it
takes an older one (clone3, openat2). It is also an error that reading a file never gives, so that it tells what it is.

libseccomp is called through ctypes: it is on every Debian (systemd and apt need it), while its own Python binding comes
for the system's Python only, and the one for others has not been touched for years (docs/decisions/0014-*.md).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import termios
from collections.abc import Iterator

REFUSED = errno.ENOSYS
"""What a call answers that is not allowed."""

LIBRARY = "libseccomp.so.2"

# On other machines some calls have other arguments (clone), and nobody has tried.
_MACHINES = ("x86_64", "aarch64")

_ALLOWED = (
    "read readv pread64 lseek write writev close "
    "stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd getdents64 fadvise64 "
    "dup dup2 dup3 poll ppoll select pselect6 pause "
    "brk mmap munmap mremap mprotect madvise membarrier "
    "futex set_robust_list rseq sched_yield sched_getaffinity getcpu gettid getpid exit exit_group "
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall "
    "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage sysinfo uname getrandom "
    "getuid geteuid getgid getegid "
)

_CLONE_THREAD = 0x10000
_O_TMPFILE_BIT = 0o20000000
# A file is opened for reading, and none is made by it.
_OPEN_MASK = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | _O_TMPFILE_BIT

# From linux/seccomp.h and seccomp.h.
_ACT_ALLOW = 0x7FFF0000
_ACT_ERRNO = 0x00050000
_CMP_EQ, _CMP_MASKED_EQ = 4, 7


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`: a condition on one argument of a call. For MASKED_EQ, `first` is the mask."""

    _fields_ = (
        ("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )  # fmt: skip


def _conditional() -> Iterator[tuple[str, _Comparison]]:
    """Calls that are allowed with some arguments only."""
    yield "open", _Comparison(1, _CMP_MASKED_EQ, _OPEN_MASK, os.O_RDONLY)
    yield "openat", _Comparison(2, _CMP_MASKED_EQ, _OPEN_MASK, os.O_RDONLY)
    # Decoders have threads; a process of their own they don't have.
    yield "clone", _Comparison(0, _CMP_MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
    # A decoder that aborts signals itself, and nobody else.
    for name in ("kill", "tgkill"):
        yield name, _Comparison(0, _CMP_EQ, os.getpid(), 0)
    # Its own limits: it moves its CPU seconds along. Hard limits it can't raise.
    yield "prlimit64", _Comparison(0, _CMP_EQ, 0, 0)
    # Others of ioctl put keys into a terminal's input, others of fcntl send signals.
    for request in (termios.TCGETS, termios.FIOCLEX, termios.FIONCLEX):
        yield "ioctl", _Comparison(1, _CMP_EQ, request, 0)
    for command in (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC):
        yield "fcntl", _Comparison(1, _CMP_EQ, command, 0)


def restrict() -> str:
    """Restrict this process, for good. Returns an empty text, or why it is as free as before, for a human.

    For the thread that calls and those that it starts: call it before there are others.
    """
    if platform.machine() not in _MACHINES:
        return f"there is no list of system calls for {platform.machine()}"
    try:
        library = ctypes.CDLL(LIBRARY)
        library.seccomp_init.restype = ctypes.c_void_p
    except (OSError, AttributeError):
        return f"{LIBRARY} can't be loaded"
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ACT_ERRNO | REFUSED)))
    if not context:
        return f"{LIBRARY} makes no filter"
    try:
        for name in _ALLOWED.split():
            _allow(library, context, name)
        for name, comparison in _conditional():
            _allow(library, context, name, comparison)
        failed = library.seccomp_load(context)
    except OSError as error:
        return str(error)
    finally:
        library.seccomp_release(context)
    return f"the kernel takes no filter ({os.strerror(-failed)})" if failed else ""


def _allow(library: ctypes.CDLL, context: ctypes.c_void_p, name: str, *comparisons: _Comparison) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:
        return  # Newer than the library, or of another kind of machine.
    array = (_Comparison * max(1, len(comparisons)))(*comparisons)
    failed = library.seccomp_rule_add_array(
        context, ctypes.c_uint32(_ACT_ALLOW), number, ctypes.c_uint(len(comparisons)), array
    )
    if failed:
        raise OSError(-failed, f"{LIBRARY} takes no rule for {name}")
