"""What can be done to a library, each as a function over one write transaction.

The mount, the command line and the Python API all call these; nothing else puts or deletes records. What a function
takes away goes into a trash record first, whole, so that it can be restored.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import cbor2

from mixfs.errors import ExistsError, InvalidValue, NotFoundError
from mixfs.ids import Digest, derived_id, id_of_key, key16, new_id
from mixfs.index import dentries, keys
from mixfs.index.engine import prefix_end
from mixfs.library import storage_v2
from mixfs.library.derived_generations import follows_picture
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import placement_place
from mixfs.names import family_base, safe_name, with_counter
from mixfs.records import (
    KINDS,
    Annotation,
    Edge,
    Entry,
    Folder,
    Generation,
    Member,
    Placement,
    Record,
    Session,
    Trash,
    to_map,
)

SESSIONS = dentries.fixed("/sessions")
INBOX = "Inbox"

# As many members of a session as one commit moves to the trash or out of it: others write between two commits.
PIECE = 100
# And as much of a document as one item of the trash holds.
PAGE_RECORDS = 64
PAGE_BYTES = 256 << 10
# `Trash.pending`.
PENDING_DELETE = "delete"
PENDING_RESTORE = "restore"


def free_name(view: View, directory: bytes, name: bytes) -> bytes:
    """`name`, or a ` (n)` of its family that is free: found by doubling, then halving, the number.

    Of `a (2).png` that is `a (3).png`, as file managers count, never `a (2) (2).png`.
    """
    if view.dentry(directory, name) is None:
        return name
    name = family_base(name)
    taken, free = 1, 2
    while view.dentry(directory, with_counter(name, free)) is not None:
        taken, free = free, free * 2
    while free - taken > 1:
        middle = (taken + free) // 2
        if view.dentry(directory, with_counter(name, middle)) is None:
            free = middle
        else:
            taken = middle
    return with_counter(name, free)


# -- sessions


def create_session(
    txn: Txn, title: str, *, session_id: str | None = None, user_id: str | None = None, user_name: str | None = None,
    name: bytes | None = None, **fields: Any,
) -> Session:  # fmt: skip
    """A new session; its directory's name follows from the title. Raises ExistsError for an id that is there.

    `fields` are further ones of the record.
    """
    if session_id is not None and txn.get(Session, session_id) is not None:
        raise ExistsError(f"There is a session with the id {session_id} already.")
    return txn.put(
        Session(
            id=session_id or new_id(),
            title=title,
            name=free_name(txn, SESSIONS, name or safe_name(title)),
            created_ns=fields.pop("created_ns", 0) or txn.now_ns,
            user_id=user_id,
            user_name=user_name,
            **fields,
        )
    )


def require_session(view: View, session_id: str) -> Session:
    session = view.get(Session, session_id)
    if session is None:
        raise NotFoundError(f"There is no session with the id {session_id}. `mixfs sessions` lists them.")
    return session


def session_titled(txn: Txn, title: str) -> Session:
    """The oldest session of a title, or a new one."""
    return next(txn.sessions_titled(title), None) or create_session(txn, title)


def retitle_session(txn: Txn, session_id: str, title: str, *, name: bytes | None = None) -> Session:
    """Give a session another title; its directory is renamed to follow."""
    session = require_session(txn, session_id)
    wanted = name or safe_name(title)
    if wanted != session.name:
        wanted = free_name(txn, SESSIONS, wanted)
    return txn.put(dataclasses.replace(session, title=title, name=wanted))


def delete_session(txn: Txn, session_id: str, of: Trash | None = None) -> Trash:
    """Move a session with all that belongs to it to the trash; returns the item that speaks for this deletion.

    Of a large session only a part moves in this commit. It looks deleted at once, and `mixfs.library.pieces` moves the
    rest, also after a kill. `of` is an item of the deletion that this one belongs to, if any.
    """
    session = require_session(txn, session_id)
    prefix = keys.session_members(session_id)
    members = sum(1 for _ in itertools.islice(txn.txn.scan(prefix, prefix_end(prefix)), PIECE + 1))
    head = trash(
        txn, [session], session=session, name=session.name, reason="session deleted", of=of,
        pending=PENDING_DELETE if members > PIECE else "",
    )  # fmt: skip
    trash_members(txn, head, session)
    return head


def trash_members(
    txn: Txn, head: Trash, session: Session, after: bytes = b"", limit: int | None = None
) -> bytes:  # fmt: skip
    """Move the next members of a deleted session to the trash; returns the place to go on from, b"" at the end.

    Those that came after the deletion (somebody restored a picture, and the session with it) stay.
    """
    limit = limit or PIECE
    deleted = txn.stamp_of(Trash.KIND, head.id)
    prefix = keys.session_members(session.id)
    start = after + b"\0" if after else prefix
    place = b""
    members: dict[bytes, list[Record]] = {}
    for key, _ in list(itertools.islice(txn.txn.scan(start, prefix_end(prefix)), limit)):
        place, limit = key, limit - 1
        cls = KINDS.get(key[len(prefix)])
        record: Any = txn.get_raw(cls, key[-16:]) if cls is not None else None
        stamp = txn.stamp_of(record.KIND, record.id) if record is not None else None
        if stamp is None or deleted is None or stamp[0] > deleted[0]:
            continue
        if isinstance(record, Placement):
            trash(
                txn, [record], session=session, name=record.name, digest=record.digest, reason=head.reason, of=head
            )
        elif isinstance(record, Folder):
            trash(txn, [record], session=session, name=record.name, reason=head.reason, of=head)
        elif not isinstance(record, Generation) or not follows_picture(txn, record):
            # Derived generations come back with their pictures.
            document = b"generations.json" if isinstance(record, Generation) else b"canvas.json"
            members.setdefault(document, []).append(record)
    for document, records in members.items():
        trash_pages(txn, records, session=session, name=document, reason=head.reason, of=head)
    return b"" if limit else place


def trash(
    txn: Txn, records: Iterable[Record], *, name: bytes, reason: str, session: Session | None = None,
    digest: Digest | None = None, keep: bool = False, of: Trash | None = None, pending: str = "",
) -> Trash:  # fmt: skip
    """Write an item that is taken away into a trash record, then delete it (`keep`: the caller puts a new version).

    `of` is an item of the deletion that this one belongs to: one that is shown, restored and expires with it.
    """
    taken = list(records)
    trash_id = new_id()
    # A session always says its group: in libraries of before there were any, it is the whole of its deletion or none.
    own_group = trash_id if any(isinstance(record, Session) for record in taken) else None
    kept = txn.put(
        Trash(
            id=trash_id,
            deleted_ns=of.deleted_ns if of is not None else txn.now_ns,
            reason=reason,
            session_id=session.id if session else None,
            session_title=session.title if session else "",
            name=name,
            digest=digest,
            records=tuple([record.KIND, record.entity_id, to_map(record)] for record in taken),
            group_id=of.group if of is not None else own_group,
            pending=pending,
        )
    )
    if not keep:
        for record in reversed(taken):
            txn.delete(type(record), record.entity_id)
    return kept


def trash_pages(
    txn: Txn, records: Iterable[Record], *, session: Session | None, name: bytes, reason: str, of: Trash | None = None
) -> Trash | None:  # fmt: skip
    """Move members of a document to the trash by the page: a file for each of a thousand entries helps nobody.

    Returns an item of the deletion, if there is any.
    """
    page: list[Record] = []
    size = 0
    for record in (*records, None):
        weight = len(cbor2.dumps(to_map(record))) if record is not None else 0
        if page and (record is None or len(page) == PAGE_RECORDS or size + weight > PAGE_BYTES):
            kept = trash(txn, page, session=session, name=name, reason=reason, of=of)
            of, page, size = of or kept, [], 0
        if record is not None:
            page.append(record)
            size += weight
    return of


# -- ids of other layouts


def member_id(view: View, cls: type[Member | Placement], session_id: str, foreign_id: str) -> tuple[str, str | None]:
    """`(id, foreign_id)` under which a session keeps a member that another layout calls `foreign_id`.

    A UUID is its id, unless another session has it; so is what the session has as an id already. Any other may come
    again in the next session, or in another replica, and stand for something else there: then the id follows from the
    session and the foreign one.
    """
    held: Any = view.get(cls, foreign_id)
    if held is not None and held.session_id == session_id:
        return foreign_id, getattr(held, "foreign_id", None)
    if held is None and id_of_key(key16(foreign_id)) == foreign_id:
        return foreign_id, None
    kind = cls.__name__.lower().encode()
    return derived_id(kind, session_id.encode(), foreign_id.encode("utf-8", "surrogateescape")), foreign_id


# -- folders


def folder_directory(session_id: str, folder_id: str | None) -> bytes:
    """The directory key of images/ or of a folder below it."""
    return b"p" + key16(folder_id or session_id)


def ensure_folder(txn: Txn, session_id: str, parent_id: str | None, name: bytes) -> str:
    """The id of a sub-folder of images/, made if it isn't there. A placement of that name makes it `name (2)`."""
    directory = folder_directory(session_id, parent_id)
    held = txn.dentry(directory, name)
    if held is not None and held.is_directory:
        folder = txn.get_raw(Folder, held.key[1:])
        if folder is not None:
            return folder.id
    # The same id on every replica that makes the same folder, unless it was renamed since.
    folder_id = derived_id(b"folder", session_id.encode(), (parent_id or "").encode(), name)
    if txn.get(Folder, folder_id) is not None:
        folder_id = new_id()
    txn.put(
        Folder(
            id=folder_id,
            session_id=session_id,
            parent_id=parent_id,
            name=free_name(txn, directory, name),
            named_ns=txn.next_stamp,
        )
    )
    return folder_id


def ensure_path(txn: Txn, session_id: str, path: Iterable[bytes]) -> str | None:
    """The id of the folder at a path below images/, made where it isn't there; None for the empty path."""
    folder_id: str | None = None
    for name in path:
        folder_id = ensure_folder(txn, session_id, folder_id, name)
    return folder_id


def rename_folder(txn: Txn, folder_id: str, parent_id: str | None, name: bytes) -> None:
    """Rename or move a folder within its session; what is below follows."""
    folder = txn.get(Folder, folder_id)
    if folder is None:
        raise NotFoundError("The folder is gone.")
    directory = folder_directory(folder.session_id, parent_id)
    held = txn.dentry(directory, name)
    if held is not None and held.key != b"p" + key16(folder_id):
        name = free_name(txn, directory, name)
    txn.put(dataclasses.replace(folder, parent_id=parent_id, name=name, named_ns=txn.next_stamp))


def delete_folder(txn: Txn, folder: Folder, of: Trash | None = None) -> Trash:
    """Move an empty folder to the trash: what was deleted from it before finds its place again when restored."""
    session = txn.get(Session, folder.session_id)
    return trash(txn, [folder], session=session, name=folder.name, reason="deleted", of=of)


# -- placements


def find_placement(
    view: View, session_id: str, folder_id: str | None, name: bytes, digest: Digest
) -> Placement | None:
    """The placement of the same bytes that came into the same folder under the same name."""
    for placement in view.referrers(Placement, digest):
        if (placement.session_id, placement.folder_id) == (session_id, folder_id) and name in (
            placement.name,
            placement.original_name,
        ):
            return placement
    return None


def place(txn: Txn, placement: Placement) -> Placement:
    """Put a new placement under its name, or the first ` (n)` of it that is free."""
    directory, wanted = placement_place(placement)
    return txn.put(
        dataclasses.replace(
            placement,
            name=free_name(txn, directory, wanted),
            original_name=placement.original_name or placement.name,
            named_ns=txn.next_stamp,
            added_ns=placement.added_ns or txn.now_ns,
        )
    )


def require_placement(view: View, placement_id: str) -> Placement:
    placement = view.get(Placement, placement_id)
    if placement is None:
        raise NotFoundError("The picture was deleted from its session.")
    return placement


def delete_placement(txn: Txn, placement_id: str, reason: str = "deleted", of: Trash | None = None) -> Trash:
    """Move a placement to the trash; `of` is an item of the deletion that it goes with."""
    placement = require_placement(txn, placement_id)
    session = txn.get(Session, placement.session_id)
    return trash(txn, [placement], session=session, name=placement.name, digest=placement.digest, reason=reason, of=of)


def overwrite_placement(txn: Txn, placement_id: str, **changes: Any) -> Placement:
    """Give a placement other bytes; the older ones are kept in the trash."""
    placement = require_placement(txn, placement_id)
    if changes.get("digest", placement.digest) != placement.digest:
        session = txn.get(Session, placement.session_id)
        trash(
            txn, [placement], session=session, name=placement.name, digest=placement.digest, reason="overwritten",
            keep=True,
        )  # fmt: skip
    new = dataclasses.replace(placement, **changes)
    before, after = placement_place(placement), placement_place(new)
    if before != after:
        new = dataclasses.replace(new, name=free_name(txn, *after), named_ns=txn.next_stamp)
    if new.digest != placement.digest and storage_v2.is_file(placement):
        _overwrite_copies(txn, placement, new)
    return txn.put(new)


def _overwrite_copies(txn: Txn, old: Placement, new: Placement) -> None:
    """To the app whose folder it is from, a picture is one file, in however many sessions it is."""
    aliases: list[Any] = []
    for copy in storage_v2.copies_of(txn, old):
        aliases.append(storage_v2.kept_of(copy).get("hash"))
        if copy.id != old.id:
            session = txn.get(Session, copy.session_id)
            trash(txn, [copy], session=session, name=copy.name, digest=copy.digest, reason="overwritten", keep=True)
            txn.put(dataclasses.replace(copy, digest=new.digest, size=new.size, mtime_ns=new.mtime_ns, area=new.area))
    for entry in list(txn.referrers(Entry, old.digest)):
        if entry.data.get("imageHash") in aliases and "imageHash" in entry.data:
            txn.put(dataclasses.replace(entry, digest=new.digest))


def move_placement(
    txn: Txn, placement_id: str, session_id: str, folder_id: str | None, name: bytes, *, replace: bool = False
) -> Placement:
    """Move or rename a placement. With `replace`, what has the name goes to the trash; else ` (n)` is given."""
    placement = require_placement(txn, placement_id)
    moved = dataclasses.replace(placement, session_id=session_id, folder_id=folder_id, name=name)
    directory, wanted = placement_place(moved)
    held = txn.dentry(directory, wanted)
    if held is not None and held.key != b"P" + key16(placement_id):
        other = txn.get_raw(Placement, held.key[1:]) if held.key[:1] == b"P" else None
        if replace and other is not None:
            delete_placement(txn, other.id, "overwritten")
        else:
            moved = dataclasses.replace(moved, name=free_name(txn, directory, wanted))
    if moved == placement:
        return placement
    return txn.put(dataclasses.replace(moved, named_ns=txn.next_stamp))


# -- annotations


def annotate_empty(txn: Txn, digest: Digest, fields: Mapping[str, Any]) -> None:
    """Set what attributes of a file say, as far as nobody has said anything yet."""
    if not fields:
        return
    held, nothing = txn.annotation(digest) or Annotation(digest=digest), (None, ())
    new = {name: value for name, value in fields.items() if getattr(held, name) in nothing and value not in nothing}
    if new:
        annotate(txn, digest, **new)


def annotate(txn: Txn, digest: Digest, **fields: Any) -> Annotation:
    """Set tags, rating or comment of an image; fields that aren't named stay. Raises InvalidValue.

    What is replaced goes to the trash.
    """
    rating, tags = fields.get("rating"), fields.get("tags", ())
    if rating is not None and not (isinstance(rating, int) and 0 <= rating <= 10):
        raise InvalidValue(f"A rating must be a whole number from 0 to 10, not {rating!r:.40}.")
    if isinstance(tags, str | bytes) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidValue(f"Tags must be several strings, not {tags!r:.40}.")
    held = txn.annotation(digest) or Annotation(digest=digest)
    if "tags" in fields:
        fields["tags"] = tuple(dict.fromkeys(tag.strip() for tag in fields["tags"] if tag.strip()))
    new = dataclasses.replace(held, **fields)
    if new == held:
        return held
    lost = not set(held.tags) <= set(new.tags) or any(
        getattr(held, name) not in (None, getattr(new, name)) for name in ("rating", "comment")
    )
    if lost:
        placement = next(txn.referrers(Placement, digest), None)
        session = txn.get(Session, placement.session_id) if placement is not None else None
        name = placement.name if placement is not None else digest.hex().encode()
        trash(txn, [held], session=session, name=name, reason="annotation replaced", keep=True)
    return txn.put(new)


# -- the canvas


def replace_canvas(txn: Txn, session_id: str, entries: Mapping[str, Entry], edges: Mapping[str, Edge] | None) -> None:
    """Make the canvas hold just these entries (and edges, unless None); what goes is kept in the trash.

    Only what differs is put, so that saving an unchanged document changes nothing.
    """
    session = require_session(txn, session_id)
    gone: list[Record] = []
    for cls, wanted in ((Entry, entries), (Edge, edges)):
        if wanted is None:
            continue
        held = {record.entity_id: record for record in txn.members(cls, session_id)}
        gone += [record for entity_id, record in held.items() if entity_id not in wanted]
        for entity_id, record in wanted.items():
            if held.get(entity_id) != record:
                txn.put(record)
    if gone:
        trash_pages(txn, gone, session=session, name=b"canvas.json", reason="canvas entries removed")


def image_id_for(digest: Digest) -> str:
    """The id of an image: it follows from the digest, so that every replica gives the same."""
    return derived_id(b"image", digest)


