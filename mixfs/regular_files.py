"""Opening files that somebody else names: only regular ones, up to a size, and never one that blocks.

A FIFO would keep its reader waiting for ever, and a device or a sparse file would never end. Every path that a user, a
folder or a document names is opened here, and the open descriptor is what is checked.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

READINGS = 3
"""How often a file is read that changes while it is read, before it is given up."""
CHANGED = "It was changed while it was read. Import it again when nothing writes to it"

_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


def open_regular(path: Path | str, limit: int | None = None, *, follow: bool = True) -> int:
    """A descriptor of a regular file of at most `limit` bytes, for reading. `follow` allows `path` to be a link.

    Raises OSError: EINVAL for what is no regular file, EFBIG beyond the limit.
    """
    # Opening a device can do something already. What is behind the name may change meanwhile: fstat has the last word.
    check_regular(os.stat(path, follow_symlinks=follow), path, limit)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    try:
        check_regular(os.fstat(fd), path, limit)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_regular(status: os.stat_result, path: Path | str, limit: int | None = None) -> None:
    """Raise OSError unless a status is that of a regular file of at most `limit` bytes."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        words = "a symbolic link" if kind == stat.S_IFLNK else _KINDS.get(kind, "something else")
        raise OSError(errno.EINVAL, f"It is {words}, not a regular file", str(path))
    if limit is not None and status.st_size > limit:
        raise OSError(errno.EFBIG, f"It has {status.st_size} bytes; {limit} are allowed", str(path))


def read_regular(path: Path | str, limit: int, *, follow: bool = True) -> bytes:
    """All bytes of a regular file. Raises OSError as `open_regular`, also for a file that grows beyond the limit."""
    with open(open_regular(path, limit, follow=follow), "rb", buffering=0) as file:
        data = bytearray()
        while part := file.read(min(1 << 20, limit + 1 - len(data))):
            data += part
            if len(data) > limit:
                raise OSError(errno.EFBIG, f"It has more than {limit} bytes", str(path))
        return bytes(data)


def is_unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether two statuses of a file say that nobody wrote to it in between."""
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
