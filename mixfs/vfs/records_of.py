"""From node keys back to the records behind them: what the changing half of the tree needs to know of a place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mixfs.errors import NotFoundError
from mixfs.index.dentries import fixed
from mixfs.library import editing
from mixfs.library.storage_v2 import IMAGES, file_of, is_file
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import IMPORT_ROOT_ID, folder_parent, import_directory, placement_place
from mixfs.names import is_temporary
from mixfs.records import Folder, ImportFolder, Placement, Receipt, Session
from mixfs.vfs.views.mirrors import given_name

IMPORT_ROOT = b"d" + bytes(16)


class Place(NamedTuple):
    """Where a file of its own stands, and what a new version of it takes over."""

    directory: bytes
    name: bytes
    mode: int
    placement_id: str | None
    xattrs: Mapping[str, bytes]


def place_of(view: View, key: bytes) -> Place | None:
    """The place of a placement's or receipt's node; None when it was deleted."""
    if key[:1] == b"R":
        receipt = view.get_raw(Receipt, key[1:])
        if receipt is None:
            return None
        directory = import_directory(receipt.parent_id)
        name = given_name(view, directory, receipt.name, key)
        return Place(directory, name, receipt.mode, receipt.placement_id, receipt.xattrs)
    placement = view.get_raw(Placement, key[1:])
    if placement is None:
        return None
    if is_file(placement):
        # To the app it is this file, in however many sessions it is.
        name = given_name(view, IMAGES, file_of(placement), key)
        return Place(IMAGES, name, placement.mode, placement.id, placement.xattrs)
    directory, wanted = placement_place(placement)
    return Place(directory, given_name(view, directory, wanted, key), placement.mode, placement.id, placement.xattrs)


def import_folder(view: View, directory: bytes) -> ImportFolder | None:
    """The record of a folder of import/; None for import/ itself. Raises NotFoundError."""
    if directory == IMPORT_ROOT:
        return None
    folder = view.get_raw(ImportFolder, directory[1:])
    if folder is None:
        raise NotFoundError("The folder is gone.")
    return folder


def folder_record(view: View, directory: bytes) -> ImportFolder:
    """As `import_folder`, but import/ too has a record: of its time, mode and attributes, once they were set."""
    folder = import_folder(view, directory)
    return folder or view.get(ImportFolder, IMPORT_ROOT_ID) or ImportFolder(id=IMPORT_ROOT_ID)


def image_folder(view: View, directory: bytes) -> tuple[str, str | None]:
    """`(session id, folder id or None)` of images/ or a folder below it. Raises NotFoundError."""
    session = view.get_raw(Session, directory[1:])
    if session is not None:
        return session.id, None
    folder = view.get_raw(Folder, directory[1:])
    if folder is None:
        raise NotFoundError("The folder is gone.")
    return folder.session_id, folder.id


def ancestors(view: View, folder: ImportFolder | None) -> Iterator[ImportFolder]:
    """A folder of import/ and those above it."""
    while folder is not None:
        yield folder
        folder = view.get(ImportFolder, folder.parent_id) if folder.parent_id is not None else None


def lies_below(view: View, directory: bytes, top: bytes) -> bool:
    """Whether a directory that files are written into is `top`, or is somewhere below it."""
    while directory != top:
        raw = directory[1:]
        if directory[:1] == b"d" and directory != IMPORT_ROOT:
            below_import = view.get_raw(ImportFolder, raw)
            if below_import is None:
                return False
            directory = import_directory(below_import.parent_id)
        elif directory[:1] == b"p":
            folder = view.get_raw(Folder, raw)
            directory = folder_parent(folder) if folder is not None else b"S" + raw
        elif directory[:1] == b"S":
            directory = fixed("/sessions")
        elif directory != fixed("/"):
            directory = fixed("/")
        else:
            return False
    return True


def taken_in_from(directory: bytes) -> bool:
    """Whether what is written into a directory is taken in: import/, images/ of sessions, storage-v2/images/."""
    return directory[:1] in (b"d", b"p") or directory == IMAGES


def waits(view: View, directory: bytes, name: bytes) -> bool:
    """True for a file that waits for a real name, its own or that of a folder that it is in."""
    if is_temporary(name):
        return True
    if directory[:1] != b"d" or directory == IMPORT_ROOT:
        return False
    folder = view.get_raw(ImportFolder, directory[1:])
    return any(is_temporary(above.name) for above in ancestors(view, folder))


def bind(txn: Txn, folder: ImportFolder | None) -> tuple[str, str | None]:
    """The session and folder that a folder of import/ stands for, made and noted where that isn't so yet.

    A top folder is bound to the oldest session of its name, or a new one, and stays bound when that is retitled.
    """
    if folder is None:
        return editing.session_titled(txn, editing.INBOX).id, None
    *below, top = ancestors(txn, folder)
    session = txn.get(Session, top.session_id) if top.session_id is not None else None
    if session is None:
        session = editing.session_titled(txn, title_of(top.name))
        txn.put(dataclasses.replace(top, session_id=session.id, folder_id=None))
    folder_id: str | None = None
    for each in reversed(below):
        bound = txn.get(Folder, each.folder_id) if each.folder_id is not None else None
        if bound is None or each.session_id != session.id or bound.parent_id != folder_id:
            folder_id = editing.ensure_folder(txn, session.id, folder_id, each.name)
            held = txn.get(ImportFolder, each.id)
            if held is not None:
                txn.put(dataclasses.replace(held, session_id=session.id, folder_id=folder_id))
        else:
            folder_id = bound.id
    return session.id, folder_id


def title_of(name: bytes) -> str:
    """The title that a folder's name gives; bytes that are no UTF-8 become U+FFFD."""
    return name.decode("utf-8", "replace")


def receipt_at(view: View, directory: bytes, name: bytes) -> Receipt | None:
    dentry = view.dentry(directory, name)
    return view.get_raw(Receipt, dentry.key[1:]) if dentry is not None and dentry.key[:1] == b"R" else None


def take_receipt_away(txn: Txn, key: bytes) -> None:
    """Delete the receipt of a node, where it is there still."""
    receipt = txn.get_raw(Receipt, key[1:])
    if receipt is not None:
        txn.delete(Receipt, receipt.id)
