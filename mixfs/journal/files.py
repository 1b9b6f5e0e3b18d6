"""Writing files so that they are whole after a power cut: temporary name, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mixfs.modes import create_file, make_directory


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a small file whole: after a crash it has its old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = create_file(temporary, os.O_WRONLY | os.O_TRUNC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    fsync_directory(path.parent)


def make_directory_durably(path: Path, mode: int = 0o700) -> None:
    """Make a directory and, when it is new, its name durable; parents likewise."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_directory_durably(path.parent, mode)
    try:
        make_directory(path, mode)
    except FileExistsError:
        return
    fsync_directory(path.parent)
