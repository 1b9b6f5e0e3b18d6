"""Extended attributes of files: which ones are kept, how much of them, and which of them are the annotation.

`user.xdg.tags`, `user.xdg.comment` and `user.baloo.rating` are the annotation of a picture; other `user.*` attributes
are kept as they came. Attributes that arrive with a file are never a reason to refuse it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mixfs.errors import InvalidValue, NoRoomForAttributes

ANNOTATION = {"user.xdg.tags": "tags", "user.xdg.comment": "comment", "user.baloo.rating": "rating"}
# What follows from the library, and is never kept.
OWN = "user.mixfs."
MEDIA_TYPE = "user.mime_type"
# Of one file or folder, names and values: as many as ext4 has with large values, twice the longest value.
MAX_COUNT, MAX_BYTES = 256, 128 << 10
# The kernel's limit for a value.
LONGEST = 64 << 10


def is_kept(name: str) -> bool:
    """Whether an attribute that arrives with a file is of any use."""
    return name.startswith("user.") and not name.startswith(OWN) and name != MEDIA_TYPE


def check_room(xattrs: Mapping[str, bytes], name: str, value: bytes) -> None:
    """Raise NoRoomForAttributes (ENOSPC) when one more attribute is too much."""
    size = len(os.fsencode(name)) + len(value) + sum(
        len(os.fsencode(other)) + len(held) for other, held in xattrs.items() if other != name
    )
    if size > MAX_BYTES or len(xattrs.keys() | {name}) > MAX_COUNT:
        raise NoRoomForAttributes(
            f"{name}: a file may have {MAX_COUNT} extended attributes with {MAX_BYTES >> 10} KiB in all. Remove some."
        )


def of_file(fd: int) -> dict[str, bytes]:
    """The attributes of an open file that are kept; those that can't be read, or are too many, are left out."""
    out: dict[str, bytes] = {}
    try:
        names = os.listxattr(fd)
    except OSError:
        return out
    for name in names:
        if not is_kept(name):
            continue
        try:
            value = os.getxattr(fd, name)
            check_room(out, name, value)
        except (OSError, NoRoomForAttributes):
            continue
        out[name] = value
    return out


def field_of(name: str, value: bytes | None) -> Any:
    """What an attribute says of the annotation. Raises InvalidValue for a rating that is no number from 0 to 10."""
    text = value.decode("utf-8", "replace") if value is not None else ""
    field = ANNOTATION[name]
    if field == "tags":
        return text.split(",")
    if field == "comment":
        return text or None
    if not text.strip():
        return None
    rating = int(text) if text.strip().isascii() and text.strip().isdigit() and len(text) < 20 else -1
    if not 0 <= rating <= 10:
        raise InvalidValue(f"user.baloo.rating must be a whole number from 0 to 10, not {text!r:.40}.")
    return rating


def split(xattrs: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The attributes that are kept as they are, and the annotation; what makes no sense as one is kept as it is."""
    kept, annotation = dict(xattrs), {}
    for name, field in ANNOTATION.items():
        if name in kept:
            try:
                annotation[field] = field_of(name, kept[name])
            except InvalidValue:
                continue
            del kept[name]
    return kept, annotation
