"""What a view is: a few methods over one read of the library, for the node keys of one tag.

A view knows how a subtree looks, never how it is changed (`mixfs/vfs/tree.py`) nor who asks (`mixfs/fuse/`). Listing a
name and looking it up come from one place in each view, so that they can't drift; `tests/vfs` holds them to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from mixfs.errors import NotFoundError
from mixfs.ids import ino_of
from mixfs.index.dentries import READ_ONLY_DIR_MODE, READ_ONLY_FILE_MODE, Dentry
from mixfs.library.view import View
from mixfs.vfs.content import Content

if TYPE_CHECKING:
    from mixfs.vfs.context import Context


class DirectoryView(Protocol):
    """A kind of directory."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        """The directory's own attributes. Raises NotFoundError when it is gone."""

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        """What a name in it is, or None."""

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """Each dentry behind the place `after` (b"" is the beginning), with its own place, to go on from there."""


class FileView(Protocol):
    """A kind of file."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        """Its attributes. Raises NotFoundError when it is gone, Outdated when it has other content now."""

    def content(self, context: Context, view: View, key: bytes) -> Content:
        """Where its bytes are."""


def directory(name: bytes, key: bytes, mtime_ns: int, mode: int = READ_ONLY_DIR_MODE, ctime_ns: int = 0) -> Dentry:
    return Dentry(name, key, ino_of(key), mode, 0, mtime_ns, ctime_ns or mtime_ns)


def file(name: bytes, key: bytes, size: int, mtime_ns: int, mode: int = READ_ONLY_FILE_MODE) -> Dentry:
    return Dentry(name, key, ino_of(key), mode, size, mtime_ns, mtime_ns)


def directory_attr(view: View, key: bytes, mode: int = READ_ONLY_DIR_MODE) -> Dentry:
    """The attributes of a directory whose listing is stored."""
    row = view.directory_row(key)
    if row is None:
        raise NotFoundError("The folder is gone.")
    return directory(b"", key, row.mtime_ns, mode)


def with_mtime(view: View, dentry: Dentry, mtime_of: bytes | None = None) -> Dentry:
    """A stored directory dentry with the time of its listing's last change."""
    if not dentry.is_directory:
        return dentry
    row = view.directory_row(mtime_of or dentry.key)
    return dentry if row is None else dentry._replace(mtime_ns=row.mtime_ns, ctime_ns=row.mtime_ns)


def in_order(
    names: dict[bytes, Dentry] | list[tuple[bytes, Dentry]], after: bytes
) -> Iterator[tuple[Dentry, bytes]]:
    """The dentries of a short fixed listing, in its own order, behind the name `after`."""
    items = list(names.items()) if isinstance(names, dict) else names
    start = 0
    if after:
        start = next((i + 1 for i, (name, _) in enumerate(items) if name == after), len(items))
    for name, dentry in items[start:]:
        yield dentry, name
