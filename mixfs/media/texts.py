"""The raw texts of a file, gathered under limits; and the ways in which foreign bytes become text."""

from __future__ import annotations

import zlib

MAX_TEXT = 8 * 1024 * 1024
"""Bytes of one text field, inflated. ComfyUI graphs with pictures pasted into them reach a few MiB."""
MAX_TEXTS_TOTAL = 16 * 1024 * 1024
"""Bytes of all text fields of a file together, inflated."""
MAX_TEXTS = 512
"""Text fields of a file."""
MAX_KEY = 200


class RawTexts:
    """Text fields by key, in the order found. A key that comes again gets ` (2)`, ` (3)`; the first is the one read.

    `dropped` counts what the limits left out.
    """

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self.dropped = 0
        self._total = 0

    @property
    def room(self) -> int:
        """How many bytes one more field may have."""
        if len(self.items) >= MAX_TEXTS:
            return 0
        return max(0, min(MAX_TEXT, MAX_TEXTS_TOTAL - self._total))

    def put(self, key: str, text: str) -> None:
        # UTF-8 keeps at most 4 bytes a character; counting characters keeps this cheap for ASCII.
        if not text or len(text) > self.room:
            self.dropped += bool(text)
            return
        key = clean(key[:MAX_KEY])
        unique, n = key, 2
        while unique in self.items:
            if self.items[unique] == text:
                return
            unique, n = f"{key} ({n})", n + 1
        self.items[unique] = clean(text)
        self._total += len(text)


def clean(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates become U+FFFD... by way of `?`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def decode_text(data: bytes) -> str:
    """UTF-8 where it is valid, else Latin-1. PNG says Latin-1 for tEXt, yet most generators write UTF-8 into it."""
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\x00")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode_utf16(data: bytes) -> str:
    """UTF-16 whose byte order is found in its content: EXIF says the file's order, and half of all writers differ."""
    data = data[: len(data) & ~1]
    if data[:2] == b"\xff\xfe":
        return data[2:].decode("utf-16-le", "replace").rstrip("\x00")
    if data[:2] == b"\xfe\xff":
        return data[2:].decode("utf-16-be", "replace").rstrip("\x00")
    sample = data[:4096]
    # Spaces, line ends and ASCII letters show the order: their high byte is zero. CJK alone has none of them,
    # so the order that yields fewer code points outside of the planes in common use decides then.
    big, little = sample[0::2].count(0), sample[1::2].count(0)
    if big == little:
        big = _plausible(sample, "utf-16-be")
        little = _plausible(sample, "utf-16-le")
    order = "utf-16-le" if little > big else "utf-16-be"
    return data.decode(order, "replace").rstrip("\x00")


def _plausible(sample: bytes, encoding: str) -> int:
    text = sample.decode(encoding, "replace")
    return sum(c < "\u0250" or "\u3000" <= c < "\u30ff" or "\u4e00" <= c < "\u9fa6" or "\uac00" <= c < "\ud7a4"
               for c in text)  # fmt: skip


def inflate(data: bytes, limit: int, wbits: int = zlib.MAX_WBITS) -> bytes | None:
    """Inflated bytes; None when damaged, cut short, or more than `limit`. Never holds more than `limit` + 1."""
    engine = zlib.decompressobj(wbits)
    try:
        out = engine.decompress(data, limit + 1)
    except zlib.error:
        return None
    return out if engine.eof and len(out) <= limit else None
