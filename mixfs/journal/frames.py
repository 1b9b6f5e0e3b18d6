"""Frames: how one item lies in an append-only file.

    magic   4 bytes   F5 4D 58 4A ("\\xf5MXJ")
    length  u32 LE    bytes of payload
    crc     u32 LE    CRC-32 of length and payload
    payload

A frame is valid or it is not; a reader that meets an invalid one looks for the next valid frame by its magic. The
staging log uses the same frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\xf5MXJ"
_HEAD = struct.Struct("<4sII")
HEAD_SIZE = _HEAD.size
MAX_PAYLOAD = 1 << 30


def encode(payload: bytes) -> bytes:
    """One frame around `payload`."""
    length = len(payload).to_bytes(4, "little")
    return _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def decode_at(data: memoryview, offset: int) -> bytes | None:
    """The payload of the frame at `offset`, or None when there is no valid frame."""
    if offset + HEAD_SIZE > len(data):
        return None
    magic, length, crc = _HEAD.unpack_from(data, offset)
    if magic != MAGIC or length > MAX_PAYLOAD or offset + HEAD_SIZE + length > len(data):
        return None
    payload = bytes(data[offset + HEAD_SIZE : offset + HEAD_SIZE + length])
    if zlib.crc32(payload, zlib.crc32(length.to_bytes(4, "little"))) != crc:
        return None
    return payload


class Found(NamedTuple):
    """A valid frame: `payload` is set. A bad stretch: `payload` is None; `torn` when no valid frame follows it."""

    start: int
    end: int
    payload: bytes | None
    torn: bool = False


def scan(data: memoryview, offset: int = 0) -> Iterator[Found]:
    """Every frame from `offset` on, and every stretch of bytes that is no valid frame."""
    raw = None
    while offset < len(data):
        payload = decode_at(data, offset)
        if payload is not None:
            end = offset + HEAD_SIZE + len(payload)
            yield Found(offset, end, payload)
            offset = end
            continue
        raw = bytes(data) if raw is None else raw
        resume = raw.find(MAGIC, offset + 1)
        while resume != -1 and decode_at(data, resume) is None:
            resume = raw.find(MAGIC, resume + 1)
        if resume == -1:
            yield Found(offset, len(data), None, torn=True)
            return
        yield Found(offset, resume, None)
        offset = resume
