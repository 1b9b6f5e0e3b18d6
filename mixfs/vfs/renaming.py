"""rename(2), with RENAME_NOREPLACE and RENAME_EXCHANGE. One request on a `Tree`, under its lock.

In import/ a rename moves what was taken in along with the receipt; renaming a top folder retitles its session. In
sessions/ it retitles, and moves placements. Saving an editor's temporary file over canvas.json commits it. Between
import/ and sessions/ programs get EXDEV and copy.
"""

from __future__ import annotations

import dataclasses
import os
import time

from mixfs.errors import (
    CrossesViews,
    ExistsError,
    InvalidValue,
    IsADirectory,
    NotADirectory,
    NotEmptyError,
    NotFoundError,
    ReadOnlyError,
)
from mixfs.index.dentries import Dentry
from mixfs.library import canvas_json, editing
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import import_directory
from mixfs.names import is_temporary
from mixfs.records import Folder, ImportFolder, Placement, Receipt, Session
from mixfs.vfs.naming import READ_ONLY, SESSIONS, check_name, drop, note_change, remove_record, replaced_by
from mixfs.vfs.records_of import bind, image_folder, import_folder, receipt_at, title_of
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.session import WRITABLE_DOCUMENTS

NOREPLACE, EXCHANGE = 1, 2


async def rename(
    tree: Tree, old_directory: bytes, old_name: bytes, new_directory: bytes, new_name: bytes, flags: int = 0
) -> None:
    """Rename a file or folder. Raises what rename(2) says, CrossesViews (EXDEV) between parts of the mount."""
    check_name(new_name)
    if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
        raise InvalidValue("Unknown rename flags.")
    async with tree.lock:
        with tree.library.read() as view:
            source = tree.lookup(view, old_directory, old_name)
            target = tree.lookup(view, new_directory, new_name)
            if source is None or (flags & EXCHANGE and target is None):
                raise NotFoundError("There is no such file or folder.")
            _check(view, tree, source, target, flags)
        if (old_directory, old_name) == (new_directory, new_name):
            return
        kinds = old_directory[:1] + new_directory[:1]
        if flags & EXCHANGE:
            await _exchange(tree, source, target, (old_directory, old_name), (new_directory, new_name))
        elif old_directory[:1] == b"S" and old_directory == new_directory:
            await _rename_scratch(tree, old_directory, old_name, new_name)
        elif old_directory == SESSIONS == new_directory:
            await _rename_session(tree, source, target, old_name, new_name)
        elif kinds not in (b"dd", b"pp"):
            writable = (b"d", b"p", b"S")
            if old_directory[:1] in writable and new_directory[:1] in writable:
                raise CrossesViews("import/ and sessions/ don't share files.")
            raise ReadOnlyError(READ_ONLY)
        elif source.is_directory and kinds == b"dd":
            await _rename_import_folder(tree, source, target, old_directory, old_name, new_directory, new_name)
        elif source.is_directory:
            await _rename_image_folder(tree, source, target, old_directory, old_name, new_directory, new_name)
        else:
            await _rename_file(tree, source, target, old_directory, old_name, new_directory, new_name)
        note_change(tree, old_directory, new_directory)


def _check(view: View, tree: Tree, source: Dentry, target: Dentry | None, flags: int) -> None:
    if target is None:
        return
    if flags & NOREPLACE:
        raise ExistsError("The new name is taken.")
    if flags & EXCHANGE:
        return
    if source.is_directory and not target.is_directory:
        raise NotADirectory("A folder can't replace a file.")
    if target.is_directory and not source.is_directory:
        raise IsADirectory("A file can't replace a folder.")
    other = target.is_directory and target.key != source.key and target.key[:1] != b"S"
    if other and next(tree.entries(view, target.key, b""), None) is not None:
        raise NotEmptyError("The folder of the new name is not empty.")


# -- files


async def _rename_file(
    tree: Tree, source: Dentry, target: Dentry | None, old_directory: bytes, old_name: bytes, new_directory: bytes,
    new_name: bytes,
) -> None:  # fmt: skip
    with tree.library.read() as view:
        stored = view.dentry(old_directory, old_name)
        overwritten = view.dentry(new_directory, new_name)
        receipt = receipt_at(view, new_directory, new_name)
    staged, staged_target = tree.staging.at(old_directory, old_name), tree.staging.at(new_directory, new_name)
    replaces = None
    if new_directory[:1] == b"d":
        replaces = receipt.placement_id if receipt is not None else replaced_by(tree, new_directory, new_name)
        if staged_target is not None:
            replaces = replaces or staged_target.replaces
    if staged_target is not None:
        drop(tree, staged_target)
    if stored is not None:
        await _rename_record(tree, stored, overwritten, old_directory, old_name, new_directory, new_name)
    elif overwritten is not None:
        await remove_record(tree, new_directory, new_name, overwritten)
    if staged is not None:
        if stored is None and replaces is not None and not is_temporary(new_name):
            staged.replaces = replaces
        tree.staging.rename(staged, new_directory, new_name)
        tree.wake()


async def _rename_record(
    tree: Tree, stored: Dentry, overwritten: Dentry | None, old_directory: bytes, old_name: bytes,
    new_directory: bytes, new_name: bytes,
) -> None:  # fmt: skip
    """Move a receipt and its placement, or a placement; what had the new name is overwritten."""
    vacated: list[str] = []

    def write(txn: Txn) -> None:
        vacated.clear()
        if stored.key[:1] == b"P":
            session_id, folder_id = image_folder(txn, new_directory)
            editing.move_placement(
                txn, _placement_id(txn, stored.key), session_id, folder_id, new_name, replace=True
            )
            return
        receipt = txn.get_raw(Receipt, stored.key[1:])
        if receipt is None:
            raise NotFoundError("The file was deleted.")
        replaced = txn.get_raw(Receipt, overwritten.key[1:]) if overwritten is not None else None
        if replaced is not None:
            txn.delete(Receipt, replaced.id)
        parent = import_folder(txn, new_directory)
        parent_id = parent.id if parent is not None else None
        moved = dataclasses.replace(
            receipt, parent_id=parent_id, name=new_name, named_ns=txn.now_ns, ctime_ns=txn.now_ns
        )
        placement = txn.get(Placement, receipt.placement_id) if receipt.placement_id else None
        if is_temporary(new_name):
            # A program keeps its old version aside: the picture in the session stays what it is.
            if placement is not None:
                vacated.append(placement.id)
        elif placement is not None:
            session_id, folder_id = bind(txn, parent)
            over = txn.get(Placement, replaced.placement_id or "") if replaced is not None else None
            if over is not None and over.id != placement.id:
                editing.delete_placement(txn, over.id, "overwritten")
            editing.move_placement(txn, placement.id, session_id, folder_id, new_name)
            moved = dataclasses.replace(moved, session_id=session_id)
        txn.put(moved)

    await tree.commit(write, (old_directory, old_name), (new_directory, new_name))
    if vacated:
        tree.vacated[old_directory, old_name] = (vacated[0], time.monotonic())


def _placement_id(txn: Txn, key: bytes) -> str:
    placement = txn.get_raw(Placement, key[1:])
    if placement is None:
        raise NotFoundError("The picture was deleted.")
    return placement.id


async def _exchange(
    tree: Tree, source: Dentry, target: Dentry | None, old: tuple[bytes, bytes], new: tuple[bytes, bytes]
) -> None:
    if target is None or source.is_directory or target.is_directory or old[0][:1] + new[0][:1] not in (b"dd", b"pp"):
        raise InvalidValue("Only files of import/, or of images/, can be exchanged.")
    with tree.library.read() as view:
        first, second = view.dentry(*old), view.dentry(*new)

    def write(txn: Txn) -> None:
        pairs = [(dentry, place) for dentry, place in ((first, new), (second, old)) if dentry is not None]
        for dentry, (directory, name) in pairs:
            receipt = txn.get_raw(Receipt, dentry.key[1:]) if dentry.key[:1] == b"R" else None
            placement_id = receipt.placement_id if receipt is not None else None
            if receipt is not None:
                parent = import_folder(txn, directory)
                place = bind(txn, parent)
                parent_id = parent.id if parent is not None else None
                txn.put(
                    dataclasses.replace(
                        receipt, parent_id=parent_id, name=name, session_id=place[0], ctime_ns=txn.now_ns
                    )
                )
            else:
                place = image_folder(txn, directory)
                placement_id = _placement_id(txn, dentry.key)
            placement = txn.get(Placement, placement_id) if placement_id is not None else None
            if placement is not None:
                txn.put(dataclasses.replace(placement, session_id=place[0], folder_id=place[1], name=name))

    staged_first, staged_second = tree.staging.at(*old), tree.staging.at(*new)
    if first is not None or second is not None:
        await tree.commit(write, old, new)
    if staged_first is not None:
        tree.staging.rename(staged_first, new[0], new[1])
    if staged_second is not None:
        # Its name may be the first one's by now: `rename` leaves only a name that is its own.
        tree.staging.rename(staged_second, old[0], old[1])


# -- what an editor keeps beside canvas.json


async def _rename_scratch(tree: Tree, directory: bytes, old_name: bytes, new_name: bytes) -> None:
    staged = tree.staging.at(directory, old_name)
    if staged is None:
        if old_name in WRITABLE_DOCUMENTS and is_temporary(new_name):
            await _keep_aside(tree, directory, old_name, new_name)
            return
        raise ReadOnlyError(READ_ONLY)
    if new_name not in WRITABLE_DOCUMENTS:
        held = tree.staging.at(directory, new_name)
        if held is None and not is_temporary(new_name):
            raise ReadOnlyError(READ_ONLY)
        if held is not None:
            drop(tree, held)
        tree.staging.rename(staged, directory, new_name)
        return
    intake = staged.intake
    assert intake is not None
    data = await tree.in_thread(lambda: os.pread(intake.fd, canvas_json.LIMIT + 1, 0))
    name = new_name.decode()

    def write(txn: Txn) -> None:
        session = txn.get_raw(Session, directory[1:])
        if session is None:
            raise NotFoundError("The session is gone.")
        canvas_json.save(txn, session.id, name, data)

    try:
        await tree.commit(write, (directory, old_name))
    except InvalidValue as error:
        tree.library.store.problems.report("invalid-document", f"{name} was not saved: {error}", name=name)
        raise
    drop(tree, staged)
    # The kernel now has the temporary file under this name.
    tree.forget_name(directory, new_name)


async def _keep_aside(tree: Tree, directory: bytes, old_name: bytes, new_name: bytes) -> None:
    """An editor renames the document to keep it: a copy gets the new name, the document stays where it is."""
    with tree.library.read() as view:
        session = view.get_raw(Session, directory[1:])
        data = view.render_session_document(session, old_name.decode()) if session is not None else b""
    held = tree.staging.at(directory, new_name)
    if held is not None:
        drop(tree, held)
    staged = tree.staging.create(directory, new_name, b"P", 0o644)
    intake = staged.intake
    assert intake is not None
    await tree.in_thread(lambda: intake.write(data, 0))
    tree.forget_name(directory, old_name)
    tree.forget_name(directory, new_name)


# -- folders


async def _rename_session(
    tree: Tree, source: Dentry, target: Dentry | None, old_name: bytes, new_name: bytes
) -> None:
    with tree.library.read() as view:
        if target is not None and target.key != source.key:
            raise NotEmptyError("There is a session of that name.")
        if view.get_raw(Session, source.key[1:]) is None:
            raise NotFoundError("The session is gone.")

    def write(txn: Txn) -> None:
        session = txn.get_raw(Session, source.key[1:])
        if session is None:
            raise NotFoundError("The session is gone.")
        editing.retitle_session(txn, session.id, title_of(new_name), name=new_name)

    await tree.commit(write, (SESSIONS, old_name), (SESSIONS, new_name))


async def _rename_image_folder(
    tree: Tree, source: Dentry, target: Dentry | None, old_directory: bytes, old_name: bytes, new_directory: bytes,
    new_name: bytes,
) -> None:  # fmt: skip
    def write(txn: Txn) -> None:
        folder = txn.get_raw(Folder, source.key[1:])
        if folder is None:
            raise NotFoundError("The folder is gone.")
        session_id, parent_id = image_folder(txn, new_directory)
        if session_id != folder.session_id:
            raise CrossesViews("Folders move within their session only: copy it instead.")
        if target is not None:
            held = txn.get_raw(Folder, target.key[1:])
            if held is not None:
                txn.delete(Folder, held.id)
        editing.rename_folder(txn, folder.id, parent_id, new_name)

    await tree.commit(write, (old_directory, old_name), (new_directory, new_name))


async def _rename_import_folder(
    tree: Tree, source: Dentry, target: Dentry | None, old_directory: bytes, old_name: bytes, new_directory: bytes,
    new_name: bytes,
) -> None:  # fmt: skip
    def write(txn: Txn) -> None:
        folder = import_folder(txn, source.key)
        if folder is None:
            raise NotFoundError("The folder is gone.")
        replaced = txn.get_raw(ImportFolder, target.key[1:]) if target is not None else None
        if replaced is not None:
            txn.delete(ImportFolder, replaced.id)
        parent = import_folder(txn, new_directory)
        new = dataclasses.replace(
            folder, parent_id=parent.id if parent else None, name=new_name, named_ns=txn.now_ns
        )
        if folder.parent_id is None and parent is None:
            _retitle_bound(txn, new, title_of(new_name))
        elif _top(txn, folder) == _top(txn, new) and folder.folder_id is not None and parent is not None:
            txn.put(new)
            _, parent_folder = bind(txn, parent)
            editing.rename_folder(txn, folder.folder_id, parent_folder, new_name)
        else:
            txn.put(dataclasses.replace(new, session_id=None, folder_id=None))
            _rebind_below(txn, new.id)

    await tree.commit(write, (old_directory, old_name), (new_directory, new_name))
    tree.changed_at[source.key] = time.time_ns()


def _retitle_bound(txn: Txn, folder: ImportFolder, title: str) -> None:
    """A top folder has another name: its session is retitled, or the folder bound to the one of that title."""
    session = txn.get(Session, folder.session_id) if folder.session_id is not None else None
    other = next(txn.sessions_titled(title), None)
    if other is not None and (session is None or other.id != session.id):
        txn.put(dataclasses.replace(folder, session_id=other.id))
    elif session is not None and not is_temporary(folder.name):
        editing.retitle_session(txn, session.id, title)
        txn.put(folder)
    else:
        txn.put(folder)
        if not is_temporary(folder.name):
            bind(txn, folder)


def _top(txn: Txn, folder: ImportFolder) -> str:
    while folder.parent_id is not None:
        above = txn.get(ImportFolder, folder.parent_id)
        if above is None:
            break
        folder = above
    return folder.id


def _rebind_below(txn: Txn, folder_id: str) -> None:
    """A folder has moved to another session: what was taken in from it, and from the folders below, moves along."""
    folder = txn.get(ImportFolder, folder_id)
    if folder is None:
        return
    for dentry in list(txn.dentries(import_directory(folder_id))):
        if dentry.key[:1] == b"d":
            child = txn.get_raw(ImportFolder, dentry.key[1:])
            if child is not None:
                txn.put(dataclasses.replace(child, session_id=None, folder_id=None))
                _rebind_below(txn, child.id)
            continue
        receipt = txn.get_raw(Receipt, dentry.key[1:])
        placement = txn.get(Placement, receipt.placement_id) if receipt and receipt.placement_id else None
        if receipt is not None and placement is not None:
            session_id, target_id = bind(txn, txn.get(ImportFolder, folder_id))
            editing.move_placement(txn, placement.id, session_id, target_id, placement.name)
            txn.put(dataclasses.replace(receipt, session_id=session_id))
