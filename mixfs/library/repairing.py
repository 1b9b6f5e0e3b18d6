"""Mending what fsck finds: the index from the journal, damaged blobs out of the way, and copies in their place.

Each step is whole in itself and may be done again, so killing a repair at any point does no harm: the next one goes on.
What is left afterwards is told by a second check.

Concurrency: beside a daemon and imports, like fsck; blobs change one by one, the index under the library's lock.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixfs.blobs.sums import checked_sums
from mixfs.errors import BlobDamaged, BlobMissing
from mixfs.ids import Digest, digest_from_hex
from mixfs.library import fsck
from mixfs.library.api import Library
from mixfs.library.fsck import Progress
from mixfs.library.fsck_report import Report
from mixfs.library.fsck_rows import damaged_thumbnails
from mixfs.library.healing import bring_back, quarantine_if_damaged
from mixfs.library.transaction import Txn
from mixfs.records import Blob


@dataclass(slots=True)
class Repaired:
    """What was mended: whether the index was made again, where damaged blobs lie now, which blobs are back, of which
    the record was put right, and how many thumbnails were removed.

    `unchecked` are blobs that could not be read for a reason that says nothing about their bytes.
    """

    index: bool = False
    recorded: list[str] = field(default_factory=list)
    thumbnails: int = 0
    quarantined: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def repair(
    root: Path, places: Sequence[Path] = (), progress: Progress = lambda phase, done, total: None
) -> tuple[Repaired, Report]:
    """Check a library, mend what can be mended and say what is left. `places` are directories or files with copies.

    Raises NotALibrary, FormatTooNew, OSError.
    """
    done, found = Repaired(), fsck.check(root, progress)
    kinds = {problem.kind for problem in found.problems}
    # While the journal lacks something, the index may be all that still knows of it.
    if kinds & {"index-damaged", "index-differs"} and "journal-damaged" not in kinds:
        fsck.rebuild(root)
        done.index = True
    if any(problem.kind == "thumbnail-damaged" for problem in found.problems):
        for path in damaged_thumbnails(root / "thumbnails"):
            path.unlink(missing_ok=True)
            done.thumbnails += 1
    lost = [_digest(problem.where) for problem in found.problems if problem.kind.startswith("blob-")]
    differing = [_digest(problem.where) for problem in found.problems if problem.kind == "record-differs"]
    back = set()
    with Library.open(root, create=False) as library:
        for digest in lost:
            if not library.has_blob(digest) and library.blobs.removal.bring_back(digest):
                back.add(digest)
            try:
                kept = quarantine_if_damaged(library, digest)
            except OSError:
                done.unchecked.append(digest.hex())
                continue
            if kept is not None:
                done.quarantined.append(str(kept))
        done.recorded = [digest.hex() for digest in differing if _record_again(library, digest)]
        wanted = _sizes(library, lost)
        back |= bring_back(library, wanted, places)
    done.restored = sorted(digest.hex() for digest in back)
    report = fsck.check(root, progress, only=[*lost, *differing])
    return done, report


def _digest(path: str) -> Digest:
    """The digest that a blob's path spells."""
    bucket, rest = Path(path).parts[-2:]
    return digest_from_hex(bucket + rest)


def _record_again(library: Library, digest: Digest) -> bool:
    """Record the size and the block sums that a blob has; False when it is not what was imported, or gone."""
    try:
        fd = library.blobs.open(digest)
        try:
            size, sums = os.fstat(fd).st_size, checked_sums(fd, digest)
        finally:
            os.close(fd)
    except (BlobMissing, BlobDamaged):
        return False

    def write(txn: Txn) -> bool:
        blob = txn.blob(digest)
        if blob is not None:
            txn.put(dataclasses.replace(blob, size=size, sums=sums))
        return blob is not None

    return library.commit(write)


def _sizes(library: Library, digests: list[Digest]) -> dict[Digest, int]:
    """The sizes of those that are not there, as their records have them, and of those that were given up."""
    with library.read() as view:
        blobs = [view.blob(digest) for digest in digests]
        blobs += [blob for blob in view.records(Blob) if blob.given_up_ns]
    return {blob.digest: blob.size for blob in blobs if blob is not None and not library.has_blob(blob.digest)}
