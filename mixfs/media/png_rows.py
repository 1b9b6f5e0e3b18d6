"""Whether a PNG's pixels are all there, without making a picture of them.

Where every chunk has its right CRC-32 and they lead to the end, the file is as its encoder wrote it (PNG 3rd edition,
5.4): then no more than the first rows are looked at. Elsewhere a decoder need not undo the filters (9), which takes
most of its time: the deflate stream must end with the right Adler-32, hold exactly the bytes of all rows, and each row
begin with a filter that there is. Whatever else is found here is for a decoder to judge, whose words are then what is
told.

https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from isal import isal_zlib

from mixfs.media.png import SIGNATURE, chunks
from mixfs.media.stealth import SIGNATURE_BITS, SIGNATURES, packed_bits

_PIECE = 1 << 16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_LAST_FILTER = 4


class Rows(NamedTuple):
    """Of the first rows of a PNG that is whole: the number of its filter, and its first pixel as it was filtered."""

    channels: int
    heads: list[bytes]

    def may_hide_text(self) -> bool:
        """Whether the lowest bits of the first column begin as `mixfs.media.stealth` would have it."""
        if self.channels < 3:
            return False
        if len(self.heads) < SIGNATURE_BITS:
            # It goes on in the next column, of a picture that is small anyway.
            return True
        pixels = list(self._first_column())
        alphas = [pixel[3] for pixel in pixels] if self.channels == 4 else []
        colours = [value for pixel in pixels for value in pixel[:3]]
        return any(packed_bits(values[:SIGNATURE_BITS]) in SIGNATURES for values in (alphas, colours) if values)

    def _first_column(self) -> Iterator[bytes]:
        """The first pixel of each row. There is none to its left: filters know of it only the one above."""
        above = bytes(self.channels)
        for head in self.heads:
            # Sub adds nothing to it; Up and Paeth the one above, Average its half.
            shift = {2: 0, 3: 1, 4: 0}.get(head[0])
            pixel = head[1:]
            if shift is not None:
                pixel = bytes((value + (up >> shift)) & 0xFF for value, up in zip(pixel, above, strict=True))
            yield pixel
            above = pixel


def whole_rows(file: BinaryIO) -> Rows | None:
    """Read a PNG through. None when it is not whole, or of a kind that is left to a decoder."""
    file.seek(len(SIGNATURE))
    rest = chunks(file)
    kind, size = next(rest, (b"", 0))
    head = file.read(13)
    if kind != b"IHDR" or size != 13 or len(head) != 13:
        return None
    width, height = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:8], "big")
    depth, colour, interlaced = head[8], head[9], head[12]
    channels = _CHANNELS.get(colour, 0)
    if not width or not height or not channels or interlaced or depth > 8 or (depth < 8 and channels > 1):
        return None
    stride = 1 + (width * channels * depth + 7) // 8
    as_written = height > SIGNATURE_BITS and _checksums_are_right(file)
    # Of the first rows, as many as a signature in the first column would take.
    first_rows, wanted = bytearray(), SIGNATURE_BITS * stride
    inflated, at = isal_zlib.decompressobj(), 0
    try:
        for piece in _pieces(file, rest):
            rows = inflated.decompress(piece, _PIECE * 16)
            while rows:
                first = -at % stride
                if max(rows[first::stride], default=0) > _LAST_FILTER:
                    return None
                if len(first_rows) < wanted:
                    first_rows += rows[: wanted - len(first_rows)]
                    if as_written and len(first_rows) == wanted:
                        return Rows(channels, _heads(first_rows, stride, channels))
                at += len(rows)
                rows = inflated.decompress(inflated.unconsumed_tail, _PIECE * 16)
            if inflated.eof or at > stride * height:
                break
    except isal_zlib.error:  # type: ignore[misc]
        return None
    if not inflated.eof or at != stride * height or all(kind != b"IEND" for kind, _ in rest):
        return None
    return Rows(channels, _heads(first_rows, stride, channels))


def _heads(rows: bytearray, stride: int, channels: int) -> list[bytes]:
    return [bytes(rows[at : at + 1 + channels]) for at in range(0, len(rows), stride)]


def is_whole_png(path: Path) -> bool:
    """Whether a file is a PNG in which each byte is covered by a checksum that is right. Raises OSError."""
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE or not _checksums_are_right(file):
            return False
        return file.read(1) == b""


def _checksums_are_right(file: BinaryIO) -> bool:
    """Whether each chunk has its right CRC-32, to the end, and the IDAT chunks follow one another. Moves `file`."""
    file.seek(len(SIGNATURE))
    before, pixels = b"", False
    for kind, size in chunks(file):
        if kind == b"IDAT" and pixels and before != kind:
            return False
        pixels = pixels or kind == b"IDAT"
        found = isal_zlib.crc32(kind)
        while size and (piece := file.read(min(size, _PIECE))):
            size -= len(piece)
            found = isal_zlib.crc32(piece, found)
        if size or file.read(4) != found.to_bytes(4, "big"):
            return False
        if kind == b"IEND":
            return True
        before = kind
    return False


def _pieces(file: BinaryIO, rest: Iterator[tuple[bytes, int]]) -> Iterator[bytes]:
    """The data of the IDAT chunks, which follow one another."""
    begun = False
    for kind, size in rest:
        if kind != b"IDAT":
            if begun or kind == b"IEND":
                return
            continue
        begun = True
        while size and (piece := file.read(min(size, _PIECE))):
            size -= len(piece)
            yield piece
        if size:
            return
