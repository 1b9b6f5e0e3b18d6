"""storage-v2/ as an app writes it. Each function is one request on a `Tree`, or a part of one.

A document that is there is edited in memory (`mixfs/vfs/saving.py`), a new one is a file in staging; either is
committed by close(2), before it answers. Other files that a program makes beside the documents, to rename them over
one, stay in staging. Pictures come in through the intake, without the quiet second. The log and thumbnails are written
where they lie.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mixfs.errors import NotEmptyError, NotPermitted, ReadOnlyError
from mixfs.formats import storage_v2_saving
from mixfs.index.dentries import Dentry
from mixfs.library import canvas_json
from mixfs.library.app_files import AppFiles
from mixfs.library.storage_v2 import IMAGES, ROOT, SESSIONS, file_at
from mixfs.modes import create_file, make_directory
from mixfs.vfs import saving
from mixfs.vfs.bases import Owner
from mixfs.vfs.handles import Handle
from mixfs.vfs.staging import Staged
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.storage_v2 import LOG_KEY, path_of, target_of_name

# What takes files that are no documents, until they are renamed over one.
SCRATCH = (ROOT, SESSIONS)


def is_in(directory: bytes) -> bool:
    """Whether a directory is storage-v2/ or below."""
    return directory in (ROOT, SESSIONS, IMAGES) or directory[:1] == b"k"


def tag_for_new(directory: bytes) -> bytes:
    """How the node key of a new file begins."""
    return b"P" if directory == IMAGES else b"Q"


# -- documents


async def flush_new(tree: Tree, staged: Staged, owner: Owner) -> bool:
    """As `saving.flush`, of a file in staging; False when it is no document. Once saved, its name is the document's."""
    if staged.directory not in SCRATCH:
        return False
    with tree.library.read() as view:
        target = target_of_name(view, staged.directory, staged.name)
    if target is None:
        return False
    if staged.intake is None or not staged.intake.size or staged.version == staged.saved:
        return True
    if not staged.linked and staged.saved < 0:
        # It was removed before it was written.
        return True
    version = staged.version
    await saving.save_app_document(tree, target, await read_whole(tree, staged), owner)
    staged.saved = version
    if staged.linked:
        tree.staging.unlink(staged)
        staged.saved = staged.version
    return True


async def read_whole(tree: Tree, staged: Staged) -> bytes:
    """The bytes of a file in staging, as many as a document may have, and one more."""

    def read() -> bytes:
        intake = staged.intake
        return os.pread(intake.fd, canvas_json.LIMIT + 1, 0) if intake is not None else b""

    async with staged.in_use():
        return await tree.in_thread(read)


async def remove(tree: Tree, directory: bytes, name: bytes, dentry: Dentry) -> None:
    """unlink(2) of what is no file in staging. Under the tree's lock."""
    if dentry.key[:1] == b"K":
        if dentry.key == LOG_KEY:
            raise NotPermitted("logs.jsonl is append-only.")
        path = path_of(tree.context, dentry.key)
        await tree.in_thread(lambda: os.unlink(path))
        return
    with tree.library.read() as view:
        target = target_of_name(view, directory, name)
        placement = file_at(view, name) if directory == IMAGES else None
    if target is not None and target.suffix:
        session_id, suffix = target
        await tree.commit(
            lambda txn: storage_v2_saving.delete_document(txn, session_id, suffix), (directory, name)
        )
    elif placement is not None:
        held = placement
        await tree.commit(lambda txn: storage_v2_saving.remove_file(txn, held), (directory, name))
    elif directory == IMAGES:
        raise ReadOnlyError("The app did not write this picture: delete it in sessions/.")
    else:
        raise NotPermitted("image_registry.json can be rewritten, and not be removed.")


# -- what is written where it lies


def opener_of(tree: Tree, key: bytes) -> Callable[[], int]:
    """What opens such a file for writing. Blocks: call it in a thread."""
    if key == LOG_KEY:
        return AppFiles(tree.context.root).open_log
    path = path_of(tree.context, key)
    return lambda: os.open(path, os.O_RDWR | os.O_CLOEXEC)


async def create_kept(tree: Tree, directory: bytes, name: bytes) -> bytes:
    """A new file of thumbnails/; returns its node key."""
    key = b"K" + directory[1:] + b"/" + name
    path = path_of(tree.context, key)

    def make() -> None:
        make_directory(path.parent, parents=True, exist_ok=True)
        os.close(create_file(path, os.O_WRONLY))

    await tree.in_thread(make)
    return key


async def write_kept(tree: Tree, handle: Handle, offset: int, data: bytes) -> int:
    """Raises NotPermitted where it isn't the log's end."""
    fd = handle.fd
    if handle.node.key != LOG_KEY:
        return await tree.in_thread(lambda: os.pwrite(fd, data, offset))
    if not handle.append and offset != os.fstat(fd).st_size:
        raise NotPermitted("logs.jsonl is append-only: open it with O_APPEND.")
    handle.node.edited = True
    # The descriptor appends, whatever the kernel believes of the length.
    return await tree.in_thread(lambda: os.write(fd, data))


async def truncate_kept(tree: Tree, handle: Handle, size: int) -> None:
    """Raises NotPermitted for the log."""
    fd = handle.fd
    if handle.node.key != LOG_KEY:
        await tree.in_thread(lambda: os.ftruncate(fd, size))
    elif size != os.fstat(fd).st_size:
        raise NotPermitted("logs.jsonl is append-only.")


async def sync_kept(tree: Tree, handle: Handle) -> None:
    """close(2) of the log, and fsync(2): lines are durable once they are closed."""
    fd = handle.fd
    if fd >= 0 and handle.node.edited:
        handle.node.edited = False
        try:
            await tree.in_thread(lambda: os.fdatasync(fd))
        except BaseException:
            handle.node.edited = True
            raise


async def make_kept_directory(tree: Tree, directory: bytes, name: bytes) -> None:
    """mkdir(2) in thumbnails/."""
    path = path_of(tree.context, directory) / os.fsdecode(name)
    await tree.in_thread(lambda: make_directory(path, parents=True))


async def remove_kept_directory(tree: Tree, key: bytes) -> None:
    """rmdir(2) in thumbnails/. Raises NotEmptyError."""
    path = path_of(tree.context, key)

    def remove_it() -> None:
        try:
            path.rmdir()
        except OSError:
            if os.listdir(path):
                raise NotEmptyError("The folder is not empty.") from None
            raise

    await tree.in_thread(remove_it)
