"""Accepting that part of a journal is lost: what remains is made visible, what has lost its place is listed.

Afterwards gc works again. It moves the originals listed here to lost/, where `mixfs fsck --adopt-lost` takes them from.

Concurrency: beside a daemon and imports; commits in pieces.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mixfs.library import editing, fsck
from mixfs.library.api import Library
from mixfs.library.lost import RECOVERED
from mixfs.library.transaction import Txn
from mixfs.records import Blob, Entry, Folder, Image, Placement, Receipt, Session

if TYPE_CHECKING:
    from mixfs.library.view import View

_BATCH = 200


@dataclass(frozen=True, slots=True)
class Unplaced:
    """An original that nothing references: its size (bytes), and what is still known of it, in words."""

    digest: str
    size: int
    known: str


@dataclass(slots=True)
class Acceptance:
    """What is accepted as lost (`gaps`, in words), and what that leaves.

    `sessions` are made again because records of theirs are left, under the titles given here (ids, until that is done);
    `moved` are pictures and files whose folder is gone, which stand in images/ then. `accepted` is False while nothing
    was done yet.
    """

    gaps: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)
    accepted: bool = False


def accept_loss(root: Path, confirm: Callable[[Acceptance], bool] = lambda found: True) -> Acceptance:
    """Accept what is missing from the journals of the library in `root`. Nothing is deleted by that.

    `confirm` is told first what there is to accept, and what follows. If it returns False, or raises, nothing is
    accepted; what it was not told of, because it came up later, is not accepted either.
    Raises NotALibrary, FormatTooNew, OSError.
    """
    # Also where the library can't be opened because acknowledged commits are missing at the journal's end.
    fsck.rebuild(root)
    with Library.open(root, create=False) as library:
        gaps = library.store.gaps()
        if not gaps:
            return Acceptance()
        with library.read() as view:
            missing = _missing_sessions(view)
            folders = [each.id for each in view.records(Folder) if _is_lost(view, each.parent_id)]
            placements = [each for each in view.records(Placement) if _is_lost(view, each.folder_id)]
        done = Acceptance(
            [str(gap) for gap in gaps], missing, [os.fsdecode(each.name) for each in placements],
            list(_unplaced(library)),
        )  # fmt: skip
        if not confirm(done):
            return done
        done.sessions = _revive(library, missing)
        done.moved = _move_out(library, folders, [each.id for each in placements])
        done.gaps = [str(gap) for gap in library.store.accept_gaps(gaps)]
        done.accepted = True
    return done


def _missing_sessions(view: View) -> list[str]:
    """The ids of sessions that are gone and have records."""
    # Generations that were read from pictures go where these are, so they don't count here.
    wanted = {each.session_id for each in view.records(Placement)}
    wanted |= {each.session_id for each in view.records(Entry)}
    wanted |= {each.session_id for each in view.records(Folder)}
    return sorted(session_id for session_id in wanted if view.get(Session, session_id) is None)


def _revive(library: Library, missing: list[str]) -> list[str]:
    """Make sessions again; returns their names."""
    names = []
    for session_id in missing:

        def revive(txn: Txn, session_id: str = session_id) -> Session | None:
            if txn.get(Session, session_id) is not None:
                return None
            return editing.create_session(txn, RECOVERED, session_id=session_id)

        session = library.commit(revive)
        if session is not None:
            names.append(os.fsdecode(session.name))
    return names


def _move_out(library: Library, lost: list[str], placements: list[str]) -> list[str]:
    """Move folders and placements out of folders that are gone; returns the names of the placements."""
    moved: list[str] = []

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
        moved += library.commit(
            lambda txn, at=at: move_placements(txn, placements[at : at + _BATCH])  # type: ignore[misc]
        )
    return moved


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
