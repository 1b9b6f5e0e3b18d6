"""JPEG segments before the first scan (ITU T.81 B.1): EXIF and XMP in APP1, comments, C2PA's JUMBF in APP11."""

from __future__ import annotations

from typing import BinaryIO

from mixfs.media.exif import Exif, put_exif
from mixfs.media.texts import RawTexts, decode_text

MAX_SEGMENTS = 10_000
MAX_JUMBF = 4 * 1024 * 1024

_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\x00"


def scan_jpeg(file: BinaryIO, raw: RawTexts) -> tuple[Exif | None, bytes]:
    """Put a JPEG's texts into `raw`; returns its EXIF and its C2PA store (JUMBF bytes, empty if there is none)."""
    exif: Exif | None = None
    jumbf = bytearray()
    extended = bytearray()
    file.seek(0)
    if file.read(2) != b"\xff\xd8":
        return None, b""
    for _ in range(MAX_SEGMENTS):
        marker = _next_marker(file)
        if marker is None or marker in (0xD9, 0xDA):
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        head = file.read(2)
        if len(head) < 2:
            break
        size = int.from_bytes(head, "big") - 2
        if size < 0:
            break
        if marker not in (0xE1, 0xEB, 0xFE):
            file.seek(size, 1)
            continue
        data = file.read(size)
        if marker == 0xFE:
            raw.put("comment", decode_text(data))
        elif marker == 0xEB:
            _add_jumbf(jumbf, data)
        elif data.startswith(b"Exif\x00"):
            exif = exif or put_exif(data, raw)
        elif data.startswith(_XMP):
            raw.put("xmp", decode_text(data[len(_XMP) :]))
        elif data.startswith(_EXTENDED_XMP) and len(extended) + len(data) <= raw.room:
            # A GUID of 32 characters, the full length, this part's offset. Every writer known puts parts in order.
            extended += data[len(_EXTENDED_XMP) + 40 :]
    if extended:
        raw.put("xmp:extended", decode_text(bytes(extended)))
    return exif, bytes(jumbf)


def _next_marker(file: BinaryIO) -> int | None:
    byte = file.read(1)
    if byte != b"\xff":
        return None
    for _ in range(MAX_SEGMENTS):
        byte = file.read(1)
        if byte != b"\xff":
            return byte[0] if byte else None
    return None


def _add_jumbf(jumbf: bytearray, data: bytes) -> None:
    # `JP`, box instance, packet number, then the box header, which each packet repeats (ISO 19566-5, D.2).
    if data[:2] != b"JP" or len(data) < 16 or len(jumbf) + len(data) > MAX_JUMBF:
        return
    first = int.from_bytes(data[4:8], "big") <= 1
    jumbf += data[8:] if first else data[16:]
