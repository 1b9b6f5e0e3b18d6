"""Opening an LMDB index to read it, beside writers or where nothing may be written.

LMDB's readers say in lock.mdb which state they read, so that writers leave its pages alone. A reader that doesn't say
so beside a writer reads pages that are written to, and LMDB ends its process. So:

* Where lock.mdb can be written, the reader says so, and lock.mdb is put back as it was when nobody else had it open.
* Where nobody can write, on read-only media or in a read-only snapshot, nothing has to be said.
* Else (a read-only bind mount, another user's library) somebody may write whom we can't tell: a copy is read.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from mixfs.errors import IndexDamaged, IndexUnavailable
from mixfs.index import lmdb_pages
from mixfs.index.lmdb_engine import LmdbEngine
from mixfs.mountinfo import mount_of

_ATTEMPTS = 20


def open_for_reading(path: Path) -> LmdbEngine:
    """The index in the directory `path`, of which nothing is changed. Raises IndexFailed, LibraryBusy, OSError."""
    table = path / "lock.mdb"
    if os.access(table, os.W_OK) or (os.access(path, os.W_OK) and not table.exists()):
        return LmdbEngine(path, read_only=True)
    if _is_frozen(path):
        return LmdbEngine(path, read_only=True, lock=False)
    with tempfile.TemporaryDirectory(prefix="mixfs-index-", ignore_cleanup_errors=True) as directory:
        return _open_copy(path, Path(directory))


def _is_frozen(path: Path) -> bool:
    """Whether nobody can write there: the file system is read-only, and not just our mount of it."""
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        # A snapshot may be read-only by itself.
        return _refuses(path)
    mount = mount_of(os.path.realpath(path))
    return mount is not None and "ro" in mount.super_options


def _refuses(path: Path) -> bool:
    try:
        os.close(os.open(path / "data.mdb", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def _open_copy(path: Path, directory: Path) -> LmdbEngine:
    """A copy that is whole: no commit came while it was made, and one that is under way leaves alone what is read."""
    data = path / "data.mdb"
    for _ in range(_ATTEMPTS):
        before = _state(data)
        shutil.copyfile(data, directory / "data.mdb")
        if _state(data) == before:
            return LmdbEngine(directory, read_only=True, lock=False, copied_from=path)
    raise IndexUnavailable(f"{path}: it changes too fast to be copied, and nothing can be written beside it.")


def _state(data: Path) -> tuple[int, int]:
    fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        newest = max(meta.transaction for meta in lmdb_pages.read_metas(fd))
        return os.fstat(fd).st_ino, newest
    except lmdb_pages.PagesDamaged as error:
        raise IndexDamaged(f"{data}: {error}") from error
    finally:
        os.close(fd)
