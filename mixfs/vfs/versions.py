"""Versions that were closed whole, and overwritten or removed before they were taken in.

A picture that a program has written and closed is kept, however soon the next one takes its name: its bytes get a
second name in staging, and the intake looks at them like at any file. A complete picture that nothing else names goes
to the trash of the session it was meant for; anything else is forgotten. Handlers look only at the first bytes.

Concurrency: `keep` waits for no lock, because its callers may hold the tree's. Whoever is about to write calls it too,
and gives the file bytes of its own afterwards, so that a version is never written to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from mixfs.errors import NotFoundError
from mixfs.ids import Digest, new_id
from mixfs.library import editing
from mixfs.library.gc import is_named
from mixfs.library.ingest import Incoming, admit, admit_blob, area_of
from mixfs.library.storage_v2 import IMAGES, POOL_ID, POOL_TITLE
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.media.sniff import HEAD_SIZE, IMAGE_TYPES, sniff
from mixfs.media.types import Inspection
from mixfs.records import Placement, Session
from mixfs.vfs.records_of import IMPORT_ROOT, ancestors, image_folder, import_folder, taken_in_from, title_of
from mixfs.vfs.staging import MAX_VERSION_BYTES, MAX_VERSIONS, Aside, Staged
from mixfs.vfs.tree import Tree

OVERWRITTEN, DELETED = "overwritten", "deleted"


async def keep(tree: Tree, staged: Staged, reason: str) -> None:
    """Before what a file holds goes. Raises OSError where it can't be kept, and then nothing may go."""
    intake = staged.intake
    if not (staged.closed and taken_in_from(staged.directory) and staged.broken_at is None) or intake is None:
        return
    size = intake.size
    if not size:
        return
    goes = reason == DELETED and staged.key not in tree.open_nodes

    def look() -> tuple[Path, bool] | None:
        # A descriptor of our own: the intake's may be parked meanwhile.
        with intake.path.open("rb", buffering=0) as file:
            if sniff(file.read(HEAD_SIZE)) not in IMAGE_TYPES:
                return None
        return tree.staging.second_name(staged, goes=goes) if may_keep else None

    may_keep = tree.staging.may_keep(staged, size)
    named = await tree.in_thread(look)
    if named is not None:
        path, shared = named
        staged.shared = staged.shared or (shared and not goes)
        tree.staging.set_aside(staged, path, _aside(tree, staged.directory, reason))
        tree.wake()
    elif not may_keep:
        _report(tree, staged)


def _report(tree: Tree, staged: Staged) -> None:
    if tree.staging.tell_once(staged):
        name = staged.name.decode("utf-8", "replace")
        tree.library.store.problems.report(
            "version-not-kept",
            f"{name} was saved again before it was taken in more than {MAX_VERSIONS} times, or with more than "
            f"{MAX_VERSION_BYTES >> 20} MiB, in a day: further versions in between are not kept.",
            name=name,
        )  # fmt: skip


def _aside(tree: Tree, directory: bytes, reason: str) -> Aside:
    """Where what was in a directory belongs: asked now, for the directory may be gone soon."""
    session_id, title, folder_id = None, "", None
    with tree.library.read() as view:
        try:
            if directory == IMAGES:
                session_id, title = POOL_ID, POOL_TITLE
            elif directory[:1] == b"p":
                session_id, folder_id = image_folder(view, directory)
            elif directory != IMPORT_ROOT:
                folder = import_folder(view, directory)
                *_, top = ancestors(view, folder)
                session_id, title = top.session_id, title_of(top.name)
                folder_id = folder.folder_id if folder is not None and folder.session_id == session_id else None
        except (NotFoundError, ValueError):
            pass
        session = view.get(Session, session_id) if session_id is not None else None
    return Aside(session_id, session.title if session is not None else title, folder_id, reason)


def is_worth_keeping(
    view: View, digest: Digest, inspection: Inspection | None, has_blob: Callable[[Digest], bool]
) -> bool:
    """Whether a version is a complete picture that neither the library nor its trash has.

    Where they name it and its bytes are missing, or were damaged and are in quarantine/, it heals them.
    """
    if is_named(view, digest):
        return not has_blob(digest)
    if inspection is not None:
        return inspection.media_type in IMAGE_TYPES and inspection.problem is None
    image = view.image(digest)
    return image is not None and image.problem is None


def admit_version(txn: Txn, aside: Aside, incoming: Incoming, has_blob: Callable[[Digest], bool]) -> None:
    """Put a version into the trash, as if it had been taken in at once."""
    if is_named(txn, incoming.digest):
        admit_blob(txn, incoming, has_blob)
        return
    session = txn.get(Session, aside.session_id) if aside.session_id is not None else None
    if session is None and aside.session_id is None:
        session = editing.session_titled(txn, aside.session_title or editing.INBOX)
    if session is not None:
        placement, _ = admit(txn, incoming, session.id, aside.folder_id, has_blob, placement_id=new_id())
        if placement.name != incoming.name:
            # Another has the name; this one is not listed any more when the transaction ends.
            placement = txn.put(dataclasses.replace(placement, name=incoming.name))
        editing.delete_placement(txn, placement.id, aside.reason)
        return
    admit_blob(txn, incoming, has_blob)
    placement = Placement(
        id=new_id(), session_id=str(aside.session_id), digest=incoming.digest, name=incoming.name,
        area=area_of(txn, incoming.digest), size=incoming.size, mode=incoming.mode, mtime_ns=incoming.mtime_ns,
        added_ns=txn.now_ns, named_ns=txn.now_ns,
    )  # fmt: skip
    gone = Session(id=placement.session_id, title=aside.session_title, name=b"gone")
    editing.trash(
        txn, [placement], session=gone, name=placement.name, digest=placement.digest, reason=aside.reason, keep=True
    )
