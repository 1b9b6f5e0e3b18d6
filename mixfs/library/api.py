"""`Library`: the typed, synchronous Python API that the mount, the command line and the tests use.

    from mixfs import Library

    with Library.open("/path/to/library") as library:
        report = library.import_paths([Path("outputs")])
        for session in library.sessions():
            print(session.title, [p.name for p in library.placements(session.id)])

Concurrency: a Library may be used from several threads; changes are serialised by its store. Several processes may
hold one library open.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

import inotify_simple

from mixfs import clock
from mixfs.blobs import Intake, LocalBlobs
from mixfs.errors import BlobMissing, IndexFailed, InvalidValue, NameTooLong, NotALibrary, NotFoundError
from mixfs.ids import Digest, digest_from_hex
from mixfs.index.lmdb_engine import INITIAL_MAP
from mixfs.journal import START, Position
from mixfs.library import documents, editing, healing, leftovers, pieces, place
from mixfs.library.app_files import AppFiles
from mixfs.library.derived_generations import marked_if_changed
from mixfs.library.importing import Importer, ImportReport
from mixfs.library.ingest import Incoming, admit, needs_inspection
from mixfs.library.replay import LOCAL, read_changes, read_time
from mixfs.library.restoring import restore_shown
from mixfs.library.staging import StagingArea
from mixfs.library.store import Store
from mixfs.library.thumbnails import Thumbnails
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.media.pool import WorkerPool
from mixfs.media.types import Inspection
from mixfs.names import MAX_NAME
from mixfs.process import owner_of, start_of
from mixfs.records import (
    KINDS,
    Annotation,
    Edge,
    Entry,
    Generation,
    Image,
    Placement,
    Record,
    Session,
    Trash,
)

T = TypeVar("T")


class Change(NamedTuple):
    """One change as the journal tells it: `record` is None for a delete or a kind this version doesn't know."""

    position: Position
    stamp_ns: int
    kind: str
    entity_id: str
    deleted: bool
    record: Record | None
    # By the clock; stamps only order.
    time_ns: int = 0


class Stats(NamedTuple):
    """Totals. `saved_bytes` is what keeping each original once has saved; `lost` are the originals in lost/."""

    sessions: int
    images: int
    placements: int
    generations: int
    blobs: int
    blob_bytes: int
    saved_bytes: int
    lost: int
    lost_bytes: int


class Deletion(NamedTuple):
    """What one deletion took away: the item that speaks for it, and how many items and records there are."""

    head: Trash
    items: int
    records: int

    @property
    def id(self) -> str:
        """What `Library.restore` brings all of it back by."""
        return self.head.group

    @property
    def deleted_ns(self) -> int:
        return self.head.deleted_ns


class Library:
    """An open library. Make one with `Library.open`."""

    def __init__(self, root: Path, *, read_only: bool = False, map_size: int = INITIAL_MAP) -> None:
        self.root = root
        self.store = Store(root, read_only=read_only, map_size=map_size)
        self.blobs = LocalBlobs(root / "blobs", read_only=read_only, explain=self._why_missing)
        self.staging = StagingArea(root / "staging")
        self.pool = WorkerPool(failed=self._workers_failed)
        self.thumbnails = Thumbnails(self)
        self.app_files = AppFiles(root)
        # Called with what a commit began and left to be done in pieces; the daemon does that beside other requests.
        self.go_on: Callable[[list[str]], None] = self._go_on
        if not read_only:
            leftovers.sweep(root)
            try:
                pieces.finish_all(self, pieces.AT_OPEN)
            except IndexFailed:
                # Damage that nobody met before: the index is made again, and the next opening goes on.
                self.store.refresh()

    @classmethod
    def open(
        cls, root: str | os.PathLike[str], *, create: bool = True, read_only: bool = False, map_size: int = INITIAL_MAP
    ) -> Library:
        """Open the library in a directory, making it first when there is none (unless `create` is False).

        Raises NotALibrary, FormatTooNew, UnsuitablePlace.
        """
        path = Path(os.path.abspath(root))
        if not (path / "format").exists():
            if not create or read_only:
                raise NotALibrary(f"{path} is no MixFS library. Check the path, or make one with `mixfs import`.")
            place.create(path)
        return cls(path, read_only=read_only, map_size=map_size)

    def close(self) -> None:
        """Give everything back. What is called afterwards raises LibraryError; closing twice does no harm."""
        if self.store.is_inherited():
            # The workers, and the files in staging, are those of the process that forked this one.
            self.store.close()
            return
        self.thumbnails.close()
        self.pool.close()
        self.staging.close()
        self.store.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the store

    def read(self) -> AbstractContextManager[View]:
        """Reads at one state of the library; keep it for one bounded page of work."""
        return self.store.read()

    def commit(self, function: Callable[[Txn], T]) -> T:
        """Run a function in a write transaction; what it puts is durable when this returns. See `Store.commit`.

        Of a large deletion or restoration the function does a part; the rest follows here, in further transactions.
        """
        unfinished: list[str] = []

        def write(txn: Txn) -> T:
            result = function(txn)
            unfinished[:] = txn.unfinished
            return result

        result = self.store.commit(write)
        if unfinished:
            self.go_on(unfinished)
        return result

    def _go_on(self, unfinished: list[str]) -> None:
        for trash_id in unfinished:
            pieces.Pieces(trash_id).finish(self)

    def _why_missing(self, digest: Digest) -> str:
        with self.read() as view:
            return healing.why_missing(view, digest)

    def has_blob(self, digest: Digest) -> bool:
        return self.blobs.stat(digest) is not None

    def inspect(self, digest: Digest) -> Inspection:
        """Look into a blob, in a worker process. Never raises for what the bytes are."""
        self.store.check_open()
        return self.pool.inspect(str(self.blobs.path(digest)))

    def inspect_unknown(self, digest: Digest, path: Path | None = None) -> Inspection | None:
        """As `inspect`, but None where the library knows all there is to find. `path` is another place of the bytes."""
        with self.read() as view:
            wanted = needs_inspection(view, digest)
        return self.pool.inspect(str(path or self.blobs.path(digest))) if wanted else None

    def came_in(self, files: Iterable[Incoming]) -> None:
        """After the commit that named them: have thumbnails made, and report each picture that is flagged.

        Thumbnails are made where the library's owner does so in the background, as the mount's daemon does.
        """
        for incoming in files:
            self.thumbnails.wish(incoming.digest)
            if incoming.inspection is not None and incoming.inspection.problem is not None:
                name = documents.text_of(incoming.name)
                self.store.problems.report(
                    "unreadable-image",
                    f"{name} is kept as it is, and never decoded: {incoming.inspection.problem}",
                    name=name,
                    digest=incoming.digest.hex(),
                )

    def mounted_at(self) -> str | None:
        """Where a daemon says it has mounted this library."""
        try:
            path = self.root / "mounted"
            data, writer = json.loads(path.read_text()), path.stat().st_uid
            pid = int(data["pid"])
            # After a crash the number may be another process's by now.
            if owner_of(pid) not in (writer, 0) or data.get("started") not in (None, start_of(pid)):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return str(data["mountpoint"])

    def _workers_failed(self, reason: str) -> None:
        self.store.problems.report(
            "workers-failed",
            f"The processes that read pictures can't be started: {reason}. Pictures wait, and everything else "
            "continues; it is tried again by itself. `mixfs doctor` says more.",
        )  # fmt: skip

    # -- bringing in

    def import_paths(
        self, paths: Path | str | Iterable[Path | str], *, session: str | None = None,
        progress: Callable[[ImportReport], None] | None = None, but: Container[str] = (),
    ) -> ImportReport:  # fmt: skip
        """Import files and folders (or one); folders are sessions, or all goes to the session titled `session`.

        Files in `but` (absolute paths) are left out. Layouts of other programs are not looked for here:
        `mixfs.formats.layouts.import_paths` does that. Never raises for a single file's sake: the report names each
        that failed, with the reason. Raises UnsuitablePlace for a path inside the library or its mount.
        """
        self.store.check_open()
        # A string is a sequence of strings too: "/home" would be "/" and more.
        several = [paths] if isinstance(paths, str | os.PathLike) else paths
        return Importer(self, progress).run([Path(path) for path in several], session, but)

    def import_bytes(
        self, data: bytes, name: str, *, session_id: str | None = None, role: str = "output",
        mtime_ns: int | None = None,
    ) -> Placement:  # fmt: skip
        """Import bytes under a file name into a session (Inbox when none is named); returns their placement.

        A name that is taken by other bytes gets ` (n)`; the same bytes under the same name are the same placement.
        Raises NotFoundError for the session, InvalidValue or NameTooLong for the name.
        """
        raw_name = file_name(name)
        intake = self.staging.intake()
        try:
            intake.write(data, 0)
            self.blobs.receive(intake)

            def place_blob() -> Placement:
                return self._place_blob(intake, raw_name, session_id, role, mtime_ns)

            try:
                placement = place_blob()
            except BlobMissing:
                # gc took it away before it was named: its bytes are still in staging.
                self.blobs.receive(intake)
                placement = place_blob()
        finally:
            intake.discard()
        return placement

    def _place_blob(
        self, intake: Intake, name: bytes, session_id: str | None, role: str, mtime_ns: int | None
    ) -> Placement:
        digest = intake.digest()
        incoming = Incoming(
            digest=digest, size=intake.size, name=name, mtime_ns=mtime_ns or clock.now_ns(), role=role,
            # By its name in staging: until the commit, gc may move the blob.
            inspection=self.inspect_unknown(digest, intake.path), sums=intake.sums(),
        )  # fmt: skip

        def write(txn: Txn) -> Placement:
            target = session_id or editing.session_titled(txn, editing.INBOX).id
            editing.require_session(txn, target)
            return admit(txn, incoming, target, None, self.has_blob)[0]

        placement = self.commit(write)
        self.came_in([incoming])
        return placement

    # -- sessions

    def create_session(
        self, title: str, *, session_id: str | None = None, user_id: str | None = None, user_name: str | None = None
    ) -> Session:
        """A new session. Raises ExistsError when the given id is taken, InvalidValue for an empty title."""
        _check_title(title)
        return self.commit(
            lambda txn: editing.create_session(
                txn, title, session_id=session_id, user_id=user_id, user_name=user_name
            )
        )

    def sessions(self) -> list[Session]:
        """Every session, the oldest first."""
        with self.read() as view:
            return sorted(view.records(Session), key=lambda session: (session.created_ns, session.id))

    def session(self, session_id: str) -> Session:
        """Raises NotFoundError."""
        with self.read() as view:
            return editing.require_session(view, session_id)

    def find_session(self, words: str) -> Session:
        """The session of an id, a directory name or a title. Raises NotFoundError."""
        with self.read() as view:
            found = view.get(Session, words) or next(view.sessions_titled(words), None)
            if found is None:
                dentry = view.dentry(editing.SESSIONS, os.fsencode(words))
                found = view.get_raw(Session, dentry.key[1:]) if dentry is not None else None
        if found is None:
            raise NotFoundError(f"There is no session {words!r}. `mixfs sessions` lists them.")
        return found

    def retitle_session(self, session_id: str, title: str) -> Session:
        """Give a session another title; its directory follows. Raises NotFoundError, InvalidValue."""
        _check_title(title)
        return self.commit(lambda txn: editing.retitle_session(txn, session_id, title))

    def update_session(self, session_id: str, **fields: Any) -> Session:
        """Set fields of a session: user_id, user_name, zoom, pan_x, pan_y. Raises NotFoundError, InvalidValue."""
        _check_fields(fields, ("user_id", "user_name", "zoom", "pan_x", "pan_y"))
        return self.commit(
            lambda txn: txn.put(dataclasses.replace(editing.require_session(txn, session_id), **fields))
        )

    def delete_session(self, session_id: str) -> Trash:
        """Move a session with all that belongs to it to the trash; `restore` brings it back. Raises NotFoundError.

        Returns the item of the trash that speaks for the deletion. The session is gone at once; of a large one the rest
        follows in pieces before this returns, and others may write meanwhile.
        """
        return self.commit(lambda txn: editing.delete_session(txn, session_id))

    # -- what is in a session

    def placements(self, session_id: str) -> list[Placement]:
        """The files of a session, pictures and others, in order of ids. Raises NotFoundError, as do the next three."""
        return self._members(Placement, session_id)

    def entries(self, session_id: str) -> list[Entry]:
        """The canvas entries of a session, the lowest first."""
        return sorted(self._members(Entry, session_id), key=lambda entry: (entry.z, entry.id))

    def edges(self, session_id: str) -> list[Edge]:
        """The connections between canvas entries, in order of ids."""
        return self._members(Edge, session_id)

    def generations(self, session_id: str) -> list[Generation]:
        """The generations of a session, the oldest first."""
        return sorted(self._members(Generation, session_id), key=lambda generation: generation.time_ns)

    def _members(self, cls: type[Any], session_id: str) -> list[Any]:
        with self.read() as view:
            editing.require_session(view, session_id)
            return list(view.members(cls, session_id))

    def placement(self, placement_id: str) -> Placement:
        """Raises NotFoundError."""
        with self.read() as view:
            return editing.require_placement(view, placement_id)

    def delete_placement(self, placement_id: str) -> Trash:
        """Move a placement to the trash; `restore` brings it back. Raises NotFoundError."""
        return self.commit(lambda txn: editing.delete_placement(txn, placement_id))

    def move_placement(self, placement_id: str, session_id: str, name: str | None = None) -> Placement:
        """Move a placement to images/ of a session, under its name or another.

        A name that is taken gets ` (n)`. Raises NotFoundError, InvalidValue, NameTooLong.
        """
        raw_name = file_name(name) if name is not None else None

        def write(txn: Txn) -> Placement:
            placement = editing.require_placement(txn, placement_id)
            editing.require_session(txn, session_id)
            return editing.move_placement(txn, placement_id, session_id, None, raw_name or placement.name)

        return self.commit(write)

    def put_entry(self, entry: Entry) -> Entry:
        """Add or replace a canvas entry. Raises NotFoundError for its session, InvalidValue; so do the next two."""
        return cast(Entry, self._put_member(entry))

    def put_edge(self, edge: Edge) -> Edge:
        """Add or replace a connection between two entries."""
        return cast(Edge, self._put_member(edge))

    def put_generation(self, generation: Generation) -> Generation:
        """Add or replace a generation."""
        return cast(Generation, self._put_member(generation))

    def _put_member(self, record: Any) -> Any:
        def write(txn: Txn) -> Any:
            editing.require_session(txn, record.session_id)
            held = txn.get(type(record), record.id)
            new = marked_if_changed(held, record) if isinstance(record, Generation) else record
            if hasattr(new, "named_ns") and not new.named_ns:
                named_ns = held.named_ns if held is not None else txn.next_stamp
                return txn.put(dataclasses.replace(new, named_ns=named_ns))
            return txn.put(new)

        return self.commit(write)

    def delete_entry(self, entry_id: str) -> None:
        """Move a canvas entry to the trash. Raises NotFoundError, as do the next two."""
        self._delete_member(Entry, entry_id)

    def delete_edge(self, edge_id: str) -> None:
        """Move a connection to the trash."""
        self._delete_member(Edge, edge_id)

    def delete_generation(self, generation_id: str) -> None:
        """Move a generation to the trash."""
        self._delete_member(Generation, generation_id)

    def _delete_member(self, cls: type[Any], entity_id: str) -> None:
        def write(txn: Txn) -> None:
            record = txn.get(cls, entity_id)
            if record is None:
                raise NotFoundError(f"There is no {cls.__name__.lower()} with the id {entity_id}.")
            session = txn.get(Session, record.session_id)
            editing.trash(txn, [record], session=session, name=entity_id.encode("utf-8", "replace"), reason="deleted")

        self.commit(write)

    # -- images

    def image(self, digest: Digest | str) -> Image:
        """What is known of a picture. Raises NotFoundError."""
        raw = as_digest(digest)
        with self.read() as view:
            image = view.image(raw)
        if image is None:
            raise NotFoundError(f"There is no image with the digest {raw.hex()}.")
        return image

    def read_image(self, digest: Digest | str) -> bytes:
        """The bytes of a blob, checked against its digest. Raises BlobMissing, BlobDamaged."""
        return self.blobs.fetch(as_digest(digest))

    def annotate(self, digest: Digest | str, **fields: Any) -> Annotation:
        """Set `tags` (strings), `rating` (0 to 10, or None) or `comment` of an image; others stay.

        Raises NotFoundError when there is no such image, InvalidValue.
        """
        raw = as_digest(digest)
        _check_fields(fields, ("tags", "rating", "comment"))
        self.image(raw)
        return self.commit(lambda txn: editing.annotate(txn, raw, **fields))

    def annotation(self, digest: Digest | str) -> Annotation:
        """Tags, rating and comment of an image; an empty one when nobody said anything."""
        raw = as_digest(digest)
        with self.read() as view:
            return view.annotation(raw) or Annotation(digest=raw)

    # -- the trash

    def trash(self) -> list[Trash]:
        """The items that deletes and overwrites took away, the newest first; `records` holds each whole."""
        with self.read() as view:
            return sorted(view.records(Trash), key=lambda trash: (trash.order, trash.id), reverse=True)

    def deletions(self) -> list[Deletion]:
        """What is in the trash, one for each deletion or overwrite, the newest first."""
        with self.read() as view:
            found = [Deletion(head, items, records) for head, items, records in view.deletions()]
        return sorted(found, key=lambda each: (each.head.order, each.id), reverse=True)

    def in_trash(self, trash_id: str) -> bool:
        """Whether an id is a deletion's, or an item's of the trash."""
        with self.read() as view:
            return view.get(Trash, trash_id) is not None or next(view.grouped(trash_id), None) is not None

    def restore(self, trash_id: str) -> list[Record]:
        """Put back a whole deletion by its id, or one item of the trash; returns the records as they are now.

        They come back under their own ids. A name that was taken meanwhile stays with who has it: ` (n)` is given. What
        lives under the same id now (the newer bytes of an overwritten placement) goes to the trash in turn. A large
        deletion comes back in pieces, between which others may write. Raises NotFoundError.
        """
        return pieces.Pieces(trash_id).restore(self, trash_id)

    def restore_session(self, words: str) -> Session:
        """Put a deleted session back, by its id or title, with what its deletion took; returns it.

        What was deleted from it before, and older bytes of what was overwritten, stay in the trash. Raises
        NotFoundError, ExistsError while it lives.
        """
        return pieces.restore_session(self, words)

    def restore_shown(self, folder: str, name: str) -> list[Record]:
        """Put back what `trash/FOLDER/NAME` of the mount shows, where it was. Raises NotFoundError."""
        return self.commit(lambda txn: restore_shown(txn, os.fsencode(folder), os.fsencode(name)))

    # -- totals and history

    def stats(self) -> Stats:
        lost = [status for _, status in self.blobs.removal.enumerate()]
        with self.read() as view:
            count = view.counter
            return Stats(
                sessions=count("sessions"),
                images=count("images"),
                placements=count("placements"),
                generations=count("generations"),
                blobs=count("blobs"),
                blob_bytes=count("blob_bytes"),
                saved_bytes=count("placed_bytes") - count("distinct_placed_bytes"),
                lost=len(lost), lost_bytes=sum(status.st_size for status in lost),
            )

    def changes(self, since: Position = START, *, local: bool = False) -> Iterator[Change]:
        """Every change after a position in this library's journal, in order; from START on those of others before it.

        Others are replicas', and the library's that this one was copied from; their changes have START as position.
        With `local` also receipts and folder bindings.
        """
        own = self.store.journal
        for journal in self.store.journals_by_age() if since == START else [own]:
            for item in journal.read(since):
                made_ns = read_time(item.payload) if item.payload is not None else 0
                for change in read_changes(item.payload)[0] if item.payload is not None else []:
                    if change.flags & LOCAL and not local:
                        continue
                    cls = KINDS.get(change.kind)
                    name = cls.__name__ if cls is not None else f"kind {change.kind}"
                    yield Change(
                        item.end if journal is own else START, change.stamp, name, change.entity_id,
                        change.data is None, change.record(), made_ns or change.stamp,
                    )  # fmt: skip

    def follow_changes(
        self, since: Position | None = None, *, stop: threading.Event | None = None, poll_ms: int = 1000
    ) -> Iterator[Change]:
        """As `changes`, then waiting for more, by whichever process, until `stop` is set (looked at each `poll_ms`)."""
        position = since if since is not None else self.store.written_end()
        with inotify_simple.INotify() as watch:
            flags = inotify_simple.flags.MODIFY | inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO
            # Of a library without a commit: its first is seen at the next look.
            directory = self.store.journal.directory
            watch.add_watch(str(directory if directory.is_dir() else directory.parent), flags)
            while stop is None or not stop.is_set():
                for change in self.changes(position):
                    position = change.position
                    yield change
                watch.read(timeout=poll_ms)


def as_digest(digest: Digest | str) -> Digest:
    """A digest from its bytes or its 64 hex digits. Raises NotFoundError for other text."""
    if isinstance(digest, str):
        try:
            return digest_from_hex(digest)
        except ValueError:
            raise NotFoundError(f"{digest!r:.80} is no digest: it must have 64 hex digits.") from None
    if len(digest) != 32:
        raise NotFoundError(f"{digest!r:.80} is no digest: it must have 32 bytes.")
    return digest


def file_name(name: str) -> bytes:
    """A file name as the library keeps it. Raises InvalidValue for what can be none, NameTooLong above 255 bytes."""
    raw = os.fsencode(name)
    if raw in (b"", b".", b"..") or b"/" in raw or b"\0" in raw:
        raise InvalidValue(f"{name!r} can be no file name.")
    if len(raw) > MAX_NAME:
        raise NameTooLong(f"{name[:40]!r}… has {len(raw)} bytes; a file name may have {MAX_NAME}.")
    return raw


def _check_title(title: str) -> None:
    if not isinstance(title, str) or not title.strip():
        raise InvalidValue(f"A session's title must be text, not {title!r:.60}.")


def _check_fields(fields: Iterable[str], allowed: tuple[str, ...]) -> None:
    for name in fields:
        if name not in allowed:
            raise InvalidValue(f"There is no field {name!r} to set here, only {', '.join(allowed)}.")
