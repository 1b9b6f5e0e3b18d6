"""Files whose bytes are a blob: placements, receipts, pictures in the views over everything, canvas entries."""

from __future__ import annotations

import stat

from mixfs.errors import NotFoundError, Outdated
from mixfs.ids import Digest
from mixfs.index.dentries import Dentry
from mixfs.library.view import View
from mixfs.library.wanted import EntryPlace, entry_place, image_time, import_directory, is_picture
from mixfs.records import Entry, Placement, Receipt
from mixfs.vfs.content import BlobContent, BytesContent, Content
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import file
from mixfs.vfs.views.mirrors import given_name


def _as_listed(view: View, directory: bytes, wanted: bytes, key: bytes) -> Dentry:
    """The attributes that the stored listing has: stat(2) must say what `ls -l` says."""
    dentry = view.dentry(directory, given_name(view, directory, wanted, key))
    if dentry is None or dentry.key != key:
        raise NotFoundError("It was deleted.")
    return dentry


class PlacementFile:
    """A file in images/ or files/ of a session."""

    def _record(self, view: View, key: bytes) -> Placement:
        placement = view.get_raw(Placement, key[1:])
        if placement is None:
            raise NotFoundError("The picture was deleted from its session.")
        return placement

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        placement = self._record(view, key)
        found = file(placement.name, key, placement.size, placement.mtime_ns, stat.S_IFREG | placement.mode)
        return found._replace(ctime_ns=placement.ctime_ns)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        return BlobContent(self._record(view, key).digest)


class ReceiptFile:
    """A file in import/ that was taken in."""

    def _record(self, view: View, key: bytes) -> Receipt:
        receipt = view.get_raw(Receipt, key[1:])
        if receipt is None:
            raise NotFoundError("The file is gone from import/.")
        return receipt

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        receipt = self._record(view, key)
        return _as_listed(view, import_directory(receipt.parent_id), receipt.name, key)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        return BlobContent(self._record(view, key).digest)


class SharedImage:
    """A picture as images/ and the by-* views show it: one node wherever it stands there."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        image = view.image(Digest(key[1:]))
        if image is None:
            raise NotFoundError("The picture is gone.")
        mtime_ns, _ = image_time(image, view.generations_of(image.digest))
        return file(b"", key, image.size, mtime_ns)._replace(ctime_ns=image.added_ns)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        return BlobContent(Digest(key[1:]))


class EntryFile:
    """A canvas entry: text as text, an image as the image, others as JSON."""

    def _record(self, view: View, key: bytes) -> tuple[Entry, bool, EntryPlace]:
        entry = view.get_raw(Entry, key[2:18])
        if entry is None:
            raise NotFoundError("The canvas entry is gone.")
        placed = entry.digest is not None and view.is_placed(entry.digest)
        place = entry_place(entry, placed=placed)
        if place.key != key:
            raise Outdated("The canvas entry has changed.")
        return entry, is_picture(entry, placed=placed), place

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        _, _, place = self._record(view, key)
        return _as_listed(view, place.directory, place.wanted, key)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        entry, shows, place = self._record(view, key)
        if shows and entry.digest is not None:
            return BlobContent(entry.digest)
        return BytesContent(place.content)
