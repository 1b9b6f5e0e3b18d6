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
import stat
import sys
import termios
from collections.abc import Iterable, Iterator

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


# What a reader of foreign layouts needs beside: its socket, and SQLite's private copies. Where those may be is
# Landlock's to say.
READER = (
    "sendto recvfrom sendmsg recvmsg openat open pwrite64 ftruncate fsync fdatasync unlink unlinkat mkdir mkdirat "
    "rmdir fchmod fchown fchownat utimensat statfs fstatfs umask fcntl "
)


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


def restrict(more: str = "") -> str:
    """Restrict this process, for good. Returns an empty text, or why it is as free as before, for a human.

    `more` are names of calls that are allowed whatever their arguments.

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
        for name in (*_ALLOWED.split(), *more.split()):
            _allow(library, context, name)
        for name, comparison in _conditional():
            if name not in more.split():
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


# -- Landlock: which files may be opened at all. From linux/landlock.h; the numbers are the same on all machines.

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# All rights of version 1 but IOCTL and TRUNCATE, which came later: execute, read, write, list, remove, make.
_VERSION_1 = (1 << 13) - 1
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_PR_SET_NO_NEW_PRIVS = 38


class _Ruleset(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def restrict_paths(readable: Iterable[str], writable: str) -> str:
    """Let this process open files below `readable` for reading, and anything below `writable`; for good.

    Python's own modules and the system's libraries stay readable, so does what is open already. Returns an empty text,
    or why nothing is restricted, for a human. Call it before there are other threads, and before `restrict`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return f"this kernel has no Landlock ({os.strerror(ctypes.get_errno())})"
    handled = _VERSION_1 | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    ruleset = _Ruleset(handled)
    fd = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(8), ctypes.c_uint32(0))
    if fd < 0:
        return f"Landlock takes no rules ({os.strerror(ctypes.get_errno())})"
    try:
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        own = {sys.prefix, sys.base_prefix, sys.exec_prefix, package, *filter(None, map(os.path.abspath, sys.path))}
        system = ("/usr", "/lib", "/lib64", "/etc/localtime", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
        for path in {*own, *system, *readable}:
            _allow_below(libc, fd, path, _READ_FILE | _READ_DIR)
        _allow_below(libc, fd, writable, handled & ~1)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_LANDLOCK_RESTRICT, fd, ctypes.c_uint32(0)):
            return f"Landlock can't be used ({os.strerror(ctypes.get_errno())})"
    finally:
        os.close(fd)
    return ""


def _allow_below(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # It is not there, and so can't be read either.
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _READ_FILE
        rule = _PathBeneath(access, fd)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(fd)
