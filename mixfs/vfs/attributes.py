"""chmod, utimens, truncate, and extended attributes: requests on a `Tree`.

Pictures show what is known of them as `user.mixfs.*` (read-only: setting one is accepted and has no effect, so that
programs that copy attributes don't fail). `user.xdg.tags`, `user.xdg.comment` and `user.baloo.rating` are the
annotation. Other `user.*` attributes of files and folders in import/ and images/ are kept as they came.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mixfs import clock
from mixfs.errors import NoAttribute, NotFoundError, NotSupported, ReadOnlyError
from mixfs.ids import Digest
from mixfs.index.dentries import Dentry
from mixfs.library import editing
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.xattrs import ANNOTATION, LONGEST, MEDIA_TYPE, OWN, check_room, field_of
from mixfs.records import Annotation, Entry, Folder, Generation, ImportFolder, Placement, Receipt, Session
from mixfs.vfs.bases import NOBODY, Owner
from mixfs.vfs.files import keep_deleted, truncate
from mixfs.vfs.handles import Handle
from mixfs.vfs.naming import READ_ONLY
from mixfs.vfs.records_of import folder_record
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.trash import trashed_digest


async def set_attributes(
    tree: Tree, key: bytes, *, mode: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None,
    size: int | None = None, handle: Handle | None = None, owner: Owner = NOBODY,
) -> Dentry:  # fmt: skip
    """Change what is given and return the attributes. Owner changes never come here: they are accepted and ignored.

    Files of import/ keep an access time, folders do until the mount ends; elsewhere it is ignored.
    """
    if size is not None:
        await truncate(tree, key, size, handle, owner)
    if size is None or mode is not None or atime_ns is not None or mtime_ns is not None:
        await keep_deleted(tree, key)
        async with tree.lock:
            await _set(tree, key, None if mode is None else mode & 0o7777, atime_ns, mtime_ns)
    with tree.library.read() as view:
        return tree.attr(view, key)


async def _set(tree: Tree, key: bytes, mode: int | None, atime_ns: int | None, mtime_ns: int | None) -> None:
    staged = tree.staging.by_key(key)
    if staged is not None and staged.intake is not None:
        if mode is not None:
            staged.mode = mode
        staged.set_times(atime_ns, mtime_ns)
        staged.changed()
        tree.staging.note(staged)
        return
    tag = key[:1]
    if tag in (b"V", b"K", b"k") or (tag == b"S" and mode is None):
        # A session's folder has the time that it has, and what is in storage-v2/ its mode too; copying programs need
        # not know.
        return
    if tag == b"d":
        with tree.library.read() as view:
            folder_record(view, key)
        if mtime_ns is not None:
            tree.staging.set_folder_time(key, mtime_ns)
            mtime_ns = None
        if atime_ns is not None:
            tree.accessed_at[key] = atime_ns
        tree.changed_at[key] = clock.now_ns()
        if mode is None:
            return
    elif tag not in (b"P", b"R", b"p", b"S"):
        with tree.library.read() as view:
            tree.attr(view, key)
        raise ReadOnlyError(READ_ONLY)

    def write(txn: Txn) -> None:
        record: Any
        if tag == b"d":
            record = folder_record(txn, key)
        elif tag == b"p":
            record = txn.get_raw(Folder, key[1:])
        elif tag == b"S":
            record = txn.get_raw(Session, key[1:])
        else:
            record = txn.get_raw(Receipt if tag == b"R" else Placement, key[1:])
        if record is None:
            if tag == b"p" and txn.get_raw(Session, key[1:]) is not None:
                return
            raise NotFoundError("It was deleted.")
        changed = record if mode is None else dataclasses.replace(record, mode=mode)
        if mtime_ns is not None and tag not in (b"p", b"S"):
            changed = dataclasses.replace(changed, mtime_ns=mtime_ns)
        if isinstance(changed, Receipt):
            changed = dataclasses.replace(
                changed, ctime_ns=txn.now_ns, atime_ns=changed.atime_ns if atime_ns is None else atime_ns
            )
        if changed != record:
            txn.put(changed)

    await tree.commit(write)


# -- extended attributes


class About:
    """What the extended attributes of a node are made of."""

    __slots__ = ("annotation", "digest", "generation", "kept", "placement", "view")

    def __init__(self, tree: Tree, view: View, key: bytes) -> None:
        self.view = view
        self.placement: Placement | None = None
        self.digest: Digest | None = None
        self.kept: Mapping[str, bytes] = {}
        staged = tree.staging.by_key(key)
        tag = key[:1]
        if staged is not None:
            self.kept = staged.xattrs
        elif tag == b"P":
            self.placement = view.get_raw(Placement, key[1:])
        elif tag == b"R":
            receipt = view.get_raw(Receipt, key[1:])
            if receipt is not None:
                self.digest, self.kept = receipt.digest, receipt.xattrs
                self.placement = view.get(Placement, receipt.placement_id) if receipt.placement_id else None
        elif tag == b"d":
            folder = view.get_raw(ImportFolder, key[1:])
            self.kept = folder.xattrs if folder is not None else {}
        elif tag == b"J":
            self.digest = Digest(key[1:])
            self.placement = next(view.referrers(Placement, self.digest), None)
        elif tag == b"U":
            self.digest = trashed_digest(view, key)
        elif key[:2] == b"De":
            entry = view.get_raw(Entry, key[2:18])
            self.digest = entry.digest if entry is not None else None
        if self.placement is not None:
            self.digest = self.digest or self.placement.digest
            if tag != b"R" and staged is None:
                # A receipt has its own: what was removed from it must not come back from the placement.
                self.kept = self.placement.xattrs
        self.annotation: Annotation | None = None
        self.generation: Generation | None = None
        if self.digest is not None:
            session_id = self.placement.session_id if self.placement else None
            self.generation = view.generation_of(self.digest, session_id)
            self.annotation = view.annotation(self.digest)


def _session(about: About) -> str | None:
    session = about.view.get(Session, about.placement.session_id) if about.placement else None
    return session.title if session is not None else None


def _media_type(about: About) -> str | None:
    blob = about.view.blob(about.digest) if about.digest is not None else None
    return blob.media_type if blob is not None else None


def _problem(about: About) -> str | None:
    image = about.view.image(about.digest) if about.digest is not None else None
    return image.problem if image is not None else None


def _generation(name: str) -> Callable[[About], Any]:
    return lambda about: getattr(about.generation, name) if about.generation is not None else None


def _annotation(name: str) -> Callable[[About], Any]:
    def value(about: About) -> Any:
        found = getattr(about.annotation, name) if about.annotation is not None else None
        return (",".join(found) or None) if isinstance(found, tuple) else found

    return value


_SHOWN: dict[str, Callable[[About], Any]] = {
    "user.mixfs.digest": lambda about: about.digest.hex() if about.digest is not None else None,
    "user.mixfs.session": _session,
    "user.mixfs.generation": _generation("id"),
    "user.mixfs.prompt": _generation("prompt"),
    "user.mixfs.negative_prompt": _generation("negative_prompt"),
    "user.mixfs.model": _generation("model"),
    "user.mixfs.seed": _generation("seed"),
    "user.mixfs.original_name": lambda about: about.placement.original_name if about.placement else None,
    "user.mixfs.problem": _problem,
    "user.mime_type": _media_type,
    "user.xdg.tags": _annotation("tags"),
    "user.xdg.comment": _annotation("comment"),
    "user.baloo.rating": _annotation("rating"),
}
# The tags of nodes that have attributes.
_HAVING = (b"P", b"R", b"J", b"D", b"d", b"U")


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    data = str(value).encode("utf-8", "surrogateescape")
    return data[:LONGEST]


def get(tree: Tree, view: View, key: bytes, name: str) -> bytes:
    """One attribute's value. Raises NoAttribute, NotSupported for other namespaces."""
    if not name.startswith("user."):
        raise NoAttribute(name) if name.startswith("security.") else NotSupported(name)
    if key[:1] not in _HAVING:
        raise NoAttribute(name)
    about = About(tree, view, key)
    show = _SHOWN.get(name)
    value = show(about) if show is not None else None
    if value is None:
        value = about.kept.get(name)
    if value is None:
        raise NoAttribute(name)
    return _bytes(value)


def names(tree: Tree, view: View, key: bytes) -> list[str]:
    """The names of the attributes that a node has."""
    if key[:1] not in _HAVING:
        return []
    about = About(tree, view, key)
    shown = [name for name, show in _SHOWN.items() if show(about) is not None]
    return shown + [name for name in about.kept if name not in shown]


async def set_one(tree: Tree, key: bytes, name: str, value: bytes) -> None:
    """Make or replace an attribute (no flags: pyfuse3 hands none over).

    Raises NotSupported for other namespaces, ReadOnlyError, InvalidValue for a bad rating.
    """
    if not name.startswith("user."):
        raise NotSupported(name)
    await _change(tree, key, name, value)


async def remove(tree: Tree, key: bytes, name: str) -> None:
    """Remove an attribute. Raises NoAttribute."""
    if not name.startswith("user."):
        raise NotSupported(name)
    with tree.library.read() as view:
        get(tree, view, key, name)
    await _change(tree, key, name, None)


async def _change(tree: Tree, key: bytes, name: str, value: bytes | None) -> None:
    if name.startswith(OWN) or name == MEDIA_TYPE:
        return
    tag = key[:1]
    await keep_deleted(tree, key)
    async with tree.lock:
        staged = tree.staging.by_key(key)
        if staged is not None:
            if value is not None:
                check_room(staged.xattrs, name, value)
            tree.staging.set_xattr(staged, name, value)
            return
        with tree.library.read() as view:
            about = About(tree, view, key)
        if name in ANNOTATION:
            digest = about.digest
            if digest is None:
                raise ReadOnlyError("Only pictures have tags, ratings and comments.")
            fields = {ANNOTATION[name]: field_of(name, value)}
            await tree.commit(lambda txn: editing.annotate(txn, digest, **fields))
            return
        if tag not in (b"P", b"R", b"d"):
            raise ReadOnlyError(READ_ONLY)

        def write(txn: Txn) -> None:
            record: Any
            if tag == b"d":
                record = folder_record(txn, key)
            else:
                record = txn.get_raw(Receipt if tag == b"R" else Placement, key[1:])
            if record is None:
                raise NotFoundError("It was deleted.")
            kept = {other: held for other, held in record.xattrs.items() if other != name}
            if value is not None:
                check_room(kept, name, value)
                kept[name] = value
            if kept == record.xattrs:
                return
            changed = dataclasses.replace(record, xattrs=kept)
            txn.put(dataclasses.replace(changed, ctime_ns=txn.now_ns) if isinstance(changed, Receipt) else changed)

        await tree.commit(write)
        if tag == b"d":
            tree.changed_at[key] = clock.now_ns()
