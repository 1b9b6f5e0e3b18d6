"""The invalidation task: what it tells the kernel to forget, and that nothing ends it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mixfs.daemon import run as run_module
from mixfs.daemon.invalidation import Invalidation
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.editing import SESSIONS
from mixfs.library.replay import EVENTS_KEPT
from mixfs.library.staging import StagingArea
from mixfs.vfs.context import Context
from mixfs.vfs.staging import Staging
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import ROOT


class FakeCache:
    """A kernel that remembers the root."""

    def __init__(self) -> None:
        self.names: list[tuple[bytes, bytes]] = []
        self.attributes: list[bytes] = []
        self.fail: list[Exception] = []

    def _check(self) -> None:
        if self.fail:
            raise self.fail.pop()

    def forget_name(self, directory: bytes, name: bytes) -> None:
        self._check()
        self.names.append((directory, name))

    async def forget_attributes(self, key: bytes) -> None:
        self._check()
        self.attributes.append(key)

    def remembered(self) -> Iterator[bytes]:
        return iter([ROOT])

    def is_directory(self, key: bytes) -> bool:
        return True

    def has(self, name: bytes) -> bool:
        return any(found == name for _, found in self.names)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with Library.open(tmp_path / "library") as library:
        tree = Tree(library, Context(library.root, 1), Staging(StagingArea(library.root / "staging")))
        yield tree
        tree.close()


async def test_a_change_is_told_and_one_that_our_own_kernel_made_is_not(tree: Tree):
    cache = FakeCache()
    invalidation = Invalidation(tree, cache)  # type: ignore[arg-type]
    tree.library.create_session("Theirs")
    await invalidation.drain()
    assert cache.has(b"Theirs")
    await tree.commit(lambda txn: editing.create_session(txn, "Ours"), (SESSIONS, b"Ours"))
    await invalidation.drain()
    assert not cache.has(b"Ours")


async def test_who_is_too_far_behind_forgets_everything_once(tree: Tree):
    cache = FakeCache()
    invalidation = Invalidation(tree, cache)  # type: ignore[arg-type]
    for n in range(EVENTS_KEPT + 1):
        tree.library.create_session(f"{n}")
    await invalidation.drain()
    assert cache.attributes == [ROOT] and (ROOT, b"sessions") in cache.names
    before = list(cache.names)
    await invalidation.drain()
    assert cache.names == before


async def test_an_index_that_was_replaced_is_opened_anew(tree: Tree):
    cache = FakeCache()
    invalidation = Invalidation(tree, cache)  # type: ignore[arg-type]
    tree.library.create_session("Before")
    # Another process: LMDB must not be open twice in one.
    beside = (
        "import sys; from mixfs.library.api import Library\n"
        "with Library.open(sys.argv[1]) as library:\n    {}\n    library.create_session(sys.argv[2])"
    )

    def run(what: str, title: str) -> None:
        subprocess.run([sys.executable, "-c", beside.format(what), tree.library.root, title], check=True, timeout=60)

    run("library.store.rebuild_index()", "Between")
    await invalidation.drain()
    assert ROOT in cache.attributes and (ROOT, b"sessions") in cache.names
    run("pass", "After")
    await invalidation.drain()
    assert cache.has(b"After")
    assert {session.title for session in tree.library.sessions()} == {"Before", "Between", "After"}


async def test_a_failure_ends_neither_the_task_nor_what_it_has_to_tell(
    tree: Tree, autojump_clock: trio.testing.MockClock
) -> None:
    cache = FakeCache()
    invalidation = Invalidation(tree, cache)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_module._supervise, lambda name, reason: None, "invalidation", invalidation.run)
        await trio.sleep(0.1)
        cache.fail = [ZeroDivisionError("by accident")]
        tree.library.create_session("Told later")
        with trio.fail_after(60):
            while cache.fail or not cache.has(b"Told later"):
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
