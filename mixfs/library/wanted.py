"""Where records are listed: directories and wanted names, as pure functions of the records."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import NamedTuple

from mixfs import jsontext
from mixfs.ids import Digest, id_of_key, key16
from mixfs.index import dentries
from mixfs.library import documents
from mixfs.names import cut, safe_name, split_extension
from mixfs.records import KINDS, Entry, Folder, Generation, Image, Placement, Record, Trash, from_map

# The record of import/ itself, which is listed nowhere.
IMPORT_ROOT_ID = id_of_key(bytes(16))


def import_directory(parent_id: str | None) -> bytes:
    """The directory key of a folder of import/; None is import/ itself."""
    return b"d" + (key16(parent_id) if parent_id is not None else bytes(16))


def folder_parent(folder: Folder) -> bytes:
    """The directory key of what a folder lies in."""
    return b"p" + key16(folder.parent_id or folder.session_id)


def placement_place(placement: Placement) -> tuple[bytes, bytes]:
    """`(directory, wanted name)` of a placement."""
    tag = b"p" if placement.area == "images" else b"f"
    return tag + key16(placement.folder_id or placement.session_id), placement.name


def view_key(path: tuple[str, ...]) -> bytes:
    """The directory key of a folder of a view over everything."""
    if len(path) == 1:
        return dentries.fixed("/" + path[0])
    if path[0] == "images":
        return dentries.bucket_directory(path[1])
    return dentries.view_directory(*path)


def image_time(image: Image, generations: list[Generation]) -> tuple[int, int]:
    """`(ns, UTC offset in s)`: when the image was generated, where that is known, else its file's own time."""
    times = [(g.time_ns, g.utc_offset_s) for g in generations if g.time_ns]
    return min(times) if times else (image.taken_ns, image.utc_offset_s)


def _local(ns: int, utc_offset_s: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(max(0, min(ns, 2**62)) // 1_000_000_000, documents.zone(utc_offset_s))


def dates(ns: int, utc_offset_s: int) -> tuple[str, str]:
    """`("2025", "2025-12-08")`: the day where the image was made."""
    moment = _local(ns, utc_offset_s)
    return f"{moment:%Y}", f"{moment:%Y-%m-%d}"


def generation_name(generation: Generation) -> bytes:
    """`2025-12-08 10.15.00 A serene landscape with mountains`: the wanted directory name."""
    moment = _local(generation.time_ns, generation.utc_offset_s)
    words = safe_name((generation.prompt or generation.model or "")[:400], "generation", 80)
    return f"{moment:%Y-%m-%d %H.%M.%S} ".encode() + words


class EntryPlace(NamedTuple):
    """Where a canvas entry is listed: another content is another node; the bytes of an image never change."""

    directory: bytes
    wanted: bytes
    key: bytes
    content: bytes


def entry_place(entry: Entry, *, placed: bool) -> EntryPlace:
    """The file of a canvas entry; `placed`: its picture is a file of some session, and shown."""
    wanted, content = entry_file(entry, placed=placed)
    mark = bytes(8) if is_picture(entry, placed=placed) else documents.revision(content).to_bytes(8, "little")
    return EntryPlace(b"c" + key16(entry.session_id), wanted, b"De" + key16(entry.id) + mark, content)


def is_picture(entry: Entry, *, placed: bool) -> bool:
    """Whether a canvas entry is shown as its picture."""
    return placed and entry.type == "image" and entry.digest is not None


def entry_file(entry: Entry, *, placed: bool) -> tuple[bytes, bytes]:
    """`(wanted name, content)` of a canvas entry's file; an image's content is the image."""
    short = entry.shown_id[-8:].encode("utf-8", "surrogateescape").replace(b"/", b"-")
    if is_picture(entry, placed=placed) and entry.digest is not None:
        name = str(entry.data.get("name") or entry.data.get("filename") or "")
        stem, extension = split_extension(safe_name(name, f"image-{entry.digest.hex()[:8]}"))
        return stem + (extension or b".png"), b""
    if entry.type == "text":
        text = entry.text or ""
        return safe_name(text[:200], "text", 60) + b".txt", documents.shown_text(text + "\n")
    label = safe_name(str(entry.data.get("title") or entry.type), "entry", 60)
    return cut(label + b" " + safe_name(short.decode("utf-8", "replace"), "x", 40), 240) + b".json", (
        documents.to_json(jsontext.loads(documents.entry_item(entry)))
    )


def named_digests(trash: Trash) -> Iterator[Digest]:
    """Every blob that a trash record would bring back."""
    if trash.digest is not None:
        yield trash.digest
    for _, digest in held_digests(trash):
        yield digest


def held_digests(trash: Trash) -> Iterator[tuple[Record, Digest]]:
    """Every blob that a record in a trash record names, and that record."""
    for kind, _, data in trash.records:
        try:
            record = from_map(KINDS[kind], data)
        except (KeyError, TypeError):
            # A kind, or a way to write one, that this version doesn't know.
            continue
        if isinstance(record, Placement | Entry) and record.digest is not None:
            yield record, record.digest
        elif isinstance(record, Generation):
            for ref in (*record.inputs, *record.outputs):
                if ref.digest is not None:
                    yield record, ref.digest
