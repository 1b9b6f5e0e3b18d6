"""A folder that an export writes: it becomes visible whole, by one rename, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixfs.errors import ExistsError, NotFoundError, UnsuitablePlace
from mixfs.journal.files import fsync_directory


@contextmanager
def new_folder(root: Path, target: Path) -> Iterator[Path]:
    """A folder to write into, which takes `target`'s name when the block ends; nothing is left there on failure.

    `target` must not exist, or be empty, and must not lie in the library `root`. Raises NotFoundError, ExistsError,
    UnsuitablePlace, OSError.
    """
    target = Path(os.path.abspath(target))
    _check_target(root, target)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name[:60]}.", suffix=".part", dir=target.parent))
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
