"""Sizes, turns and frames of every picture type, with files that Pillow writes; and what is left of damaged ones."""

# ruff: noqa: E501 - tables of files

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from builders import (
    chunk,
    exif_bytes,
    itxt,
    jpeg_bytes,
    picture,
    png,
    png_bytes,
    text_chunk,
    unicode_comment,
    webp_bytes,
    with_stealth,
)  # fmt: skip
from PIL import Image

from mixfs.media.inspect import inspect_file
from mixfs.media.pool import WorkerPool
from mixfs.media.samples import A1111_TEXT
from mixfs.media.thumbnails import make_thumbnail
from mixfs.media.types import Inspection

TURNED = Image.Exif()
TURNED[0x0112] = 6
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format=format, **options)
    return out.getvalue()


def look(tmp_path: Path, data: bytes) -> Inspection:
    path = tmp_path / "picture"
    path.write_bytes(data)
    return inspect_file(str(path))


def thumbnail_size(tmp_path: Path, data: bytes) -> tuple[int, int]:
    source = tmp_path / "picture"
    source.write_bytes(data)
    with Image.open(io.BytesIO(make_thumbnail(str(source), 64))) as small:
        return small.size


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "TIFF", "AVIF"])
def test_a_turned_picture_has_its_stored_size_and_an_upright_thumbnail(tmp_path: Path, format: str) -> None:
    data = save(picture((60, 40)), format, exif=TURNED)
    found = look(tmp_path, data)
    assert (found.width, found.height, found.orientation, found.problem) == (60, 40, 6, None)
    assert thumbnail_size(tmp_path, data) == (40, 60)


def test_bigtiff(tmp_path: Path) -> None:
    data = save(picture((60, 40)), "TIFF", big_tiff=True, tiffinfo={270: A1111_TEXT, 274: 6})
    assert data[2] == 43
    found = look(tmp_path, data)
    assert (found.media_type, found.width, found.height, found.orientation) == ("image/tiff", 60, 40, 6)
    assert found.metadata is not None
    assert found.metadata.seed == 1234567890
    assert thumbnail_size(tmp_path, data) == (40, 60)


@pytest.mark.parametrize("data", [png(itxt("XML:com.adobe.xmp", XMP), size=(60, 40)),
                                  save(picture((60, 40)), "JPEG", xmp=XMP.encode())], ids=["png", "jpeg"])  # fmt: skip
def test_a_turn_in_xmp_alone_is_none(tmp_path: Path, data: bytes) -> None:
    assert look(tmp_path, data).orientation == 1
    assert thumbnail_size(tmp_path, data) == (60, 40)


@pytest.mark.parametrize(("format", "frames"), [("GIF", 4), ("WEBP", 4), ("PNG", 4), ("AVIF", 4), ("TIFF", 1)])
def test_frames_are_those_of_animations_only(tmp_path: Path, format: str, frames: int) -> None:
    first, *rest = (Image.new("RGB", (20, 10), (i * 60, 0, 0)) for i in range(4))
    found = look(tmp_path, save(first, format, save_all=True, append_images=rest))
    assert (found.width, found.height, found.frames, found.problem) == (20, 10, frames, None)


def test_a_tiff_that_claims_four_milliards_of_pixels_a_side(tmp_path: Path) -> None:
    """Found by tools/fuzz: a width that no other program's numbers hold was kept."""
    out = io.BytesIO()
    Image.new("L", (48, 32)).save(out, format="TIFF")
    data = out.getvalue().replace(struct.pack("<HHII", 256, 4, 1, 48), struct.pack("<HHII", 256, 4, 1, 2**32 - 16))
    found = look(tmp_path, data)
    assert "too large" in (found.problem or "")
    assert (found.width, found.height) == (None, None)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP"])
def test_one_pixel(tmp_path: Path, format: str) -> None:
    data = save(Image.new("RGB", (1, 1)), format)
    found = look(tmp_path, data)
    assert (found.width, found.height, found.problem) == (1, 1, None)
    assert thumbnail_size(tmp_path, data) == (1, 1)


def test_a_bmp_with_its_rows_from_top_to_bottom(tmp_path: Path) -> None:
    data = bytearray(save(picture((60, 40)), "BMP"))
    data[22:26] = struct.pack("<i", -40)
    found = look(tmp_path, bytes(data))
    assert (found.width, found.height, found.problem) == (60, 40, None)


def test_a_jpeg_that_claims_more_than_is_decoded_keeps_its_size(tmp_path: Path) -> None:
    data = bytearray(save(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_535, 65_535)
    found = look(tmp_path, bytes(data))
    assert (found.width, found.height) == (65_535, 65_535)
    assert "too large" in (found.problem or "")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": exif_bytes({0x0112: 1})}], ids=["VP8", "VP8L", "VP8X"])
def test_a_webp_that_can_not_be_opened_keeps_its_size(tmp_path: Path, options: dict[str, Any]) -> None:
    found = look(tmp_path, save(picture((400, 300)), "WEBP", **options)[:-50])
    assert (found.width, found.height) == (400, 300)
    assert found.problem is not None


def lying_png() -> bytes:
    """The text first; then a chunk that says it holds two gigabytes, which a decoder asks memory for."""
    whole = png(text_chunk("parameters", A1111_TEXT), size=(50, 50))
    at = whole.index(b"IDAT") - 4
    return whole[:at] + struct.pack(">I", 0x7FFFFFFF) + whole[at + 4 :]


DAMAGED = {
    "png": png_bytes(picture((200, 200)), {"parameters": A1111_TEXT})[:-100],
    "png, text behind the pixels": png(text_chunk("parameters", A1111_TEXT), size=(50, 50), after_idat=True).replace(
        b"IDAT", b"IDA\xd4"
    ),
    "png with a chunk that lies": lying_png(),
    "png too large": png(text_chunk("parameters", A1111_TEXT), size=(60_000, 60_000), real=False),
    "jpeg": jpeg_bytes(picture((200, 200)), exif_bytes({}, unicode_comment(A1111_TEXT)))[:-300],
    "webp": webp_bytes(picture((200, 200)), exif_bytes({}, unicode_comment(A1111_TEXT)))[:-4],
    "tiff": save(picture((200, 200)), "TIFF", tiffinfo={270: A1111_TEXT})[:-3000],
    "avif": save(picture((60, 40)), "AVIF", exif=exif_bytes({}, unicode_comment(A1111_TEXT)))[:-30],
}


@pytest.fixture(scope="module")
def pool() -> Any:
    with WorkerPool(1) as made:
        yield made


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_can_not_be_shown_keeps_its_prompt(tmp_path: Path, pool: WorkerPool, data: bytes) -> None:
    path = tmp_path / "picture"
    path.write_bytes(data)
    found = pool.inspect(str(path))
    assert found.problem is not None
    assert found.metadata is not None
    assert (found.metadata.seed, found.metadata.model) == (1234567890, "realisticVisionV51_v51VAE")
    assert found.raw


def test_a_decoder_that_dies_does_not_take_the_prompt_along(
    tmp_path: Path, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(png_bytes(picture((64, 48)), {"parameters": A1111_TEXT}))
    real = pool._job

    def job(job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return {"error": "killed", "text": "signal 11"} if job["pixels"] else real(job, timeout_s)

    monkeypatch.setattr(pool, "_job", job)
    found = pool.inspect(str(path))
    assert found.problem == "the decoder was ended (signal 11)"
    assert (found.width, found.height) == (64, 48)
    assert found.metadata is not None
    assert found.metadata.seed == 1234567890


def test_a_text_with_a_bad_checksum_spoils_no_picture(tmp_path: Path) -> None:
    data = png(chunk(b"tEXt", b"parameters\x00" + A1111_TEXT.encode(), crc=5), size=(40, 30))
    found = look(tmp_path, data)
    assert found.problem is None
    assert found.metadata is not None
    assert thumbnail_size(tmp_path, data) == (40, 30)


def test_a_bad_checksum_of_the_pixels_is_damage(tmp_path: Path) -> None:
    data = bytearray(png(size=(40, 30)))
    data[data.index(b"IDAT") + 12] ^= 0xFF
    assert (look(tmp_path, bytes(data)).problem or "").startswith("damaged")


def test_a_claim_of_who_made_it_does_not_hide_stealth_text(tmp_path: Path) -> None:
    hidden = save(with_stealth(picture((200, 200)), A1111_TEXT), "PNG")
    claim = itxt("XML:com.adobe.xmp", "trainedAlgorithmicMedia Made with Google AI")
    found = look(tmp_path, hidden[:33] + claim + hidden[33:])
    assert found.metadata is not None
    assert (found.metadata.generator, found.metadata.seed) == ("AUTOMATIC1111", 1234567890)


def test_exif_as_fooocus_writes_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x9286] = '{"prompt": "a bay", "seed": "5", "metadata_scheme": "fooocus"}'  # In IFD0, and without a code.
    exif[0x0131] = "Fooocus v2.5.5"
    exif[0x927C] = "fooocus"
    for format in ("JPEG", "WEBP"):
        found = look(tmp_path, save(picture(), format, exif=exif))
        assert found.metadata is not None
        assert (found.metadata.generator, found.metadata.version, found.metadata.seed) == ("Fooocus", "2.5.5", 5)
