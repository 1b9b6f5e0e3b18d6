"""storage-v2/: the folder of a desktop app, live: documents made from records, its pictures, its log and thumbnails.

Documents are rendered by `mixfs/library/storage_v2.py`, as an export does. Their names and attributes are given to the
kernel without a timeout, so that a change by anybody is seen at once, with its size. images/ is a stored listing.
logs.jsonl and thumbnails/ are files that the library keeps as they are; their node keys hold their path in there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mixfs.errors import NotFoundError, Outdated
from mixfs.ids import key16
from mixfs.index import dentries
from mixfs.index.dentries import DIR_MODE, Dentry
from mixfs.library import storage_v2
from mixfs.library.storage_v2 import CANVAS, GENERATIONS, IMAGES, LOGS, NAME, REGISTRY, ROOT, ROW_NAMES, SESSIONS
from mixfs.library.view import View
from mixfs.records import Session
from mixfs.vfs.content import BytesContent, Content, FileContent
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, file, in_order
from mixfs.vfs.views.stored import Stored

LOG_KEY = b"K" + LOGS.encode()
THUMBNAILS = b"kthumbnails"
# Directories whose names are given without a timeout; those of images/ are told of by event rows.
LIVE_DIRECTORIES = (ROOT, SESSIONS)
_FILE_MODE = stat.S_IFREG | 0o644
APP_TAGS = {CANVAS: b"c", GENERATIONS: b"h"}


class Target(NamedTuple):
    """What a document's name stands for: `suffix` "" is the registry."""

    session_id: str
    suffix: str

    @property
    def name(self) -> str:
        """As a person knows it."""
        return f"{self.session_id}{self.suffix}" if self.suffix else REGISTRY


def target_of_name(view: View, parent: bytes, name: bytes) -> Target | None:
    """What a name is that a program gives a document; None for any other name."""
    if parent == ROOT:
        return Target("", "") if name == REGISTRY.encode() else None
    for suffix in (CANVAS, GENERATIONS):
        stem = name.removesuffix(suffix.encode())
        if parent != SESSIONS or stem == name or not stem:
            continue
        session = storage_v2.session_of_stem(view, stem)
        if session is not None:
            return Target(session.id, suffix)
        text = stem.decode("utf-8", "surrogateescape")
        if storage_v2.stem_of(text) == stem and text != storage_v2.POOL_ID:
            return Target(text, suffix)
    return None


def target_of_key(view: View, key: bytes) -> Target:
    """What a document's node stands for. Raises NotFoundError."""
    if key[1:2] == b"r":
        return Target("", "")
    return Target(_session(view, key).id, _suffix(key))


def _suffix(key: bytes) -> str:
    return CANVAS if key[1:2] == b"c" else GENERATIONS


def _session(view: View, key: bytes) -> Session:
    session = view.get_raw(Session, key[2:18])
    if session is None:
        raise NotFoundError("The session is gone.")
    return session


class AppFolder:
    """storage-v2/ itself."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        row = view.directory_row(ROOT)
        return directory(NAME.encode(), ROOT, row.mtime_ns if row is not None else context.made_ns, DIR_MODE)

    def _names(self, context: Context, view: View) -> dict[bytes, Dentry]:
        found = (
            AppSessions().attr(context, view, SESSIONS), Stored(DIR_MODE, missing_ok=True).attr(context, view, IMAGES),
            kept_directory(context, THUMBNAILS), registry(context, view), kept_file(context, LOG_KEY),
        )  # fmt: skip
        names = (b"sessions", b"images", b"thumbnails", REGISTRY.encode(), LOGS.encode())
        return {name: dentry._replace(name=name) for name, dentry in zip(names, found, strict=True)}

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return self._names(context, view).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        return in_order(sorted(self._names(context, view).items()), after)


class AppSessions:
    """storage-v2/sessions/: two documents for each session, of whichever origin; in the order of sessions/."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        row = view.directory_row(dentries.fixed("/sessions"))
        return directory(b"sessions", SESSIONS, row.mtime_ns if row is not None else context.made_ns, DIR_MODE)

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        target = target_of_name(view, SESSIONS, name)
        session = view.get(Session, target.session_id) if target is not None else None
        if target is None or session is None:
            return None
        return next((found for found in _documents(view, session) if found.name == name), None)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """Places are `NAME NUL index`: a session's name in sessions/ and how many of its documents were given."""
        base, _, given = after.partition(b"\0")
        parent = dentries.fixed("/sessions")
        held = view.dentry(parent, base) if base else None
        for dentry in (*([held] if held is not None else []), *view.dentries(parent, base)):
            session = view.get_raw(Session, dentry.key[1:])
            if session is None:
                continue
            for index, found in enumerate(_documents(view, session), 1):
                if dentry.name != base or index > int(given or b"0"):
                    yield found, dentry.name + b"\0%d" % index


def _documents(view: View, session: Session) -> Iterator[Dentry]:
    row, stem = view.session_row(session.id), storage_v2.stem_of(session.id)
    for suffix, name in ROW_NAMES.items():
        if name in row.documents:
            size, revision = row.documents[name]
            key = b"V" + APP_TAGS[suffix] + key16(session.id) + revision.to_bytes(8, "little")
            yield file(stem + suffix.encode(), key, size, row.mtime_ns, _FILE_MODE)


def registry(context: Context, view: View) -> Dentry:
    size, revision = storage_v2.registry_size(view)
    row = view.directory_row(ROOT)
    mtime_ns = max(row.mtime_ns if row is not None else context.made_ns, view.session_row(storage_v2.POOL_ID).mtime_ns)
    return file(REGISTRY.encode(), b"Vr" + revision.to_bytes(8, "little"), size, mtime_ns, _FILE_MODE)


class AppDocument:
    """A JSON file of the app; the key holds the revision, so a change is another node."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        if key[1:2] == b"r":
            found: Dentry | None = registry(context, view)
        else:
            found = next((each for each in _documents(view, _session(view, key)) if each.key[:2] == key[:2]), None)
        if found is None:
            raise NotFoundError("It was deleted.")
        if found.key != key:
            raise Outdated(f"{found.name!r} has changed.")
        return found

    def content(self, context: Context, view: View, key: bytes) -> Content:
        self.attr(context, view, key)
        if key[1:2] == b"r":
            return BytesContent(storage_v2.render_registry(view), live=True)
        return BytesContent(storage_v2.render(view, _session(view, key), _suffix(key)), live=True)


# -- what is kept as it is


def path_of(context: Context, key: bytes) -> Path:
    """Where the library keeps a file or folder of this kind."""
    return context.root / NAME / os.fsdecode(key[1:])


def kept_file(context: Context, key: bytes) -> Dentry:
    """Raises NotFoundError. A log that nobody has written to is listed empty."""
    name = key[1:].rpartition(b"/")[2]
    try:
        status = os.stat(path_of(context, key))
    except OSError:
        if key != LOG_KEY:
            raise NotFoundError("The file is gone.") from None
        return file(name, key, 0, context.made_ns, _FILE_MODE)
    return file(name, key, status.st_size, status.st_mtime_ns, _FILE_MODE)


def kept_directory(context: Context, key: bytes) -> Dentry:
    """Raises NotFoundError."""
    try:
        mtime_ns = os.stat(path_of(context, key)).st_mtime_ns
    except OSError:
        if key != THUMBNAILS:
            raise NotFoundError("The folder is gone.") from None
        mtime_ns = context.made_ns
    return directory(key[1:].rpartition(b"/")[2], key, mtime_ns, DIR_MODE)


class KeptFolder:
    """thumbnails/ and the folders in it."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        return kept_directory(context, key)

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        below = key[1:] + b"/" + name
        try:
            is_directory = stat.S_ISDIR(os.stat(path_of(context, b"k" + below)).st_mode)
            return kept_directory(context, b"k" + below) if is_directory else kept_file(context, b"K" + below)
        except (OSError, NotFoundError):
            return None

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(path_of(context, key)))
        except OSError:
            return
        for name in names:
            found = self.lookup(context, view, key, name) if name > after else None
            if found is not None:
                yield found, name


class KeptFile:
    """logs.jsonl, and a thumbnail as the app wrote it."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        return kept_file(context, key)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        path = path_of(context, key)
        if key == LOG_KEY and not path.exists():
            return BytesContent(b"", live=True)
        return FileContent(path, growing=True)
