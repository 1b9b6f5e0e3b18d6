"""What POSIX and Linux say of calls on regular files and directories, as cases that run here and on a native directory.

The native file system is the oracle: a case says no result, only what to do and what to look at. The cases follow what
pjdfstest asks of a file system (https://github.com/pjd/pjdfstest), as far as a mount of one user can be asked.

A case is a generator: what comes before its `yield` is the setting, what it returns is compared.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

Case = Callable[["Side"], Generator[None, None, Any]]
CASES: dict[str, Case] = {}

_LIBC = ctypes.CDLL(None, use_errno=True)
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
LONG, TOO_LONG = "n" * 255, "n" * 256


class Side:
    """One of the two directories, and short words for what cases do in it."""

    def __init__(self, root: Path, clock: Path) -> None:
        self.root, self._clock = root, clock

    def __truediv__(self, name: str) -> str:
        return f"{self.root}/{name}"

    def file(self, name: str, data: bytes = b"some bytes", mode: int = 0o644) -> str:
        path = self / name
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, mode)
        return path

    def folder(self, name: str, mode: int = 0o755) -> str:
        path = self / name
        os.mkdir(path)
        os.chmod(path, mode)
        return path

    def mode(self, name: str) -> str:
        return oct(os.lstat(self / name).st_mode)

    def tree(self) -> list[tuple[str, str]]:
        """Every name below, as far as it may be seen, and its mode."""
        names = (
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, folders, files in os.walk(self.root) for name in folders + files
        )  # fmt: skip
        return sorted((name, result(lambda name=name: self.mode(name))) for name in names)  # type: ignore[misc]

    def changed(self, call: Callable[[], Any], *names: str) -> tuple[Any, ...]:
        """What a call came to, and for each name whether its mtime and its ctime are others than before."""
        before = [os.lstat(self / name) for name in names]
        self.tick()
        came_to = result(call)
        after = [result(lambda name=name: os.lstat(self / name)) for name in names]  # type: ignore[misc]
        return came_to, [
            (name, new.st_mtime_ns != old.st_mtime_ns, new.st_ctime_ns != old.st_ctime_ns)
            if isinstance(new, os.stat_result) else (name, new)
            for name, old, new in zip(names, before, after, strict=True)
        ]  # fmt: skip

    def tick(self) -> None:
        """Let the file system's clock, which may be coarse, go on."""
        self._clock.write_bytes(b"")
        began = self._clock.stat().st_mtime_ns
        while self._clock.stat().st_mtime_ns == began:
            self._clock.write_bytes(b"")


def result(call: Callable[[], Any]) -> Any:
    """What a call gives, or its errno by name."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def _checked(value: int) -> None:
    if value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def utimensat(path: str, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2) with (seconds, nanoseconds), or (0, UTIME_NOW or UTIME_OMIT)."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _checked(_LIBC.utimensat(-100, os.fsencode(path), times, 0))


def renameat2(old: str, new: str, flags: int) -> None:
    _checked(_LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def opened(path: str, flags: int, mode: int = 0o644) -> None:
    os.close(os.open(path, flags, mode))


# Every call that takes a path, by what it does to it. The second path of rename and link is one that is free.
CALLS: dict[str, Callable[[Side, str], Any]] = {
    "chmod": lambda side, path: os.chmod(path, 0o600),
    "chown": lambda side, path: os.chown(path, os.geteuid(), os.getegid()),
    "open": lambda side, path: opened(path, os.O_RDONLY),
    "open_write": lambda side, path: opened(path, os.O_WRONLY),
    "open_truncate": lambda side, path: opened(path, os.O_RDONLY | os.O_TRUNC),
    "create": lambda side, path: opened(path, os.O_CREAT | os.O_WRONLY),
    "create_exclusive": lambda side, path: opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "mkdir": lambda side, path: os.mkdir(path),
    "mknod": lambda side, path: os.mknod(path, 0o644 | stat.S_IFREG),
    "rmdir": lambda side, path: os.rmdir(path),
    "unlink": lambda side, path: os.unlink(path),
    "truncate": lambda side, path: os.truncate(path, 3),
    "rename_from": lambda side, path: os.rename(path, side / "free"),
    "rename_to": lambda side, path: os.rename(side / "other", path),
    "rename_folder_to": lambda side, path: os.rename(side / "folder", path),
    "link_from": lambda side, path: os.link(path, side / "free"),
    "link_to": lambda side, path: os.link(side / "other", path),
    "utimensat": lambda side, path: utimensat(path, (5, 6), (7, 8)),
    "stat": lambda side, path: os.stat(path) and None,
    "listdir": lambda side, path: sorted(os.listdir(path)),
    "access_write": lambda side, path: os.access(path, os.W_OK),
    "setxattr": lambda side, path: os.setxattr(path, "user.some", b"value"),
}

# Places that a call may be pointed at: the setting that makes it, and the path.
PLACES: dict[str, tuple[Callable[[Side], Any], str]] = {
    "no_such_name": (lambda side: None, "none"),
    "no_such_folder": (lambda side: None, "none/name"),
    "below_a_file": (lambda side: side.file("file"), "file/name"),
    "a_file": (lambda side: side.file("file"), "file"),
    "a_file_with_a_slash": (lambda side: side.file("file"), "file/"),
    "a_read_only_file": (lambda side: side.file("file", mode=0o444), "file"),
    "a_file_of_no_mode": (lambda side: side.file("file", mode=0), "file"),
    "an_empty_folder": (lambda side: side.folder("empty"), "empty"),
    "a_new_name_with_a_slash": (lambda side: None, "none/"),
    "a_full_folder": (lambda side: (side.folder("full"), side.file("full/file")), "full"),
    "dot": (lambda side: side.folder("empty"), "empty/."),
    "dot_dot": (lambda side: side.folder("empty"), "empty/.."),
    "in_a_folder_not_to_be_written": (lambda side: side.folder("locked", 0o555), "locked/name"),
    "a_file_in_a_folder_not_to_be_written": (
        lambda side: (side.folder("locked"), side.file("locked/file"), os.chmod(side / "locked", 0o555)),
        "locked/file",
    ),
    "a_file_in_a_folder_not_to_be_searched": (
        lambda side: (side.folder("closed"), side.file("closed/file"), os.chmod(side / "closed", 0o644)),
        "closed/file",
    ),
    "a_folder_not_to_be_read": (lambda side: side.folder("unread", 0o300), "unread"),
    "a_name_of_255_bytes": (lambda side: None, LONG),
    "a_name_of_256_bytes": (lambda side: None, TOO_LONG),
    "below_a_name_of_256_bytes": (lambda side: None, TOO_LONG + "/name"),
    "a_path_of_4095_bytes": (lambda side: None, "/".join(["." * 1] * 1900) + "/file"),
    "a_path_too_long": (lambda side: None, "./" * 2100 + "file"),
    "itself_below": (lambda side: side.folder("folder/below"), "folder/below"),
}


def _point(call: str, place: str) -> Case:
    def pointed(side: Side) -> Generator[None, None, Any]:
        side.file("other", b"other bytes")
        side.folder("folder")
        setting, path = PLACES[place]
        setting(side)
        yield
        came_to = side.changed(lambda: CALLS[call](side, side / path), ".", "other", "folder")
        return came_to, side.tree()

    return pointed


for _call, _place in itertools.product(CALLS, PLACES):
    CASES[f"{_call}-{_place}"] = _point(_call, _place)


# -- times: what a call that succeeds changes, and what one that fails must not

TIMES: dict[str, Callable[[Side], Any]] = {
    "chmod": lambda side: os.chmod(side / "file", 0o600),
    "chmod_the_same": lambda side: os.chmod(side / "file", 0o644),
    "chmod_folder": lambda side: os.chmod(side / "folder", 0o700),
    "truncate": lambda side: os.truncate(side / "file", 4),
    "truncate_to_the_same": lambda side: os.truncate(side / "file", 10),
    "truncate_fails": lambda side: os.truncate(side / "folder", 4),
    "open_truncate": lambda side: opened(side / "file", os.O_WRONLY | os.O_TRUNC),
    "create": lambda side: side.file("new"),
    "create_over": lambda side: opened(side / "file", os.O_WRONLY | os.O_CREAT),
    "unlink": lambda side: os.unlink(side / "file"),
    "mkdir": lambda side: os.mkdir(side / "new"),
    "mkdir_below": lambda side: os.mkdir(side / "folder/new"),
    "rmdir": lambda side: os.rmdir(side / "folder/empty"),
    "rmdir_fails": lambda side: os.rmdir(side / "folder"),
    "rename": lambda side: os.rename(side / "file", side / "new"),
    "rename_into": lambda side: os.rename(side / "file", side / "folder/new"),
    "rename_folder": lambda side: os.rename(side / "folder/empty", side / "new"),
    "rename_over": lambda side: os.rename(side / "file", side / "other"),
    "rename_to_itself": lambda side: os.rename(side / "file", side / "file"),
    "rename_fails": lambda side: os.rename(side / "file", side / "folder"),
    "link": lambda side: os.link(side / "other", side / "folder/new"),
    "setxattr": lambda side: os.setxattr(side / "file", "user.some", b"x"),
    "utime": lambda side: os.utime(side / "file", ns=(1, 1)),
    "utime_omit": lambda side: utimensat(side / "file", (0, UTIME_OMIT), (0, UTIME_OMIT)),
    "utime_folder": lambda side: os.utime(side / "folder", ns=(1, 1)),
    "write": lambda side: side.file("file", b"other bytes"),
    "read": lambda side: Path(side / "file").read_bytes(),
    "list": lambda side: os.listdir(side / "folder"),
}


def _timed(name: str) -> Case:
    def timed(side: Side) -> Generator[None, None, Any]:
        side.file("file")
        side.file("other")
        side.folder("folder")
        side.folder("folder/empty")
        yield
        return side.changed(lambda: TIMES[name](side) and None, ".", "file", "other", "folder", "folder/empty")

    return timed


for _name in TIMES:
    CASES[f"times-{_name}"] = _timed(_name)


@case
def times_of_the_new_name_after_a_rename(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    side.folder("folder")
    yield
    out = []
    for old, new in (("file", "new"), ("folder", "newer")):
        before = os.stat(side / old)
        side.tick()
        os.rename(side / old, side / new)
        after = os.stat(side / new)
        out.append((after.st_ino == before.st_ino, after.st_mtime_ns == before.st_mtime_ns,
                    after.st_ctime_ns > before.st_ctime_ns))  # fmt: skip
    return out


def _set_times(atime: tuple[int, int], mtime: tuple[int, int], kind: str) -> Case:
    def times(side: Side) -> Generator[None, None, Any]:
        utimensat(side.file("file") if kind == "file" else side.folder("file"), (1_000_000_000, 1), (1_100_000_000, 2))
        yield
        before = os.stat(side / "file")
        began = result(lambda: utimensat(side / "file", atime, mtime))
        after = os.stat(side / "file")
        return began, [
            "now" if set_to[1] == UTIME_NOW and abs(new - before.st_ctime_ns) < 60 * 10**9 else new
            for set_to, new in ((atime, after.st_atime_ns), (mtime, after.st_mtime_ns))
        ]

    return times


for _name, _times in {
    "both": ((1_900_000_000, 0), (1_950_000_000, 0)), "nanoseconds": ((100_000_000, 5), (200_000_000, 200_000_001)),
    "now": ((0, UTIME_NOW), (0, UTIME_NOW)), "omit": ((0, UTIME_OMIT), (0, UTIME_OMIT)),
    "only_atime": ((1_900_000_000, 5), (0, UTIME_OMIT)), "only_mtime": ((0, UTIME_OMIT), (1_900_000_000, 5)),
    "after_2038": ((2**31, 0), (2**32, 0)), "before_1970": ((-5, 3), (-7, 4)),
    "too_many_nanoseconds": ((0, 10**9), (0, 0)),
}.items():  # fmt: skip
    CASES[f"utimensat-{_name}"] = _set_times(*_times, "file")
    CASES[f"utimensat-{_name}-folder"] = _set_times(*_times, "folder")


# -- open files


@case
def unlinked_while_open(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    fd = os.open(side / "file", os.O_RDWR)
    os.unlink(side / "file")
    out = [os.fstat(fd).st_nlink, os.pread(fd, 99, 0), os.pwrite(fd, b"more", 6), os.pread(fd, 99, 0)]
    out += [result(lambda: os.ftruncate(fd, 3)), os.fstat(fd).st_size, result(lambda: os.fchmod(fd, 0o600))]
    out += [oct(os.fstat(fd).st_mode), result(lambda: os.utime(fd, ns=(3, 4))), os.fstat(fd).st_mtime_ns]
    out += [result(lambda: os.fsync(fd)), result(lambda: opened(side / "file", os.O_RDONLY))]
    os.close(fd)
    return out


@case
def renamed_over_while_open(side: Side) -> Generator[None, None, Any]:
    side.file("file", b"old")
    side.file("other", b"new bytes")
    yield
    with open(side / "file", "rb") as held:
        os.rename(side / "other", side / "file")
        return held.read(), os.fstat(held.fileno()).st_nlink, Path(side / "file").read_bytes()


@case
def a_folder_removed_while_open(side: Side) -> Generator[None, None, Any]:
    side.folder("folder")
    yield
    fd = os.open(side / "folder", os.O_RDONLY)
    os.rmdir(side / "folder")
    out = [result(lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)), result(lambda: os.mkdir("x", dir_fd=fd)),
           result(lambda: os.listdir(fd)), result(lambda: os.fstat(fd).st_nlink)]  # fmt: skip
    os.close(fd)
    return out


@case
def appending_twice(side: Side) -> Generator[None, None, Any]:
    side.file("file", b"begin ")
    yield
    first, second = (os.open(side / "file", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    for fd, data in ((first, b"one "), (second, b"two "), (first, b"three ")):
        os.write(fd, data)
    where = os.lseek(first, 0, os.SEEK_CUR)
    os.close(first)
    os.close(second)
    return where, Path(side / "file").read_bytes()


@case
def holes_and_sizes(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    fd = os.open(side / "file", os.O_RDWR)
    os.pwrite(fd, b"end", 1 << 20)
    out = [os.fstat(fd).st_size, os.pread(fd, 5, 500), result(lambda: os.ftruncate(fd, -1)),
           result(lambda: os.lseek(fd, -5, os.SEEK_SET)), os.lseek(fd, -2, os.SEEK_END), os.read(fd, 9),
           os.pread(fd, 9, 1 << 30)]  # fmt: skip
    os.close(fd)
    return out


@case
def too_big(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    out = [result(lambda size=size: os.truncate(side / "file", size)) for size in (-1, 2**63 - 1)]  # type: ignore[misc]
    return out, os.stat(side / "file").st_size


@case
def beyond_the_limit_of_a_process(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    kept, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, kept[1]))
        with open(side / "file", "r+b", buffering=0) as file:
            out = [
                result(lambda: os.pwrite(file.fileno(), bytes(100), 9000)),
                os.pwrite(file.fileno(), bytes(100), 8150),
            ]
            return [*out, result(lambda: os.ftruncate(file.fileno(), 10_000)), os.fstat(file.fileno()).st_size]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)


@case
def wrong_ways_of_using_a_descriptor(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    out = []
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH):
        fd = os.open(side / "file", flags)
        out.append([result(lambda: os.pread(fd, 3, 0)), result(lambda: os.pwrite(fd, b"abc", 0)),  # noqa: B023
                    result(lambda: os.ftruncate(fd, 2)), result(lambda: os.fchmod(fd, 0o600)),  # noqa: B023
                    result(lambda: os.fsync(fd)), result(lambda: os.listdir(fd))])  # fmt: skip  # noqa: B023
        os.close(fd)
    fd = os.open(side.root, os.O_RDONLY)
    out.append([result(lambda: os.read(fd, 1)), result(lambda: os.write(fd, b"x")), result(lambda: os.fsync(fd))])
    os.close(fd)
    return out


@case
def a_file_that_runs_is_not_written_to(side: Side) -> Generator[None, None, Any]:
    shutil.copy(shutil.which("cat") or "/bin/cat", side / "program")
    yield
    with subprocess.Popen([side / "program"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write(b"x")
        running.stdin.flush()
        running.stdout.read(1)
        out = [result(lambda: opened(side / "program", os.O_WRONLY)), result(lambda: os.truncate(side / "program", 5)),
               result(lambda: opened(side / "program", os.O_RDONLY))]  # fmt: skip
        running.stdin.close()
    with open(side / "program", "ab"):
        out.append(result(lambda: subprocess.run([side / "program"], stdin=subprocess.DEVNULL, check=True) and None))
    return out


# -- modes


def _umask(mask: int) -> Case:
    def masked(side: Side) -> Generator[None, None, Any]:
        yield
        kept = os.umask(mask)
        try:
            opened(side / "file", os.O_CREAT | os.O_WRONLY, 0o777)
            opened(side / "special", os.O_CREAT | os.O_WRONLY, 0o4755)
            os.mkdir(side / "folder", 0o777)
            os.mkdir(side / "sticky", 0o1777)
            os.mknod(side / "node", 0o666 | stat.S_IFREG)
        finally:
            os.umask(kept)
        return [side.mode(name) for name in ("file", "special", "folder", "sticky", "node")]

    return masked


for _mask in (0o000, 0o022, 0o077, 0o151, 0o777):
    CASES[f"umask-{_mask:03o}"] = _umask(_mask)


@case
def every_mode(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    side.folder("folder")
    yield
    out = []
    for mode in (0o0000, 0o0111, 0o0444, 0o0777, 0o1644, 0o2755, 0o4755, 0o7777):
        for name in ("file", "folder"):
            os.chmod(side / name, mode)
            out.append(side.mode(name))
    return out


@case
def set_id_bits_go_at_a_write(side: Side) -> Generator[None, None, Any]:
    for name in ("written", "truncated", "owned"):
        side.file(name, mode=0o6755)
    yield
    with open(side / "written", "r+b", buffering=0) as file:
        file.write(b"x")
    os.truncate(side / "truncated", 3)
    os.chown(side / "owned", -1, os.getegid())
    return [side.mode(name) for name in ("written", "truncated", "owned")]


@case
def a_folder_with_a_group_bit(side: Side) -> Generator[None, None, Any]:
    side.folder("folder", 0o2755)
    yield
    os.mkdir(side / "folder/below")
    side.file("folder/file")
    return side.mode("folder/below"), side.mode("folder/file")


@case
def reading_and_writing_are_what_the_mode_says(side: Side) -> Generator[None, None, Any]:
    modes = (0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600, 0o700)
    for mode in modes:
        side.file(f"{mode}", mode=mode)
    yield
    return [
        result(lambda: opened(side / f"{mode}", flags))  # noqa: B023
        for mode in modes for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC)
    ]  # fmt: skip


@case
def made_with_a_mode_that_forbids_what_is_opened(side: Side) -> Generator[None, None, Any]:
    yield
    fd = os.open(side / "file", os.O_CREAT | os.O_RDWR, 0)
    os.write(fd, b"x")
    out = [os.pread(fd, 5, 0), side.mode("file"), result(lambda: opened(side / "file", os.O_RDONLY))]
    os.close(fd)
    return out


# -- names


@case
def names_are_bytes(side: Side) -> Generator[None, None, Any]:
    names = [
        b"new\nline",
        b"\xff\xfe",
        b" ",
        b"-",
        b"~",
        b"\x01",
        b"a" * 255,
        "é".encode() * 127,
        b"e\xcc\x81",
        b"\xc3\xa9",
    ]
    root = os.fsencode(side.root)
    for name in names:
        with open(root + b"/" + name, "wb") as file:
            file.write(name)
    yield
    return sorted((name, Path(os.fsdecode(root + b"/" + name)).read_bytes()) for name in os.listdir(root))


@case
def renames_of_folders(side: Side) -> Generator[None, None, Any]:
    for name in ("full", "empty", "full/below", "deep"):
        side.folder(name)
    side.file("full/file")
    side.file("file")
    yield
    pairs = [("full", "empty"), ("empty", "full"), ("deep", "full"), ("deep", "deep/x"), ("empty", "empty/below/x"),
             ("empty", "file"), ("file", "empty"), ("empty/..", "x"), ("file", "."), ("empty", "empty"),
             ("empty", "none/x"), ("empty/below", "moved"), ("moved", "deep"), (".", "x")]  # fmt: skip
    out = [result(lambda: os.rename(side / old, side / new)) for old, new in pairs]  # noqa: B023
    return out, side.tree()


@case
def rename_flags(side: Side) -> Generator[None, None, Any]:
    side.file("first", b"first")
    side.file("second", b"second")
    side.file(".waits", b"waits")
    side.folder("folder")
    yield
    pairs = [("first", "second", 1), ("first", "none", 2), ("none", "first", 2), ("first", "second", 3),
             ("first", "new", 1), ("new", "second", 2), (".waits", "second", 2), ("first", "second", 8),
             ("folder", "other", 1)]  # fmt: skip
    out = [result(lambda: renameat2(side / old, side / new, flags)) for old, new, flags in pairs]  # noqa: B023
    return out, {name: Path(side / name).read_bytes() for name in sorted(os.listdir(side.root)) if name[0] not in "fo"}


@case
def folders_50_deep(side: Side) -> Generator[None, None, Any]:
    path = ""
    for level in range(50):
        path = f"{path}{level:02}/"
        os.mkdir(side / path)
    side.file(path + "file")
    yield
    bottom = Path(side / (path + "file")).read_bytes()
    os.rename(side / "00/01", side / "01")
    moved = Path(side / (path[3:] + "file")).read_bytes()
    shutil.rmtree(side / "01")
    return bottom, moved, os.listdir(side.root)


@case
def the_number_of_names(side: Side) -> Generator[None, None, Any]:
    for number in range(700):
        opened(side / f"{number:04}", os.O_CREAT | os.O_WRONLY)
    yield
    return sorted(os.listdir(side.root))


# -- what is no file or folder


@case
def kinds_of_nodes(side: Side) -> Generator[None, None, Any]:
    yield

    def bind() -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
            fd = os.open(side.root, os.O_PATH)
            try:
                bound.bind(f"/proc/self/fd/{fd}/socket")
            finally:
                os.close(fd)

    return [result(lambda: os.symlink("target", side / "link")), result(lambda: os.mkfifo(side / "fifo")), result(bind)]


@case
def nodes_over_names_that_are_taken(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    return [result(lambda: os.symlink("target", side / "file")), result(lambda: os.mkfifo(side / "file"))]


@case
def a_hard_link_counts(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    os.link(side / "file", side / "new")
    return [os.stat(side / name).st_nlink for name in ("file", "new")]


@case
def a_hard_link_has_the_bytes(side: Side) -> Generator[None, None, Any]:
    os.setxattr(side.file("file", mode=0o640), "user.some", b"value")
    yield
    os.link(side / "file", side / "new")
    os.unlink(side / "file")
    return Path(side / "new").read_bytes(), side.mode("new"), os.getxattr(side / "new", "user.some")


@case
def another_owner(side: Side) -> Generator[None, None, Any]:
    side.file("file")
    yield
    return result(lambda: os.chown(side / "file", 12345, 12345)), os.stat(side / "file").st_uid == 12345


@case
def a_file_without_a_name(side: Side) -> Generator[None, None, Any]:
    yield
    return result(lambda: opened(str(side.root), os.O_TMPFILE | os.O_RDWR))


def settings() -> Iterator[tuple[str, bool]]:
    """Every case as it is and, where its setting makes files that matter to it, with those taken in."""
    for name in CASES:
        yield name, False
        if name.partition("-")[2] not in PLACES or "file" in name:
            yield name, True
