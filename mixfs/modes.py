"""Files and folders of the library, made with the modes that they should have whatever the umask is.

A umask of 0777 would make a folder that its owner can't enter. Modes of what is there already are left alone, except
that the owner may use what is the library's own.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def create_file(path: str | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
    """A descriptor of a file that is opened with `flags`, and made where it isn't there. As os.open."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        held = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o700 & ~held:
            # PermissionError: somebody else's file, which could be opened nevertheless.
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, held | mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_directory(path: Path, mode: int = 0o700, *, parents: bool = False, exist_ok: bool = False) -> None:
    """As Path.mkdir; parents get the same mode."""
    try:
        os.mkdir(path, mode)
    except FileNotFoundError:
        if not parents:
            raise
        make_directory(path.parent, mode, parents=True, exist_ok=True)
        make_directory(path, mode, exist_ok=exist_ok)
        return
    except FileExistsError:
        if not exist_ok or not path.is_dir():
            raise
        return
    os.chmod(path, mode)
