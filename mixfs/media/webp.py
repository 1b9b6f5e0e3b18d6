"""RIFF chunks of WebP (Google's WebP container specification): EXIF, XMP, C2PA. Pixels are stepped over."""

from __future__ import annotations

from typing import BinaryIO

from mixfs.media.exif import Exif, put_exif
from mixfs.media.texts import RawTexts, decode_text

MAX_CHUNKS = 100_000
MAX_EXIF = 16 * 1024 * 1024


def scan_webp(file: BinaryIO, raw: RawTexts) -> tuple[Exif | None, bytes]:
    """Put a WebP's texts into `raw`; returns its EXIF and its C2PA store (JUMBF bytes, empty if there is none)."""
    exif: Exif | None = None
    jumbf = b""
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WEBP":
        return None, b""
    for _ in range(MAX_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        kind, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if kind not in (b"EXIF", b"XMP ", b"C2PA") or size > MAX_EXIF:
            file.seek(size + (size & 1), 1)
            continue
        data = file.read(size)
        file.seek(size & 1, 1)
        if kind == b"EXIF":
            exif = exif or put_exif(data, raw)
        elif kind == b"XMP ":
            raw.put("xmp", decode_text(data))
        else:
            jumbf = jumbf or data
    return exif, jumbf
