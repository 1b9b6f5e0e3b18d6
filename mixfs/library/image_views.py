"""The rows of an image in the views over everything: images/, by-date/, by-model/, by-generator/, by-lora/.

Folders there have no records: one is listed as long as something is in it.
"""

from __future__ import annotations

import cbor2

from mixfs.ids import Digest
from mixfs.index import keys
from mixfs.index.dentries import READ_ONLY_DIR_MODE, READ_ONLY_FILE_MODE, Listing
from mixfs.index.engine import WriteTxn
from mixfs.library.view import View
from mixfs.library.wanted import dates, image_time, view_key
from mixfs.media.sniff import extension
from mixfs.names import safe_name
from mixfs.records import Generation, Image, Placement


class ImageViews:
    """Lists images for one commit, inside its write transaction; `stamp` is the commit's newest."""

    def __init__(self, txn: WriteTxn, view: View, listing: Listing, stamp: int) -> None:
        self.txn = txn
        self.view = view
        self._listing = listing
        self._stamp = stamp

    def update(self, digest: Digest, generations: list[Generation]) -> None:
        """List an image where it belongs now, and nowhere else. `generations` are those that gave it out."""
        image = self.view.image(digest)
        first = next(self.view.referrers(Placement, digest), None)
        wanted: dict[tuple[str, ...], bytes] = {}
        if image is not None and first is not None and image.problem is None:
            wanted = _places(image, first, generations)
        value = self.txn.get(keys.view_rows(digest))
        before: dict[tuple[str, ...], bytes] = {}
        if value is not None:
            before = {tuple(path): name for path, name in cbor2.loads(value)}
        key = b"J" + digest
        for path, name in before.items():
            if wanted.get(path) != name:
                self._remove(path, name, key)
        if image is not None:
            for path, name in wanted.items():
                self._put(path, name, key, image, image_time(image, generations)[0])
        if wanted:
            self.txn.put(keys.view_rows(digest), cbor2.dumps([[list(path), name] for path, name in wanted.items()]))
        elif value is not None:
            self.txn.delete(keys.view_rows(digest))

    def _put(self, path: tuple[str, ...], name: bytes, key: bytes, image: Image, mtime_ns: int) -> None:
        directory = view_key(path)
        row = self.view.directory_row(directory)
        if row is None or row.children == 0:
            self._make_directory(path)
        self._listing.put(
            directory, name, key, mode=READ_ONLY_FILE_MODE, size=image.size, mtime_ns=mtime_ns, ctime_ns=image.added_ns,
            order=image.order, stamp=self._stamp,
        )  # fmt: skip

    def _make_directory(self, path: tuple[str, ...]) -> None:
        if len(path) < 2:
            return
        parent, directory = view_key(path[:-1]), view_key(path)
        if len(path) > 2:
            row = self.view.directory_row(parent)
            if row is None or row.children == 0:
                self._make_directory(path[:-1])
        self._listing.put(parent, safe_name(path[-1], "unnamed"), directory, mode=READ_ONLY_DIR_MODE, stamp=self._stamp)

    def _remove(self, path: tuple[str, ...], name: bytes, key: bytes) -> None:
        directory = view_key(path)
        if not self._listing.remove(directory, name, key, stamp=self._stamp):
            return
        while len(path) > 1:
            row = self.view.directory_row(view_key(path))
            if row is not None and row.children > 0:
                return
            self._listing.drop(view_key(path))
            self._listing.remove(view_key(path[:-1]), safe_name(path[-1], "unnamed"), view_key(path), stamp=self._stamp)
            path = path[:-1]


def _places(image: Image, first: Placement, generations: list[Generation]) -> dict[tuple[str, ...], bytes]:
    """Where an image stands in the views over everything: path of values → wanted name."""
    text = image.digest.hex()
    out: dict[tuple[str, ...], bytes] = {("images", text[:2]): (text + extension(image.media_type)).encode()}
    out[("by-date", *dates(*image_time(image, generations)))] = first.name
    for generation in generations:
        if generation.model:
            out["by-model", generation.model] = first.name
        if generation.generator:
            out["by-generator", generation.generator] = first.name
        for lora in generation.loras:
            out["by-lora", str(lora[0])] = first.name
    return out
