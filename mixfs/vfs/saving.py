"""Documents as programs save them in place: canvas.json, session.json, and those of storage-v2/.

What is written is kept in memory, and committed by close(2) or fsync(2) before they answer, or refused there: what they
acknowledged is what the next open(2) reads, and a kill loses none of it. (`mixfs/vfs/renaming.py` has the temporary
files that are renamed over a document.) A save changes what its program changed since it read the document; see
`mixfs/vfs/bases.py`.

Concurrency: all handles of an open document share what is written, as on a disk; one save of it at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mixfs.errors import InvalidValue, MixfsError, NotFoundError
from mixfs.formats import storage_v2_saving
from mixfs.ids import key16
from mixfs.library import canvas_json
from mixfs.library.api import Library
from mixfs.library.three_way import Version
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.records import Session
from mixfs.vfs.bases import Base, Owner, pack
from mixfs.vfs.handles import Handle, OpenNode
from mixfs.vfs.routes import file_view
from mixfs.vfs.staging import KeptDocument
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.storage_v2 import APP_TAGS, Target, target_of_key

_NAMES = {b"DC": "canvas.json", b"DS": "session.json"}
_TAGS = {"canvas.json": b"DC", "session.json": b"DS"}
# What is longer is packed in a thread.
_LONG = 64 << 10


def is_document(key: bytes) -> bool:
    """Whether a node is a document that can be saved."""
    return key[:2] in _NAMES or key[:1] == b"V"


def begin(node: OpenNode) -> None:
    """A program opens it for writing."""
    if node.edit is None:
        assert node.data is not None
        node.edit = bytearray(node.data)


async def note_shown(tree: Tree, owner: Owner, node: OpenNode) -> None:
    """A program opens it for reading."""
    if not is_document(node.key) or node.data is None or tree.bases.shown(owner, node.key):
        return
    data = node.data
    packed = pack(data) if len(data) <= _LONG else await tree.in_thread(lambda: pack(data))
    tree.bases.shown(owner, node.key, packed)


def write(handle: Handle, offset: int, data: bytes) -> int:
    """Raises InvalidValue for what would be too long."""
    edit = handle.node.edit
    assert edit is not None
    if handle.append:
        # Whatever the kernel believes of the length.
        offset = len(edit)
    _check_size(offset + len(data))
    if len(edit) < offset:
        edit.extend(bytes(offset - len(edit)))
    edit[offset : offset + len(data)] = data
    handle.edited = handle.node.edited = True
    return len(data)


def truncate(handle: Handle, size: int) -> None:
    """Raises InvalidValue for what would be too long."""
    edit = handle.node.edit
    assert edit is not None
    _check_size(size)
    del edit[size:]
    edit.extend(bytes(size - len(edit)))
    handle.edited = handle.node.edited = True


def _check_size(size: int) -> None:
    if size > canvas_json.LIMIT:
        raise InvalidValue(f"A document may have {canvas_json.LIMIT} bytes.")


async def flush(tree: Tree, handle: Handle) -> None:
    """close(2), fsync(2): commit what was written. Raises InvalidValue for what is not valid.

    After any other error (a full disk) the document is still unsaved, and the next flush tries again. An empty document
    is what O_TRUNC leaves before it is written.
    """
    node = handle.node
    async with node.saving:
        if not (handle.edited and node.edited and node.edit):
            return
        data = bytes(node.edit)
        # What is written meanwhile sets them again.
        handle.edited = node.edited = False
        try:
            await save_in_place(tree, node, data, handle.owner)
        except InvalidValue:
            # It is not looked at twice.
            node.settled = True
            raise
        except BaseException:
            handle.edited = node.edited = True
            raise
        node.settled = True


async def release(tree: Tree, handle: Handle) -> None:
    """The last of a handle: what came after its last flush (from mapped memory) is committed, if it is valid."""
    handle.edited |= handle.node.writers == 1
    try:
        await flush(tree, handle)
    except InvalidValue:
        # Reported by then; nobody waits for the answer.
        return
    except (OSError, MixfsError) as error:
        _report(tree.library, _NAMES.get(handle.node.key[:2], "A document of storage-v2/"), error)


async def save_in_place(tree: Tree, node: OpenNode, data: bytes, owner: Owner) -> None:
    """Commit what an open document is now."""
    key = node.key
    if key[:1] == b"V":
        with tree.library.read() as view:
            target = target_of_key(view, key)
        await save_app_document(tree, target, data, owner)
    else:
        await save_session_document(tree, key[2:18], _NAMES[key[:2]], data, owner)


def is_usable(tree: Tree, view: View, node: OpenNode) -> bool:
    """Whether a new handle may share an open document. Raises Outdated where its name means a newer one by now.

    One that was saved or refused is shared no more: what was written is not what the library has.
    """
    if node.settled:
        file_view(node.key).attr(tree.context, view, node.key)
    return not node.settled


async def save_session_document(
    tree: Tree, session_raw: bytes, name: str, data: bytes, owner: Owner, *known: tuple[bytes, bytes],
    locked: bool = False,
) -> None:  # fmt: skip
    """Commit canvas.json or session.json; `locked`: the caller holds the tree's lock. Raises InvalidValue."""

    def prepare() -> Callable[[Txn], object]:
        canvas_json.check(name, data)

        def write(txn: Txn) -> None:
            session = txn.get_raw(Session, session_raw)
            if session is None:
                raise NotFoundError("The session is gone.")
            canvas_json.save(txn, session.id, name, data, base)

        return write

    document = _TAGS[name] + session_raw
    base = _version(tree.bases.of(owner, document))
    await _save(tree, document, name, data, owner, prepare, known, locked)


async def save_app_document(
    tree: Tree, target: Target, data: bytes, owner: Owner, *known: tuple[bytes, bytes], locked: bool = False
) -> None:
    """As `save_session_document`, of a document of storage-v2/."""

    def prepare() -> Callable[[Txn], object]:
        document = canvas_json.parse(data)
        storage_v2_saving.check(target.suffix, document)
        if target.suffix:
            session_id, suffix = target
            return lambda txn: storage_v2_saving.save_session(txn, session_id, suffix, document, base)
        with tree.library.read() as view:
            merged, changes = storage_v2_saving.registry_changes(view, document, base)
        return lambda txn: storage_v2_saving.save_registry(txn, merged, changes)

    document = document_of_target(target)
    base = _version(tree.bases.of(owner, document))
    await _save(tree, document, target.name, data, owner, prepare, known, locked)


def document_of_target(target: Target) -> bytes:
    """As `mixfs.vfs.bases.document_of`."""
    return b"V" + APP_TAGS[target.suffix] + key16(target.session_id) if target.suffix else b"Vr"


async def _save(
    tree: Tree, document: bytes, name: str, data: bytes, owner: Owner, prepare: Callable[[], Callable[[Txn], object]],
    known: Iterable[tuple[bytes, bytes]], locked: bool,
) -> None:  # fmt: skip
    try:
        function = await tree.in_thread(prepare)
        if locked:
            await tree.commit(function, *known)
        else:
            async with tree.lock:
                await tree.commit(function, *known)
    except InvalidValue as error:
        _report(tree.library, name, error)
        raise
    tree.bases.saved(owner, document, pack(data) if len(data) <= _LONG else await tree.in_thread(lambda: pack(data)))


def _version(base: Base | None) -> Version | None:
    return Version(base.revision, base.document) if base is not None else None


# -- what an older MixFS left when it was killed


def recover(tree: Tree, found: Iterable[KeptDocument]) -> None:
    """Commit what was written and closed before a kill."""
    for kept in found:
        _commit(tree, kept)


def _commit(tree: Tree, kept: KeptDocument) -> None:
    """One that can't be committed now waits in staging for the next mount; one that never can be is given up."""

    def write(txn: Txn) -> None:
        session = txn.get_raw(Session, kept.session)
        if session is None:
            raise NotFoundError("The session is gone.")
        txn.made_by(tree.origin)
        canvas_json.save(txn, session.id, kept.name, kept.data)

    try:
        tree.library.commit(write)
    except (OSError, MixfsError) as error:
        _report(tree.library, kept.name, error)
        if not isinstance(error, InvalidValue | NotFoundError):
            return
    tree.staging.forget_kept(kept)


def _report(library: Library, name: str, error: BaseException) -> None:
    library.store.problems.report("invalid-document", f"{name} was not saved: {error}", name=name)
