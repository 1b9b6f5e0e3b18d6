"""Directories whose listing is stored as it is shown: sessions/, images/ of a session, views over everything, import/.

One range scan of the index is one listing, one get a lookup.
"""

from __future__ import annotations

from collections.abc import Iterator

from mixfs.errors import NotFoundError
from mixfs.index.dentries import DIR_MODE, READ_ONLY_DIR_MODE, Dentry
from mixfs.library.view import View
from mixfs.library.wanted import import_directory
from mixfs.records import Folder, ImportFolder
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, directory_attr, with_mtime


class Stored:
    """A stored listing; `mode` is the directory's own. `missing_ok`: an empty one need not have a row."""

    def __init__(self, mode: int = READ_ONLY_DIR_MODE, *, missing_ok: bool = False) -> None:
        self._mode, self._missing_ok = mode, missing_ok

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        if self._missing_ok and view.directory_row(key) is None:
            return directory(b"", key, context.made_ns, self._mode)
        return directory_attr(view, key, self._mode)

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        dentry = view.dentry(key, name)
        return None if dentry is None else self._shown(view, dentry)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        for dentry in view.dentries(key, after):
            # Only folders may be shown otherwise than they are stored, and there are few.
            yield self._shown(view, dentry) if dentry.is_directory else dentry, dentry.name

    def _shown(self, view: View, dentry: Dentry) -> Dentry:
        return with_mtime(view, dentry)


class ImageFolder(Stored):
    """images/ of a session and the folders below it."""

    def __init__(self) -> None:
        super().__init__(DIR_MODE)

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        found = directory_attr(view, key, DIR_MODE)
        folder = view.get_raw(Folder, key[1:])
        return found if folder is None else found._replace(mode=(DIR_MODE & ~0o7777) | folder.mode)


class ImportDirectory(Stored):
    """A folder of import/. Its time is what programs set or did there, not when receipts were written."""

    def __init__(self) -> None:
        super().__init__(DIR_MODE)

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        folder = view.get_raw(ImportFolder, key[1:])
        if folder is None and key == import_directory(None):
            # Nothing was done in import/ yet.
            return directory(b"import", key, context.made_ns, DIR_MODE)
        if folder is None:
            raise NotFoundError("The folder is gone.")
        return directory(folder.name, key, folder.mtime_ns, (DIR_MODE & ~0o7777) | folder.mode, folder.ctime_ns)

    def _shown(self, view: View, dentry: Dentry) -> Dentry:
        return dentry

