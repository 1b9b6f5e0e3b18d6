"""Opening, reading, writing and closing files. Each function is one request on a `Tree`.

Concurrency: bytes are written in threads, one write at a time for each file (`Staged.io`). A file that the intake has
begun to publish takes no write until it is done; the next write then begins a new version.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial

from mixfs.blobs import Intake
from mixfs.blobs.cached import open_cached
from mixfs.blobs.intake import MAX_SIZE
from mixfs.blobs.sums import blocks_around, checked_sums, first_bad_block
from mixfs.errors import BadHandle, BlobDamaged, MixfsError, NotFoundError, Outdated, ReadOnlyError, TooLong
from mixfs.ids import Digest
from mixfs.library.storage_v2 import is_file
from mixfs.library.view import View
from mixfs.records import Blob, Placement
from mixfs.vfs import ahead, app_folder, saving, versions
from mixfs.vfs.bases import NOBODY, Owner
from mixfs.vfs.content import BlobContent, BytesContent, Content, FileContent
from mixfs.vfs.handles import Handle, OpenNode
from mixfs.vfs.records_of import place_of
from mixfs.vfs.routes import file_view
from mixfs.vfs.staging import Staged
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import status_key

_NOWAIT = os.RWF_NOWAIT
# A document that is longer is rendered in a thread.
LONG = 256 << 10
# canvas.json and generations.json of a session: of others an open must not ask twice what they are.
# The first byte of the keys of README.txt and the files of .mixfs/.
_FIXED = b"."
_LONG_DOCUMENTS = (b"DC", b"DH")
IMPORTED = status_key("imported")
# Who asks for so much at the beginning of a file reads it to its end.
_MUCH = 1 << 17


# -- opening and reading


async def opened(tree: Tree, key: bytes, flags: int, owner: Owner = NOBODY) -> Handle:
    """As `open_file`, in a read of its own; what is written where it lies is opened in a thread."""
    kept = -1
    if key[:1] == b"K" and flags & os.O_ACCMODE != os.O_RDONLY:
        kept = await tree.in_thread(app_folder.opener_of(tree, key))
    try:
        if (key[:1] == b"V" or key[:2] in _LONG_DOCUMENTS) and key not in tree.open_nodes:
            await _render_long(tree, key)
        with tree.library.read() as view:
            handle = open_file(tree, view, key, flags, owner)
    except BaseException:
        if kept >= 0:
            os.close(kept)
        raise
    finally:
        tree.rendered.pop(key, None)
    if flags & (os.O_ACCMODE | os.O_TRUNC) in (os.O_RDONLY, os.O_RDWR):
        await saving.note_shown(tree, owner, handle.node)
    if kept >= 0:
        handle.fd, node = kept, handle.node
        # There may have been nothing to read yet; and now it stays open, whatever becomes of its name.
        node.data = None
        node.fd = os.dup(kept) if node.fd < 0 else node.fd
    return handle


async def _render_long(tree: Tree, key: bytes) -> None:
    """Render a long document beforehand; its key says what it holds, so that another one is never shown for it."""
    with tree.library.read() as view:
        size = file_view(key).attr(tree.context, view, key).size

    def render() -> Content:
        with tree.library.read() as view:
            return file_view(key).content(tree.context, view, key)

    if size > LONG:
        tree.rendered[key] = await tree.in_cold_thread(render)


def open_file(tree: Tree, view: View, key: bytes, flags: int, owner: Owner = NOBODY) -> Handle:
    """Open a file. Raises ReadOnlyError for writing what is generated. Never awaits."""
    writable = flags & os.O_ACCMODE != os.O_RDONLY
    node = tree.open_nodes.get(key)
    if node is not None and node.live and key[:1] == _FIXED:
        # Of .mixfs/: whoever opens it sees what it says now, also while another program keeps it open.
        node = None
        tree.open_nodes.pop(key)
    if node is None or not saving.is_usable(tree, view, node):
        # What was written under this key is in the kernel's cache.
        bypass = node is not None
        node = _open_node(tree, view, key)
        node.live |= bypass
        tree.open_nodes[key] = node
    handle = Handle(node, writable, append=bool(flags & os.O_APPEND), owner=owner)
    handle.is_impatient = bool(flags & os.O_NONBLOCK)
    if writable:
        if saving.is_document(key):
            saving.begin(node)
        elif key[:1] not in (b"P", b"R", b"Q", b"K"):
            _drop_if_unused(tree, node)
            raise ReadOnlyError("It is generated from the library and can't be written to.")
        elif key[:1] == b"P" and node.attr is not None and _is_in_files(tree, view, key):
            _drop_if_unused(tree, node)
            raise ReadOnlyError("files/ shows what was copied in; change it through import/ or images/.")
        node.writers += 1
    node.handles += 1
    return handle


def _is_in_files(tree: Tree, view: View, key: bytes) -> bool:
    placement = view.get_raw(Placement, key[1:]) if tree.staging.by_key(key) is None else None
    return placement is not None and placement.area == "files" and not is_file(placement)


def _open_node(tree: Tree, view: View, key: bytes) -> OpenNode:
    staged = tree.staging.by_key(key)
    if staged is not None and staged.intake is not None:
        return OpenNode(key, staged=staged)
    found = file_view(key)
    dentry = found.attr(tree.context, view, key)
    content = tree.rendered.pop(key, None) or found.content(tree.context, view, key)
    if isinstance(content, BytesContent):
        return OpenNode(key, data=content.data, live=content.live, attr=dentry)
    return OpenNode(key, content=content, live=isinstance(content, FileContent) and content.growing, attr=dentry)


async def hold_deleted(tree: Tree) -> None:
    """After commits: what has lost its name while it is open is opened in earnest, before gc may take it away."""
    gone = []
    with tree.library.read() as view:
        for node in tree.open_nodes.values():
            content = node.content
            if node.fd < 0 and isinstance(content, BlobContent) and not _is_there(tree, view, node):
                node.blob = node.blob or view.blob(content.digest)
                gone.append((node, content))
    for node, content in gone:
        with contextlib.suppress(MixfsError, OSError):
            node.take(await tree.in_cold_thread(partial(_open, tree, content)), content)


def _is_there(tree: Tree, view: View, node: OpenNode) -> bool:
    try:
        return file_view(node.key).content(tree.context, view, node.key) == node.content
    except (NotFoundError, Outdated):
        return False


async def read(tree: Tree, handle: Handle, offset: int, size: int) -> bytes | bytearray | memoryview:
    """Bytes at an offset: from the page cache at once, from the disk in a thread."""
    node = handle.node
    if node.edit is not None:
        return bytes(node.edit[offset : offset + size])
    if node.data is not None:
        return memoryview(node.data)[offset : offset + size]
    content = node.content
    if not isinstance(content, BlobContent):
        return await _read(tree, node, offset, size)
    blob = node.blob
    if blob is None:
        blob = node.blob = await _blob(tree, node, content.digest)
    start, end = blocks_around(offset, size)
    end = min(end, blob.size)
    if start >= end:
        return b""
    data = await _read(tree, node, start, end - start)
    bad = start + len(data) if len(data) < end - start else first_bad_block(blob.sums, data, start)
    if bad is not None:
        tree.damaged(blob.digest)
        raise BlobDamaged(f"Blob {blob.digest.hex()} is not what was imported from byte {bad} on: run `mixfs fsck`.")
    return data[offset - start : offset - start + size]


async def _read(tree: Tree, node: OpenNode, offset: int, size: int) -> memoryview:
    """From the page cache at once, from the disk in a thread, where it is opened too if it has not been."""
    content, fd = node.content, node.source()
    if fd < 0 and content is not None and (cached := _open_cached(tree, content)) is not None:
        fd = node.fd = cached
    buffer, count = bytearray(size), 0
    if fd >= 0:
        try:
            count = os.preadv(fd, [buffer], offset, _NOWAIT)
            if count == size or offset + count >= os.fstat(fd).st_size:
                if offset == 0 and len(tree.ahead):
                    tree.ahead.begun(node.key, waited=False, whole=size >= _MUCH)
                return memoryview(buffer)[:count]
        except OSError as error:
            # EOPNOTSUPP: a file system that can't say (tmpfs).
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
    # A short read was the end of the page cache's part and not the file's. The thread has a descriptor of its own:
    # the node's may be closed meanwhile (taken in, or a new version begun), and its number given to another file.
    own = os.dup(fd) if fd >= 0 else -1
    rest = memoryview(buffer)[count:]
    if offset == 0 and isinstance(content, BlobContent):
        tree.ahead.begun(node.key, waited=True, whole=size >= _MUCH)

    def read_rest() -> int:
        nonlocal own
        if own < 0:
            assert content is not None
            own = _open(tree, content)
        if offset == 0 and size >= _MUCH:
            os.posix_fadvise(own, 0, ahead.WHOLE, os.POSIX_FADV_WILLNEED)
        return os.preadv(own, [rest], offset + count)

    try:
        count += await tree.in_cold_thread(read_rest)
    finally:
        if fd < 0 and own >= 0 and content is not None:
            node.take(own, content)
        elif own >= 0:
            os.close(own)
    return memoryview(buffer)[:count]


def _open_cached(tree: Tree, content: BlobContent | FileContent) -> int | None:
    """Open without waiting for the disk, or None."""
    if isinstance(content, BlobContent):
        return tree.library.blobs.open_cached(content.digest)
    with contextlib.suppress(FileNotFoundError):
        return open_cached(content.path)
    return None


def _open(tree: Tree, content: BlobContent | FileContent) -> int:
    """Open, in a thread. Raises BlobMissing, OSError."""
    if isinstance(content, BlobContent):
        return tree.library.blobs.open(content.digest)
    try:
        return os.open(content.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if not content.growing:
            raise
        # A log in which nothing was written yet.
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


async def _blob(tree: Tree, node: OpenNode, digest: Digest) -> Blob:
    """What a blob is checked against.

    One that was imported before sums were recorded, or is known no more and still open, is read the long way.
    """
    with tree.library.read() as view:
        blob = view.blob(digest)
    if blob is not None and (blob.sums or not blob.size):
        return blob

    own = os.dup(node.fd) if node.fd >= 0 else -1

    def measure() -> Blob:
        fd = own if own >= 0 else tree.library.blobs.open(digest)
        try:
            return Blob(digest=digest, size=os.fstat(fd).st_size, sums=checked_sums(fd, digest))
        finally:
            os.close(fd)

    try:
        return await tree.in_cold_thread(measure)
    except BlobDamaged:
        tree.damaged(digest)
        raise


# -- writing


async def write(tree: Tree, handle: Handle, offset: int, data: bytes) -> int:
    """Write into a file in staging; the first write to one that was taken in begins a new version."""
    node = handle.node
    if not handle.writable:
        raise BadHandle("It was not opened for writing.")
    if handle.fd >= 0:
        return await app_folder.write_kept(tree, handle, offset, data)
    if node.edit is not None:
        return saving.write(handle, offset, data)
    _check_size(offset + len(data))
    while True:
        staged = await writable(tree, node)
        async with staged.in_use():
            intake = staged.intake
            if intake is None or node.staged is not staged or staged.digest is not None:
                # Taken in while we waited: begin a new version.
                continue
            intake = await _reopened(tree, staged)
            try:
                written: int = await tree.in_thread(lambda intake=intake: intake.write(data, offset))  # type: ignore[misc]
            except OSError:
                # A full disk, say: what is there is not what the program meant to write. It waits until it is mended.
                staged.broken_at = offset if staged.broken_at is None else min(staged.broken_at, offset)
                raise
            finally:
                staged.changed()
            if staged.broken_at is not None and offset <= staged.broken_at < offset + written:
                # The program wrote it again.
                staged.broken_at = None
            return written


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise TooLong(f"A file may have {MAX_SIZE >> 30} GiB.")


async def _reopened(tree: Tree, staged: Staged, *, empty: bool = False) -> Intake:
    """Before a file is written to: what was closed is kept where it is a picture. The caller holds `staged.io`."""
    if staged.closed:
        await versions.keep(tree, staged, versions.OVERWRITTEN)
        staged.closed = False
        tree.staging.note(staged)
    if staged.shared:
        await tree.in_thread(lambda: tree.staging.unshare(staged, empty=empty))
    staged.changed()
    assert staged.intake is not None
    return staged.intake


async def writable(tree: Tree, node: OpenNode, *, empty: bool = False) -> Staged:
    """The staged file behind an open node, made as a copy of its blob when there is none yet.

    Its bytes are copied before the tree's lock is taken: others change names meanwhile.
    """
    while True:
        staged = node.staged
        if staged is not None and staged.digest is None:
            return staged
        async with node.saving:
            content = node.content
            if staged is not None:
                await bring_back(tree, staged)
            if staged is not None or node.staged is not None:
                continue
            copy = await _copy_of(tree, node, content) if content is not None and not empty else None
            try:
                async with tree.lock:
                    if node.key in tree.staging.removed:
                        await tree.settle()
                    if node.staged is None and node.content is content:
                        copy, used = None, copy
                        return _new_version(tree, node, used)
            finally:
                if copy is not None:
                    copy.discard()


async def _copy_of(tree: Tree, node: OpenNode, content: BlobContent | FileContent) -> Intake:
    own = os.dup(node.fd) if node.fd >= 0 else -1

    def copy() -> Intake:
        source = own if own >= 0 else _open(tree, content)
        try:
            if isinstance(content, BlobContent):
                # Or damage would get a digest of its own, and never be found.
                checked_sums(source, content.digest)
            return tree.staging.copy_of(source)
        finally:
            os.close(source)

    return await tree.in_thread(copy)


async def bring_back(tree: Tree, staged: Staged) -> None:
    """A file that was published, and then its commit failed: the bytes come back into staging."""
    async with tree.lock:
        # While the intake is at work with it, it holds the lock; from here on it leaves it alone.
        if staged.digest is None or staged.intake is None:
            return
        staged.comes_back = True
    try:
        async with staged.in_use():
            if staged.digest is not None and staged.intake is not None:
                await tree.in_thread(lambda: tree.staging.copy_back(staged))
                tree.staging.come_back(staged)
    finally:
        staged.comes_back = False


def _new_version(tree: Tree, node: OpenNode, copy: Intake | None) -> Staged:
    try:
        with tree.library.read() as view:
            place = place_of(view, node.key)
        if place is not None:
            staged = tree.staging.create(
                place.directory, place.name, node.key[:1], place.mode, key=node.key, intake=copy
            )
            staged.replaces, staged.xattrs = place.placement_id, dict(place.xattrs)
            staged.xattrs_noted = False
        elif node.attr is not None:
            # Deleted: who has it open goes on with a file of their own.
            staged = tree.staging.create_nameless(node.key, node.attr.mode & 0o7777, intake=copy)
        else:
            raise NotFoundError("The file was deleted.")
    except BaseException:
        if copy is not None:
            copy.discard()
        raise
    tree.staging.note(staged)
    node.close()
    node.staged = staged
    return staged


async def keep_deleted(tree: Tree, key: bytes) -> None:
    """Before a file's attributes are changed: one that was deleted and is still open becomes one of its own."""
    node = tree.open_nodes.get(key)
    if node is None or node.staged is not None or key[:1] not in (b"P", b"R"):
        return
    with tree.library.read() as view:
        deleted = key in tree.staging.removed or place_of(view, key) is None
    if deleted and node.attr is not None:
        mtime_ns = node.attr.mtime_ns
        staged = await writable(tree, node)
        if staged.intake is not None:
            os.utime(staged.intake.fd, ns=(mtime_ns, mtime_ns))


async def truncate(
    tree: Tree, key: bytes, size: int, through: Handle | None = None, owner: Owner = NOBODY
) -> None:
    """Set a file's size, by its node, or `through` a handle of a document."""
    if through is not None and through.writable and through.node.edit is not None:
        saving.truncate(through, size)
        return
    handle = await opened(tree, key, os.O_WRONLY, owner)
    try:
        await _truncate(tree, handle, size)
        # Truncated by name and closed again.
        if handle.node.edit is not None:
            if handle.node.writers == 1:
                await saving.flush(tree, handle)
            # Else it is for those who are writing it.
            handle.edited = False
    finally:
        _note_closed(tree, handle)
        await release(tree, handle)


async def truncate_open(tree: Tree, handle: Handle) -> None:
    """O_TRUNC: the file begins anew, and what it was is not copied first."""
    await _truncate(tree, handle, 0)


async def _truncate(tree: Tree, handle: Handle, size: int) -> None:
    node = handle.node
    if handle.fd >= 0:
        await app_folder.truncate_kept(tree, handle, size)
        return
    if node.edit is not None:
        saving.truncate(handle, size)
        return
    _check_size(size)
    while True:
        staged = await writable(tree, node, empty=size == 0)
        async with staged.in_use():
            intake = staged.intake
            if intake is None or node.staged is not staged or staged.digest is not None:
                continue
            intake = await _reopened(tree, staged, empty=size == 0)
            await tree.in_thread(lambda intake=intake: intake.truncate(size))  # type: ignore[misc]
            staged.cut(size)
            staged.changed()
            return


# -- closing


async def flush(tree: Tree, handle: Handle) -> None:
    """close(2) waits for this. A document must be valid; a file's being closed is noted, so that it survives."""
    if not handle.writable:
        return
    node = handle.node
    if handle.fd >= 0:
        await app_folder.sync_kept(tree, handle)
    elif node.edit is not None:
        await saving.flush(tree, handle)
    elif node.staged is None or not await app_folder.flush_new(tree, node.staged, handle.owner):
        _note_closed(tree, handle)


def _note_closed(tree: Tree, handle: Handle) -> None:
    staged = handle.node.staged
    if handle.writable and staged is not None and not staged.closed and staged.broken_at is None:
        staged.closed = True
        tree.staging.note(staged)


async def release(tree: Tree, handle: Handle) -> None:
    """The last of a handle."""
    node = handle.node
    try:
        if node.edit is not None and handle.writable:
            await saving.release(tree, handle)
    finally:
        _let_go(tree, handle)


def _let_go(tree: Tree, handle: Handle) -> None:
    node = handle.node
    node.handles -= 1
    if handle.writable:
        node.writers -= 1
        if handle.fd >= 0:
            os.close(handle.fd)
            handle.fd = -1
        if node.staged is not None:
            node.staged.changed()
            tree.wake()
    _drop_if_unused(tree, node)


def _drop_if_unused(tree: Tree, node: OpenNode) -> None:
    if node.handles:
        return
    if tree.open_nodes.get(node.key) is node:
        del tree.open_nodes[node.key]
    node.close()
    if node.staged is not None and not node.staged.linked:
        tree.staging.discard(node.staged)
    elif node.staged is not None and node.staged.directory[:1] != b"S":
        node.staged.park()


async def fsync(tree: Tree, handle: Handle) -> None:
    """Make a staged file's bytes, and that it exists, durable."""
    node = handle.node
    if node.key == IMPORTED and tree.take_all_in is not None:
        await tree.take_all_in(handle)
        return
    if handle.fd >= 0 or node.edit is not None:
        await flush(tree, handle)
        return
    staged = node.staged
    if staged is None:
        return
    async with staged.in_use():
        intake = staged.intake
        if intake is None:
            return
        fd = intake.fd

        def sync() -> None:
            os.fsync(fd)
            tree.staging.sync()

        try:
            await tree.in_thread(sync)
        except OSError:
            # The intake's own fsync would succeed without writing what this one failed to write.
            staged.needs_copy = True
            raise
        staged.synced = True

