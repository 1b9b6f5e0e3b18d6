"""Stealth pnginfo: text in the lowest bit of each pixel's alpha (or of red, green and blue), column by column.

`stealth_pnginfo` or `stealth_pngcomp` (alpha), `stealth_rgbinfo` or `stealth_rgbcomp`; then a big-endian 32-bit length
in bits; then UTF-8, gzip'ed for the `comp` kinds. Bits are most significant first. Works on decoded pixels, so for
lossless formats only.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixfs.media.texts import MAX_TEXT, inflate

if TYPE_CHECKING:
    from PIL.Image import Image

_SIGNATURE = 15
_ALPHA = (b"stealth_pnginfo", b"stealth_pngcomp")
_COLOURS = (b"stealth_rgbinfo", b"stealth_rgbcomp")
SIGNATURES = frozenset({*_ALPHA, *_COLOURS})
SIGNATURE_BITS = _SIGNATURE * 8
_ONES = bytes(48 + (value & 1) for value in range(256))


def read_stealth(picture: Image) -> str | None:
    """The hidden text of a decoded picture; None when there is none or it is damaged."""
    if picture.mode == "RGBA":
        text = _read(picture, "A", 1, _ALPHA)
        if text is not None:
            return text
    if picture.mode in ("RGBA", "RGB"):
        return _read(picture, "RGB", 3, _COLOURS)
    return None


def _read(picture: Image, bands: str, count: int, kinds: tuple[bytes, bytes]) -> str | None:
    head = _bits(picture, bands, count, (_SIGNATURE + 4) * 8)
    if head is None or head[:_SIGNATURE] not in kinds:
        return None
    size = int.from_bytes(head[_SIGNATURE:], "big")
    if size % 8 or size > MAX_TEXT * 8:
        return None
    whole = _bits(picture, bands, count, (_SIGNATURE + 4) * 8 + size)
    if whole is None:
        return None
    body: bytes | None = whole[_SIGNATURE + 4 :]
    if head[:_SIGNATURE] == kinds[1] and body is not None:
        body = inflate(body, MAX_TEXT, 16 + zlib.MAX_WBITS)
    try:
        return body.decode("utf-8") if body else None
    except UnicodeDecodeError:
        return None


def _bits(picture: Image, bands: str, count: int, bits: int) -> bytes | None:
    """The first `bits` lowest bits in column order, as bytes; None when the picture is too small."""
    from PIL import Image as PILImage

    width, height = picture.size
    columns = -(-bits // (height * count))
    if columns > width:
        return None
    strip = picture.crop((0, 0, columns, height))
    strip = strip.getchannel("A") if bands == "A" else strip.convert("RGB")
    # Transposed, the rows that tobytes() gives are the columns that are wanted.
    return packed_bits(strip.transpose(PILImage.Transpose.TRANSPOSE).tobytes()[:bits]) if bits % 8 == 0 else None


def packed_bits(values: Sequence[int]) -> bytes:
    """The lowest bits of `values`, eight a byte."""
    # Base 2 converts in linear time; Python's digit limit is for bases that are no power of two.
    return int(bytes(values).translate(_ONES), 2).to_bytes(len(values) // 8, "big")
