"""trash/ as programs change it: `mv` out of it restores, `rm` takes away for good. Each function is one request.

Concurrency: under the tree's lock, as all changes of names.
"""

from __future__ import annotations

from collections.abc import Callable

from mixfs import clock
from mixfs.errors import CrossesViews, ExistsError, InvalidValue, NotEmptyError, NotFoundError, ReadOnlyError
from mixfs.index.dentries import Dentry
from mixfs.library import editing, restoring
from mixfs.library.transaction import Txn
from mixfs.library.trashed import TRASH_ROOT, split_key, trash_folder
from mixfs.library.view import View
from mixfs.records import Session, Trash
from mixfs.vfs.records_of import image_folder, title_of
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.mirrors import given_name


def _require(view: View, key: bytes) -> tuple[Trash, int | None]:
    raw, index = split_key(key)
    trash = view.get_raw(Trash, raw)
    if trash is None:
        raise NotFoundError("It is not in the trash any more.")
    return trash, index


async def expunge(tree: Tree, directory: bytes, name: bytes, key: bytes) -> None:
    """unlink(2) in trash/."""
    with tree.library.read() as view:
        trash, _ = _require(view, key)
        folder_name = given_name(view, TRASH_ROOT, trash_folder(trash)[1], directory)

    def write(txn: Txn) -> None:
        found, index = _require(txn, key)
        restoring.expunge(txn, found.id, index)

    await tree.commit(write, (directory, name))
    with tree.library.read() as view:
        if view.directory_row(directory) is None:
            tree.context.emptied[directory] = (folder_name, clock.now_ns())


def remove_emptied(tree: Tree, view: View, key: bytes) -> None:
    """rmdir(2) in trash/: what holds nothing is only remembered."""
    if next(tree.entries(view, key, b""), None) is not None:
        raise NotEmptyError("There still is something in it.")
    tree.context.emptied.pop(key, None)


async def move_out(
    tree: Tree, source: Dentry, old_directory: bytes, old_name: bytes, new_directory: bytes, new_name: bytes,
    flags: int,
) -> None:  # fmt: skip
    """rename(2) of something in trash/ (`flags` beyond NOREPLACE make no sense there)."""
    if flags & ~1:
        raise InvalidValue("What is in the trash can't change places with something.")
    if source.is_directory:
        if new_directory != editing.SESSIONS:
            raise ReadOnlyError("What was deleted of a session moves back to sessions/ as a whole, or one by one.")
        write = _session_back(source.key, new_name)
    elif new_directory[:1] in (b"p", b"S"):
        write = _item_back(source.key, new_directory, new_name)
    elif new_directory[:1] == b"d":
        raise CrossesViews("import/ takes copies.")
    else:
        raise ReadOnlyError("What was deleted moves back into a session: into its images/ or a folder below it.")
    await tree.commit(write, (old_directory, old_name))
    # Of a folder something may be left.
    tree.forget_name(old_directory, old_name)


def _session_back(folder: bytes, name: bytes) -> Callable[[Txn], None]:
    def write(txn: Txn) -> None:
        trash, _ = _require(txn, next(txn.dentries(folder)).key)
        deleted = max(
            txn.kept_in(Session, trash.session_id or ""), key=lambda kept: (kept.order, kept.id), default=None
        )
        if deleted is None:
            living = txn.get(Session, trash.session_id or "")
            if living is not None:
                raise ExistsError(f"The session {living.title!r} is there: move what is in its trash into it.")
            raise NotFoundError("That is no deleted session: restore what is in it, one by one.")
        restoring.restore_session(txn, deleted, set(), name=name, title=title_of(name))

    return write


def _item_back(key: bytes, directory: bytes, name: bytes) -> Callable[[Txn], None]:
    def write(txn: Txn) -> None:
        trash, index = _require(txn, key)
        if index is None:
            restoring.restore_document(txn, trash)
            return
        if directory[:1] != b"p":
            raise ReadOnlyError("A picture moves back into images/ of a session, or a folder below it.")
        session_id, folder_id = image_folder(txn, directory)
        restoring.restore_to(txn, trash.id, index, session_id, folder_id, name)

    return write
