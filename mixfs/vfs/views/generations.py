"""generations/: a folder for each run, with prompt.txt, generation.json, parameters.json, inputs/ and outputs/."""

from __future__ import annotations

from collections.abc import Iterator

from mixfs.errors import NotFoundError, Outdated
from mixfs.ids import key16
from mixfs.index.dentries import Dentry
from mixfs.library import documents
from mixfs.library.projections import GENERATION_SIZES
from mixfs.library.view import View
from mixfs.library.wanted import generation_name
from mixfs.media.sniff import extension
from mixfs.names import safe_name, split_extension, with_counter
from mixfs.records import Generation, ImageRef
from mixfs.vfs.content import BytesContent, Content
from mixfs.vfs.context import Context
from mixfs.vfs.views.base import directory, file, in_order
from mixfs.vfs.views.canvas import Canvas
from mixfs.vfs.views.mirrors import given_name
from mixfs.vfs.views.pictures import SharedImage

_TAGS = {"prompt.txt": b"1", "generation.json": b"2", "parameters.json": b"3"}
_NAMES = {tag: name for name, tag in _TAGS.items()}


class Generations(Canvas):
    """generations/: stored, in order of time; the rows have their own times."""

    def _shown(self, view: View, dentry: Dentry) -> Dentry:
        return dentry


def require(view: View, raw: bytes) -> Generation:
    generation = view.get_raw(Generation, raw)
    if generation is None:
        raise NotFoundError("The generation is gone.")
    return generation


def _rendered(generation: Generation) -> tuple[dict[str, bytes], int]:
    rendered = {name: render(generation) for name, render in documents.GENERATION_DOCUMENTS.items()}
    return rendered, documents.revision(b"\0".join(rendered.values()))


class GenerationFolder:
    """One generation."""

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        generation = require(view, key[1:])
        return directory(b"", key, generation.time_ns)

    def _names(self, view: View, key: bytes) -> dict[bytes, Dentry]:
        generation = view.get_raw(Generation, key[1:])
        if generation is None:
            return {}
        parent = b"g" + key16(generation.session_id)
        row = view.dentry(parent, given_name(view, parent, generation_name(generation), key))
        out: dict[bytes, Dentry] = {}
        if row is not None and row.extra:
            *sizes, revision = GENERATION_SIZES.unpack(row.extra)
            for (name, tag), size in zip(_TAGS.items(), sizes, strict=True):
                document = b"D" + tag + key[1:] + revision.to_bytes(8, "little")
                out[name.encode()] = file(name.encode(), document, size, generation.time_ns)
        out[b"inputs"] = directory(b"inputs", b"<" + key[1:], generation.time_ns)
        out[b"outputs"] = directory(b"outputs", b">" + key[1:], generation.time_ns)
        return out

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return self._names(view, key).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        return in_order(self._names(view, key), after)


class GenerationDocument:
    """One of a generation's three documents."""

    def _find(self, view: View, key: bytes) -> tuple[Generation, bytes]:
        generation = require(view, key[2:18])
        rendered, revision = _rendered(generation)
        if revision.to_bytes(8, "little") != key[18:]:
            raise Outdated("The document has changed.")
        return generation, rendered[_NAMES[key[1:2]]]

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        generation, data = self._find(view, key)
        return file(_NAMES[key[1:2]].encode(), key, len(data), generation.time_ns)

    def content(self, context: Context, view: View, key: bytes) -> Content:
        return BytesContent(self._find(view, key)[1])


_SHARED = SharedImage()


class GenerationImages:
    """inputs/ or outputs/ of a generation: those of its pictures that its session has, as all views share them."""

    def __init__(self, outputs: bool) -> None:
        self._outputs = outputs

    def attr(self, context: Context, view: View, key: bytes) -> Dentry:
        return directory(b"", key, require(view, key[1:]).time_ns)

    def _names(self, context: Context, view: View, key: bytes) -> dict[bytes, Dentry]:
        generation = view.get_raw(Generation, key[1:])
        if generation is None:
            return {}
        out: dict[bytes, Dentry] = {}
        taken: set[bytes] = set()
        for ref in generation.outputs if self._outputs else generation.inputs:
            image = view.image(ref.digest) if ref.digest is not None else None
            if ref.digest is None or image is None:
                continue
            base, number = _ref_name(ref, image.media_type), 1
            while (name := with_counter(base, number)) in taken:
                number += 1
            # Also of what was deleted: its name is nobody else's, and none changes when it comes back.
            taken.add(name)
            if view.has_picture(generation.session_id, ref.digest):
                out[name] = _SHARED.attr(context, view, b"J" + ref.digest)._replace(name=name)
        return out

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return self._names(context, view, key).get(name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        return in_order(self._names(context, view, key), after)


def _ref_name(ref: ImageRef, media_type: str) -> bytes:
    name = safe_name(ref.name, ref.digest.hex()[:12] if ref.digest else "image")
    return name if split_extension(name)[1] else name + extension(media_type).encode()

