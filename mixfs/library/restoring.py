"""Out of the trash: what a delete or an overwrite took away is put back whole, under its own ids.

Each function runs over one write transaction, as those of `editing` do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

from mixfs.errors import NotFoundError, NotSupported
from mixfs.ids import key16
from mixfs.library import editing
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import folder_parent, placement_place
from mixfs.records import KINDS, Folder, Placement, Record, Session, Trash, field_keys, from_map

R = TypeVar("R", bound=Record)


def restore(txn: Txn, trash_id: str) -> list[Record]:
    """Put back what a trash record holds; returns the records as they are now. The trash record goes.

    * What lives under the same id now (the newer bytes of an overwritten placement) goes to the trash in turn.
    * A name that was taken meanwhile is left to who has it: ` (n)` is given.
    * A session or folder that what is restored lay in comes back too where it is gone.

    Raises NotFoundError, and NotSupported for what a newer MixFS put there.
    """
    found = txn.get(Trash, trash_id)
    if found is None:
        raise NotFoundError(f"There is nothing in the trash with the id {trash_id}.")
    records = list(_records(found))
    replaced = [held for record in records if (held := txn.get(type(record), record.entity_id)) is not None]
    replaced = [held for held in replaced if not any(_same(held, record) for record in records)]
    if replaced:
        session = txn.get(Session, found.session_id) if found.session_id is not None else None
        editing.trash(
            txn, replaced, session=session, name=found.name, digest=getattr(replaced[0], "digest", None),
            reason="replaced by what was restored", keep=True,
        )  # fmt: skip
    own = {_node_key(record) for record in records}
    out = [_put_back(txn, record, own, found) for record in records]
    txn.delete(Trash, trash_id)
    return out


def _records(trash: Trash) -> Iterator[Any]:
    for kind, _, data in trash.records:
        cls = KINDS.get(kind)
        if cls is None:
            raise NotSupported(f"A newer MixFS put {trash.name!r} into the trash: restore it with that.")
        yield from_map(cls, data)


def _same(one: Record, other: Record) -> bool:
    """Whether two versions say the same; when their fields were set is of no account."""
    if type(one) is not type(other) or one.entity_id != other.entity_id:
        return False
    return one.unknown == other.unknown and all(
        getattr(one, name) == getattr(other, name) for name in field_keys(type(one))
    )


def _node_key(record: Record) -> bytes:
    tag = {Session: b"S", Folder: b"p", Placement: b"P"}.get(type(record), b"")
    return tag + key16(record.entity_id)


def _put_back(txn: Txn, record: Any, own: set[bytes], trash: Trash) -> Record:
    if hasattr(record, "session_id"):
        _revive_session(txn, record.session_id, trash)
    if isinstance(record, Session):
        record = _renamed(txn, editing.SESSIONS, record, own)
    elif isinstance(record, Folder):
        parent_id = _revive_folder(txn, record.parent_id, own, trash)
        record = dataclasses.replace(record, parent_id=parent_id)
        record = _renamed(txn, folder_parent(record), record, own)
    elif isinstance(record, Placement):
        folder_id = _revive_folder(txn, record.folder_id, own, trash)
        record = dataclasses.replace(record, folder_id=folder_id)
        record = _renamed(txn, placement_place(record)[0], record, own)
    kept: Record = txn.put(record)
    return kept


def _renamed(txn: Txn, directory: bytes, record: Any, own: set[bytes]) -> Any:
    """The record under a name that nobody else has. Those that are restored together settle it as they did before."""
    held = txn.dentry(directory, record.name)
    if held is None or held.key in own or held.key == _node_key(record):
        return record
    changes: dict[str, Any] = {"name": editing.free_name(txn, directory, record.name)}
    if hasattr(record, "named_ns"):
        changes["named_ns"] = txn.now_ns
    return dataclasses.replace(record, **changes)


def _revive_session(txn: Txn, session_id: str, trash: Trash) -> None:
    if txn.get(Session, session_id) is not None:
        return
    session = _newest_in_trash(txn, Session, session_id)
    if session is not None:
        txn.put(_renamed(txn, editing.SESSIONS, session, set()))
    else:
        # Its trash record is gone: at least the id and the title are known.
        editing.create_session(txn, trash.session_title or editing.INBOX, session_id=session_id)


def _revive_folder(txn: Txn, folder_id: str | None, own: set[bytes], trash: Trash) -> str | None:
    """The id of the folder, which lives afterwards; None, for images/ itself, when nothing is known of it any more."""
    if folder_id is None or txn.get(Folder, folder_id) is not None or b"p" + key16(folder_id) in own:
        return folder_id
    folder = _newest_in_trash(txn, Folder, folder_id)
    if folder is None:
        return None
    # It lives before its parents are looked at: folders that lie in each other, as replicas may leave them, end here.
    txn.put(_renamed(txn, folder_parent(folder), folder, own))
    _revive_folder(txn, folder.parent_id, own, trash)
    return folder_id


def _newest_in_trash(view: View, cls: type[R], entity_id: str) -> R | None:
    held = [
        (trash.deleted_ns, data)
        for trash in view.records(Trash)
        for kind, kept_id, data in trash.records
        if (kind, kept_id) == (cls.KIND, entity_id)
    ]
    return from_map(cls, max(held, key=lambda each: each[0])[1]) if held else None
