"""Files between their last write and their commit: failures of the commit, and what a killed mount left."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from mixfs.blobs import Intake
from mixfs.blobs import intake as intake_module
from mixfs.blobs import local as local_module
from mixfs.blobs.copying import copy_data
from mixfs.errors import LibraryReplaced, NotFoundError
from mixfs.ids import key16
from mixfs.journal import frames
from mixfs.library import editing, gc
from mixfs.library.api import Library
from mixfs.library.staging import StagingArea, sweep
from mixfs.library.transaction import Txn
from mixfs.media.samples import make_sample
from mixfs.records import Folder, Receipt, Session
from mixfs.vfs import attributes, files, naming, renaming
from mixfs.vfs import staging as staging_module
from mixfs.vfs.context import Context
from mixfs.vfs.recovering import recover
from mixfs.vfs.staging import Staging
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import IMPORT

DATA = make_sample("a1111")[1]
TIME_NS = 1_600_000_000_123_456_789


async def put(tree: Tree, name: bytes, data: bytes = DATA, mtime_ns: int = TIME_NS) -> bytes:
    """A file that a program wrote into import/ and closed; returns its node key."""
    dentry, handle = await naming.create(tree, IMPORT, name, 0o640, os.O_RDWR)
    await files.write(tree, handle, 0, data)
    await files.flush(tree, handle)
    await files.release(tree, handle)
    await attributes.set_attributes(tree, dentry.key, mtime_ns=mtime_ns)
    return dentry.key


async def rewrite(tree: Tree, key: bytes, data: bytes) -> None:
    """What a program does that opens a file with O_TRUNC."""
    with tree.library.read() as view:
        handle = files.open_file(tree, view, key, os.O_WRONLY | os.O_TRUNC)
    await files.truncate_open(tree, handle)
    await files.write(tree, handle, 0, data)
    await files.flush(tree, handle)
    await files.release(tree, handle)


async def save(tree: Tree, key: bytes, way: str) -> None:
    """A new version of a.bin, in one of the ways in which editors save."""
    if way == "over it":
        await put(tree, b".a.tmp", b"new")
        await renaming.rename(tree, IMPORT, b".a.tmp", IMPORT, b"a.bin")
    elif way == "aside":
        await renaming.rename(tree, IMPORT, b"a.bin", IMPORT, b".a.tmp")
        await put(tree, b"a.bin", b"new")
        await naming.unlink(tree, IMPORT, b".a.tmp")
    else:
        await rewrite(tree, key, b"new")


async def content(tree: Tree, name: bytes) -> bytes:
    with tree.library.read() as view:
        dentry = tree.lookup(view, IMPORT, name)
        assert dentry is not None
        handle = files.open_file(tree, view, dentry.key, os.O_RDONLY)
    try:
        return bytes(await files.read(tree, handle, 0, dentry.size + 1))
    finally:
        await files.release(tree, handle)


def listing(tree: Tree) -> list[bytes]:
    with tree.library.read() as view:
        return [dentry.name for dentry, _ in tree.entries(view, IMPORT, b"")]


def receipts(library: Library) -> list[Receipt]:
    with library.read() as view:
        return sorted(view.records(Receipt), key=lambda receipt: receipt.name)


def placed(library: Library) -> list[bytes]:
    with library.read() as view:
        sessions = list(view.records(Session))
    return sorted(placement.name for session in sessions for placement in library.placements(session.id))


class Full:
    """While `on`, commits find the disk full."""

    def __init__(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self._commit = library.commit
        monkeypatch.setattr(library, "commit", self.commit)

    def commit(self, function: Callable[..., object]) -> object:
        if self.on:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._commit(function)


@pytest.fixture
def full(library: Library, monkeypatch: pytest.MonkeyPatch) -> Full:
    return Full(library, monkeypatch)


@pytest.fixture
def after_kill(tree: Tree, library: Library) -> Iterator[Callable[[], Tree]]:
    """Makes the tree of the next mount, over what the one at hand leaves when it is killed."""
    made: list[Tree] = []

    def kill() -> Tree:
        # What the kernel does for a dead process: the lock of its directory is free.
        os.close(tree.staging._area._lock_fd)
        tree.staging._area._lock_fd = os.open(os.devnull, os.O_RDONLY)
        after = Tree(library, Context(library.root, 1), Staging(StagingArea(library.root / "staging")))
        made.append(after)
        recover(after)
        return after

    yield kill
    for each in made:
        each.close()


async def test_a_file_whose_commit_failed_is_read_written_and_taken_in_later(tree: Tree, full: Full):
    intake = TakingIn(tree)
    key = await put(tree, b"a.png")
    full.on = True
    with pytest.raises(OSError):
        await intake.take_all()
    assert intake.taken == 0 and listing(tree) == [b"a.png"]
    assert await content(tree, b"a.png") == DATA
    full.on = False
    with tree.library.read() as view:
        handle = files.open_file(tree, view, key, os.O_WRONLY)
    await files.write(tree, handle, len(DATA), b"more")
    await files.flush(tree, handle)
    await files.release(tree, handle)
    await intake.take_all()
    assert intake.taken == 1
    assert await content(tree, b"a.png") == DATA + b"more"
    tree.library.blobs.check(receipts(tree.library)[0].digest)


async def test_a_file_whose_commit_failed_is_tried_again_as_it_is(tree: Tree, full: Full):
    intake = TakingIn(tree)
    await put(tree, b"a.png")
    full.on = True
    for _ in range(3):
        with pytest.raises(OSError):
            await intake.take_all()
    assert await content(tree, b"a.png") == DATA
    full.on = False
    await intake.take_all()
    [receipt] = receipts(tree.library)
    assert (receipt.name, receipt.mtime_ns, receipt.mode) == (b"a.png", TIME_NS, 0o640)


async def test_a_kill_after_a_commit_that_failed_loses_nothing(
    tree: Tree, full: Full, library: Library, after_kill: Callable[[], Tree]
):
    intake = TakingIn(tree)
    # The second finds the blob of the first there, with another time.
    times = {b"a.png": TIME_NS, b"b.png": TIME_NS + 1_000_000_001}
    for name, mtime_ns in times.items():
        await put(tree, name, mtime_ns=mtime_ns)
    full.on = True
    for _ in range(2):
        with pytest.raises(OSError):
            await intake.take_all()
    after = after_kill()
    assert listing(after) == [b"a.png", b"b.png"]
    assert [await content(after, name) for name in listing(after)] == [DATA, DATA]
    full.on = False
    await TakingIn(after).take_all()
    found = receipts(library)
    assert [(each.name, each.mtime_ns, each.mode) for each in found] == [
        (name, mtime_ns, 0o640) for name, mtime_ns in times.items()
    ]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_blob_that_gc_takes_before_it_is_named_is_published_again(
    tree: Tree, library: Library, monkeypatch: pytest.MonkeyPatch, known: bool, times: int
):
    """gc looks at what is named by commits, and a file that is being taken in is not yet."""
    if known:
        # Looked at before: what was found out goes with the blob.
        for data in (DATA, b"no picture"):
            library.delete_session(library.import_bytes(data, "a").session_id)
    await put(tree, b"a.png")
    await put(tree, b"b.txt", b"no picture")
    commit, taken = library.commit, []

    def commit_after_gc(function: Callable[..., object]) -> object:
        if len(taken) < times:
            with monkeypatch.context() as patch:
                # gc commits too.
                patch.setattr(library, "commit", commit)
                taken.append(gc.collect(library, trash_days=-1, grace_hours=-1))
        return commit(function)

    monkeypatch.setattr(library, "commit", commit_after_gc)
    assert await TakingIn(tree).take_all() == []
    assert [freed.blobs for freed in taken] == [2] * times
    for receipt in receipts(library):
        library.blobs.check(receipt.digest)
    assert listing(tree) == [b"a.png", b"b.txt"]
    found = next(receipt for receipt in receipts(library) if receipt.name == b"a.png")
    with library.read() as view:
        image, generation = view.image(found.digest), view.generation_of(found.digest)
    assert image is not None and image.problem is None and generation is not None and generation.prompt


async def test_names_that_were_left_for_a_new_version_are_forgotten(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        await put(tree, b"%d.bin" % number)
    await TakingIn(tree).take_all()
    await renaming.rename(tree, IMPORT, b"0.bin", IMPORT, b"0.bin~")
    await renaming.rename(tree, IMPORT, b"1.bin", IMPORT, b"1.bin~")
    assert set(tree.vacated) == {(IMPORT, b"0.bin"), (IMPORT, b"1.bin")}
    monkeypatch.setattr(renaming, "VACATED_S", 0)
    await renaming.rename(tree, IMPORT, b"2.bin", IMPORT, b"2.bin~")
    assert set(tree.vacated) == {(IMPORT, b"2.bin")}


@pytest.mark.parametrize("rewritten", [False, True])
async def test_a_rename_over_a_receipt_that_can_not_be_committed_is_undone(tree: Tree, full: Full, rewritten: bool):
    key = await put(tree, b"a.bin", b"was")
    await TakingIn(tree).take_all()
    if rewritten:
        await rewrite(tree, key, b"old")
    await put(tree, b"a.bin.part", b"new")
    full.on = True
    with pytest.raises(OSError):
        await renaming.rename(tree, IMPORT, b"a.bin.part", IMPORT, b"a.bin")
    assert listing(tree) == [b"a.bin", b"a.bin.part"]
    assert await content(tree, b"a.bin") == (b"old" if rewritten else b"was")
    full.on = False
    await renaming.rename(tree, IMPORT, b"a.bin.part", IMPORT, b"a.bin")
    await TakingIn(tree).take_all()
    assert listing(tree) == [b"a.bin"] and await content(tree, b"a.bin") == b"new"
    assert placed(tree.library) == [b"a.bin"]


async def test_a_kill_amid_a_rename_over_a_receipt_leaves_one_of_both(
    tree: Tree, library: Library, after_kill: Callable[[], Tree]
):
    await put(tree, b"a.bin", b"old")
    await TakingIn(tree).take_all()
    await put(tree, b"a.bin.part", b"new")
    staged = tree.staging.at(IMPORT, b"a.bin.part")
    assert staged is not None
    staged.replaces = receipts(library)[0].placement_id
    tree.staging.rename(staged, IMPORT, b"a.bin")
    after = after_kill()
    assert listing(after) == [b"a.bin"] and await content(after, b"a.bin") == b"new"
    await TakingIn(after).take_all()
    assert listing(after) == [b"a.bin"] and placed(library) == [b"a.bin"]
    assert len(receipts(library)) == 1


async def test_a_kill_amid_the_rename_of_a_new_version_shows_it_once(
    tree: Tree, library: Library, after_kill: Callable[[], Tree]
):
    key = await put(tree, b"a.bin", b"old")
    await TakingIn(tree).take_all()
    await rewrite(tree, key, b"new")
    # The record moved; the kill came before the log said so of the new version.
    monkey = tree.staging.rename
    tree.staging.rename = lambda *arguments: None  # type: ignore[method-assign]
    await renaming.rename(tree, IMPORT, b"a.bin", IMPORT, b"b.bin")
    tree.staging.rename = monkey  # type: ignore[method-assign]
    after = after_kill()
    assert listing(after) == [b"b.bin"] and await content(after, b"b.bin") == b"new"
    await TakingIn(after).take_all()
    assert listing(after) == [b"b.bin"] and placed(library) == [b"b.bin"]


async def test_what_a_log_says_survives_being_written_anew(
    tree: Tree, library: Library, after_kill: Callable[[], Tree], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mixfs.vfs.staging._COMPACT_AT", -(1 << 20))
    await put(tree, b"waits.part", b"waiting")
    await attributes.set_attributes(tree, IMPORT, mtime_ns=TIME_NS)
    tree.staging._compact()
    after = after_kill()
    assert listing(after) == [b"waits.part"] and await content(after, b"waits.part") == b"waiting"
    with library.read() as view:
        assert after.attr(view, IMPORT).mtime_ns == TIME_NS


async def test_a_file_whose_write_failed_waits_until_it_is_written_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, after_kill: Callable[[], Tree]
):
    def fail(self: Intake, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    dentry, handle = await naming.create(tree, IMPORT, b"a.bin", 0o640, os.O_RDWR)
    await files.write(tree, handle, 0, b"half of ")
    with monkeypatch.context() as patched:
        patched.setattr(Intake, "write", fail)
        with pytest.raises(OSError):
            await files.write(tree, handle, 8, b"it")
    await files.flush(tree, handle)
    await files.release(tree, handle)
    # What programs do that don't look: they set its time and mode all the same.
    await attributes.set_attributes(tree, dentry.key, mtime_ns=TIME_NS, mode=0o600)
    intake = TakingIn(tree)
    assert await intake.take_all() == ["a.bin"] and intake.taken == 0
    after = after_kill()
    intake = TakingIn(after)
    assert await intake.take_all() == ["a.bin"] and await content(after, b"a.bin") == b"half of "
    with after.library.read() as view:
        handle = files.open_file(after, view, dentry.key, os.O_WRONLY)
    await files.write(after, handle, 8, b"it")
    await files.flush(after, handle)
    await files.release(after, handle)
    assert await intake.take_all() == []
    assert await content(after, b"a.bin") == b"half of it" and placed(after.library) == [b"a.bin"]


# -- receipts that were removed


class Counted:
    """How many commits a library makes."""

    def __init__(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self._commit = library.commit
        monkeypatch.setattr(library, "commit", self.commit)

    def commit(self, function: Callable[..., object]) -> object:
        self.number += 1
        return self._commit(function)


@pytest.fixture
async def receipted(tree: Tree) -> Tree:
    """A tree with three receipts."""
    for name in (b"a.bin", b"b.bin", b"c.bin"):
        await put(tree, name, b"old " + name)
    await TakingIn(tree).take_all()
    return tree


async def test_many_receipts_are_removed_by_one_commit(receipted: Tree, monkeypatch: pytest.MonkeyPatch):
    tree, counted = receipted, Counted(receipted.library, monkeypatch)
    for name in (b"a.bin", b"b.bin"):
        await naming.unlink(tree, IMPORT, name)
        with pytest.raises(NotFoundError):
            await naming.unlink(tree, IMPORT, name)
    assert listing(tree) == [b"c.bin"] and counted.number == 0
    with tree.library.read() as view:
        assert tree.lookup(view, IMPORT, b"a.bin") is None
    await TakingIn(tree).take_all()
    assert counted.number == 1 and listing(tree) == [b"c.bin"] and not tree.staging.removed
    assert [receipt.name for receipt in receipts(tree.library)] == [b"c.bin"]
    assert placed(tree.library) == [b"a.bin", b"b.bin", b"c.bin"]


async def test_a_kill_brings_no_removed_receipt_back(receipted: Tree, library: Library, after_kill: Callable[[], Tree]):
    await naming.unlink(receipted, IMPORT, b"a.bin")
    await naming.unlink(receipted, IMPORT, b"b.bin")
    await put(receipted, b"b.bin", b"new")
    after = after_kill()
    assert listing(after) == [b"b.bin", b"c.bin"] and await content(after, b"b.bin") == b"new"
    await TakingIn(after).take_all()
    assert [receipt.name for receipt in receipts(library)] == [b"b.bin", b"c.bin"]
    assert await content(after, b"b.bin") == b"new"


async def test_the_name_of_a_removed_receipt_is_free(receipted: Tree):
    """For a new file, for a rename, for a link, for a folder; and each may be removed again."""
    tree = receipted
    for name in (b"a.bin", b"b.bin"):
        await naming.unlink(tree, IMPORT, name)
    await put(tree, b"a.bin", b"new")
    await naming.unlink(tree, IMPORT, b"a.bin")
    assert listing(tree) == [b"c.bin"]
    await put(tree, b"a.bin", b"newer")
    await TakingIn(tree).take_all()
    assert listing(tree) == [b"a.bin", b"c.bin"] and await content(tree, b"a.bin") == b"newer"
    await naming.unlink(tree, IMPORT, b"a.bin")
    await naming.make_directory(tree, IMPORT, b"a.bin", 0o755)
    await renaming.rename(tree, IMPORT, b"c.bin", IMPORT, b"b.bin")
    assert listing(tree) == [b"a.bin", b"b.bin"] and await content(tree, b"b.bin") == b"old c.bin"
    await naming.unlink(tree, IMPORT, b"b.bin")
    with pytest.raises(NotFoundError):
        await renaming.rename(tree, IMPORT, b"b.bin", IMPORT, b"d.bin")
    await naming.remove_directory(tree, IMPORT, b"a.bin")
    await TakingIn(tree).take_all()
    assert listing(tree) == [] and receipts(tree.library) == []


async def test_a_file_renamed_to_the_name_of_a_removed_receipt_is_no_new_version(receipted: Tree):
    tree = receipted
    await put(tree, b"new.part", b"new")
    await naming.unlink(tree, IMPORT, b"a.bin")
    await renaming.rename(tree, IMPORT, b"new.part", IMPORT, b"a.bin")
    await TakingIn(tree).take_all()
    assert placed(tree.library) == [b"a (2).bin", b"a.bin", b"b.bin", b"c.bin"]


@pytest.mark.parametrize("change", ["write", "attributes", "nothing"])
async def test_who_has_a_removed_receipt_open_goes_on_with_it(receipted: Tree, change: str):
    tree = receipted
    with tree.library.read() as view:
        dentry = tree.lookup(view, IMPORT, b"a.bin")
        assert dentry is not None
        handle = files.open_file(tree, view, dentry.key, os.O_RDWR)
    await naming.unlink(tree, IMPORT, b"a.bin")
    if change == "write":
        await files.write(tree, handle, 0, b"new")
    elif change == "attributes":
        await attributes.set_attributes(tree, dentry.key, mode=0o600)
    with tree.library.read() as view:
        assert tree.attr(view, dentry.key).links == 0
    assert bytes(await files.read(tree, handle, 0, 100)) == (b"new a.bin" if change == "write" else b"old a.bin")
    await TakingIn(tree).take_all()
    await files.flush(tree, handle)
    await files.release(tree, handle)
    await TakingIn(tree).take_all()
    assert listing(tree) == [b"b.bin", b"c.bin"]
    assert [receipt.name for receipt in receipts(tree.library)] == [b"b.bin", b"c.bin"]


async def test_fsync_of_a_folder_takes_removed_receipts_away(receipted: Tree):
    await naming.unlink(receipted, IMPORT, b"a.bin")
    await receipted.fsync_directory(IMPORT)
    assert [receipt.name for receipt in receipts(receipted.library)] == [b"b.bin", b"c.bin"]


async def test_a_removal_that_can_not_be_noted_is_committed(receipted: Tree, monkeypatch: pytest.MonkeyPatch):
    def full(item: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(receipted.staging, "_append", full)
    with pytest.raises(OSError):
        # Of the folder's time, which can't be noted either.
        await naming.unlink(receipted, IMPORT, b"a.bin")
    assert listing(receipted) == [b"b.bin", b"c.bin"]
    assert [receipt.name for receipt in receipts(receipted.library)] == [b"b.bin", b"c.bin"]


# -- new versions that are renamed before they are taken in


async def in_session(tree: Tree) -> dict[bytes, bytes]:
    with tree.library.read() as view:
        sessions = list(view.records(Session))
    found = [placement for session in sessions for placement in tree.library.placements(session.id)]
    return {placement.name: tree.library.blobs.fetch(placement.digest) for placement in found}


@pytest.mark.parametrize("saved", ["over it", "aside", "in place"])
@pytest.mark.parametrize("by_way_of", [None, b"b.bin.part"])
@pytest.mark.parametrize("killed", [False, True])
async def test_a_new_version_that_is_renamed_takes_its_picture_along(
    tree: Tree, saved: str, by_way_of: bytes | None, killed: bool, after_kill: Callable[[], Tree]
):
    key = await put(tree, b"a.bin", b"old")
    await TakingIn(tree).take_all()
    await save(tree, key, saved)
    if by_way_of is not None:
        await renaming.rename(tree, IMPORT, b"a.bin", IMPORT, by_way_of)
    await renaming.rename(tree, IMPORT, by_way_of or b"a.bin", IMPORT, b"b.bin")
    if killed:
        tree = after_kill()
    await TakingIn(tree).take_all()
    assert listing(tree) == [b"b.bin"] and await in_session(tree) == {b"b.bin": b"new"}


@pytest.mark.parametrize("first", ["over it", "aside", "in place"])
async def test_an_editor_that_keeps_its_last_version_aside_may_save_twice_at_once(tree: Tree, first: str):
    key = await put(tree, b"a.bin", b"old")
    await TakingIn(tree).take_all()
    await save(tree, key, first)
    await renaming.rename(tree, IMPORT, b"a.bin", IMPORT, b".b.tmp")
    await put(tree, b"a.bin", b"newer")
    await naming.unlink(tree, IMPORT, b".b.tmp")
    await TakingIn(tree).take_all()
    assert listing(tree) == [b"a.bin"] and await in_session(tree) == {b"a.bin": b"newer"}


# -- what takes long


class Held:
    """Holds threads back at a function until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.entered, self._go = threading.Event(), threading.Event()
        original = getattr(owner, name)

        def hold(*args: object) -> object:
            self.entered.set()
            assert self._go.wait(30)
            return original(*args)

        monkeypatch.setattr(owner, name, hold)

    async def reached(self) -> None:
        await trio.to_thread.run_sync(self.entered.wait, 30)
        assert self.entered.is_set()

    def let_go(self) -> None:
        self._go.set()


async def names_change(tree: Tree) -> None:
    """What must not wait for anybody's copy."""
    with trio.fail_after(30):
        await naming.make_directory(tree, IMPORT, b"made", 0o755)
        await put(tree, b"small.txt", b"small")
        await renaming.rename(tree, IMPORT, b"small.txt", IMPORT, b"renamed.txt")
        await naming.unlink(tree, IMPORT, b"renamed.txt")
        await naming.remove_directory(tree, IMPORT, b"made")


@pytest.mark.parametrize("what", ["append", "two appends", "truncate", "chmod when deleted", "link"])
async def test_names_change_while_a_long_file_is_copied(tree: Tree, monkeypatch: pytest.MonkeyPatch, what: str):
    key = await put(tree, b"long.bin", b"long" * 50_000)
    await TakingIn(tree).take_all()
    handles = [await files.opened(tree, key, os.O_RDWR) for _ in range(2)]
    held = Held(monkeypatch, intake_module, "copy_data")
    if what == "chmod when deleted":
        await naming.unlink(tree, IMPORT, b"long.bin")
    async with trio.open_nursery() as nursery:
        if what == "link":
            nursery.start_soon(naming.link, tree, key, IMPORT, b"second.bin")
        elif what == "truncate":
            nursery.start_soon(files.truncate, tree, key, 7)
        elif what == "append":
            nursery.start_soon(files.write, tree, handles[0], 200_000, b"!")
        elif what == "two appends":
            nursery.start_soon(files.write, tree, handles[0], 200_000, b"!")
            nursery.start_soon(files.write, tree, handles[1], 200_001, b"!")
        else:
            nursery.start_soon(partial(attributes.set_attributes, tree, key, mode=0o600))
        await held.reached()
        await names_change(tree)
        held.let_go()
    for handle in handles:
        await files.flush(tree, handle)
        await files.release(tree, handle)
    expected = {"append": b"long!", "two appends": b"long!!", "truncate": b"longlon", "link": b"long"}
    if what in expected:
        assert (await content(tree, b"second.bin" if what == "link" else b"long.bin")).endswith(expected[what])
    assert sorted(os.listdir(tree.staging.path)) == sorted(["lock", "log", *(staged.id for staged in tree.staging)])


@pytest.mark.parametrize("again", [False, True], ids=["new", "there already"])
async def test_names_change_while_a_long_file_is_made_durable(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, again: bool
):
    data = b"long" * 300_000
    if again:
        await put(tree, b"first.bin", data)
        await TakingIn(tree).take_all()
    await put(tree, b"long.bin", data)
    held = Held(monkeypatch, local_module, "sums_of") if again else Held(monkeypatch, os, "fdatasync")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(TakingIn(tree).take_all)
        await held.reached()
        with trio.fail_after(30):
            await renaming.rename(tree, IMPORT, b"long.bin", IMPORT, b"longer.bin")
        held.let_go()
    await TakingIn(tree).take_all()
    assert b"longer.bin" in placed(tree.library)


def test_a_copy_has_the_holes_of_what_it_is_of(tmp_path: Path):
    with (tmp_path / "sparse").open("w+b") as sparse, (tmp_path / "copy").open("w+b") as copy:
        sparse.truncate(1 << 40)
        sparse.seek(1 << 30)
        sparse.write(b"in the middle")
        sparse.flush()
        copy_data(sparse.fileno(), copy.fileno())
        copy.seek(1 << 30)
        assert copy.read(20) == b"in the middle" + bytes(7)
        status = os.fstat(copy.fileno())
        assert status.st_size == 1 << 40 and status.st_blocks < 1000


async def test_a_folder_that_another_one_replaces_goes_to_the_trash(tree: Tree, library: Library) -> None:
    session = library.create_session("S")

    def make(txn: Txn) -> tuple[str, str]:
        return editing.ensure_folder(txn, session.id, None, b"a"), editing.ensure_folder(txn, session.id, None, b"b")

    moved, replaced = library.commit(make)
    images = b"p" + key16(session.id)
    await renaming.rename(tree, images, b"a", images, b"b")
    with library.read() as view:
        assert view.get(Folder, moved).name == b"b" and view.get(Folder, replaced) is None
        assert [trash.name for trash in view.kept_in(Folder, replaced)] == [b"b"]


# -- documents


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), LibraryReplaced("Replaced.")])
async def test_a_document_that_could_not_be_saved_is_saved_by_the_next_try(
    tree: Tree, library: Library, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    session = library.create_session("Trip")

    def key() -> bytes:
        with library.read() as view:
            dentry = tree.lookup(view, b"S" + key16(session.id), b"session.json")
        assert dentry is not None
        return dentry.key

    handle = await files.opened(tree, key(), os.O_RDWR)
    document = json.loads(bytes(await files.read(tree, handle, 0, 1 << 20)))

    async def write(zoom: int) -> None:
        data = json.dumps(document | {"zoom": zoom}).encode()
        await files.truncate(tree, handle.node.key, 0, handle)
        await files.write(tree, handle, 0, data)

    def fail(*arguments: object) -> None:
        raise error

    async def shown() -> int:
        reader = await files.opened(tree, key(), os.O_RDONLY)
        zoom = int(json.loads(bytes(await files.read(tree, reader, 0, 1 << 20)))["zoom"])
        await files.release(tree, reader)
        return zoom

    for zoom, again in ((2, files.fsync), (3, files.flush), (4, files.release)):
        await write(zoom)
        with monkeypatch.context() as patched:
            patched.setattr(library, "commit", fail)
            for _ in range(2):
                with pytest.raises(type(error)):
                    await files.fsync(tree, handle)
        await again(tree, handle)
        assert await shown() == zoom
        with library.read() as view:
            stored = view.get(Session, session.id)
        assert stored is not None and stored.zoom == zoom


# -- damaged logs


class Nothing:
    """A library that has all folders and none of the files."""

    def exists(self, directory: bytes) -> bool:
        return True

    def place(self, key: bytes) -> tuple[bytes, bytes] | None:
        return None

    def nameless_directory(self) -> bytes:
        return b"d" + b"nameless-folder-"


def left_behind(root: Path) -> dict[bytes, bytes]:
    """What a mount leaves in `root` when it ends: files that were closed, renamed, given attributes, removed."""
    staging = Staging(StagingArea(root))
    acknowledged = {}
    for number in range(12):
        name, data = b"%d.bin" % number, b"" if number == 7 else b"bytes of %d" % number
        staged = staging.create(IMPORT, name, b"R", 0o644)
        assert staged.intake is not None
        staged.intake.write(data, 0)
        staged.closed = True
        staging.note(staged)
        if number % 4 == 0:
            staging.set_xattr(staged, "user.comment", b"of %d" % number)
        if number % 4 == 1:
            name = b"renamed " + name
            staging.rename(staged, IMPORT, name)
        acknowledged[name] = data
        if number == 5:
            staging.discard(staged)
            del acknowledged[name]
    open_still = staging.create(IMPORT, b"removed.bin", b"R", 0o644)
    staging.unlink(open_still)
    nameless = staging.create_nameless(b"R" + bytes(16), 0o644)
    for staged in (open_still, nameless):
        assert staged.intake is not None
        staged.intake.write(b"of no name", 0)
    staging.compact_if_possible()
    staging.close()
    return acknowledged


def recovered(root: Path) -> tuple[dict[bytes, bytes], set[bytes], list[str], Staging]:
    """Name -> bytes of what comes back, which of it is named by an id, and the kinds of problems."""
    staging = Staging(StagingArea(root))
    found = staging.recover(root, Nothing())
    files = {staged.name: staged.intake.path.read_bytes() for staged in found.files if staged.intake is not None}
    assert {staged.name for staged in staging} == set(files)
    nameless = {staged.name for staged in found.files if staged.directory == Nothing().nameless_directory()}
    return files, nameless, [problem.kind for problem in found.problems], staging


def as_plain(log: bytes) -> bytes:
    """A log as an older release wrote it."""
    return b"".join(frames.encode(item.payload) for item in frames.scan(memoryview(log)) if item.payload is not None)


def test_a_sound_log_brings_back_what_it_tells_of_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for plain, compacted in ((False, False), (True, False), (False, True)):
        root = tmp_path / f"{plain}-{compacted}"
        monkeypatch.setattr(staging_module, "_COMPACT_AT", -(1 << 20) if compacted else 8 << 20)
        acknowledged = left_behind(root)
        [log] = root.glob("*/log")
        if plain:
            log.write_bytes(as_plain(log.read_bytes()))
        files, nameless, problems, staging = recovered(root)
        staging.close()
        assert files == acknowledged and not nameless and not problems


@pytest.mark.parametrize("plain", [False, True], ids=["placed frames", "plain frames"])
def test_a_damaged_log_loses_no_file(tmp_path: Path, plain: bool):
    acknowledged = left_behind(tmp_path / "left")
    [original] = (tmp_path / "left").glob("*/log")
    sound = as_plain(original.read_bytes()) if plain else original.read_bytes()
    starts = [item.start for item in frames.scan(memoryview(sound), 0, None if plain else b"")]
    rng = random.Random(4)
    damaged = [b"", bytes(len(sound)), bytes([sound[0] ^ 1]) + sound[1:], *(sound[:start] for start in starts[1::5])]
    for count in [1] * 20 + [3] * 10 + [40] * 5:
        data = bytearray(sound)
        for _ in range(count):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(data))
    for number, data in enumerate([None, *damaged]):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "left", root)
        [log] = root.glob("*/log")
        if data is None:
            log.unlink()
        else:
            log.write_bytes(data)
        # What every opening of the library does first.
        sweep(root)
        files, nameless, problems, staging = recovered(root)
        staging.close()
        missing = Counter(acknowledged.values()) - Counter(files.values())
        if data is not None and sound.startswith(data):
            # Cut between two frames: an empty file may be one that no program was told of.
            missing.pop(b"", None)
        assert not missing, f"{number}: {missing}"
        assert problems == ["staging-log-damaged"] or not nameless


async def test_files_without_a_record_come_into_a_folder_of_import(
    tree: Tree, library: Library, after_kill: Callable[[], Tree]
):
    for name in (b"a.png", b"b.bin"):
        await put(tree, name, DATA if name == b"a.png" else b"of b")
    log = tree.staging.path / "log"
    data = bytearray(log.read_bytes())
    for item in frames.scan(memoryview(bytes(data))):
        if item.payload is not None and b"a.png" in item.payload:
            data[item.start + 20] ^= 1
    log.write_bytes(data)
    after = after_kill()
    await TakingIn(after).take_all()
    assert listing(after) == [b"Recovered", b"b.bin"]
    session = library.find_session("Recovered")
    [placement] = library.placements(session.id)
    assert library.blobs.fetch(placement.digest) == DATA and placement.name.endswith(b".png")
    assert placement.area == "images" and b"staging-log-damaged" in library.store.problems.read()


@pytest.mark.parametrize("failing", ["rename", "open"])
def test_a_file_that_can_not_be_moved_stays_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    acknowledged = left_behind(tmp_path)
    times = 0

    def third(*arguments: object, **more: object) -> bool:
        nonlocal times
        times += 1
        return times == 3

    original_rename, original_reopen = os.rename, Staging._reopen

    def rename(source: Path, target: Path) -> None:
        if len(Path(source).name) == 36 and Path(source).parent != Path(target).parent and third():
            raise OSError(errno.EIO, "Input/output error")
        original_rename(source, target)

    def reopen(self: Staging, staged_id: str) -> Intake:
        if third():
            raise OSError(errno.EMFILE, "Too many open files")
        return original_reopen(self, staged_id)

    with monkeypatch.context() as patched:
        if failing == "rename":
            patched.setattr(os, "rename", rename)
        else:
            patched.setattr(Staging, "_reopen", reopen)
        files, _, problems, staging = recovered(tmp_path)
    assert len(files) == len(acknowledged) - 1 and problems == ["not-recovered"]
    staging.close()
    files, nameless, problems, staging = recovered(tmp_path)
    staging.close()
    assert files == acknowledged and not nameless and not problems


def test_two_mounts_that_left_different_bytes_of_one_file_lose_neither(tmp_path: Path):
    key = None
    # Either may be found first.
    for data, directory in ((b"older", "9"), (b"newer", "1")):
        area = StagingArea(tmp_path)
        area.directory = tmp_path / directory
        staging = Staging(area)
        staged = staging.create(IMPORT, b"a.bin", b"R", 0o644, key=key)
        key = staged.key
        assert staged.intake is not None
        staged.intake.write(data, 0)
        staging.close()
    files, nameless, _, staging = recovered(tmp_path)
    assert len(staging) == 2
    staging.close()
    assert sorted(files.values()) == [b"newer", b"older"] and len(nameless) == 1


async def test_what_an_fsync_could_not_write_is_made_durable_as_a_copy(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    _, handle = await naming.create(tree, IMPORT, b"a.bin", 0o640, os.O_RDWR)
    await files.write(tree, handle, 0, b"bytes")
    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(os, "fsync", fail)
        await files.fsync(tree, handle)
    await files.flush(tree, handle)
    await files.release(tree, handle)
    intake, copied = TakingIn(tree), []
    original = intake._publish_copy
    monkeypatch.setattr(intake, "_publish_copy", lambda item: copied.append(item) or original(item))
    await intake.take_all()
    assert len(copied) == 1 and placed(tree.library) == [b"a.bin"]
