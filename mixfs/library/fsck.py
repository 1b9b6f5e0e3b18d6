"""Checking a library: every blob against its digest, every journal frame, the index against the journal.

Works on the directory, not through an open `Library`: opening one repairs, and what is to be judged should be seen as
it lies there. Changes nothing in the library but a working directory in staging/, which goes again.

Concurrency: may run beside a daemon and imports. What the index should hold is made by replaying the journal into a
fresh index, just up to where the index says that it is; the last stretch of that is done inside the read transaction
in which the two are compared. What the journal holds beyond is looked at afterwards. Blobs are listed after the
journal was read, so that what is named must be there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cbor2

from mixfs import clock
from mixfs.blobs import LocalBlobs
from mixfs.blobs.removal import Removal
from mixfs.blobs.sums import checked_sums
from mixfs.errors import (
    BlobDamaged,
    BlobMissing,
    FormatTooNew,
    IndexDamaged,
    IndexFailed,
    JournalDamaged,
    JournalReplaced,
    is_damage,
    os_words,
)
from mixfs.ids import Digest, ReplicaId
from mixfs.index import keys
from mixfs.index.engine import Engine, ReadTxn
from mixfs.index.lmdb_engine import LmdbEngine
from mixfs.index.reading import open_for_reading
from mixfs.journal import START, HighWater, Item, Journal, Position, replicas_in
from mixfs.library import place
from mixfs.library.api import Library
from mixfs.library.fsck_report import REBUILD, RESTORE, Report
from mixfs.library.fsck_rows import check_others, check_seals, check_thumbnails, compare
from mixfs.library.gaps import Gap, Gaps, continue_behind, gap_of, missing_end
from mixfs.library.healing import names_of
from mixfs.library.lost import totals
from mixfs.library.projections import DERIVATION
from mixfs.library.replay import noted_position, replay
from mixfs.library.staging import StagingArea
from mixfs.library.store import by_age
from mixfs.library.view import View
from mixfs.library.wanted import held_digests
from mixfs.records import SENSELESS, Blob, Image, Placement, Receipt, Trash

_THREADS = 4
# So often is a library looked at whose files are replaced meanwhile.
_LOOKS = 20

# What is being done, how far it is, and of how much (bytes for blobs; 0 when that isn't known).
Progress = Callable[[str, int, int], None]


def check(
    root: Path, progress: Progress = lambda phase, done, total: None, *, only: Collection[Digest] | None = None
) -> Report:
    """Check the library in `root`. Raises NotALibrary, FormatTooNew, OSError when it can't be looked at.

    With `only`, of the blobs just these are read; the others were a moment ago.
    """
    for _ in range(_LOOKS):
        before = _files(root)
        report = _check(root, progress, only)
        # A rebuild or a compaction puts other files in the place of those that are being looked at. What is found then
        # may be of neither, so it is looked for again. Commits only add to the files that are there.
        if not report.problems or _files(root) == before:
            break
    report.finish()
    return report


def _files(root: Path) -> tuple[int | None, dict[str, int]]:
    """Which files the index and the journals are now."""
    found = {}
    for path in (root / "journal").glob("*/*.seg"):
        with contextlib.suppress(FileNotFoundError):
            found[str(path)] = path.stat().st_ino
    return _inode(root / "index"), found


def _check(root: Path, progress: Progress, only: Collection[Digest] | None) -> Report:
    form = place.read_format(root)
    report = Report()
    replicas = _replicas(root, form.replica)
    with _workplace(root) as directory:
        fresh = LmdbEngine(directory / "index")
        try:
            progress("journal", 0, 0)
            ground = _Ground(root, fresh, replicas, report, progress)
            _check_index(root, form.library_id, ground, report)
            ground.advance()
            ground.check_ends()
            ground.check_gaps()
            _Blobs(LocalBlobs(root / "blobs", read_only=True), ground, report).check(progress, only)
            if words := totals(Removal(root)).words():
                report.notes.append(words)
        finally:
            fresh.close()
            for journal in replicas:
                journal.close()
    return report


def _replicas(root: Path, own: ReplicaId) -> list[Journal]:
    return by_age(Journal(root / "journal", replica) for replica in sorted(replicas_in(root) | {own}))


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


class _Ground:
    """The fresh index, and how far each journal was replayed into it."""

    def __init__(
        self, root: Path, engine: Engine, journals: Sequence[Journal], report: Report, progress: Progress
    ) -> None:
        self.engine = engine
        self.journals = journals
        self.positions = {journal.replica: START for journal in journals}
        # Looked up before the journals are read: what was acknowledged by then must be there.
        self._known = {journal.replica: HighWater(root, journal.replica).read() for journal in journals}
        self._gaps = Gaps(root)
        self._told: set[tuple[object, ...]] = set()
        self._report = report
        self._progress = progress

    def advance(self, until: dict[ReplicaId, Position] | None = None) -> None:
        """Replay each journal on to its end, or to where `until` says; notes damage."""

        def count(items: int) -> None:
            self._report.commits += items
            self._progress("journal", self._report.commits, 0)

        for journal in self.journals:
            limit = until[journal.replica] if until is not None else None
            if limit is not None:
                self._known[journal.replica] = max(self._known[journal.replica], limit)
            self.positions[journal.replica], bad = replay(
                self.engine, journal, self.positions[journal.replica], limit, count
            )
            for item, reason in bad:
                if item.is_damage(self._known[journal.replica]):
                    self.damaged(journal, item, reason)

    def check_ends(self) -> None:
        """Report journals that end before commits that were acknowledged."""
        for journal in self.journals:
            known, written = self._known[journal.replica], journal.written_end()
            if known > written:
                self.damaged(journal, missing_end(known, written))
            if known == START:
                # Nothing tells whether an item that was cut short had been acknowledged.
                for item in journal.read(self.positions[journal.replica]):
                    if item.payload is None:
                        self.damaged(journal, item)

    def check_gaps(self) -> None:
        """Report what was known to be missing before."""
        for gap in self._gaps.all():
            self._tell(gap)

    def damaged(self, journal: Journal, item: Item, reason: str = "") -> None:
        self._tell(gap_of(journal, item, clock.now_ns(), reason))

    def _tell(self, gap: Gap) -> None:
        if gap.place in self._told:
            return
        self._told.add(gap.place)
        if any(gap.place == each.place and each.accepted for each in self._gaps.all()):
            self._report.notes.append(f"{gap}. The loss was accepted.")
            return
        self._report.add(
            "journal-damaged",
            str(self.journals[0].directory.parent / gap.replica / f"{gap.segment:08d}.seg"),
            f"{gap}.",
            f"{RESTORE}, then run `mixfs rebuild-index`; or accept the loss: `mixfs fsck --accept-loss`. Nothing is "
            "deleted until then.",
        )


# -- the index against the journal


def _check_index(root: Path, library_id: str, ground: _Ground, report: Report) -> None:
    path = root / "index"
    if not (path / "data.mdb").exists():
        report.notes.append(f"There is no {path}: it is made again when the library is opened next.")
        return
    if not os.access(path / "data.mdb", os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path / "data.mdb"))
    try:
        index = _open_sound(path)
    except (IndexFailed, OSError) as error:
        _index_failed(path, error, "opened", report)
        return
    try:
        with index.read() as txn:
            noted = _noted(txn, ground)
        # Most of it outside the transaction that compares: one that is open for long makes the file grow.
        ground.advance(noted)
        with index.read() as txn:
            if txn.get(keys.META_DERIVATION) != cbor2.dumps(DERIVATION):
                report.notes.append(f"{path} is of another version: it is made again when the library is opened next.")
                return
            if txn.get(keys.META_LIBRARY) not in (None, library_id.encode()):
                report.add("index-damaged", str(path), "It is the index of another library.", f"{REBUILD}.")
                return
            noted = _noted(txn, ground)
            ground.advance(noted)
            if _same_ground(ground, noted, report):
                with ground.engine.read() as wanted:
                    compare(wanted, txn, len(ground.journals) == 1, report)
            check_seals(txn, report)
            check_others(txn, [journal.replica for journal in ground.journals], report)
        check_thumbnails(root / "thumbnails", index.read, report)
    except (IndexFailed, OSError, *SENSELESS) as error:
        _index_failed(path, error, "read", report)
    finally:
        index.close()


def _index_failed(path: Path, error: Exception, done: str, report: Report) -> None:
    """Report an index that can't be opened or read: as damaged, unless the reason says nothing about it."""
    is_harmless = isinstance(error, IndexFailed) and not isinstance(error, IndexDamaged)
    if is_harmless or (isinstance(error, OSError) and not is_damage(error)):
        words = os_words(error) if isinstance(error, OSError) else str(error)
        remedy = "Remove the cause, and check again."
        report.add("index-unchecked", str(path), f"It could not be checked. {words}", remedy)
        return
    report.add("index-damaged", str(path), f"It can't be {done}: {error.__cause__ or error}.", f"{REBUILD}.")


def _noted(txn: ReadTxn, ground: _Ground) -> dict[ReplicaId, Position]:
    """Up to where the index has seen each journal; raises IndexDamaged when a compaction replaced what it has not."""
    out = {}
    for journal in ground.journals:
        seen = journal.resume(noted_position(txn, journal.replica))
        if seen is None:
            raise IndexDamaged("it is older than the last compaction of the journal")
        out[journal.replica] = seen
    return out


def _open_sound(path: Path) -> LmdbEngine:
    """The index, its pages looked through first: LMDB itself would follow a wild reference. Raises IndexDamaged."""
    while True:
        which = _inode(path)
        try:
            index = open_for_reading(path)
            try:
                index.check()
                return index
            except BaseException:
                index.close()
                raise
        except IndexDamaged:
            # Unless another process has put a new one in its place meanwhile.
            if _inode(path) == which:
                raise


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path / "data.mdb").st_ino
    except FileNotFoundError:
        return None


def _same_ground(ground: _Ground, noted: dict[ReplicaId, Position], report: Report) -> bool:
    """Whether the fresh index stands where the index says that it does, so that they can be compared."""
    same = True
    for journal in ground.journals:
        here, there = ground.positions[journal.replica], noted[journal.replica]
        # A segment's header is no item: an empty journal may be noted before or behind it.
        if here == there or _only_header(journal, here, there):
            continue
        same = False
        following = next(iter(journal.read(here)), None)
        if following is None:
            ground.damaged(journal, missing_end(there, journal.written_end()))
        elif following.payload is None:
            ground.damaged(journal, following)
        else:
            report.add(
                "index-damaged", "position", f"It says that it has seen segment {there.segment} up to byte "
                f"{there.offset}, where no item of the journal ends.", f"{REBUILD}.",
            )  # fmt: skip
    return same


def _only_header(journal: Journal, here: Position, there: Position) -> bool:
    """Whether nothing but the header of a segment lies between two positions."""
    low, high = sorted((here, there))
    return high <= journal.written_end() and not any(item.start < high for item in journal.read(low))


# -- the blobs


_MISSING = "It is missing"


def _is_of_another(blob: Blob | None, found: _Found) -> bool:
    """Whether a record has another size or other block sums than its blob. Records of old versions have no sums."""
    if blob is None:
        return False
    return blob.size != found.size or (blob.sums != found.sums and blob.sums != b"")


def _named_digests(view: View) -> dict[Digest, tuple[int | None, str]]:
    """Every blob that a record names: its size where that is known, and who names it."""
    out: dict[Digest, tuple[int | None, str]] = {}
    for trash in view.records(Trash):
        if trash.digest is not None:
            out[trash.digest] = None, f"{os.fsdecode(trash.name)!r} in the trash"
        for record, digest in held_digests(trash):
            if isinstance(record, Placement):
                out[digest] = record.size, f"{os.fsdecode(record.name)!r} in the trash"
    for image in view.records(Image):
        out[image.digest] = image.size, "an image"
    for blob in view.records(Blob):
        out[blob.digest] = blob.size, "a blob's record"
    for receipt in view.records(Receipt):
        out[receipt.digest] = receipt.size, f"{os.fsdecode(receipt.name)!r} in import/"
    for placement in view.records(Placement):
        out[placement.digest] = placement.size, f"{os.fsdecode(placement.name)!r} of a session"
    return out


def _told_in_trash(view: View) -> dict[Digest, tuple[int | None, str]]:
    """Every blob that canvas entries and generations in the trash keep, and which item of it does.

    They may name one that this library never had, so such a blob is missing only if it lies elsewhere.
    """
    return {
        digest: (None, f"{os.fsdecode(trash.name)!r} in the trash")
        for trash in view.records(Trash) for record, digest in held_digests(trash) if not isinstance(record, Placement)
    }  # fmt: skip


class _Found(NamedTuple):
    """What a look at a blob's bytes found: `words` when they are not what they should be, else their size and sums."""

    words: str = ""
    size: int = 0
    sums: bytes = b""
    unchecked: bool = False  # it could not be read, for a reason that says nothing about its bytes


class _Blobs:
    """The blobs against what names them, and against their records."""

    def __init__(self, blobs: LocalBlobs, ground: _Ground, report: Report) -> None:
        self._blobs, self._ground, self._report = blobs, ground, report
        self._named: dict[Digest, tuple[int | None, str]] = {}

    def check(self, progress: Progress, only: Collection[Digest] | None) -> None:
        """Read every blob, or those of `only`, and look for those that are named."""
        with self._ground.engine.read() as txn:
            view = View(txn)
            told = _told_in_trash(view)
            self._named = told | _named_digests(view)
            held = dict(self._blobs.enumerate()) if self._blobs.root.is_dir() else {}
            wanted = held if only is None else {digest: held[digest] for digest in only if digest in held}
            total, done = sum(wanted.values()), 0
            known = self._named.keys() - told.keys() | {digest for digest in told if self._had(view, digest)}
            suspects = [digest for digest in known if digest not in held]
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="fsck") as threads:
                for digest, found in threads.map(self._examine, wanted):
                    done += held[digest]
                    if found.words or _is_of_another(view.blob(digest), found):
                        suspects.append(digest)
                    progress("blobs", done, total)
        if suspects:
            self._confirm(suspects)
        self._report.blobs, self._report.blob_bytes = len(held), sum(held.values())
        self._note_unnamed(held)

    def _had(self, view: View, digest: Digest) -> bool:
        return view.blob(digest) is not None or self._blobs.removal.lost_path(digest).exists()

    def _confirm(self, suspects: list[Digest]) -> None:
        """Look at them a second time: gc, a repair or an import may have been at work on them.

        Each of these changes the records before it takes a blob away, and after it puts one there. So the journal is
        read on first, and what it names now must be there now.
        """
        self._ground.advance()
        with self._ground.engine.read() as txn:
            view = View(txn)
            self._named = _told_in_trash(view) | _named_digests(view)
            given_up = 0
            for digest in suspects:
                _, found = self._examine(digest, cold=True)
                if found.words == _MISSING:
                    blob = view.blob(digest)
                    if blob is not None and blob.given_up_ns:
                        given_up += 1
                    elif digest in self._named:
                        self._add(view, "blob-missing", digest, found.words, "")
                elif found.unchecked:
                    self._add(view, "blob-unchecked", digest, found.words, "")
                elif found.words:
                    self._add(view, "blob-damaged", digest, found.words, "move it away and ")
                elif _is_of_another(view.blob(digest), found):
                    self._report.add(
                        "record-differs", str(self._blobs.path(digest)), "It is what was imported, but the size or the "
                        "block sums that are recorded of it are not its own: reads through a mount fail.",
                        "`mixfs fsck --repair` records the right ones.", tuple(names_of(view, digest)),
                    )  # fmt: skip
            if given_up:
                self._report.notes.append(
                    f"{given_up:,} originals were given up (`mixfs fsck --give-up`): reading them is an error until "
                    "the same files are imported again."
                )

    def _examine(self, digest: Digest, *, cold: bool = False) -> tuple[Digest, _Found]:
        """Look at a blob; `cold`: as the disk has it, not the page cache."""
        if self._blobs.stat(digest) is None:
            return digest, _Found(_MISSING)
        try:
            fd = self._blobs.open(digest)
            try:
                if cold:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                return digest, _Found("", os.fstat(fd).st_size, checked_sums(fd, digest))
            finally:
                os.close(fd)
        except BlobMissing:
            return digest, _Found(_MISSING)
        except BlobDamaged:
            return digest, _Found("Its SHA-256 differs from its name")
        except OSError as error:
            if is_damage(error):
                return digest, _Found(f"It can't be read: {error.strerror}")
            return digest, _Found(f"It could not be checked: {error.strerror}", unchecked=True)

    def _add(self, view: View, kind: str, digest: Digest, words: str, first: str) -> None:
        _, who = self._named.get(digest, (None, "nothing"))
        affected = tuple(names_of(view, digest))
        remedy = (
            f"{RESTORE}, {first}import the same file again, or run `mixfs fsck --repair --from DIR` with a directory "
            "that has a copy; `mixfs fsck --give-up DIGEST` gives it up."
        )
        if kind == "blob-unchecked":
            remedy = "That says nothing about its bytes: remove the cause, and check again."
        elif kind == "blob-missing" and self._blobs.removal.lost_path(digest).exists():
            words, remedy = f"{words}, and is in lost/", "`mixfs fsck --repair` brings it back."
        self._report.add(kind, str(self._blobs.path(digest)), f"{words}; {who} names it.", remedy, affected)

    def _note_unnamed(self, held: dict[Digest, int]) -> None:
        unnamed = [digest for digest in held if digest not in self._named]
        if not unnamed:
            return
        size = sum(held[digest] for digest in unnamed)
        whole = not any(problem.kind.startswith("journal-") for problem in self._report.problems)
        words = (
            "`mixfs gc` moves them to lost/, where `mixfs fsck --adopt-lost` takes them from"
            if whole else "keep them, what named them may be in the damaged journal"
        )  # fmt: skip
        self._report.notes.append(f"{len(unnamed):,} originals ({size:,} bytes) are named by nothing: {words}.")


def rebuild(root: Path) -> None:
    """Make the index again from the journal, whatever state it is in. Raises NotALibrary, FormatTooNew, OSError.

    `Store.rebuild_index` does it beside whoever reads the old one. Where the library can't even be opened with the old
    one, that is moved out of the way first: opening then makes a new one.
    """
    for _ in range(3):
        try:
            with Library.open(root, create=False) as library:
                library.store.rebuild_index()
            return
        except (FormatTooNew, JournalReplaced):
            raise
        except JournalDamaged:
            # Acknowledged commits are missing at its end: the person who asks for this wants to continue.
            with place.FileLock(root / "lock"):
                form = place.bind(root)
                with contextlib.closing(Journal(root / "journal", form.replica)) as journal:
                    if not continue_behind(root, journal, clock.now_ns()):
                        raise
        except (IndexDamaged, *SENSELESS):
            # The index can't even be opened. The name is one that a rebuild sweeps once the new index stands.
            with place.FileLock(root / "lock"), contextlib.suppress(FileNotFoundError):
                os.rename(root / "index", root / f"index.old-{os.getpid()}")
    Library.open(root, create=False).close()
