"""Thumbnails: small upright PNGs without metadata. Runs in a worker process."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mixfs.media.decoder import BadPicture, load_pixels, open_picture
from mixfs.media.sniff import HEAD_SIZE, IMAGE_TYPES, sniff

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_SIZE = 256
GIANT_PIXELS = 64_000_000
"""Pixels above which a picture is first thinned out, without smoothing."""

_RLE = 3
"""zlib's Z_RLE. Of pictures deflate finds nothing else to gain: two thirds of the time of level 3, and a tenth less."""


def make_thumbnail(source: str, size: int = DEFAULT_SIZE) -> bytes:
    """A PNG of at most `size` x `size` pixels.

    Keeps the aspect, applies EXIF orientation, takes the first frame. Raises BadPicture when there is nothing to show,
    OSError when the file can't be read.
    """
    with open(source, "rb") as file:
        media_type = sniff(file.read(HEAD_SIZE))
    if media_type not in IMAGE_TYPES:
        raise BadPicture(f"no picture: {media_type}")
    with open_picture(source, media_type) as opened:
        from PIL.Image import Resampling

        picture = opened
        if media_type == "image/jpeg":
            # The decoder scales by 1/2, 1/4 or 1/8 by itself, to no less than twice of what is wanted.
            picture.draft("RGB", (size * 2, size * 2))
        load_pixels(picture)
        orientation = _orientation(picture)
        if picture.width * picture.height > GIANT_PIXELS:
            # Every conversion of a giant picture, smooth reduction of alpha too, would hold it in memory twice.
            share = (GIANT_PIXELS / 16 / (picture.width * picture.height)) ** 0.5
            size_now = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
            picture = picture.resize(size_now, Resampling.NEAREST)
        picture = _plain(picture)
        picture.thumbnail((size, size), reducing_gap=2.0)
        picture = _upright(picture, orientation)
        # A bare copy: no profile, no text, no EXIF goes along.
        picture.info = {}
        try:
            out = io.BytesIO()
            picture.save(out, format="PNG", compress_level=1, compress_type=_RLE)
        except (ValueError, SystemError) as error:
            raise BadPicture(f"can't be written as PNG: {error}") from error
    return out.getvalue()


def _orientation(picture: Image) -> int:
    # Pillow would take it from XMP too, which neither viewers nor `Inspection.orientation` do.
    for key in ("xmp", "XML:com.adobe.xmp"):
        picture.info.pop(key, None)
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - broken EXIF must not cost the thumbnail
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _plain(picture: Image) -> Image:
    """RGB, RGBA or 8-bit grey. Sixteen-bit values are scaled down, where Pillow's own conversion would clip them."""
    mode = picture.mode
    if mode in ("RGB", "RGBA", "L"):
        return picture.convert("RGBA") if mode != "RGBA" and "transparency" in picture.info else picture
    if mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if mode in ("I", "F"):
        _, high = picture.getextrema()
        top = float(high) if isinstance(high, int | float) else 255.0
        scale = 1.0 if top <= 255 else 255.0 / (65535.0 if top <= 65535 else top)
        return picture.convert("F").point(lambda value: value * scale + 0.0).convert("L")
    if mode in ("P", "PA", "LA", "La", "RGBa"):
        has_alpha = mode != "P" or "transparency" in picture.info
        return picture.convert("RGBA" if has_alpha else "RGB")
    return picture.convert("RGB")


def _upright(picture: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    steps = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    return picture.transpose(steps[orientation]) if orientation in steps else picture
