"""Accepting that part of a journal is lost: what remains is made visible, what has lost its place is listed.

Afterwards gc works again. It moves the originals listed here to lost/, where `mixfs fsck --adopt-lost` takes them from.

Concurrency: beside a daemon and imports; commits in pieces.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mixfs.library import editing, fsck
from mixfs.library.api import Library
from mixfs.library.transaction import Txn
from mixfs.records import Blob, Entry, Folder, Image, Placement, Receipt, Session

if TYPE_CHECKING:
    from mixfs.library.view import View

RECOVERED = "Recovered"
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Unplaced:
    """An original that nothing references: its size (bytes), and what is still known of it, in words."""

    digest: str
    size: int
    known: str


@dataclass(slots=True)
class Acceptance:
    """What was accepted as lost (`gaps`, in words), and what that leaves.

    `sessions` were made again because records of theirs are left, under the titles given here; `moved` are pictures and
    files whose folder is gone, which stand in images/ now.
    """

    gaps: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)


def accept_loss(root: Path) -> Acceptance:
    """Accept what is missing from the journals of the library in `root`. Nothing is deleted by that.

    Raises NotALibrary, FormatTooNew, OSError.
    """
    # Also where the library can't be opened because acknowledged commits are missing at the journal's end.
    fsck.rebuild(root)
    done = Acceptance()
    with Library.open(root, create=False) as library:
        if not library.store.gaps():
            return done
        _revive_sessions(library, done)
        _move_out_of_lost_folders(library, done)
        done.unplaced = list(_unplaced(library))
        done.gaps = [str(gap) for gap in library.store.accept_gaps()]
    return done


def _revive_sessions(library: Library, done: Acceptance) -> None:
    with library.read() as view:
        # Generations that were read from pictures go where these are, so they don't count here.
        wanted = {each.session_id for each in view.records(Placement)}
        wanted |= {each.session_id for each in view.records(Entry)}
        wanted |= {each.session_id for each in view.records(Folder)}
        missing = sorted(session_id for session_id in wanted if view.get(Session, session_id) is None)

    for session_id in missing:

        def revive(txn: Txn, session_id: str = session_id) -> Session | None:
            if txn.get(Session, session_id) is not None:
                return None
            return editing.create_session(txn, RECOVERED, session_id=session_id)

        session = library.commit(revive)
        if session is not None:
            done.sessions.append(os.fsdecode(session.name))


def _move_out_of_lost_folders(library: Library, done: Acceptance) -> None:
    with library.read() as view:
        lost = [each.id for each in view.records(Folder) if _is_lost(view, each.parent_id)]
        placements = [each.id for each in view.records(Placement) if _is_lost(view, each.folder_id)]

    def move_folders(txn: Txn, ids: list[str]) -> None:
        for folder_id in ids:
            folder = txn.get(Folder, folder_id)
            if folder is not None and _is_lost(txn, folder.parent_id):
                txn.put(dataclasses.replace(folder, parent_id=None))

    def move_placements(txn: Txn, ids: list[str]) -> list[str]:
        moved = []
        for placement_id in ids:
            placement = txn.get(Placement, placement_id)
            if placement is not None and _is_lost(txn, placement.folder_id):
                txn.put(dataclasses.replace(placement, folder_id=None))
                moved.append(os.fsdecode(placement.name))
        return moved

    for at in range(0, len(lost), _BATCH):
        library.commit(lambda txn, at=at: move_folders(txn, lost[at : at + _BATCH]))  # type: ignore[misc]
    for at in range(0, len(placements), _BATCH):
        done.moved += library.commit(
            lambda txn, at=at: move_placements(txn, placements[at : at + _BATCH])  # type: ignore[misc]
        )


def _is_lost(view: View, folder_id: str | None) -> bool:
    return folder_id is not None and view.get(Folder, folder_id) is None


def _unplaced(library: Library) -> Iterator[Unplaced]:
    """Every original that nothing references, and what is still known of it."""
    blobs = dict(library.blobs.enumerate())
    with library.read() as view:
        names: dict[bytes, str] = {}
        for receipt in view.records(Receipt):
            names.setdefault(receipt.digest, f"import/…/{os.fsdecode(receipt.name)}")
        for digest, size in blobs.items():
            if not view.is_referenced(digest):
                yield Unplaced(digest.hex(), size, _known(view, digest, names.get(digest, "")))


def _known(view: View, digest: bytes, name: str) -> str:
    image, blob = view.get(Image, digest.hex()), view.get(Blob, digest.hex())
    kind = blob.media_type if blob is not None else ""
    pixels = f"{image.width} × {image.height}" if image is not None and image.width else ""
    return ", ".join(filter(None, (name, kind, pixels))) or "nothing is known of it"
