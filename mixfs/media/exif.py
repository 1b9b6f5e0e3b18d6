"""EXIF: the few tags that generators write, out of a TIFF structure (TIFF 6.0, EXIF 2.32), under limits of its own.

Nothing here raises for bad content: what can't be read is not there.
"""

from __future__ import annotations

import datetime
import struct
from dataclasses import dataclass

from mixfs.media.texts import RawTexts, decode_text, decode_utf16

MAX_IFD_ENTRIES = 1000
MAX_VALUE = 8 * 1024 * 1024

_TEXT_TAGS = {
    0x010D: "DocumentName",
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x0132: "DateTime",
    0x013B: "Artist",
    0x9003: "DateTimeOriginal",
    0x9004: "DateTimeDigitized",
    0x9010: "OffsetTime",
    0x9011: "OffsetTimeOriginal",
    0x9286: "UserComment",
    0x927C: "MakerNote",
    0x9291: "SubSecTimeOriginal",
    0x9C9B: "XPTitle",
    0x9C9C: "XPComment",
    0x9C9E: "XPKeywords",
}
_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_XMP = 0x02BC
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a TIFF's numbers stand: where the first directory's offset is, and struct formats with their byte order."""

    first: int
    count: str
    """Of a directory's entries."""
    entry: str
    """Tag, kind, and how many values; a word follows: the values, or where they are."""
    word: str
    short: str


_LAYOUTS = {
    head: _Layout(first, order + count, order + entry, order + word, order + "H")
    for head, order, first, count, entry, word in (
        (b"II*\x00", "<", 4, "H", "HHI", "I"),
        (b"MM\x00*", ">", 4, "H", "HHI", "I"),
        (b"II+\x00", "<", 8, "Q", "HHQ", "Q"),  # BigTIFF
        (b"MM\x00+", ">", 8, "Q", "HHQ", "Q"),
    )
}


@dataclass(slots=True)
class Exif:
    """Texts by tag name without prefix; orientation 1 to 8; when the picture was taken, unix nanoseconds."""

    texts: dict[str, str]
    orientation: int = 1
    taken_ns: int | None = None
    xmp: str | None = None


def parse_exif(data: bytes) -> Exif:
    """Read a TIFF structure, with or without `Exif\\0\\0` before it."""
    found = Exif(texts={})
    if data[:6] in (b"Exif\x00\x00", b"Exif\x00\xff"):
        data = data[6:]
    layout = _LAYOUTS.get(data[:4])
    if layout is None or len(data) < 16:
        return found
    (offset,) = struct.unpack_from(layout.word, data, layout.first)
    # One main directory and one EXIF directory: no chain is followed, so there is nothing to loop in.
    sub = _read_ifd(data, layout, offset, found, main=True)
    if sub is not None and sub != offset:
        _read_ifd(data, layout, sub, found, main=False)
    found.taken_ns = _taken_ns(found.texts)
    return found


def put_exif(data: bytes, raw: RawTexts) -> Exif:
    """Parse, and put each text under `exif:NAME` (and XMP under `xmp`)."""
    found = parse_exif(data)
    for name, text in found.texts.items():
        raw.put(f"exif:{name}", text)
    if found.xmp:
        raw.put("xmp", found.xmp)
    return found


def _read_ifd(data: bytes, layout: _Layout, offset: int, found: Exif, *, main: bool) -> int | None:
    begin = offset + struct.calcsize(layout.count)
    if begin > len(data):
        return None
    (count,) = struct.unpack_from(layout.count, data, offset)
    head, word = struct.calcsize(layout.entry), struct.calcsize(layout.word)
    sub = None
    for i in range(min(count, MAX_IFD_ENTRIES)):
        at = begin + (head + word) * i
        if at + head + word > len(data):
            break
        tag, kind, n = struct.unpack_from(layout.entry, data, at)
        (pointer,) = struct.unpack_from(layout.word, data, at + head)
        if main and tag == _EXIF_IFD:
            sub = pointer
        elif main and tag == _ORIENTATION:
            value = pointer if kind == 4 else struct.unpack_from(layout.short, data, at + head)[0]
            found.orientation = value if 1 <= value <= 8 else 1
        elif tag in _TEXT_TAGS or (main and tag == _XMP):
            size = n * _SIZES.get(kind, 1)
            if size > MAX_VALUE:
                continue
            start = at + head if size <= word else pointer
            value_bytes = bytes(data[start : start + size])
            if tag == _XMP:
                found.xmp = decode_text(value_bytes)
                continue
            text = _decode(tag, value_bytes)
            if text:
                found.texts.setdefault(_TEXT_TAGS[tag], text)
    return sub


def _decode(tag: int, value: bytes) -> str:
    if tag in (0x9C9B, 0x9C9C, 0x9C9E):
        return value[: len(value) & ~1].decode("utf-16-le", "replace").rstrip("\x00")
    if tag == 0x9286:
        return decode_user_comment(value)
    if tag == 0x927C:
        # A camera's MakerNote is binary; Fooocus writes the name of its scheme there.
        text = decode_text(value[:4096])
        return text if text.isprintable() and len(text) < 256 else ""
    # NovelAI writes four NULs before its description.
    return decode_text(value.lstrip(b"\x00"))


def decode_user_comment(value: bytes) -> str:
    """EXIF UserComment: eight bytes that name the character code, then the text."""
    code, body = value[:8], value[8:]
    if code[:7] == b"UNICODE":
        return decode_text(body) if _is_utf8(body) else decode_utf16(body)
    if code in (b"ASCII\x00\x00\x00", b"\x00" * 8, b"JIS\x00\x00\x00\x00\x00"):
        return decode_text(body)
    return decode_text(value)


def _is_utf8(body: bytes) -> bool:
    """Some tools write UTF-8 where they say Unicode: then it has no zero byte, as any UTF-16 with Latin letters has."""
    body = body.rstrip(b"\x00")
    if len(body) < 16 or b"\x00" in body[:4096]:
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _taken_ns(texts: dict[str, str]) -> int | None:
    stamp = texts.get("DateTimeOriginal") or texts.get("DateTimeDigitized")
    if not stamp:
        return None
    zone = texts.get("OffsetTimeOriginal") or texts.get("OffsetTime") or ""
    return parse_time(stamp, zone)


def parse_time(stamp: str, zone: str = "") -> int | None:
    """Unix nanoseconds of `2025:12:08 10:15:00`, ISO 8601, or a date alone. Without a zone: local time."""
    stamp = stamp.strip(" \x00")[:40]
    if stamp[4:5] == ":":
        stamp = stamp[:10].replace(":", "-") + stamp[10:]
    try:
        when = datetime.datetime.fromisoformat(_six_digits(stamp))
        zone = zone.strip(" \x00")
        if when.tzinfo is None and zone[:1] in ("+", "-"):
            when = when.replace(tzinfo=datetime.datetime.strptime(zone, "%z").tzinfo)
        if not 1826 <= when.year <= 2200:
            return None
        seconds = when.replace(microsecond=0).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return int(seconds) * 1_000_000_000 + when.microsecond * 1000


def _six_digits(stamp: str) -> str:
    # .NET writes seven digits of a second; Python's parser takes six at most.
    dot = stamp.find(".")
    if dot < 0:
        return stamp
    end = dot + 1
    while end < len(stamp) and stamp[end].isdigit():
        end += 1
    return stamp[: min(end, dot + 7)] + stamp[end:]
