"""The adapter over a tree that does what the test says: errors, lookup counts, inode numbers."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import structlog
import trio
import trio.testing

from mixfs import Library
from mixfs.errors import NotFoundError, Outdated, ReadOnlyError
from mixfs.fuse import operations as operations_module
from mixfs.fuse.operations import Operations
from mixfs.ids import ino_of, key16
from mixfs.index.dentries import READ_ONLY_DIR_MODE, READ_ONLY_FILE_MODE, Dentry, fixed
from mixfs.library.staging import StagingArea
from mixfs.media.samples import make_sample
from mixfs.vfs import inodes as inodes_module
from mixfs.vfs.context import Context
from mixfs.vfs.inodes import ROOT_INO, Inodes
from mixfs.vfs.staging import Staging
from mixfs.vfs.tree import Tree

ROOT = fixed("/")
CONTEXT = SimpleNamespace(uid=0, gid=0, pid=1, umask=0)


def file(name: bytes, key: bytes | None = None) -> Dentry:
    key = key or b"P" + name.rjust(16, b"\0")
    return Dentry(name, key, inodes_module.ino_of(key), READ_ONLY_FILE_MODE, 5, 1, 1)


class FakeTree:
    """A root with the given files; `fail` makes every question raise."""

    def __init__(self, *dentries: Dentry) -> None:
        self.dentries = list(dentries)
        self.fail: BaseException | None = None
        self.context = SimpleNamespace(uid=1, gid=2)
        self.open_nodes: dict[bytes, object] = {}
        self.library = SimpleNamespace(read=lambda: contextlib.nullcontext(object()), root="/")

    def _check(self) -> None:
        if self.fail is not None:
            raise self.fail

    def lookup(self, view: object, directory: bytes, name: bytes) -> Dentry | None:
        self._check()
        return next((dentry for dentry in self.dentries if dentry.name == name), None)

    def attr(self, view: object, key: bytes) -> Dentry:
        self._check()
        if key == ROOT:
            return Dentry(b"", ROOT, 1, READ_ONLY_DIR_MODE, 0, 1, 1)
        return next(dentry for dentry in self.dentries if dentry.key == key)

    def entries(self, view: object, directory: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        self._check()
        for dentry in self.dentries:
            if dentry.name > after:
                yield dentry, dentry.name

    async def fsync_directory(self, top: bytes) -> None:
        self._check()


def adapter(*dentries: Dentry) -> tuple[Operations, FakeTree]:
    tree = FakeTree(*dentries)
    return Operations(tree, Inodes(ROOT)), tree  # type: ignore[arg-type]


CALLS: dict[str, Callable[[Operations], Any]] = {
    "lookup": lambda ops: ops.lookup(ROOT_INO, b"a", CONTEXT),
    "getattr": lambda ops: ops.getattr(ROOT_INO, CONTEXT),
    "read": lambda ops: ops.read(7, 0, 10),
    "write": lambda ops: ops.write(7, 0, b"x"),
    "flush": lambda ops: ops.flush(7),
    "fsync": lambda ops: ops.fsync(7, False),
    "release": lambda ops: ops.release(7),
    "fsyncdir": lambda ops: ops.fsyncdir(8, False),
    "readdir": lambda ops: ops.readdir(8, 0, None),
}


class FailingHandle:
    """A handle whose node can't be had."""

    writable = True

    def __init__(self, tree: FakeTree) -> None:
        self._tree = tree

    @property
    def node(self) -> object:
        self._tree._check()
        return SimpleNamespace()


def with_handles(ops: Operations, tree: FakeTree) -> Operations:
    ops._handles[7] = FailingHandle(tree)  # type: ignore[assignment]
    ops._directories[8] = operations_module._Directory(ROOT)
    return ops


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("raised", "expected", "logged"),
    [
        (ZeroDivisionError("by accident"), errno.EIO, True),
        (AssertionError(), errno.EIO, True),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC, True),
        (ReadOnlyError("no"), ReadOnlyError("no").errno, False),
        (Outdated("changed"), Outdated("changed").errno, False),
    ],
)
async def test_what_a_handler_raises_becomes_an_errno(call: str, raised: Exception, expected: int, logged: bool):
    ops, tree = adapter()
    with_handles(ops, tree)
    tree.fail = raised
    with structlog.testing.capture_logs() as logs, pytest.raises(pyfuse3.FUSEError) as caught:
        await CALLS[call](ops)
    # A node that is gone is asked for by its name again.
    gone = call == "getattr" and isinstance(raised, NotFoundError)
    assert caught.value.errno == (errno.ESTALE if gone else expected)
    assert bool(logs) is logged and (not logged or logs[0]["operation"] == call)


async def test_every_request_has_a_handler_that_lets_nothing_out():
    unwrapped = [
        name
        for name in dir(pyfuse3.Operations)
        if not name.startswith("_") and name in vars(Operations) and callable(vars(Operations)[name])
        and not hasattr(vars(Operations)[name], "__wrapped__")
    ]  # fmt: skip
    assert set(unwrapped) <= {"init", "forget", "stacktrace"}


async def test_an_ino_or_handle_that_we_never_gave_is_refused():
    ops, _ = adapter()
    for request, expected in (
        (ops.getattr(99, CONTEXT), errno.ESTALE),
        (ops.lookup(99, b"a", CONTEXT), errno.ESTALE),
        (ops.read(99, 0, 1), errno.EBADF),
        (ops.opendir(99, CONTEXT), errno.ESTALE),
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await request
        assert caught.value.errno == expected
    await ops.forget([(99, 3)])


async def test_a_node_that_is_gone_is_looked_up_again():
    """ESTALE makes the kernel look the name up anew, where ENOENT would be the answer for good."""
    a = file(b"a")
    ops, tree = adapter(a)
    entry = await ops.lookup(ROOT_INO, b"a", CONTEXT)
    tree.fail = NotFoundError("gone")
    for request in (
        ops.getattr(entry.st_ino, CONTEXT),
        ops.opendir(ROOT_INO, CONTEXT),
        ops.getxattr(entry.st_ino, b"user.a", CONTEXT),
        ops.listxattr(entry.st_ino, CONTEXT),
        ops.setxattr(entry.st_ino, b"user.a", b"", CONTEXT),
        ops.removexattr(entry.st_ino, b"user.a", CONTEXT),
        ops.link(entry.st_ino, ROOT_INO, b"b", CONTEXT),
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await request
        assert caught.value.errno == errno.ESTALE


async def test_lookups_are_counted_when_they_succeed_and_forgotten():
    a = file(b"a")
    ops, tree = adapter(a)
    for _ in range(3):
        entry = await ops.lookup(ROOT_INO, b"a", CONTEXT)
    nothing = await ops.lookup(ROOT_INO, b"none", CONTEXT)
    assert nothing.st_ino == 0 and nothing.entry_timeout > 3600
    tree.fail = ZeroDivisionError()
    with pytest.raises(pyfuse3.FUSEError):
        await ops.lookup(ROOT_INO, b"a", CONTEXT)
    assert entry.st_ino == ino_of(a.key) and len(ops.inodes) == 2
    await ops.forget([(entry.st_ino, 2)])
    assert ops.inodes.remembered(a.key) == entry.st_ino
    await ops.forget([(entry.st_ino, 1)])
    assert ops.inodes.remembered(a.key) is None and len(ops.inodes) == 1
    await ops.forget([(ROOT_INO, 1000)])
    assert ops.inodes.key(ROOT_INO) == ROOT


async def test_a_listing_counts_what_the_kernel_took_and_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch):
    dentries = [file(b"%03d" % n) for n in range(25)]
    ops, _ = adapter(*dentries)
    given: list[tuple[bytes, int]] = []
    room = 0

    def reply(token: object, name: bytes, entry: pyfuse3.EntryAttributes, next_id: int) -> bool:
        nonlocal room
        if not room:
            return False
        room -= 1
        given.append((name, next_id))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    fh = await ops.opendir(ROOT_INO, CONTEXT)
    at, pages = 0, 0
    while True:
        room, before = 10, len(given)
        await ops.readdir(fh, at, None)
        assert len(ops.inodes) == 1 + len(given)
        if len(given) == before:
            break
        at, pages = given[-1][1], pages + 1
    assert pages == 3 and [name for name, _ in given] == [dentry.name for dentry in dentries]
    # seekdir(3) into the middle, then rewinddir(3).
    del given[:]
    room = 2
    await ops.readdir(fh, 7, None)
    assert [name for name, _ in given] == [b"007", b"008"]
    del given[:]
    room = 1
    await ops.readdir(fh, 0, None)
    assert [name for name, _ in given] == [b"000"]
    await ops.forget([(ino_of(dentries[0].key), 2), (ino_of(dentries[7].key), 2)])
    await ops.forget([(ino_of(dentry.key), 1) for dentry in dentries[1:7]])
    assert len(ops.inodes) == 1 + 25 - 8
    await ops.releasedir(fh)


async def test_two_nodes_whose_inos_collide_are_kept_apart(monkeypatch: pytest.MonkeyPatch):
    def colliding(key: bytes, salt: int = 0) -> int:
        return 1000 + salt if key in (b"P" + b"1" * 16, b"P" + b"2" * 16) else ino_of(key, salt)

    monkeypatch.setattr(inodes_module, "ino_of", colliding)
    kept: dict[bytes, int] = {}
    one, two = file(b"one", b"P" + b"1" * 16), file(b"two", b"P" + b"2" * 16)
    tree = FakeTree(one, two)
    ops = Operations(tree, Inodes(ROOT, keep=kept.__setitem__))  # type: ignore[arg-type]
    first, second = [await ops.lookup(ROOT_INO, name, CONTEXT) for name in (b"one", b"two")]
    assert (first.st_ino, second.st_ino) == (1000, 1001)
    assert kept == {two.key: 1001}
    assert (ops.inodes.key(1000), ops.inodes.key(1001)) == (one.key, two.key)
    await ops.forget([(1000, 1)])
    assert (await ops.lookup(ROOT_INO, b"two", CONTEXT)).st_ino == 1001, "the number stays when the other is gone"
    again = Inodes(ROOT, collided=kept)
    assert again.ino(two.key, 1000) == 1001, "and after a remount"


def test_what_is_forgotten_keeps_no_room():
    inodes = Inodes(ROOT)
    kept = [inodes.ino(key) for key in (b"P%016d" % number for number in range(50_000))]
    for number, ino in enumerate(kept):
        inodes.remember(ino, b"P%016d" % number)
    much = sys.getsizeof(inodes._keys)
    for ino in kept[10:]:
        inodes.forget(ino, 1)
    assert sys.getsizeof(inodes._keys) < much / 4
    assert len(inodes) == 11 and inodes.key(kept[3]) == b"P%016d" % 3
    inodes.remember(kept[20], b"P%016d" % 20)
    assert inodes.lookups() == 11


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
async def test_a_read_only_mount_refuses_changes(flags: int):
    tree = FakeTree(file(b"a"))
    ops = Operations(tree, Inodes(ROOT), read_only=True)  # type: ignore[arg-type]
    entry = await ops.lookup(ROOT_INO, b"a", CONTEXT)
    for request in (
        ops.open(entry.st_ino, flags, CONTEXT),
        ops.mkdir(ROOT_INO, b"d", 0o755, CONTEXT),
        ops.create(ROOT_INO, b"f", 0o644, flags, CONTEXT),
        ops.unlink(ROOT_INO, b"a", CONTEXT),
        ops.rename(ROOT_INO, b"a", ROOT_INO, b"b", 0, CONTEXT),
        ops.setxattr(entry.st_ino, b"user.a", b"", CONTEXT),
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await request
        assert caught.value.errno == errno.EROFS


async def test_thumbnails_that_are_waited_for_keep_neither_a_folder_nor_the_writers_waiting(tmp_path: Path):
    """The kernel has one lookup at a time in a folder, and writers have sixteen threads: none of these waits."""
    with Library.open(tmp_path / "library", map_size=1 << 22) as library:
        session = library.create_session("s")
        for n in range(20):
            library.import_bytes(make_sample("a1111")[1] + bytes([n]), f"{n}.png", session_id=session.id)
        context = Context(library.root, 0)
        tree = Tree(library, context, Staging(StagingArea(library.root / "staging")))
        ops = Operations(tree, Inodes(ROOT))
        folder = b"t" + key16(session.id)
        ops.inodes.remember(77, folder)
        found = [await ops.lookup(77, b"%d.png.png" % n, CONTEXT) for n in range(20)]
        assert all(entry.attr_timeout == entry.entry_timeout == 0 for entry in found)
        sizes: dict[int, int] = {}

        async def ask(ino: int) -> None:
            sizes[ino] = (await ops.getattr(ino, CONTEXT)).st_size

        async with trio.open_nursery() as nursery:
            for entry in found:
                nursery.start_soon(ask, entry.st_ino)
            await trio.testing.wait_all_tasks_blocked()
            assert await tree.in_thread(lambda: 1) == 1 and not sizes
            made = {}
            while (digest := library.thumbnails.next_asked(wait=False)) is not None:
                row = library.thumbnails.make(digest)
                assert row is not None
                made[digest] = row
            library.thumbnails.record(made)
            library.thumbnails.tell(made)
        assert len(sizes) == 20 and all(sizes.values())
        tree.close()
