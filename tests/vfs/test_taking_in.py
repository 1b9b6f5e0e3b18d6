"""Long files come in beside the others, and can be waited for, written to and removed meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from test_staging import Held, placed, put

from mixfs.blobs import Intake
from mixfs.blobs.intake import MAX_SIZE
from mixfs.blobs.sums import sums_of
from mixfs.errors import StillWaiting, TooLong
from mixfs.vfs import files, naming, taking_in
from mixfs.vfs.handles import Handle, OpenNode
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import IMPORT


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_in, "QUIET_S", 0.0)
    monkeypatch.setattr(taking_in, "LONG_FILE_OF_ITS_OWN", 1 << 20)
    monkeypatch.setattr(taking_in, "PATIENCE_S", 0.05)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)


async def test_a_long_file_keeps_nobody_waiting(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    intake = TakingIn(tree)
    held = Held(monkeypatch, type(tree.library.blobs), "prepare")
    impatient = Handle(OpenNode(b""), False, is_impatient=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.run)
        await put(tree, b"long.bin", bytes(3 << 20))
        await held.reached()
        await put(tree, b"small.txt", b"small")
        await until(lambda: placed(tree.library) == [b"small.txt"])
        with pytest.raises(StillWaiting):
            await intake.asked(impatient)
        assert intake.under_way() == [{"name": "long.bin", "bytes": 3 << 20, "size": 3 << 20}]
        # What is closed later is not waited for, and comes in all the same.
        await put(tree, b"later.txt", b"later")
        await until(lambda: b"later.txt" in placed(tree.library))
        held.let_go()
        with trio.fail_after(30):
            while True:
                try:
                    await intake.asked(impatient)
                    break
                except StillWaiting:
                    continue
        assert placed(tree.library) == [b"later.txt", b"long.bin", b"small.txt"]
        assert not intake.under_way() and impatient.asked is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["written", "removed", "unmounted"])
async def test_a_digest_that_takes_long_gives_way(tree: Tree, monkeypatch: pytest.MonkeyPatch, what: str):
    intake, chunks = TakingIn(tree), []

    def take(self: Intake, data: bytes | memoryview) -> None:
        chunks.append(len(data))
        original(self, data)

    original = Intake._take
    key = await _huge(tree)
    monkeypatch.setattr(Intake, "_take", take)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.run)
        await until(lambda: chunks)
        with trio.fail_after(30):
            if what == "written":
                writing = await files.opened(tree, key, os.O_RDWR)
                await files.write(tree, writing, 5, b"!")
                assert bytes(await files.read(tree, writing, 0, 6)) == b"begin!"
                await files.release(tree, writing)
            elif what == "removed":
                await naming.unlink(tree, IMPORT, b"huge.bin")
                await until(lambda: not intake.under_way())
            else:
                nursery.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert sum(chunks) < MAX_SIZE // 2
    assert (tree.staging.by_key(key) is None) == (what == "removed")


async def _huge(tree: Tree) -> bytes:
    """A file of 256 GiB that takes no room."""
    key = await put(tree, b"huge.bin", b"begins")
    await files.truncate(tree, key, MAX_SIZE)
    return key


async def test_a_file_can_be_too_long(tree: Tree):
    key = await put(tree, b"a.bin", b"begins")
    with pytest.raises(TooLong):
        await files.truncate(tree, key, MAX_SIZE + 1)
    handle = await files.opened(tree, key, os.O_RDWR)
    with pytest.raises(TooLong):
        await files.write(tree, handle, MAX_SIZE, b"x")
    await files.flush(tree, handle)
    await files.release(tree, handle)
    assert await TakingIn(tree).take_all() == []
    assert placed(tree.library) == [b"a.bin"]


@pytest.mark.parametrize("seed", range(20))
def test_a_digest_goes_on_where_it_was_broken_off(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    intake, mirror = Intake(tmp_path / "file"), bytearray()

    def break_off() -> None:
        if rng.random() < 0.4:
            raise InterruptedError

    for _ in range(12):
        size, what = len(mirror), rng.choice(["write", "append", "truncate", "extend", "digest"])
        if what in ("write", "append"):
            at = size if what == "append" else rng.randrange(size + 1)
            data = rng.randbytes(rng.choice([1, 70_000, 1_200_000]))
            intake.write(data, at)
            mirror[at : at + len(data)] = data
        elif what == "digest":
            try:
                intake.digest(break_off)
            except InterruptedError:
                assert intake.hashed <= len(mirror)
        else:
            new = rng.randrange(size + 1) if what == "truncate" else size + rng.choice([1, 3_000_000])
            intake.truncate(new)
            del mirror[new:]
            mirror.extend(bytes(new - len(mirror)))
    assert intake.digest() == hashlib.sha256(mirror).digest()
    assert intake.sums() == sums_of(intake.fd)
    intake.discard()
