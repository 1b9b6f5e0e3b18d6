"""The only pyfuse3.Operations: converts, counts lookups, maps errors to errno; nothing else.

Concurrency: handlers run as trio tasks on the event loop. `lookup`, `getattr` and each page of `readdir` read the index
and answer with no `await` between, so that what the kernel is told was true when it was told. No handler invalidates:
one task (`mixfs/daemon/invalidation.py`) does.
"""

from __future__ import annotations

import errno
import functools
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import pyfuse3
import structlog
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from mixfs import clock
from mixfs.errors import MixfsError, NotADirectory, NotFoundError
from mixfs.index.dentries import Dentry
from mixfs.library.view import View
from mixfs.vfs import attributes, files, naming, renaming, saving
from mixfs.vfs.bases import NOBODY, Owner, owner_of
from mixfs.vfs.handles import Handle
from mixfs.vfs.inodes import Inodes
from mixfs.vfs.privacy import Other, tells_of
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.storage_v2 import LIVE_DIRECTORIES

log = structlog.get_logger("mixfs.fuse")

# Long: the kernel keeps what it was told until it is told to forget it. Timeouts are not how changes are seen.
TIMEOUT_S = 24 * 3600.0
# What tells of the daemon; what is in trash/, of which a rename makes another node than the kernel then believes; and
# the documents of storage-v2/, which are other nodes as soon as they are saved.
_LIVE_TAGS = (b".", b"u", b"U", b"V", b"Q", b"K", b"k")
# canvas.json and session.json too.
_LIVE_DOCUMENTS = (b"DC", b"DS")
# Folders whose names are looked up each time: outputs/ and inputs/ show what their session has just then.
_PASSING_TAGS = (b">", b"<")
# Node keys of files begin with one of these; all others are directories.
FILE_TAGS = (b"P", b"R", b"J", b"D", b"T", b"U", b".", b"V", b"Q", b"K")
_SECURITY = b"security."
# What programs take for the size of their buffers (st_blksize). Who has just made a file is about to write it, and each
# write(2) costs us a thread and the kernel a question for its capabilities: as much at once as a request can carry.
READ_SIZE, WRITE_SIZE = 1 << 17, 1 << 20
_WRITTEN_TAGS = (b"P", b"R")
# The tags of directories in which there are documents that can be saved.
_WITH_DOCUMENTS = (b"S", b"/")

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def handler(function: F) -> F:
    """Wrap a request: domain errors become their errno, anything else EIO and a log line. Nothing escapes."""
    name = function.__name__

    @functools.wraps(function)
    async def wrapped(self: Operations, *args: Any) -> Any:
        self.counts[name] += 1
        self.under_way += 1
        try:
            return await function(self, *args)
        except FUSEError:
            raise
        except MixfsError as error:
            self.errors[name] += 1
            raise FUSEError(error.errno) from None
        except OSError as error:
            self.errors[name] += 1
            log.warning("os_error", operation=name, error=str(error), errno=error.errno)
            raise FUSEError(error.errno or errno.EIO) from None
        except BaseException as error:  # noqa: BLE001 - also KeyboardInterrupt: a mount is ended by signals, see run.py
            if _is_cancelled(error):
                raise
            self.errors[name] += 1
            log.exception("handler_failed", operation=name, error=repr(error))
            raise FUSEError(errno.EIO) from None
        finally:
            self.under_way -= 1

    return cast(F, wrapped)


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is_cancelled(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled | GeneratorExit)


def _groups_of(pid: int) -> set[int]:
    try:
        return pyfuse3.get_sup_groups(pid)
    except (OSError, RuntimeError):
        return set()


class _Directory:
    """One opendir(3): its key, what it was then, and the place behind each entry given so far (the cookies)."""

    __slots__ = ("dentry", "key", "places")

    def __init__(self, key: bytes, dentry: Dentry | None = None) -> None:
        self.key, self.dentry = key, dentry
        self.places: list[bytes] = [b""]


class Operations(pyfuse3.Operations):
    """The requests of one mount, over a `Tree`."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self, tree: Tree, inodes: Inodes, *, read_only: bool = False, has_other_users: bool = False
    ) -> None:
        super().__init__()
        self._tree = tree
        self.inodes = inodes
        self._uid, self._gid = tree.context.uid, tree.context.gid
        self._read_only = read_only
        self._has_other_users = has_other_users
        # What documents that tell of many pictures another user may read, in one state of the library.
        self._looking_through = trio.Lock()
        self._looked_through: dict[tuple[bool, bytes], bool] = {}
        self._looked_through_at: tuple[bytes | None, bytes | None] | None = None
        self._handles: dict[int, Handle] = {}
        self._directories: dict[int, _Directory] = {}
        self._next = 1
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.served_bytes = 0
        # Requests that were taken and are not answered yet.
        self.under_way = 0
        # Set once the kernel's first request was answered.
        self.answering = trio.Event()

    def init(self) -> None:
        self.answering.set()

    def held(self) -> dict[str, int]:
        """What the kernel and its programs make us keep: all of it goes when they let go of it."""
        return {
            "nodes": len(self.inodes), "lookups": self.inodes.lookups(), "handles": len(self._handles),
            "directories": len(self._directories),
        }  # fmt: skip

    # -- helpers

    def _key(self, ino: int) -> bytes:
        try:
            return self.inodes.key(ino)
        except KeyError:
            raise FUSEError(errno.ESTALE) from None

    def _blank(self) -> EntryAttributes:
        """What nearly all entries have in common."""
        entry = EntryAttributes()
        entry.st_uid = self._uid
        entry.st_gid = self._gid
        entry.entry_timeout = TIMEOUT_S
        entry.attr_timeout = TIMEOUT_S
        return entry

    def _fill(self, dentry: Dentry, ino: int, entry: EntryAttributes | None = None) -> EntryAttributes:
        """Attributes as the kernel wants them; in `entry`, one of `_blank`, where that may be used again."""
        tag = dentry.key[:1]
        live = tag in _LIVE_TAGS or (tag == b"/" and dentry.key in LIVE_DIRECTORIES)
        live = live or (tag == b"D" and dentry.key[:2] in _LIVE_DOCUMENTS)
        if entry is None or live:
            entry = self._blank()
        size, mtime_ns = dentry.size, dentry.mtime_ns
        entry.st_ino = ino
        entry.st_mode = dentry.mode
        entry.st_nlink = 2 if tag == b"J" else dentry.links
        entry.st_size = size
        entry.st_blksize = READ_SIZE if size or tag not in _WRITTEN_TAGS else WRITE_SIZE
        entry.st_blocks = (size + 511) >> 9
        entry.st_atime_ns = dentry.atime_ns if dentry.extra else mtime_ns
        entry.st_mtime_ns = mtime_ns
        entry.st_ctime_ns = dentry.ctime_ns
        if live:
            entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    def _given(self, dentry: Dentry) -> EntryAttributes:
        """Attributes for a name that the kernel is about to remember: counts one lookup."""
        ino = self.inodes.ino(dentry.key, dentry.ino)
        entry = self._fill(dentry, ino)
        self.inodes.remember(ino, dentry.key)
        return entry

    def _view(self) -> Any:
        return self._tree.library.read()

    def _attr(self, view: View, ino: int) -> EntryAttributes:
        key = self._key(ino)
        try:
            return self._fill(self._tree.attr(view, key), ino)
        except NotFoundError:
            for directory in self._directories.values():
                if directory.key == key and directory.dentry is not None:
                    # Removed, and still open: it goes on as an empty one without a name.
                    return self._fill(directory.dentry._replace(links=0), ino)
            # ESTALE makes the kernel look the name up again, where ENOENT would be the answer for good.
            raise FUSEError(errno.ESTALE) from None

    def _live_key(self, view: View, ino: int) -> bytes:
        """The key of a node that is still there; one that isn't is looked up again, as for `getattr`."""
        key = self._key(ino)
        try:
            self._tree.attr(view, key)
        except NotFoundError:
            raise FUSEError(errno.ESTALE) from None
        return key

    async def _require_made(self, key: bytes) -> None:
        """A thumbnail that was looked up by name is made when something is asked about it."""
        if key[:1] == b"T" and key not in self._tree.open_nodes and not await self._tree.thumbnail_made(key):
            raise FUSEError(errno.ENOENT)

    def _directory_key(self, ino: int) -> bytes:
        key = self._key(ino)
        if key[:1] in FILE_TAGS:
            raise NotADirectory("It is no folder.")
        return key

    def _check_writable(self) -> None:
        if self._read_only:
            raise FUSEError(errno.EROFS)

    def _other(self, ctx: RequestContext) -> Other | None:
        """Another user than the owner and root, who read everything."""
        if not self._has_other_users or ctx.uid in (0, self._uid):
            return None
        return Other(in_group=ctx.gid == self._gid or self._gid in _groups_of(ctx.pid))

    def _check_reader(self, view: View, key: bytes, ctx: RequestContext) -> None:
        """Where the kernel can't know what another user may read."""
        other = self._other(ctx)
        if other is not None and not other.may_read(view, key):
            raise FUSEError(errno.EACCES)

    async def _check_documents_reader(self, key: bytes, ctx: RequestContext) -> None:
        """As `_check_reader`, where a document tells of so much that it is looked through in a thread."""
        other = self._other(ctx)
        if other is None:
            return
        with self._view() as view:
            told = tells_of(view, key)
        if told is None:
            return
        # One at a time: the next finds what this one found.
        async with self._looking_through:
            with self._view() as view:
                state = view.state()
            if self._looked_through_at != state:
                self._looked_through, self._looked_through_at = {}, state
            found = (other.in_group, told)
            if found not in self._looked_through:
                may_read, of_state = await self._tree.in_thread(lambda: self._look_through(other, told))
                # Of a later state: the next one that asks looks again.
                self._looked_through_at = state if of_state == state else None
                self._looked_through[found] = may_read
            may_read = self._looked_through[found]
        if not may_read:
            raise FUSEError(errno.EACCES)

    def _look_through(self, other: Other, told: bytes) -> tuple[bool, tuple[bytes | None, bytes | None]]:
        with self._tree.library.read() as view:
            return other.may_read_all(view, told), view.state()

    # -- names

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self._directory_key(parent_inode)
        with self._view() as view:
            dentry = self._tree.lookup(view, parent, name)
            if dentry is not None:
                entry = self._given(dentry)
                if parent[:1] in _PASSING_TAGS:
                    entry.entry_timeout = 0.0
                return entry
            makes = parent[:1] == b"t" and not self._read_only
            unmade = self._tree.unmade_thumbnail(view, parent, name) if makes else None
        if unmade is not None:
            # The kernel asks for its attributes next, and waits for them without keeping others out of the folder.
            entry = self._given(unmade)
            entry.entry_timeout = entry.attr_timeout = 0.0
            return entry
        if parent[:1] == b"t":
            raise FUSEError(errno.ENOENT)
        if parent[:1] in _LIVE_TAGS + _PASSING_TAGS or parent in LIVE_DIRECTORIES:
            raise FUSEError(errno.ENOENT)
        # A negative dentry, kept until the name appears and is invalidated.
        nothing = EntryAttributes()
        nothing.st_ino = 0
        nothing.entry_timeout = TIMEOUT_S
        return nothing

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        # Nothing is answered to it, so `handler` does not fit; but nothing may escape from it either.
        try:
            for ino, lookups in inode_list:
                self.inodes.forget(ino, lookups)
        except Exception as error:
            log.exception("handler_failed", operation="forget", error=repr(error))

    @handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        await self._require_made(self._key(inode))
        with self._view() as view:
            return self._attr(view, inode)

    @handler
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_writable()
        key = self._key(inode)
        mode = attr.st_mode if fields.update_mode else None
        mtime_ns = attr.st_mtime_ns if fields.update_mtime else None
        atime_ns = attr.st_atime_ns if fields.update_atime else None
        size = attr.st_size if fields.update_size else None
        nothing = mode is None and mtime_ns is None and atime_ns is None and size is None
        if nothing and key[:1] not in (b"R", b"d"):
            # The owner: accepted and ignored; in import/ it is a change nevertheless, as the ctime tells.
            with self._view() as view:
                return self._attr(view, inode)
        try:
            dentry = await attributes.set_attributes(
                self._tree, key, mode=mode, atime_ns=atime_ns, mtime_ns=mtime_ns, size=size,
                handle=self._handles.get(fh) if fh is not None else None, owner=_owner(key, ctx),
            )  # fmt: skip
        except NotFoundError:
            raise FUSEError(errno.ESTALE) from None
        return self._fill(dentry, inode)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_writable()
        if mode & 0o170000 not in (0, 0o100000):
            raise FUSEError(errno.EPERM)
        parent = self._directory_key(parent_inode)
        return self._given(await naming.make_node(self._tree, parent, name, mode & ~ctx.umask))

    @handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        self._check_writable()
        parent = self._directory_key(parent_inode)
        return self._given(await naming.make_directory(self._tree, parent, name, mode & ~ctx.umask))

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_writable()
        await naming.unlink(self._tree, self._directory_key(parent_inode), name, ctx.pid)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_writable()
        await naming.remove_directory(self._tree, self._directory_key(parent_inode), name, ctx.pid)

    @handler
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        raise FUSEError(errno.EINVAL)

    @handler
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
        ctx: RequestContext,
    ) -> None:  # fmt: skip
        self._check_writable()
        old, new = self._directory_key(parent_inode_old), self._directory_key(parent_inode_new)
        owner = owner_of(ctx.pid) if new[:1] in _WITH_DOCUMENTS else NOBODY
        await renaming.rename(self._tree, old, name_old, new, name_new, flags, owner)

    @handler
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        self._check_writable()
        parent = self._directory_key(new_parent_inode)
        with self._view() as view:
            key = self._live_key(view, inode)
        return self._given(await naming.link(self._tree, key, parent, new_name))

    # -- files

    def _opened(self, handle: Handle) -> FileInfo:
        fh = self._next
        self._next += 1
        self._handles[fh] = handle
        info = FileInfo(fh=fh)
        if handle.node.live:
            info.direct_io = True
        else:
            # Bytes under an ino change only by writes through this mount, which the kernel sees.
            info.keep_cache = True
        return info

    @handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        key = self._key(inode)
        if self._has_other_users:
            with self._view() as view:
                self._check_reader(view, key, ctx)
        await self._check_documents_reader(key, ctx)
        await self._require_made(key)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._check_writable()
        elif flags & os.O_TRUNC:
            # Linux truncates for a reader too, whom it has asked for the right to write.
            self._check_writable()
            await files.truncate(self._tree, key, 0)
        try:
            handle = await files.opened(self._tree, key, flags, _owner(key, ctx))
        except NotFoundError:
            # Deleted, or its name means another file by now: looked up again, as for `getattr`.
            raise FUSEError(errno.ESTALE) from None
        if flags & os.O_TRUNC and handle.writable:
            try:
                await files.truncate_open(self._tree, handle)
            except BaseException:
                await files.release(self._tree, handle)
                raise
        return self._opened(handle)

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        self._check_writable()
        parent = self._directory_key(parent_inode)
        owner = owner_of(ctx.pid) if parent[:1] in _WITH_DOCUMENTS else NOBODY
        dentry, handle = await naming.create(self._tree, parent, name, mode & ~ctx.umask, flags, owner)
        if flags & os.O_TRUNC and handle.writable:
            try:
                await files.truncate_open(self._tree, handle)
            except BaseException:
                await files.release(self._tree, handle)
                raise
            with self._view() as view:
                dentry = self._tree.attr(view, dentry.key)
        entry = self._given(dentry)
        if parent[:1] == b"S":
            # Renamed over a document, it would go on standing for it.
            entry.entry_timeout = entry.attr_timeout = 0.0
        return self._opened(handle), entry

    def _handle(self, fh: int) -> Handle:
        try:
            return self._handles[fh]
        except KeyError:
            raise FUSEError(errno.EBADF) from None

    @handler
    async def read(self, fh: int, off: int, size: int) -> Any:
        data = await files.read(self._tree, self._handle(fh), off, size)
        self.served_bytes += len(data)
        return data

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await files.write(self._tree, self._handle(fh), off, buf)

    @handler
    async def flush(self, fh: int) -> None:
        await files.flush(self._tree, self._handle(fh))

    @handler
    async def release(self, fh: int) -> None:
        handle = self._handles.pop(fh, None)
        if handle is not None:
            await files.release(self._tree, handle)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await files.fsync(self._tree, self._handle(fh))

    # -- directories

    @handler
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        key = self._directory_key(inode)
        await self._check_documents_reader(key, ctx)
        with self._view() as view:
            self._check_reader(view, self._live_key(view, inode), ctx)
            directory = _Directory(key, self._tree.attr(view, key))
        fh = self._next
        self._next += 1
        self._directories[fh] = directory
        return fh

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self._directories[fh]
        places = directory.places
        if start_id >= len(places):
            return
        if start_id == 0:
            # Also rewinddir(3): begin anew with what is there now.
            del places[1:]
        next_id = start_id + 1
        inodes, fill, reply = self.inodes, self._fill, pyfuse3.readdir_reply
        # `reply` copies what it is given, so that one does for all.
        entry = self._blank()
        if directory.key[:1] in _PASSING_TAGS:
            entry.entry_timeout = 0.0
        with self._view() as view:
            for dentry, place in self._tree.entries(view, directory.key, places[start_id]):
                ino = inodes.ino(dentry.key, dentry.ino)
                if not reply(token, dentry.name, fill(dentry, ino, entry), next_id):
                    return
                inodes.remember(ino, dentry.key)
                if next_id < len(places):
                    places[next_id] = place
                else:
                    places.append(place)
                next_id += 1

    @handler
    async def releasedir(self, fh: int) -> None:
        self._directories.pop(fh, None)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        # The kernel holds the directory's lock meanwhile: bounded, and waiting for no intake.
        with trio.move_on_after(5):
            await self._tree.fsync_directory(self._directories[fh].key)

    # -- attributes

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if name.startswith(_SECURITY):
            # Each write(2) makes the kernel ask for security.capability: answered before anything else.
            raise FUSEError(errno.ENODATA)
        await self._check_documents_reader(self._key(inode), ctx)
        with self._view() as view:
            key = self._live_key(view, inode)
            self._check_reader(view, key, ctx)
            return attributes.get(self._tree, view, key, _text(name))

    @handler
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        await self._check_documents_reader(self._key(inode), ctx)
        with self._view() as view:
            key = self._live_key(view, inode)
            self._check_reader(view, key, ctx)
            found = attributes.names(self._tree, view, key)
        return [name.encode("utf-8", "surrogateescape") for name in found]

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._check_writable()
        with self._view() as view:
            key = self._live_key(view, inode)
        await attributes.set_one(self._tree, key, _text(name), value)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_writable()
        with self._view() as view:
            key = self._live_key(view, inode)
        await attributes.remove(self._tree, key, _text(name))

    @handler
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return True

    @handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = os.statvfs(self._tree.library.root)
        out = StatvfsData()
        out.f_bsize, out.f_frsize = found.f_bsize, found.f_frsize
        out.f_blocks, out.f_bfree, out.f_bavail = found.f_blocks, found.f_bfree, found.f_bavail
        out.f_files, out.f_ffree, out.f_favail = found.f_files, found.f_ffree, found.f_favail
        out.f_namemax = 255
        return out

    def stacktrace(self) -> None:
        log.info("stacktrace", time=clock.now_s())


def _owner(key: bytes, ctx: RequestContext) -> Owner:
    """The process that opens a document; of others nobody needs to know."""
    return owner_of(ctx.pid) if saving.is_document(key) else NOBODY


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
