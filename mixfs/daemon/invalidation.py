"""Coherence: one task makes the kernel forget what changed, whichever process changed it.

Every commit leaves in the index what a kernel must forget (`e` in the key table). This task reads on from the last one
that it saw, woken by our own commits and by inotify on the index. It is the only one that invalidates, and it never
does so inside a handler. Names that our own kernel changed itself are left alone: forgetting a directory that somebody
stands in would take its path away from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import inotify_simple
import structlog
import trio

from mixfs.fuse.mount import KernelCache
from mixfs.ids import Digest
from mixfs.index.dentries import ITSELF, Changes
from mixfs.library.replay import EVENTS_KEPT, events_since
from mixfs.vfs import files
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.mirrors import leading_names, mirrored_names

log = structlog.get_logger("mixfs.invalidation")

# How long a commit may go unseen when inotify says nothing (an index that was put in place of another, say).
POLL_S = 0.5
_PAGE = 32
_FLAGS = inotify_simple.flags.MODIFY | inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO


class Invalidation:
    """Follows the library's commits for one mount."""

    def __init__(self, tree: Tree, cache: KernelCache) -> None:
        self._tree = tree
        self._cache = cache
        self._woken = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._extra: list[tuple[bytes, bytes]] = []
        tree.forget_name = self._forget_soon
        with tree.library.read() as view:
            self._sequence = view.sequence()
        tree.library.store.on_commit(self._committed)

    def _committed(self) -> None:
        """From whichever thread committed."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(lambda: self._woken.set())

    def _forget_soon(self, directory: bytes, name: bytes) -> None:
        self._extra.append((directory, name))
        self._woken.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                with trio.move_on_after(POLL_S):
                    await self._woken.wait()
                self._woken = trio.Event()
                await self.drain()

    async def _watch(self) -> None:
        """Wake when the index file is written to, by any process."""
        root = self._tree.library.root
        while True:
            with inotify_simple.INotify(nonblocking=True) as watch:
                try:
                    watch.add_watch(str(root / "index"), _FLAGS)
                    moved = watch.add_watch(str(root), inotify_simple.flags.MOVED_TO)
                except OSError:
                    await trio.sleep(POLL_S)
                    continue
                replaced = False
                while not replaced:
                    await trio.lowlevel.wait_readable(watch.fileno())
                    events = watch.read(timeout=0)
                    replaced = any(event.wd == moved and event.name == "index" for event in events)
                    self._woken.set()

    async def drain(self) -> None:
        """Tell the kernel what has changed since the last time."""
        extra, self._extra = self._extra, []
        for directory, name in extra:
            self._cache.forget_name(directory, name)
        for directory, name in self._tree.expire_going():
            await self._cache.forget_attributes(directory)
            self._cache.forget_name(directory, name)
        store = self._tree.library.store
        if not store.is_current() and await trio.to_thread.run_sync(store.refresh):
            log.info("index_replaced")
            await self._forget_everything()
            return
        while True:
            with self._tree.library.read() as view:
                newest = view.sequence()
                gap = newest - self._sequence
                page = []
                if 0 < gap < EVENTS_KEPT:
                    for sequence, value in events_since(view.txn, self._sequence):
                        page.append((sequence, value))
                        if len(page) >= _PAGE:
                            break
            if gap == 0:
                return
            if gap < 0 or gap >= EVENTS_KEPT or not page:
                await self._forget_everything()
                return
            # Before anybody can see that they are gone.
            await files.hold_deleted(self._tree)
            for sequence, value in page:
                await self._forget(Changes.load(value))
                self._sequence = sequence

    async def _forget(self, changes: Changes) -> None:
        news = dict.fromkeys(changes.news_for(self._tree.origin))
        for directory, name in changes.entries:
            if name == ITSELF:
                with self._tree.library.read() as view:
                    beside = list(leading_names(view, directory))
            else:
                if (directory, name) in news:
                    self._cache.forget_name(directory, name)
                # Our own kernel, which changed the one name itself, knows nothing of those that go with it.
                mirrored = mirrored_names(name) if directory[:1] in (b"p", b"f") else ()
                beside = [(tag + directory[1:], other) for tag, other in mirrored]
            for place in beside:
                if place != (directory, name):
                    self._cache.forget_name(*place)
        for key in changes.nodes:
            await self._cache.forget_attributes(key)
            if key[:1] == b"p":
                await self._cache.forget_attributes(b"t" + key[1:])
            if key[:1] in (b"p", b"f"):
                await self._cache.forget_attributes(b"m" + key[1:])
        self._wish(key for key in changes.nodes if key[:1] == b"J")

    def _wish(self, keys: Iterable[bytes]) -> None:
        """Pictures that came in, through whichever process: their thumbnails are ours to make."""
        for key in keys:
            self._tree.library.thumbnails.wish(Digest(key[1:]))

    async def _forget_everything(self) -> None:
        """We are too far behind to know what changed: forget all attributes and every name that is there now.

        A name that is gone is found out by its node: asked for its attributes we answer ESTALE, and the kernel looks
        the name up again.
        """
        await files.hold_deleted(self._tree)
        with self._tree.library.read() as view:
            self._sequence = view.sequence()
        keys = list(self._cache.remembered())
        for index, key in enumerate(keys):
            await self._cache.forget_attributes(key)
            if self._cache.is_directory(key):
                with self._tree.library.read() as view:
                    names = [dentry.name for dentry, _ in self._tree.entries(view, key, b"")]
                for name in names:
                    self._cache.forget_name(key, name)
            if index % 256 == 0:
                await trio.lowlevel.checkpoint()
        log.info("forgot_everything", nodes=len(keys))
