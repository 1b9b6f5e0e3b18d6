"""The tree: what the library looks like as folders. Knows no FUSE.

What can be done to it is in `files.py` (open, read, write, close), `saving.py` (documents), `naming.py` (make and
remove), `renaming.py` and `attributes.py`, each function one request on a `Tree`.

Concurrency contract
--------------------
* Runs on the event loop. `lookup`, `attr` and `entries` never await: with the read that the caller holds they give one
  state, and between two checkpoints nothing here changes.
* Every change of a name or record holds `lock` from its first look to its last, and the background intake holds it
  while it publishes and commits. Commits run whole in one worker thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from mixfs import clock
from mixfs.errors import NameTooLong, NotFoundError, Outdated
from mixfs.ids import Digest, new_id
from mixfs.index.dentries import Dentry, atime_extra
from mixfs.library import pieces
from mixfs.library.api import Library
from mixfs.library.storage_v2 import IMAGES, ROOT, SESSIONS
from mixfs.library.transaction import Txn
from mixfs.library.trashed import TRASH_ROOT
from mixfs.library.view import View
from mixfs.names import MAX_NAME
from mixfs.vfs.ahead import Ahead
from mixfs.vfs.bases import Bases
from mixfs.vfs.content import Content
from mixfs.vfs.context import Context
from mixfs.vfs.handles import Handle, OpenNode
from mixfs.vfs.records_of import lies_below, take_receipt_away
from mixfs.vfs.removals import Removals
from mixfs.vfs.routes import THUMBNAILS, directory_view, view_of
from mixfs.vfs.staging import Staging
from mixfs.vfs.views.base import file

T = TypeVar("T")

# Threads for opens and reads that the page cache can't answer: more than the kernel asks for at once.
COLD_THREADS = 256

# How long a name whose file was renamed to a temporary one waits for its new version.
VACATED_S = 300

# How long a session whose images/ was removed waits for the rest of `rm -r`.
GOING_S = 60
# And how long an emptied folder of trash/ does.
EMPTIED_S = 10


@dataclass(slots=True)
class Tree:
    """One mount's tree over an open library."""

    library: Library
    context: Context
    staging: Staging
    ahead: Ahead = field(init=False)
    # What programs last read of each document.
    bases: Bases = field(default_factory=Bases)
    # Marks this mount's own commits: its kernel knows the names that it changed itself.
    origin: bytes = field(default_factory=lambda: new_id().encode())
    lock: trio.Lock = field(default_factory=trio.Lock)
    open_nodes: dict[bytes, OpenNode] = field(default_factory=dict)
    # Called with (directory, name) for a name that the kernel must forget though no commit says so.
    forget_name: Callable[[bytes, bytes], None] = lambda directory, name: None
    # Called with the digest of a blob that was found to be damaged.
    damaged: Callable[[Digest], None] = lambda digest: None
    # Called when there may be something to take in.
    wake: Callable[[], None] = lambda: None
    # `sync` on .mixfs/imported: takes in all that was closed.
    take_all_in: Callable[[Handle], Awaitable[object]] | None = None
    # Names that were just left by a rename to a temporary name: the file that comes next is a new version.
    vacated: dict[tuple[bytes, bytes], tuple[str, float]] = field(default_factory=dict)
    # The ctimes of the folders of import/ that were changed through this mount; no record keeps those.
    changed_at: dict[bytes, int] = field(default_factory=dict)
    # And the access times that programs gave them.
    accessed_at: dict[bytes, int] = field(default_factory=dict)
    _writer: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    _readers: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(16))
    # Opens and reads that wait for the disk, apart: where it hangs, only they hang.
    _cold: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(COLD_THREADS))
    # What processes removed last, by which `rm -r` is one deletion.
    removals: Removals = field(default_factory=Removals)
    # The long documents that `mixfs.vfs.files.opened` has just rendered, by node key.
    rendered: dict[bytes, Content] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ahead = Ahead(self.library)

    # -- looking (never awaits)

    def lookup(self, view: View, directory: bytes, name: bytes) -> Dentry | None:
        """What a name is, or None. Raises NameTooLong above 255 bytes."""
        if len(name) > MAX_NAME:
            raise NameTooLong(f"{name[:40]!r}… has {len(name)} bytes; a name may have {MAX_NAME}.")
        staged = self.staging.at(directory, name)
        if staged is not None and staged.intake is not None:
            return staged.dentry()
        dentry = directory_view(directory).lookup(self.context, view, directory, name)
        return None if dentry is None or dentry.key in self.staging.removed else self._timed(self._written(dentry))

    def attr(self, view: View, key: bytes) -> Dentry:
        """The attributes of a node. Raises NotFoundError, Outdated."""
        staged = self.staging.by_key(key)
        if staged is not None and staged.intake is not None:
            return staged.dentry()
        node = self.open_nodes.get(key)
        if node is not None and node.edit is not None:
            assert node.attr is not None
            return node.attr._replace(size=len(node.edit))
        try:
            if key in self.staging.removed:
                raise NotFoundError("It was removed.")
            return self._timed(view_of(key).attr(self.context, view, key))
        except (NotFoundError, Outdated):
            # Deleted or changed while open: who holds it open goes on seeing what it opened.
            if node is None or node.attr is None:
                raise
            return node.attr._replace(links=0)

    def _written(self, dentry: Dentry) -> Dentry:
        """A picture that is being written to shows that under all its names."""
        if dentry.key[:1] == b"P":
            staged = self.staging.by_key(dentry.key)
            if staged is not None and staged.intake is not None:
                return staged.dentry()._replace(name=dentry.name)
        return dentry

    def _timed(self, dentry: Dentry) -> Dentry:
        """Folders of import/ show the time of the last change that a program made there."""
        if dentry.key[:1] != b"d":
            return dentry
        mtime_ns = self.staging.folder_times.get(dentry.key, dentry.mtime_ns)
        atime_ns = self.accessed_at.get(dentry.key)
        return dentry._replace(
            mtime_ns=mtime_ns, ctime_ns=self.changed_at.get(dentry.key, max(mtime_ns, dentry.ctime_ns)),
            extra=b"" if atime_ns is None else atime_extra(atime_ns),
        )  # fmt: skip

    def entries(self, view: View, directory: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """A directory's dentries behind the place `after`, each with its own place; staged files among them."""
        listed = directory_view(directory).entries(self.context, view, directory, after)
        removed = self.staging.removed
        if removed and directory[:1] == b"d":
            listed = ((dentry, place) for dentry, place in listed if dentry.key not in removed)
        if directory[:1] in (b"p", b"f", IMAGES[:1]) and self.staging.has_names(IMAGES):
            listed = ((self._written(dentry), place) for dentry, place in listed)
        if not self.staging.has_names(directory):
            if directory[:1] in (b"d", b"/"):
                return ((self._timed(dentry), place) for dentry, place in listed)
            return listed
        if directory[:1] == b"S" or directory in (ROOT, SESSIONS):
            return self._with_scratch(directory, listed, after)
        return self._merged(directory, listed, after)

    def _merged(
        self, directory: bytes, listed: Iterator[tuple[Dentry, bytes]], after: bytes
    ) -> Iterator[tuple[Dentry, bytes]]:
        waiting = self.staging.names(directory, after)
        name = next(waiting, None)
        for dentry, place in listed:
            while name is not None and name < dentry.name:
                yield from self._staged_entry(directory, name)
                name = next(waiting, None)
            if name != dentry.name:
                yield self._timed(dentry), place
        while name is not None:
            yield from self._staged_entry(directory, name)
            name = next(waiting, None)

    def _staged_entry(self, directory: bytes, name: bytes) -> Iterator[tuple[Dentry, bytes]]:
        found = self.staging.at(directory, name)
        if found is not None and found.intake is not None:
            yield found.dentry(), name

    def _with_scratch(
        self, directory: bytes, listed: Iterator[tuple[Dentry, bytes]], after: bytes
    ) -> Iterator[tuple[Dentry, bytes]]:
        """A session's fixed names, then what an editor keeps there while it saves (places begin with NUL)."""
        if after[:1] != b"\0":
            yield from listed
        for name in self.staging.names(directory, after[1:] if after[:1] == b"\0" else b""):
            for dentry, _ in self._staged_entry(directory, name):
                yield dentry, b"\0" + name

    def unmade_thumbnail(self, view: View, directory: bytes, name: bytes) -> Dentry | None:
        """The name of a thumbnail that isn't made yet; its size is known once it is (`thumbnail_made`)."""
        digest = THUMBNAILS.unmade(view, directory, name)
        return None if digest is None else file(name, b"T" + digest, 0, 0)

    async def thumbnail_made(self, key: bytes, timeout_s: float = 2.0) -> bool:
        """Have the thumbnail of a node made, if it isn't yet, within `timeout_s`; whether there is one.

        No thread waits for it, and no lookup: of these the kernel asks one at a time in a folder.
        """
        digest = Digest(key[1:])
        with self.library.read() as view:
            row = view.thumbnail(digest)
        if row is None:
            made, token = trio.Event(), trio.lowlevel.current_trio_token()

            def tell() -> None:
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(made.set)

            self.library.thumbnails.ask(digest, tell)
            with trio.move_on_after(timeout_s):
                await made.wait()
            with self.library.read() as view:
                row = view.thumbnail(digest)
        return row is not None and bool(row[0])

    # -- committing

    async def commit(self, function: Callable[[Txn], T], *known: tuple[bytes, bytes]) -> T:
        """Commit in the writer's thread; `known` are the names that this mount's kernel changes by itself.

        Receipts that were removed before it go in the same commit, and first: their names may be others' by now.
        """
        removed = dict(self.staging.removed)

        def write(txn: Txn) -> T:
            txn.made_by(self.origin, *removed.values(), *known)
            for key in removed:
                take_receipt_away(txn, key)
            return function(txn)

        result = await trio.to_thread.run_sync(self.library.commit, write, limiter=self._writer)
        if removed:
            self.staging.forget_removed(removed)
        return result

    async def finish_deletions(self) -> None:
        """A task: does by the piece what is left of large deletions and restorations, here and by killed processes."""
        left: list[str] = []
        more = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def note(unfinished: list[str]) -> None:
            left.extend(unfinished)
            token.run_sync_soon(lambda: more.set())

        self.library.go_on = note
        with self.library.read() as view:
            left += view.unfinished_deletions()
        while True:
            more = trio.Event()
            while left:
                work = pieces.Pieces(left[0])
                while await trio.to_thread.run_sync(work.step, self.library, limiter=self._writer):
                    await trio.sleep(work.rest_s)
                del left[0]
            await more.wait()

    async def settle(self) -> None:
        """Commit the receipts that were removed. Under `lock`, before anything that looks for receipts by itself."""
        if self.staging.removed:
            await self.commit(lambda txn: None)

    async def in_cold_thread(self, function: Callable[[], T]) -> T:
        """Run what may wait for a disk that doesn't answer."""
        return await trio.to_thread.run_sync(function, limiter=self._cold)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run what blocks on the disk."""
        return await trio.to_thread.run_sync(function, limiter=self._readers)

    async def fsync_directory(self, top: bytes) -> None:
        """What was closed, or removed, in or below a directory becomes durable. May be cancelled."""
        if self.staging.removed:
            async with self.lock:
                await self.settle()
        with self.library.read() as view:
            below = [staged for staged in self.staging if staged.closed and lies_below(view, staged.directory, top)]
        for staged in below:
            if staged.intake is not None:
                # A descriptor of its own: the file may be taken in, and so be durable, meanwhile.
                fd = os.dup(staged.intake.fd)
                if staged.key not in self.open_nodes:
                    staged.park()
                await self._in_thread_until_cancelled(lambda fd=fd: _sync(fd))  # type: ignore[misc]
                staged.synced = True
        await self._in_thread_until_cancelled(self.staging.sync)

    async def _in_thread_until_cancelled(self, function: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._readers)

    # -- a session that `rm -r` is at work on

    def expire_going(self) -> list[tuple[bytes, bytes]]:
        """Let sessions come back whose removal did not go on, and emptied folders of trash/ go.

        Returns the (directory, name) that the kernel must forget.
        """
        now, going, emptied = time.monotonic(), self.context.going, self.context.emptied
        back = [raw for raw, since in going.items() if now - since > GOING_S]
        for raw in back:
            del going[raw]
        gone = [key for key, (_, since_ns) in emptied.items() if abs(clock.now_ns() - since_ns) > EMPTIED_S * 10**9]
        names = [emptied.pop(key)[0] for key in gone]
        return [*((b"S" + raw, b"images") for raw in back), *((TRASH_ROOT, name) for name in names)]

    def held(self) -> dict[str, int]:
        """How much of what is kept between two requests there is now."""
        return {
            "open_nodes": len(self.open_nodes), "staged": len(self.staging), "versions": len(self.staging.versions),
            "removed": len(self.staging.removed), "folder_times": len(self.staging.folder_times),
            "changed_at": len(self.changed_at), "accessed_at": len(self.accessed_at), "vacated": len(self.vacated),
            "going": len(self.context.going), "emptied": len(self.context.emptied),
            "ahead": len(self.ahead), "bases": len(self.bases), "rendered": len(self.rendered),
            "removals": len(self.removals),
        }  # fmt: skip

    def close(self) -> None:
        for node in list(self.open_nodes.values()):
            node.close()
        self.open_nodes.clear()
        self.staging.close()



def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
