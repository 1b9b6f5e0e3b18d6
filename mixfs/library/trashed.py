"""What trash/ shows of a trash record, as pure functions of it: which folder, and a file for each thing in it.

Pictures and files are shown as themselves. What else was taken away (a session, canvas entries, a folder) is a small
JSON document that says what it is; moved out, or restored by its id, it comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cbor2

from mixfs.ids import Digest, hash16, key16
from mixfs.index import keys
from mixfs.index.dentries import fixed
from mixfs.library import documents
from mixfs.names import derived_name, safe_name
from mixfs.records import KINDS, SENSELESS, Generation, Member, Placement, Record, Session, Trash, from_map

TRASH_ROOT = fixed("/trash")
TRASH_SUFFIX = b".trash.json"
# The index of the document, where others have the place of their placement among the record's.
_DOCUMENT = 2**32 - 1


class TrashItem(NamedTuple):
    """A file of trash/. `data` is a document's; pictures and files have a `digest`."""

    key: bytes
    name: bytes
    size: int
    mtime_ns: int
    digest: Digest | None = None
    data: bytes = b""


def trash_folder(trash: Trash) -> tuple[bytes, bytes]:
    """`(directory key, wanted name)` of the folder in trash/: one for each session, by the title that it had."""
    parts = (trash.session_id or "", trash.session_title)
    key = b"u" + hash16(*(part.encode("utf-8", "surrogateescape") for part in parts))
    return key, safe_name(trash.session_title, "Other")


def trash_items(trash: Trash) -> Iterator[TrashItem]:
    """The files that a trash record is shown as: its placements, or the one document when it has none."""
    found = False
    for index, record in enumerate(kept_records(trash)):
        if isinstance(record, Placement):
            found = True
            yield TrashItem(item_key(trash, index), record.name, record.size, record.mtime_ns, digest=record.digest)
    if not found:
        data = _document(trash)
        name = derived_name(safe_name(documents.text_of(trash.name), "deleted"), TRASH_SUFFIX)
        yield TrashItem(item_key(trash, _DOCUMENT), name, len(data), trash.deleted_ns, data=data)


def trash_rows(trash: Trash) -> dict[bytes, bytes]:
    """Rows of a trash record: its place in its deletion, the records that it holds, whether something is left to do.

    The item that speaks for a deletion comes first in it: a session, else the item that gave the group its id.
    """
    rank = 2 if trash.id != trash.group else 1
    if any(kind == Session.KIND for kind, _, _ in trash.records):
        rank = 0
    rows = {keys.kept(kind, entity_id, trash.id): b"" for kind, entity_id, _ in trash.records if 0 <= kind < 256}
    rows[keys.grouped(trash.group, rank, trash.id)] = cbor2.dumps(len(trash.records))
    if trash.pending:
        rows[keys.unfinished(trash.id)] = b""
    return rows


def is_item(trash: Trash) -> bool:
    """Whether it holds one thing: a picture with what was read from it, or anything alone. Older ones hold many."""
    kinds = [kind for kind, _, _ in trash.records]
    return len(kinds) == 1 or (kinds.count(Placement.KIND) == 1 and set(kinds) <= {Placement.KIND, Generation.KIND})


def item_key(trash: Trash, index: int) -> bytes:
    return b"U" + key16(trash.id) + index.to_bytes(4, "big")


def split_key(key: bytes) -> tuple[bytes, int | None]:
    """`(raw id of the trash record, place of the placement in it)`; None is the document."""
    index = int.from_bytes(key[17:21], "big")
    return key[1:17], None if index == _DOCUMENT else index


def kept_records(trash: Trash) -> Iterator[Record | None]:
    """What a trash record holds; None stands for what this version doesn't know."""
    for kind, _, data in trash.records:
        try:
            yield from_map(KINDS[kind], data)
        except SENSELESS:
            yield None


def _shown_id(record: Record | None, entity_id: str) -> str:
    """The id by which canvas.json knows it."""
    return record.shown_id if isinstance(record, Member) else entity_id


def _document(trash: Trash) -> bytes:
    return documents.to_json(
        {
            "id": trash.id,
            "deleted_at": documents.iso(trash.deleted_ns),
            "reason": trash.reason,
            "session": trash.session_title,
            "restore": f"mixfs restore {trash.id}",
            "holds": [
                {"kind": KINDS[kind].__name__ if kind in KINDS else f"kind {kind}", "id": _shown_id(kept, entity_id)}
                for (kind, entity_id, _), kept in zip(trash.records, kept_records(trash), strict=True)
            ],
        }
    )
