"""Out of the trash: what a delete or an overwrite took away is put back whole, under its own ids.

Each function runs over one write transaction, as those of `editing` do.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any, TypeVar

from mixfs.errors import ExistsError, NotFoundError, NotSupported
from mixfs.ids import derived_id, key16, new_id
from mixfs.library import editing
from mixfs.library.derived_generations import bring_from_trash, generations_in, keep_for_other_sessions
from mixfs.library.editing import PENDING_RESTORE
from mixfs.library.transaction import Txn
from mixfs.library.trashed import TRASH_ROOT, is_item, split_key, trash_folder
from mixfs.library.view import View
from mixfs.library.wanted import folder_parent, placement_place
from mixfs.records import KINDS, Folder, Placement, Record, Session, Trash, from_map

R = TypeVar("R", bound=Record)


def restore_deletion(txn: Txn, trash_id: str, own: set[bytes], limit: int | None = None) -> list[Record]:
    """Put back what a deletion took away, named by its id, or one item of the trash; returns the records as they are.

    Of a large deletion only the next items come back, and `mixfs.library.pieces` goes on, also after a kill: until then
    the item that speaks for it stays in the trash, and says so. `own` remembers what came back of it, between the
    pieces: of those that lived side by side under one name, none is renamed for another.
    """
    limit = limit or editing.PIECE
    items = list(itertools.islice(txn.grouped(trash_id), limit + 1))
    if not items or items[0].group != trash_id:
        return restore(txn, trash_id, own)
    head, out = items[0], []
    if len(items) > limit:
        items.pop()
        if head.pending != PENDING_RESTORE:
            out += _bring_back(txn, head, own)
            txn.put(dataclasses.replace(head, pending=PENDING_RESTORE))
        items.pop(0)
    elif head.pending == PENDING_RESTORE:
        txn.delete(Trash, items.pop(0).id)
    for item in items:
        out += restore(txn, item.id, own)
    return out


def restore(txn: Txn, trash_id: str, own: set[bytes] | None = None) -> list[Record]:
    """Put back what a trash record holds; returns the records as they are now. The trash record goes.

    * What lives under the same id now (the newer bytes of an overwritten placement) goes to the trash in turn.
    * A name that was taken meanwhile is left to who has it: ` (n)` is given.
    * A session or folder that what is restored lay in comes back too where it is gone.

    Raises NotFoundError, and NotSupported for what a newer MixFS put there.
    """
    out = _bring_back(txn, _require(txn, trash_id), set() if own is None else own)
    txn.delete(Trash, trash_id)
    return out


def _bring_back(txn: Txn, found: Trash, own: set[bytes]) -> list[Record]:
    records = list(_records(found))
    _make_way(txn, records, found)
    own.update(_node_key(record) for record in records)
    return [_put_back(txn, record, own, found) for record in records]


def _make_way(txn: Txn, records: list[Any], found: Trash) -> None:
    """What lives under the ids of records that come back, and says something else, goes to the trash."""
    replaced = [held for record in records if (held := txn.get(type(record), record.entity_id)) is not None]
    replaced = [held for held in replaced if not any(_same(held, record) for record in records)]
    if replaced:
        session = txn.get(Session, found.session_id) if found.session_id is not None else None
        editing.trash(
            txn, replaced, session=session, name=found.name, digest=getattr(replaced[0], "digest", None),
            reason="replaced by what was restored", keep=True,
        )  # fmt: skip


def restore_to(
    txn: Txn, trash_id: str, index: int, session_id: str, folder_id: str | None, name: bytes
) -> Placement:
    """Put one placement of a trash record where it is wanted; `index` is its place among the record's.

    What has the name there goes to the trash. While the placement itself lives (its older bytes are in the trash), it
    gets them back where it stands, and elsewhere they become a placement of their own. Raises NotFoundError.
    """
    trash_id = _alone(txn, trash_id, index)
    found = _require(txn, trash_id)
    placement = next(record for record in _records(found) if isinstance(record, Placement))
    belongings = [record for record in _records(found) if not isinstance(record, Placement)]
    living = txn.get(Placement, placement.id)
    # What was in files/ is listed in images/ too, once somebody puts it there.
    placement = dataclasses.replace(
        placement, session_id=session_id, folder_id=folder_id, name=name, named_ns=txn.next_stamp, area="images"
    )
    directory, _ = placement_place(placement)
    held = txn.dentry(directory, name)
    if living is not None and (held is None or held.key != _node_key(living)):
        placement = dataclasses.replace(placement, id=new_id())
    if held is not None:
        other = txn.get_raw(Placement, held.key[1:]) if held.key[:1] == b"P" else None
        if other is None:
            raise ExistsError("A folder has that name.")
        session = txn.get(Session, other.session_id)
        editing.trash(
            txn, [other], session=session, name=other.name, digest=other.digest,
            reason="replaced by what was restored", keep=other.id == placement.id,
        )  # fmt: skip
    lost = [record for record in belongings if not _same(txn.get(type(record), record.entity_id), record)]
    _make_way(txn, lost, found)
    for record in lost:
        txn.put(dataclasses.replace(record, session_id=session_id))
    kept = txn.put(placement)
    bring_from_trash(txn, placement.digest)
    txn.delete(Trash, trash_id)
    return kept


def restore_session(
    txn: Txn, deleted: Trash, own: set[bytes], *, name: bytes | None = None, title: str = ""
) -> Session:  # fmt: skip
    """Put a deleted session back, of which `deleted` is the item in the trash, with what that deletion took.

    `name` and `title` are those that it is to have, if other than its own. As `restore_deletion`, of a large one only a
    part comes back in this commit. Raises ExistsError while the session lives.
    """
    session_id = deleted.session_id or ""
    living = txn.get(Session, session_id)
    if living is not None and deleted.pending != PENDING_RESTORE:
        raise ExistsError(f"The session {living.title!r} is there: move what is in its trash into it.")
    if deleted.group_id is None:
        _restore_ungrouped(txn, session_id, own)
    else:
        restore_deletion(txn, deleted.group, own)
    session = editing.require_session(txn, session_id)
    if name is not None and name != session.name:
        session = editing.retitle_session(txn, session_id, title, name=name)
    return session


def _restore_ungrouped(txn: Txn, session_id: str, own: set[bytes]) -> None:
    """As libraries of before there were groups have it: all that is in the trash of the session, as it was last."""
    kept = [trash for trash in trashed_of(txn, session_id) if trash.group_id is None]
    for trash in sorted(kept, key=_age, reverse=True):
        # What lives came back a moment ago, from where it was deleted last: these are older versions of the same.
        held = [(txn.get(type(record), record.entity_id), record) for record in _records(trash)]
        if any(living is None or _same(living, record) for living, record in held):
            restore(txn, trash.id, own)


def trashed_of(view: View, session_id: str) -> Iterator[Trash]:
    """What is in the trash of a session, under whichever titles it had."""
    folders = {trash_folder(trash)[0] for trash in view.kept_in(Session, session_id)}
    for folder in folders:
        ids = dict.fromkeys(split_key(dentry.key)[0] for dentry in view.dentries(folder))
        for raw in ids:
            trash = view.get_raw(Trash, raw)
            if trash is not None:
                yield trash


def deleted_session(view: View, words: str) -> Trash:
    """The item of the trash that holds a session, by the session's id or title: the one that was deleted last.

    Raises NotFoundError.
    """
    found = [trash for trash in view.kept_in(Session) if words in (trash.session_id, trash.session_title)]
    if not found:
        raise NotFoundError(f"Nothing in the trash is, or is a session, {words!r}. `mixfs trash` lists what is there.")
    return max(found, key=lambda trash: (trash.order, trash.id))


def _age(trash: Trash) -> tuple[int, bool, str]:
    """The order in which trash records were made; a session after what was taken out of the same record."""
    return trash.order, any(kind == Session.KIND for kind, _, _ in trash.records), trash.id


def restore_shown(txn: Txn, folder: bytes, name: bytes) -> list[Record]:
    """As `restore`, of what trash/ shows as `folder/name`. Raises NotFoundError."""
    above = txn.dentry(TRASH_ROOT, folder)
    found = txn.dentry(above.key, name) if above is not None else None
    raw, index = split_key(found.key) if found is not None else (b"", None)
    kept = txn.get_raw(Trash, raw) if raw else None
    if kept is None:
        raise NotFoundError(f"There is no {os.fsdecode(name)!r} in trash/{os.fsdecode(folder)}.")
    if index is None:
        return restore_document(txn, kept)
    return restore(txn, _alone(txn, kept.id, index))


def restore_document(txn: Txn, trash: Trash) -> list[Record]:
    """What trash/ shows as a document comes back: of a session all that its deletion took."""
    is_session = any(kind == Session.KIND for kind, _, _ in trash.records)
    return restore_deletion(txn, trash.group if is_session else trash.id, set())


def expunge(txn: Txn, trash_id: str, index: int | None) -> None:
    """Take a placement, or all that is no placement, out of the trash for good; gc frees what nothing names then."""
    if index is not None:
        trash_id = _alone(txn, trash_id, index)
    end(txn, trash_id)


def end(txn: Txn, trash_id: str) -> None:
    """Delete a trash record for good: it expires, or a person takes it out. What it told of pictures that other
    sessions have goes to these."""
    found = txn.get(Trash, trash_id)
    if found is not None:
        keep_for_other_sessions(txn, generations_in(found))
        txn.delete(Trash, trash_id)


def _alone(txn: Txn, trash_id: str, index: int) -> str:
    """The id of a trash record that holds just one placement of this one.

    A record of many (a whole session, as older libraries have it) is split, so that the next one costs no more than it
    weighs.
    """
    found = _require(txn, trash_id)
    if not 0 <= index < len(found.records):
        raise NotFoundError("It is not in the trash any more.")
    if is_item(found):
        return trash_id
    rest, wanted = [], ""
    for number, kept in enumerate(found.records):
        if kept[0] != Placement.KIND:
            rest.append(kept)
            continue
        placement = from_map(Placement, kept[2])
        piece_id = derived_id(b"trash", trash_id.encode("utf-8", "surrogateescape"), b"%d" % number)
        txn.put(
            dataclasses.replace(found, id=piece_id, name=placement.name, digest=placement.digest, records=(kept,))
        )
        if number == index:
            wanted = piece_id
    if rest:
        txn.put(dataclasses.replace(found, records=tuple(rest)))
    else:
        txn.delete(Trash, trash_id)
    return wanted


def _require(txn: Txn, trash_id: str) -> Trash:
    found = txn.get(Trash, trash_id)
    if found is None:
        raise NotFoundError(f"There is nothing in the trash with the id {trash_id}.")
    return found


def _records(trash: Trash) -> Iterator[Any]:
    for kind, _, data in trash.records:
        cls = KINDS.get(kind)
        if cls is None:
            raise NotSupported(f"A newer MixFS put {trash.name!r} into the trash: restore it with that.")
        yield from_map(cls, data)


def _same(one: Record | None, other: Record) -> bool:
    """Whether two versions say the same; when their fields were set is of no account."""
    if one is None or type(one) is not type(other) or one.entity_id != other.entity_id:
        return False
    return all(
        getattr(one, field.name) == getattr(other, field.name)
        for field in dataclasses.fields(one) if field.compare and field.name != "stamps"
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
        changes["named_ns"] = txn.next_stamp
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
    newest = max(view.kept_in(cls, entity_id), key=lambda trash: (trash.order, trash.id), default=None)
    for kind, kept_id, data in newest.records if newest is not None else ():
        if (kind, kept_id) == (cls.KIND, entity_id):
            return from_map(cls, data)
    return None
