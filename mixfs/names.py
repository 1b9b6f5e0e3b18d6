"""File names: made safe, cut to length, told apart, recognised as temporary.

A file system is bytes: every name here is `bytes`, at most 255 of them. What comes from a title or a prompt goes
through `safe_name`; what a program wrote stays as it was. `NAME.json` and its like are made by `derived_name`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_NAME = 255

# A trailing counter before the extension, as file managers write it: "name (2).png".
_COUNTER = re.compile(rb"^(?P<stem>.+) \((?P<n>[1-9][0-9]{0,8})\)(?P<ext>(?:\.[^. ()]{1,16}){0,2})\Z", re.DOTALL)
_EXTENSION = re.compile(rb"(?:\.[A-Za-z0-9_-]{1,10}){0,1}\Z")
_RSYNC = re.compile(rb"^\..+\.[A-Za-z0-9]{6}\Z", re.DOTALL)
_SED = re.compile(rb"^sed[A-Za-z0-9]{6}\Z")
_TEMPORARY_SUFFIXES = (b"~", b".part", b".crdownload", b".tmp", b".swp", b".kate-swp", b"_exiftool_tmp", b".partial")


def is_name(name: bytes) -> bool:
    """True for what a directory can list. The kernel fails a whole listing that has another in it."""
    return 0 < len(name) <= MAX_NAME and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def listable(name: bytes) -> bytes:
    """A name that a directory can list, of one that a journal from elsewhere says: the same where it is one."""
    return name if is_name(name) else safe_name(name.decode("utf-8", "replace"), "unnamed")


def is_temporary(name: bytes) -> bool:
    """True for the names under which programs save before they rename: such files wait in import/."""
    lower = name.lower()
    return (
        name.startswith(b".")
        or lower.endswith(_TEMPORARY_SUFFIXES)
        or _RSYNC.match(name) is not None
        or _SED.match(name) is not None
    )


def cut(name: bytes, limit: int = MAX_NAME) -> bytes:
    """The longest prefix of at most `limit` bytes that ends at a UTF-8 character's end (where it is UTF-8)."""
    if len(name) <= limit:
        return name
    for end in range(limit, max(limit - 4, -1), -1):
        if (name[end] & 0xC0) != 0x80:
            return name[:end]
    return name[:limit]


def safe_name(text: str, fallback: str = "untitled", limit: int = MAX_NAME) -> bytes:
    """A file name made from a title or prompt.

    No `/`, control, bidi or zero-width characters, no leading dot, no white space at the ends; at most `limit` bytes
    of UTF-8, cut at a character. Characters that can't be shown become nothing, slashes become `-`.
    """
    out: list[str] = []
    # A prompt may have a million characters; few are left out, and each that isn't has a byte at least.
    for char in text[: 8 * limit]:
        if char in "/\\":
            out.append("-")
        elif char in "\n\r\t\v\f\u2028\u2029":
            out.append(" ")
        elif unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn"):
            continue
        else:
            out.append(char)
    # Composed last: what was left out may have stood between a letter and its accent.
    name = " ".join(unicodedata.normalize("NFC", "".join(out)).split()).lstrip(". ")
    cut_name = cut(name.encode("utf-8"), limit).rstrip()
    return cut_name or fallback.encode("utf-8")


def split_counter(name: bytes) -> tuple[bytes, int]:
    """`(base, n)`: the name without its ` (n)`, and n; `(name, 1)` for a name without a counter.

    `with_counter` is the inverse.
    """
    match = _COUNTER.match(name)
    if match is None or int(match["n"]) < 2:
        return name, 1
    base = match["stem"] + match["ext"]
    # A base with a counter of its own, or one that puts the counter elsewhere, would not come back: no family then.
    if with_counter(base, int(match["n"])) != name:
        return name, 1
    return base, int(match["n"])


def split_extension(name: bytes) -> tuple[bytes, bytes]:
    """`(stem, extension)`; the extension has its dot, or is empty."""
    match = _EXTENSION.search(name)
    assert match is not None
    if match.start() == 0:
        return name, b""
    return name[: match.start()], match[0]


def with_counter(base: bytes, n: int) -> bytes:
    """`name.png`, 2 → `name (2).png`; 1 gives the base itself. Cut so that it stays within 255 bytes."""
    if n == 1:
        return base
    stem, extension = split_extension(base)
    suffix = b" (%d)" % n + extension
    return cut(stem, MAX_NAME - len(suffix)) + suffix


# Longer bases are cut to this, so that any counter still fits behind them: " (999999999)" is 12 bytes.
_MAX_BASE = MAX_NAME - 12


def family_base(name: bytes) -> bytes:
    """The base of the family of names within which conflicts are solved; every name is in exactly one.

    For every family and n > 1, `with_counter(base, n)` is in the family again, also where a long base had to be cut.
    """
    base = split_counter(name)[0]
    if len(base) <= _MAX_BASE:
        return base
    stem, extension = split_extension(base)
    return cut(stem, _MAX_BASE - len(extension)) + extension


def family_prefix(base: bytes) -> bytes:
    """What every name of a family but `base` begins with (callers check with `family_base`)."""
    stem, _ = split_extension(base)
    # A base that long may have been cut: then whole names of the family go on behind the stem.
    return stem if len(base) > _MAX_BASE - 4 else stem + b" ("


def derived_name(name: bytes, suffix: bytes) -> bytes:
    """`name` + `suffix`; where that would be over 255 bytes, cut, with a digest of the whole name before the suffix."""
    whole = name + suffix
    if len(whole) <= MAX_NAME:
        return whole
    mark = b"~" + hashlib.blake2b(name, digest_size=4).hexdigest().encode() + suffix
    return cut(name, MAX_NAME - len(mark)) + mark


def underived_prefix(derived: bytes, suffix: bytes) -> tuple[bytes, bool]:
    """The inverse of `derived_name`, as far as it goes: `(name, True)`, or `(prefix of the name, False)` when cut.

    A caller that gets a prefix looks for the one name with that prefix whose derived name is the one asked for.
    """
    stem = derived[: -len(suffix)]
    if len(derived) > MAX_NAME - 4 and len(stem) > 9 and stem[-9:-8] == b"~":
        return stem[:-9], False
    return stem, True
