"""Block sums: a checksum for each 64 KiB of a blob, recorded at import and checked on what is served.

A SHA-256 says whether a whole file is right; a mount serves parts of files, and must never serve a wrong byte
(promise 2). So each read is widened to whole blocks and each block compared with its sum, which costs a hundredth of
what digesting the file at every open would.

Sums are XXH3 of 64 bits (https://xxhash.com), little-endian, one after another: 8 bytes a block, the last block as
short as it comes. They guard against rot, not against an enemy: whoever can write blobs can write sums, and
`mixfs fsck` goes by the SHA-256.
"""

from __future__ import annotations

import hashlib
import os

from xxhash import xxh3_64, xxh3_64_digest

from mixfs.errors import BlobDamaged
from mixfs.ids import Digest

BLOCK = 1 << 16
SUM_SIZE = 8


class BlockSums:
    """The sums of bytes that come in order."""

    __slots__ = ("_current", "_filled", "_sums")

    def __init__(self) -> None:
        self._sums = bytearray()
        self._current = xxh3_64()
        self._filled = 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while not self._filled and len(view) >= BLOCK:
            self._sums += xxh3_64_digest(view[:BLOCK])[::-1]
            view = view[BLOCK:]
        while view:
            part = view[: BLOCK - self._filled]
            self._current.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == BLOCK:
                self._sums += self._current.digest()[::-1]
                self._current.reset()
                self._filled = 0

    def value(self) -> bytes:
        """The sums of all that came so far."""
        return bytes(self._sums) + (self._current.digest()[::-1] if self._filled else b"")


def sums_of(fd: int) -> bytes:
    """The sums of a whole file, read from its beginning."""
    sums, offset = BlockSums(), 0
    while chunk := os.pread(fd, 16 * BLOCK, offset):
        sums.update(chunk)
        offset += len(chunk)
    return sums.value()


def checked_sums(fd: int, digest: Digest) -> bytes:
    """The sums of a whole file, which must have that digest. Raises BlobDamaged."""
    sums, found, offset = BlockSums(), hashlib.sha256(), 0
    while chunk := os.pread(fd, 16 * BLOCK, offset):
        sums.update(chunk)
        found.update(chunk)
        offset += len(chunk)
    if found.digest() != digest:
        raise BlobDamaged(f"Blob {digest.hex()} is not what was imported: its SHA-256 differs from its name.")
    return sums.value()


def blocks_around(offset: int, size: int) -> tuple[int, int]:
    """Where the whole blocks begin and end that hold `size` bytes at `offset`."""
    return offset // BLOCK * BLOCK, -(-(offset + size) // BLOCK) * BLOCK


def first_bad_block(sums: bytes, data: memoryview, start: int) -> int | None:
    """The offset of the first block of `data` that is not what was recorded, or None.

    `data` begins at `start`, a multiple of BLOCK, and ends with a block or with the file.
    """
    place = start // BLOCK * SUM_SIZE
    for at in range(0, len(data), BLOCK):
        if xxh3_64_digest(data[at : at + BLOCK])[::-1] != sums[place : place + SUM_SIZE]:
            return start + at
        place += SUM_SIZE
    return None
