"""Whether a PNG is whole, told without decoding it: never otherwise than the decoder would."""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
import tracemalloc
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixfs.media.decoder import BadPicture, open_picture
from mixfs.media.png_rows import whole_rows
from mixfs.media.stealth import SIGNATURE_BITS, read_stealth

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def picture(mode: str, width: int, height: int, seed: int) -> Image.Image:
    size = width * height * {"LA": 2, "RGB": 3, "RGBA": 4, "I;16": 2}.get(mode, 1)
    data = random.Random(seed).randbytes(size)
    if mode == "1":
        return Image.frombytes("L", (width, height), data).convert("1")
    found = Image.frombytes(mode, (width, height), data)
    if mode == "P":
        found.putpalette(bytes(range(256)) * 3)
    return found


def packed(image: Image.Image, level: int = 6) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=level)
    return out.getvalue()


@given(st.sampled_from(MODES), st.integers(1, 200), st.integers(1, 200), st.integers(0, 99), st.sampled_from((0, 1, 9)))
@settings(max_examples=60, deadline=None)
@example("RGB", 500, 500, 1, 0)
def test_what_was_packed_is_whole(mode: str, width: int, height: int, seed: int, level: int) -> None:
    rows = whole_rows(io.BytesIO(packed(picture(mode, width, height, seed), level)))
    # Two bytes a sample are left to the decoder.
    assert (rows is None) == (mode == "I;16")


@given(st.integers(0, 2**32), st.sampled_from(("flip", "cut", "drop")), st.sampled_from(("RGB", "P", "RGBA", "1")))
@settings(max_examples=300, deadline=None)
def test_what_is_damaged_is_never_called_whole(seed: int, how: str, mode: str) -> None:
    chance = random.Random(seed)
    # More rows than a hidden text could begin in, or fewer.
    whole = packed(picture(mode, chance.randint(1, 90), chance.randint(1, 400), 7), chance.choice((0, 1, 9)))
    data = bytearray(whole)
    at = chance.randrange(8, len(data))
    if how == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[at:]
    else:
        del data[at : at + chance.randint(1, 40)]
    if whole_rows(io.BytesIO(data)) is not None:
        # Then the damage is not in the pixels: who opens it can decode it.
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            with contextlib.suppress(BadPicture), open_picture(file.name, "image/png") as opened:
                opened.load()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def by_hand(rows: bytes, width: int, height: int, *, colour: int = 2, pieces: int = 1) -> bytes:
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, colour, 0, 0, 0))
    data = zlib.compress(rows)
    step = -(-len(data) // pieces)
    parts = b"".join(chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + parts + chunk(b"IEND", b"")


def test_rows_that_are_too_few_too_many_or_filtered_by_what_there_is_not() -> None:
    row = b"\4" + b"abc" * 30
    assert whole_rows(io.BytesIO(by_hand(row * 20, 30, 20))) is not None
    assert whole_rows(io.BytesIO(by_hand(row * 20, 30, 20, pieces=9))) is not None
    assert whole_rows(io.BytesIO(by_hand(row * 19, 30, 20))) is None
    assert whole_rows(io.BytesIO(by_hand(row * 21, 30, 20))) is None
    assert whole_rows(io.BytesIO(by_hand(row * 19 + b"\5" + b"abc" * 30, 30, 20))) is None


def test_without_a_checksum_it_is_the_decoders_to_say() -> None:
    whole = by_hand((b"\0" + b"abc" * 30) * 20, 30, 20)
    at = whole.index(b"IDAT")
    size = int.from_bytes(whole[at - 4 : at], "big")
    cut = whole[: at - 4] + chunk(b"IDAT", whole[at + 4 : at + size]) + chunk(b"tEXt", b"a\0b") + whole[at + 8 + size :]
    assert whole_rows(io.BytesIO(whole)) is not None
    assert whole_rows(io.BytesIO(cut)) is None


ROW = b"\1" + bytes(range(90))
TALL = by_hand(ROW * 400, 30, 400, pieces=5)


def test_what_its_encoder_wrote_is_taken_from_its_checksums() -> None:
    rows = whole_rows(io.BytesIO(TALL))
    assert rows is not None and rows.heads == [ROW[:4]] * SIGNATURE_BITS
    # Rows that are not there: an encoder's own fault, that a thumbnail brings to light. With a wrong checksum anywhere
    # no word of the file's is taken for it.
    short = by_hand(ROW * 390, 30, 400, pieces=5)
    assert whole_rows(io.BytesIO(short)) is not None
    for kind in (b"IHDR", b"IDAT", b"IEND"):
        at = short.rindex(kind) - 4
        end = at + 12 + int.from_bytes(short[at : at + 4], "big")
        damaged = short[: end - 1] + bytes([short[end - 1] ^ 1]) + short[end:]
        assert whole_rows(io.BytesIO(damaged)) is None, kind
        # Nor is a wrong checksum a reason to refuse what is all there, as no decoder does after the first chunks.
        sound = bytearray(TALL)
        sound[TALL.rindex(b"IDAT") + 4 + int.from_bytes(TALL[TALL.rindex(b"IDAT") - 4 :][:4], "big")] ^= 1
        assert whole_rows(io.BytesIO(sound)) is not None
    for wrong in (
        # The first rows are looked at all the same.
        by_hand(ROW * 100 + b"\5" + ROW[1:] + ROW * 299, 30, 400),
        by_hand(ROW * 100, 30, 400),
        short[: -len(chunk(b"IEND", b""))],
        short.replace(chunk(b"IEND", b""), b""),
        TALL[: TALL.rindex(b"IDAT") - 4] + chunk(b"tEXt", b"a\0b") + TALL[TALL.rindex(b"IDAT") - 4 :],
    ):
        assert whole_rows(io.BytesIO(wrong)) is None


@pytest.mark.parametrize("height", [30, 10_000])
def test_a_bomb_is_read_in_pieces(height: int) -> None:
    # 400 MB of rows in 400 kB, of a picture that says it is small.
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(400)) + packer.flush()
    head = (30).to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    tracemalloc.start()
    try:
        # Of many rows the first are enough: what a decoder makes of the others is seen when a thumbnail is made.
        assert (whole_rows(io.BytesIO(bomb)) is None) == (height <= SIGNATURE_BITS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def hidden(kind: bytes, text: bytes, mode: str) -> Image.Image:
    """A picture with a text in its lowest bits, column by column."""
    image = picture(mode, 64, 200, 3)
    body = kind + (len(text) * 8).to_bytes(4, "big") + text
    bits = [byte >> (7 - n) & 1 for byte in body for n in range(8)]
    pixels = image.load()
    assert pixels is not None
    channels = (3,) if kind.startswith(b"stealth_png") else (0, 1, 2)
    places = [(x, y, channel) for x in range(64) for y in range(200) for channel in channels]
    for (x, y, channel), bit in zip(places, bits, strict=False):
        values = list(pixels[x, y])  # type: ignore[arg-type]
        values[channel] = values[channel] & ~1 | bit
        pixels[x, y] = tuple(values)
    return image


@pytest.mark.parametrize("filtered", range(5))
@pytest.mark.parametrize(
    ("kind", "mode"), [(b"stealth_pnginfo", "RGBA"), (b"stealth_rgbinfo", "RGB"), (b"stealth_rgbinfo", "RGBA")]
)
def test_a_hidden_text_is_suspected_under_every_filter(kind: bytes, mode: str, filtered: int) -> None:
    image = hidden(kind, b"a cat", mode)
    assert read_stealth(image) == "a cat"
    data = refiltered(image, filtered)
    assert Image.open(io.BytesIO(data)).tobytes() == image.tobytes()
    rows = whole_rows(io.BytesIO(data))
    assert rows is not None and rows.may_hide_text()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_without_one_is_not_suspected(mode: str) -> None:
    rows = whole_rows(io.BytesIO(packed(picture(mode, 64, 200, 3))))
    assert rows is not None and not rows.may_hide_text()


def refiltered(image: Image.Image, number: int) -> bytes:
    """A PNG all rows of which have one filter (PNG 3rd edition, 9.2)."""
    size, stride = len(image.mode), image.width * len(image.mode)
    pixels, out, above = image.tobytes(), bytearray(), bytes(stride)
    for y in range(image.height):
        row = pixels[y * stride : (y + 1) * stride]
        out.append(number)
        for x, value in enumerate(row):
            left, up = (row[x - size] if x >= size else 0), above[x]
            corner = above[x - size] if x >= size else 0
            out.append((value - (0, left, up, (left + up) // 2, paeth(left, up, corner))[number]) & 0xFF)
        above = row
    return by_hand(bytes(out), image.width, image.height, colour=6 if size == 4 else 2)


def paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
