"""rename(2), with RENAME_NOREPLACE and RENAME_EXCHANGE. One request on a `Tree`, under its lock.

In import/ a rename moves what was taken in along with the receipt; renaming a top folder retitles its session. In
sessions/ it retitles, and moves placements. Saving an editor's temporary file over canvas.json commits it. Between
import/ and sessions/ programs get EXDEV and copy.
"""

from __future__ import annotations

import dataclasses
import os
import time

from mixfs import clock
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
from mixfs.names import is_temporary
from mixfs.records import Folder, ImportFolder, Placement, Receipt, Session
from mixfs.vfs import app_renaming, moving
from mixfs.vfs.app_folder import is_in
from mixfs.vfs.bases import NOBODY, Owner
from mixfs.vfs.emptying import move_out
from mixfs.vfs.exchanging import exchange
from mixfs.vfs.naming import (
    READ_ONLY,
    SESSIONS,
    check_name,
    drop,
    note_change,
    remove_record,
    replaced_by,
    take_name_away,
)
from mixfs.vfs.records_of import image_folder, import_folder, receipt_at, title_of
from mixfs.vfs.saving import save_session_document
from mixfs.vfs.tree import VACATED_S, Tree
from mixfs.vfs.versions import OVERWRITTEN, keep
from mixfs.vfs.views.session import WRITABLE_DOCUMENTS

NOREPLACE, EXCHANGE = 1, 2


async def rename(
    tree: Tree, old_directory: bytes, old_name: bytes, new_directory: bytes, new_name: bytes, flags: int = 0,
    owner: Owner = NOBODY,
) -> None:  # fmt: skip
    """Rename a file or folder. Raises what rename(2) says, CrossesViews (EXDEV) between parts of the mount."""
    check_name(new_name)
    if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
        raise InvalidValue("Unknown rename flags.")
    async with tree.lock:
        await tree.settle()
        with tree.library.read() as view:
            source = tree.lookup(view, old_directory, old_name)
            target = tree.lookup(view, new_directory, new_name)
            if source is None or (flags & EXCHANGE and target is None):
                raise NotFoundError("There is no such file or folder.")
            _check(view, tree, source, target, flags)
        if (old_directory, old_name) == (new_directory, new_name):
            return
        kinds = old_directory[:1] + new_directory[:1]
        if source.key[:1] in (b"u", b"U"):
            await move_out(tree, source, old_directory, old_name, new_directory, new_name, flags)
            written = tree.staging.at(new_directory, new_name)
            if written is not None:
                await drop(tree, written, OVERWRITTEN)
        elif is_in(old_directory) or is_in(new_directory):
            old, new = (old_directory, old_name), (new_directory, new_name)
            await app_renaming.rename(tree, source, target, old, new, bool(flags & EXCHANGE), owner)
        elif flags & EXCHANGE:
            assert target is not None
            await exchange(tree, source, target, (old_directory, old_name), (new_directory, new_name))
        elif old_directory[:1] == b"S" and old_directory == new_directory:
            await _rename_scratch(tree, old_directory, old_name, new_name, owner)
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
        # Before anything goes that could not be brought back.
        await keep(tree, staged_target, OVERWRITTEN)
    if stored is not None:
        await _rename_record(tree, stored, overwritten, old_directory, old_name, new_directory, new_name)
    if staged is not None:
        if stored is None and is_temporary(new_name):
            if staged.replaces is not None and old_directory[:1] == b"d" and not is_temporary(old_name):
                _note_vacated(tree, (old_directory, old_name), staged.replaces)
        elif stored is None and replaces is not None:
            staged.replaces, staged.moved = replaces, False
        elif stored is None and staged.replaces is not None:
            staged.moved = True
        # Before what it replaces goes: a kill in between leaves the name to one of them.
        tree.staging.rename(staged, new_directory, new_name)
    if stored is None and overwritten is not None:
        try:
            await remove_record(tree, new_directory, new_name, overwritten)
        except BaseException:
            if staged is not None:
                tree.staging.rename(staged, old_directory, old_name)
            if staged_target is not None:
                tree.staging.rename(staged_target, new_directory, new_name)
            raise
    if staged_target is not None:
        take_name_away(tree, staged_target)
    if staged is not None:
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
            placement = moving.require(txn, Placement, stored.key)
            editing.move_placement(txn, placement.id, session_id, folder_id, new_name, replace=True)
            return
        receipt = moving.require(txn, Receipt, stored.key)
        replaced = txn.get_raw(Receipt, overwritten.key[1:]) if overwritten is not None else None
        if replaced is not None:
            txn.delete(Receipt, replaced.id)
        if not is_temporary(new_name):
            over = txn.get(Placement, replaced.placement_id or "") if replaced is not None else None
            if over is not None and over.id != receipt.placement_id:
                editing.delete_placement(txn, over.id, "overwritten")
            moving.move_receipt(txn, receipt, new_directory, new_name)
            return
        # A program keeps its old version aside: the picture in the session stays what it is.
        parent = import_folder(txn, new_directory)
        parent_id = parent.id if parent is not None else None
        txn.put(
            dataclasses.replace(
                receipt, parent_id=parent_id, name=new_name, named_ns=txn.next_stamp, ctime_ns=txn.now_ns
            )
        )
        if receipt.placement_id is not None and txn.get(Placement, receipt.placement_id) is not None:
            vacated.append(receipt.placement_id)

    await tree.commit(write, (old_directory, old_name), (new_directory, new_name))
    if vacated:
        _note_vacated(tree, (old_directory, old_name), vacated[0])


def _note_vacated(tree: Tree, place: tuple[bytes, bytes], placement_id: str) -> None:
    """The next file of this name is a new version; those that never came are forgotten, the oldest first."""
    now = time.monotonic()
    while tree.vacated:
        oldest = next(iter(tree.vacated))
        if now - tree.vacated[oldest][1] < VACATED_S:
            break
        del tree.vacated[oldest]
    tree.vacated.pop(place, None)
    tree.vacated[place] = (placement_id, now)


# -- what an editor keeps beside canvas.json


async def _rename_scratch(tree: Tree, directory: bytes, old_name: bytes, new_name: bytes, owner: Owner) -> None:
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
            await drop(tree, held, OVERWRITTEN)
        tree.staging.rename(staged, directory, new_name)
        return
    intake = staged.intake
    assert intake is not None
    data = await tree.in_thread(lambda: os.pread(intake.fd, canvas_json.LIMIT + 1, 0))
    known = (directory, old_name)
    await save_session_document(tree, directory[1:], new_name.decode(), data, owner, known, locked=True)
    await drop(tree, staged)
    # The kernel now has the temporary file under this name.
    tree.forget_name(directory, new_name)


async def _keep_aside(tree: Tree, directory: bytes, old_name: bytes, new_name: bytes) -> None:
    """An editor renames the document to keep it: a copy gets the new name, the document stays where it is."""
    with tree.library.read() as view:
        session = view.get_raw(Session, directory[1:])
        data = view.render_session_document(session, old_name.decode()) if session is not None else b""
    held = tree.staging.at(directory, new_name)
    if held is not None:
        await drop(tree, held, OVERWRITTEN)
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
        folder = moving.require(txn, Folder, source.key)
        held = txn.get_raw(Folder, target.key[1:]) if target is not None else None
        if held is not None and held.id != folder.id:
            editing.delete_folder(txn, held)
        moving.move_image_folder(txn, folder, new_directory, new_name)

    await tree.commit(write, (old_directory, old_name), (new_directory, new_name))


async def _rename_import_folder(
    tree: Tree, source: Dentry, target: Dentry | None, old_directory: bytes, old_name: bytes, new_directory: bytes,
    new_name: bytes,
) -> None:  # fmt: skip
    def write(txn: Txn) -> None:
        folder = moving.require(txn, ImportFolder, source.key)
        replaced = txn.get_raw(ImportFolder, target.key[1:]) if target is not None else None
        if replaced is not None:
            txn.delete(ImportFolder, replaced.id)
        moving.move_import_folder(txn, folder, new_directory, new_name)

    await tree.commit(write, (old_directory, old_name), (new_directory, new_name))
    tree.changed_at[source.key] = clock.now_ns()
