"""Checking a library: every blob against its digest, every journal frame, the index against the journal.

Works on the directory, not through an open `Library`: opening one repairs, and what is to be judged should be seen as
it lies there. Changes nothing in the library but a working directory in staging/, which goes again.

Concurrency: may run beside a daemon and imports. What the index should hold is made by replaying the journal into a
fresh index, up to where the index says that it is; the last stretch of that is done inside the read transaction in
which the two are compared. Blobs are listed after the journal was read, so that what is named must be there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2

from mixfs.blobs import LocalBlobs
from mixfs.errors import BlobDamaged, BlobMissing, FormatTooNew, IndexDamaged, IndexFull, JournalDamaged
from mixfs.ids import Digest, ReplicaId
from mixfs.index import keys
from mixfs.index.dentries import Changes
from mixfs.index.engine import Engine, ReadTxn, prefix_end
from mixfs.index.lmdb_engine import LmdbEngine
from mixfs.journal import START, Item, Journal, Position
from mixfs.library import place
from mixfs.library.api import Library
from mixfs.library.projections import DERIVATION
from mixfs.library.staging import StagingArea
from mixfs.library.store import apply_item, noted_position
from mixfs.library.view import SessionRow, View
from mixfs.records import KINDS, Blob, Image, Placement, Receipt, Trash, from_map

# So many of one kind are told one by one, and the rest counted: one lost segment can be a million rows.
TOLD = 100
_BATCH = 500
_THREADS = 4
_RESTORE = "Restore it from a back-up"
_REBUILD = "`mixfs rebuild-index` makes the index again from the journal"

# Rows that follow from the records alone; the others count commits, or times at which replicas met.
_COMPARED = (b"r", b"d", b"s", b"i", b"t", b"w", b"c")
_COMPARED_ALONE = (b"n", b"x", b"y", b"z")
_ROWS = {
    b"r": "record", b"d": "directory entry", b"s": "member of a session", b"i": "reference to a blob", b"t": "title",
    b"w": "views of an image", b"c": "counter", b"n": "directory", b"x": "family of names", b"y": "displaced name",
    b"z": "session", b"h": "thumbnail", b"e": "event", b"m": "note", b"q": "inode",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. `kind` is for programs, `where` a path or a row, `remedy` what to do."""

    kind: str
    where: str
    reason: str
    remedy: str


@dataclass(slots=True)
class Report:
    """What was looked at and what was found. `notes` are no damage: they go away by themselves, or cost only space."""

    blobs: int = 0
    blob_bytes: int = 0
    commits: int = 0
    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.problems

    def add(self, kind: str, where: str, reason: str, remedy: str) -> None:
        """Add a problem, or count it when many of its kind were told already."""
        number = self._counts[kind] = self._counts.get(kind, 0) + 1
        if number <= TOLD:
            self.problems.append(Problem(kind, where, reason, remedy))

    def finish(self) -> None:
        for kind, number in self._counts.items():
            if number > TOLD:
                self.notes.append(f"{number - TOLD:,} more problems of the kind {kind} are not listed one by one.")


# What is being done, how far it is, and of how much (bytes for blobs; 0 when that isn't known).
Progress = Callable[[str, int, int], None]


def check(root: Path, progress: Progress = lambda phase, done, total: None) -> Report:
    """Check the library in `root`. Raises NotALibrary, FormatTooNew, OSError when it can't be looked at."""
    form = place.read_format(root)
    report = Report()
    replicas = _replicas(root, form.replica)
    with _workplace(root) as directory:
        fresh = LmdbEngine(directory / "index")
        try:
            positions = {journal.replica: START for journal in replicas}
            progress("journal", 0, 0)
            _replay(fresh, replicas, positions, {}, report, progress)
            progress("index", 0, 0)
            _check_index(root, fresh, replicas, positions, report)
            with fresh.read() as txn:
                named = _named_digests(txn, report)
        finally:
            fresh.close()
            for journal in replicas:
                journal.close()
    _check_blobs(LocalBlobs(root / "blobs"), named, report, progress)
    report.finish()
    return report


def _replicas(root: Path, own: ReplicaId) -> list[Journal]:
    directory = root / "journal"
    names = sorted(os.listdir(directory)) if directory.is_dir() else []
    out = []
    for name in names:
        with contextlib.suppress(ValueError):
            out.append(Journal(directory, ReplicaId(bytes.fromhex(name))))
    if all(journal.replica != own for journal in out):
        out.append(Journal(directory, own))
    return out


@contextlib.contextmanager
def _workplace(root: Path) -> Iterator[Path]:
    """A directory for the fresh index: in staging/, which is swept if we are killed; elsewhere on read-only media."""
    staging = StagingArea(root / "staging")
    try:
        directory = staging.open()
    except OSError:
        with tempfile.TemporaryDirectory(prefix="mixfs-fsck-") as elsewhere:
            yield Path(elsewhere)
        return
    try:
        yield directory
    finally:
        staging.close()


# -- the journal


def _replay(
    fresh: Engine, journals: Sequence[Journal], positions: dict[ReplicaId, Position],
    until: dict[ReplicaId, Position], report: Report, progress: Progress,
) -> None:  # fmt: skip
    """Apply each journal to the fresh index from its position on, to `until` where that is named; notes damage."""
    for journal in journals:
        batch: list[Item] = []
        try:
            for item in journal.read(positions[journal.replica]):
                limit = until.get(journal.replica)
                if limit is not None and item.end > limit:
                    break
                if item.payload is None:
                    # An append that is under way or was cut short, or damage: the index's position tells which.
                    if item.torn:
                        break
                    _damaged_frame(journal, item, report)
                else:
                    batch.append(item)
                if len(batch) >= _BATCH:
                    _apply(fresh, journal, batch, report)
                    progress("journal", report.commits, 0)
                positions[journal.replica] = item.end
        except FormatTooNew:
            raise
        except (JournalDamaged, ValueError, TypeError, AttributeError) as error:
            # A frame whose checksum holds and whose content doesn't: a header that is no map, say.
            report.add("journal-damaged", str(journal.directory), f"It can't be read: {error}.",
                       f"{_RESTORE}, then run `mixfs rebuild-index`.")  # fmt: skip
        _apply(fresh, journal, batch, report)


def _apply(fresh: Engine, journal: Journal, batch: list[Item], report: Report) -> None:
    while True:
        try:
            bad: list[tuple[Item, str]] = []
            with fresh.write() as txn:
                for item in batch:
                    try:
                        apply_item(txn, journal.replica, item.payload or b"")
                    except (ValueError, TypeError, KeyError, LookupError, AttributeError) as error:
                        bad.append((item, str(error)))
            break
        except IndexFull:
            fresh.grow()
    for item, reason in bad:
        _damaged_frame(journal, item, report, f"its changes can't be understood ({reason})")
    report.commits += len(batch) - len(bad)
    batch.clear()


def _damaged_frame(journal: Journal, item: Item, report: Report, words: str = "") -> None:
    path = journal.directory / f"{item.start.segment:08d}.seg"
    report.add(
        "journal-damaged",
        str(path),
        f"Bytes {item.start.offset} to {item.end.offset} are not what was written{': ' + words if words else ''}.",
        f"{_RESTORE}, then run `mixfs rebuild-index`. What stood there is lost otherwise; the rest is not.",
    )


# -- the index against the journal


def _check_index(
    root: Path, fresh: Engine, journals: Sequence[Journal], positions: dict[ReplicaId, Position], report: Report
) -> None:
    path = root / "index"
    if not (path / "data.mdb").exists():
        report.notes.append(f"There is no {path}: it is made again when the library is opened next.")
        for journal in journals:
            _torn_tail(journal, positions[journal.replica], None, report)
        return
    try:
        index = _open_index(path)
    except (IndexDamaged, OSError) as error:
        report.add("index-damaged", str(path), f"It can't be opened: {error.__cause__ or error}.", f"{_REBUILD}.")
        return
    try:
        with index.read() as txn:
            if txn.get(keys.META_DERIVATION) != cbor2.dumps(DERIVATION):
                report.notes.append(f"{path} is of another version: it is made again when the library is opened next.")
                return
            noted = {journal.replica: noted_position(txn, journal.replica) for journal in journals}
            _replay(fresh, journals, positions, noted, report, lambda phase, done, total: None)
            if _same_ground(journals, positions, noted, report):
                with fresh.read() as wanted:
                    _compare(wanted, txn, len(journals) == 1, report)
            _decode_all(txn, report)
            _check_thumbnails(root / "thumbnails", txn, report)
    except (IndexDamaged, ValueError, TypeError, LookupError) as error:
        report.add("index-damaged", str(path), f"It can't be read: {error.__cause__ or error}.", f"{_REBUILD}.")
    finally:
        index.close()


def _open_index(path: Path) -> LmdbEngine:
    try:
        return LmdbEngine(path, read_only=True)
    except IndexDamaged:
        # On read-only media LMDB can't take its lock; then nobody else writes either.
        if os.access(path / "lock.mdb", os.W_OK):
            raise
        return LmdbEngine(path, read_only=True, lock=False)


def _same_ground(
    journals: Sequence[Journal], positions: dict[ReplicaId, Position], noted: dict[ReplicaId, Position], report: Report
) -> bool:
    """Whether the fresh index stands where the index does, so that they can be compared."""
    same = True
    for journal in journals:
        here, there = positions[journal.replica], noted[journal.replica]
        # A segment's header is no item: an empty journal may be noted before or behind it.
        if here == there or (journal.segments() == [] and there == START) or _only_header(journal, here, there):
            continue
        same = False
        if there > here:
            _torn_tail(journal, here, there, report)
        else:
            report.notes.append(
                f"The index has not seen all of {journal.directory} yet: the next who writes completes it."
            )
    return same


def _torn_tail(journal: Journal, here: Position, noted: Position | None, report: Report) -> None:
    """Report what stands behind the last readable item of a journal, or is missing there.

    `noted` is how far the index has seen it. Without an index nobody can say whether what was cut short had been
    acknowledged, so that counts as damage.
    """
    tail = next((item for item in journal.read(here) if item.payload is None), None)
    if tail is not None:
        _damaged_frame(journal, tail, report)
    elif noted is not None:
        report.add(
            "journal-short",
            str(journal.directory),
            f"It ends at segment {here.segment}, byte {here.offset}; the index has seen segment {noted.segment}, byte "
            f"{noted.offset}: acknowledged commits are missing.",
            f"{_RESTORE}, or go on with what is there: {_REBUILD}.",
        )


def _only_header(journal: Journal, here: Position, there: Position) -> bool:
    low, high = sorted((here, there))
    return not any(item.end <= high for item in journal.read(low))


def _compare(wanted: ReadTxn, held: ReadTxn, alone: bool, report: Report) -> None:
    """Both sides in the order of keys, row by row."""
    if alone and wanted.get(keys.META_STAMP) != held.get(keys.META_STAMP):
        _differs(keys.META_STAMP, "is not as the journal has it", report)
    for prefix in _COMPARED + (_COMPARED_ALONE if alone else ()):
        ours, theirs = (iter(txn.scan(prefix, prefix_end(prefix))) for txn in (wanted, held))
        a, b = next(ours, None), next(theirs, None)
        while a is not None or b is not None:
            report.rows += 1
            if a == b:
                a, b = next(ours, None), next(theirs, None)
            elif b is None or (a is not None and a[0] < b[0]):
                assert a is not None
                _differs(a[0], "is in the journal and not in the index", report)
                a = next(ours, None)
            elif a is None or b[0] < a[0]:
                _differs(b[0], "is in the index and not in the journal", report)
                b = next(theirs, None)
            else:
                _differs(a[0], "is not as the journal has it", report)
                a, b = next(ours, None), next(theirs, None)


def _differs(key: bytes, words: str, report: Report) -> None:
    report.add("index-differs", _row_words(key), f"The index's row {words}.", f"{_REBUILD}.")


def _row_words(key: bytes) -> str:
    """A key of the index in words."""
    name = _ROWS.get(key[:1], "row")
    if key[:1] == b"d":
        return f"{name} {key[18:].decode('utf-8', 'backslashreplace')!r} in {key[1:18].hex()}"
    if key[:1] == b"r" and key[1] in KINDS:
        return f"{KINDS[key[1]].__name__} {key[2:].hex()}"
    return f"{name} {key[1:].hex()}"


def _decode_all(txn: ReadTxn, report: Report) -> None:
    """Try every value that isn't compared: what can't be read would fail whoever needs it."""
    for prefix, decode in ((b"e", Changes.load), (b"m", cbor2.loads), (b"z", _decode_session)):
        for key, value in txn.scan(prefix, prefix_end(prefix)):
            try:
                decode(value)
            except (ValueError, TypeError, LookupError, EOFError, AttributeError) as error:
                report.add("index-damaged", _row_words(key), f"Its value can't be read: {error}.", f"{_REBUILD}.")


def _decode_session(value: bytes) -> None:
    SessionRow(cbor2.loads(value))


def _check_thumbnails(directory: Path, txn: ReadTxn, report: Report) -> None:
    """The rows of thumbnails against the files: sizes that a listing shows must be true."""
    for key, value in txn.scan(b"h", prefix_end(b"h")):
        text = key[1:].hex()
        path = directory / text[:2] / f"{text[2:]}.png"
        try:
            size, mtime_ns = cbor2.loads(value)
            status = path.stat() if size else None
        except (ValueError, TypeError, EOFError, FileNotFoundError):
            report.add("index-differs", str(path), "The index does not have it as it is.", f"{_REBUILD}.")
            continue
        if status is not None and (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
            report.add("index-differs", str(path), "The index does not have it as it is.", f"{_REBUILD}.")


# -- the blobs


def _named_digests(txn: ReadTxn, report: Report) -> dict[Digest, tuple[int | None, str]]:
    """Every blob that a record names: its size where that is known, and who names it."""
    view = View(txn)
    out: dict[Digest, tuple[int | None, str]] = {}
    for trash in view.records(Trash):
        if trash.digest is not None:
            out[trash.digest] = None, f"{os.fsdecode(trash.name)!r} in the trash"
        for kind, _, data in trash.records:
            if kind == Placement.KIND:
                placement = from_map(Placement, data)
                out[placement.digest] = placement.size, f"{os.fsdecode(placement.name)!r} in the trash"
    for image in view.records(Image):
        out[image.digest] = image.size, "an image"
    for blob in view.records(Blob):
        out[blob.digest] = blob.size, "a blob's record"
    for receipt in view.records(Receipt):
        out[receipt.digest] = receipt.size, f"{os.fsdecode(receipt.name)!r} in import/"
    for placement in view.records(Placement):
        out[placement.digest] = placement.size, f"{os.fsdecode(placement.name)!r} of a session"
    return out


def _check_blobs(
    blobs: LocalBlobs, named: dict[Digest, tuple[int | None, str]], report: Report, progress: Progress
) -> None:
    held = dict(blobs.enumerate()) if blobs.root.is_dir() else {}
    total, done = sum(held.values()), 0
    for digest, (_, who) in named.items():
        if digest not in held:
            report.add(
                "blob-missing", str(blobs.path(digest)), f"It is missing; {who} names it.",
                f"{_RESTORE}, or import the same file again.",
            )  # fmt: skip

    def examine(digest: Digest) -> tuple[Digest, str]:
        try:
            blobs.check(digest)
        except (BlobDamaged, BlobMissing):
            # Missing: taken away since we listed it, or never whole; the next look at it tells.
            return digest, "Its SHA-256 differs from its name."
        except OSError as error:
            return digest, f"It can't be read: {error.strerror}."
        return digest, ""

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fsck") as threads:
        for digest, words in threads.map(examine, held):
            size = held[digest]
            done += size
            if words:
                namer = named.get(digest)
                report.add(
                    "blob-damaged", str(blobs.path(digest)), words + (f" {namer[1]} names it." if namer else ""),
                    f"{_RESTORE}, or move it away and import the same file again.",
                )  # fmt: skip
            progress("blobs", done, total)
    report.blobs, report.blob_bytes = len(held), total
    unnamed = [digest for digest in held if digest not in named]
    if unnamed:
        size = sum(held[digest] for digest in unnamed)
        whole = not any(problem.kind.startswith("journal-") for problem in report.problems)
        words = "they only take up space" if whole else "keep them, what named them may be in the damaged journal"
        report.notes.append(f"{len(unnamed):,} blobs ({size:,} bytes) are named by nothing: {words}.")


def rebuild(root: Path) -> None:
    """Make the index again from the journal, whatever state it is in. Raises NotALibrary, FormatTooNew, OSError.

    `Store.rebuild_index` does it beside whoever reads the old one. Where the library can't even be opened with the old
    one, that is moved out of the way first: opening then makes a new one.
    """
    place.read_format(root)
    try:
        with Library.open(root, create=False) as library:
            library.store.rebuild_index()
        return
    except FormatTooNew:
        raise
    except (IndexDamaged, JournalDamaged, ValueError, TypeError, LookupError):
        pass
    with place.FileLock(root / "lock"), contextlib.suppress(FileNotFoundError):
        # The name is one that a rebuild sweeps once the new index stands.
        os.rename(root / "index", root / f"index.old-{os.getpid()}")
    Library.open(root, create=False).close()


def describe(problem: Problem) -> dict[str, Any]:
    """A problem as plain data."""
    return {"kind": problem.kind, "where": problem.where, "reason": problem.reason, "remedy": problem.remedy}


__all__ = ["Problem", "Report", "check", "describe", "rebuild"]
