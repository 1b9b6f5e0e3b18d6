"""A quick look at a file, before a reader takes a longer one in a process of its own."""

from __future__ import annotations

from mixfs import jsontext
from mixfs.media.sniff import EXTENSIONS

_MEDIA_NAMES = (
    *(suffix.encode() for kind, suffix in EXTENSIONS.items() if kind.partition("/")[0] in ("image", "video", "audio")),
    b".jpeg", b".tiff", b".m4v",
)  # fmt: skip


def is_media_name(name: bytes) -> bool:
    """Whether a file's name says that it is a picture, film or sound, which nobody need open to look for a layout."""
    return name.lower().endswith(_MEDIA_NAMES)


def may_be_part(head: bytes) -> bool:
    """Whether a file may be what makes a folder one of a layout: a JSON object, or a SQLite file."""
    return head.startswith(b"SQLite format 3\0") or jsontext.beginning(head).startswith("{")


def may_be_read(head: bytes) -> bool:
    """Whether a file may be in any layout, by its first bytes: what says no need not be looked into."""
    return head[:2] == b"PK" or may_be_part(head)


def may_be_layout(head: bytes) -> bool:
    """Whether a single file may be in a layout, by its first `HEAD_SIZE` bytes."""
    # The manifest of a package may stand anywhere in it, and browsers rename what they download.
    if head.startswith((b"PK", b"SQLite format 3\0")):
        return True
    if not may_be_part(head):
        return False
    text = jsontext.beginning(head)
    return '"sessions"' in text or ('"canvas_images"' in text and '"dataUri"' in text)
