"""Importing files and folders from outside the mount: several at once, in batched commits.

A folder is a session, as in import/: `Trip/a.png` goes to the session Trip, a file by itself to Inbox. With `session`
everything goes into that one. A file is reported only after its blob, journal item and index row are durable.

Concurrency: threads list, copy, hash and inspect files, each one file after the other; the caller's thread commits.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixfs.blobs import Intake
from mixfs.errors import BlobMissing, MixfsError, UnsuitablePlace, os_words
from mixfs.library import editing, xattrs
from mixfs.library.ingest import Incoming, admit
from mixfs.library.transaction import Txn
from mixfs.media.types import Inspection
from mixfs.regular_files import CHANGED, READINGS, is_unchanged, open_regular
from mixfs.walking import walk

if TYPE_CHECKING:
    from mixfs.library.api import Library

BATCH_FILES = 64
BATCH_S = 0.5
# One more than there are workers: while two wait for theirs, one copies. More get in each other's way at the
# interpreter's lock.
_THREADS = 3
# Files that are being taken, wait for it, or are being committed: the threads go on while a batch is.
_IN_FLIGHT = 3 * BATCH_FILES
# Why something is left where it is.
OWN = "It is the library itself, or its mount."
TEMPORARY = "Hidden and temporary names are left out."
NOT_REGULAR = "It is no regular file."
_LEFT_OUT = {"own": OWN, "temporary": TEMPORARY, "other": NOT_REGULAR}


@dataclass(slots=True)
class Failure:
    path: str
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of each file. Every file is counted once; `failed` and `skipped` name theirs.

    `imported` are pictures that are new; `deduplicated` files whose bytes the library had; `kept_as_files` new files
    that are no readable picture; `bytes` what was read.
    """

    imported: int = 0
    deduplicated: int = 0
    kept_as_files: int = 0
    bytes: int = 0
    failed: list[Failure] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)

    @property
    def files(self) -> int:
        return self.imported + self.deduplicated + self.kept_as_files + len(self.failed)


@dataclass(frozen=True, slots=True)
class Job:
    """A file to import and where it goes: session title, folders below images/, name."""

    path: Path
    session: str
    folders: tuple[bytes, ...]
    name: bytes


def find_jobs(
    paths: Iterable[Path], session: str | None, report: ImportReport, own: frozenset[str] = frozenset(),
    but: Container[str] = (),
) -> Iterator[Job]:  # fmt: skip
    """The files below `paths`, in order, but for those in `but` (absolute paths); what can't be listed is reported as
    failed. Folders in `own` are left out."""
    for path in paths:
        # A relative path like "." has a name of its own only when resolved.
        path = Path(os.path.abspath(path))
        # Of os.path, which answers no where it may not look.
        if not os.path.exists(path):
            report.failed.append(Failure(str(path), "There is no such file or folder."))
        elif os.path.isdir(path):
            title = session or _title(path.name) or editing.INBOX
            yield from (job for job in _walk(path, title, report, own) if str(job.path) not in but)
        elif not os.path.isfile(path):
            report.failed.append(Failure(str(path), NOT_REGULAR))
        elif str(path) not in but:
            yield Job(path, session or editing.INBOX, (), os.fsencode(path.name))


def _title(name: str) -> str:
    """The title that a folder's name gives; bytes that are no UTF-8 become U+FFFD, as in import/."""
    return os.fsencode(name).decode("utf-8", "replace")


def _walk(top: Path, session: str, report: ImportReport, own: frozenset[str]) -> Iterator[Job]:
    folders: list[bytes] = []
    for seen in walk(top, own):
        if seen.kind == "folder" and seen.depth:
            folders[seen.depth - 1 :] = [seen.name]
        elif seen.kind in ("file", "link"):
            yield Job(Path(seen.path), session, tuple(folders[: seen.depth - 1]), seen.name)
        elif seen.kind == "unlisted" and seen.error is not None:
            report.failed.append(Failure(seen.path, f"The folder can't be listed: {seen.error.strerror}."))
        elif seen.kind == "unseen" and seen.error is not None:
            report.failed.append(Failure(seen.path, f"It can't be looked at: {seen.error.strerror}."))
        elif seen.kind in _LEFT_OUT:
            report.skipped.append(Failure(seen.path, _LEFT_OUT[seen.kind]))


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that was copied and looked into, and is to be published and committed; `intake` is its copy in staging."""

    job: Job
    incoming: Incoming
    intake: Intake


def _reason(job: Job, error: OSError | MixfsError) -> str:
    """Why a file was not taken in; when it is the library that failed, the file there is named."""
    if not isinstance(error, OSError) or error.filename not in (None, job.path, str(job.path)):
        return os_words(error) if isinstance(error, OSError) else str(error)
    return error.strerror or str(error)


def publish(library: Library, intake: Intake, *, again: bool = False) -> Inspection | None:
    """Make staged bytes a blob, durably, and look into them where the library doesn't know them.

    `again` where gc took the blob away before it was named. Raises OSError.
    """
    digest, _ = library.blobs.receive(intake)
    # By its name in staging: until it is committed, gc may take the blob.
    return library.pool.inspect(str(intake.path)) if again else library.inspect_unknown(digest, intake.path)


def _checked_jobs(
    library: Library, paths: Iterable[Path], session: str | None, report: ImportReport, but: Container[str]
) -> Iterator[Job]:
    session = _title(session) if session is not None else None
    checked = []
    for path in paths:
        refuse_own(library, path)
        checked.append(path)
    return find_jobs(checked, session, report, frozenset(own_places(library)), but)


def would_import(
    library: Library, paths: Iterable[Path], session: str | None = None, but: Container[str] = ()
) -> ImportReport:
    """What `Library.import_paths` would read, all of it counted as imported."""
    report = ImportReport()
    report.imported = sum(1 for _ in _checked_jobs(library, paths, session, report, but))
    return report


_Came = Taken | Failure | BaseException | None


class Importer:
    """One import into an open library."""

    def __init__(self, library: Library, progress: Callable[[ImportReport], None] | None = None) -> None:
        self._library = library
        self._progress = progress or (lambda report: None)
        self.report = ImportReport()
        # What threads have taken, and one None or error when one ends; room for what they may take.
        self._came: queue.SimpleQueue[_Came] = queue.SimpleQueue()
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._lock = threading.Lock()  # for the jobs
        self._ended = False

    def run(self, paths: Iterable[Path], session: str | None = None, but: Container[str] = ()) -> ImportReport:
        """Import everything below `paths` that is not in `but`; never raises for a single file's sake."""
        jobs = _checked_jobs(self._library, paths, session, self.report, but)
        with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="import") as threads:
            for _ in range(_THREADS):
                threads.submit(self._take_some, jobs)
            try:
                self._commit_what_comes()
            finally:
                self._ended = True
                self._room.release(_THREADS)
        return self.report

    def _take_some(self, jobs: Iterator[Job]) -> None:
        """Take one file after the other, as long as there are some and not too many wait (in a thread)."""
        last: BaseException | None = None
        while last is None:
            self._room.acquire()
            try:
                with self._lock:
                    job = None if self._ended else next(jobs, None)
                if job is None:
                    break
                try:
                    self._came.put(self._take(job))
                except (OSError, MixfsError) as error:
                    self._came.put(Failure(str(job.path), _reason(job, error)))
            except BaseException as error:  # noqa: BLE001 - for who waits for us
                last = error
        self._came.put(last)

    def _commit_what_comes(self) -> None:
        ready: list[Taken] = []
        since, running = time.monotonic(), _THREADS
        while ready or running:
            left = max(0.0, since + BATCH_S - time.monotonic()) if ready else None
            for came in self._waited_for(left):
                if isinstance(came, Taken):
                    ready.append(came)
                elif isinstance(came, Failure):
                    self.report.failed.append(came)
                    self._room.release()
                elif came is not None:
                    raise came
                else:
                    running -= 1
            if ready and (len(ready) >= BATCH_FILES or time.monotonic() - since >= BATCH_S or not running):
                self._publish_and_commit(ready)
                self._room.release(len(ready))
                ready, since = [], time.monotonic()

    def _waited_for(self, timeout_s: float | None) -> Iterator[_Came]:
        """What came, waited for if nothing has."""
        try:
            yield self._came.get(timeout=timeout_s)
            while True:
                yield self._came.get_nowait()
        except queue.Empty:
            return

    def _take(self, job: Job) -> Taken:
        """Copy, hash and inspect one file (in a thread)."""
        library = self._library
        source = open_regular(job.path)
        try:
            kept, annotation = xattrs.split(xattrs.of_file(source))
            intake, status = self._copied(source)
        finally:
            os.close(source)
        try:
            inspection = library.inspect_unknown(intake.digest(), intake.path)
        except BaseException:
            intake.discard()
            raise
        incoming = Incoming(
            digest=intake.digest(),
            size=intake.size,
            name=job.name,
            mtime_ns=status.st_mtime_ns,
            mode=status.st_mode & 0o777,
            xattrs=kept,
            inspection=inspection,
            sums=intake.sums(),
            annotation=annotation,
        )
        return Taken(job, incoming, intake)

    def _copied(self, source: int) -> tuple[Intake, os.stat_result]:
        """A copy of a file in staging that nobody changed while it was read."""
        for _ in range(READINGS):
            intake = self._library.staging.intake()
            try:
                before = os.fstat(source)
                intake.copy_whole(source)
                if is_unchanged(before, os.fstat(source)):
                    return intake, before
            except BaseException:
                intake.discard()
                raise
            intake.discard()
        raise OSError(errno.EBUSY, CHANGED)

    def _publish_and_commit(self, taken: list[Taken]) -> None:
        """Together, for what is made durable together waits for the disk but once."""
        ready = []
        results = self._library.blobs.receive_all([one.intake for one in taken])
        for one, result in zip(taken, results, strict=True):
            if isinstance(result, OSError):
                self.report.failed.append(Failure(str(one.job.path), _reason(one.job, result)))
                one.intake.discard()
            else:
                ready.append(one)
        if ready:
            self._commit(ready)

    def _commit(self, ready: list[Taken]) -> None:
        def write(txn: Txn) -> list[tuple[bool, str]]:
            sessions: dict[str, str] = {}
            out = []
            for taken in ready:
                job, incoming = taken.job, taken.incoming
                if job.session not in sessions:
                    sessions[job.session] = editing.session_titled(txn, job.session).id
                session_id = sessions[job.session]
                folder_id = editing.ensure_path(txn, session_id, job.folders)
                known = txn.blob(incoming.digest) is not None
                placement, _ = admit(txn, incoming, session_id, folder_id, self._library.has_blob)
                out.append((known, placement.area))
            return out

        try:
            results = self._library.commit(write)
        except (OSError, MixfsError) as error:
            if len(ready) > 1:
                # One of them spoils the batch: take them one by one.
                for one in ready:
                    self._commit([one])
            elif isinstance(error, BlobMissing) and (again := self._publish_again(ready[0])) is not None:
                self._commit([again])
            else:
                self.report.failed.append(Failure(str(ready[0].job.path), f"It could not be recorded: {error}"))
                ready[0].intake.discard()
            return
        for (known, area), taken in zip(results, ready, strict=True):
            taken.intake.discard()
            self.report.bytes += taken.incoming.size
            if known:
                self.report.deduplicated += 1
            elif area == "files":
                self.report.kept_as_files += 1
            else:
                self.report.imported += 1
        self._library.came_in(taken.incoming for taken in ready)
        self._progress(self.report)

    def _publish_again(self, taken: Taken) -> Taken | None:
        """gc took the blob away before it was named: put it there anew. None when it isn't that."""
        digest = taken.incoming.digest
        with self._library.read() as view:
            known = view.blob(digest) is not None
        try:
            _, new = self._library.blobs.receive(taken.intake)
        except OSError:
            return None
        if not new and known:
            return None
        inspection = self._library.pool.inspect(str(taken.intake.path))
        return replace(taken, incoming=replace(taken.incoming, inspection=inspection))


def own_places(library: Library) -> list[str]:
    """The library's directory and, when it is mounted, its mount point."""
    mounted = library.mounted_at()
    return [os.path.realpath(library.root)] + ([os.path.realpath(mounted)] if mounted is not None else [])


def refuse_own(library: Library, path: Path) -> None:
    """Importing from the library's own directory or its own mount would go round in a circle."""
    real = os.path.realpath(path)
    places = own_places(library)
    for place in places:
        if real == place or real.startswith(place + "/"):
            raise UnsuitablePlace(
                f"{path} lies inside the library's own {'mount' if place != places[0] else 'directory'} {place}: "
                "what is there is in the library already."
            )
