"""Foreign layouts into the library: detection, and the one place that commits what readers yield.

What is there already under the same id stays as it is, whatever the source says by now: it may have been worked on
here. So a second import changes nothing, but that pictures which the first one did not find are put where they belong.
Each piece is one commit; a record in it that can't be kept is reported with its place and left out, unless the piece is
to be taken whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mixfs import clock
from mixfs.errors import BlobMissing, MixfsError, os_words
from mixfs.formats.base import Format, FoundFile, Known, Options, Piece, Problem, Report, Skipped, Source
from mixfs.formats.reader_process import ReaderProcess
from mixfs.formats.source_urls import is_url, without_password
from mixfs.ids import Digest
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.importing import own_places, publish
from mixfs.library.ingest import Incoming, admit
from mixfs.library.transaction import Txn, require_kept
from mixfs.library.view import View
from mixfs.media.sniff import IMAGE_TYPES
from mixfs.records import Entry, Generation, ImageRef, Placement, Session

P = TypeVar("P", bound=Problem)
Progress = Callable[[Report], None]


class Taking:
    """The import of one source into an open library."""

    def __init__(
        self, library: Library, layout: Format, path: str, options: Options, reader: ReaderProcess, *,
        dry_run: bool = False,
        progress: Progress | None = None, known: Mapping[str, Known] | None = None,
        left_out: Set[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`known` and `left_out` as `Source` has them."""
        self._library, self._layout, self._reader = library, layout, reader
        self._progress = progress or (lambda report: None)
        own = frozenset(own_places(library))
        self._source = Source(path, options, None if dry_run else library.staging.intake, known, left_out, own)
        # The placements of what was taken or known, by what they show, and their sessions.
        self.placed: dict[Digest, list[str]] = {}
        self.sessions: list[str] = []
        # The paths of the files that the library keeps beside its sessions.
        self.kept: set[str] = set()
        self.report = Report(without_password(path) if is_url(path) else path, layout.NAME, dry_run)
        # What a dry run would have made by now.
        self._seen: set[tuple[str, str]] = set()

    @property
    def taken(self) -> set[str]:
        """The paths of the files that went to sessions."""
        return self._source.taken

    def run(self) -> Report:
        """Take it in; never raises for what the source is, or for one record's sake."""
        source, report = self._source, self.report
        try:
            with ThreadPoolExecutor(max_workers=4, thread_name_prefix="formats") as threads:
                for item in self._reader.read(self._layout, source):
                    if isinstance(item, Skipped):
                        report.skipped.append(self._placed(item))
                    elif isinstance(item, Problem):
                        report.not_taken.append(self._placed(item))
                    else:
                        self._take(item, threads)
                        source.discard()
                    report.total, report.done, report.bytes = source.total, source.done, source.bytes
                    self._progress(report)
        except (OSError, MixfsError) as error:
            words = os_words(error) if isinstance(error, OSError) else str(error)
            report.not_taken.append(self._placed(Problem("", words)))
        finally:
            source.close()
        report.bytes = source.bytes
        return report

    def _placed(self, problem: P) -> P:
        return problem if problem.file else dataclasses.replace(problem, file=self._source.file)

    def _take(self, piece: Piece, threads: ThreadPoolExecutor) -> None:
        try:
            if self._source.dry_run:
                with self._library.read() as view:
                    planned = self._planned(view, piece)
                for member, _ in planned.members:
                    require_kept(member)
                self._count(piece, planned)
            else:
                self._commit(piece, threads)
        except MixfsError as error:
            with self._library.read() as view:
                # What is renamed with its picture would not be without it.
                parts = [] if piece.whole else list(_parts(_settled(view, piece)))
            if not parts:
                self.report.not_taken.append(self._placed(Problem(piece.place, str(error))))
                return
            # One record spoils the piece: take them one by one.
            for part in parts:
                self._take(part, threads)

    def _commit(self, piece: Piece, threads: ThreadPoolExecutor) -> None:
        library = self._library
        for again in (False, True):
            staged = {
                file.asset.digest: self._source.staged[file.asset.digest]
                for file in piece.files
                if file.asset.digest in self._source.staged
            }
            looks = {digest: threads.submit(publish, library, staged[digest], again=again) for digest in staged}
            incoming = [
                Incoming(
                    digest=digest, size=file.asset.size, name=file.name, mtime_ns=file.mtime_ns or clock.now_ns(),
                    role=file.role,
                    # An earlier piece brought the same bytes, where they are not staged.
                    inspection=looks[digest].result() if digest in looks else None,
                    sums=staged[digest].sums() if digest in staged else b"",
                )
                for file in piece.files for digest in [file.asset.digest]
            ]  # fmt: skip
            try:
                planned = library.commit(lambda txn: self._put(txn, piece, incoming))  # noqa: B023
                break
            except BlobMissing:
                if again:
                    raise
        if piece.log:
            library.app_files.take(piece.log)
        for folder, path in piece.thumbnails:
            library.app_files.take_thumbnail(folder, path)
        self._count(piece, planned)
        library.came_in(incoming)

    def _put(self, txn: Txn, piece: Piece, incoming: list[Incoming]) -> Planned:
        planned = self._planned(txn, piece)
        session = piece.session
        if planned.session:
            held = editing.create_session(
                txn, session.title or "Untitled", session_id=session.id, user_id=session.user_id,
                user_name=session.user_name, created_ns=session.created_ns, zoom=session.zoom, pan_x=session.pan_x,
                pan_y=session.pan_y, foreign=session.foreign,
            )  # fmt: skip
        else:
            held = editing.require_session(txn, session.id)
        # Generations first: a picture that one of them gave out makes no second one from its metadata.
        for member, known in sorted(planned.members, key=lambda pair: pair[0].KIND, reverse=True):
            if known is None:
                txn.put(dataclasses.replace(member, named_ns=txn.next_stamp) if hasattr(member, "named_ns") else member)
            elif (completed := _completed(known, member)) is not None:
                txn.put(completed)
        for (file, own_id, known_file), came in zip(planned.files, incoming, strict=True):
            if known_file is None:
                folder_id = editing.ensure_path(txn, held.id, file.folders)
                placement, _ = admit(
                    txn, came, held.id, folder_id, self._library.has_blob,
                    placement_id=own_id,
                )
                if file.foreign:
                    txn.put(dataclasses.replace(placement, foreign=file.foreign))
        return planned

    def _planned(self, view: View, piece: Piece) -> Planned:
        """What of a piece is new to the library, under the ids that it has there."""
        piece = _settled(view, piece)
        session_id = piece.session.id
        members: list[tuple[Any, Any]] = []
        records: tuple[Any, ...] = (*piece.entries, *piece.edges, *piece.generations)
        for record in records:
            own_id, foreign_id = editing.member_id(view, type(record), session_id, record.id)
            member = dataclasses.replace(record, id=own_id, foreign_id=foreign_id, session_id=session_id)
            if isinstance(member, Generation):
                inputs, outputs = (_refs(view, session_id, refs) for refs in (member.inputs, member.outputs))
                member = dataclasses.replace(member, inputs=inputs, outputs=outputs)
            members.append((member, view.get(type(record), own_id)))
        files = []
        for file in piece.files:
            own_id, _ = editing.member_id(view, Placement, session_id, file.id)
            files.append((file, own_id, view.get(Placement, own_id)))
        return Planned(view.get(Session, session_id) is None, members, files)

    def _count(self, piece: Piece, planned: Planned) -> None:
        report = self.report
        self.kept.update(str(path) for _, path in piece.thumbnails)
        if ("session", piece.session.id) not in self._seen:
            self._seen.add(("session", piece.session.id))
            self.sessions.append(piece.session.id)
            report.count("sessions", not planned.session)
        for member, known in planned.members:
            report.count(_COUNTED[type(member).__name__], known is not None)
            if known is not None:
                ours = {"named_ns": known.named_ns} if hasattr(known, "named_ns") else {}
                report.differs += dataclasses.replace(member, **ours) != known and _completed(known, member) is None
        for file, own_id, held in planned.files:
            self.placed.setdefault(file.asset.digest, []).append(own_id)
            kind = "pictures" if file.asset.media_type in IMAGE_TYPES else "files"
            report.count(kind, held is not None)
            report.differs += held is not None and held.digest != file.asset.digest


_COUNTED = {"Entry": "entries", "Edge": "edges", "Generation": "generations"}


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """What a piece would put, each beside what the library has; `session` is True for a new one."""

    session: bool
    members: Sequence[tuple[Any, Any]]
    files: Sequence[tuple[FoundFile, str, Placement | None]]


def _completed(known: Any, member: Any) -> Any | None:
    """What is there with the pictures that an earlier import did not find, where nothing else was changed since."""
    if isinstance(member, Entry) and known.digest is None and member.digest is not None:
        found: dict[str, Any] = {"digest": member.digest}
    elif isinstance(member, Generation):
        refs = {"inputs": (known.inputs, member.inputs), "outputs": (known.outputs, member.outputs)}
        found = {name: now for name, (was, now) in refs.items() if was != now and _were_missing(was, now)}
    else:
        return None
    completed = dataclasses.replace(known, **found)
    return completed if found and completed == dataclasses.replace(member, named_ns=known.named_ns) else None


def _were_missing(was: Sequence[ImageRef], now: Sequence[ImageRef]) -> bool:
    """Whether references are those of before, and some that named nothing then."""
    if not was:
        return True
    return len(was) == len(now) and all(old == new or old.digest is None for old, new in zip(was, now, strict=True))


def _refs(view: View, session_id: str, refs: Sequence[ImageRef]) -> tuple[ImageRef, ...]:
    return tuple(
        dataclasses.replace(ref, placement_id=editing.member_id(view, Placement, session_id, ref.placement_id)[0])
        if ref.placement_id is not None
        else ref
        for ref in refs
    )


def _settled(view: View, piece: Piece) -> Piece:
    return dataclasses.replace(piece.settled(view, piece), settled=None) if piece.settled is not None else piece


def _parts(piece: Piece) -> Iterator[Piece]:
    """A piece as pieces of one record; none where it is one already."""
    alone = dataclasses.replace(piece, files=(), entries=(), edges=(), generations=())
    if len(piece.files) + len(piece.entries) + len(piece.edges) + len(piece.generations) <= 1:
        return
    yield alone
    for file in piece.files:
        yield dataclasses.replace(alone, place=file.place, files=(file,))
    for entry in piece.entries:
        yield dataclasses.replace(alone, place=f"{piece.place}: entry {entry.id}", entries=(entry,))
    for edge in piece.edges:
        yield dataclasses.replace(alone, place=f"{piece.place}: edge {edge.id}", edges=(edge,))
    for generation in piece.generations:
        yield dataclasses.replace(alone, place=f"{piece.place}: generation {generation.id}", generations=(generation,))
