"""What a move does to records, inside one transaction: receipts with their placements, folders with what is below.

`exact` is for names that change places: a name is put as it is, though the listing still shows another under it, which
is about to leave (placements are listed at the end of a commit). Otherwise a taken name becomes ` (2)`.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from mixfs.errors import CrossesViews, NotFoundError
from mixfs.library import editing
from mixfs.library.transaction import Txn
from mixfs.library.wanted import import_directory
from mixfs.names import is_temporary
from mixfs.records import Folder, ImportFolder, Placement, Receipt, Record, Session
from mixfs.vfs.records_of import bind, image_folder, import_folder, title_of

R = TypeVar("R", bound=Record)


def require(txn: Txn, cls: type[R], key: bytes) -> R:
    """The record of a node. Raises NotFoundError."""
    record = txn.get_raw(cls, key[1:])
    if record is None:
        raise NotFoundError("It was deleted.")
    return record


def move_placement(
    txn: Txn, placement: Placement, session_id: str, folder_id: str | None, name: bytes, *, exact: bool = False
) -> None:
    """Give a placement another place."""
    if exact:
        moved = dataclasses.replace(placement, session_id=session_id, folder_id=folder_id, name=name)
        txn.put(dataclasses.replace(moved, named_ns=txn.next_stamp))
    else:
        editing.move_placement(txn, placement.id, session_id, folder_id, name)


def move_receipt(txn: Txn, receipt: Receipt, directory: bytes, name: bytes, *, exact: bool = False) -> None:
    """Give a receipt, and its placement with it, another place in import/."""
    parent = import_folder(txn, directory)
    session_id = receipt.session_id
    placement = txn.get(Placement, receipt.placement_id) if receipt.placement_id else None
    if placement is not None:
        session_id, folder_id = bind(txn, parent)
        move_placement(txn, placement, session_id, folder_id, name, exact=exact)
    parent_id = parent.id if parent is not None else None
    txn.put(
        dataclasses.replace(
            receipt, parent_id=parent_id, name=name, named_ns=txn.next_stamp, ctime_ns=txn.now_ns, session_id=session_id
        )
    )


def move_image_folder(txn: Txn, folder: Folder, directory: bytes, name: bytes, *, exact: bool = False) -> None:
    """Move a folder below images/. Raises CrossesViews for another session's."""
    session_id, parent_id = image_folder(txn, directory)
    if session_id != folder.session_id:
        raise CrossesViews("Folders move within their session only: copy it instead.")
    _rename_folder(txn, folder, parent_id, name, exact)


def _rename_folder(txn: Txn, folder: Folder, parent_id: str | None, name: bytes, exact: bool) -> None:
    if exact:
        txn.put(dataclasses.replace(folder, parent_id=parent_id, name=name, named_ns=txn.next_stamp))
    else:
        editing.rename_folder(txn, folder.id, parent_id, name)


def move_import_folder(txn: Txn, folder: ImportFolder, directory: bytes, name: bytes, *, exact: bool = False) -> None:
    """Move a folder of import/: a top one retitles its session, in another one what was taken in moves along."""
    parent = import_folder(txn, directory)
    new = dataclasses.replace(folder, parent_id=parent.id if parent else None, name=name, named_ns=txn.next_stamp)
    bound = txn.get(Folder, folder.folder_id) if folder.folder_id is not None else None
    if folder.parent_id is None and parent is None:
        _retitle_bound(txn, new, title_of(name))
    elif _top(txn, folder) == _top(txn, new) and bound is not None and parent is not None:
        txn.put(new)
        _, parent_folder = bind(txn, parent)
        _rename_folder(txn, bound, parent_folder, name, exact)
    else:
        txn.put(dataclasses.replace(new, session_id=None, folder_id=None))
        _rebind_below(txn, new.id)


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
    below = [folder_id]
    while below:
        folder = txn.get(ImportFolder, below.pop())
        if folder is None:
            continue
        for dentry in list(txn.dentries(import_directory(folder.id))):
            if dentry.key[:1] == b"d":
                child = txn.get_raw(ImportFolder, dentry.key[1:])
                if child is not None:
                    txn.put(dataclasses.replace(child, session_id=None, folder_id=None))
                    below.append(child.id)
                continue
            receipt = txn.get_raw(Receipt, dentry.key[1:])
            placement = txn.get(Placement, receipt.placement_id) if receipt and receipt.placement_id else None
            if receipt is not None and placement is not None:
                session_id, target_id = bind(txn, txn.get(ImportFolder, folder.id))
                editing.move_placement(txn, placement.id, session_id, target_id, placement.name)
                txn.put(dataclasses.replace(receipt, session_id=session_id))
