"""The one way to open a picture with Pillow: one format at a time, by content, within limits that are checked first.

Imports of Pillow are made when the first picture is opened, so that a worker starts quickly.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

from mixfs.media.texts import MAX_TEXT, MAX_TEXTS_TOTAL

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 300_000_000
"""Pixels of a picture that is decoded: four bytes each fit twice into a worker's memory."""
MAX_SIDE = 65_500
"""Pixels of a side: JPEG's own limit, and what every program can show."""

_FORMATS = {
    "image/png": ("PNG", "PngImagePlugin"),
    "image/jpeg": ("JPEG", "JpegImagePlugin"),
    "image/webp": ("WEBP", "WebPImagePlugin"),
    "image/gif": ("GIF", "GifImagePlugin"),
    "image/avif": ("AVIF", "AvifImagePlugin"),
    "image/tiff": ("TIFF", "TiffImagePlugin"),
    "image/bmp": ("BMP", "BmpImagePlugin"),
}


class BadPicture(Exception):
    """A picture that is damaged, cut short, too large, or in a variant that is not supported. The text says which.

    `size` is the width and height that its header claims, where that could be read.
    """

    def __init__(self, text: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(text)
        self.size = size


def open_picture(path: str, media_type: str) -> Image:
    """Open without decoding the pixels. The caller closes. Raises BadPicture, OSError for an unreadable file."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    name, module = _FORMATS[media_type]
    # Our own check below has better words and also bounds the sides; Pillow's would warn at a third of our limit.
    Image.MAX_IMAGE_PIXELS = None
    try:
        importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise BadPicture(f"this build of Pillow can't read {name}") from error
    if name == "PNG":
        from PIL import PngImagePlugin

        PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
        PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXTS_TOTAL * 4
    with open(path, "rb"):
        pass  # An unreadable file is no bad picture: let its OSError out.
    # A PNG's text chunk with a bad checksum is left out by every viewer; Pillow would refuse the whole picture. The
    # pixels are decoded without this leniency.
    ImageFile.LOAD_TRUNCATED_IMAGES = name == "PNG"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(path, formats=[name])
    except UnidentifiedImageError as error:
        raise BadPicture(f"damaged: its {name} header can't be read") from error
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - plugins raise whatever bad bytes lead them to
        raise BadPicture(f"damaged: {_words(error)}") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        check_size(*picture.size)
    except BadPicture:
        picture.close()
        raise
    return picture


def check_size(width: int, height: int) -> None:
    """Raises BadPicture for a picture with no pixels or with too many."""
    if width <= 0 or height <= 0:
        raise BadPicture("damaged: it says that it has no pixels")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadPicture(
            f"too large: {width:,} x {height:,} pixels; the limits are {MAX_PIXELS // 1_000_000} million"
            f" and {MAX_SIDE:,} a side",
            (width, height),
        )


def load_pixels(picture: Image) -> None:
    """Decode the current frame whole. Raises BadPicture, or MemoryError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        raise BadPicture(f"damaged or cut short: {_words(error)}") from error


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if text and "0x" not in text else type(error).__name__
