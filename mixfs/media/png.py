"""PNG text chunks (PNG 3rd edition, 11.3): tEXt, zTXt, iTXt, eXIf, caBX. Pixels are stepped over, never read.

Text may follow IDAT. A bad checksum keeps no text from being read.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import BinaryIO

from mixfs.media.exif import Exif, put_exif
from mixfs.media.texts import RawTexts, decode_text, inflate

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 250_000
MAX_JUMBF = 4 * 1024 * 1024

_WANTED = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX"}


def scan_png(file: BinaryIO, raw: RawTexts) -> tuple[Exif | None, bytes]:
    """Put a PNG's texts into `raw`; returns its EXIF and its C2PA store (JUMBF bytes, empty if there is none)."""
    exif: Exif | None = None
    jumbf = b""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        return None, b""
    for kind, size in chunks(file):
        if kind == b"IEND":
            break
        limit = MAX_JUMBF if kind == b"caBX" else raw.room + 1024
        if kind not in _WANTED or size > limit:
            raw.dropped += kind in _WANTED
            continue
        data = file.read(size)
        if kind == b"eXIf":
            exif = exif or put_exif(data, raw)
        elif kind == b"caBX":
            jumbf = jumbf or data
        else:
            profile = _text_chunk(kind, data, raw)
            if profile:
                exif = exif or put_exif(profile, raw)
    return exif, jumbf


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and size of each chunk from here on; the file is at its data meanwhile. Checksums are not looked at."""
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        size, start = int.from_bytes(head[:4], "big"), file.tell()
        if len(head) < 8 or size > 0x7FFFFFFF:
            return
        yield head[4:], size
        file.seek(start + size + 4)


def _text_chunk(kind: bytes, data: bytes, raw: RawTexts) -> bytes:
    """Put one text chunk; returns EXIF bytes where the chunk is ImageMagick's way to hold them."""
    keyword, separator, rest = data.partition(b"\x00")
    if not separator:
        return b""
    key = decode_text(keyword[:200])
    if kind == b"tEXt":
        body: bytes | None = rest
    elif kind == b"zTXt":
        body = inflate(rest[1:], raw.room) if rest[:1] == b"\x00" else None
    else:
        # iTXt: compression flag, method, language, NUL, translated keyword, NUL, text.
        compressed, method = rest[:1] == b"\x01", rest[1:2]
        _, first, tail = rest[2:].partition(b"\x00")
        _, second, body = tail.partition(b"\x00")
        if not first or not second or (compressed and method != b"\x00"):
            return b""
        if compressed:
            body = inflate(body, raw.room)
    if body is None:
        raw.dropped += 1
        return b""
    if key.startswith("Raw profile type "):
        return _raw_profile(body) if key.lower().endswith((" exif", " app1")) else b""
    raw.put("xmp" if key == "XML:com.adobe.xmp" else key, decode_text(body))
    return b""


def _raw_profile(body: bytes) -> bytes:
    """ImageMagick's: a line with the name, a line with the length, then hexadecimal digits in lines."""
    lines = body.strip().split(b"\n")
    try:
        data = binascii.unhexlify(b"".join(line.strip() for line in lines[2:]))
    except (binascii.Error, ValueError):
        return b""
    return b"" if data.startswith(b"http") else data
