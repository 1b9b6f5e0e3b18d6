"""What a killed process, or one that met an error of the disk, left behind in a library and nobody will take up.

Each process names what it has in the making after itself, so that what a dead one left can be told. The next open of
the library removes it, and `mixfs doctor` counts it. Not here: what a mount left in staging, which the next mount takes
up.

Concurrency: may run beside anything. What only writers make, under the library's lock, is removed by them
(`Store._sweep`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mixfs.library import staging

# Where thumbnails are written before they have their names.
UNFINISHED_THUMBNAILS = ".new"
_NEW = re.compile(r"\..+\.(\d+)\.new")
_THUMBNAIL = re.compile(r".+\.(\d+)\.\d+")
_INDEX = re.compile(r"index\.(?:new|old)-(\d+)")
_HIDDEN_STAGING = re.compile(r"\.(\d+)-.+")


def find(root: Path) -> Iterator[Path]:
    """Every file and directory in the library that a dead process left."""
    for folder in (root, root / "quarantine", *_folders(root / "journal"), *_folders(root / "lost")):
        yield from _of_dead(folder, _NEW)
    yield from _of_dead(root, _INDEX)
    yield from _of_dead(root / "thumbnails" / UNFINISHED_THUMBNAILS, _THUMBNAIL)
    yield from _of_dead(root / "staging", _HIDDEN_STAGING)
    for path in _folders(root / "staging"):
        if not path.name.startswith(".") and not staging.is_of_mount(path) and not _is_locked(path / "lock"):
            yield path


def sweep(root: Path) -> None:
    """Remove what dead processes left, but for what is made under the library's lock."""
    staging.sweep(root / "staging")
    for path in find(root):
        if path.parent.parent.name == "journal" or path.name.startswith((".format.", "index.")):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def is_dead(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _of_dead(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        found = pattern.fullmatch(name)
        if found is not None and is_dead(int(found[1])):
            yield folder / name


def _folders(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError:
        return []
