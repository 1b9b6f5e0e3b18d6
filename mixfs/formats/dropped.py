"""The process that imports what was dropped into import/ and is in a layout: `python -P -m mixfs.formats.dropped`.

A process of its own, so that whatever a foreign file does to its reader, the mount goes on. Its arguments are the
library's directory, `folder` or `file`, and the id of the folder of import/ or of the receipt. What lies there was
taken in already, as plain files: nothing can be lost here. It is laid out in this process's staging directory, as links
to the blobs, for the readers to look at. What a layout takes to its own sessions is then no longer in the session that
is called like the folder, and its receipt stands for the new placement; an app's thumbnails are files there, and no
pictures. Done twice, or again after it was killed, it ends the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mixfs.blobs.copying import copy_data
from mixfs.formats import outputs
from mixfs.formats.base import Asset, Known, Options, Problem, Report
from mixfs.formats.layouts import find
from mixfs.formats.reader_process import ReaderProcess
from mixfs.formats.taking import Taking
from mixfs.ids import generation_id_for
from mixfs.index import keys
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.documents import text_of
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import import_directory, placement_place
from mixfs.records import (
    Edge,
    Entry,
    Folder,
    Generation,
    Image,
    ImportFolder,
    Metadata,
    Placement,
    Receipt,
    Session,
    field_keys,
)

_BATCH = 200
_DEEPEST = 100
"""Folders that what is looked at may lie in: no program makes as many, and its path has a longest length."""
# The folders that the pictures of an outputs folder are taken out of: what lies beside them goes where they are.
_LEFT_OUT = outputs.BELOW.encode().split(b"/")


@dataclass(slots=True)
class Found:
    """What was looked at: the layouts that were found in it, by name, and a report of each."""

    layouts: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


def import_folder(library: Library, folder_id: str) -> Found:
    """Import what in a folder of import/, and below it, is in a layout."""
    with library.read() as view:
        folder = view.get(ImportFolder, folder_id)
        receipts = dict(_below(view, folder_id)) if folder is not None else {}
    return _import(library, folder.name, receipts, folder) if folder is not None else Found()


def import_file(library: Library, receipt_id: str) -> Found:
    """Import a file that lies in import/ itself, by its receipt."""
    with library.read() as view:
        receipt = view.get(Receipt, receipt_id)
    return _import(library, receipt.name, {b"": receipt}, None) if receipt is not None else Found()


def _below(view: View, folder_id: str) -> Iterator[tuple[bytes, Receipt]]:
    """The receipts below a folder, by their paths in it."""
    for directory, path in _directories(view, folder_id):
        for dentry in view.dentries(directory):
            if not dentry.is_directory and (receipt := view.get_raw(Receipt, dentry.key[1:])) is not None:
                yield path + b"/" + dentry.name, receipt


def _directories(view: View, folder_id: str) -> Iterator[tuple[bytes, bytes]]:
    """A folder of import/ and all below it, with their paths in it."""
    waiting = [(import_directory(folder_id), b"")]
    while waiting:
        directory, path = waiting.pop()
        yield directory, path
        for dentry in view.dentries(directory):
            if dentry.is_directory and (folder := view.get_raw(ImportFolder, dentry.key[1:])) is not None:
                waiting.append((import_directory(folder.id), path + b"/" + dentry.name))


def _import(library: Library, name: bytes, receipts: dict[bytes, Receipt], folder: ImportFolder | None) -> Found:
    found = Found()
    with (
        _laid_out(library, name, receipts) as (root, paths),
        ReaderProcess([root], library.staging.open) as reader,
    ):
        with library.read() as view:
            known = {path: Known(_asset(view, receipt), receipt.mtime_ns) for path, receipt in paths.items()}
        inner: set[str] = set()
        layouts, unread = find(reader, root)
        for problem in unread:
            _report(library, problem, root, root)
        for path, layout in layouts:
            taking = Taking(library, layout, str(path), Options(), reader, known=known, left_out=inner)
            report = taking.run()
            inner |= taking.taken | taking.kept
            found.layouts.append(layout.NAME)
            found.reports.append(report)
            for problem in report.not_taken:
                _report(library, problem, path, root)
            taken = [receipt for path, receipt in paths.items() if path in taking.taken]
            for at in range(0, len(taken), _BATCH):
                freed = library.commit(lambda txn: _settle(txn, taken[at : at + _BATCH], taking, folder))  # noqa: B023
                # Their names are free once that commit is done.
                if freed:
                    library.commit(lambda txn: _take_names(txn, freed))  # noqa: B023
            kept = taking.kept - taking.taken
            beside = [receipt for path, receipt in paths.items() if path in kept]
            for at in range(0, len(beside), _BATCH):
                library.commit(lambda txn: _as_files(txn, beside[at : at + _BATCH]))  # noqa: B023
            if folder is not None:
                rest = [receipt for path, receipt in paths.items() if path not in taking.taken]
                for at in range(0, len(rest), _BATCH):
                    library.commit(lambda txn: _merge(txn, folder, rest[at : at + _BATCH], taking))  # noqa: B023
                library.commit(lambda txn: _clear(txn, folder, taking))  # noqa: B023
    return found


def _report(library: Library, problem: Problem, path: Path, root: Path) -> None:
    file = text_of(os.fsencode(os.path.relpath(problem.file or path, root.parent)))
    words = ": ".join(filter(None, (file, problem.place, problem.reason)))
    library.store.problems.report("not-imported", words, name=file)


@contextlib.contextmanager
def _laid_out(
    library: Library, name: bytes, receipts: dict[bytes, Receipt]
) -> Iterator[tuple[Path, dict[str, Receipt]]]:
    """A folder (or a file) with what receipts stand for, as links to the blobs; and the receipts by their paths."""
    area = Path(os.fsdecode(os.path.join(os.fsencode(library.staging.open()), b"dropped")))
    root = area / os.fsdecode(name)
    paths: dict[str, Receipt] = {}
    try:
        area.mkdir()
        too_deep: list[str] = []
        for relative, receipt in receipts.items():
            path = Path(str(root) + os.fsdecode(relative))
            try:
                if relative.count(b"/") > _DEEPEST:
                    raise OSError(errno.ENAMETOOLONG, "")
                path.parent.mkdir(parents=True, exist_ok=True)
                _link(library.blobs.path(receipt.digest), path)
                paths[str(path)] = receipt
            except FileNotFoundError:
                pass  # gc may have taken it
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                too_deep.append(str(path))
        if too_deep:
            words = (
                f"{len(too_deep)} files, this one first, lie in more than {_DEEPEST} folders or have too long a path. "
                "They are kept as plain files and were not looked at."
            )
            _report(library, Problem("", words, too_deep[0]), root, root)
        yield root, paths
    finally:
        shutil.rmtree(area, ignore_errors=True)


def _link(blob: Path, path: Path) -> None:
    try:
        os.link(blob, path)
    except OSError as error:
        # So many links to one file, or none at all, are not to be had everywhere.
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
            raise
        with blob.open("rb") as source, path.open("wb") as copy:
            copy_data(source.fileno(), copy.fileno())


def _asset(view: View, receipt: Receipt) -> Asset:
    blob = view.blob(receipt.digest)
    return Asset(receipt.digest, receipt.size, blob.media_type if blob is not None else "")


def _settle(txn: Txn, receipts: list[Receipt], taking: Taking, folder: ImportFolder | None) -> list[str]:
    """The receipts of files that a layout took stand for its placements, and what they stood for before goes.

    Returns the placements whose picture went under another name, too.
    """
    freed: list[str] = []
    top = txn.get(ImportFolder, folder.id) if folder is not None else None
    plain_id = top.session_id if top is not None else None
    for each in receipts:
        receipt = txn.get(Receipt, each.id)
        if receipt is None or receipt.digest != each.digest:
            continue  # removed, or written anew, meanwhile
        ids = taking.placed.get(each.digest, [])
        placed = next((p for p in (txn.get(Placement, own_id) for own_id in ids) if p is not None), None)
        old = txn.get(Placement, receipt.placement_id) if receipt.placement_id is not None else None
        if placed is None or (old is not None and (old.id in ids or old.session_id != plain_id)):
            continue  # it stands for it already, or somebody moved the picture to another session
        if old is not None and old.digest == each.digest:
            # The same bytes stay, in the layout's session: nothing for the trash.
            txn.delete(Placement, old.id)
            if placed.name != placed.original_name:
                freed.append(placed.id)
        txn.put(dataclasses.replace(receipt, placement_id=placed.id, session_id=placed.session_id))
    return freed


def _as_files(txn: Txn, receipts: list[Receipt]) -> None:
    """What the library keeps beside its sessions, an app's thumbnails, is no picture: a file, as documents are.

    Not without a placement: the receipt would go with its blob, which nothing would name.
    """
    for each in receipts:
        receipt = txn.get(Receipt, each.id)
        held = txn.get(Placement, receipt.placement_id) if receipt is not None and receipt.placement_id else None
        if receipt is None or held is None or (held.digest, held.session_id) != (receipt.digest, receipt.session_id):
            continue  # removed, written anew, or moved to another session
        if held.area == "images":
            txn.put(dataclasses.replace(held, area="files"))
        pictures = [other for other in txn.referrers(Placement, held.digest) if other.area == "images"]
        if all(other.session_id != held.session_id for other in pictures):
            _delete_found_generation(txn, held)
        named = (Entry.KIND, *(kind | way for kind in (keys.TAKES, keys.GIVES) for way in (0, keys.BY_ALIAS)))
        if not pictures and next(txn.named_in(held.digest, *named), None) is None:
            txn.delete(Image, held.digest.hex())
            txn.delete(Metadata, held.digest.hex())


def _delete_found_generation(txn: Txn, old: Placement) -> None:
    generation = txn.get(Generation, generation_id_for(old.digest, old.session_id))
    if generation is not None and generation.reader is not None:
        txn.delete(Generation, generation.id)


def _take_names(txn: Txn, placement_ids: list[str]) -> None:
    """The names that were wanted, where plain files had them."""
    for placement_id in placement_ids:
        placed = txn.get(Placement, placement_id)
        if placed is not None:
            wanted = dataclasses.replace(placed, name=placed.original_name, named_ns=txn.next_stamp)
            if txn.dentry(*placement_place(wanted)) is None:
                txn.put(wanted)


def _sessions(txn: Txn, folder: ImportFolder, taking: Taking) -> tuple[Session | None, Session | None, bool]:
    """The plain session of a folder; the layout's of its title; and whether the plain one was made for the folder."""
    top = txn.get(ImportFolder, folder.id)
    plain = txn.get(Session, top.session_id) if top is not None and top.session_id is not None else None
    if top is None or plain is None:
        return None, None, False
    sessions = [txn.get(Session, session_id) for session_id in taking.sessions]
    same = next((each for each in sessions if each is not None and each.title == plain.title), None)
    made = plain.stamps.get(field_keys(Session)["created_ns"])
    return plain, same, made is not None and made[0] >= top.named_ns


def _merge(txn: Txn, folder: ImportFolder, receipts: list[Receipt], taking: Taking) -> None:
    """Files that the layout did not take go to its session of the folder's title, if it has one."""
    plain, same, fresh = _sessions(txn, folder, taking)
    if plain is not None and same is not None and (fresh or same.id == plain.id):
        for each in receipts:
            _move_rest(txn, each, plain.id, same.id)


def _clear(txn: Txn, folder: ImportFolder, taking: Taking) -> None:
    """Folders and the plain session go, where they were made for the folder and nothing is in them any more."""
    plain, same, fresh = _sessions(txn, folder, taking)
    if plain is None:
        return
    _drop_empty_folders(txn, plain.id, {each for each in _bound(txn, folder.id) if each is not None})
    members = (Placement, Folder, Entry, Edge, Generation)
    if not fresh or plain.id in taking.sessions or any(True for cls in members for _ in txn.members(cls, plain.id)):
        return
    txn.delete(Session, plain.id)
    top = txn.get(ImportFolder, folder.id)
    if top is not None:
        txn.put(dataclasses.replace(top, session_id=same.id if same is not None else None, folder_id=None))
    if same is not None:
        editing.retitle_session(txn, same.id, same.title)


def _move_rest(txn: Txn, each: Receipt, plain_id: str, session_id: str) -> None:
    """A file that the layout did not take, to its session; where it is there already, to that."""
    receipt = txn.get(Receipt, each.id)
    held = txn.get(Placement, receipt.placement_id) if receipt is not None and receipt.placement_id else None
    if receipt is None or held is None or held.session_id != plain_id:
        return
    path = _folders(txn, held.folder_id)
    if path[: len(_LEFT_OUT)] == _LEFT_OUT:
        path = path[len(_LEFT_OUT) :]
    folder_id = editing.ensure_path(txn, session_id, path)
    if (held.session_id, held.folder_id) == (session_id, folder_id):
        return
    there = editing.find_placement(txn, session_id, folder_id, held.original_name, held.digest)
    if there is not None:
        txn.delete(Placement, held.id)
    else:
        there = editing.move_placement(txn, held.id, session_id, folder_id, held.name)
    txn.put(dataclasses.replace(receipt, placement_id=there.id, session_id=session_id))


def _bound(view: View, folder_id: str) -> Iterator[str | None]:
    """The folders of a session that folders of import/ below one stand for."""
    for directory, _ in _directories(view, folder_id):
        for dentry in view.dentries(directory):
            folder = view.get_raw(ImportFolder, dentry.key[1:]) if dentry.is_directory else None
            if folder is not None:
                yield folder.folder_id


def _folders(txn: Txn, folder_id: str | None) -> list[bytes]:
    """The names of a folder below images/ and of those that it is in, the outermost first."""
    names: list[bytes] = []
    while folder_id is not None and (folder := txn.get(Folder, folder_id)) is not None:
        names.insert(0, folder.name)
        folder_id = folder.parent_id
    return names


def _drop_empty_folders(txn: Txn, session_id: str, candidates: set[str]) -> None:
    """Delete those of a session's folders that nothing is in, nor in what is below them."""
    used = {placement.folder_id for placement in txn.members(Placement, session_id)}
    folders = {folder.id: folder for folder in txn.members(Folder, session_id)}
    for folder in folders.values():
        at: str | None = folder.id
        while at is not None and at in folders and (folder.id in used or folder.id not in candidates):
            used.add(at)
            at = folders[at].parent_id
    for folder_id in folders.keys() - used:
        txn.delete(Folder, folder_id)


def main() -> None:
    """Says on stdout which layouts were found; what went wrong is in problems.jsonl."""
    root, kind, own_id = sys.argv[1:]
    os.nice(5)
    with Library.open(Path(root), create=False) as library:
        found = import_folder(library, own_id) if kind == "folder" else import_file(library, own_id)
    print(json.dumps(found.layouts))


if __name__ == "__main__":
    main()
