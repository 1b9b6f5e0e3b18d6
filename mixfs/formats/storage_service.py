"""What a canvas app's storage service offers, over a library: pictures, sessions and the log, without a mount.

    from mixfs import Library, StorageService

    with Library.open("/path/to/library") as library:
        storage = StorageService(library)
        digest = storage.register_image("data:image/png;base64,…", role="reference")

Documents are those of a Storage V2 folder (docs/formats/storage-v2.md): what is saved here shows in the mount's
storage-v2/ and the other way round. Concurrency: as for `Library`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mixfs import clock, jsontext
from mixfs.errors import BlobMissing, ExistsError, InvalidValue, NotFoundError
from mixfs.formats import storage_v2_saving
from mixfs.formats.base import data_uri
from mixfs.ids import Digest, digest_from_hex, new_id
from mixfs.library import canvas_json, documents, editing
from mixfs.library import storage_v2 as layout
from mixfs.library.api import Library
from mixfs.library.ingest import Incoming
from mixfs.library.storage_v2 import CANVAS, GENERATIONS, POOL_ID
from mixfs.library.transaction import Txn
from mixfs.media.sniff import HEAD_SIZE, IMAGE_TYPES, extension, sniff
from mixfs.records import Placement, Session

ROLES = ("reference", "control", "output")


class SessionSummary(NamedTuple):
    """A session as a list shows it. Times are ISO 8601 in UTC."""

    session_id: str
    title: str
    created_at: str
    updated_at: str
    images: int
    entries: int
    generations: int


class StorageService:
    """The storage service of one library."""

    def __init__(self, library: Library) -> None:
        self._library = library

    # -- pictures

    def register_image(self, image: bytes | str, *, role: str = "output", name: str | None = None) -> str:
        """Keep a picture, as bytes or a data URI; returns its digest, the same for the same picture.

        `name` is its original name. Raises InvalidValue for another role, and for what is no picture.
        """
        if role not in ROLES:
            raise InvalidValue(f"The role {role!r:.40} is none of {', '.join(ROLES)}.")
        data = data_uri(image) if isinstance(image, str) else bytes(image)
        media_type = sniff(data[:HEAD_SIZE])
        if media_type not in IMAGE_TYPES:
            raise InvalidValue(f"These {len(data)} bytes are no picture of a known type: {media_type}.")
        library = self._library
        intake = library.staging.intake()
        try:
            intake.write(data, 0)
            for again in (False, True):
                digest, _ = library.blobs.receive(intake)
                try:
                    self._admit(digest, intake.sums(), len(data), role, name, media_type)
                    break
                except BlobMissing:
                    # gc took it away before it was named: its bytes are still in staging.
                    if again:
                        raise
        finally:
            intake.discard()
        return digest.hex()

    def _admit(
        self, digest: Digest, sums: bytes, size: int, role: str, name: str | None, media_type: str
    ) -> None:
        library, text = self._library, digest.hex()
        now_ns = clock.now_ns()
        kind = "output" if role == "output" else "input"
        file = f"{kind}_{now_ns // 1_000_000}_{text[:6]}{extension(media_type)}"
        incoming = Incoming(
            digest=digest, size=size, name=file.encode(), mtime_ns=now_ns, role=role, sums=sums,
            inspection=library.inspect_unknown(digest),
        )  # fmt: skip

        def write(txn: Txn) -> None:
            if any(layout.is_file(placement) for placement in txn.referrers(Placement, digest)):
                return
            storage_v2_saving.file_came(txn, incoming.name, incoming, library.has_blob, new_id(), role)
            placement, known = next(txn.referrers(Placement, digest)), txn.image(digest)
            if known is not None:
                info = layout.registered(text, file, placement, known) | {"original_name": name}
                storage_v2_saving.register(txn, text, info, placement)

        library.commit(write)
        library.came_in([incoming])

    def load_image(self, image: str) -> bytes:
        """The bytes of a picture, by its digest or by the app's own hash of it. Raises NotFoundError, BlobDamaged."""
        with self._library.read() as view:
            found = layout.digests_of(view, image)
            if not found:
                try:
                    digest = digest_from_hex(image)
                except ValueError:
                    raise NotFoundError(f"No picture is called {image!r:.80}.") from None
                if view.blob(digest) is None:
                    raise NotFoundError(f"There is no image with the digest {image}.")
                found = [digest]
        return self._library.read_image(found[0])

    # -- sessions

    def create_session(
        self, title: str, *, session_id: str | None = None, user_id: str | None = None, user_name: str | None = None
    ) -> str:
        """A new session; returns its id, `mixboard-` and the time in ms unless one is given.

        Raises ExistsError when that is taken, InvalidValue for an empty title.
        """
        if session_id is not None:
            return self._library.create_session(
                title, session_id=session_id, user_id=user_id, user_name=user_name
            ).id
        ms = clock.now_ns() // 1_000_000
        while True:
            try:
                return self.create_session(
                    title, session_id=f"mixboard-{ms}", user_id=user_id, user_name=user_name
                )
            except ExistsError:
                ms += 1

    def save_session(
        self, session_id: str, *, canvas: Mapping[str, Any] | None = None,
        generations: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Save one of a session's documents, or both in one commit; what they leave out goes to the trash.

        Makes the session where there is none. Raises InvalidValue that says where a document is wrong.
        """
        given = [(CANVAS, canvas), (GENERATIONS, generations)]
        # Through JSON, so that what is kept is what a folder would keep.
        parsed = [
            (suffix, canvas_json.parse(jsontext.dumps(document, default=jsontext.refuse, marks=False).encode()))
            for suffix, document in given if document is not None
        ]  # fmt: skip
        for suffix, document in parsed:
            storage_v2_saving.check(suffix, document)

        def write(txn: Txn) -> None:
            # Generations first: a canvas entry may name one.
            for suffix, document in reversed(parsed):
                storage_v2_saving.save_session(txn, session_id, suffix, document)

        self._library.commit(write)

    def load_session(self, session_id: str) -> dict[str, dict[str, Any]]:
        """`{"canvas": …, "generations": …}`: a session's two documents. Raises NotFoundError."""
        with self._library.read() as view:
            session = editing.require_session(view, session_id)
            return {
                "canvas": jsontext.loads(layout.render(view, session, CANVAS), whole=True),
                "generations": jsontext.loads(layout.render(view, session, GENERATIONS), whole=True),
            }

    def list_sessions(self) -> list[SessionSummary]:
        """Every session, the one that changed last first. Reads no document and no picture."""
        with self._library.read() as view:
            rows = [
                (session, view.session_row(session.id)) for session in view.records(Session) if session.id != POOL_ID
            ]  # fmt: skip
        return [
            SessionSummary(
                session.id, session.title, documents.iso(session.created_ns), documents.iso(row.mtime_ns),
                row.counts.images, row.entries.items, row.generations.items,
            )
            for session, row in sorted(rows, key=lambda pair: (-pair[1].mtime_ns, pair[0].id))
        ]  # fmt: skip

    # -- the log

    def append_log(
        self, level: str, message: str, *, user: str | None = None, user_id: str | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Append a line to logs.jsonl; it is durable when this returns. Raises InvalidValue, OSError."""
        line = {
            "timestamp": documents.iso(clock.now_ns()), "level": level, "user": user, "userId": user_id,
            "message": message, "context": dict(context or {}),
        }  # fmt: skip
        try:
            data = jsontext.dumps(line, default=jsontext.refuse, marks=False).encode()
        except InvalidValue as error:
            raise InvalidValue(f"The log line can't be written as JSON: {error}") from None
        self._library.app_files.append([data])

    def last_logs(self, count: int = 20) -> list[dict[str, Any]]:
        """The last lines, the oldest first; those that are no JSON object are left out."""
        found = []
        for line in self._library.app_files.last(count):
            try:
                found.append(canvas_json.parse(line))
            except InvalidValue:
                continue
        return found
