"""Making and removing names: create, mkdir, unlink, rmdir, link. Each function is one request on a `Tree`.

What can be changed: import/ (files and folders), sessions/ (mkdir, rmdir), images/ of a session and its folders, and
the files that an editor keeps beside canvas.json while it saves. Everything else answers ReadOnlyError, to root too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import time

from mixfs import clock
from mixfs.blobs import Intake
from mixfs.blobs.sums import checked_sums
from mixfs.errors import (
    ExistsError,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotEmptyError,
    NotFoundError,
    NotPermitted,
    ReadOnlyError,
)
from mixfs.ids import new_id
from mixfs.index.dentries import Dentry, fixed
from mixfs.library import editing
from mixfs.library.storage_v2 import IMAGES
from mixfs.library.transaction import Txn
from mixfs.names import MAX_NAME, is_temporary
from mixfs.records import Entry, Folder, Generation, ImportFolder, Placement, Session, Trash
from mixfs.vfs import app_folder, emptying, removals, versions
from mixfs.vfs.bases import NOBODY, Owner
from mixfs.vfs.content import BlobContent
from mixfs.vfs.files import opened, release
from mixfs.vfs.handles import Handle, OpenNode
from mixfs.vfs.records_of import bind, image_folder, import_folder, place_of, take_receipt_away, title_of
from mixfs.vfs.routes import file_view
from mixfs.vfs.staging import Staged
from mixfs.vfs.tree import VACATED_S, Tree

SESSIONS = fixed("/sessions")
READ_ONLY = "This part of the mount is made from the library and is read-only."
# As many receipts as one commit takes away.
REMOVED_AT_ONCE = 2000
_GOING = (b"thumbnails", b"metadata", b"files", b"canvas", b"generations")


def check_name(name: bytes) -> None:
    if len(name) > MAX_NAME:
        raise NameTooLong(f"{name[:40]!r}… has {len(name)} bytes; a name may have {MAX_NAME}.")


def note_change(tree: Tree, *directories: bytes) -> None:
    """A program changed what stands in a folder of import/: its time is now."""
    for directory in directories:
        if directory[:1] == b"d":
            now_ns = clock.now_ns()
            tree.staging.set_folder_time(directory, now_ns)
            tree.changed_at[directory] = now_ns


async def create(
    tree: Tree, directory: bytes, name: bytes, mode: int, flags: int, owner: Owner = NOBODY
) -> tuple[Dentry, Handle]:
    """Make a file and open it. Raises ExistsError with O_EXCL, ReadOnlyError where files can't be made."""
    check_name(name)
    with tree.library.read() as view:
        held = tree.lookup(view, directory, name)
        if held is not None:
            if flags & os.O_EXCL:
                raise ExistsError("The name is taken.")
            if held.is_directory:
                raise IsADirectory("It is a folder.")
        else:
            tag = _tag_for_new(tree, directory, name)
    if held is None and tag == b"K":
        key = await app_folder.create_kept(tree, directory, name)
        with tree.library.read() as view:
            held = tree.attr(view, key)
    if held is not None:
        return held, await opened(tree, held.key, flags, owner)
    staged = tree.staging.create(directory, name, tag, mode & 0o7777)
    staged.replaces = replaced_by(tree, directory, name)
    if staged.replaces is not None:
        tree.staging.note(staged)
    note_change(tree, directory)
    node = OpenNode(staged.key, staged=staged, handles=1)
    writable = flags & os.O_ACCMODE != os.O_RDONLY
    node.writers = int(writable)
    tree.open_nodes[staged.key] = node
    return staged.dentry(), Handle(node, writable, owner=owner)


def _tag_for_new(tree: Tree, directory: bytes, name: bytes) -> bytes:
    tag = directory[:1]
    if tag == b"k":
        return b"K"
    if app_folder.is_in(directory):
        return app_folder.tag_for_new(directory)
    if tag == b"d":
        return b"R"
    if tag == b"p" and directory[1:] not in tree.context.going:
        return b"P"
    # vim tries whether it may write by a file named 4913.
    if tag == b"S" and (is_temporary(name) or name == b"4913" or name.startswith((b"canvas.json", b"session.json"))):
        return b"P"
    raise ReadOnlyError(READ_ONLY)


def replaced_by(tree: Tree, directory: bytes, name: bytes) -> str | None:
    """The placement that a new file of this name is a new version of: its old version was renamed away to be kept."""
    vacated = tree.vacated.pop((directory, name), None)
    if vacated is None or time.monotonic() - vacated[1] >= VACATED_S:
        return None
    for staged in tree.staging:
        if staged.replaces == vacated[0]:
            # A version that was never taken in, and is what is kept aside.
            staged.replaces, staged.moved = None, False
            tree.staging.note(staged)
    return vacated[0]


async def make_node(tree: Tree, directory: bytes, name: bytes, mode: int) -> Dentry:
    """mknod(2) of a regular file."""
    dentry, handle = await create(tree, directory, name, mode, os.O_WRONLY | os.O_EXCL)
    await release(tree, handle)
    return dentry


async def make_directory(tree: Tree, directory: bytes, name: bytes, mode: int) -> Dentry:
    """A folder of import/ (a top one is a session), a session, or a folder below images/."""
    check_name(name)
    tag = directory[:1]
    mode &= 0o7777
    async with tree.lock:
        with tree.library.read() as view:
            if tree.lookup(view, directory, name) is not None:
                raise ExistsError("The name is taken.")
            if tag == b"k" or directory == SESSIONS or (tag == b"p" and directory[1:] not in tree.context.going):
                pass
            elif tag == b"d":
                import_folder(view, directory)
                # A folder of a group's makes folders of that group's.
                mode |= tree.attr(view, directory).mode & stat.S_ISGID
            else:
                raise ReadOnlyError(READ_ONLY)

        if tag == b"k":
            await app_folder.make_kept_directory(tree, directory, name)

        def write(txn: Txn) -> None:
            if directory == SESSIONS:
                editing.create_session(txn, title_of(name), name=name)
            elif tag == b"p":
                session_id, parent_id = image_folder(txn, directory)
                folder_id = editing.ensure_folder(txn, session_id, parent_id, name)
                folder = txn.get(Folder, folder_id)
                if folder is not None and folder.mode != mode:
                    txn.put(dataclasses.replace(folder, mode=mode))
            else:
                parent = import_folder(txn, directory)
                new = ImportFolder(
                    id=new_id(), parent_id=parent.id if parent else None, name=name, mode=mode,
                    mtime_ns=clock.now_ns(), named_ns=txn.next_stamp,
                )  # fmt: skip
                txn.put(new)
                if parent is None and not is_temporary(name):
                    bind(txn, new)

        if tag != b"k":
            await tree.commit(write, (directory, name))
        note_change(tree, directory)
    with tree.library.read() as view:
        found = tree.lookup(view, directory, name)
    if found is None:
        raise NotFoundError("The folder was removed as soon as it was made.")
    return found


async def unlink(tree: Tree, directory: bytes, name: bytes, pid: int = 0) -> None:
    """Remove a file's name. In import/ only the receipt goes; in sessions/ the picture goes to the trash.

    `pid` is the process that asks: what it removes of one session in one go is one deletion.
    """
    async with tree.lock:
        with tree.library.read() as view:
            dentry = tree.lookup(view, directory, name)
            if dentry is None:
                raise NotFoundError("There is no such file.")
            if dentry.is_directory:
                raise IsADirectory("It is a folder.")
            if directory[:1] == b"S" and directory[1:] in tree.context.going:
                return
            stored = view.dentry(directory, name) if directory[:1] in (b"d", b"p") else None
        staged = tree.staging.at(directory, name)
        if directory[:1] == b"u":
            await emptying.expunge(tree, directory, name, dentry.key)
            return
        if app_folder.is_in(directory):
            if staged is None or (stored := await _stored_picture(tree, directory, name)) is not None:
                await app_folder.remove(tree, directory, name, stored or dentry)
            if staged is not None:
                await drop(tree, staged)
            return
        if staged is None and directory[:1] not in (b"d", b"p"):
            raise ReadOnlyError(READ_ONLY)
        if stored is not None and not await _remove_later(tree, directory, name, stored):
            await remove_record(tree, directory, name, stored, pid)
        if staged is not None:
            await drop(tree, staged)
        note_change(tree, directory)


async def _stored_picture(tree: Tree, directory: bytes, name: bytes) -> Dentry | None:
    """What a name in storage-v2/images/ stands for besides the file that is being written."""
    with tree.library.read() as view:
        return view.dentry(directory, name) if directory == IMAGES else None


async def _remove_later(tree: Tree, directory: bytes, name: bytes, stored: Dentry) -> bool:
    """Only note that a receipt goes, for the next commit: `rm -r` of many is as slow as the disk's fsyncs otherwise."""
    if stored.key[:1] != b"R":
        return False
    try:
        tree.staging.remove(stored.key, directory, name)
    except OSError:
        # A full disk.
        return False
    if len(tree.staging.removed) >= REMOVED_AT_ONCE:
        await tree.settle()
    tree.wake()
    return True


async def remove_record(tree: Tree, directory: bytes, name: bytes, stored: Dentry, pid: int | None = None) -> None:
    """Delete the receipt, or trash the placement, that a name in import/ or images/ stands for."""
    before = tree.removals.last(pid)
    item = await tree.commit(lambda txn: take_away(txn, stored, before), (directory, name))
    tree.removals.note(pid, item)


def take_away(txn: Txn, stored: Dentry, before: Trash | None = None) -> Trash | None:
    """As `remove_record`, in a transaction; `before` is what the same process removed last."""
    if stored.key[:1] == b"R":
        take_receipt_away(txn, stored.key)
        return None
    placement = txn.get_raw(Placement, stored.key[1:])
    if placement is None:
        return None
    return editing.delete_placement(txn, placement.id, of=removals.same(before, placement.session_id))


async def drop(tree: Tree, staged: Staged, reason: str = versions.DELETED) -> None:
    """Take a staged file's name away; its bytes go with the last handle, and a picture that was closed is kept."""
    await versions.keep(tree, staged, reason)
    take_name_away(tree, staged)


def take_name_away(tree: Tree, staged: Staged) -> None:
    """As `drop`, of what is kept already or need not be."""
    tree.staging.unlink(staged)
    if staged.key not in tree.open_nodes:
        tree.staging.discard(staged)


async def remove_directory(tree: Tree, directory: bytes, name: bytes, pid: int = 0) -> None:
    """rmdir(2) by the process `pid`. A session goes to the trash when nothing but what is generated is left of it."""
    async with tree.lock:
        with tree.library.read() as view:
            dentry = tree.lookup(view, directory, name)
            if dentry is None:
                raise NotFoundError("There is no such folder.")
            if not dentry.is_directory:
                raise NotADirectory("It is no folder.")
            key, tag = dentry.key, dentry.key[:1]
            if directory[:1] == b"S":
                _remove_session_part(tree, view, directory, name, key)
                return
            if tag == b"k" and directory[:1] == b"k":
                await app_folder.remove_kept_directory(tree, key)
                return
            if tag == b"u":
                emptying.remove_emptied(tree, view, key)
                return
            if directory == SESSIONS:
                session = view.get_raw(Session, key[1:])
                held = any(
                    next(view.members(cls, session.id), None) is not None for cls in (Placement, Entry, Generation)
                ) if session is not None and key[1:] not in tree.context.going else False
                if held or tree.staging.has_names(key) or tree.staging.has_names(b"p" + key[1:]):
                    raise NotEmptyError("The session still has pictures, canvas entries or generations.")
            elif (tag == b"d" and directory[:1] == b"d") or (tag == b"p" and directory[:1] == b"p"):
                if next(tree.entries(view, key, b""), None) is not None:
                    raise NotEmptyError("The folder is not empty.")
            else:
                raise ReadOnlyError(READ_ONLY)

        before = tree.removals.last(pid)

        def write(txn: Txn) -> Trash | None:
            if tag == b"S":
                session = txn.get_raw(Session, key[1:])
                if session is not None:
                    return editing.delete_session(txn, session.id, removals.same(before, session.id))
            elif tag == b"d":
                folder = txn.get_raw(ImportFolder, key[1:])
                if folder is not None:
                    txn.delete(ImportFolder, folder.id)
            else:
                bound = txn.get_raw(Folder, key[1:])
                if bound is not None:
                    return editing.delete_folder(txn, bound, removals.same(before, bound.session_id))
            return None

        tree.removals.note(pid, await tree.commit(write, (directory, name)))
        tree.staging.forget_folder_time(key)
        tree.changed_at.pop(key, None)
        tree.accessed_at.pop(key, None)
        if tag == b"S":
            tree.context.going.pop(key[1:], None)
        note_change(tree, directory)


def _remove_session_part(tree: Tree, view: object, directory: bytes, name: bytes, key: bytes) -> None:
    """`rm -r` of a session: it takes images/ first, and when that is gone, what is generated steps out of its way."""
    going = tree.context.going
    raw = directory[1:]
    if name == b"images":
        if next(tree.entries(view, key, b""), None) is not None:  # type: ignore[arg-type]
            raise NotEmptyError("images/ is not empty.")
        going[raw] = time.monotonic()
    elif name in _GOING and raw in going:
        going[raw] = time.monotonic()
    else:
        raise ReadOnlyError(READ_ONLY)


async def link(tree: Tree, key: bytes, directory: bytes, name: bytes) -> Dentry:
    """link(2) into import/: a second file of the same bytes, with a receipt of its own (tar has no fallback)."""
    check_name(name)
    if directory[:1] != b"d":
        raise NotPermitted("Links can be made in import/ only: copy the file instead.")
    if tree.staging.removed:
        async with tree.lock:
            await tree.settle()
    with tree.library.read() as view:
        if tree.lookup(view, directory, name) is not None:
            raise ExistsError("The name is taken.")
        source = tree.staging.by_key(key)
        content = None if source is not None else file_view(key).content(tree.context, view, key)
        dentry = tree.attr(view, key)
        place = place_of(view, key) if source is None and key[:1] in (b"P", b"R") else None
    if source is None and not isinstance(content, BlobContent):
        raise NotPermitted("Only pictures and files that were copied in can be linked: copy it instead.")
    blob = content.digest if isinstance(content, BlobContent) else None

    def copy() -> Intake:
        fd = tree.library.blobs.open(blob) if blob is not None else _source(source)
        try:
            if blob is not None:
                checked_sums(fd, blob)
            made = tree.staging.copy_of(fd)
        finally:
            os.close(fd)
        os.utime(made.fd, ns=(dentry.mtime_ns, dentry.mtime_ns))
        return made

    # Without the tree's lock: others change names while a long file is copied.
    async with source.in_use() if source is not None else contextlib.nullcontext():
        made = await tree.in_thread(copy)
    async with tree.lock:
        with tree.library.read() as view:
            if tree.lookup(view, directory, name) is not None:
                made.discard()
                raise ExistsError("The name is taken.")
        staged = tree.staging.create(directory, name, b"R", dentry.mode & 0o7777, intake=made)
        staged.xattrs = dict(source.xattrs if source is not None else place.xattrs if place is not None else {})
        staged.closed, staged.xattrs_noted = True, False
        tree.staging.note(staged)
        note_change(tree, directory)
        tree.wake()
        return staged.dentry()


def _source(staged: Staged | None) -> int:
    if staged is None or staged.intake is None:
        raise NotFoundError("The file was deleted.")
    return os.dup(staged.intake.fd)
