"""Taking up what a killed mount left behind, before the next one answers. Runs before the event loop does."""

from __future__ import annotations

import itertools

import structlog

from mixfs import clock
from mixfs.errors import MixfsError
from mixfs.ids import new_id
from mixfs.library.transaction import Txn
from mixfs.library.wanted import import_directory
from mixfs.records import ImportFolder
from mixfs.vfs import saving
from mixfs.vfs.naming import take_away
from mixfs.vfs.records_of import IMPORT_ROOT, bind, place_of
from mixfs.vfs.routes import view_of
from mixfs.vfs.staging import Staged
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.storage_v2 import target_of_name

log = structlog.get_logger("mixfs.recovering")


def recover(tree: Tree) -> None:
    """Files come back as they were, what was closed is taken in later; documents that were closed are committed."""
    found = tree.staging.recover(tree.library.root / "staging", _Remains(tree))
    for staged in found.files:
        if _is_unsaved(tree, staged):
            # A document of storage-v2/ is committed before close(2) answers: what is left of one nobody was promised.
            tree.staging.discard(staged)
            continue
        try:
            _finish_rename(tree, staged)
        except (OSError, MixfsError) as error:
            log.warning("rename_not_finished", name=staged.name.decode("utf-8", "replace"), error=str(error))
    saving.recover(tree, found.documents)
    for problem in found.problems:
        log.warning("not_recovered_as_it_was", kind=problem.kind, reason=problem.reason)
        tree.library.store.problems.report(problem.kind, problem.reason, **problem.fields)
    if found.files or found.documents:
        closed = sum(staged.closed for staged in found.files)
        log.info("recovered", files=len(found.files), closed=closed, documents=len(found.documents))


def _is_unsaved(tree: Tree, staged: Staged) -> bool:
    with tree.library.read() as view:
        return staged.key[:1] == b"Q" and target_of_name(view, staged.directory, staged.name) is not None


def _finish_rename(tree: Tree, staged: Staged) -> None:
    """A file got the name of another in import/, and a kill came before that one was gone: it goes now."""
    with tree.library.read() as view:
        stored = view.dentry(staged.directory, staged.name)
    if stored is None or stored.key == staged.key:
        return
    if stored.is_directory:
        tree.staging.rename(staged, staged.directory, staged.name + b" (recovered)")
    elif stored.key[:1] == b"R":
        tree.library.commit(lambda txn: take_away(txn, stored))


class _Remains:
    """See `mixfs.vfs.staging.Remains`."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def exists(self, directory: bytes) -> bool:
        with self._tree.library.read() as view:
            try:
                view_of(directory).attr(self._tree.context, view, directory)
            except MixfsError:
                return False
        return True

    def place(self, key: bytes) -> tuple[bytes, bytes] | None:
        with self._tree.library.read() as view:
            found = place_of(view, key)
        return (found.directory, found.name) if found is not None else None

    def nameless_directory(self) -> bytes:
        for number in itertools.count(1):
            name = b"Recovered" if number == 1 else b"Recovered (%d)" % number
            with self._tree.library.read() as view:
                found = self._tree.lookup(view, IMPORT_ROOT, name)
            if found is not None and found.is_directory:
                return found.key
            if found is None:
                break
        folder_id = new_id()

        def write(txn: Txn) -> None:
            folder = ImportFolder(id=folder_id, name=name, mtime_ns=clock.now_ns(), named_ns=txn.next_stamp)
            txn.put(folder)
            bind(txn, folder)

        self._tree.library.commit(write)
        return import_directory(folder_id)
