"""The documents of a Storage V2 folder, made from records: what the mount's storage-v2/ shows and an export writes.

The desktop app's own hash of a picture is an *alias* of its digest: placements that are files of the app's folder keep
it, the name in images/ and what image_registry.json says of it under `foreign["storage-v2"]`. A picture that never was
in such a folder goes by its SHA-256, under a name that follows from its record. Sessions and generations keep there
what no field has. docs/formats/storage-v2.md says what becomes what.

As with `documents.py`: pure functions, and sizes are kept up by sums. A change raises `DERIVATION`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cbor2

from mixfs import jsontext
from mixfs.ids import Digest, derived_id, key16
from mixfs.index import dentries, keys
from mixfs.index.dentries import READ_ONLY_FILE_MODE, Listing
from mixfs.index.engine import ReadTxn, WriteTxn, prefix_end
from mixfs.library import documents
from mixfs.library.documents import LongDocument, SessionParts, Sum
from mixfs.library.view import View
from mixfs.library.wanted import image_time
from mixfs.media.sniff import extension
from mixfs.names import is_name, safe_name
from mixfs.records import Entry, Generation, Image, Placement, Session

NAME = "storage-v2"
CANVAS, GENERATIONS = "_canvas.json", "_generations.json"
REGISTRY, LOGS = "image_registry.json", "logs.jsonl"
# Under which a session's row keeps size and revision of its two documents.
ROW_NAMES = {CANVAS: "storage-v2 canvas", GENERATIONS: "storage-v2 generations"}
SUFFIXES = {name: suffix for suffix, name in ROW_NAMES.items()}
ROOT, SESSIONS, IMAGES = (dentries.fixed("/" + path) for path in (NAME, f"{NAME}/sessions", f"{NAME}/images"))
# The session of pictures that no session of the app names, and of what image_registry.json says besides.
POOL_ID = derived_id(b"storage-v2")
POOL_TITLE = "Storage V2"


def kept_of(record: Session | Placement | Generation) -> Mapping[str, Any]:
    """What a record keeps for this layout."""
    return mapping(record.foreign.get(NAME))


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping that a record keeps; another program's journal may have anything there."""
    return value if isinstance(value, Mapping) else {}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


# -- pictures


class Shown(NamedTuple):
    """A picture as a file of the folder: its name in images/, and its line in image_registry.json if it has one.

    `placement` is the one that is the file; None for a picture that never was in such a folder.
    """

    alias: str
    file: bytes
    info: Mapping[str, Any] | None
    placement: Placement | None


def is_file(placement: Placement) -> bool:
    """Whether a placement is a file of the app's folder."""
    return bool(kept_of(placement))


def file_of(placement: Placement) -> bytes:
    """The name in images/ of such a placement."""
    kept = kept_of(placement)
    said = str(kept.get("file") or str(mapping(kept.get("info")).get("file_path") or "").rpartition("/")[2])
    name = said.encode("utf-8", "surrogateescape")
    return name if is_name(name) else placement.name


def shown_of(view: View, digest: Digest) -> list[Shown]:
    """The files that a blob is in the folder: one for each of the app's names of it, each by its oldest placement."""
    out: dict[tuple[str, bytes], Shown] = {}
    ordinary: Placement | None = None
    placements = sorted(view.referrers(Placement, digest), key=lambda each: (each.added_ns, each.id))
    for placement in placements:
        if is_file(placement):
            kept = kept_of(placement)
            shown = Shown(str(kept.get("hash") or ""), file_of(placement), mapping(kept.get("info")) or None, placement)
            out.setdefault((shown.alias, shown.file), shown)
        elif placement.area == "images":
            ordinary = ordinary or placement
    text, image = digest.hex(), view.image(digest)
    if image is None or image.problem is not None or any(shown.alias == text for shown in out.values()):
        return list(out.values())
    if ordinary is None and placements and _goes_by_digest(view, digest):
        ordinary = placements[0]
    if ordinary is not None:
        out[text, b""] = _by_digest(ordinary, image)
    return list(out.values())


def _goes_by_digest(view: View, digest: Digest) -> bool:
    """Whether something in the folder names a picture by its SHA-256, as what was made here does."""
    text = digest.hex()
    if any(entry.data.get("imageHash", text) == text for entry in view.referrers(Entry, digest)):
        return True
    return next(view.named_in(digest, keys.TAKES, keys.GIVES), None) is not None


def _by_digest(placement: Placement, image: Image) -> Shown:
    text = placement.digest.hex()
    kind = "input" if placement.role in ("input", "reference", "control") else "output"
    name = f"{kind}_{placement.added_ns // 1_000_000}_{text[:6]}{extension(image.media_type)}"
    info = registered(text, name, placement, image)
    return Shown(text, name.encode(), info, None)


def registered(alias: str, name: str, placement: Placement, image: Image) -> dict[str, Any]:
    """What image_registry.json says of a picture that the app did not register itself."""
    return {
        "id": image.id or placement.id, "hash": alias,
        "original_name": documents.text_of(placement.original_name or placement.name),
        "imported_at": documents.iso(placement.added_ns), "size_bytes": placement.size, "width": image.width,
        "height": image.height, "mime_type": image.media_type, "file_path": f"images/{name}",
    }  # fmt: skip


def registry_item(alias: str, info: Mapping[str, Any]) -> bytes:
    """One line of image_registry.json, without what stands between it and the next."""
    return b"    " + documents.to_json_line({alias: dict(info)})[1:-1]


class Registry:
    """Keeps the rows of image_registry.json and images/ for one commit, inside its write transaction."""

    def __init__(self, txn: WriteTxn, view: View, listing: Listing, stamp: int) -> None:
        self.txn, self.view = txn, view
        self._listing, self._stamp = listing, stamp
        self._sum, self._changed = Sum(), False
        self._called: dict[str, list[Digest]] = {}

    def update(self, digests: Iterable[Digest]) -> None:
        """Show blobs as the files that they are in the folder now, and as no others."""
        found = {digest: shown_of(self.view, digest) for digest in digests}
        held = {digest: self._rows(digest) for digest in found}
        touched = {name for digest, files in found.items() for name in self._name(digest, held[digest], files) if name}
        # From here on nobody's name changes. The line of a name is that of one picture; of two that have it another may
        # be the first now.
        self._called = {alias: _called(self.view, alias) for alias in touched}
        for digest in (each for called in self._called.values() for each in called if each not in found):
            found[digest], held[digest] = shown_of(self.view, digest), self._rows(digest)
        value = self.txn.get(keys.REGISTRY_SUM)
        self._sum = before = Sum(*cbor2.loads(value)) if value is not None else Sum()
        # What goes, goes first: a file that got other bytes is the same node, now of another blob.
        rows = {digest: self._replace(digest, held[digest], shown) for digest, shown in found.items()}
        for digest, files in found.items():
            for shown, row in zip(files, rows[digest], strict=True):
                if row[2]:
                    self._list(digest, shown, row[1], row[2])
        if self._sum != before and self._sum.items:
            self.txn.put(keys.REGISTRY_SUM, cbor2.dumps(list(self._sum)))
        elif self._sum != before:
            self.txn.delete(keys.REGISTRY_SUM)
        if self._changed:
            self._listing.touch(ROOT, self._stamp)

    def _rows(self, digest: Digest) -> list[tuple[Any, ...]]:
        value = self.txn.get(keys.registry_row(digest))
        return [tuple(row) for row in cbor2.loads(value)] if value is not None else []

    def _name(self, digest: Digest, rows: list[tuple[Any, ...]], files: list[Shown]) -> set[str]:
        """Keep what the app calls a blob, which had `rows`; returns the names that it had and has."""
        before, after = {row[0] for row in rows}, {shown.alias for shown in files}
        for alias in before - after:
            self.txn.delete(keys.alias(alias, digest))
        for alias in after - before:
            self.txn.put(keys.alias(alias, digest), b"")
        return before | after

    def _replace(
        self, digest: Digest, before: list[tuple[Any, ...]], files: list[Shown]
    ) -> list[tuple[str, bytes, bytes, bytes]]:
        """Keep what files a blob is, and take away what it was; returns the rows."""
        after: list[tuple[str, bytes, bytes, bytes]] = []
        lines: set[str] = set()
        for shown in files:
            # A file that the app has two names for is listed once.
            listed = any(row[1] == shown.file for row in after)
            after.append(self._row(digest, shown, self._line_of(digest, shown.alias), lines, listed=listed))
        if before == after:
            return after
        self._changed = True
        for rows, sign in ((before, -1), (after, 1)):
            for row in rows:
                self._sum = self._sum.with_item(row[3], sign) if row[3] else self._sum
        for _, name, key, _ in before:
            if key and (name, key) not in [row[1:3] for row in after]:
                self._listing.remove(IMAGES, name, key, stamp=self._stamp)
        if after:
            self.txn.put(keys.registry_row(digest), cbor2.dumps([list(row) for row in after]))
        else:
            self.txn.delete(keys.registry_row(digest))
        return after

    def _line_of(self, digest: Digest, alias: str) -> str:
        """Under which name a picture has its line: that of another picture which is older would be there twice."""
        if not alias:
            return alias
        # A name that is not there is that of a picture which is here for another of its names.
        called = self._called[alias] if alias in self._called else _called(self.view, alias)
        return alias if len(called) < 2 or digests_of(self.view, alias)[0] == digest else digest.hex()

    @staticmethod
    def _row(
        digest: Digest, shown: Shown, line: str, lines: set[str], *, listed: bool
    ) -> tuple[str, bytes, bytes, bytes]:
        """`lines` are the names under which the picture has lines already."""
        key = b"P" + key16(shown.placement.id) if shown.placement is not None else b"J" + digest
        key = b"" if listed else key
        # What has no line in the registry is found by its digest nevertheless.
        info = dict(shown.info or {}) | ({"hash": line} if line != shown.alias else {})
        item = registry_item(line, info) if line and shown.info and line not in lines else b""
        lines.update([line] if item else ())
        return shown.alias, shown.file, key, item

    def _list(self, digest: Digest, shown: Shown, name: bytes, key: bytes) -> None:
        placement = shown.placement
        if placement is not None:
            self._listing.put(
                IMAGES, name, key, mode=0o100000 | placement.mode, size=placement.size, mtime_ns=placement.mtime_ns,
                ctime_ns=placement.ctime_ns, order=placement.added_ns, stamp=self._stamp,
            )  # fmt: skip
            return
        image = self.view.image(digest)
        assert image is not None
        self._listing.put(
            IMAGES, name, key, mode=READ_ONLY_FILE_MODE, size=image.size,
            mtime_ns=image_time(image, self.view.generations_of(digest))[0], ctime_ns=image.added_ns,
            order=image.order, stamp=self._stamp,
        )  # fmt: skip


def wait_keys(record: Entry | Generation | None) -> set[bytes]:
    """The rows that say for which pictures, not there yet, a record waits."""
    out: set[bytes] = set()
    if isinstance(record, Entry):
        alias = record.data.get("imageHash")
        if record.digest is None and isinstance(alias, str):
            out.add(keys.waits_for(alias, Entry.KIND, record.id))
    elif isinstance(record, Generation):
        kept = kept_of(record)
        for refs, name in ((record.inputs, "input_images"), (record.outputs, "output_images")):
            for ref, said in zip(refs, _list(kept.get(name)), strict=False):
                if ref.digest is None and isinstance(said, Mapping) and isinstance(said.get("hash"), str):
                    out.add(keys.waits_for(said["hash"], Generation.KIND, record.id))
    return out


def digests_of(view: View, alias: str) -> list[Digest]:
    """The digests that the app's name of a picture stands for: one, or none, but where pictures that have the same name
    came from another library or out of the trash; then the oldest first."""
    found: list[tuple[int, Digest]] = []
    for digest in _called(view, alias):
        same = [shown.placement for shown in shown_of(view, digest) if shown.alias == alias]
        if same:
            found.append((min(each.added_ns if each is not None else 0 for each in same), digest))
    return [digest for _, digest in sorted(found)]


def _called(view: View, alias: str) -> list[Digest]:
    """As `digests_of`, by the index alone: names that hash alike are among them."""
    prefix = keys.aliases(alias)
    return [Digest(key[len(prefix) :]) for key, _ in view.txn.scan(prefix, prefix_end(prefix))]


def placements_of(view: View, alias: str, digest: Digest | None = None) -> list[Placement]:
    """The placements that are the app's file of a name, the oldest first; of one digest where it is given."""
    found = [
        placement
        for digest in (digests_of(view, alias) if digest is None else [digest])
        for placement in view.referrers(Placement, digest)
        if kept_of(placement).get("hash") == alias
    ]
    return sorted(found, key=lambda each: (each.added_ns, each.id))


def copies_of(view: View, placement: Placement) -> list[Placement]:
    """The placements that are the same file of the app's folder, in whichever session; itself among them.

    Where the app has two names for it, under both.
    """
    if not is_file(placement):
        return [placement]
    return [
        other
        for other in view.referrers(Placement, placement.digest)
        if is_file(other) and file_of(other) == file_of(placement)
    ]


def file_at(view: View, file: bytes) -> Placement | None:
    """The placement that a name in images/ stands for; None for none, and for a picture that is not the app's."""
    dentry = view.dentry(IMAGES, file)
    return view.get_raw(Placement, dentry.key[1:]) if dentry is not None and dentry.key[:1] == b"P" else None


# -- image_registry.json


def pool_of(view: View) -> Mapping[str, Any]:
    """What the pool's session keeps: `registry`, the fields beside `images`; `pending`, pictures without a file."""
    session = view.get(Session, POOL_ID)
    return kept_of(session) if session is not None else {}


def pending_items(pool: Mapping[str, Any]) -> list[bytes]:
    return [registry_item(alias, mapping(info)) for alias, info in sorted(mapping(pool.get("pending")).items())]


def _registry_head(pool: Mapping[str, Any]) -> bytes:
    return b"{\n" + documents.head_fields({"version": "2.0"} | dict(mapping(pool.get("registry")))) + b'  "images": '


def registry_size(view: View) -> tuple[int, int]:
    """`(size, revision)` of image_registry.json. Renders nothing that a file of images/ has."""
    pool, value = pool_of(view), view.txn.get(keys.REGISTRY_SUM)
    total = Sum(*cbor2.loads(value)) if value is not None else Sum()
    for item in pending_items(pool):
        total = total.with_item(item)
    head = _registry_head(pool)
    return len(head) + _object_size(total) + len(b"\n}\n"), documents.revision(repr((head, total)).encode())


def _object_size(total: Sum) -> int:
    return 2 if not total.items else len(b"{\n") + total.size + len(b",\n") * (total.items - 1) + len(b"\n  }")


def render_registry(view: View) -> bytes:
    """image_registry.json, as it is now."""
    pool = pool_of(view)
    return registry_bytes(pool, [*registry_items(view.txn), *pending_items(pool)])


def registry_items(txn: ReadTxn) -> Iterator[bytes]:
    """The lines of image_registry.json of which there are files."""
    for _, value in txn.scan(keys.REGISTRY_SUM + b"\0", prefix_end(keys.REGISTRY_SUM)):
        yield from (row[3] for row in cbor2.loads(value) if row[3])


def registry_bytes(pool: Mapping[str, Any], items: Iterable[bytes]) -> bytes:
    """image_registry.json of some lines."""
    body = b",\n".join(items)
    return _registry_head(pool) + (b"{\n" + body + b"\n  }" if body else b"{}") + b"\n}\n"


# -- the documents of a session


def stem_of(session_id: str) -> bytes:
    """What the names of a session's two files begin with; `session_of_stem` is the inverse."""
    name = safe_name(session_id, "session", 200)
    # Ids of other layouts may have what a file name can't.
    return name if name == session_id.encode("utf-8", "surrogateescape") else key16(session_id).hex().encode()


def session_of_stem(view: View, stem: bytes) -> Session | None:
    """The session whose files' names begin so, if there is one that the folder shows."""
    session = view.get(Session, stem.decode("utf-8", "surrogateescape"))
    if session is None and len(stem) == 32:
        try:
            session = view.get_raw(Session, bytes.fromhex(stem.decode("ascii")))
        except ValueError:
            return None
    return session if session is not None and stem_of(session.id) == stem and session.id != POOL_ID else None


def has_document(session: Session, suffix: str, items: Sum) -> bool:
    """Whether a session has one of its two files: the app may have written only the other."""
    if session.id == POOL_ID:
        return False
    return items.items > 0 or suffix not in _list(kept_of(session).get("lacks"))


def entry_item(entry: Entry) -> bytes:
    """One element of canvas_images: as `documents.entry_item`, with the app's own name of the picture."""
    if entry.digest is None or "imageHash" not in entry.data:
        return documents.entry_item(entry)
    return documents.entry_item(dataclasses.replace(entry, digest=None))


# Beside what a generation keeps: its place among the others, where they don't stand in the order of their times.
PLACE = "storage-v2 place"


def order_of(generation: Generation) -> tuple[bool, int, str]:
    """What the generations of a session are sorted by."""
    place = generation.foreign.get(PLACE)
    if isinstance(place, int):
        return False, place, generation.shown_id
    return True, generation.time_ns, generation.shown_id


def run_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Generation, without its images, of an element of `generations`."""
    parameters = item.get("parameters")
    parameters = dict(parameters) if isinstance(parameters, Mapping) else {}
    model = parameters.pop("model") if isinstance(parameters.get("model"), str) else None
    duration: Any = item.get("generation_time_ms")
    state = item.get("canvas_state")
    prompt, error = (value if isinstance(value, str) else None for value in (item.get("prompt"), item.get("error")))
    status = item.get("status")
    return {
        "time_ns": documents.iso_ns(item.get("timestamp")),
        "utc_offset_s": documents.iso_offset_s(item.get("timestamp")),
        "status": status if isinstance(status, str) and status else "completed",
        "prompt": prompt, "model": model, "parameters": parameters, "error": error,
        "duration_ms": duration if _is_int(duration) and abs(duration) < 2**63 else None,
        "canvas_state": state if isinstance(state, Mapping) else None,
    }  # fmt: skip


def generation_item(generation: Generation) -> bytes:
    """One element of `generations`: as it came, as far as it still is so."""
    kept = kept_of(generation)
    item: dict[str, Any] = jsontext.loads(documents.generation_item(generation))
    if generation.error is not None:
        item["error"] = generation.error
    if not kept:
        return documents.item_bytes(item)
    if all(getattr(generation, name) == value for name, value in run_of(kept).items()):
        return documents.item_bytes(dict(kept))
    item = {name: value for name, value in item.items() if name not in ("input_images", "output_images")}
    return documents.item_bytes(dict(kept) | item)


def canvas_document(parts: SessionParts, entries: Sum) -> LongDocument:
    """SID_canvas.json: items are `entry_item` in the order of (z, id)."""
    session = parts.session
    kept = kept_of(session)
    said: dict[str, Any] = dict(mapping(kept.get("canvas"))) | dict(mapping(kept.get("v1")))
    user = dict(mapping(kept.get("user"))) | {"displayName": session.user_name, "id": session.user_id}
    pan = dict(mapping(kept.get("panOffset"))) | {"x": session.pan_x, "y": session.pan_y}
    head: dict[str, Any] = {"session_id": session.id, "title": session.title}
    if "canvas" not in kept:
        # The app did not write this document: what its own always have.
        head = {"version": "2.0"} | head | {"created_at": documents.iso(session.created_ns)}
        head |= {"updated_at": documents.iso(parts.mtime_ns), "zoom": 1.0, "panOffset": {"x": 0, "y": 0}, "user": user}
    head |= said
    if session.title != UNTITLED:
        head["title"] = session.title
    if session.zoom is not None:
        head["zoom"] = session.zoom
    if any(value is not None for value in pan.values()):
        head["panOffset"] = pan
    if any(value is not None for value in user.values()):
        head["user"] = user
    return LongDocument((b"{\n" + documents.head_fields(head) + b'  "canvas_images": ', b"\n}\n"), (entries,))


UNTITLED = "Untitled"


def generations_document(parts: SessionParts, generations: Sum) -> LongDocument:
    """SID_generations.json: items are `generation_item` in the order of `order_of`."""
    kept = kept_of(parts.session)
    head = {"session_id": parts.session.id}
    head = head | dict(mapping(kept["generations"])) if "generations" in kept else {"version": "2.0"} | head
    return LongDocument((b"{\n" + documents.head_fields(head) + b'  "generations": ', b"\n}\n"), (generations,))


def render(view: View, session: Session, suffix: str) -> bytes:
    """SID_canvas.json or SID_generations.json, as it is now."""
    row = view.session_row(session.id)
    parts = row.parts(session)
    if suffix == CANVAS:
        entries = sorted(view.members(Entry, session.id), key=lambda entry: (entry.z, entry.shown_id))
        return canvas_document(parts, row.app_entries).render(map(entry_item, entries))
    generations = sorted(view.members(Generation, session.id), key=order_of)
    return generations_document(parts, row.app_generations).render(map(generation_item, generations))
