"""The mounts that this process sees: /proc/self/mountinfo read right, whatever paths are in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

# Bytes of paths that are written as \ooo: space, tab, line feed, backslash. A carriage return stands there as it is.
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo. `kind` is the file system's type, as `fuse.mixfs`; `device` is `MAJOR:MINOR`."""

    mountpoint: str
    kind: str
    source: str
    options: frozenset[str]
    device: str = "0:0"
    # Of the file system itself, not of this mount of it.
    super_options: frozenset[str] = frozenset()

    @property
    def minor(self) -> int:
        """The number of a FUSE mount's connection."""
        number = self.device.partition(":")[2]
        return int(number) if number.isdigit() else 0

    @property
    def user(self) -> int:
        """Who mounted a FUSE mount, by its options; root where they don't tell."""
        named = (option[8:] for option in self.options if option.startswith("user_id=") and option[8:].isdigit())
        return int(next(named, "0"))


def parse_mountinfo(data: bytes) -> list[Mount]:
    """The mounts that a mountinfo file lists, in its order; lines that make no sense are passed over."""
    out = []
    for line in data.split(b"\n"):
        fields = line.split(b" ")
        try:
            dash = fields.index(b"-", 6)
            kind, source = fields[dash + 1], fields[dash + 2]
        except (ValueError, IndexError):
            continue
        options = b",".join((fields[5], *fields[dash + 3 : dash + 4])).decode("ascii", "replace")
        of_all = b",".join(fields[dash + 3 : dash + 4]).decode("ascii", "replace")
        out.append(
            Mount(
                _unescape(fields[4]), kind.decode("ascii", "replace"), _unescape(source),
                frozenset(options.split(",")), fields[2].decode("ascii", "replace"),
                frozenset(of_all.split(",")),
            )
        )  # fmt: skip
    return out


def _unescape(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def mounts() -> list[Mount]:
    """The mounts that this process sees; none where that can't be told."""
    try:
        return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return []


def mount_at(path: str) -> Mount | None:
    """The mount whose root is `path` (the topmost one, where several lie over each other)."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == path), None)


def mount_of(path: str) -> Mount | None:
    """The mount that a real path lies in."""
    found = None
    for mount in mounts():
        point = mount.mountpoint
        # The last of equal length wins: a later mount covers an earlier one.
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (found is None or len(point) >= len(found.mountpoint)):
            found = mount
    return found
