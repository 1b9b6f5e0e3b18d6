"""canvas.json and session.json as programs save them in place (`mixfs/vfs/renaming.py` has the temporary files).

What is written is kept in memory. close(2) refuses what is not valid, and keeps what is in staging, so that a kill
loses nothing that was acknowledged; the last release commits it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from mixfs.errors import InvalidValue, MixfsError, NotFoundError
from mixfs.library import canvas_json
from mixfs.library.api import Library
from mixfs.library.transaction import Txn
from mixfs.records import Session
from mixfs.vfs.handles import OpenNode
from mixfs.vfs.staging import KeptDocument
from mixfs.vfs.tree import Tree

_NAMES = {b"DC": "canvas.json", b"DS": "session.json"}


def is_document(key: bytes) -> bool:
    """Whether a node is a document that can be saved; those of storage-v2/ are committed by `app_folder.py`."""
    return key[:2] in _NAMES or key[:1] == b"V"


def begin(node: OpenNode) -> None:
    """A program opens it for writing."""
    if node.edit is None:
        assert node.data is not None
        node.edit = bytearray(node.data)


def write(node: OpenNode, offset: int, data: bytes) -> int:
    """Raises InvalidValue for what would be too long."""
    assert node.edit is not None
    _check_size(offset + len(data))
    if len(node.edit) < offset:
        node.edit.extend(bytes(offset - len(node.edit)))
    node.edit[offset : offset + len(data)] = data
    node.edited = True
    return len(data)


def truncate(node: OpenNode, size: int) -> None:
    """Raises InvalidValue for what would be too long."""
    assert node.edit is not None
    _check_size(size)
    del node.edit[size:]
    node.edit.extend(bytes(size - len(node.edit)))
    node.edited = True


def _check_size(size: int) -> None:
    if size > canvas_json.LIMIT:
        raise InvalidValue(f"A document may have {canvas_json.LIMIT} bytes.")


async def flush(tree: Tree, node: OpenNode) -> None:
    """Raises InvalidValue for what is not valid; an empty document is what O_TRUNC leaves before it is written."""
    async with node.saving:
        if not node.edited or not node.edit:
            return
        kept = _written(node)

        def keep() -> None:
            _check(tree.library, kept)
            tree.staging.keep(kept)

        await tree.in_thread(keep)
        node.kept = kept


def _written(node: OpenNode) -> KeptDocument:
    """What was written since this was last asked: it is not looked at twice."""
    node.edited = False
    return KeptDocument(node.key[2:18], _NAMES[node.key[:2]], bytes(node.edit or b""))


def _check(library: Library, kept: KeptDocument) -> None:
    """Raises InvalidValue, and reports it. In a thread: a document may be long."""
    try:
        canvas_json.check(kept.name, kept.data)
    except InvalidValue as error:
        _report(library, kept, error)
        raise


async def release(tree: Tree, node: OpenNode) -> None:
    """The last release: commit what was closed last, and what came after that (from mapped memory) if it is valid."""
    if node.edited and node.edit:
        last = _written(node)
        with contextlib.suppress(InvalidValue):
            await tree.in_thread(lambda: _check(tree.library, last))
            node.kept = last
    try:
        if node.kept is not None:
            async with tree.lock:
                await tree.in_thread(lambda: _commit(tree, node.kept))
    finally:
        # What the kernel has under this name is what was written, not what the library made of it.
        tree.forget_name(b"S" + node.key[2:18], _NAMES[node.key[:2]].encode())


def recover(tree: Tree, found: Iterable[KeptDocument]) -> None:
    """Commit what was written and closed before a kill."""
    for kept in found:
        _commit(tree, kept)


def _commit(tree: Tree, kept: KeptDocument | None) -> None:
    """One that can't be committed now waits in staging for the next mount; one that never can be is given up."""
    assert kept is not None

    def write(txn: Txn) -> None:
        session = txn.get_raw(Session, kept.session)
        if session is None:
            raise NotFoundError("The session is gone.")
        txn.made_by(tree.origin)
        canvas_json.save(txn, session.id, kept.name, kept.data)

    try:
        tree.library.commit(write)
    except (OSError, MixfsError) as error:
        _report(tree.library, kept, error)
        if not isinstance(error, InvalidValue | NotFoundError):
            return
    tree.staging.forget_kept(kept)


def _report(library: Library, kept: KeptDocument, error: BaseException) -> None:
    library.store.problems.report("invalid-document", f"{kept.name} was not saved: {error}", name=kept.name)
