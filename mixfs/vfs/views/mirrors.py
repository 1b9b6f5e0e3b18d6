"""The folders beside images/ that show something for each of its pictures: thumbnails/ and metadata/, and files/.

thumbnails/ and metadata/ store no listing of their own: a picture's row holds its digest and the sizes of its
documents, so that one scan of images/ lists them. files/ has a listing, and shows the folders of images/ that lead to
files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mixfs.errors import NotFoundError, Outdated
from mixfs.ids import Digest, key16
from mixfs.index.dentries import READ_ONLY_DIR_MODE, Dentry, displaced_name
from mixfs.library import documents
from mixfs.library.projections import DOCUMENT_SIZES, DOCUMENT_TYPES
from mixfs.library.view import View
from mixfs.library.wanted import placement_place
from mixfs.names import derived_name, underived_prefix
from mixfs.records import Folder, Placement, Session
from mixfs.vfs.content import BytesContent, Content, FileContent
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, directory_attr, file

SUFFIXES = {"json": b".json", "txt": b".txt", "workflow": b".workflow.json", "xmp": b".xmp"}
_TAGS = {"json": b"j", "txt": b"t", "workflow": b"w", "xmp": b"x"}
_TYPES = {tag: name for name, tag in _TAGS.items()}
THUMBNAIL_SUFFIX = b".png"
# Stands before the suffix where a picture in files/ has the name of one in images/.
DAMAGED = b".damaged"
# Whose listings a folder shows something of.
_SHOWN_OF = {b"t": (b"p",), b"m": (b"p", b"f")}


class Shares(NamedTuple):
    """What a picture's row in images/ says of its documents."""

    sizes: tuple[int, ...]
    revision: int
    digest: Digest


def shares_of(dentry: Dentry) -> Shares | None:
    """None for what is no picture."""
    if not dentry.extra:
        return None
    *sizes, revision = DOCUMENT_SIZES.unpack_from(dentry.extra)
    return Shares(tuple(sizes), revision, Digest(dentry.extra[DOCUMENT_SIZES.size :]))


def base_dentries(view: View, folder: bytes, derived: bytes, suffix: bytes) -> Iterator[Dentry]:
    """The dentries of images/ whose name, with a suffix, is `derived`: at most one unless the name was cut."""
    stem, whole = underived_prefix(derived, suffix)
    if whole:
        dentry = view.dentry(folder, stem)
        if dentry is not None and derived_name(dentry.name, suffix) == derived:
            yield dentry
        return
    for dentry in view.dentries(folder, prefix=stem):
        if derived_name(dentry.name, suffix) == derived:
            yield dentry


def listing_mtime(view: View, key: bytes) -> int:
    """When the listings that a folder shows last changed; 0 where none is stored."""
    rows = (view.directory_row(tag + key[1:]) for tag in _SHOWN_OF.get(key[:1], (key[:1],)))
    return max((row.mtime_ns for row in rows if row is not None), default=0)


class _Mirror:
    """Common to thumbnails/ and metadata/: the folders of images/ under this view's tag."""

    TAG = b""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        if view.directory_row(b"p" + key[1:]) is None:
            raise NotFoundError("The folder is gone.")
        return directory(b"", key, listing_mtime(view, key))

    def _folder(self, view: View, dentry: Dentry) -> Dentry:
        key = self.TAG + dentry.key[1:]
        return directory(dentry.name, key, listing_mtime(view, key))

    def _shown(self, view: View, folder: bytes, dentry: Dentry) -> Iterator[Dentry]:
        """What stands here for one picture, in a fixed order."""
        raise NotFoundError

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        if key[1:] in context.going:
            return None
        folder = b"p" + key[1:]
        dentry = view.dentry(folder, name)
        if dentry is not None and dentry.is_directory:
            return self._folder(view, dentry)
        for suffix in self._suffixes():
            if name.endswith(suffix):
                for base in base_dentries(view, folder, name, suffix):
                    for shown in self._shown(view, folder, base):
                        if shown.name == name:
                            return shown
        return None

    def _suffixes(self) -> tuple[bytes, ...]:
        return ()

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """Places are `NAME NUL index`: a picture's name in images/ and how many of its names were given."""
        if key[1:] in context.going:
            return
        folder = b"p" + key[1:]
        base, _, given = after.partition(b"\0")
        if base and given:
            dentry = view.dentry(folder, base)
            if dentry is not None and not dentry.is_directory:
                for index, shown in enumerate(self._shown(view, folder, dentry), 1):
                    if index > int(given):
                        yield shown, base + b"\0%d" % index
        for dentry in view.dentries(folder, base):
            if dentry.is_directory:
                yield self._folder(view, dentry), dentry.name + b"\0" + b"0"
                continue
            for index, shown in enumerate(self._shown(view, folder, dentry), 1):
                yield shown, dentry.name + b"\0%d" % index


class Thumbnails(_Mirror):
    """thumbnails/: NAME.png for each picture whose thumbnail is made."""

    TAG = b"t"

    def _suffixes(self) -> tuple[bytes, ...]:
        return (THUMBNAIL_SUFFIX,)

    def _shown(self, view: View, folder: bytes, dentry: Dentry) -> Iterator[Dentry]:
        shares = shares_of(dentry)
        row = view.thumbnail(shares.digest) if shares is not None else None
        if shares is not None and row is not None and row[0]:
            yield file(derived_name(dentry.name, THUMBNAIL_SUFFIX), b"T" + shares.digest, row[0], row[1])

    def unmade(self, view: View, key: bytes, name: bytes) -> Digest | None:
        """The picture whose thumbnail is asked for by name and isn't made yet."""
        if not name.endswith(THUMBNAIL_SUFFIX):
            return None
        for dentry in base_dentries(view, b"p" + key[1:], name, THUMBNAIL_SUFFIX):
            shares = shares_of(dentry)
            if shares is not None and view.thumbnail(shares.digest) is None:
                return shares.digest
        return None


class MetadataFolder(_Mirror):
    """metadata/: NAME.json, NAME.txt, NAME.workflow.json, NAME.xmp of each picture.

    Also of each picture in files/, which can't be decoded: as NAME.damaged.json and so on where a picture in images/
    has its name.
    """

    TAG = b"m"

    def _suffixes(self) -> tuple[bytes, ...]:
        # The longest first: `a.workflow.json` is the graph of `a` unless there is a picture `a.workflow`.
        return tuple(sorted(SUFFIXES.values(), key=len, reverse=True))

    def _shown(self, view: View, folder: bytes, dentry: Dentry, mark: bytes = b"") -> Iterator[Dentry]:
        shares = shares_of(dentry)
        if shares is None:
            return
        for name, size in zip(DOCUMENT_TYPES, shares.sizes, strict=True):
            if not size:
                continue
            if name == "workflow":
                other = view.dentry(folder, dentry.name + b".workflow")
                if other is not None and other.extra:
                    continue
            key = b"D" + _TAGS[name] + dentry.key[1:] + shares.revision.to_bytes(8, "little")
            mtime_ns = max(dentry.ctime_ns, dentry.mtime_ns)
            yield file(derived_name(dentry.name, mark + SUFFIXES[name]), key, size, mtime_ns)

    def _damaged(self, context: Context, view: View, key: bytes, dentry: Dentry) -> Iterator[Dentry]:
        """What stands here for one picture in files/."""
        files = b"f" + key[1:]
        namesake = view.dentry(b"p" + key[1:], dentry.name)
        taken = namesake is not None and bool(namesake.extra)
        plain, marked = self._shown(view, files, dentry), self._shown(view, files, dentry, DAMAGED)
        for own, other in zip(plain, marked, strict=True):
            if not taken and super().lookup(context, view, key, own.name) is None:
                yield own
            elif (
                view.dentry(files, dentry.name + DAMAGED) is None
                and super().lookup(context, view, key, other.name) is None
            ):
                yield other

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        found = super().lookup(context, view, key, name)
        if found is not None or key[1:] in context.going:
            return found
        for suffix in self._suffixes():
            for whole in (suffix, DAMAGED + suffix):
                if not name.endswith(whole):
                    continue
                for base in base_dentries(view, b"f" + key[1:], name, whole):
                    for shown in self._damaged(context, view, key, base):
                        if shown.name == name:
                            return shown
        return None

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """As above; places of pictures in files/ begin with NUL, which no name does."""
        if after[:1] != b"\0":
            yield from super().entries(context, view, key, after)
            after = b"\0"
        if key[1:] in context.going:
            return
        base, _, given = after[1:].partition(b"\0")
        files = b"f" + key[1:]
        held = view.dentry(files, base) if base else None
        for dentry in (*([held] if held is not None else []), *view.dentries(files, base)):
            seen = int(given or b"0") if dentry.name == base else 0
            for index, shown in enumerate(self._damaged(context, view, key, dentry), 1):
                if index > seen:
                    yield shown, b"\0%s\0%d" % (dentry.name, index)


class ImageDocument:
    """One of the documents of a picture in a session."""

    def _about(self, view: View, key: bytes) -> tuple[documents.About, Dentry, Shares]:
        placement = view.get_raw(Placement, key[2:18])
        about = view.about(placement) if placement is not None else None
        if placement is None or about is None:
            raise NotFoundError("The picture is gone.")
        directory, wanted = placement_place(placement)
        dentry = view.dentry(directory, given_name(view, directory, wanted, b"P" + key[2:18]))
        shares = shares_of(dentry) if dentry is not None else None
        if dentry is None or shares is None:
            raise NotFoundError("The picture is gone.")
        if shares.revision.to_bytes(8, "little") != key[18:]:
            raise Outdated("The document has changed.")
        return about, dentry, shares

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        _, dentry, shares = self._about(view, key)
        size = shares.sizes[DOCUMENT_TYPES.index(_TYPES[key[1:2]])]
        return file(b"", key, size, max(dentry.ctime_ns, dentry.mtime_ns))

    def content(self, context: Context, view: View, key: bytes) -> Content:
        about, _, _ = self._about(view, key)
        return BytesContent(documents.IMAGE_DOCUMENTS[_TYPES[key[1:2]]](about))


def given_name(view: View, directory: bytes, wanted: bytes, key: bytes) -> bytes:
    """The name that a node got in a stored listing."""
    return displaced_name(view.txn, directory, wanted, key) or wanted


class Thumbnail:
    """A thumbnail, shared by every place that shows the picture."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        row = view.thumbnail(Digest(key[1:]))
        if row is None or not row[0]:
            raise NotFoundError("The thumbnail is gone.")
        return file(b"", key, row[0], row[1])

    def content(self, context: Context, view: View, key: bytes) -> Content:
        return FileContent(context.thumbnail_path(key[1:]))


class Files:
    """files/: what was copied in and is no readable picture, in the folders it came in."""

    def __init__(self) -> None:
        # The session that was asked for last, at which state, and by parent its folders that lead to files. One value,
        # so that threads that ask at once (an export) never see one's question with the other's answer.
        self._last: tuple[tuple[object, bytes], dict[bytes, list[Folder]]] = ((None, b""), {})

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        return directory_attr(view, key, READ_ONLY_DIR_MODE)

    def _leading(self, view: View, key: bytes) -> list[Folder]:
        """The folders in this one that hold files, or lead to some. One pass over the session's folders."""
        session, folder = view.get_raw(Session, key[1:]), view.get_raw(Folder, key[1:])
        session_id = session.id if session is not None else folder.session_id if folder is not None else None
        if session_id is None:
            return []
        asked = (view.state(), key16(session_id))
        held, by_parent = self._last
        if asked != held:
            folders = {each.id: each for each in view.members(Folder, session_id)}
            leading: dict[str, Folder] = {}
            for each in folders.values():
                row = view.directory_row(b"f" + key16(each.id))
                above: Folder | None = each if row is not None and row.children else None
                while above is not None and above.id not in leading:
                    leading[above.id] = above
                    above = folders.get(above.parent_id or "")
            by_parent = {}
            for each in leading.values():
                by_parent.setdefault(key16(each.parent_id or each.session_id), []).append(each)
            self._last = (asked, by_parent)
        return by_parent.get(key[1:], [])

    def _names(self, view: View, key: bytes) -> dict[bytes, Dentry]:
        """Folders by the names that they have in images/; a file of the same name is shown and the folder is not."""
        out = {}
        for folder in self._leading(view, key):
            raw = key16(folder.id)
            name = given_name(view, b"p" + key[1:], folder.name, b"p" + raw)
            if view.dentry(key, name) is None:
                out[name] = directory(name, b"f" + raw, listing_mtime(view, b"f" + raw))
        return out

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        if key[1:] in context.going:
            return None
        return view.dentry(key, name) or self._names(view, key).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        """Folders first (places begin with 0), then files (with 1)."""
        if key[1:] in context.going:
            return
        if after[:1] != b"1":
            for name, dentry in sorted(self._names(view, key).items()):
                if name > after[1:]:
                    yield dentry, b"0" + name
            after = b""
        for dentry in view.dentries(key, after[1:]):
            yield dentry, b"1" + dentry.name


def leading_names(view: View, key: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`(directory, name)` of each folder of files/ that leads to one which now holds its first file, or none more."""
    folder = view.get_raw(Folder, key[1:])
    while folder is not None:
        above, raw = key16(folder.parent_id or folder.session_id), key16(folder.id)
        yield b"f" + above, given_name(view, b"p" + above, folder.name, b"p" + raw)
        folder = view.get(Folder, folder.parent_id) if folder.parent_id is not None else None


def mirrored_names(name: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`(tag, name)`: what may stand in the folders beside images/ for a picture of this name there."""
    yield b"t", derived_name(name, THUMBNAIL_SUFFIX)
    for suffix in SUFFIXES.values():
        yield b"m", derived_name(name, suffix)
        yield b"m", derived_name(name, DAMAGED + suffix)
    for tag in (b"t", b"m", b"f"):
        yield tag, name
