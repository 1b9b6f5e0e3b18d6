"""A folder that an export writes: it becomes visible whole, by one rename, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixfs.errors import ExistsError, NotFoundError, UnsuitablePlace
from mixfs.journal.files import fsync_directory
from mixfs.library.leftovers import is_dead


@contextmanager
def new_folder(root: Path, target: Path) -> Iterator[Path]:
    """A folder to write into, which takes `target`'s name when the block ends; nothing is left there on failure.

    `target` must not exist, or be empty, and must not lie in the library `root`. Raises NotFoundError, ExistsError,
    UnsuitablePlace, OSError.
    """
    target = Path(os.path.abspath(target))
    _check_target(root, target)
    prefix = f".{target.name[:60]}."
    _sweep(target.parent, prefix)
    beside = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", suffix=".part", dir=target.parent))
    try:
        yield beside
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o777 & ~umask)
        # rename(2) puts a directory in the place of an empty one.
        os.rename(beside, target)
        fsync_directory(target.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what a killed export to the same place left."""
    made_by = re.compile(re.escape(prefix) + r"(\d+)-[a-z0-9_]{8}\.part")
    for name in os.listdir(folder):
        found = made_by.fullmatch(name)
        if found is not None and is_dead(int(found[1])):
            shutil.rmtree(folder / name, ignore_errors=True)


def _check_target(root: Path, target: Path) -> None:
    try:
        if os.listdir(target):
            raise ExistsError(f"{target} is not empty: choose a folder that does not exist, or an empty one.")
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise NotFoundError(f"There is no folder {target.parent} to make {target.name} in.") from None
    except NotADirectoryError:
        raise ExistsError(f"{target} is a file: choose a folder that does not exist, or an empty one.") from None
    real, library = os.path.realpath(target), os.path.realpath(root)
    if real == library or real.startswith(library + "/"):
        raise UnsuitablePlace(f"{target} lies inside the library {library}: choose a folder elsewhere.")
