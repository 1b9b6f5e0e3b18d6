"""What an app writes into a Storage V2 folder, as changes: each function is one write transaction's work.

The mount's storage-v2/ and the Python API call these. A saved document is compared with what it would be rendered as,
and only what differs is put; what it leaves out goes to the trash. Its parts may come in any order: a picture that a
document names before it is there is given to whoever waits for it when it comes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mixfs import jsontext
from mixfs.errors import InvalidValue
from mixfs.formats import storage_v2
from mixfs.formats.storage_v2 import Found
from mixfs.formats.storage_v2_names import CAME
from mixfs.ids import Digest, digest_from_hex, new_id
from mixfs.index import keys
from mixfs.index.engine import prefix_end
from mixfs.library import canvas_json, documents, editing
from mixfs.library import storage_v2 as layout
from mixfs.library.derived_generations import marked_if_changed
from mixfs.library.ingest import Incoming, admit_blob, area_of
from mixfs.library.storage_v2 import CANVAS, GENERATIONS, NAME, POOL_ID, POOL_TITLE
from mixfs.library.three_way import Version, merged
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.names import safe_name
from mixfs.records import Entry, Generation, ImageRef, Member, Placement, Record, Session, Trash

# -- sessions


def save_session(
    txn: Txn, session_id: str, suffix: str, document: Mapping[str, Any], base: Version | None = None
) -> Session:
    """SID_canvas.json or SID_generations.json is saved; makes the session if there is none. Raises InvalidValue.

    With `base`, what the app had read, only what differs from that is put.
    """
    if session_id == POOL_ID:
        raise InvalidValue(f"{session_id} is what MixFS calls the pictures that no session has: choose another id.")
    held = txn.get(Session, session_id)
    if held is not None:
        _, revision = txn.session_row(session_id).documents.get(layout.ROW_NAMES[suffix], (0, None))
        if revision is not None:
            document = merged(base, document, revision, partial(layout.render, txn, held, suffix))
    if held is not None and _is_as_shown(txn, held, suffix, document):
        return held
    session = _create(txn, session_id, suffix, document) if held is None else _update(txn, held, suffix, document)
    if suffix == CANVAS and ("canvas_images" in document or held is None):
        _save_entries(txn, session.id, _items(document, "canvas_images", "canvasId"))
    elif suffix == GENERATIONS and ("generations" in document or held is None):
        _save_generations(txn, session.id, _items(document, "generations", "generation_id"))
    return session


def check(suffix: str, document: Mapping[str, Any]) -> None:
    """Raise InvalidValue for a document that can't be saved."""
    if suffix == CANVAS:
        for at, item in enumerate(_items(document, "canvas_images", "canvasId")):
            with _at("canvas_images", at):
                storage_v2.entry_of(item, item["canvasId"], 0, None)
    elif suffix == GENERATIONS:
        for at, item in enumerate(_items(document, "generations", "generation_id")):
            with _at("generations", at):
                storage_v2.generation_of(item, lambda *ref: None)
    else:
        images_of(document)


class _at:
    """Says where in a document something is wrong."""

    def __init__(self, name: str, at: int) -> None:
        self._place = f"{name}[{at}]"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidValue):
            raise InvalidValue(f"{self._place}: {error}") from None


def _items(document: Mapping[str, Any], name: str, id_key: str) -> list[dict[str, Any]]:
    return list(canvas_json.items_of(document, name, id_key).values())


def _create(txn: Txn, session_id: str, suffix: str, document: Mapping[str, Any]) -> Session:
    kept: dict[str, Any] = {"lacks": [other for other in (CANVAS, GENERATIONS) if other != suffix]}
    if suffix == CANVAS:
        head = storage_v2.session_head(session_id, document, kept | storage_v2.kept_of_canvas(session_id, document))
    else:
        head = storage_v2.session_head(session_id, {}, kept | storage_v2.kept_of_history(session_id, document))
    title = head.title if head.title.strip() else layout.UNTITLED
    return editing.create_session(
        txn, title, session_id=session_id, user_id=head.user_id, user_name=head.user_name, created_ns=head.created_ns,
        zoom=head.zoom, pan_x=head.pan_x, pan_y=head.pan_y, foreign=head.foreign,
    )  # fmt: skip


def _update(txn: Txn, session: Session, suffix: str, document: Mapping[str, Any]) -> Session:
    kept = dict(layout.kept_of(session))
    kept["lacks"] = [other for other in kept.get("lacks", ()) if other != suffix]
    kept.pop("deleted", None)
    changed = session
    if suffix == CANVAS:
        kept.pop("v1", None)
        kept |= storage_v2.kept_of_canvas(session.id, document)
        head = storage_v2.session_head(session.id, document, kept)
        names = ("user_id", "user_name", "zoom", "pan_x", "pan_y")
        changed = dataclasses.replace(session, **{name: getattr(head, name) for name in names})
        title = head.title if head.title.strip() else layout.UNTITLED
        if title != session.title:
            retitled = editing.retitle_session(txn, session.id, title)
            changed = dataclasses.replace(changed, title=retitled.title, name=retitled.name, stamps=retitled.stamps)
    else:
        kept |= storage_v2.kept_of_history(session.id, document)
    foreign = {**session.foreign, NAME: storage_v2.compact(kept)}
    changed = dataclasses.replace(changed, foreign=foreign)
    return txn.put(changed) if changed != session else session


def _is_as_shown(view: View, session: Session, suffix: str, document: Mapping[str, Any]) -> bool:
    """Whether a document says what it says already."""
    shown = layout.ROW_NAMES[suffix] in view.session_row(session.id).documents
    return shown and jsontext.loads(layout.render(view, session, suffix)) == document


def _save_entries(txn: Txn, session_id: str, items: list[dict[str, Any]]) -> None:
    held = {entry.shown_id: entry for entry in txn.members(Entry, session_id)}
    out: dict[str, Entry] = {}
    for z, item in enumerate(items):
        old = held.get(item["canvasId"])
        if old is not None and jsontext.loads(layout.entry_item(old)) == item:
            out[old.id] = dataclasses.replace(old, z=z)
            continue
        with _at("canvas_images", z):
            alias = item.get("imageHash")
            digest = _bring(txn, session_id, alias, "output") if isinstance(alias, str) else None
            entry = storage_v2.entry_of(item, item["canvasId"], z, digest)
        entry = _own(txn, Entry, session_id, entry, old)
        out[entry.id] = dataclasses.replace(entry, unknown=old.unknown) if old is not None else entry
    editing.replace_canvas(txn, session_id, out, None)


def _save_generations(txn: Txn, session_id: str, items: list[dict[str, Any]]) -> None:
    held = {generation.shown_id: generation for generation in txn.members(Generation, session_id)}
    new: list[Generation] = []
    for at, item in enumerate(items):
        old = held.get(item["generation_id"])
        if old is not None and jsontext.loads(layout.generation_item(old)) == item:
            new.append(old)
            continue

        def find(alias: str, role: str, ref: Mapping[str, Any]) -> Found | None:
            digest = _bring(txn, session_id, alias, role)
            return _found(txn, session_id, alias, digest) if digest is not None else None

        with _at("generations", at):
            run = storage_v2.generation_of(item, find)
        run = _own(txn, Generation, session_id, run, old)
        if old is not None:
            # What a reader found in a picture stays known, as far as the document says nothing else.
            said = {field: getattr(run, field) for field in (*layout.run_of(item), "inputs", "outputs", "foreign")}
            run = marked_if_changed(old, dataclasses.replace(old, **said))
        new.append(run)
    unplaced = [
        dataclasses.replace(run, foreign={key: value for key, value in run.foreign.items() if key != layout.PLACE})
        for run in new
    ]
    wanted = {run.id: run for run in storage_v2.placed(unplaced)}
    for run in wanted.values():
        if txn.get(Generation, run.id) != run:
            txn.put(run)
    gone: list[Record] = [generation for generation in held.values() if generation.id not in wanted]
    if gone:
        session = txn.get(Session, session_id)
        editing.trash_pages(txn, gone, session=session, name=b"generations.json", reason="generations removed")


def _own(txn: Txn, cls: type[Any], session_id: str, record: Any, old: Any) -> Any:
    """A record under the id that it has here, or gets."""
    if old is not None:
        own_id, foreign_id = old.id, old.foreign_id
    else:
        own_id, foreign_id = editing.member_id(txn, cls, session_id, record.id)
    named_ns = old.named_ns if old is not None else txn.next_stamp
    return dataclasses.replace(
        record, id=own_id, foreign_id=foreign_id, session_id=session_id, named_ns=named_ns
    )


def delete_document(txn: Txn, session_id: str, suffix: str) -> None:
    """One of a session's two files is deleted; with the second one the session goes to the trash."""
    session = editing.require_session(txn, session_id)
    row = txn.session_row(session_id)
    other = GENERATIONS if suffix == CANVAS else CANVAS
    items = row.app_generations if suffix == CANVAS else row.app_entries
    if not layout.has_document(session, other, items):
        # Restored, it has again what the app once wrote.
        kept = dict(layout.kept_of(session))
        written = [name for name, key in ((CANVAS, "canvas"), (GENERATIONS, "generations")) if key in kept]
        kept["lacks"] = [name for name in kept.get("lacks", ()) if name not in written]
        deleted = txn.get(Trash, str(kept.pop("deleted", "")))
        txn.put(dataclasses.replace(session, foreign={**session.foreign, NAME: kept}))
        delete_session(txn, session_id, deleted)
        return
    cls: type[Member] = Entry if suffix == CANVAS else Generation
    gone: list[Record] = list(txn.members(cls, session_id))
    item = editing.trash_pages(txn, gone, session=session, name=suffix[1:].encode(), reason="document deleted")
    kept = dict(layout.kept_of(session))
    kept["lacks"] = sorted({*kept.get("lacks", ()), suffix})
    # Deleting a session takes two files: it is one deletion.
    if item is not None:
        kept["deleted"] = item.id
    txn.put(dataclasses.replace(session, foreign={**session.foreign, NAME: kept}))


def delete_session(txn: Txn, session_id: str, of: Trash | None = None) -> None:
    """Move a session to the trash. Its pictures are files of the app's folder still: those that only it has stay."""
    for placement in list(txn.members(Placement, session_id)):
        alias = layout.kept_of(placement).get("hash")
        same = [copy for copy in layout.copies_of(txn, placement) if layout.kept_of(copy).get("hash") == alias]
        if layout.is_file(placement) and all(copy.session_id == session_id for copy in same):
            _put_in_pool(txn, placement)
    editing.delete_session(txn, session_id, of)


# -- pictures


def _pool(txn: Txn) -> Session:
    session = txn.get(Session, POOL_ID)
    return session or editing.create_session(txn, POOL_TITLE, session_id=POOL_ID, foreign={NAME: {"registry": {}}})


def _put_in_pool(txn: Txn, placement: Placement) -> Placement:
    pool = _pool(txn)
    copy = dataclasses.replace(placement, id=new_id(), session_id=pool.id, folder_id=None)
    return editing.place(txn, dataclasses.replace(copy, name=_name_of(layout.file_of(placement)), original_name=b""))


def _name_of(file: bytes) -> bytes:
    return safe_name(documents.text_of(file), "image")


def _bring(txn: Txn, session_id: str, alias: str, role: str, digest: Digest | None = None) -> Digest | None:
    """The digest of a picture that a session names by the app's name of it; the session has it from now on.

    `digest` is given where the name is new in this transaction.
    """
    placements = layout.placements_of(txn, alias, digest)
    if not placements:
        return _known(txn, alias)
    mine = next((each for each in placements if each.session_id == session_id), None)
    if mine is not None:
        return mine.digest
    pooled = next((each for each in placements if each.session_id == POOL_ID), None)
    if pooled is not None:
        moved = editing.move_placement(txn, pooled.id, session_id, None, pooled.name)
        if moved.role != role and moved.role == "output":
            txn.put(dataclasses.replace(moved, role=role))
        return pooled.digest
    first = placements[0]
    own_id, _ = editing.member_id(txn, Placement, session_id, alias)
    if txn.get(Placement, own_id) is not None:
        own_id = new_id()
    copy = dataclasses.replace(first, id=own_id, session_id=session_id, folder_id=None, role=role)
    editing.place(txn, dataclasses.replace(copy, name=_name_of(layout.file_of(first)), original_name=b"", added_ns=0))
    return first.digest


def _known(view: View, alias: str) -> Digest | None:
    try:
        digest = digest_from_hex(alias)
    except ValueError:
        return None
    return digest if view.blob(digest) is not None else None


def _found(txn: Txn, session_id: str, alias: str, digest: Digest) -> Found:
    placements = list(txn.referrers(Placement, digest))
    mine = [each for each in placements if each.session_id == session_id]
    named = [each for each in mine if layout.kept_of(each).get("hash") == alias]
    placement = next(iter(named or mine or placements), None)
    blob = txn.blob(digest)
    return Found(digest, blob.size if blob is not None else 0, placement.id if placement is not None else alias)


def file_came(
    txn: Txn, file: bytes, incoming: Incoming, blob_exists: Callable[[Digest], bool], placement_id: str,
    role: str = "output",
) -> None:  # fmt: skip
    """A file was written to images/: a new one, or other bytes of one that is there, in whichever session it is."""
    admit_blob(txn, incoming, blob_exists)
    held = layout.file_at(txn, file)
    if held is not None:
        if held.digest != incoming.digest or held.mtime_ns != incoming.mtime_ns:
            editing.overwrite_placement(
                txn, held.id, digest=incoming.digest, size=incoming.size, mtime_ns=incoming.mtime_ns,
                mode=incoming.mode, area=area_of(txn, incoming.digest),
            )  # fmt: skip
        return
    kept: dict[str, Any] = {"file": file.decode("utf-8", "surrogateescape")}
    session = _pool(txn)
    pending = dict(layout.mapping(layout.kept_of(session).get("pending")))
    aliases = [alias for alias, info in pending.items() if _file_said(info) == file]
    for at, alias in enumerate(aliases or [None]):
        if alias is not None:
            kept |= {"hash": alias, "info": pending.pop(alias)}
        editing.place(
            txn,
            Placement(
                id=placement_id if not at else new_id(), session_id=session.id, digest=incoming.digest,
                name=_name_of(file), area=area_of(txn, incoming.digest), role=role, size=incoming.size,
                mode=incoming.mode, mtime_ns=incoming.mtime_ns, xattrs=dict(incoming.xattrs),
                foreign={NAME: dict(kept)},
            ),
        )  # fmt: skip
    if aliases:
        _set_pool(txn, pending=pending)
        for alias in aliases:
            _came(txn, alias, incoming.digest)


def _file_said(info: Any) -> bytes | None:
    """The file in images/ that a line of the registry names."""
    path = info.get("file_path") if isinstance(info, Mapping) else None
    folder, _, name = path.rpartition("/") if isinstance(path, str) else ("", "", "")
    return name.encode("utf-8", "surrogateescape") if folder in ("images", "./images") and name else None


def remove_file(txn: Txn, placement: Placement) -> None:
    """A file of images/ is deleted: it goes to the trash, in whichever session it is."""
    for copy in layout.copies_of(txn, placement):
        editing.delete_placement(txn, copy.id)


def rename_file(txn: Txn, placement: Placement, file: bytes) -> None:
    """A file of images/ gets another name; what had it goes to the trash."""
    held = layout.file_at(txn, file)
    copies = layout.copies_of(txn, placement)
    if held is not None and held.id not in {copy.id for copy in copies}:
        remove_file(txn, held)
    for copy in copies:
        kept = {**layout.kept_of(copy), "file": file.decode("utf-8", "surrogateescape")}
        # Its app calls it so now, whatever it was in the folder that it came in.
        kept.pop(CAME, None)
        copy = txn.put(dataclasses.replace(copy, foreign={**copy.foreign, NAME: kept}))
        if "hash" not in kept:
            _register_pending(txn, copy, file)


def _register_pending(txn: Txn, placement: Placement, file: bytes) -> None:
    """A file has the name now under which the registry knows a picture already."""
    pending = dict(layout.mapping(layout.pool_of(txn).get("pending")))
    for alias, info in list(pending.items()):
        if _file_said(info) == file:
            del pending[alias]
            _set_pool(txn, pending=pending)
            register(txn, alias, info, placement)
            return


def _came(txn: Txn, alias: str, digest: Digest) -> None:
    """A picture is there now, or has a name now: who waits for it gets it."""
    prefix = keys.waiting_for(alias)
    for key, _ in list(txn.txn.scan(prefix, prefix_end(prefix))):
        kind, raw = key[len(prefix)], key[len(prefix) + 1 :]
        if kind == Entry.KIND:
            entry = txn.get_raw(Entry, raw)
            if entry is not None:
                _bring(txn, entry.session_id, alias, "output", digest)
                txn.put(dataclasses.replace(entry, digest=digest))
            continue
        generation = txn.get_raw(Generation, raw)
        if generation is not None:
            kept = layout.kept_of(generation)
            changes: dict[str, Any] = {
                field: tuple(_with_images(txn, generation, refs, kept.get(name) or (), alias, digest))
                for field, refs, name in (
                    ("inputs", generation.inputs, "input_images"), ("outputs", generation.outputs, "output_images"),
                )
            }  # fmt: skip
            txn.put(dataclasses.replace(generation, **changes))


def _with_images(
    txn: Txn, generation: Generation, refs: Iterable[ImageRef], said: Sequence[Mapping[str, Any]], alias: str,
    digest: Digest,
) -> Iterator[ImageRef]:  # fmt: skip
    for at, ref in enumerate(refs):
        if ref.digest is not None or at >= len(said) or said[at].get("hash") != alias:
            yield ref
            continue
        _bring(txn, generation.session_id, alias, ref.role, digest)
        found = _found(txn, generation.session_id, alias, digest)
        yield dataclasses.replace(ref, digest=found.digest, size=found.size, placement_id=found.placement_id)


# -- image_registry.json


def images_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The lines of a registry. Raises InvalidValue."""
    images = document.get("images", {})
    if not isinstance(images, dict):
        raise InvalidValue("images must be an object.")
    for alias, info in images.items():
        if not isinstance(info, dict) or not alias:
            raise InvalidValue(f"images.{alias!r:.60} must be an object, and its name not empty.")
    return images


def registry_changes(
    view: View, document: Mapping[str, Any], base: Version | None = None
) -> tuple[Mapping[str, Any], dict[str, dict[str, Any] | None]]:
    """A saved registry, and its lines that differ from what is shown, by alias; None for one that is left out.

    With `base`, what the app had read, both have only those changes that the app made.
    """
    _, revision = layout.registry_size(view)
    document = merged(base, document, revision, partial(layout.render_registry, view))
    images = images_of(document)
    shown: dict[str, dict[str, Any]] = jsontext.loads(layout.render_registry(view))["images"]
    out: dict[str, dict[str, Any] | None] = {
        alias: info for alias, info in images.items() if shown.get(alias) != info
    }
    out |= dict.fromkeys(alias for alias in shown if alias not in images)
    return document, out


def save_registry(txn: Txn, document: Mapping[str, Any], changes: Mapping[str, dict[str, Any] | None]) -> None:
    """image_registry.json is saved; `changes` are `registry_changes` of it."""
    registry = {key: value for key, value in document.items() if key != "images"}
    pool = layout.pool_of(txn)
    pending = dict(layout.mapping(pool.get("pending")))
    for alias, info in changes.items():
        if info is None:
            pending.pop(alias, None)
            _unregister(txn, layout.placements_of(txn, alias))
        elif _register(txn, alias, info):
            pending.pop(alias, None)
        else:
            pending[alias] = info
    said = {"version": "2.0"} | dict(layout.mapping(pool.get("registry")))
    if pending != dict(layout.mapping(pool.get("pending"))) or {"version": "2.0"} | registry != said:
        _set_pool(txn, registry=registry, pending=pending)


def _set_pool(txn: Txn, **changes: Any) -> None:
    session = _pool(txn)
    kept = {**layout.kept_of(session), **changes}
    txn.put(dataclasses.replace(session, foreign={**session.foreign, NAME: kept}))


def _unregister(txn: Txn, placements: Iterable[Placement]) -> None:
    for placement in placements:
        kept = {"file": layout.file_of(placement).decode("utf-8", "surrogateescape")}
        txn.put(dataclasses.replace(placement, foreign={**placement.foreign, NAME: kept}))


def _register(txn: Txn, alias: str, info: dict[str, Any]) -> bool:
    """Give a picture the app's name; False when its file is not there yet."""
    file, placements = _file_said(info), layout.placements_of(txn, alias)
    if placements and file not in (None, layout.file_of(placements[0])):
        # The name stands for another file from now on.
        _unregister(txn, placements)
        placements = []
    if not placements and file is not None:
        placements = _placements_at(txn, file)
    for placement in placements:
        register(txn, alias, info, placement)
    return bool(placements)


def _placements_at(txn: Txn, file: bytes) -> list[Placement]:
    """What takes a name of the app's for a file of images/."""
    dentry, held = txn.dentry(layout.IMAGES, file), layout.file_at(txn, file)
    if held is not None and layout.kept_of(held).get("hash"):
        # One file under two names of the app.
        return [_put_in_pool(txn, held)]
    if held is not None:
        return [copy for copy in layout.copies_of(txn, held) if "hash" not in layout.kept_of(copy)]
    # A picture of MixFS's own, of which the app now says something.
    own = dentry is not None and dentry.key[:1] == b"J"
    return list(itertools.islice(txn.referrers(Placement, Digest(dentry.key[1:])), 1)) if own and dentry else []


def register(txn: Txn, alias: str, info: dict[str, Any], placement: Placement) -> None:
    """Give a placement a line in the registry."""
    file = layout.file_of(placement) if layout.is_file(placement) else _file_said(info) or placement.name
    kept = {"hash": alias, "file": file.decode("utf-8", "surrogateescape"), "info": info}
    txn.put(dataclasses.replace(placement, foreign={**placement.foreign, NAME: kept}))
    _came(txn, alias, placement.digest)
