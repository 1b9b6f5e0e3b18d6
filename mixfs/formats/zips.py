"""A ZIP file by somebody else, looked at before anything is taken out of it.

Python's zipfile checks each entry's CRC and length when it is read to its end. What it lets pass is refused here: names
that lead elsewhere or stand there twice, links, entries that lie over each other, sizes that only a bomb has.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from mixfs.formats.base import Refused
from mixfs.regular_files import open_regular

MAX_ENTRIES = 20_000
MAX_DIRECTORY = 16 << 20
MAX_BYTES = 8 << 30
"""Of all entries together, when they are unpacked."""
MAX_RATIO = 200
"""How many times its packed size an entry may have; entries below 1 MiB may have more."""
_SMALL = 1 << 20

_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


@contextlib.contextmanager
def open_checked(path: Path) -> Iterator[zipfile.ZipFile]:
    """The ZIP file at a path, all of whose entries may be read. Raises Refused, OSError."""
    with open_listed(path) as archive:
        _check(archive)
        yield archive


@contextlib.contextmanager
def open_listed(path: Path) -> Iterator[zipfile.ZipFile]:
    """The ZIP file at a path, with a list of entries that fits into memory. Raises Refused, OSError."""
    with open(open_regular(path), "rb") as file:
        _check_directory(file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, EOFError, struct.error) as error:
            raise Refused(f"It is no whole ZIP file: {error}. Copy it again from where it came.") from error
        except NotImplementedError as error:
            raise Refused(f"It can't be unpacked here: {error}.") from error
        with archive:
            yield archive


def _check_directory(file: BinaryIO) -> None:
    """Refuse a list of entries that would fill the memory before it can be looked at."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - 0xFFFF - _LOCATOR.size))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise Refused("It is no whole ZIP file: its end is missing. Copy it again from where it came.")
    length = _END.unpack_from(tail, at)[5]
    if length == 0xFFFFFFFF and at >= _LOCATOR.size:
        mark, _, there, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        file.seek(min(there, size))
        record = file.read(_END64.size)
        if mark == b"PK\6\7" and len(record) == _END64.size:
            length = _END64.unpack(record)[8]
    if length > MAX_DIRECTORY:
        raise Refused(f"Its list of entries has {length} bytes; {MAX_DIRECTORY} are allowed.")


def _check(archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise Refused(f"It has {len(entries)} entries; {MAX_ENTRIES} are allowed.")
    names: set[str] = set()
    total = 0
    for entry in entries:
        _check_entry(entry)
        if entry.filename in names:
            raise Refused(f"{entry.filename!r:.80} is in it twice.")
        names.add(entry.filename)
        total += entry.file_size
    if total > MAX_BYTES:
        raise Refused(f"Unpacked it would have {total} bytes; {MAX_BYTES} are allowed.")
    assert archive.fp is not None
    _check_places(archive.fp, entries, archive.start_dir)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    # `filename` ends where the first NUL stands; what the archive says is `orig_filename`.
    name = entry.orig_filename
    shown = f"{name!r:.80}"
    if not name or "\0" in name or "\\" in name or name.startswith("/") or name[1:2] == ":":
        raise Refused(f"The name {shown} leads out of the package.")
    if any(part in ("..", ".") for part in name.split("/")):
        raise Refused(f"The name {shown} leads out of the package.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(f"{shown} is a link or a device, no file.")
    if entry.flag_bits & 0x1:
        raise Refused(f"{shown} is encrypted.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"{shown} is packed in a way that is not read here (method {entry.compress_type}).")
    if entry.file_size > _SMALL and entry.file_size > MAX_RATIO * entry.compress_size:
        raise Refused(
            f"{shown} would grow from {entry.compress_size} to {entry.file_size} bytes; {MAX_RATIO} times is allowed."
        )


def _check_places(file: IO[bytes], entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Refuse entries that lie over each other: a few bytes would be unpacked many times."""
    end, before = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise Refused(f"{entry.filename!r:.80} lies over {before!r:.80} in it.")
        file.seek(entry.header_offset)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
            raise Refused(f"{entry.filename!r:.80} is not where the list of entries says.")
        *_, name_size, extra_size = _LOCAL.unpack(head)
        end = entry.header_offset + _LOCAL.size + name_size + extra_size + entry.compress_size
        before = entry.filename
        if end > directory:
            raise Refused(f"{entry.filename!r:.80} is longer than the room that it has.")
