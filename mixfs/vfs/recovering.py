"""Taking up what a killed mount left behind, before the next one answers. Runs before the event loop does."""

from __future__ import annotations

import structlog

from mixfs.errors import MixfsError
from mixfs.vfs import saving
from mixfs.vfs.naming import take_away
from mixfs.vfs.records_of import place_of
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
