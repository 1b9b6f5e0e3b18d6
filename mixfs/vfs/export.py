"""A session's folder as plain files: the same tree that the mount shows, walked by the same views.

The listing and the documents come from one state of the library; originals are copied after that, since they never
change, and each is checked against its digest on the way. What is written becomes visible by one rename.
Nothing is fsynced but that: it is a copy of what the library keeps.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixfs import clock
from mixfs.errors import BlobDamaged, BlobMissing, InvalidValue
from mixfs.ids import Digest, key16
from mixfs.index.dentries import Dentry
from mixfs.library.api import Library
from mixfs.library.exporting import check_fits, check_room, new_folder
from mixfs.library.view import View
from mixfs.names import is_name
from mixfs.records import Placement
from mixfs.vfs.content import BlobContent, BytesContent
from mixfs.vfs.context import Context
from mixfs.vfs.routes import directory_view, file_view


@dataclass(slots=True)
class Exported:
    """What was written; `missing` are the files that were not, by path in the folder, with the reason.

    Their originals are missing or damaged, and no reason to keep back the others.
    """

    files: int = 0
    bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def export_session(library: Library, session_id: str, target: Path) -> Exported:
    """Write a session's folder to `target`, which must not exist or be empty; nothing is left there on failure.

    Files whose originals are missing or damaged are left out, and listed in what is returned. Raises NotFoundError,
    ExistsError, UnsuitablePlace, OSError.
    """
    session = library.session(session_id)
    with new_folder(library.root, target) as folder:
        return _Writer(library, folder).write(b"S" + key16(session.id))


class _Writer:
    """Writes one tree."""

    def __init__(self, library: Library, target: Path) -> None:
        self._library, self._target = library, target
        self._context = Context(library.root, clock.now_ns())
        self._copies: list[tuple[Path, Dentry, Digest, Mapping[str, bytes]]] = []
        self._documents: list[tuple[Path, Dentry, bytes]] = []
        self._thumbnails: list[tuple[Path, Dentry, Path]] = []
        self._folders: list[tuple[Path, Dentry]] = []
        self._done = Exported()

    def write(self, key: bytes) -> Exported:
        with self._library.read() as view:
            self._tree(view, key, self._target)
        files = [(path, len(data)) for path, _, data in self._documents]
        files += [(path, dentry.size) for path, dentry, _, _ in self._copies]
        files += [(path, dentry.size) for path, dentry, _ in self._thumbnails]
        check_room(self._target.parent, sum(size for _, size in files), len(files))
        check_fits(self._target, ((str(path.relative_to(self._target)), size) for path, size in files))
        for folder, _ in self._folders:
            folder.mkdir()
        for path, dentry, data in self._documents:
            self._put(path, dentry, data)
        for path, dentry, digest, xattrs in self._copies:
            try:
                self._copy_blob(path, dentry, digest)
            except (BlobMissing, BlobDamaged) as error:
                path.unlink()
                self._done.missing[str(path.relative_to(self._target))] = str(error)
                continue
            for name, value in xattrs.items():
                # Not every file system has them; the bytes are what matters.
                with contextlib.suppress(OSError):
                    os.setxattr(path, name, value)
            _set_time(path, dentry)
        for path, dentry, source in self._thumbnails:
            # Derived, and it may be gone by now.
            with contextlib.suppress(FileNotFoundError):
                self._put(path, dentry, source.read_bytes())
        # Times last, the deepest first: writing into a folder changes them.
        for path, dentry in reversed(self._folders):
            _set_time(path, dentry)
        return self._done

    def _tree(self, view: View, key: bytes, folder: Path) -> None:
        for dentry in self._listing(view, key):
            if not is_name(dentry.name):
                # Of a journal that another program wrote, or that was damaged with a right checksum.
                raise InvalidValue(
                    f"{dentry.name[:80]!r} is no file name and would lead out of {self._target}: nothing was exported."
                )
            path = folder / os.fsdecode(dentry.name)
            if dentry.is_directory:
                self._folders.append((path, dentry))
                self._tree(view, dentry.key, path)
                continue
            content = file_view(dentry.key).content(self._context, view, dentry.key)
            if isinstance(content, BlobContent):
                self._copies.append((path, dentry, content.digest, self._xattrs(view, dentry)))
            elif isinstance(content, BytesContent):
                self._documents.append((path, dentry, content.data))
            else:
                self._thumbnails.append((path, dentry, content.path))

    def _listing(self, view: View, key: bytes) -> Iterator[Dentry]:
        for dentry, _ in directory_view(key).entries(self._context, view, key, b""):
            yield dentry

    @staticmethod
    def _xattrs(view: View, dentry: Dentry) -> Mapping[str, bytes]:
        """The attributes that a file was copied in with."""
        placement = view.get_raw(Placement, dentry.key[1:]) if dentry.key[:1] == b"P" else None
        return placement.xattrs if placement is not None else {}

    def _put(self, path: Path, dentry: Dentry, data: bytes) -> None:
        fd = self._create(path, dentry)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            self._count(len(data))
        finally:
            os.close(fd)
        _set_time(path, dentry)

    def _copy_blob(self, path: Path, dentry: Dentry, digest: Digest) -> None:
        fd = self._create(path, dentry)
        try:
            size = 0
            for chunk in self._library.blobs.chunks(digest):
                size += len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            self._count(size)
        finally:
            os.close(fd)

    @staticmethod
    def _create(path: Path, dentry: Dentry) -> int:
        # What is read-only in the mount is an ordinary file here: its owner may write it.
        mode = (dentry.mode & 0o777) | 0o600
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def _count(self, size: int) -> None:
        self._done.files += 1
        self._done.bytes += size


def _set_time(path: Path, dentry: Dentry) -> None:
    # Not every file system lets anybody set them; the bytes are what matters.
    with contextlib.suppress(PermissionError):
        os.utime(path, ns=(dentry.mtime_ns, dentry.mtime_ns))
