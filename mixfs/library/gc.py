"""Garbage collection: lets trash expire, moves originals that nothing references to lost/, and deletes them from there.

An original is referenced by placements and trash records. Canvas entries and generations that name one don't keep it
from being moved to lost/, but while they do, it is not deleted there. A receipt in import/ doesn't keep one: it stays
readable until its original is moved, and goes with it. Annotations stay: the same picture may come again. An original
lies in lost/ for as long as a deletion lies in the trash; `mixfs.library.lost` takes it back. One that no journal has
ever named stays there until somebody does: it may be newer than a journal that was restored from a backup.

What must not change: nothing is moved or deleted on the word of the index alone. While the library is incomplete
(`Store.require_whole`), or a record mentions an original that the index calls unreferenced, gc changes nothing at all.

Concurrency: whether an original is referenced is looked at again inside the write transaction that takes its records
away, and the file is moved under the same lock. Imports keep their bytes in staging until they are named (see
`mixfs.blobs.protocol`), and publish them again when the original was moved meanwhile. An original's note is durable
before its records are deleted. Killed between the commit and the move, the file stays in blobs/, and the next run
finds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cbor2

from mixfs import clock
from mixfs.errors import IndexDamaged
from mixfs.ids import Digest
from mixfs.index import keys
from mixfs.index.engine import prefix_end
from mixfs.library import derived_generations, pieces, restoring
from mixfs.library.lost import Notes, digests_in, lost, redate, settle_notes
from mixfs.library.steadiness import JUMP_S
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import named_digests
from mixfs.records import (
    KINDS,
    SENSELESS,
    Annotation,
    Blob,
    Entry,
    Generation,
    Image,
    Metadata,
    Receipt,
    Trash,
    from_map,
)

if TYPE_CHECKING:
    from mixfs.library.api import Library

TRASH_DAYS = 30.0
# A blob may be a moment old and not yet named; this is far longer than any import takes to come to its commit.
GRACE_HOURS = 24.0
_BATCH = 200
# Originals whose notes are made in one pass over the journal.
_NOTED = 4000
_PAGE = 1000
# What may mention an original without keeping it.
_NO_REFERENCE = frozenset(cls.KIND for cls in (Blob, Image, Metadata, Annotation, Receipt, Entry, Generation))


@dataclass(slots=True)
class Freed:
    """What a run did, or would do.

    `blobs` and `bytes` are originals that were moved to lost/, `deleted` and `deleted_bytes` those that were deleted
    from there for good, `returned` those that came back because something references them; `trash` are deletions
    that expired, `receipts` names in import/.
    """

    trash: int = 0
    blobs: int = 0
    bytes: int = 0
    receipts: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    returned: int = 0


@dataclass(slots=True)
class _Run:
    """The settings of a run, and what it has done so far."""

    library: Library
    old_s: float  # originals whose file is younger (ctime) stay
    dry_run: bool
    progress: Callable[[Freed], None]
    freed: Freed = field(default_factory=Freed)


def collect(
    library: Library, *, trash_days: float = TRASH_DAYS, grace_hours: float = GRACE_HOURS, dry_run: bool = False,
    progress: Callable[[Freed], None] = lambda freed: None,
) -> Freed:  # fmt: skip
    """Let trash older than `trash_days` expire, move what nothing references and is older than `grace_hours` to lost/,
    and delete what has been there for `trash_days`. What is moved is never deleted by the same run.

    With `dry_run` nothing is changed; originals that only expired trash references are counted too.
    Raises LibraryIncomplete, ClockJumped, IndexDamaged; then nothing (more) is changed.
    """
    library.store.require_whole()
    if not dry_run:
        library.store.steadiness.require("Nothing was freed.")
        _redate(library)
        _settle_generations(library)
    run = _Run(library, clock.now_s() - grace_hours * 3600, dry_run, progress)
    before_ns = clock.now_ns() - int(trash_days * 86400e9)
    expired, run.freed.trash = _expired(library, before_ns)
    _empty_lost(run, before_ns)
    if not dry_run:
        for at in range(0, len(expired), _BATCH):
            library.store.require_whole(thorough=False)
            expire_trash(library, expired[at : at + _BATCH])
            pieces.rest()
    _move_unreferenced(run, frozenset(expired))
    return run.freed


def expire_trash(library: Library, trash_ids: list[str]) -> None:
    """Delete trash records for good; the next `collect` finds what only they referenced."""

    def write(txn: Txn) -> None:
        for trash_id in trash_ids:
            restoring.end(txn, trash_id)

    library.commit(write)


def _settle_generations(library: Library) -> None:
    """Earlier versions left derived generations behind when their pictures were moved or deleted: settle those."""
    after: str | None = None
    while True:
        with library.read() as view:
            page = list(itertools.islice(view.records(Generation, after=after), _PAGE))
            ids = [each.id for each in page if derived_generations.is_left_behind(view, each)]
        for at in range(0, len(ids), _BATCH):
            library.commit(lambda txn: derived_generations.settle_left_behind(txn, ids[at : at + _BATCH]))  # noqa: B023
            pieces.rest()
        if len(page) < _PAGE:
            return
        after = page[-1].id


def _redate(library: Library) -> None:
    """What was deleted, or moved to lost/, in days to come, by a clock that was wrong, was now: else it would never
    expire."""
    latest_ns = clock.now_ns() + int(JUMP_S * 1e9)
    with library.read() as view:
        wrong = [trash.id for trash in view.records(Trash) if trash.deleted_ns > latest_ns]

    def write(txn: Txn, batch: list[str]) -> None:
        for trash_id in batch:
            trash = txn.get(Trash, trash_id)
            if trash is not None:
                txn.put(dataclasses.replace(trash, deleted_ns=txn.now_ns))

    for at in range(0, len(wrong), _BATCH):
        library.commit(lambda txn: write(txn, wrong[at : at + _BATCH]))  # noqa: B023
        pieces.rest()
    redate(library.blobs.removal, latest_ns)


def _expired(library: Library, before_ns: int) -> tuple[list[str], int]:
    """The items of the trash that expire, and how many deletions they belong to."""
    with library.read() as view:
        found = {trash.id: trash.group for trash in view.records(Trash) if trash.deleted_ns < before_ns}
    return list(found), len(set(found.values()))


# -- to lost/


def _move_unreferenced(run: _Run, expired: frozenset[str]) -> None:
    library = run.library
    candidates = dict(_unreferenced(library, run.old_s, expired))
    if not candidates:
        return
    for digest in _mentioned(library, frozenset(candidates), expired):
        del candidates[digest]
    receipts = _receipts_of(library, frozenset(candidates))
    if run.dry_run:
        run.freed.blobs, run.freed.bytes = len(candidates), sum(candidates.values())
        run.freed.receipts = sum(len(receipts.get(digest, ())) for digest in candidates)
        return
    waiting = list(candidates.items())
    for start in range(0, len(waiting), _NOTED):
        part = waiting[start : start + _NOTED]
        notes = Notes(library, (digest for digest, _ in part))
        for at in range(0, len(part), _BATCH):
            library.store.require_whole(thorough=False)
            _move(run, dict(part[at : at + _BATCH]), receipts, notes)
            pieces.rest()
            run.progress(run.freed)


def is_named(view: View, digest: Digest, but: frozenset[str] = frozenset()) -> bool:
    """Whether a record references an original; trash records in `but` don't count."""
    if view.is_placed(digest):
        return True
    if but:
        return any(trash.id not in but for trash in view.referrers(Trash, digest))
    return view.is_referenced(digest)


def _unreferenced(library: Library, old_s: float, but: frozenset[str]) -> Iterator[tuple[Digest, int]]:
    """(digest, size) of each blob file that nothing references and that lay there before `old_s`."""
    blobs = library.blobs.enumerate()
    while page := [found for found, _ in zip(blobs, range(_PAGE), strict=False)]:
        with library.read() as view:
            unnamed = [(digest, size) for digest, size in page if not is_named(view, digest, but)]
        for digest, size in unnamed:
            if _is_old(library, digest, old_s):
                yield digest, size


def _is_old(library: Library, digest: Digest, old_s: float) -> bool:
    """By ctime: publishing a blob, and discarding its name in staging, set it."""
    try:
        return os.stat(library.blobs.path(digest)).st_ctime < old_s
    except FileNotFoundError:
        return False


def _mentioned(library: Library, candidates: frozenset[Digest], expired: frozenset[str] = frozenset()) -> set[Digest]:
    """Those candidates that a record mentions after all, in a way that this version doesn't know: they must stay.

    Looks through the bytes of every record, without decoding them. Raises IndexDamaged for a mention that the index
    should have had as a reference.
    """
    skip, out = {keys.record(Trash.KIND, trash_id) for trash_id in expired}, set()
    for kind in range(256):
        if kind in _NO_REFERENCE:
            continue
        prefix = after = keys.records_of_kind(kind)
        while after:
            # A page at a time: the index's file grows while a read is open.
            with library.read() as view:
                rows = view.txn.scan(after, prefix_end(prefix))
                page = [row for row, _ in zip(rows, range(_PAGE), strict=False)]
                mentions = ((row, digests_in(row[1], candidates)) for row in page if row[0] not in skip)
                # One that was named since the candidates were chosen is no damage.
                found = [(row, digest) for row, digests in mentions for digest in digests
                         if not view.is_referenced(digest)]  # fmt: skip
            for (key, value), digest in found:
                if _is_reference(kind, value, digest):
                    raise IndexDamaged(
                        f"{library.root / 'index'}: {KINDS[kind].__name__} {key[2:].hex()} references the original "
                        f"{digest.hex()}, and the index says that nothing does. Nothing was moved or deleted: run "
                        "`mixfs rebuild-index`."
                    )
                out.add(digest)
            after = page[-1][0] + b"\0" if len(page) == _PAGE else b""
    return out


def _is_reference(kind: int, value: bytes, digest: Digest) -> bool:
    """Whether the index of this version has a reference for a record's mention of an original."""
    try:
        data = cbor2.loads(value)[2]
        record = from_map(Trash, data) if kind == Trash.KIND else Trash(id="", records=((kind, "", data),))
        return digest in named_digests(record)
    except SENSELESS:
        return False


def _receipts_of(library: Library, digests: frozenset[Digest]) -> dict[Digest, list[str]]:
    found: dict[Digest, list[str]] = {}
    if digests:
        with library.read() as view:
            for receipt in view.records(Receipt):
                if receipt.digest in digests:
                    found.setdefault(receipt.digest, []).append(receipt.id)
    return found


def _move(run: _Run, batch: dict[Digest, int], receipts: dict[Digest, list[str]], known: Notes) -> None:
    library, removal, now_ns = run.library, run.library.blobs.removal, clock.now_ns()
    with library.read() as view:
        notes = {digest: known.note(view, digest, batch[digest], now_ns, "nothing references it") for digest in batch}
    removal.write_notes(notes)

    def write(txn: Txn) -> dict[Digest, int]:
        """The originals that are still unreferenced, and how many receipts go with each."""
        leaving = {}
        for digest in batch:
            if txn.is_referenced(digest) or not _is_old(library, digest, run.old_s):
                continue
            held = 0
            for receipt_id in receipts.get(digest, ()):
                receipt = txn.get(Receipt, receipt_id)
                # Another version may have been written under its name since.
                if receipt is not None and receipt.digest == digest:
                    held += txn.delete(Receipt, receipt_id)
            for cls in (Metadata, Image, Blob):
                txn.delete(cls, digest.hex())
            leaving[digest] = held
        return leaving

    def move(leaving: dict[Digest, int]) -> None:
        # Another run may have tidied a note away that seemed to belong to nothing.
        removal.write_notes(
            {digest: notes[digest] for digest in leaving if not removal.note_path(digest).exists()}
        )  # fmt: skip
        for digest in removal.set_aside(leaving):
            run.freed.blobs += 1
            run.freed.bytes += batch[digest]
        run.freed.receipts += sum(leaving.values())

    leaving = library.store.commit(write, then=move)
    settle_notes(library, batch.keys() - leaving.keys())
    for digest in batch:
        with library.read() as view:
            if view.image(digest) is None:
                with contextlib.suppress(OSError):
                    library.thumbnails.path(digest).unlink(missing_ok=True)


# -- from lost/


def _empty_lost(run: _Run, before_ns: int) -> None:
    """Delete what has been in lost/ since `before_ns` or longer; bring back what is referenced again."""
    library, removal = run.library, run.library.blobs.removal
    found = list(lost(removal))
    with library.read() as view:
        referenced = {each.digest for each in found if view.is_referenced(each.digest)}
        # On a canvas, or in an app's generation: it is shown there no more, but nothing deletes the only copy of it.
        mentioned = {each.digest for each in found if view.is_mentioned(each.digest)}
    for each in found:
        if each.digest in referenced:
            run.freed.returned += 1
            if not run.dry_run and removal.bring_back(each.digest):
                removal.delete_duplicate(each.digest)
    if not run.dry_run:
        with library.read() as view:
            placed = [digest for digest in removal.notes() if view.is_placed(digest)]
        settle_notes(library, placed)
    # No journal here has ever named the others: they may be newer than a journal that was restored from a backup.
    due = {
        each.digest: each.size
        for each in found if each.since_ns < before_ns and each.digest not in mentioned and each.is_known
    }  # fmt: skip
    for digest in _mentioned(library, frozenset(due)) if due else ():
        del due[digest]
    if run.dry_run:
        run.freed.deleted += len(due)
        run.freed.deleted_bytes += sum(due.values())
        return
    waiting = list(due)
    for at in range(0, len(waiting), _BATCH):
        library.store.require_whole(thorough=False)
        batch = waiting[at : at + _BATCH]

        def still(txn: Txn, batch: list[Digest] = batch) -> list[Digest]:
            return [digest for digest in batch if not txn.is_mentioned(digest)]

        def delete(leaving: list[Digest]) -> None:
            removal.delete(leaving)
            run.freed.deleted += len(leaving)
            run.freed.deleted_bytes += sum(due[digest] for digest in leaving)

        library.store.commit(still, then=delete)
        pieces.rest()
        run.progress(run.freed)
