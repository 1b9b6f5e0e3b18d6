"""A checksum behind the values that fsck can't make again from the journal.

Most rows follow from the records alone, so a flipped bit shows when they are made again and compared. What also depends
on when commits came (events, times of directories, sums of sessions) is sealed instead. Readers don't look at the seal.
"""

from __future__ import annotations

import zlib

_SIZE = 4


def seal(value: bytes) -> bytes:
    """The value with its CRC-32 behind it."""
    return value + zlib.crc32(value).to_bytes(_SIZE, "little")


def unseal(value: bytes) -> bytes:
    """What was sealed, unchecked."""
    return value[:-_SIZE]


def is_whole(value: bytes) -> bool:
    """Whether a sealed value is what was written."""
    return seal(unseal(value)) == value
