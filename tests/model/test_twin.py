"""import/ against a twin directory of the native file system: the same calls, the same results, the same errno.

The intake runs behind, and `mixfs wait` is one of the calls: that a file is taken in may never show in what calls say.
Two things differ by design and are put right here: a hard link is a second file of the same content, and attributes
that tell what a picture is (`user.mixfs.*`) are shown in addition.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from live import Live, living, needs_fuse
from profiles import settings_for

pytestmark = [pytest.mark.mount, needs_fuse]

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOREPLACE, _EXCHANGE = 1, 2
_numbers = itertools.count()

# Names of every kind: taken in, kept waiting, no UTF-8, and a few that are folders as often as files.
NAMES = [b"a.png", b"b.txt", b"c.part", b".hidden", b"\xff\xfe.bin", b"new\nline", b"d", b"e", b"n" * 255]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda parts: b"/".join(parts))
# Often the same few, so that calls meet.
NEAR = st.one_of(st.sampled_from([b"a.png", b"b.txt", b"c.part", b"d", b"e", b"d/a.png", b"d/e", b"d/e/b.txt"]), PATHS)
OFFSETS = st.one_of(st.integers(0, 300), st.sampled_from([4095, 4096, 131071, 131072, 200_000]))
DATA = st.one_of(
    st.binary(max_size=64),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(1, 255), st.sampled_from([4096, 5000, 140_000])),
)
MODES = st.sampled_from([0o644, 0o600, 0o400, 0o000, 0o755, 0o4755, 0o777])
FOLDER_MODES = st.sampled_from([0o755, 0o700, 0o777, 0o500, 0o1777])
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
MORE = st.sets(st.sampled_from([os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY]), max_size=3).map(
    lambda flags: sum(flags)
)
XATTRS = st.sampled_from(["user.one", "user.two"])

Result = tuple[str, Any]


def outcome(call: Callable[[], Any]) -> Result:
    """What a call came to: its value, or its errno by name."""
    try:
        return "ok", call()
    except OSError as error:
        return "error", errno.errorcode[error.errno or 0]


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    if _LIBC.renameat2(-100, old, -100, new, flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def shown_xattrs(path: bytes | int) -> dict[str, bytes]:
    names = [name for name in os.listxattr(path) if not name.startswith("user.mixfs.") and name != "user.mime_type"]
    return {name: os.getxattr(path, name) for name in names}


@dataclass
class Open:
    """One file that is open on both sides."""

    mount: int
    twin: int
    writable: bool
    # Reading through a map needs O_RDWR or O_RDONLY.
    readable: bool


@dataclass
class Sides:
    """Where the twins lie; shared by all runs of one test."""

    live: Live
    native: Path
    count: Iterator[int] = field(default_factory=itertools.count)


SIDES: list[Sides] = []


class Twin(RuleBasedStateMachine):
    """Every rule makes the same call on both sides and compares."""

    @initialize(furnished=st.booleans())
    def begin(self, furnished: bool) -> None:
        sides = SIDES[-1]
        name = f"run {next(sides.count)}"
        self.live = sides.live
        self.mount = os.fsencode(sides.live.point / "import" / name)
        self.twin = os.fsencode(sides.native / name)
        self.open: list[Open] = []
        self.agree = True
        for root in (self.mount, self.twin):
            os.mkdir(root)
            if furnished:
                # Calls need something to meet: files that are taken in, files that wait, folders in folders.
                for folder in (b"d", b"d/e", b"e"):
                    os.mkdir(root + b"/" + folder)
                for number, path in enumerate((b"a.png", b"c.part", b"d/a.png", b"d/e/b.txt")):
                    Path(os.fsdecode(root + b"/" + path)).write_bytes(b"%d" % number * 3000)
        if furnished:
            self.live.take_in()

    def both(self, call: Callable[[bytes], Any]) -> Result:
        return self.agreed(outcome(lambda: call(self.mount + b"/")), outcome(lambda: call(self.twin + b"/")))

    def agreed(self, on_mount: Result, on_twin: Result) -> Result:
        self.agree = on_mount == on_twin
        assert self.agree, f"here {on_mount}, on the native file system {on_twin}"
        return on_mount

    def pick(self, number: int) -> Open:
        return self.open[number % len(self.open)]

    def on_open(self, held: Open, call: Callable[[int], Any]) -> Result:
        return self.agreed(outcome(lambda: call(held.mount)), outcome(lambda: call(held.twin)))

    # -- open files

    @rule(path=NEAR, access=ACCESS, more=MORE, mode=MODES)
    def open_file(self, path: bytes, access: int, more: int, mode: int) -> None:
        if more & os.O_DIRECTORY and more & os.O_CREAT:
            # Since Linux 6.4 EINVAL on some file systems' open, before it was the file system's choice.
            more &= ~os.O_CREAT
        fds: list[int] = []

        def call(root: bytes) -> None:
            fds.append(os.open(root + path, access | more, mode))

        if self.both(call)[0] == "ok":
            if stat.S_ISREG(os.fstat(fds[0]).st_mode) and len(self.open) < 6:
                self.open.append(Open(fds[0], fds[1], access != os.O_RDONLY, access != os.O_WRONLY))
            else:
                for fd in fds:
                    os.close(fd)

    @rule(path=NEAR, data=DATA)
    def write_whole(self, path: bytes, data: bytes) -> None:
        """As `cp` does: there is something to take in behind."""

        def call(root: bytes) -> None:
            with open(root + path, "wb") as file:
                file.write(data)

        self.both(call)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), data=DATA, offset=OFFSETS)
    def pwrite(self, number: int, data: bytes, offset: int) -> None:
        self.on_open(self.pick(number), lambda fd: os.pwrite(fd, data, offset))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), data=DATA)
    def write(self, number: int, data: bytes) -> None:
        self.on_open(self.pick(number), lambda fd: os.write(fd, data))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), size=st.sampled_from([1, 100, 5000, 300_000]), offset=OFFSETS)
    def pread(self, number: int, size: int, offset: int) -> None:
        self.on_open(self.pick(number), lambda fd: os.pread(fd, size, offset))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), size=OFFSETS)
    def ftruncate(self, number: int, size: int) -> None:
        self.on_open(self.pick(number), lambda fd: os.ftruncate(fd, size))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), data=st.binary(min_size=1, max_size=64), offset=OFFSETS)
    def map_and_write(self, number: int, data: bytes, offset: int) -> None:
        held = self.pick(number)
        if not (held.writable and held.readable) or os.fstat(held.twin).st_size < offset + len(data):
            return

        def call(fd: int) -> bytes:
            with mmap.mmap(fd, 0) as mapped:
                before = mapped[: offset + len(data)]
                mapped[offset : offset + len(data)] = data
                mapped.flush()
                return before

        self.on_open(held, call)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), data_only=st.booleans())
    def fsync(self, number: int, data_only: bool) -> None:
        self.on_open(self.pick(number), os.fdatasync if data_only else os.fsync)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5))
    def fstat(self, number: int) -> None:
        def call(fd: int) -> tuple[int, int, bool]:
            status = os.fstat(fd)
            return status.st_mode, status.st_size, status.st_nlink == 0

        self.on_open(self.pick(number), call)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5), mode=MODES)
    def fchmod(self, number: int, mode: int) -> None:
        self.on_open(self.pick(number), lambda fd: os.fchmod(fd, mode))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 5))
    def close(self, number: int) -> None:
        held = self.pick(number)
        self.open.remove(held)
        self.on_open(held, os.close)

    # -- names

    @rule(path=NEAR)
    def unlink(self, path: bytes) -> None:
        self.both(lambda root: os.unlink(root + path))

    @rule(path=NEAR, mode=FOLDER_MODES)
    def mkdir(self, path: bytes, mode: int) -> None:
        self.both(lambda root: os.mkdir(root + path, mode))

    @rule(path=NEAR)
    def rmdir(self, path: bytes) -> None:
        self.both(lambda root: os.rmdir(root + path))

    @rule(old=NEAR, new=NEAR, flags=st.sampled_from([0, 0, 0, _NOREPLACE, _EXCHANGE]))
    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self.both(lambda root: renameat2(root + old, root + new, flags))

    @rule(old=NEAR, new=NEAR)
    def link(self, old: bytes, new: bytes) -> None:
        def call(root: bytes) -> None:
            os.link(root + old, root + new)
            if root.startswith(self.twin):
                # A second file of the same content.
                status = os.stat(root + old)
                os.unlink(root + new)
                with open(root + old, "rb") as source, open(root + new, "wb") as target:
                    shutil.copyfileobj(source, target)
                for name, value in shown_xattrs(root + old).items():
                    os.setxattr(root + new, name, value)
                os.utime(root + new, ns=(status.st_atime_ns, status.st_mtime_ns))
                os.chmod(root + new, status.st_mode)

        self.both(call)

    @rule(path=NEAR)
    def symlink(self, path: bytes) -> None:
        """Refused with the errno that programs expect; a name that is taken is said first."""
        result = outcome(lambda: os.symlink("x", self.mount + b"/" + path))
        assert result[0] == "error"

    # -- what is known of a name

    @rule(path=NEAR, mode=MODES)
    def chmod(self, path: bytes, mode: int) -> None:
        self.both(lambda root: os.chmod(root + path, mode))

    @rule(path=NEAR, size=OFFSETS)
    def truncate(self, path: bytes, size: int) -> None:
        self.both(lambda root: os.truncate(root + path, size))

    @rule(path=NEAR, mtime_ns=st.integers(-(10**17), 4 * 10**18))
    def utime(self, path: bytes, mtime_ns: int) -> None:
        def call(root: bytes) -> int:
            os.utime(root + path, ns=(mtime_ns, mtime_ns))
            return os.stat(root + path).st_mtime_ns

        self.both(call)

    @rule(path=NEAR, name=XATTRS, value=st.binary(max_size=40))
    def setxattr(self, path: bytes, name: str, value: bytes) -> None:
        self.both(lambda root: os.setxattr(root + path, name, value))

    @rule(path=NEAR, name=XATTRS)
    def removexattr(self, path: bytes, name: str) -> None:
        self.both(lambda root: os.removexattr(root + path, name))

    @rule(path=NEAR)
    def stat_path(self, path: bytes) -> None:
        def call(root: bytes) -> tuple[int, int]:
            status = os.stat(root + path)
            return status.st_mode, status.st_size if stat.S_ISREG(status.st_mode) else 0

        self.both(call)

    # -- what isn't to be seen

    @rule()
    def wait(self) -> None:
        """`mixfs wait`: what is closed is taken in, and nothing looks another way."""
        self.live.take_in()

    @rule(path=NEAR)
    def fsync_folder(self, path: bytes) -> None:
        def call(root: bytes) -> None:
            fd = os.open(root + path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

        self.both(call)

    # -- both sides whole

    @invariant()
    def same(self) -> None:
        if hasattr(self, "mount"):
            here, there = self.whole(self.mount), self.whole(self.twin)
            self.agree = here == there
            assert self.agree, {
                path: (here.get(path), there.get(path)) for path in {*here, *there} if here.get(path) != there.get(path)
            }

    def whole(self, root: bytes) -> dict[bytes, Any]:
        """Every name below `root`: type, mode, and a file's size, bytes and attributes."""
        out: dict[bytes, Any] = {}

        def walk(folder: bytes, below: bytes) -> None:
            try:
                names = sorted(os.listdir(folder))
            except PermissionError:
                names = [b"(may not be read)"]
            for name in names:
                path, shown = folder + b"/" + name, below + name
                status_or_errno = outcome(lambda path=path: os.lstat(path))  # type: ignore[misc]
                if status_or_errno[0] == "error":
                    out[shown] = status_or_errno
                    continue
                status = status_or_errno[1]
                if stat.S_ISDIR(status.st_mode):
                    out[shown] = (oct(status.st_mode), outcome(lambda path=path: shown_xattrs(path)))  # type: ignore[misc]
                    walk(path, shown + b"/")
                else:
                    out[shown] = (
                        oct(status.st_mode), status.st_size,
                        outcome(lambda path=path: Path(os.fsdecode(path)).read_bytes()),  # type: ignore[misc]
                        outcome(lambda path=path: shown_xattrs(path)),  # type: ignore[misc]
                    )  # fmt: skip

        walk(root, b"")
        return out

    def teardown(self) -> None:
        if not hasattr(self, "mount"):
            return
        for held in self.open:
            for fd in (held.mount, held.twin):
                os.close(fd)
        self.open.clear()
        try:
            if self.agree:
                self.live.take_in()
                self.same()
        finally:
            for root in (self.mount, self.twin):
                # An ordinary user's folders that may not be searched must be opened first.
                for folder, folders, _ in os.walk(root):
                    for name in folders:
                        os.chmod(os.path.join(folder, name), 0o755)
                shutil.rmtree(root)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    path = tmp_path_factory.mktemp("twin")
    native = path / "native"
    native.mkdir()
    with living(path) as live:
        live.start()
        held = Sides(live, native)
        SIDES.append(held)
        yield held
        SIDES.pop()
        live.stop()


def test_import_is_a_directory_like_any_other(sides: Sides) -> None:
    run_state_machine_as_test(Twin, settings=settings_for(examples=25, steps=40))
    with contextlib.suppress(FileNotFoundError):
        assert "handler_failed" not in sides.live.log.read_text()
