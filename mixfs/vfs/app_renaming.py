"""rename(2) in storage-v2/: a temporary file over a document commits it; a picture or thumbnail gets another name."""

from __future__ import annotations

import os

from mixfs.errors import CrossesViews, InvalidValue, NotPermitted, ReadOnlyError
from mixfs.formats import storage_v2_saving
from mixfs.index.dentries import Dentry
from mixfs.library.storage_v2 import IMAGES, file_at
from mixfs.vfs.app_folder import SCRATCH, is_in, read_whole
from mixfs.vfs.bases import Owner
from mixfs.vfs.naming import READ_ONLY, drop
from mixfs.vfs.routes import file_view
from mixfs.vfs.saving import save_app_document
from mixfs.vfs.tree import Tree
from mixfs.vfs.versions import OVERWRITTEN
from mixfs.vfs.views.storage_v2 import LOG_KEY, path_of, target_of_name


async def rename(
    tree: Tree, source: Dentry, target: Dentry | None, old: tuple[bytes, bytes], new: tuple[bytes, bytes],
    exchanges: bool, owner: Owner,
) -> None:  # fmt: skip
    """Under the tree's lock; `old` and `new` are directory and name. Raises CrossesViews for another part."""
    if exchanges:
        raise InvalidValue("Files of storage-v2/ can't change places.")
    if source.is_directory and source.key[:1] != b"k":
        raise ReadOnlyError(READ_ONLY)
    if not (is_in(old[0]) and is_in(new[0])):
        raise CrossesViews("storage-v2/ shares no files with the rest of the mount.")
    if old[0] in SCRATCH and new[0] in SCRATCH:
        await _rename_scratch(tree, source, target, old, new, owner)
    elif old[0] == IMAGES == new[0]:
        await _rename_picture(tree, old, new)
    elif source.key[:1] in (b"k", b"K") and new[0][:1] == b"k":
        source_path, path = path_of(tree.context, source.key), path_of(tree.context, new[0]) / os.fsdecode(new[1])
        await tree.in_thread(lambda: os.rename(source_path, path))
    else:
        raise CrossesViews("Documents, pictures and thumbnails don't share files.")


async def _rename_scratch(
    tree: Tree, source: Dentry, held: Dentry | None, old: tuple[bytes, bytes], new: tuple[bytes, bytes], owner: Owner
) -> None:
    if LOG_KEY in (source.key, held.key if held is not None else b""):
        raise NotPermitted("logs.jsonl is append-only.")
    staged, over = tree.staging.at(*old), tree.staging.at(*new)
    with tree.library.read() as view:
        target = target_of_name(view, *new)
    if staged is None:
        await _keep_aside(tree, source, new)
        return
    if target is not None and (source.size or held is not None):
        await save_app_document(tree, target, await read_whole(tree, staged), owner, old, locked=True)
        await drop(tree, staged)
        # Who has it open still may go on writing the document.
        staged.directory, staged.name = new
        staged.saved = staged.version
    else:
        tree.staging.rename(staged, *new)
    if over is not None:
        await drop(tree, over, OVERWRITTEN)


async def _keep_aside(tree: Tree, source: Dentry, new: tuple[bytes, bytes]) -> None:
    """A document is renamed to be kept: a copy gets the new name, the document stays until another one is saved."""
    with tree.library.read() as view:
        if source.key[:1] != b"V" or target_of_name(view, *new) is not None:
            raise ReadOnlyError("A document can't become another one: copy it instead.")
        content = file_view(source.key).content(tree.context, view, source.key)
    over = tree.staging.at(*new)
    if over is not None:
        await drop(tree, over, OVERWRITTEN)
    staged = tree.staging.create(*new, b"Q", 0o644)
    intake, data = staged.intake, getattr(content, "data", b"")
    assert intake is not None
    await tree.in_thread(lambda: intake.write(data, 0))
    staged.closed = True
    tree.staging.note(staged)


async def _rename_picture(tree: Tree, old: tuple[bytes, bytes], new: tuple[bytes, bytes]) -> None:
    staged, over = tree.staging.at(*old), tree.staging.at(*new)
    with tree.library.read() as view:
        placement, other = file_at(view, old[1]), view.dentry(*new)
    if other is not None and other.key[:1] != b"P":
        raise ReadOnlyError("The app did not write the picture of the new name: choose another one.")
    if staged is not None and placement is None:
        # What has the name gets these bytes when they are taken in.
        tree.staging.rename(staged, *new)
    elif placement is not None:
        held = placement
        await tree.commit(lambda txn: storage_v2_saving.rename_file(txn, held, new[1]), old, new)
        if staged is not None:
            tree.staging.rename(staged, *new)
    else:
        raise ReadOnlyError("The app did not write this picture: rename it in sessions/.")
    if over is not None:
        await drop(tree, over, OVERWRITTEN)
    tree.wake()
