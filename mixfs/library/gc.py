"""Garbage collection: lets trash expire, and takes away blobs that nothing names any more.

A blob is named by placements, canvas entries, generations and trash records. A receipt in import/ doesn't keep one: it
stays readable until its blob goes, and goes with it. Annotations stay: the same picture may come again.

Concurrency: whether a blob is named is looked at again inside the write transaction that takes its records away, and
the file is unlinked under the same lock. Who brings a blob in keeps its bytes in staging until they are named (see
`mixfs.blobs.protocol`), so that a blob that goes between the two is brought in anew. Killed between the commit and an
unlink, the file stays, and the next run finds it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixfs import clock
from mixfs.ids import Digest
from mixfs.index import keys
from mixfs.index.engine import prefix_end
from mixfs.library import pieces
from mixfs.library.steadiness import JUMP_S
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.records import Blob, Image, Metadata, Receipt, Trash

if TYPE_CHECKING:
    from mixfs.library.api import Library

TRASH_DAYS = 30.0
# A blob may be a moment old and not yet named; this is far longer than any import takes to come to its commit.
GRACE_HOURS = 24.0
_BATCH = 200
_PAGE = 1000


@dataclass(slots=True)
class Freed:
    """What a run took away, or would: deletions in the trash, blobs and their bytes, receipts."""

    trash: int = 0
    blobs: int = 0
    bytes: int = 0
    receipts: int = 0


def collect(
    library: Library, *, trash_days: float = TRASH_DAYS, grace_hours: float = GRACE_HOURS, dry_run: bool = False,
    progress: Callable[[Freed], None] = lambda freed: None,
) -> Freed:  # fmt: skip
    """Let trash older than `trash_days` expire, then remove what nothing names and is older than `grace_hours`.

    With `dry_run` nothing is changed; blobs that only expired trash names are counted too.
    """
    freed = Freed()
    if not dry_run:
        library.store.steadiness.require("Nothing was freed.")
        _redate(library)
    before_ns = clock.now_ns() - int(trash_days * 86400e9)
    expired, freed.trash = _expired(library, before_ns)
    if not dry_run:
        for at in range(0, len(expired), _BATCH):
            expire_trash(library, expired[at : at + _BATCH])
            pieces.rest()
    gone = frozenset(expired)
    old_s = clock.now_s() - grace_hours * 3600
    candidates = list(_unnamed(library, old_s, gone))
    receipts = _receipts_of(library, frozenset(digest for digest, _ in candidates))
    for at in range(0, len(candidates), _BATCH):
        batch = candidates[at : at + _BATCH]
        if dry_run:
            for digest, size in batch:
                freed.blobs += 1
                freed.bytes += size
                freed.receipts += len(receipts.get(digest, ()))
        else:
            _take_away(library, batch, receipts, old_s, freed)
            pieces.rest()
        progress(freed)
    return freed


def expire_trash(library: Library, trash_ids: list[str]) -> None:
    """Delete trash records for good; the next `collect` frees what only they named."""

    def write(txn: Txn) -> None:
        for trash_id in trash_ids:
            txn.delete(Trash, trash_id)

    library.commit(write)


def _redate(library: Library) -> None:
    """What was deleted in days to come, by a clock that was wrong, was deleted now: else it would never expire."""

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


def _expired(library: Library, before_ns: int) -> tuple[list[str], int]:
    """The items of the trash that expire, and how many deletions they belong to."""
    with library.read() as view:
        found = {trash.id: trash.group for trash in view.records(Trash) if trash.deleted_ns < before_ns}
    return list(found), len(set(found.values()))


def is_named(view: View, digest: Digest, but: frozenset[str] = frozenset()) -> bool:
    """Whether a record keeps a blob; trash records in `but` don't count."""
    if but:
        prefix = keys.referrers(digest)
        for key, _ in view.txn.scan(prefix, prefix_end(prefix)):
            if key[len(prefix)] != Trash.KIND:
                return True
        return any(trash.id not in but for trash in view.referrers(Trash, digest))
    prefix = keys.referrers(digest)
    return next(iter(view.txn.scan(prefix, prefix_end(prefix))), None) is not None


def _unnamed(library: Library, old_s: float, but: frozenset[str]) -> Iterator[tuple[Digest, int]]:
    """(digest, size) of each blob file that nothing names and that lay there before `old_s`."""
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
        # One of days to come was set by a clock that was wrong.
        ctime = os.stat(library.blobs.path(digest)).st_ctime
        return ctime < old_s or ctime > clock.now_s() + JUMP_S
    except FileNotFoundError:
        return False


def _receipts_of(library: Library, digests: frozenset[Digest]) -> dict[Digest, list[str]]:
    found: dict[Digest, list[str]] = {}
    if digests:
        with library.read() as view:
            for receipt in view.records(Receipt):
                if receipt.digest in digests:
                    found.setdefault(receipt.digest, []).append(receipt.id)
    return found


def _take_away(
    library: Library, batch: list[tuple[Digest, int]], receipts: dict[Digest, list[str]], old_s: float, freed: Freed
) -> None:
    def write(txn: Txn) -> list[tuple[Digest, int, int]]:
        gone = []
        for digest, size in batch:
            if is_named(txn, digest) or not _is_old(library, digest, old_s):
                continue
            held = 0
            for receipt_id in receipts.get(digest, ()):
                receipt = txn.get(Receipt, receipt_id)
                # Another version may have been written under its name since.
                if receipt is not None and receipt.digest == digest:
                    held += txn.delete(Receipt, receipt_id)
            for cls in (Metadata, Image, Blob):
                txn.delete(cls, digest.hex())
            gone.append((digest, size, held))
        return gone

    def unlink(gone: list[tuple[Digest, int, int]]) -> None:
        for digest, size, held in gone:
            library.blobs.remove(digest)
            library.thumbnails.path(digest).unlink(missing_ok=True)
            freed.blobs += 1
            freed.bytes += size
            freed.receipts += held

    library.store.commit(write, then=unlink)
