"""Typed reads over one read transaction: records, members of a session, referrers of a blob, listings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

import cbor2

from mixfs.ids import Digest, Stamp, generation_id_for, key16
from mixfs.index import keys
from mixfs.index.dentries import Dentry, DirectoryRow, get_dentry, get_directory_row, scan_dentries
from mixfs.index.engine import ReadTxn, prefix_end
from mixfs.index.seal import seal, unseal
from mixfs.library import documents
from mixfs.records import (
    Annotation,
    Blob,
    Edge,
    Entry,
    Generation,
    Image,
    Metadata,
    Placement,
    Record,
    Session,
    Trash,
    from_map,
)

R = TypeVar("R", bound=Record)

# How many of the generations that gave one picture are looked at: what a commit costs must not grow with them.
MOST_TOLD = 64


class SessionRow:
    """What the index keeps of a session besides its record: counts, sums of items, sizes of documents."""

    __slots__ = (
        "app_entries", "app_generations", "counts", "documents", "edges", "entries", "generations", "mtime_ns", "stamp",
    )  # fmt: skip

    def __init__(self, data: list[Any] | None = None) -> None:
        data = data or [0, (), (), (), (), {}, (), (), 0]
        self.mtime_ns: int = data[0]
        self.counts = documents.Counts(*data[1])
        self.entries = documents.Sum(*data[2])
        self.edges = documents.Sum(*data[3])
        self.generations = documents.Sum(*data[4])
        self.documents: dict[str, list[int]] = data[5]  # name -> [size, revision]
        # The same as storage-v2/ shows them.
        self.app_entries = documents.Sum(*data[6])
        self.app_generations = documents.Sum(*data[7])
        self.stamp: int = data[8]  # of the change that `mtime_ns` is the time of

    def dump(self) -> bytes:
        return seal(
            cbor2.dumps(
                [
                    self.mtime_ns, self.counts, self.entries, self.edges, self.generations, self.documents,
                    self.app_entries, self.app_generations, self.stamp,
                ]
            )
        )

    def parts(self, session: Session) -> documents.SessionParts:
        return documents.SessionParts(
            session, self.mtime_ns, self.counts, self.entries, self.edges, self.generations
        )


class View:
    """Reads of the library at one state. Lives as long as its transaction: for one bounded page of work."""

    def __init__(self, txn: ReadTxn) -> None:
        self.txn = txn
        # What was decoded last: the attributes of a node and its content are questions about one record.
        self._last: tuple[bytes, type[Record], Any] | None = None

    # -- records

    def get(self, cls: type[R], entity_id: str) -> R | None:
        """The live record of an id, or None when there is none or it was deleted."""
        return self._decode(cls, self.txn.get(keys.record(cls.KIND, entity_id)))

    def get_raw(self, cls: type[R], raw: bytes) -> R | None:
        """As `get`, by the 16 bytes that the index names the id with."""
        return self._decode(cls, self.txn.get(keys.record_raw(cls.KIND, raw)))

    def _decode(self, cls: type[R], value: bytes | None) -> R | None:
        if value is None:
            return None
        last = self._last
        if last is not None and last[0] == value and last[1] is cls:
            return last[2]  # type: ignore[no-any-return]
        data = cbor2.loads(value)[2]
        record = None if data is None else from_map(cls, data)
        self._last = (value, cls, record)
        return record

    def stamp_of(self, kind: int, entity_id: str) -> tuple[Stamp, bytes] | None:
        """The (stamp, replica) of the newest change to an entity, deletes included."""
        value = self.txn.get(keys.record(kind, entity_id))
        if value is None:
            return None
        stamp, replica, *_ = cbor2.loads(value)
        return stamp, replica

    def records(self, cls: type[R], *, after: str | None = None) -> Iterator[R]:
        """Every live record of a kind, in order of the keys of their ids; those behind one of them."""
        prefix = keys.records_of_kind(cls.KIND)
        start = keys.record(cls.KIND, after) + b"\0" if after is not None else prefix
        for _, value in self.txn.scan(start, prefix_end(prefix)):
            record = self._decode(cls, value)
            if record is not None:
                yield record

    def members(self, cls: type[R], session_id: str) -> Iterator[R]:
        """The records of a kind that belong to a session, in order of ids."""
        prefix = keys.session_members(session_id, cls.KIND)
        for key, _ in self.txn.scan(prefix, prefix_end(prefix)):
            record = self.get_raw(cls, key[len(prefix) :])
            if record is not None:
                yield record

    def referrers(self, cls: type[R], digest: Digest) -> Iterator[R]:
        """The placements, entries or trash records that name a blob, in order of ids."""
        prefix = keys.referrers(digest, cls.KIND)
        for key, _ in self.txn.scan(prefix, prefix_end(prefix)):
            record = self.get_raw(cls, key[len(prefix) :])
            if record is not None:
                yield record

    def is_referenced(self, digest: Digest) -> bool:
        """Whether a placement or a trash record keeps an original. Generations and canvas entries only tell of it."""
        return next(self.named_in(digest, Placement.KIND, Trash.KIND), None) is not None

    def is_mentioned(self, digest: Digest) -> bool:
        """Whether any record names an original: canvas entries and generations too."""
        prefix = keys.referrers(digest)
        return next(iter(self.txn.scan(prefix, prefix_end(prefix))), None) is not None

    def sessions_titled(self, title: str) -> Iterator[Session]:
        """The sessions of a title, the oldest first."""
        prefix = keys.titled(title)
        for key, _ in self.txn.scan(prefix, prefix_end(prefix)):
            session = self.get_raw(Session, key[-16:])
            if session is not None and session.title == title:
                yield session

    def grouped(self, group_id: str) -> Iterator[Trash]:
        """The items of one deletion; the one that speaks for it first."""
        prefix = keys.group(group_id)
        for key, _ in self.txn.scan(prefix, prefix_end(prefix)):
            trash = self.get_raw(Trash, key[-16:])
            if trash is not None:
                yield trash

    def deletions(self) -> Iterator[tuple[Trash, int, int]]:
        """Of each deletion: the item that speaks for it, how many items there are, and how many records."""
        counts: dict[bytes, list[int]] = {}
        heads: dict[bytes, bytes] = {}
        for key, value in self.txn.scan(keys.GROUPS, prefix_end(keys.GROUPS)):
            group = key[1:17]
            heads.setdefault(group, key[-16:])
            count = counts.setdefault(group, [0, 0])
            count[0] += 1
            count[1] += cbor2.loads(value)
        for group, raw in heads.items():
            head = self.get_raw(Trash, raw)
            if head is not None:
                yield head, counts[group][0], counts[group][1]

    def kept_in(self, cls: type[Record], entity_id: str | None = None) -> Iterator[Trash]:
        """The items of the trash that hold a record, or any record of a kind."""
        prefix = keys.keeping(cls.KIND, entity_id)
        for key, _ in self.txn.scan(prefix, prefix_end(prefix)):
            trash = self.get_raw(Trash, key[-16:])
            if trash is not None:
                yield trash

    def unfinished_deletions(self) -> list[str]:
        """The ids of the items that speak for what is still being deleted, or restored."""
        rows = self.txn.scan(keys.UNFINISHED, prefix_end(keys.UNFINISHED))
        found = (self.get_raw(Trash, key[-16:]) for key, _ in rows)
        return [trash.id for trash in found if trash is not None]

    def blob(self, digest: Digest) -> Blob | None:
        return self.get(Blob, digest.hex())

    def image(self, digest: Digest) -> Image | None:
        return self.get(Image, digest.hex())

    def annotation(self, digest: Digest) -> Annotation | None:
        return self.get(Annotation, digest.hex())

    def has_picture(self, session_id: str, digest: Digest) -> bool:
        """Whether a session has a file of these bytes."""
        return key16(session_id) in self._sessions_of(digest)

    def sessions_with(self, digest: Digest) -> list[str]:
        """The ids of the sessions that have a file of these bytes."""
        return list(dict.fromkeys(placement.session_id for placement in self.referrers(Placement, digest)))

    def is_member(self, cls: type[Record], session_id: str, entity_id: str) -> bool:
        """Whether a record lives and belongs to a session. Decodes nothing."""
        return self.txn.get(keys.in_session(session_id, cls.KIND, entity_id)) is not None

    def had_picture(self, session_id: str, digest: Digest) -> bool:
        """As `has_picture`, or at the beginning of the commit at hand."""
        return self.has_picture(session_id, digest)

    def is_placed(self, digest: Digest) -> bool:
        """Whether some session has a file of these bytes."""
        return next(self._sessions_of(digest), None) is not None

    def _sessions_of(self, digest: Digest) -> Iterator[bytes]:
        """The raw id of the session of each placement of a blob."""
        prefix = keys.referrers(digest, Placement.KIND)
        for _, session in self.txn.scan(prefix, prefix_end(prefix)):
            yield session

    def named_in(self, digest: Digest, *kinds: int) -> Iterator[bytes]:
        """The raw ids of what refers to a blob in one of these ways (`mixfs.index.keys`)."""
        for kind in kinds:
            prefix = keys.referrers(digest, kind)
            for key, _ in self.txn.scan(prefix, prefix_end(prefix)):
                yield key[len(prefix) :]

    def generations_of(self, digest: Digest) -> list[Generation]:
        """The generations that gave out an image, in order of ids: the first MOST_TOLD of them."""
        kinds = (keys.GIVES, keys.GIVES | keys.BY_ALIAS)
        found = sorted(raw for kind in kinds for raw in itertools.islice(self.named_in(digest, kind), MOST_TOLD))
        found = found[:MOST_TOLD]
        return [g for raw in found if (g := self.get_raw(Generation, raw)) is not None]

    def generation_of(
        self, digest: Digest, session_id: str | None = None, known: list[Generation] | None = None
    ) -> Generation | None:
        """The generation that gave out an image: one of the session where there is one, else the first known.

        `known` are all of them, where the caller has looked them up.
        """
        found = self.generations_of(digest) if known is None else known
        own = next((g for g in found if g.session_id == session_id), None)
        if own is None and session_id is not None and len(found) == MOST_TOLD:
            own = self.get(Generation, generation_id_for(digest, session_id))
        return own or (found[0] if found else None)

    def about(self, placement: Placement, generations: list[Generation] | None = None) -> documents.About | None:
        """What the documents of a placement are made of; None when it is no picture."""
        image = self.image(placement.digest)
        if image is None:
            return None
        return documents.About(
            placement,
            image,
            self.generation_of(placement.digest, placement.session_id, generations),
            self.annotation(placement.digest),
            self.get(Metadata, placement.digest.hex()),
        )

    # -- sessions

    def session_row(self, session_id: str) -> SessionRow:
        value = self.txn.get(keys.session_row(session_id))
        return SessionRow(cbor2.loads(unseal(value)) if value is not None else None)

    def render_session_document(self, session: Session, name: str) -> bytes:
        """One of a session's documents, as it is now: session.json, canvas.json, generations.json, or storage-v2/'s."""
        from mixfs.library import storage_v2

        if name in storage_v2.SUFFIXES:
            return storage_v2.render(self, session, storage_v2.SUFFIXES[name])
        parts = self.session_row(session.id).parts(session)
        if name == "session.json":
            return documents.session_json(parts)
        if name == "canvas.json":
            entries = sorted(self.members(Entry, session.id), key=lambda entry: (entry.z, entry.id))
            edges = sorted(self.members(Edge, session.id), key=lambda edge: edge.id)
            return documents.canvas_document(parts).render(
                map(documents.entry_item, entries), map(documents.edge_item, edges)
            )
        generations = sorted(self.members(Generation, session.id), key=lambda g: (g.time_ns, g.id))
        return documents.generations_document(parts).render(map(documents.generation_item, generations))

    # -- listings

    def dentry(self, directory: bytes, name: bytes) -> Dentry | None:
        return get_dentry(self.txn, directory, name)

    def dentries(self, directory: bytes, after: bytes = b"", prefix: bytes = b"") -> Iterator[Dentry]:
        return scan_dentries(self.txn, directory, after, prefix)

    def directory_row(self, directory: bytes) -> DirectoryRow | None:
        return get_directory_row(self.txn, directory)

    def thumbnail(self, digest: Digest) -> tuple[int, int] | None:
        """`(size, mtime_ns)` of an image's thumbnail; (0, 0) when none can be made; None when none was made yet."""
        value = self.txn.get(keys.thumbnail(digest))
        if value is None:
            return None
        size, mtime_ns = cbor2.loads(value)
        return size, mtime_ns

    def counter(self, name: str) -> int:
        value = self.txn.get(keys.counter(name))
        return 0 if value is None else cbor2.loads(value)

    def state(self) -> tuple[bytes | None, bytes | None]:
        """What differs between any two states of the library: the last stamp, and the number of the commit."""
        return self.txn.get(keys.META_STAMP), self.txn.get(keys.META_SEQUENCE)

    def sequence(self) -> int:
        """The number of the last commit as this index counts them."""
        value = self.txn.get(keys.META_SEQUENCE)
        return 0 if value is None else cbor2.loads(value)
