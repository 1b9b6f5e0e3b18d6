"""What is wrong with an open library now: for .mixfs/health.json, `mixfs doctor` and `mixfs wait`.

What went wrong and is over stands in problems.jsonl (`mixfs.library.problems`); here is what still needs attention.

Concurrency: any thread. Blocks for one page of index and one directory listing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixfs.ids import Digest
from mixfs.library.healing import is_given_up

if TYPE_CHECKING:
    from mixfs.library.api import Library

# Bytes on the library's disk below which commits and files that come in are about to be refused.
FULL_DISK = 16 << 20


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that needs attention. `kind` is for programs, `remedy` what to do about it."""

    kind: str
    text: str
    remedy: str


def troubles(library: Library) -> list[Trouble]:
    """Everything that is wrong with a library now; none when it is well."""
    if displaced := library.store.displacement():
        # Everything else would be told of other files than those that are open.
        return [Trouble("library-replaced", displaced, "What was closed stays in the old directory's staging/.")]
    found = []
    if gaps := library.store.gaps():
        found.append(
            Trouble(
                "incomplete", f"The journal is incomplete, so nothing is deleted: {gaps[0]}.",
                "`mixfs fsck` tells more. Restore the segment from a backup and run `mixfs rebuild-index`, or "
                "accept the loss with `mixfs fsck --accept-loss`.",
            )
        )  # fmt: skip
    damaged = damaged_originals(library)
    if damaged:
        found.append(
            Trouble(
                "damaged", f"{len(damaged):,} originals are damaged and lie in quarantine/, {damaged[0].hex()} first.",
                "`mixfs fsck` names the pictures; `mixfs fsck --repair --from DIR` looks for copies in a directory.",
            )
        )  # fmt: skip
    status = os.statvfs(library.root)
    free = status.f_bavail * status.f_frsize
    if free < FULL_DISK:
        found.append(
            Trouble("disk-full", f"Only {free:,} bytes are free on the disk of {library.root}.", "Make room there.")
        )
    if not library.store.read_only and not library.store.is_current():
        found.append(
            Trouble("index-behind", "The index lacks what the journal has.", "It is caught up by itself; make room.")
        )
    if library.pool.problem:
        found.append(
            Trouble(
                "workers-failed", f"The processes that read pictures can't be started: {library.pool.problem}.",
                f"Pictures wait; the next try is in {library.pool.retry_in_s:.0f} s. `mixfs doctor` says more.",
            )
        )  # fmt: skip
    return found


def damaged_originals(library: Library) -> list[Digest]:
    """Originals that were moved to quarantine/, unless a good copy is back, nothing references them, or the user gave
    them up."""
    try:
        names = os.listdir(library.blobs.removal.quarantined)
    except OSError:
        return []
    digests = set()
    for name in names:
        # DIGEST.blob, or DIGEST-2.blob for one that was damaged again.
        stem, dot, kind = name.partition(".")
        if dot and kind == "blob" and len(stem) >= 64:
            try:
                digests.add(Digest(bytes.fromhex(stem[:64])))
            except ValueError:
                continue
    with library.read() as view:
        return sorted(
            digest for digest in digests
            if library.blobs.stat(digest) is None and view.is_referenced(digest) and not is_given_up(view, digest)
        )  # fmt: skip
