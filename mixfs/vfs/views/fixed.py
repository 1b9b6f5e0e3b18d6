"""The mount's root and .mixfs/: names that every mount has."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mixfs.errors import NotFoundError
from mixfs.index.dentries import Dentry, fixed, fixed_file
from mixfs.library.view import View
from mixfs.vfs.content import BytesContent, Content, FileContent
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, file, in_order

ROOT = fixed("/")
STATUS = fixed("/.mixfs")
IMPORT = b"d" + bytes(16)

README = """\
MixFS: a library of AI-image work, as folders
=============================================

import/        copy files or folders in here; a folder becomes a session, a file by itself goes to the session Inbox
sessions/      each session: images/, thumbnails/, metadata/ (prompt and parameters of each picture), files/,
               canvas/, generations/, and session.json, canvas.json, generations.json
images/        every picture once, by its SHA-256
by-date/  by-model/  by-lora/  by-generator/
               every picture where you would look for it
trash/         what was deleted in sessions/, for 30 days; move it back into sessions/ to restore it
storage-v2/    the folder of a desktop app, live: docs/formats/storage-v2.md; bind it to where the app keeps its own
.mixfs/        for programs: version, stats.json, health.json, problems.jsonl, log.jsonl

What you copied in is never altered: what you read back is bit for bit what you wrote. Originals are kept once, however
often they are copied in. `mixfs wait` returns when everything that was copied in has been taken in.

import/ and sessions/*/images/ can be written to; `mkdir sessions/X` makes a session, `mv` retitles it, `rm -r` moves
it to the trash. canvas.json and session.json can be saved by an editor, storage-v2/ is written to by its app.
Everything else is made from the library and is read-only.
"""

_FILES = {"/README.txt": README.encode(), "/.trackerignore": b""}
_PATHS = {fixed_file(path): path for path in _FILES}


class Root:
    """The top of the mount."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        return directory(b"", ROOT, context.made_ns)

    def _names(self, context: Context, view: View) -> dict[bytes, Dentry]:
        from mixfs.vfs.routes import ROOT_DIRECTORIES, attr

        out: dict[bytes, Dentry] = {}
        readme = fixed_file("/README.txt")
        out[b"README.txt"] = file(b"README.txt", readme, len(_FILES["/README.txt"]), context.made_ns)
        for name, key in ROOT_DIRECTORIES.items():
            out[name] = attr(context, view, key)._replace(name=name)
        out[b".trackerignore"] = file(b".trackerignore", fixed_file("/.trackerignore"), 0, context.made_ns)
        return out

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return self._names(context, view).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        return in_order(self._names(context, view), after)


class Status:
    """.mixfs/: what the daemon tells of itself."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        return directory(b".mixfs", STATUS, context.mounted_ns)

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        text = name.decode("utf-8", "replace")
        return status_attr(context, text)._replace(name=name) if text in context.status else None

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        names = {text.encode(): status_attr(context, text) for text in context.status}
        return in_order(names, after)


def status_key(name: str) -> bytes:
    return fixed_file("/.mixfs/" + name)


def status_attr(context: Context, name: str) -> Dentry:
    content = context.status[name]()
    size, mtime_ns = content_size(content)
    return file(name.encode(), status_key(name), size, mtime_ns or context.mounted_ns)


def content_size(content: Content) -> tuple[int, int]:
    """`(size, mtime_ns)`; 0 for the time where the content has none of its own."""
    if isinstance(content, BytesContent):
        return len(content.data), 0
    if isinstance(content, FileContent):
        try:
            status = os.stat(content.path)
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns
    raise TypeError(content)


class FixedFile:
    """README.txt, .trackerignore and the files of .mixfs/."""

    def _status_name(self, context: Context, key: bytes) -> str:
        for name in context.status:
            if status_key(name) == key:
                return name
        raise NotFoundError("There is no such file.")

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        path = _PATHS.get(key)
        if path is not None:
            return file(path[1:].encode(), key, len(_FILES[path]), context.made_ns)
        return status_attr(context, self._status_name(context, key))

    def content(self, context: Context, view: View, key: bytes) -> Content:
        path = _PATHS.get(key)
        if path is not None:
            return BytesContent(_FILES[path])
        return context.status[self._status_name(context, key)]()
