"""A session's own folder: what stands in it, and its three JSON views."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from mixfs.errors import NotFoundError, Outdated
from mixfs.ids import key16
from mixfs.index.dentries import DIR_MODE, READ_ONLY_DIR_MODE, Dentry
from mixfs.library.projections import SESSION_DOCUMENTS
from mixfs.library.view import View
from mixfs.records import Session
from mixfs.vfs.content import BytesContent, Content
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, file, in_order
from mixfs.vfs.views.mirrors import listing_mtime

# images/ stands first: `rm -r` takes names in this order, and a session whose images/ is gone lets the rest go.
FOLDERS: dict[bytes, bytes] = {
    b"images": b"p", b"thumbnails": b"t", b"metadata": b"m", b"files": b"f", b"canvas": b"c", b"generations": b"g",
}  # fmt: skip
WRITABLE_DOCUMENTS = (b"canvas.json", b"session.json")
_DOCUMENT_TAGS = {"session.json": b"S", "canvas.json": b"C", "generations.json": b"H"}


class SessionFolder:
    """sessions/X/."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        session = require(view, key)
        row = view.session_row(session.id)
        return directory(session.name, key, row.mtime_ns, stat.S_IFDIR | session.mode)

    def _names(self, context: Context, view: View, key: bytes) -> dict[bytes, Dentry]:
        session = view.get_raw(Session, key[1:])
        if session is None:
            return {}
        raw = key[1:]
        row = view.session_row(session.id)
        out: dict[bytes, Dentry] = {}
        for name, tag in FOLDERS.items():
            if name == b"images" and raw in context.going:
                continue
            mode = DIR_MODE if tag == b"p" else READ_ONLY_DIR_MODE
            out[name] = directory(name, tag + raw, listing_mtime(view, tag + raw) or row.mtime_ns, mode)
        for text in SESSION_DOCUMENTS:
            size, revision = row.documents.get(text, [0, 0])
            name = text.encode()
            mode = 0o100644 if name in WRITABLE_DOCUMENTS else 0o100444
            out[name] = file(name, document_key(text, raw, revision), size, row.mtime_ns, mode)
        return out

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return self._names(context, view, key).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        return in_order(self._names(context, view, key), after)


def require(view: View, key: bytes) -> Session:
    """The session of a node key. Raises NotFoundError."""
    session = view.get_raw(Session, key[1:17])
    if session is None:
        raise NotFoundError("The session is gone.")
    return session


def document_key(name: str, session_raw: bytes, revision: int) -> bytes:
    return b"D" + _DOCUMENT_TAGS[name] + session_raw + revision.to_bytes(8, "little")


class SessionDocument:
    """One of the three JSON views; the key holds the revision, so a change is another node."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _session(self, view: View, key: bytes) -> Session:
        session = view.get_raw(Session, key[2:18])
        if session is None:
            raise NotFoundError("The session is gone.")
        return session

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        session = self._session(view, key)
        row = view.session_row(session.id)
        size, revision = row.documents.get(self._name, [0, 0])
        if document_key(self._name, key16(session.id), revision) != key:
            raise Outdated(f"{self._name} has changed.")
        mode = 0o100644 if self._name.encode() in WRITABLE_DOCUMENTS else 0o100444
        return file(self._name.encode(), key, size, row.mtime_ns, mode)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        self.attr(context, view, key)
        return BytesContent(view.render_session_document(self._session(view, key), self._name))
