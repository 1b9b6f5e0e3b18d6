"""Mending what fsck finds: the index from the journal, damaged blobs out of the way, and copies in their place.

Each step is whole in itself and may be done again, so killing a repair at any point does no harm: the next one goes on.
What is left afterwards is told by a second check.

Concurrency: beside a daemon and imports, like fsck; blobs change one by one, the index under the library's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixfs.ids import Digest, digest_from_hex
from mixfs.library import fsck
from mixfs.library.api import Library
from mixfs.library.fsck import Progress
from mixfs.library.fsck_report import Report
from mixfs.library.healing import bring_back, quarantine_if_damaged


@dataclass(slots=True)
class Repaired:
    """What was mended: whether the index was made again, where damaged blobs lie now, and which blobs are back."""

    index: bool = False
    quarantined: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)


def repair(
    root: Path, places: Sequence[Path] = (), progress: Progress = lambda phase, done, total: None
) -> tuple[Repaired, Report]:
    """Check a library, mend what can be mended and say what is left. `places` are directories or files with copies.

    Raises NotALibrary, FormatTooNew, OSError.
    """
    done, found = Repaired(), fsck.check(root, progress)
    if any(problem.kind.startswith("index-") for problem in found.problems):
        fsck.rebuild(root)
        done.index = True
    lost = [_digest(problem.where) for problem in found.problems if problem.kind.startswith("blob-")]
    with Library.open(root, create=False) as library:
        for digest in lost:
            kept = quarantine_if_damaged(library, digest)
            if kept is not None:
                done.quarantined.append(str(kept))
        wanted = _sizes(library, lost)
        back = bring_back(library, wanted, places)
    done.restored = sorted(digest.hex() for digest in back)
    report = fsck.check(root, progress, only=lost)
    return done, report


def _digest(path: str) -> Digest:
    """The digest that a blob's path spells."""
    bucket, rest = Path(path).parts[-2:]
    return digest_from_hex(bucket + rest)


def _sizes(library: Library, digests: list[Digest]) -> dict[Digest, int]:
    """The sizes of those that are not there, as their records have them."""
    with library.read() as view:
        blobs = [view.blob(digest) for digest in digests if library.blobs.stat(digest) is None]
    return {blob.digest: blob.size for blob in blobs if blob is not None}
