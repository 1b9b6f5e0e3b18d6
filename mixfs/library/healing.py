"""What becomes of damaged blobs: out of the way with the reason, who is affected, and back when there is a good copy.

Concurrency: any thread, any process. A blob is looked at as a whole before it is moved, so a read that failed for
another reason moves nothing; two that find the same damage move it once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mixfs import clock
from mixfs.blobs.sums import sums_of
from mixfs.errors import BlobDamaged, BlobMissing, InvalidValue, NotFoundError
from mixfs.ids import Digest
from mixfs.library.documents import iso
from mixfs.library.transaction import Txn
from mixfs.library.trashed import trash_folder, trash_items
from mixfs.library.view import View
from mixfs.records import Blob, Entry, Folder, Placement, Session, Trash

if TYPE_CHECKING:
    from mixfs.library.api import Library

log = logging.getLogger("mixfs.healing")


def quarantine_if_damaged(library: Library, digest: Digest) -> Path | None:
    """Check a blob; when it is damaged, move it to quarantine/ and report it. Returns where it is then.

    Raises OSError when it could not be read for a reason that says nothing about its bytes; nothing is moved then.
    """
    try:
        library.blobs.check(digest)
    except BlobMissing:
        return None
    except BlobDamaged as error:
        reason = f"It {error.reason}."
    else:
        return None
    with library.read() as view:
        affected = list(names_of(view, digest))
    kept = library.blobs.quarantine(digest, "\n".join([reason, *(f"Affected: {name}" for name in affected)]))
    if kept is not None:
        library.store.problems.report(
            "blob-damaged",
            f"An original is damaged: {reason} It was moved to {kept}. Import the same file again, or run `mixfs fsck "
            "--repair --from DIR` with a directory that has a copy.",
            digest=digest.hex(), affected=affected,
        )  # fmt: skip
    return kept


def names_of(view: View, digest: Digest) -> Iterator[str]:
    """Where a blob is shown: `Trip/images/a.png`, `Trip/canvas/…`, or the trash."""
    for placement in view.referrers(Placement, digest):
        yield "/".join([_title(view, placement.session_id), placement.area, *_path(view, placement)])
    for entry in view.referrers(Entry, digest):
        yield f"{_title(view, entry.session_id)}/canvas ({entry.id})"
    for trash in view.referrers(Trash, digest):
        _, folder = trash_folder(trash)
        yield from (
            f"trash/{os.fsdecode(folder)}/{os.fsdecode(item.name)}"
            for item in trash_items(trash) if item.digest == digest
        )  # fmt: skip


def _title(view: View, session_id: str) -> str:
    session = view.get(Session, session_id)
    return os.fsdecode(session.name) if session is not None else session_id


def _path(view: View, placement: Placement) -> list[str]:
    path, folder_id = [os.fsdecode(placement.name)], placement.folder_id
    while folder_id is not None and len(path) < 64:
        folder = view.get(Folder, folder_id)
        if folder is None:
            break
        path.insert(0, os.fsdecode(folder.name))
        folder_id = folder.parent_id
    return path


def bring_back(library: Library, wanted: dict[Digest, int], places: Iterable[Path]) -> set[Digest]:
    """Look below `places` for files that are missing blobs (by digest → size in bytes); returns those that are back.

    Files of another size are not read. Raises nothing for a file that can't be read.
    """
    sizes = set(wanted.values())
    back: set[Digest] = set()
    for place in places:
        for path in _files(place):
            if len(back) == len(wanted):
                return back
            try:
                if path.stat().st_size in sizes and (digest := _take(library, path, wanted.keys() - back)):
                    back.add(digest)
                    take_back(library, digest)
            except OSError as error:
                log.warning("%s can't be read: %s", path, error.strerror)
    return back


def give_up(library: Library, digest: Digest) -> list[str]:
    """Note durably that the user gave up an original that is missing or damaged; returns the names that it has.

    What names it stays, and reading it is an error, until the same bytes come again. Damaged bytes are kept in
    quarantine/. Raises NotFoundError when nothing is known of it, InvalidValue when its bytes are there and right,
    OSError when they could not be read.
    """
    with library.read() as view:
        blob, image, names = view.blob(digest), view.image(digest), list(names_of(view, digest))
    if blob is None and image is None and not names:
        raise NotFoundError(f"Nothing in the library names an original with the digest {digest.hex()}.")
    library.blobs.removal.bring_back(digest)
    quarantine_if_damaged(library, digest)
    if library.has_blob(digest):
        raise InvalidValue(
            f"The original {digest.hex()} is there, and its bytes are right: there is nothing to give up."
        )

    def write(txn: Txn) -> None:
        held = txn.blob(digest)
        if held is None:
            picture = txn.image(digest)
            held = Blob(digest=digest, added_ns=txn.now_ns)
            if picture is not None:
                held = dataclasses.replace(held, size=picture.size, media_type=picture.media_type)
        txn.put(dataclasses.replace(held, given_up_ns=clock.now_ns()))

    library.commit(write)
    return names


def take_back(library: Library, digest: Digest) -> None:
    """Forget that an original was given up: its bytes are there again."""
    with library.read() as view:
        blob = view.blob(digest)
    if blob is None or not blob.given_up_ns:
        return
    fd = library.blobs.open(digest)
    try:
        size, sums = os.fstat(fd).st_size, sums_of(fd)
    finally:
        os.close(fd)

    def write(txn: Txn) -> None:
        held = txn.blob(digest)
        if held is not None:
            txn.put(dataclasses.replace(held, given_up_ns=0, size=size, sums=sums))

    library.commit(write)


def is_given_up(view: View, digest: Digest) -> bool:
    blob = view.blob(digest)
    return blob is not None and blob.given_up_ns != 0


def why_missing(view: View, digest: Digest) -> str:
    """What is known of a missing original beyond that: when it was given up; "" otherwise."""
    blob = view.blob(digest)
    if blob is None or not blob.given_up_ns:
        return ""
    return f"It was given up on {iso(blob.given_up_ns)[:10]}: import the same file again to have it back."


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path


def _take(library: Library, path: Path, wanted: set[Digest]) -> Digest | None:
    intake = library.staging.intake()
    try:
        with path.open("rb") as source:
            intake.copy_whole(source.fileno())
        digest = intake.digest()
        if digest not in wanted:
            return None
        library.blobs.receive(intake)
        return digest
    finally:
        intake.discard()
