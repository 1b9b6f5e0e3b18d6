"""The tree: what the library looks like as folders, and what can be done to it. Knows no FUSE.

Concurrency contract
--------------------
* Runs on the event loop. `lookup`, `attr` and `entries` never await: with the read that the caller holds they give one
  state, and between two checkpoints nothing here changes.
* Every change of a name or record holds `lock` from its first look to its last, and the background intake holds it
  while it publishes and commits. Commits run whole in one worker thread.
* Bytes are written in threads, one write at a time for each file (`Staged.io`). A file that the intake has begun to
  publish takes no write until it is done; the next write then begins a new version.
* A node that is open is one `OpenNode` for all its handles; where its bytes are may change under them (from staging to
  a blob), what the bytes are may not.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from mixfs.blobs.cached import open_cached
from mixfs.errors import (
    BadHandle,
    InvalidValue,
    MixfsError,
    NameTooLong,
    NotFoundError,
    Outdated,
    ReadOnlyError,
)
from mixfs.ids import new_id
from mixfs.index.dentries import Dentry
from mixfs.library import canvas_json
from mixfs.library.api import Library
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.names import MAX_NAME
from mixfs.records import Placement, Session
from mixfs.vfs.content import BlobContent, BytesContent, FileContent
from mixfs.vfs.context import Context
from mixfs.vfs.records_of import place_of
from mixfs.vfs.routes import THUMBNAILS, directory_view, file_view, view_of
from mixfs.vfs.staging import Staged, Staging
from mixfs.vfs.views.fixed import status_key

T = TypeVar("T")

# Threads for opens and reads that the page cache can't answer: more than the kernel asks for at once.
COLD_THREADS = 256
# How long a session whose images/ was removed waits for the rest of `rm -r`.
GOING_S = 60
_NOWAIT = os.RWF_NOWAIT
IMPORTED = status_key("imported")
_DOCUMENTS = {b"DC": "canvas.json", b"DS": "session.json"}


class NotCached(Exception):
    """Opening it would have to wait for the disk. `opener` does that."""

    def __init__(self, what: object, opener: Callable[[], int]) -> None:
        super().__init__(what)
        self.what, self.opener = what, opener


@dataclass(slots=True, eq=False)
class OpenNode:
    """An open file, however many handles it has. Its bytes are in `data`, in `staged`, or behind `fd`."""

    key: bytes
    fd: int = -1
    data: bytes | None = None
    staged: Staged | None = None
    edit: bytearray | None = None
    edited: bool = False
    handles: int = 0
    writers: int = 0
    live: bool = False
    attr: Dentry | None = None

    def source(self) -> int:
        """The file descriptor to read from."""
        if self.staged is not None and self.staged.intake is not None:
            return self.staged.intake.fd
        return self.fd


@dataclass(slots=True, eq=False)
class Handle:
    """One open(2)."""

    node: OpenNode
    writable: bool
    append: bool = False


@dataclass(slots=True)
class Tree:
    """One mount's tree over an open library."""

    library: Library
    context: Context
    staging: Staging
    # Marks this mount's own commits: its kernel knows the names that it changed itself.
    origin: bytes = field(default_factory=lambda: new_id().encode())
    lock: trio.Lock = field(default_factory=trio.Lock)
    open_nodes: dict[bytes, OpenNode] = field(default_factory=dict)
    # Called with (directory, name) for a name that the kernel must forget though no commit says so.
    forget_name: Callable[[bytes, bytes], None] = lambda directory, name: None
    # Called when there may be something to take in.
    wake: Callable[[], None] = lambda: None
    # `sync` on .mixfs/imported: takes in all that was closed.
    take_all_in: Callable[[], Awaitable[object]] | None = None
    # Names that were just left by a rename to a temporary name: the file that comes next is a new version.
    vacated: dict[tuple[bytes, bytes], tuple[str, float]] = field(default_factory=dict)
    import_times: dict[bytes, int] = field(default_factory=dict)
    _writer: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    _readers: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(16))
    # Opens and reads that wait for the disk, apart: where it hangs, only they hang.
    _cold: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(COLD_THREADS))
    _warmed: dict[object, int] = field(default_factory=dict)

    # -- looking (never awaits)

    def lookup(self, view: View, directory: bytes, name: bytes) -> Dentry | None:
        """What a name is, or None. Raises NameTooLong above 255 bytes."""
        if len(name) > MAX_NAME:
            raise NameTooLong(f"{name[:40]!r}… has {len(name)} bytes; a name may have {MAX_NAME}.")
        staged = self.staging.at(directory, name)
        if staged is not None and staged.intake is not None:
            return staged.dentry()
        dentry = directory_view(directory).lookup(self.context, view, directory, name)
        return None if dentry is None else self._timed(dentry)

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
            return self._timed(view_of(key).attr(self.context, view, key))
        except (NotFoundError, Outdated):
            # Deleted or changed while open: who holds it open goes on seeing what it opened.
            if node is None or node.attr is None:
                raise
            return node.attr

    def _timed(self, dentry: Dentry) -> Dentry:
        """Folders of import/ show the time of the last change that a program made there."""
        mtime_ns = self.import_times.get(dentry.key)
        return dentry if mtime_ns is None else dentry._replace(mtime_ns=mtime_ns, ctime_ns=mtime_ns)

    def entries(self, view: View, directory: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """A directory's dentries behind the place `after`, each with its own place; staged files among them."""
        listed = directory_view(directory).entries(self.context, view, directory, after)
        staged = self.staging.names(directory)
        if not staged:
            if directory[:1] == b"d":
                return ((self._timed(dentry), place) for dentry, place in listed)
            return listed
        if directory[:1] == b"S":
            return self._with_scratch(listed, staged, after)
        return self._merged(listed, staged, after)

    def _merged(
        self, listed: Iterator[tuple[Dentry, bytes]], staged: dict[bytes, Staged], after: bytes
    ) -> Iterator[tuple[Dentry, bytes]]:
        waiting = sorted(name for name in staged if name > after)
        at = 0
        for dentry, place in listed:
            while at < len(waiting) and waiting[at] < dentry.name:
                yield from self._staged_entry(staged, waiting[at])
                at += 1
            if dentry.name in staged:
                continue
            yield self._timed(dentry), place
        for name in waiting[at:]:
            yield from self._staged_entry(staged, name)

    def _staged_entry(self, staged: dict[bytes, Staged], name: bytes) -> Iterator[tuple[Dentry, bytes]]:
        found = staged.get(name)
        if found is not None and found.intake is not None:
            yield found.dentry(), name

    def _with_scratch(
        self, listed: Iterator[tuple[Dentry, bytes]], staged: dict[bytes, Staged], after: bytes
    ) -> Iterator[tuple[Dentry, bytes]]:
        """A session's fixed names, then what an editor keeps there while it saves (places begin with NUL)."""
        if after[:1] != b"\0":
            yield from listed
        for name in sorted(name for name in staged if b"\0" + name > after):
            for dentry, _ in self._staged_entry(staged, name):
                yield dentry, b"\0" + name

    async def lookup_thumbnail(self, directory: bytes, name: bytes, timeout_s: float = 2.0) -> Dentry | None:
        """A thumbnail that isn't made yet is made when it is asked for by name, within `timeout_s`."""
        with self.library.read() as view:
            digest = THUMBNAILS.unmade(view, directory, name)
        if digest is None:
            return None
        thumbnails = self.library.thumbnails

        def make() -> None:
            row = thumbnails.make(digest)
            if row is not None:
                thumbnails.record({digest: row})

        with trio.move_on_after(timeout_s):
            await trio.to_thread.run_sync(make, abandon_on_cancel=True, limiter=self._readers)
        with self.library.read() as view:
            return self.lookup(view, directory, name)

    # -- committing

    async def commit(self, function: Callable[[Txn], T], *known: tuple[bytes, bytes]) -> T:
        """Commit in the writer's thread; `known` are the names that this mount's kernel changes by itself."""

        def write(txn: Txn) -> T:
            txn.made_by(self.origin, *known)
            return function(txn)

        return await trio.to_thread.run_sync(self.library.commit, write, limiter=self._writer)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run what blocks on the disk."""
        return await trio.to_thread.run_sync(function, limiter=self._readers)

    # -- opening and reading

    def open(self, view: View, key: bytes, flags: int) -> Handle:
        """Open a file. Raises ReadOnlyError for writing what is generated, NotCached (see `opened`). Never awaits."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        node = self.open_nodes.get(key)
        if node is None:
            node = self._open_node(view, key)
            self.open_nodes[key] = node
        if writable:
            if key[:2] in _DOCUMENTS:
                if node.edit is None:
                    assert node.data is not None
                    node.edit = bytearray(node.data)
            elif key[:1] not in (b"P", b"R"):
                self._drop_if_unused(node)
                raise ReadOnlyError("It is generated from the library and can't be written to.")
            elif key[:1] == b"P" and node.attr is not None and self._is_in_files(view, key):
                self._drop_if_unused(node)
                raise ReadOnlyError("files/ shows what was copied in; change it through import/ or images/.")
            node.writers += 1
        node.handles += 1
        return Handle(node, writable, bool(flags & os.O_APPEND))

    async def opened(self, key: bytes, flags: int) -> Handle:
        """As `open`, in a read of its own; what isn't cached is opened in a thread."""
        cold: NotCached | None = None
        try:
            while True:
                try:
                    with self.library.read() as view:
                        return self.open(view, key, flags)
                except NotCached as error:
                    cold = error
                fd = await trio.to_thread.run_sync(cold.opener, limiter=self._cold)
                if self._warmed.setdefault(cold.what, fd) != fd:
                    os.close(fd)
        finally:
            # Nobody needed it after all: another handle was opened meanwhile, or the file is gone.
            left = self._warmed.pop(cold.what, -1) if cold is not None else -1
            if left >= 0:
                os.close(left)

    def _open_now(self, what: object, cached: Callable[[], int | None], opener: Callable[[], int]) -> int:
        fd = self._warmed.pop(what, None)
        if fd is None:
            fd = cached()
        if fd is None:
            raise NotCached(what, opener)
        return fd

    def _is_in_files(self, view: View, key: bytes) -> bool:
        placement = view.get_raw(Placement, key[1:]) if self.staging.by_key(key) is None else None
        return placement is not None and placement.area == "files"

    def _open_node(self, view: View, key: bytes) -> OpenNode:
        staged = self.staging.by_key(key)
        if staged is not None and staged.intake is not None:
            return OpenNode(key, staged=staged)
        found = file_view(key)
        dentry = found.attr(self.context, view, key)
        content = found.content(self.context, view, key)
        if isinstance(content, BytesContent):
            return OpenNode(key, data=content.data, live=content.live, attr=dentry)
        if isinstance(content, BlobContent):
            blobs, digest = self.library.blobs, content.digest
            fd = self._open_now(digest, lambda: blobs.open_cached(digest), lambda: blobs.open(digest))
            return OpenNode(key, fd=fd, attr=dentry)
        assert isinstance(content, FileContent)
        path = content.path
        try:
            fd = self._open_now(path, lambda: open_cached(path), lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            if content.growing:
                return OpenNode(key, data=b"", live=True, attr=dentry)
            raise NotFoundError(f"{content.path} is gone.") from None
        return OpenNode(key, fd=fd, live=content.growing, attr=dentry)

    async def read(self, handle: Handle, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Bytes at an offset: from the page cache at once, from the disk in a thread."""
        node = handle.node
        if node.edit is not None:
            return bytes(node.edit[offset : offset + size])
        if node.data is not None:
            return memoryview(node.data)[offset : offset + size]
        buffer = bytearray(size)
        fd = node.source()
        try:
            count = os.preadv(fd, [buffer], offset, _NOWAIT)
            if count == size:
                return buffer
            if offset + count >= os.fstat(fd).st_size:
                return memoryview(buffer)[:count]
        except OSError as error:
            # EOPNOTSUPP: a file system that can't say (tmpfs).
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            count = 0
        # A short read was the end of the page cache's part and not the file's.
        rest = memoryview(buffer)[count:]

        def read_rest() -> int:
            return os.preadv(node.source(), [rest], offset + count)

        count += await trio.to_thread.run_sync(read_rest, limiter=self._cold)
        return memoryview(buffer)[:count]

    # -- writing

    async def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Write into a file in staging; the first write to one that was taken in begins a new version."""
        node = handle.node
        if not handle.writable:
            raise BadHandle("It was not opened for writing.")
        if node.edit is not None:
            if offset + len(data) > canvas_json.LIMIT:
                raise InvalidValue(f"A document may have {canvas_json.LIMIT} bytes.")
            if len(node.edit) < offset:
                node.edit.extend(bytes(offset - len(node.edit)))
            node.edit[offset : offset + len(data)] = data
            node.edited = True
            return len(data)
        staged = await self.writable(node)
        async with staged.io:
            intake = staged.intake
            if intake is None or node.staged is not staged:
                # Taken in while we waited: begin a new version.
                return await self.write(handle, offset, data)
            self._reopened(staged)
            try:
                written = await trio.to_thread.run_sync(intake.write, data, offset, limiter=self._readers)
            except OSError:
                staged.broken_at = offset if staged.broken_at is None else min(staged.broken_at, offset)
                raise
            finally:
                staged.changed()
            if staged.broken_at is not None and offset <= staged.broken_at < offset + written:
                # The program wrote it again.
                staged.broken_at = None
            return written

    def _reopened(self, staged: Staged) -> None:
        if staged.closed:
            staged.closed = False
            self.staging.note(staged)
        staged.changed()

    async def writable(self, node: OpenNode, *, empty: bool = False) -> Staged:
        """The staged file behind an open node, made as a copy of its blob when there is none yet."""
        if node.staged is not None and node.staged.digest is None:
            return node.staged
        async with self.lock:
            if node.staged is not None and node.staged.digest is None:
                return node.staged
            return await self._new_version(node, empty)

    async def _new_version(self, node: OpenNode, empty: bool) -> Staged:
        source = node.source()
        old = node.staged if node.staged is not None and node.staged.linked else None
        if old is not None:
            # Its bytes are a blob already and may not be changed, but its commit failed.
            staged = self.staging.create(old.directory, old.name, node.key[:1], old.mode, key=node.key)
            staged.replaces, staged.xattrs = old.replaces, dict(old.xattrs)
        else:
            with self.library.read() as view:
                place = place_of(view, node.key)
            if place is None:
                raise NotFoundError("The file was deleted.")
            staged = self.staging.create(place.directory, place.name, node.key[:1], place.mode, key=node.key)
            staged.replaces, staged.xattrs = place.placement_id, dict(place.xattrs)
        assert staged.intake is not None
        if not empty and source >= 0:
            intake = staged.intake
            try:
                await self.in_thread(lambda: intake.copy_whole(source))
            except BaseException:
                self.staging.discard(staged)
                if old is not None:
                    self.staging.enter(old)
                raise
        self.staging.note(staged)
        if old is not None:
            self.staging.unlink(old)
            if old.intake is not None:
                old.intake.close()
                old.intake = None
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1
        node.staged = staged
        return staged

    async def truncate(self, key: bytes, size: int) -> None:
        """Set a file's size, by its node."""
        handle = await self.opened(key, os.O_WRONLY)
        try:
            node = handle.node
            if node.edit is not None:
                del node.edit[size:]
                node.edit.extend(bytes(size - len(node.edit)))
                node.edited = True
                return
            staged = await self.writable(node, empty=size == 0)
            async with staged.io:
                if staged.intake is not None:
                    self._reopened(staged)
                    await self.in_thread(lambda: staged.intake.truncate(size) if staged.intake else None)
                    staged.cut(size)
        finally:
            # Truncated by name and closed again: what flush would note.
            self.flushed(handle)
            await self.release(handle)

    async def truncate_open(self, handle: Handle) -> None:
        """O_TRUNC: the file begins anew, and what it was is not copied first."""
        node = handle.node
        if node.edit is not None:
            node.edit.clear()
            node.edited = True
            return
        staged = await self.writable(node, empty=True)
        async with staged.io:
            intake = staged.intake
            if intake is not None:
                self._reopened(staged)
                await self.in_thread(lambda: intake.truncate(0))
                staged.cut(0)

    # -- closing

    async def flush(self, handle: Handle) -> None:
        """close(2) waits for this. A document must be valid; a file's being closed is noted, so that it survives."""
        node = handle.node
        if not handle.writable:
            return
        if node.edit is not None:
            if node.edited and node.edit:
                self._check_document(node)
            return
        self.flushed(handle)

    def flushed(self, handle: Handle) -> None:
        staged = handle.node.staged
        # A file of which a write was refused is no whole file: it waits in staging, whoever closes it.
        if handle.writable and staged is not None and not staged.closed and staged.broken_at is None:
            staged.closed = True
            self.staging.note(staged)

    def _check_document(self, node: OpenNode) -> None:
        assert node.edit is not None
        name = _DOCUMENTS[node.key[:2]]
        try:
            canvas_json.check(name, bytes(node.edit))
        except InvalidValue as error:
            self.library.store.problems.report("invalid-document", f"{name} was not saved: {error}", name=name)
            # The program was told: the last release is not to try it again.
            node.edited = False
            raise

    async def release(self, handle: Handle) -> None:
        """The last of a handle."""
        node = handle.node
        node.handles -= 1
        if handle.writable:
            node.writers -= 1
            if node.staged is not None:
                node.staged.changed()
                self.wake()
        if node.handles:
            return
        self._drop_if_unused(node)
        if node.edit and node.edited:
            await self._save_document(node, bytes(node.edit))
        elif node.edit is not None:
            # Nothing is saved: the kernel must not keep what was written as the document's bytes and size.
            self.forget_name(b"S" + node.key[2:18], _DOCUMENTS[node.key[:2]].encode())

    async def _save_document(self, node: OpenNode, data: bytes) -> None:
        name = _DOCUMENTS[node.key[:2]]

        def write(txn: Txn) -> None:
            session = txn.get_raw(Session, node.key[2:18])
            if session is None:
                raise NotFoundError("The session is gone.")
            canvas_json.save(txn, session.id, name, data)

        try:
            async with self.lock:
                await self.commit(write)
        except MixfsError as error:
            self.library.store.problems.report("invalid-document", f"{name} was not saved: {error}", name=name)
        finally:
            # What the kernel cached under this name is what was written, not what the library made of it.
            self.forget_name(b"S" + node.key[2:18], name.encode())

    def _drop_if_unused(self, node: OpenNode) -> None:
        if node.handles:
            return
        if self.open_nodes.get(node.key) is node:
            del self.open_nodes[node.key]
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1
        if node.staged is not None and not node.staged.linked:
            self.staging.discard(node.staged)

    async def fsync(self, handle: Handle) -> None:
        """Make a staged file's bytes, and that it exists, durable."""
        staged = handle.node.staged
        if handle.node.key == IMPORTED and self.take_all_in is not None:
            await self.take_all_in()
            return
        if staged is None or staged.intake is None:
            return
        fd = staged.intake.fd

        def sync() -> None:
            os.fsync(fd)
            self.staging.sync()

        async with staged.io:
            if staged.intake is not None:
                await self.in_thread(sync)
                staged.synced = True

    async def fsync_directory(self) -> None:
        """What is closed becomes durable, in bounded time; waits for no intake."""
        await trio.to_thread.run_sync(self.staging.sync, abandon_on_cancel=True, limiter=self._readers)

    # -- a session that `rm -r` is at work on

    def expire_going(self) -> list[bytes]:
        """Let sessions come back whose removal did not go on; returns their folder keys."""
        now = time.monotonic()
        back = [raw for raw, since in self.context.going.items() if now - since > GOING_S]
        for raw in back:
            del self.context.going[raw]
        return [b"S" + raw for raw in back]

    def close(self) -> None:
        for node in list(self.open_nodes.values()):
            if node.fd >= 0:
                os.close(node.fd)
        self.open_nodes.clear()
        self.staging.close()

