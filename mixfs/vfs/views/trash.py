"""trash/: a folder for each session of which something was deleted, in it what that was, until it expires."""

from __future__ import annotations

from collections.abc import Iterator

from mixfs.errors import NotFoundError
from mixfs.ids import Digest
from mixfs.index import keys
from mixfs.index.dentries import DIR_MODE, Dentry
from mixfs.library.trashed import TrashItem, split_key, trash_items
from mixfs.library.view import View
from mixfs.records import Trash
from mixfs.vfs.content import BlobContent, BytesContent, Content
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, file
from mixfs.vfs.views.stored import Stored


class TrashRoot(Stored):
    """trash/. A folder that was just emptied here stays until it is removed itself, so that `rm -r` can do that."""

    def __init__(self) -> None:
        super().__init__(DIR_MODE, missing_ok=True)

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return super().lookup(context, view, key, name) or self._emptied(context).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """Those that were emptied come last; their places begin with NUL, which no name does."""
        if after[:1] != b"\0":
            yield from super().entries(context, view, key, after)
            after = b"\0"
        for name, dentry in sorted(self._emptied(context).items()):
            if name > after[1:] and view.dentry(key, name) is None:
                yield dentry, b"\0" + name

    def _emptied(self, context: Context) -> dict[bytes, Dentry]:
        return {name: directory(name, key, since_ns, DIR_MODE) for key, (name, since_ns) in context.emptied.items()}


class TrashFolder(Stored):
    """What was deleted of one session."""

    def __init__(self) -> None:
        super().__init__(DIR_MODE)

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        if key in context.emptied and view.directory_row(key) is None:
            name, since_ns = context.emptied[key]
            return directory(name, key, since_ns, DIR_MODE)
        return super().attr(context, view, key)


# The items of the one record of many that was asked for last, as libraries of before there were groups have them: with
# its row, whose bytes say whether it is the same still. Programs open its files one after the other.
_last: tuple[bytes, Trash, dict[bytes, TrashItem]] | None = None
_MANY = 16 << 10


def _item(view: View, key: bytes) -> tuple[Trash, TrashItem]:
    global _last
    raw, last = split_key(key)[0], _last
    value = view.txn.get(keys.record_raw(Trash.KIND, raw))
    if last is None or last[0] != value:
        trash = view.get_raw(Trash, raw)
        if trash is None or value is None:
            raise NotFoundError("It is not in the trash any more.")
        last = value, trash, {item.key: item for item in trash_items(trash)}
        if len(value) > _MANY:
            _last = last
    _, trash, items = last
    if key not in items:
        raise NotFoundError("It is not in the trash any more.")
    return trash, items[key]


def trashed_digest(view: View, key: bytes) -> Digest | None:
    """The digest of a picture or file in trash/; None for a document."""
    return _item(view, key)[1].digest


class TrashFile:
    """A deleted picture or file; or the document of what else was taken away."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        trash, item = _item(view, key)
        return file(item.name, key, item.size, item.mtime_ns)._replace(ctime_ns=trash.deleted_ns)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        _, item = _item(view, key)
        return BytesContent(item.data) if item.digest is None else BlobContent(item.digest)
