"""renameat2(2) with RENAME_EXCHANGE: two names of import/, or of images/, change places in one commit.

The first goes aside, the second takes its place, and the first the second's: so no step meets a name that is taken.
Files that are still being written change their names in the staging log.
"""

from __future__ import annotations

from mixfs.errors import InvalidValue
from mixfs.ids import new_id
from mixfs.index.dentries import Dentry
from mixfs.library import editing
from mixfs.library.transaction import Txn
from mixfs.records import Folder, ImportFolder, Placement, Receipt, Session
from mixfs.vfs import moving
from mixfs.vfs.naming import SESSIONS
from mixfs.vfs.records_of import IMPORT_ROOT, image_folder, title_of
from mixfs.vfs.staging import Staged
from mixfs.vfs.tree import Tree

Place = tuple[bytes, bytes]


async def exchange(tree: Tree, source: Dentry, target: Dentry, old: Place, new: Place) -> None:
    """Raises InvalidValue where names can't change places, CrossesViews for folders of two sessions' images/."""
    sessions = old[0] == SESSIONS == new[0]
    if not sessions and old[0][:1] + new[0][:1] not in (b"dd", b"pp"):
        raise InvalidValue("Only names of import/, of images/, or of sessions can be exchanged.")
    with tree.library.read() as view:
        # What is stored: a file may be in staging only.
        first, second = view.dentry(*old), view.dentry(*new)

    def write(txn: Txn) -> None:
        # Like the temporary names that wait in import/: it titles nothing.
        aside = b".exchanged-" + new_id().encode()
        if sessions or (source.is_directory and target.is_directory and old[0] == IMPORT_ROOT == new[0]):
            _exchange_titles(txn, _session(txn, source), _session(txn, target), title_of(aside))
        if sessions:
            return
        if first is not None:
            _move(txn, first.key, old[0], aside)
        if second is not None:
            _move(txn, second.key, *old)
        if first is not None:
            _move(txn, first.key, *new)

    if first is not None or second is not None:
        await tree.commit(write, old, new)
    staged_first, staged_second = tree.staging.at(*old), tree.staging.at(*new)
    _rename(tree, staged_first, new)
    # Its name may be the first one's by now: `rename` leaves only a name that is its own.
    _rename(tree, staged_second, old)
    tree.wake()


def _rename(tree: Tree, staged: Staged | None, place: Place) -> None:
    if staged is not None:
        tree.staging.rename(staged, *place)


def _move(txn: Txn, key: bytes, directory: bytes, name: bytes) -> None:
    tag = key[:1]
    if tag == b"R":
        moving.move_receipt(txn, moving.require(txn, Receipt, key), directory, name, exact=True)
    elif tag == b"d":
        moving.move_import_folder(txn, moving.require(txn, ImportFolder, key), directory, name, exact=True)
    elif tag == b"p":
        moving.move_image_folder(txn, moving.require(txn, Folder, key), directory, name, exact=True)
    else:
        place = image_folder(txn, directory)
        moving.move_placement(txn, moving.require(txn, Placement, key), *place, name, exact=True)


def _session(txn: Txn, dentry: Dentry) -> Session | None:
    """The session of a folder of sessions/, or of a top folder of import/ whose name it bears."""
    if dentry.key[:1] == b"S":
        return moving.require(txn, Session, dentry.key)
    session = txn.get(Session, moving.require(txn, ImportFolder, dentry.key).session_id or "")
    return session if session is not None and session.title == title_of(dentry.name) else None


def _exchange_titles(txn: Txn, one: Session | None, other: Session | None, aside: str) -> None:
    if one is None or other is None or one.id == other.id:
        return
    editing.retitle_session(txn, one.id, aside)
    editing.retitle_session(txn, other.id, one.title, name=one.name)
    editing.retitle_session(txn, one.id, other.title, name=other.name)
