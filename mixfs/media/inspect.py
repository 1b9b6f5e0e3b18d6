"""One look at a file: what it is, whether it decodes, and what is written in it. Pure; runs in a worker process."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, BinaryIO

from mixfs.media import c2pa
from mixfs.media.decoder import BadPicture, load_pixels, open_picture
from mixfs.media.exif import Exif, parse_time, put_exif
from mixfs.media.gif import MAX_FRAMES, scan_gif
from mixfs.media.jpeg import scan_jpeg
from mixfs.media.png import scan_png
from mixfs.media.png_rows import Rows, whole_rows
from mixfs.media.readers import read_metadata
from mixfs.media.sniff import HEAD_SIZE, IMAGE_TYPES, sniff
from mixfs.media.stealth import read_stealth
from mixfs.media.texts import RawTexts, decode_text
from mixfs.media.types import EmbeddedMetadata, Inspection
from mixfs.media.webp import scan_webp

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TIFF_HEAD = 64 * 1024 * 1024
"""Bytes of a TIFF in which its directories are looked for."""

_STEALTH_TYPES = frozenset({"image/png", "image/webp"})


def inspect_file(path: str, *, pixels: bool = True) -> Inspection:
    """Everything that is known of a file by its content. Never raises for bad content.

    Without `pixels` nothing is decoded: for a picture that a decoder died of, whose texts can still be read.
    Raises OSError when the file can't be read, MemoryError when decoding needs more than there is.
    """
    with open(path, "rb") as file:
        media_type = sniff(file.read(HEAD_SIZE))
        if media_type not in IMAGE_TYPES:
            return Inspection(media_type=media_type)
        raw = RawTexts()
        exif, jumbf, frames, cut = scan_container(file, media_type, raw)
    if jumbf:
        raw.put("c2pa", c2pa.summarise(jumbf))
    width = height = None
    problem: str | None = None
    metadata: EmbeddedMetadata | None = None
    try:
        if not pixels:
            raise BadPicture("not decoded")
        with open_picture(path, media_type) as picture:
            width, height = picture.size
            if media_type == "image/tiff" and exif is not None and exif.orientation >= 5:
                width, height = height, width  # Pillow turns a TIFF by itself.
            if media_type == "image/avif":
                # In boxes that its scanner would have to understand; Pillow does.
                exif = put_exif(picture.info.get("exif", b""), raw)
                raw.put("xmp", decode_text(picture.info.get("xmp", b"")))
            if media_type != "image/gif":
                frames = _frames(picture, media_type)
            metadata = read_metadata(raw.items, width=width, height=height)
            if media_type == "image/jpeg":
                # A small scale reads every byte of the scans, and so finds what is cut short, at a third of the cost.
                picture.draft(None, (max(1, width // 8), max(1, height // 8)))
            # A mere claim of who made it must not hide what the generator hid in the pixels.
            unknown = metadata is None or metadata.prompt is None
            rows = _rows(path) if media_type == "image/png" else None
            if rows is None or (unknown and rows.may_hide_text()):
                load_pixels(picture)
                if cut:
                    raise BadPicture("damaged or cut short: it ends in the middle of a frame")
                if unknown and media_type in _STEALTH_TYPES and (hidden := read_stealth(picture)):
                    raw.put("stealth", hidden)
                    metadata = None
    except BadPicture as error:
        problem = str(error)
        if width is None:
            width, height = error.size or header_size(path, media_type)
            if width is not None and height is not None and not (0 < width < 2**31 and 0 < height < 2**31):
                width = height = None
    if metadata is None:
        metadata = read_metadata(raw.items, width=width, height=height)
    return Inspection(
        media_type=media_type,
        width=width,
        height=height,
        orientation=exif.orientation if exif is not None else 1,
        frames=max(1, frames),
        taken_ns=_taken_ns(exif, raw, metadata),
        metadata=metadata,
        raw=raw.items,
        problem=problem,
    )


def _rows(path: str) -> Rows | None:
    with open(path, "rb") as file:
        return whole_rows(file)


def scan_container(file: BinaryIO, media_type: str, raw: RawTexts) -> tuple[Exif | None, bytes, int, bool]:
    """A picture's texts, without its pixels: EXIF, C2PA's bytes, frames (GIF only), and whether a GIF is cut short."""
    exif: Exif | None = None
    jumbf, frames, cut = b"", 1, False
    if media_type == "image/png":
        exif, jumbf = scan_png(file, raw)
    elif media_type == "image/jpeg":
        exif, jumbf = scan_jpeg(file, raw)
    elif media_type == "image/webp":
        exif, jumbf = scan_webp(file, raw)
    elif media_type == "image/gif":
        frames, cut = scan_gif(file, raw)
    elif media_type == "image/tiff":
        file.seek(0)
        exif = put_exif(file.read(MAX_TIFF_HEAD), raw)
    return exif, jumbf, frames, cut


def header_size(path: str, media_type: str) -> tuple[int | None, int | None]:
    """Width and height as a PNG's, GIF's, BMP's or WebP's header says them: for what Pillow would not open at all."""
    with open(path, "rb") as file:
        head = file.read(32).ljust(32, b"\x00")
    width = height = 0
    if media_type == "image/png":
        width, height = struct.unpack_from(">II", head, 16)
    elif media_type == "image/gif":
        width, height = struct.unpack_from("<HH", head, 6)
    elif media_type == "image/bmp":
        # Two sizes in 16 bits each in the oldest header; a negative height: the rows stand from top to bottom.
        width, height = struct.unpack_from("<HH" if head[14] == 12 else "<ii", head, 18)
    elif media_type == "image/webp" and head[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif media_type == "image/webp" and head[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
    elif media_type == "image/webp" and head[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    height = abs(height)
    return (width, height) if 0 < width < 2**31 and 0 < height < 2**31 else (None, None)


def _frames(picture: Image, media_type: str) -> int:
    """Frames of an animation, as its header says; the pages of a TIFF are none."""
    if media_type in ("image/tiff", "image/bmp", "image/jpeg"):
        return 1
    count = getattr(picture, "n_frames", 1)
    return count if isinstance(count, int) and 1 <= count <= MAX_FRAMES else 1


def _taken_ns(exif: Exif | None, raw: RawTexts, metadata: EmbeddedMetadata | None) -> int | None:
    if exif is not None and exif.taken_ns is not None:
        return exif.taken_ns
    stamps: list[object] = []
    if metadata is not None:
        # Civitai's, and SwarmUI's day.
        stamps = [metadata.parameters.get("Created Date"), metadata.parameters.get("date")]
    stamps.append(raw.items.get("Creation Time"))
    for stamp in stamps:
        if isinstance(stamp, str) and (found := parse_time(stamp)) is not None:
            return found
    return None


def inspect_bytes_texts(data: bytes) -> dict[str, str]:
    """The texts of a picture in memory, without decoding it: for tests and for tools."""
    raw = RawTexts()
    media_type = sniff(data[:HEAD_SIZE])
    if media_type in IMAGE_TYPES:
        _, jumbf, _, _ = scan_container(io.BytesIO(data), media_type, raw)
        if jumbf:
            raw.put("c2pa", c2pa.summarise(jumbf))
    return raw.items


