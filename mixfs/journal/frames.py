"""Frames: the units of an append-only file.

    magic   4 bytes   F5 4D 58 4B ("\\xf5MXK"), or F5 4D 58 4A ("\\xf5MXJ") for a plain frame
    length  u32 LE    bytes of payload
    crc     u32 LE    CRC-32 of the place, the length and the payload
    payload

The place is the name of the stream (for the journal: replica and segment number) and the frame's offset in it. With the
place in the checksum, a frame is valid only where it was written: a frame that happens to lie inside the payload of
another one, or that was copied from another segment, is not taken for an item. Plain frames have no place in their
checksum: headers of segments, and everything that MixFS wrote before journal format 2.

A frame is valid or it is not; after an invalid one, a reader searches for the next valid frame by its magic. The
staging log uses the same frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\xf5MXK"
PLAIN_MAGIC = b"\xf5MXJ"
_HEAD = struct.Struct("<4sII")
HEAD_SIZE = _HEAD.size
MAX_PAYLOAD = 1 << 30


def _crc(payload: bytes, offset: int, stream: bytes | None) -> int:
    place = stream + offset.to_bytes(8, "little") if stream is not None else b""
    return zlib.crc32(payload, zlib.crc32(place + len(payload).to_bytes(4, "little")))


def encode(payload: bytes) -> bytes:
    """A plain frame around `payload`."""
    return _HEAD.pack(PLAIN_MAGIC, len(payload), _crc(payload, 0, None)) + payload


def encode_at(payload: bytes, offset: int, stream: bytes = b"") -> bytes:
    """A frame around `payload` that is valid only at `offset` of `stream`."""
    return _HEAD.pack(MAGIC, len(payload), _crc(payload, offset, stream)) + payload


def decode_at(data: memoryview, offset: int, stream: bytes | None = b"") -> bytes | None:
    """The payload of the frame at `offset`, or None when there is no valid frame. `stream` None: a plain frame."""
    if offset + HEAD_SIZE > len(data):
        return None
    magic, length, crc = _HEAD.unpack_from(data, offset)
    expected = MAGIC if stream is not None else PLAIN_MAGIC
    if magic != expected or length > MAX_PAYLOAD or offset + HEAD_SIZE + length > len(data):
        return None
    payload = bytes(data[offset + HEAD_SIZE : offset + HEAD_SIZE + length])
    return payload if _crc(payload, offset, stream) == crc else None


class Found(NamedTuple):
    """A valid frame: `payload` is set. A bad stretch: `payload` is None; `torn` when no valid frame follows it."""

    start: int
    end: int
    payload: bytes | None
    torn: bool = False


def scan(data: memoryview, offset: int = 0, stream: bytes | None = b"") -> Iterator[Found]:
    """Every frame from `offset` on, and every stretch of bytes that is no valid frame. `stream` None: plain frames."""
    magic = MAGIC if stream is not None else PLAIN_MAGIC
    raw = None
    while offset < len(data):
        payload = decode_at(data, offset, stream)
        if payload is not None:
            end = offset + HEAD_SIZE + len(payload)
            yield Found(offset, end, payload)
            offset = end
            continue
        raw = bytes(data) if raw is None else raw
        resume = raw.find(magic, offset + 1)
        while resume != -1 and decode_at(data, resume, stream) is None:
            resume = raw.find(magic, resume + 1)
        if resume == -1:
            yield Found(offset, len(data), None, torn=True)
            return
        yield Found(offset, resume, None)
        offset = resume
