"""Originals in lost/: what is noted of each when gc moves it there, how many there are, and adopting them.

Belongs here: the content of the notes, and what is made of them. The files themselves are moved by
`mixfs.blobs.removal`, when `mixfs.library.gc` says so.

A note is JSON. It has the names that the original had, for people, and the last records that mention it, for programs:
the index has neither any more once the trash record is gone, so they are looked up in the journal.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import cbor2

from mixfs import clock
from mixfs.blobs.sums import sums_of
from mixfs.errors import MixfsError, os_words
from mixfs.ids import Digest
from mixfs.journal import START
from mixfs.library import documents, editing
from mixfs.library.derived_generations import give_back
from mixfs.library.ingest import Incoming, admit
from mixfs.library.problems import shown_json
from mixfs.library.replay import RawChange, read_changes, read_time
from mixfs.library.transaction import Txn
from mixfs.library.trashed import kept_records
from mixfs.library.view import View
from mixfs.names import is_name
from mixfs.records import KINDS, SENSELESS, Folder, Placement, Receipt, Record, Session, Trash, from_map, problem_of

if TYPE_CHECKING:
    from mixfs.blobs.removal import Removal
    from mixfs.library.api import Library

RECOVERED = "Recovered"
_BATCH = 64
# Names and records that one note holds, the newest, and the bytes of a record that is kept: the trash record of a
# session of thousands is not.
_NAMES, _RECORDS, _RECORD_BYTES = 64, 32, 1 << 16
_DIGEST_HEAD = b"X\x20"  # CBOR: a byte string of 32 bytes


def digests_in(data: bytes, of: Collection[bytes]) -> set[Digest]:
    """Those digests of `of` that stand in encoded CBOR as a byte string of their own. Decodes nothing."""
    found, at = set(), data.find(_DIGEST_HEAD)
    while at != -1:
        digest = data[at + 2 : at + 34]
        if digest in of:
            found.add(Digest(digest))
        at = data.find(_DIGEST_HEAD, at + 1)
    return found


# -- what is known of originals


@dataclass(slots=True)
class _Known:
    """What the journal said last of one original: names by placement or receipt, and records by kind and id."""

    names: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[tuple[int, str], _Record] = field(default_factory=dict)


class _Record(NamedTuple):
    """A record as a note keeps it: its stamp, when it was put by the clock (ns, 0: unknown), and its CBOR map."""

    stamp: int
    time_ns: int
    packed: bytes


class Notes:
    """Makes the notes of originals that are about to be moved. Goes through the journals once, when it is made."""

    def __init__(self, library: Library, digests: Iterable[Digest]) -> None:
        self._library = library
        self._known = {digest: _Known() for digest in digests}
        for journal in library.store.journals_by_age():
            for item in journal.read(START):
                mentioned = digests_in(item.payload, self._known) if item.payload is not None else set()
                if mentioned and item.payload is not None:
                    time_ns = read_time(item.payload)
                    for change in read_changes(item.payload)[0]:
                        if change.data is not None:
                            self._learn(change, time_ns, mentioned)

    def _learn(self, change: RawChange, time_ns: int, mentioned: set[Digest]) -> None:
        packed = cbor2.dumps(change.data)
        for digest in digests_in(packed, mentioned):
            records = self._known[digest].records
            # The newest last, and the oldest out.
            records.pop((change.kind, change.entity_id), None)
            kept = packed if len(packed) <= _RECORD_BYTES else b""
            records[change.kind, change.entity_id] = _Record(change.stamp, time_ns, kept)
            if len(records) > _RECORDS:
                del records[next(iter(records))]
        with contextlib.suppress(*SENSELESS):
            record = change.record()
            if isinstance(record, Trash):
                for kind, _, kept in record.records:
                    if kind == Placement.KIND:
                        self._name(from_map(Placement, kept), time_ns, mentioned, record.session_title)
            elif isinstance(record, Placement | Receipt):
                self._name(record, time_ns, mentioned, "")

    def _name(self, record: Placement | Receipt, time_ns: int, mentioned: set[Digest], title: str) -> None:
        if record.digest not in mentioned:
            return
        names = self._known[record.digest].names
        before = names.pop(record.id, {})
        names[record.id] = {
            "session": title or before.get("session", ""), "session_id": record.session_id,
            "folder_id": record.folder_id if isinstance(record, Placement) else None,
            "area": record.area if isinstance(record, Placement) else "import",
            "name": documents.text_of(record.name), "raw_name": record.name.hex(), "mtime_ns": record.mtime_ns,
            "known_at": _time(time_ns),
        }  # fmt: skip
        if len(names) > _NAMES:
            del names[next(iter(names))]

    def note(self, view: View, digest: Digest, size: int, now_ns: int, reason: str) -> bytes:
        """The note of an original that is moved now."""
        known, image, blob = self._known[digest], view.image(digest), view.blob(digest)
        annotation = view.annotation(digest)
        names = [_located(view, name) for name in known.names.values()]
        # Perhaps it was moved before, and the journal was compacted since.
        before = read_note(self._library.blobs.removal, digest)
        names = names or [dict(name) for name in before.names]
        records = [
            {
                "kind": _kind_name(kind), "id": entity_id, "stamp": record.stamp, "known_at": _time(record.time_ns),
                "cbor": base64.b64encode(record.packed).decode() if record.packed else None,
            }
            for (kind, entity_id), record in known.records.items()
        ]  # fmt: skip
        fresh = {(record["kind"], record["id"]) for record in records}
        records = [*(dict(old) for old in before.records if (old.get("kind"), old.get("id")) not in fresh), *records]
        note = {
            "version": 1,
            "digest": digest.hex(),
            "size": size,
            "moved_at": documents.iso(now_ns),
            "moved_ns": now_ns,
            "reason": reason,
            "media_type": blob.media_type if blob is not None else None,
            "width": image.width if image is not None else None,
            "height": image.height if image is not None else None,
            "tags": list(annotation.tags) if annotation is not None else [],
            "rating": annotation.rating if annotation is not None else None,
            "comment": annotation.comment if annotation is not None else None,
            "names": names,
            "records": records[-_RECORDS:],
        }
        return shown_json(note, indent=2)


def _time(time_ns: int) -> str | None:
    return documents.iso(time_ns) if time_ns else None


def _kind_name(kind: int) -> str:
    return KINDS[kind].__name__ if kind in KINDS else f"kind {kind}"


def _located(view: View, name: Mapping[str, Any]) -> dict[str, Any]:
    """A name with the session's title and the folder's path, as far as they are known now."""
    session = view.get(Session, name["session_id"]) if name["session_id"] else None
    path: list[str] = []
    folder_id = name["folder_id"]
    while folder_id is not None and len(path) < 64 and (folder := view.get(Folder, folder_id)) is not None:
        path.insert(0, documents.text_of(folder.name))
        folder_id = folder.parent_id
    found = {key: value for key, value in name.items() if key != "folder_id"}
    return found | {"session": session.title if session is not None else name["session"], "folder": "/".join(path)}


# -- reading notes


class Note(NamedTuple):
    """What a note says: when the original was moved (0 when that can't be read), the names it had, oldest first, the
    records that mentioned it, likewise, and its tags, rating and comment by field."""

    moved_ns: int = 0
    names: tuple[Mapping[str, Any], ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
    annotation: Mapping[str, Any] = {}
    is_known: bool = True  # False: no record in any journal had ever named it

    def kept(self) -> Iterator[Record]:
        """The records that can be understood, those that a trash record held included; the newest last."""
        by_name = {cls.__name__: cls for cls in KINDS.values()}
        for each in self.records:
            with contextlib.suppress(*SENSELESS):
                data = cbor2.loads(base64.b64decode(each["cbor"]))
                cls = by_name[each["kind"]]
                if problem_of(cls, data) is None:
                    record = from_map(cls, data)
                    if isinstance(record, Trash):
                        yield from (held for held in kept_records(record) if held is not None)
                    yield record


def read_note(removal: Removal, digest: Digest) -> Note:
    """The note of an original; an empty one when there is none, or it can't be understood. Raises OSError."""
    try:
        data = json.loads(removal.note_path(digest).read_bytes())
        moved_ns, names, records = data["moved_ns"], data["names"], data.get("records", [])
    except (FileNotFoundError, ValueError, TypeError, LookupError, RecursionError, AttributeError):
        return Note()
    if not isinstance(moved_ns, int) or not isinstance(names, list):
        return Note()
    is_known = bool(names or records or data.get("media_type") or data.get("width"))
    return Note(moved_ns, _maps(names), _maps(records), _annotation(data), is_known)


def _maps(values: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(value for value in values if isinstance(value, dict)) if isinstance(values, list) else ()


def _annotation(data: Mapping[str, Any]) -> dict[str, Any]:
    """The tags, rating and comment that make sense."""
    tags, rating, comment = data.get("tags"), data.get("rating"), data.get("comment")
    out: dict[str, Any] = {}
    if isinstance(tags, list) and tags and all(isinstance(tag, str) for tag in tags):
        out["tags"] = tuple(tags)
    if isinstance(rating, int) and not isinstance(rating, bool) and 0 <= rating <= 10:
        out["rating"] = rating
    if isinstance(comment, str) and comment:
        out["comment"] = comment
    return out


@dataclass(frozen=True, slots=True)
class Lost:
    """An original in lost/. `since_ns` is when it came there, by whichever clock says later: note or file."""

    digest: Digest
    size: int
    since_ns: int
    names: tuple[Mapping[str, Any], ...]
    is_known: bool = True


def lost(removal: Removal) -> Iterator[Lost]:
    """Every original in lost/, in order of digests."""
    for digest, status in removal.enumerate():
        note = read_note(removal, digest)
        yield Lost(digest, status.st_size, max(note.moved_ns, status.st_ctime_ns), note.names, note.is_known)


def redate(removal: Removal, latest_ns: int) -> None:
    """Count again, from now, for originals that came to lost/ after `latest_ns`, by a clock that was wrong."""
    for digest, status in removal.enumerate():
        note = read_note(removal, digest)
        if note.moved_ns > latest_ns:
            data = json.loads(removal.note_path(digest).read_bytes())
            now_ns = clock.now_ns()
            data |= {"moved_ns": now_ns, "moved_at": documents.iso(now_ns)}
            removal.write_notes({digest: shown_json(data, indent=2)})
        if status.st_ctime_ns > latest_ns:
            # Its status changes now.
            removal.lost_path(digest).chmod(stat.S_IMODE(status.st_mode))


class LostTotals(NamedTuple):
    """How many originals lie in lost/, their bytes, and when the first of them came there (None when there is none)."""

    originals: int = 0
    bytes: int = 0
    oldest_ns: int | None = None
    unknown: int = 0  # that no journal has ever named

    def words(self) -> str:
        """How many there are, since when, and what to do; "" when there are none."""
        if self.oldest_ns is None:
            return ""
        return (
            f"Originals in lost/, which nothing references: {self.originals:,} ({self.bytes:,} bytes), the first since "
            f"{documents.iso(self.oldest_ns)[:10]}. gc deletes each after `trash_days` (30 days unless config.toml "
            "says otherwise); `mixfs fsck --adopt-lost` takes them back."
            + (f" No journal has ever named {self.unknown:,} of them: those stay." if self.unknown else "")
        )


def totals(removal: Removal) -> LostTotals:
    """Raises OSError."""
    found = list(lost(removal))
    if not found:
        return LostTotals()
    unknown = sum(not each.is_known for each in found)
    return LostTotals(len(found), sum(each.size for each in found), min(each.since_ns for each in found), unknown)


# -- adopting


@dataclass(slots=True)
class Adopted:
    """An original that was taken back from lost/, and where it is now."""

    digest: str
    session: str
    name: str
    area: str
    placement_id: str


@dataclass(slots=True)
class Adoption:
    """What was taken back from lost/, and what could not be: the reason by digest. `returned` had a name elsewhere."""

    adopted: list[Adopted] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def adopt(library: Library) -> Adoption:
    """Give every original in lost/ a name in the session Recovered, through the same commit as an import.

    Killed at any point, the next call continues: an original that was brought back and not named yet is still noted
    in lost/. Raises OSError, MixfsError when nothing can be committed.
    """
    removal, done = library.blobs.removal, Adoption()
    waiting = list(dict.fromkeys([*(found.digest for found in lost(removal)), *removal.notes()]))
    for at in range(0, len(waiting), _BATCH):
        batch = []
        for digest in waiting[at : at + _BATCH]:
            try:
                incoming = _incoming(library, digest, done)
            except (OSError, MixfsError) as error:
                done.failed[digest.hex()] = os_words(error) if isinstance(error, OSError) else str(error)
                continue
            if incoming is not None:
                batch.append(incoming)
        done.adopted += _admit(library, batch)
        settle_notes(library, [each for each in waiting[at : at + _BATCH] if each.hex() not in done.failed])
    return done


def settle_notes(library: Library, digests: Iterable[Digest]) -> None:
    """Bring back what the notes of originals that lie in a session again kept of them, and forget these notes.

    gc deleted their records, and with them what no file says: a generation that came from a file beside the picture,
    or from an app. The other notes stay: an original that is nowhere has nothing else left.
    """
    removal, waiting = library.blobs.removal, list(digests)
    for at in range(0, len(waiting), _BATCH):
        batch = {digest: read_note(removal, digest) for digest in waiting[at : at + _BATCH]}

        def write(txn: Txn, batch: dict[Digest, Note] = batch) -> list[Digest]:
            placed = [digest for digest in batch if library.has_blob(digest) and txn.is_placed(digest)]
            for digest in placed:
                note = batch[digest]
                if txn.annotation(digest) is None:
                    editing.annotate_empty(txn, digest, note.annotation)
                give_back(txn, digest, list(note.kept()))
            return placed

        for digest in library.commit(write):
            removal.forget_note(digest)


def _incoming(library: Library, digest: Digest, done: Adoption) -> Incoming | None:
    """An original as what it is taken in as; None when it has a name already, or is nowhere."""
    removal, note = library.blobs.removal, read_note(library.blobs.removal, digest)
    is_lost = removal.lost_path(digest).exists()
    if not removal.bring_back(digest):
        return None
    removal.delete_duplicate(digest)
    with library.read() as view:
        if view.is_referenced(digest):
            done.returned += [digest.hex()] if is_lost else []
            return None
    fd = library.blobs.open(digest)
    try:
        status, sums = os.fstat(fd), sums_of(fd)
    finally:
        os.close(fd)
    last = note.names[-1] if note.names else {}
    name = _raw_name(last)
    mtime_ns = last.get("mtime_ns")
    incoming = Incoming(
        digest=digest, size=status.st_size, name=name or digest.hex()[:16].encode(), sums=sums,
        mtime_ns=mtime_ns if isinstance(mtime_ns, int) and mtime_ns else status.st_mtime_ns,
        inspection=library.inspect(digest),
    )  # fmt: skip
    if not name and incoming.inspection is not None:
        suffix = incoming.inspection.media_type.partition("/")[2]
        if incoming.inspection.media_type.startswith("image/"):
            incoming = dataclasses.replace(incoming, name=incoming.name + b"." + suffix.encode())
    return incoming


def _raw_name(name: Mapping[str, Any]) -> bytes:
    try:
        raw = bytes.fromhex(name["raw_name"])
    except (LookupError, ValueError, TypeError):
        return b""
    return raw if is_name(raw) else b""


def _admit(library: Library, batch: list[Incoming]) -> list[Adopted]:
    def write(txn: Txn) -> list[Placement]:
        session = editing.session_titled(txn, RECOVERED)
        # A gc beside us may have moved them again; it can't before this commit ends.
        there = library.blobs.removal.bring_back
        return [admit(txn, incoming, session.id, None, there)[0] for incoming in batch]

    if not batch:
        return []
    placements = library.commit(write)
    library.came_in(batch)
    return [
        Adopted(
            placement.digest.hex(), RECOVERED, documents.text_of(placement.name), placement.area, placement.id
        )
        for placement in placements
    ]  # fmt: skip
