"""Copying a file's bytes as cheaply as the file system can: shared blocks, else in the kernel, and never its holes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

_FICLONE = 0x40049409
_STEP = 64 << 20
_BUFFER = 1 << 20
_CANNOT = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.EBADF)


def copy_data(source: int, target: int) -> None:
    """Make an empty file hold what another one holds. Blocks; the position of `source` is of no matter, and changes."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return
    size, at = os.fstat(source).st_size, 0
    # Before its data: a file system that has no room for so long a file says so at once.
    os.ftruncate(target, size)
    while at < size:
        start = next_data(source, at, size)
        at = next_hole(source, start, size)
        _copy_range(source, target, start, at)


def next_data(fd: int, at: int, size: int) -> int:
    """Where the data begins at or behind a place; `size` where there are but holes, `at` where nobody knows."""
    try:
        return min(size, os.lseek(fd, at, os.SEEK_DATA))
    except OSError as error:
        return size if error.errno == errno.ENXIO else at


def next_hole(fd: int, at: int, size: int) -> int:
    """Where the data that begins at a place ends; `size` where nobody knows."""
    try:
        return min(size, os.lseek(fd, at, os.SEEK_HOLE))
    except OSError:
        return size


def _copy_range(source: int, target: int, at: int, end: int) -> None:
    in_kernel = True
    while at < end:
        count = 0
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, min(_STEP, end - at), at, at)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                in_kernel = False
        if not count:
            data = os.pread(source, min(_BUFFER, end - at), at)
            if not data:
                # It became shorter.
                return
            view, count = memoryview(data), 0
            while count < len(data):
                count += os.pwrite(target, view[count:], at + count)
        at += count
