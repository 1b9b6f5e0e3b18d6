"""Media type by the first bytes alone. Names lie: a known site serves PNG as .jpg and JPEG as .png."""

from __future__ import annotations

HEAD_SIZE = 4096
"""How many first bytes `sniff` wants; fewer do, with less certainty about text."""

IMAGE_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/tiff", "image/bmp"}
)
"""The picture types that are decoded. Any other type is a file."""

UNKNOWN = "application/octet-stream"

EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
    "image/tiff": ".tif",
    "image/bmp": ".bmp",
    "image/heic": ".heic",
    "image/jxl": ".jxl",
    "image/svg+xml": ".svg",
    "image/vnd.adobe.photoshop": ".psd",
    "image/x-icon": ".ico",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "application/pdf": ".pdf",
    "application/zip": ".zip",
    "application/gzip": ".gz",
    "application/x-7z-compressed": ".7z",
    "application/vnd.rar": ".rar",
    "application/zstd": ".zst",
    "application/json": ".json",
    "application/xml": ".xml",
    "application/vnd.sqlite3": ".sqlite",
    "application/x-safetensors": ".safetensors",
    "text/html": ".html",
    "text/plain": ".txt",
}

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"II+\x00", "image/tiff"),
    (0, b"MM\x00+", "image/tiff"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (0, b"\xff\x0a", "image/jxl"),
    (0, b"\x00\x00\x01\x00", "image/x-icon"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"PK\x07\x08", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
)

_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def sniff(head: bytes) -> str:
    """The media type of a file that begins with `head`; `application/octet-stream` when it is not known."""
    head = bytes(head[:HEAD_SIZE])
    for offset, magic, media_type in _MAGIC:
        if head.startswith(magic, offset):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "image/bmp"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    # safetensors: a little-endian u64 length of the JSON header that follows it.
    if len(head) > 10 and head[8:10] == b'{"' and 2 <= int.from_bytes(head[:8], "little") < 1 << 28:
        return "application/x-safetensors"
    return _text(head)


def extension(media_type: str) -> str:
    """The usual file name extension with its dot; empty when there is none that is sure."""
    return EXTENSIONS.get(media_type, "")


def _iso_media(head: bytes) -> str:
    size = min(max(int.from_bytes(head[:4], "big"), 16), 256)
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head) - 3), 4))}
    if brands & {b"avif", b"avis"}:
        return "image/avif"
    if brands & _HEIC_BRANDS or head[8:12] in (b"mif1", b"msf1"):
        return "image/heic"
    return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"


def _text(head: bytes) -> str:
    if not head:
        return UNKNOWN
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text/plain"
    body = head.removeprefix(b"\xef\xbb\xbf")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character cut in two by the end of the head is no evidence against UTF-8.
        if error.start < len(body) - 3 or len(body) < 8:
            return UNKNOWN
        text = body[: error.start].decode("utf-8")
    if any(c < " " and c not in "\t\n\r\f\x1b" for c in text):
        return UNKNOWN
    start = text.lstrip()[:1024].lower()
    if start.startswith("<svg") or (start.startswith(("<?xml", "<!--", "<!doctype svg")) and "<svg" in start):
        return "image/svg+xml"
    if start.startswith(("<!doctype html", "<html")):
        return "text/html"
    if start.startswith("<?xml"):
        return "application/xml"
    rest = start[1:].lstrip()
    if start.startswith("{") and (rest[:1] in ('"', "}") or (not rest and len(head) < 4)):
        return "application/json"
    if start.startswith("[") and (rest[:1] in '{["]-0123456789' if rest else False):
        return "application/json"
    return "text/plain"
