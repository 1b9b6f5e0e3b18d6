"""Thumbnails: size, aspect, which way is up, every pixel mode, and nothing carried along."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from builders import exif_bytes, gif, jpeg_bytes, png, png_bytes
from PIL import Image

from mixfs.media import thumbnails
from mixfs.media.decoder import BadPicture
from mixfs.media.inspect import inspect_file
from mixfs.media.samples import make_sample
from mixfs.media.thumbnails import make_thumbnail


def thumbnail(tmp_path: Path, data: bytes, size: int = 256) -> Image.Image:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    target.write_bytes(make_thumbnail(str(source), size))
    with Image.open(target) as opened:
        assert opened.format == "PNG"
        opened.load()
        return opened.copy()


def saved(picture: Image.Image, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, format=format)
    return out.getvalue()


@pytest.mark.parametrize(("size", "expected"), [((768, 512), (256, 171)), ((100, 1000), (26, 256)), ((10, 8), (10, 8)),
                                                ((4000, 3), (256, 1))])  # fmt: skip
def test_size_and_aspect(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert thumbnail(tmp_path, saved(Image.new("RGB", size, "red"))).size == expected


def test_no_metadata_goes_along(tmp_path: Path) -> None:
    thumbnail(tmp_path, make_sample("a1111")[1])
    assert inspect_file(str(tmp_path / "target")).raw == {}
    out = io.BytesIO()
    Image.new("RGB", (300, 300)).save(out, format="PNG", icc_profile=b"profile" * 20, dpi=(300, 300))
    assert thumbnail(tmp_path, out.getvalue()).info == {}


# Four quarters: which colour stands top left tells how the picture was turned.
@pytest.mark.parametrize(("orientation", "corner", "size"), [
    (1, "red", (400, 200)), (2, "lime", (400, 200)), (3, "white", (400, 200)), (4, "blue", (400, 200)),
    (5, "red", (200, 400)), (6, "blue", (200, 400)), (7, "white", (200, 400)), (8, "lime", (200, 400)),
])  # fmt: skip
def test_orientation(tmp_path: Path, orientation: int, corner: str, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", (400, 200))
    for box, colour in (((0, 0, 200, 100), "red"), ((200, 0, 400, 100), "lime"), ((0, 100, 200, 200), "blue"),
                        ((200, 100, 400, 200), "white")):  # fmt: skip
        picture.paste(colour, box)
    small = thumbnail(tmp_path, jpeg_bytes(picture, exif_bytes({0x0112: orientation})))
    assert (small.width > small.height) == (size[0] > size[1])
    got = small.convert("RGB").getpixel((10, 10))
    wanted = Image.new("RGB", (1, 1), corner).getpixel((0, 0))
    assert isinstance(got, tuple)
    assert isinstance(wanted, tuple)
    assert all(abs(a - b) < 12 for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F"])
def test_modes_keep_their_brightness(tmp_path: Path, mode: str) -> None:
    top = 65535 if mode in ("I;16", "I") else 255
    base = Image.new("L", (300, 300), 0)
    base.paste(255, (150, 0, 300, 300))
    base.paste(127, (0, 200, 150, 300))
    picture = base.convert("I").point(lambda v: v * 257).convert(mode) if top == 65535 else base.convert(mode)
    small = thumbnail(tmp_path, saved(picture, "TIFF" if mode in ("I", "F") else "PNG")).convert("L")
    assert small.getpixel((10, 100)) == 0
    assert small.getpixel((200, 100)) == 255
    if mode not in ("1", "P"):
        assert small.getpixel((10, 220)) == 127


@pytest.mark.parametrize(("mode", "format"), [("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "BMP"), ("F", "TIFF"),
                                              ("CMYK", "TIFF"), ("I;16", "TIFF"), ("RGBA", "WEBP"),
                                              ("RGB", "AVIF")])  # fmt: skip
def test_other_formats(tmp_path: Path, mode: str, format: str) -> None:
    small = thumbnail(tmp_path, saved(Image.new(mode, (400, 300)), format))
    assert small.size == (256, 192)
    assert small.mode in ("L", "RGB", "RGBA")


def test_alpha_and_transparent_palette_are_kept(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    assert thumbnail(tmp_path, saved(clear)).getchannel("A").getextrema() == (0, 0)
    picture = Image.new("P", (300, 300), 3)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.info["transparency"] = 3
    assert thumbnail(tmp_path, saved(picture)).convert("RGBA").getchannel("A").getextrema() == (0, 0)


def test_a_giant_keeps_its_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "GIANT_PIXELS", 400_000)
    picture = Image.new("RGBA", (900, 600), (200, 0, 0, 128))
    small = thumbnail(tmp_path, saved(picture), 100)
    assert small.size in ((100, 66), (100, 67))
    assert small.getpixel((50, 30)) in ((200, 0, 0, 128), (199, 0, 0, 128))  # Alpha is multiplied in and out.


def test_first_frame(tmp_path: Path) -> None:
    assert thumbnail(tmp_path, gif(4)).convert("RGB").getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("data", [b"words", png(size=(100_000, 100_000), real=False),
                                  png_bytes(Image.effect_noise((300, 300), 50), {})[:9000]])  # fmt: skip
def test_what_can_not_be_shown(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadPicture):
        thumbnail(tmp_path, data)
