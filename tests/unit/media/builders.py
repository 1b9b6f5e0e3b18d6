"""Pictures for tests, built chunk by chunk, so that what a library would refuse to write can be written too."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from mixfs.media.samples import (
    exif_bytes,
    jpeg_bytes,
    png_bytes,
    unicode_comment,
    webp_bytes,
    with_stealth,
)

__all__ = ["chunk", "exif_bytes", "gif", "itxt", "jpeg_bytes", "jumbf", "picture", "png", "png_bytes", "segment",
           "text_chunk", "unicode_comment", "webp_bytes", "with_jpeg_segment", "with_stealth", "ztxt"]  # fmt: skip


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A gradient, so that a wrong turn or a clipped value shows."""
    base = Image.linear_gradient("L").resize(size)
    return base.convert(mode)


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def text_chunk(key: str, text: str | bytes) -> bytes:
    body = text if isinstance(text, bytes) else text.encode("utf-8")
    return chunk(b"tEXt", key.encode("latin-1") + b"\x00" + body)


def ztxt(key: str, body: bytes) -> bytes:
    return chunk(b"zTXt", key.encode("latin-1") + b"\x00\x00" + zlib.compress(body, 9))


def itxt(key: str, text: str, *, compressed: bool = False) -> bytes:
    body = zlib.compress(text.encode(), 9) if compressed else text.encode()
    return chunk(b"iTXt", key.encode() + b"\x00" + (b"\x01" if compressed else b"\x00") + b"\x00\x00\x00" + body)


def png(*chunks: bytes, size: tuple[int, int] = (4, 4), after_idat: bool = False, real: bool = True) -> bytes:
    """A grey PNG of `size` with these chunks. `real` False: the header lies, and there are pixels for one row only."""
    width, height = size
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = (b"\x00" + b"\x80" * width) * height if real else b"\x00\x80"
    pixels = chunk(b"IDAT", zlib.compress(rows))
    extra = b"".join(chunks)
    body = header + pixels + extra if after_idat else header + extra + pixels
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_jpeg_segment(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments put in right after its start."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def gif(frames: int) -> bytes:
    out = io.BytesIO()
    pictures = [Image.new("RGB", (8, 8), (i * 30, 0, 0)) for i in range(frames)]
    pictures[0].save(out, format="GIF", save_all=True, append_images=pictures[1:], duration=10, comment=b"made here")
    return out.getvalue()


def jumbf(*pairs: tuple[str, str]) -> bytes:
    """A thing like a C2PA store: a box that says so, and CBOR text pairs."""

    def text(value: str) -> bytes:
        data = value.encode()
        return (bytes([0x60 + len(data)]) if len(data) < 24 else bytes([0x78, len(data)])) + data

    body = b"".join(text(key) + text(value) for key, value in pairs)
    return struct.pack(">I", len(body) + 30) + b"jumb\x00\x00\x00\x1ejumdc2pa" + b"\x00" * 12 + body
