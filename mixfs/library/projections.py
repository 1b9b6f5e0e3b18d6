"""From records to rows: how a change to a record changes the listings, sums and counters that follow from it.

Everything here is a pure function of the live records and of the commit's stamps, so that replaying the journal makes
the same index, byte for byte (promise 4). `apply` runs for each change; what depends on several records (the documents
of a picture, the views over everything, the documents of a session) is marked dirty and made once, in `finish`.

Concurrency: runs inside one write transaction, under the library's lock.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import cbor2

from mixfs.ids import Digest, Stamp, id_of_key, key16
from mixfs.index import dentries, keys
from mixfs.index.dentries import DIR_MODE, READ_ONLY_DIR_MODE, READ_ONLY_FILE_MODE, Changes, Listing
from mixfs.index.engine import WriteTxn, prefix_end
from mixfs.library import documents, storage_v2
from mixfs.library.image_views import ImageViews
from mixfs.library.merging import merge_rows
from mixfs.library.trashed import TRASH_ROOT, trash_folder, trash_items, trash_rows
from mixfs.library.view import SessionRow, View
from mixfs.library.wanted import (
    IMPORT_ROOT_ID,
    entry_place,
    folder_parent,
    generation_name,
    import_directory,
    is_picture,
    named_digests,
    placement_place,
)
from mixfs.records import (
    KINDS,
    Annotation,
    Blob,
    Edge,
    Entry,
    Folder,
    Generation,
    Image,
    ImportFolder,
    Metadata,
    Placement,
    Receipt,
    Record,
    Session,
    Trash,
    field_keys,
    from_map,
    to_map,
)

# Raise it whenever rows or documents would come out differently: an index of another derivation is made again.
DERIVATION = 11

SESSION_DOCUMENTS = ("session.json", "canvas.json", "generations.json")

# Sizes of NAME.json, NAME.txt, NAME.workflow.json, NAME.xmp (0: there is none), and their revision.
DOCUMENT_SIZES = struct.Struct("<IIIIQ")
DOCUMENT_TYPES = ("json", "txt", "workflow", "xmp")
# The same for a generation: prompt.txt, generation.json, parameters.json.
GENERATION_SIZES = struct.Struct("<IIIQ")


class Projector:
    """Applies changes inside one write transaction; `finish` completes the commit."""

    def __init__(self, txn: WriteTxn, now_ns: int = 0) -> None:
        """`now_ns`: when the commit was made, by the clock; 0 in commits of before that was kept, whose stamps tell."""
        self.txn = txn
        self.view = View(txn)
        self.changes = Changes()
        self._now_ns = now_ns
        self._listing = Listing(txn, self.changes, now_ns)
        self._stamp = 0
        self._at = 0  # the stamp of the record at hand
        self._blobs: dict[Digest, None] = {}
        self._placements: dict[str, Placement | None] = {}  # id -> as listed before this commit
        self._digests: dict[Digest, None] = {}  # whose place in the views over everything may differ
        self._told: dict[Digest, None] = {}  # of which something is known now that each of their documents tells
        # Whether a session had a picture before this commit, of each that was placed or taken away in it; and whether
        # any had.
        self.had: dict[tuple[Digest, str], bool] = {}
        self._was_placed: dict[Digest, bool] = {}
        self.leaves_trash = False
        self.deleted_generations: list[Generation] = []
        self._entries: dict[str, Entry | None] = {}  # id -> as before this commit
        self._sessions: dict[str, SessionRow] = {}
        self._counters: dict[str, int] = {}

    # -- one change

    def apply(
        self, kind: int, entity_id: str, stamp: Stamp, replica: bytes, data: Mapping[int | str, Any] | None
    ) -> bool:
        """Take a change in if it is newer than what is there (last writer wins); True when it was.

        A kind that this version doesn't know is kept as it came (promise 6).
        """
        key = keys.record(kind, entity_id)
        value = self.txn.get(key)
        held: list[Any] = cbor2.loads(value) if value is not None else [0, b"", None]
        old: Record | None = None
        cls = KINDS.get(kind)
        new = from_map(cls, data) if cls is not None and data is not None else None
        if cls is not None and held[2] is not None:
            old = from_map(cls, held[2])
        if cls is not None and cls.FIELD_STAMPS:
            row = merge_rows(cls, held, [stamp, replica, data])
            if row == held:
                return False
            new = from_map(cls, row[2]) if row[2] is not None else None
            stamp = row[0]
        elif (stamp, replica) <= (held[0], held[1]):
            return False
        else:
            row = [stamp, replica, to_map(new) if new is not None else data]
        self.txn.put(key, cbor2.dumps(row))
        self._at, self._stamp = stamp, max(self._stamp, stamp)
        if cls is not None and (old is not None or new is not None):
            self._project(cls, old, new)
        return True

    def _project(self, cls: type[Record], old: Any, new: Any) -> None:
        if cls is Placement:
            self._placement(old, new)
        elif cls is Generation:
            self._generation(old, new)
        elif cls in (Image, Annotation, Metadata):
            self._digests[(new or old).digest] = self._told[(new or old).digest] = None
            if cls is Image:
                self._count("images", old, new)
                if new is None:
                    self.txn.delete(keys.thumbnail(old.digest))
                self.changes.nodes[b"J" + (new or old).digest] = None
        elif cls is Blob:
            self._count("blobs", old, new)
            self._blobs[(new or old).digest] = None
            self._add("blob_bytes", (new.size if new else 0) - (old.size if old else 0))
        elif cls is Session:
            self._session(old, new)
        elif cls is Folder:
            self._folder(old, new)
        elif cls is Entry:
            self._entry(old, new)
        elif cls is Edge:
            self._edge(old, new)
        elif cls is ImportFolder:
            self._import_folder(old, new)
        elif cls is Receipt:
            self._receipt(old, new)
        elif cls is Trash:
            self._trash(old, new)

    def set_times(self, times: Mapping[bytes, tuple[int, int]]) -> None:
        """When directories and sessions last changed, (ns, stamp) by their rows' keys: if no change tells it."""
        for key, (mtime_ns, stamp) in times.items():
            if key[:1] == b"z":
                row = self._row(id_of_key(key[1:]))
                row.mtime_ns, row.stamp = mtime_ns, stamp
            else:
                self._listing.set_time(key[1:], mtime_ns, stamp)

    # -- helpers

    def _count(self, name: str, old: object, new: object) -> None:
        self._add(name, (new is not None) - (old is not None))

    def _add(self, name: str, amount: int) -> None:
        if amount:
            self._counters[name] = self._counters.get(name, 0) + amount

    def _row(self, session_id: str) -> SessionRow:
        row = self._sessions.get(session_id)
        if row is None:
            row = self._sessions[session_id] = self.view.session_row(session_id)
        return row

    def _member(self, old: Any, new: Any) -> None:
        for record, put in ((old, False), (new, True)):
            if record is not None:
                key = keys.in_session(record.session_id, record.KIND, record.id)
                if put:
                    self.txn.put(key, b"")
                else:
                    self.txn.delete(key)
                self._row(record.session_id)

    def _refer(self, kind: int, entity_id: str, old: Iterable[Digest], new: Iterable[Digest]) -> None:
        before, after = set(old), set(new)
        for digest in before - after:
            self.txn.delete(keys.refers(digest, kind, entity_id))
        for digest in after - before:
            self.txn.put(keys.refers(digest, kind, entity_id), b"")

    def _is_named(self, digest: Digest, kind: int) -> bool:
        return next(self.view.named_in(digest, kind), None) is not None

    def _wait(self, old: Entry | Generation | None, new: Entry | Generation | None) -> None:
        """Note for which pictures a record waits."""
        before, after = storage_v2.wait_keys(old), storage_v2.wait_keys(new)
        for key in before - after:
            self.txn.delete(key)
        for key in after - before:
            self.txn.put(key, b"")

    # -- kinds

    def _session(self, old: Session | None, new: Session | None) -> None:
        self._count("sessions", old, new)
        root = dentries.fixed("/sessions")
        session = new or old
        assert session is not None
        raw = key16(session.id)
        key = b"S" + raw
        if old is not None and (new is None or old.title != new.title or old.created_ns != new.created_ns):
            self.txn.delete(keys.by_title(old.title, old.created_ns, old.id))
        if old is not None and (new is None or old.name != new.name):
            self._listing.remove(root, old.name, key, stamp=self._stamp)
        if new is None:
            for tag in (b"S", b"p", b"f", b"g", b"c"):
                self._listing.drop(tag + raw)
            self._row(session.id)
            return
        self.txn.put(keys.by_title(new.title, new.created_ns, new.id), b"")
        self._listing.put(
            root,
            new.name,
            key,
            mode=stat.S_IFDIR | new.mode,
            order=self._named(new),
            stamp=self._stamp,
            ctime_ns=new.changed_ns or self._at,
        )
        if old is None:
            for tag in (b"S", b"p", b"f", b"g", b"c"):
                self._listing.touch(tag + raw, self._stamp)
        self._row(new.id)

    @staticmethod
    def _named(session: Session) -> int:
        """When the session got its name: the stamp of the field."""
        stamp = session.stamps.get(field_keys(Session)["name"])
        return int(stamp[0]) if stamp else session.created_ns

    def _folder(self, old: Folder | None, new: Folder | None) -> None:
        self._member(old, new)
        for record, put in ((old, False), (new, True)):
            if record is None:
                continue
            parent = folder_parent(record)
            key = b"p" + key16(record.id)
            if put:
                for tag in (b"p", b"f"):
                    self._listing.touch(tag + key16(record.id), self._stamp)
                self._listing.put(
                    parent, record.name, key, mode=stat.S_IFDIR | record.mode, order=record.named_ns, stamp=self._stamp
                )
            elif new is None or (folder_parent(new), new.name) != (parent, record.name):
                self._listing.remove(parent, record.name, key, stamp=self._stamp)
                if new is None:
                    self._listing.drop(key)
                    self._listing.drop(b"f" + key16(record.id))

    def _placement(self, old: Placement | None, new: Placement | None) -> None:
        self._count("placements", old, new)
        self._member(old, new)
        placement = new or old
        assert placement is not None
        self._placements.setdefault(placement.id, old)
        for record, sign in ((old, -1), (new, 1)):
            if record is None:
                continue
            row = self._row(record.session_id)
            in_images = record.area == "images"
            row.counts = documents.Counts(
                row.counts.images + sign * in_images,
                row.counts.files + sign * (not in_images),
                row.counts.bytes + sign * record.size,
            )
            self._add("placed_bytes", sign * record.size)
            if (record.digest, record.session_id) not in self.had:
                self._was_placed.setdefault(record.digest, self.view.is_placed(record.digest))
                self.had[record.digest, record.session_id] = self.view.has_picture(record.session_id, record.digest)
            if sign < 0:
                self.txn.delete(keys.refers(record.digest, Placement.KIND, record.id))
            prefix = keys.referrers(record.digest, Placement.KIND)
            if next(iter(self.txn.scan(prefix, prefix_end(prefix))), None) is None:
                self._add("distinct_placed_bytes", sign * record.size)
            if sign > 0:
                self.txn.put(keys.refers(record.digest, Placement.KIND, record.id), key16(record.session_id))
            self._digests[record.digest] = None

    def _generation(self, old: Generation | None, new: Generation | None) -> None:
        self._count("generations", old, new)
        self._member(old, new)
        generation = new or old
        assert generation is not None
        self._pictures(generation.id, old, new)
        if old is not None and new is None:
            self.deleted_generations.append(old)
        self._wait(old, new)
        key = b"G" + key16(generation.id)
        for record, sign in ((old, -1), (new, 1)):
            if record is None:
                continue
            row = self._row(record.session_id)
            row.generations = row.generations.with_item(documents.generation_item(record), sign, record.time_ns)
            row.app_generations = row.app_generations.with_item(
                storage_v2.generation_item(record), sign, storage_v2.order_of(record)[1]
            )
            parent = b"g" + key16(record.session_id)
            wanted = generation_name(record)
            if sign > 0:
                rendered = [render(record) for render in documents.GENERATION_DOCUMENTS.values()]
                self._listing.put(
                    parent, wanted, key, mode=READ_ONLY_DIR_MODE, mtime_ns=record.time_ns, ctime_ns=record.time_ns,
                    order=record.named_ns, stamp=self._stamp,
                    extra=GENERATION_SIZES.pack(*map(len, rendered), documents.revision(b"\0".join(rendered))),
                )  # fmt: skip
            elif new is None or (new.session_id, generation_name(new)) != (record.session_id, wanted):
                self._listing.remove(parent, wanted, key, stamp=self._stamp)

    def _pictures(self, generation_id: str, old: Generation | None, new: Generation | None) -> None:
        """Note which pictures a generation took and gave. Costs the same however many took the same ones."""
        ways: list[dict[int, set[Digest]]] = []
        for record in (old, new):
            kind = keys.BY_ALIAS if record is not None and storage_v2.kept_of(record) else 0
            refs = ((keys.TAKES, record.inputs), (keys.GIVES, record.outputs)) if record is not None else ()
            ways.append({way | kind: {ref.digest for ref in found if ref.digest is not None} for way, found in refs})
        before, after = ways
        given: set[Digest] = set()
        for kind in sorted({*before, *after}):
            was, now = before.get(kind, set()), after.get(kind, set())
            # Whether anything calls a picture by its digest decides how storage-v2/ shows it.
            calls = [] if kind & keys.BY_ALIAS else [d for d in was ^ now if not self._is_named(d, kind)]
            self._refer(kind, generation_id, was, now)
            self._digests.update(dict.fromkeys(calls))
            self._digests.update(dict.fromkeys(d for d in was - now if not self._is_named(d, kind)))
            if kind & ~keys.BY_ALIAS == keys.GIVES:
                given |= was | now
        # What its documents and the views over everything tell of a picture, is of those that gave it.
        self._digests.update(dict.fromkeys(given))
        self._told.update(dict.fromkeys(given))

    def _entry(self, old: Entry | None, new: Entry | None) -> None:
        self._count("entries", old, new)
        self._member(old, new)
        entry = new or old
        assert entry is not None
        digests = [[record.digest] if record and record.digest else [] for record in (old, new)]
        self._refer(Entry.KIND, entry.id, *digests)
        self._digests.update(dict.fromkeys(digest for digest in (*digests[0], *digests[1])))
        self._wait(old, new)
        self._entries.setdefault(entry.id, old)
        for record, sign in ((old, -1), (new, 1)):
            if record is None:
                continue
            row = self._row(record.session_id)
            row.entries = row.entries.with_item(documents.entry_item(record), sign, record.z)
            row.app_entries = row.app_entries.with_item(storage_v2.entry_item(record), sign, record.z)

    def _list_entry(self, before: Entry | None, entry: Entry | None) -> None:
        """List an entry: as its picture while that is in the library, else as a document."""
        old = now = None
        if before is not None:
            digest = before.digest
            was_placed = digest is not None and self._was_placed.get(digest, self.view.is_placed(digest))
            old = entry_place(before, placed=was_placed)
        if entry is not None:
            placed = entry.digest is not None and self.view.is_placed(entry.digest)
            now = entry_place(entry, placed=placed)
        if old is not None and (now is None or old[:3] != now[:3]):
            self._listing.remove(*old[:3], stamp=self._stamp)
        if entry is None or now is None:
            return
        size = len(now.content)
        if is_picture(entry, placed=placed) and entry.digest is not None:
            blob = self.view.blob(entry.digest)
            size = blob.size if blob else 0
        stamp = self.view.stamp_of(Entry.KIND, entry.id)
        at = entry.changed_ns or (stamp[0] if stamp is not None else 0)
        self._listing.put(
            *now[:3], mode=READ_ONLY_FILE_MODE, size=size, mtime_ns=at, ctime_ns=at, order=entry.named_ns,
            stamp=self._stamp,
        )  # fmt: skip

    def _edge(self, old: Edge | None, new: Edge | None) -> None:
        self._member(old, new)
        for record, sign in ((old, -1), (new, 1)):
            if record is not None:
                row = self._row(record.session_id)
                row.edges = row.edges.with_item(documents.edge_item(record), sign)

    def _import_folder(self, old: ImportFolder | None, new: ImportFolder | None) -> None:
        root = new or old
        if root is not None and root.id == IMPORT_ROOT_ID:
            self.changes.nodes[import_directory(None)] = None
            return
        for record, put in ((old, False), (new, True)):
            if record is None:
                continue
            key = b"d" + key16(record.id)
            parent = import_directory(record.parent_id)
            if put:
                self._listing.touch(key, self._stamp, mtime_ns=record.mtime_ns)
                self._listing.put(
                    parent, record.name, key, mode=stat.S_IFDIR | record.mode, mtime_ns=record.mtime_ns,
                    ctime_ns=record.ctime_ns, order=record.named_ns, stamp=self._stamp,
                )  # fmt: skip
            else:
                if new is None or (new.parent_id, new.name) != (record.parent_id, record.name):
                    self._listing.remove(parent, record.name, key, stamp=self._stamp)
                if new is None:
                    self._listing.drop(key)

    def _receipt(self, old: Receipt | None, new: Receipt | None) -> None:
        for record, put in ((old, False), (new, True)):
            if record is None:
                continue
            key = b"R" + key16(record.id)
            parent = import_directory(record.parent_id)
            if put:
                self._listing.put(
                    parent, record.name, key, mode=stat.S_IFREG | record.mode, size=record.size,
                    mtime_ns=record.mtime_ns, ctime_ns=self._at if record.ctime_ns is None else record.ctime_ns,
                    order=record.named_ns, stamp=self._stamp,
                    extra=b"" if record.atime_ns is None else dentries.atime_extra(record.atime_ns),
                )  # fmt: skip
            elif new is None or (new.parent_id, new.name) != (record.parent_id, record.name):
                self._listing.remove(parent, record.name, key, stamp=self._stamp)

    def _trash(self, old: Trash | None, new: Trash | None) -> None:
        """What lies in the trash keeps its blobs, and is listed in trash/."""
        self._count("trash", old, new)
        self.leaves_trash |= new is None
        before, after = (set(named_digests(record)) if record else set() for record in (old, new))
        trash_id = (new or old).id  # type: ignore[union-attr]
        for digest in before - after:
            self.txn.delete(keys.refers(digest, Trash.KIND, trash_id))
        for digest in after - before:
            self.txn.put(keys.refers(digest, Trash.KIND, trash_id), b"")
        self._trash_rows(old, new)
        stays = {(trash_folder(new), item.key, item.name) for item in trash_items(new)} if new is not None else set()
        if old is not None:
            folder, name = trash_folder(old)
            for item in trash_items(old):
                if ((folder, name), item.key, item.name) not in stays:
                    self._listing.remove(folder, item.name, item.key, stamp=self._stamp)
            row = self.view.directory_row(folder)
            if row is not None and not row.children:
                self._listing.drop(folder)
                self._listing.remove(TRASH_ROOT, name, folder, stamp=self._stamp)
        if new is not None:
            folder, name = trash_folder(new)
            self._listing.put(TRASH_ROOT, name, folder, mode=DIR_MODE, stamp=self._stamp)
            # In the order of their keys, which decides between equal names: so none moves another.
            for item in sorted(trash_items(new), key=lambda item: item.key):
                self._listing.put(
                    folder, item.name, item.key, mode=READ_ONLY_FILE_MODE, size=item.size, mtime_ns=item.mtime_ns,
                    ctime_ns=new.deleted_ns, order=new.order, stamp=self._stamp,
                )  # fmt: skip

    def _trash_rows(self, old: Trash | None, new: Trash | None) -> None:
        """By which a deletion, and what is in the trash of a record, are found."""
        before, after = (trash_rows(record) if record is not None else {} for record in (old, new))
        for key in before.keys() - after.keys():
            self.txn.delete(key)
        for key, value in after.items():
            if before.get(key) != value:
                self.txn.put(key, value)

    # -- the end of a commit

    def finish(self) -> Changes:
        """Make what depends on several records, and return what a kernel must forget."""
        views = ImageViews(self.txn, self.view, self._listing, self._stamp)
        registry = storage_v2.Registry(self.txn, self.view, self._listing, self._stamp)
        # No record changes from here on, so what gave out an image is looked up once.
        generations = {digest: self.view.generations_of(digest) for digest in self._digests}
        for digest in self._digests:
            if digest in self._told:
                for placement in self.view.referrers(Placement, digest):
                    self._placements.setdefault(placement.id, placement)
            views.update(digest, generations[digest])
        registry.update(self._digests)
        for placement_id, before in self._placements.items():
            self._list_placement(before, self.view.get(Placement, placement_id), generations)
        # An image entry is as long as its blob, which another replica may have told of later, and shows it as long as
        # it is placed.
        turned = [digest for digest, placed in self._was_placed.items() if placed != self.view.is_placed(digest)]
        for digest in dict.fromkeys((*self._blobs, *turned)):
            for entry in self.view.referrers(Entry, digest):
                self._entries.setdefault(entry.id, entry)
        for entry_id, old in self._entries.items():
            self._list_entry(old, self.view.get(Entry, entry_id))
        for session_id, row in self._sessions.items():
            self._session_documents(session_id, row)
        self._listing.settle()
        for directory in self._listing.emptied:
            if not self._lives(directory):
                self._listing.drop(directory)
        for name, amount in self._counters.items():
            total = self.view.counter(name) + amount
            if total:
                self.txn.put(keys.counter(name), cbor2.dumps(total))
            else:
                self.txn.delete(keys.counter(name))
        return self.changes

    def _lives(self, directory: bytes) -> bool:
        """Whether a directory has a row of its own, though it be empty."""
        tag, raw = directory[:1], directory[1:]
        if tag == b"u":
            return False
        if tag == b"d":
            return raw == bytes(16) or self.view.get_raw(ImportFolder, raw) is not None
        if tag in (b"p", b"f") and self.view.get_raw(Folder, raw) is not None:
            return True
        return tag not in b"Spfgc" or self.view.get_raw(Session, raw) is not None

    def _list_placement(
        self, before: Placement | None, placement: Placement | None, generations: Mapping[Digest, list[Generation]]
    ) -> None:
        place = placement_place(placement) if placement is not None else None
        if before is not None and placement_place(before) != place:
            directory, wanted = placement_place(before)
            self._listing.remove(directory, wanted, b"P" + key16(before.id), stamp=self._stamp)
            self._mirrors_changed(directory, before.name)
        if placement is None or place is None:
            return
        directory, wanted = place
        extra = b""
        about = self.view.about(placement, generations.get(placement.digest))
        if about is not None:
            # In files/ too: of a picture that can't be decoded its texts are known, and why.
            rendered = [render(about) for render in documents.IMAGE_DOCUMENTS.values()]
            mark = documents.revision(b"\0".join(rendered))
            extra = DOCUMENT_SIZES.pack(*map(len, rendered), mark) + placement.digest
        held = self.view.dentry(directory, self._listing.given_name(directory, wanted, b"P" + key16(placement.id)))
        name = self._listing.put(
            directory, wanted, b"P" + key16(placement.id), mode=stat.S_IFREG | placement.mode, size=placement.size,
            mtime_ns=placement.mtime_ns, ctime_ns=placement.ctime_ns,
            order=placement.named_ns, extra=extra, stamp=self._stamp,
        )  # fmt: skip
        if held is None or held.extra != extra or held.name != name:
            self._mirrors_changed(directory, name)

    def _mirrors_changed(self, directory: bytes, name: bytes) -> None:
        """The folders beside images/ and files/ that show something for each picture have other names in them now."""
        self.changes.entries[directory, name] = None

    def _session_documents(self, session_id: str, row: SessionRow) -> None:
        session = self.view.get(Session, session_id)
        if self._stamp > row.stamp:
            row.mtime_ns, row.stamp = self._now_ns or self._stamp, self._stamp
        if session is None:
            row.documents = {}
            # Sums stay while members do: a restored session finds them again.
            members = keys.session_members(session_id)
            if next(iter(self.txn.scan(members, prefix_end(members))), None) is None:
                self.txn.delete(keys.session_row(session_id))
            else:
                self.txn.put(keys.session_row(session_id), row.dump())
            return
        parts = row.parts(session)
        canvas, generations = documents.canvas_document(parts), documents.generations_document(parts)
        text = documents.session_json(parts)
        row.documents = {
            "session.json": [len(text), documents.revision(text)],
            "canvas.json": [canvas.size, canvas.revision],
            "generations.json": [generations.size, generations.revision],
        }
        app_canvas = storage_v2.canvas_document(parts, row.app_entries)
        app_generations = storage_v2.generations_document(parts, row.app_generations)
        for suffix, document in ((storage_v2.CANVAS, app_canvas), (storage_v2.GENERATIONS, app_generations)):
            if storage_v2.has_document(session, suffix, document.sums[0]):
                row.documents[storage_v2.ROW_NAMES[suffix]] = [document.size, document.revision]
        self.txn.put(keys.session_row(session_id), row.dump())
        directory = b"S" + key16(session_id)
        self._listing.touch(directory, self._stamp)
        for name in SESSION_DOCUMENTS:
            self.changes.entries[directory, name.encode()] = None
