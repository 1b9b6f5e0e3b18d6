"""canvas.json and session.json as an editor or an app saves them: read into records, or refused with the reason."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from mixfs import jsontext
from mixfs.errors import InvalidValue
from mixfs.ids import Digest, digest_from_hex
from mixfs.library import editing
from mixfs.library.three_way import Version, merged
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.records import Edge, Entry, Member

LIMIT = 64 << 20
MAX_VALUES = 1_000_000
"""Values of a document: 80,000 entries of a canvas. 64 MiB of `{},` would take 1.5 GB and 3 to 14 s, in which the
parser lets no other thread of the daemon run; a million values take a fifth of a second."""

_ENTRY_KEYS = {
    "canvasId", "imageHash", "type", "x", "y", "width", "height", "text", "generationId",
}  # fmt: skip
_EDGE_KEYS = {"id", "source", "target", "sourceHandle", "targetHandle"}


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object of a document. Raises InvalidValue that says where it is wrong."""
    value = parse_value(data)
    if not isinstance(value, dict):
        raise InvalidValue("The document must be a JSON object.")
    return value


def parse_value(data: bytes) -> Any:
    """As `parse`, of any JSON value."""
    if len(data) > LIMIT:
        raise InvalidValue(f"The document has {len(data)} bytes; {LIMIT} are allowed.")
    # Signs within texts count too: it is a bound, and takes a millisecond.
    if sum(map(data.count, (b",", b"{", b"["))) > MAX_VALUES:
        raise InvalidValue(f"The document has too many parts; {MAX_VALUES} are allowed.")
    return jsontext.loads(data)


def check(name: str, data: bytes) -> None:
    """Raise InvalidValue unless `data` is a valid canvas.json or session.json."""
    document = parse(data)
    if name == "canvas.json":
        _entries(document, "x", {})
        _edges(document, "x", {})
    _session_fields(document)


def save(txn: Txn, session_id: str, name: str, data: bytes, base: Version | None = None) -> None:
    """Put what a saved document says, in this transaction. Raises InvalidValue.

    With `base`, what its program had read, only what differs from that is put.
    """
    document = parse(data)
    session = editing.require_session(txn, session_id)
    _, revision = txn.session_row(session_id).documents.get(name, (0, None))
    document = merged(base, document, revision, lambda: txn.render_session_document(session, name))
    if name == "canvas.json" and "canvas_images" in document:
        held = {entry.shown_id: entry for entry in txn.members(Entry, session_id)}
        entries = _entries(document, session_id, held, txn)
        held_edges = {edge.shown_id: edge for edge in txn.members(Edge, session_id)}
        edges = _edges(document, session_id, held_edges, txn) if "edges" in document else None
        editing.replace_canvas(txn, session_id, entries, edges)
    fields = _session_fields(document)
    title = fields.pop("title", session.title)
    if title != session.title:
        session = editing.retitle_session(txn, session_id, title)
    changed = dataclasses.replace(session, **fields)
    if changed != session:
        txn.put(changed)


def number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{where} must be a number, not {value!r:.60}.")
    if not -sys.float_info.max <= value <= sys.float_info.max:
        raise InvalidValue(f"{where} is {value!r:.60}: it must be a finite number of up to 1.8e308.")
    return value


def text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValue(f"{where} must be a string, not {value!r:.60}.")
    return value


def optional(convert: Any, where: str, value: Any) -> Any:
    return None if value is None else convert(where, value)


def items_of(document: Mapping[str, Any], name: str, id_key: str) -> dict[str, dict[str, Any]]:
    items = document.get(name, [])
    if not isinstance(items, list):
        raise InvalidValue(f"{name} must be a list.")
    out: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidValue(f"{name}[{index}] must be an object.")
        item_id = item.get(id_key)
        if not isinstance(item_id, str) or not item_id:
            raise InvalidValue(f"{name}[{index}].{id_key} must be a string that names it.")
        if item_id in out:
            raise InvalidValue(f"{name}[{index}].{id_key} {item_id!r:.60} stands there twice.")
        out[item_id] = item
    return out


def _entries(
    document: Mapping[str, Any], session_id: str, held: Mapping[str, Entry], txn: Txn | None = None
) -> dict[str, Entry]:
    out: dict[str, Entry] = {}
    for z, (entry_id, item) in enumerate(items_of(document, "canvas_images", "canvasId").items()):
        where = f"canvas_images[{z}]"
        old = held.get(entry_id)
        digest = _digest(item.get("imageHash"), txn)
        # What is there and null is written back as null.
        data = {key: value for key, value in item.items() if key not in _ENTRY_KEYS or value is None}
        if digest is None and item.get("imageHash") is not None:
            data["imageHash"] = item["imageHash"]
        elif old is not None and digest is not None and old.digest == digest and "imageHash" in old.data:
            # What another app calls the same picture.
            data["imageHash"] = old.data["imageHash"]
        own_id, foreign_id = _ids(txn, Entry, session_id, entry_id, old)
        out[own_id] = Entry(
            id=own_id,
            foreign_id=foreign_id,
            session_id=session_id,
            type=text(f"{where}.type", item.get("type", "image")),
            x=number(f"{where}.x", item.get("x", 0.0)),
            y=number(f"{where}.y", item.get("y", 0.0)),
            width=optional(number, f"{where}.width", item.get("width")),
            height=optional(number, f"{where}.height", item.get("height")),
            z=z,
            digest=digest,
            text=optional(text, f"{where}.text", item.get("text")),
            generation_id=optional(text, f"{where}.generationId", item.get("generationId")),
            data=data,
            named_ns=old.named_ns if old else (txn.next_stamp if txn else 0),
            unknown=old.unknown if old else {},
        )
    return out


def _digest(text: Any, view: View | None) -> Digest | None:
    """A digest that the library knows; another app's own hash stays what it is, in `data`."""
    if not isinstance(text, str) or view is None:
        return None
    try:
        digest = digest_from_hex(text)
    except ValueError:
        return None
    return digest if view.blob(digest) is not None else None


def _ids(
    txn: Txn | None, cls: type[Member], session_id: str, shown_id: str, old: Entry | Edge | None
) -> tuple[str, str | None]:
    """`(id, foreign id)` of what a document names; those that it has where it is there already."""
    if old is not None:
        return old.id, old.foreign_id
    return editing.member_id(txn, cls, session_id, shown_id) if txn is not None else (shown_id, None)


def _edges(
    document: Mapping[str, Any], session_id: str, held: Mapping[str, Edge], txn: Txn | None = None
) -> dict[str, Edge]:
    out: dict[str, Edge] = {}
    for index, (edge_id, item) in enumerate(items_of(document, "edges", "id").items()):
        where = f"edges[{index}]"
        old = held.get(edge_id)
        own_id, foreign_id = _ids(txn, Edge, session_id, edge_id, old)
        out[own_id] = Edge(
            id=own_id,
            foreign_id=foreign_id,
            session_id=session_id,
            source=text(f"{where}.source", item.get("source")),
            target=text(f"{where}.target", item.get("target")),
            source_handle=optional(text, f"{where}.sourceHandle", item.get("sourceHandle")),
            target_handle=optional(text, f"{where}.targetHandle", item.get("targetHandle")),
            data={key: value for key, value in item.items() if key not in _EDGE_KEYS or value is None},
            unknown=old.unknown if old else {},
        )
    return out


def _session_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """What session.json and canvas.json say of the session itself; what they don't name stays."""
    out: dict[str, Any] = {}
    if "title" in document:
        out["title"] = text("title", document["title"])
        if not out["title"].strip():
            raise InvalidValue("title must not be empty.")
    user = document.get("user")
    if isinstance(user, dict):
        out["user_name"] = optional(text, "user.displayName", user.get("displayName"))
        out["user_id"] = optional(text, "user.id", user.get("id"))
    if "zoom" in document:
        out["zoom"] = optional(number, "zoom", document["zoom"])
    pan = document.get("panOffset")
    if isinstance(pan, dict):
        out["pan_x"] = optional(number, "panOffset.x", pan.get("x"))
        out["pan_y"] = optional(number, "panOffset.y", pan.get("y"))
    if isinstance(document.get("foreign"), dict):
        out["foreign"] = document["foreign"]
    return out
