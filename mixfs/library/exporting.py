"""Where an export goes: checked before a byte is copied, visible whole at the end, and nothing left of one that failed.

A new folder takes its name by one rename. A folder that is there stays what it is, since it may be the root of a drive
or belong to somebody who may not write beside it: the export is written into a hidden folder in it, and moved up.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mixfs.blobs.local import LocalBlobs
from mixfs.errors import BlobDamaged, BlobMissing, ExistsError, MixfsError, NotFoundError, UnsuitablePlace
from mixfs.ids import Digest
from mixfs.journal.files import fsync_directory
from mixfs.library.leftovers import is_dead
from mixfs.mountinfo import mount_of

# What a new drive has on it by itself.
_OF_A_DRIVE = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}
# Sizes and names that some file systems have no room for.
_FOUR_GIB = {"vfat", "msdos"}
_WINDOWS_NAMES = {"vfat", "msdos", "exfat", "ntfs", "ntfs3"}
_NO_WINDOWS_NAME = re.compile(r'["*:<>?\\|\x00-\x1f]|[. ]$')
_SHOWN_FILES = 20


@contextmanager
def new_folder(root: Path, target: Path, size: int = 0) -> Iterator[Path]:
    """A folder to write into, which takes `target`'s name when the block ends; nothing is left there on failure.

    `target` must not exist, or be empty, and must not lie in the library `root` or a mount of MixFS; a symbolic link
    means the folder that it leads to. `size` bytes must fit there. Raises NotFoundError, ExistsError, UnsuitablePlace,
    OSError.
    """
    target = Path(os.path.realpath(target))
    is_there = _check_folder(target)
    where = target if is_there else target.parent
    check_outside(root, where)
    check_room(where, size)
    prefix = f".{target.name[:60]}."
    _sweep(where, prefix)
    beside = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", suffix=".part", dir=where))
    moved: list[Path] = []
    try:
        try:
            yield beside
        except OSError as error:
            raise _explained(error, beside) from error
        if is_there:
            for name in sorted(os.listdir(beside)):
                if os.path.lexists(target / name):
                    raise ExistsError(f"{target / name} came while the export was written: nothing was exported.")
                os.rename(beside / name, target / name)
                moved.append(target / name)
            beside.rmdir()
        else:
            umask = os.umask(0)
            os.umask(umask)
            with contextlib.suppress(PermissionError):  # of file systems without modes
                os.chmod(beside, 0o777 & ~umask)
            # Nobody's empty folder is replaced: rename(2) would.
            if os.path.lexists(target):
                raise ExistsError(f"{target} came while the export was written: nothing was exported.")
            os.rename(beside, target)
            moved.append(target)
        fsync_directory(where)
        flush(root, where)
    except BaseException:
        for path in (beside, *moved):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what a killed export to the same place left."""
    made_by = re.compile(re.escape(prefix) + r"(\d+)-[a-z0-9_]{8}\.part")
    for name in os.listdir(folder):
        found = made_by.fullmatch(name)
        if found is not None and is_dead(int(found[1])):
            shutil.rmtree(folder / name, ignore_errors=True)


def _check_folder(target: Path) -> bool:
    """Whether the folder is there, and empty. Raises NotFoundError, ExistsError, OSError."""
    leftovers = re.compile(rf"\.{re.escape(target.name[:60])}\.\d+-[a-z0-9_]{{8}}\.part|\.Trash-\d+")
    try:
        names = set(os.listdir(target)) - _OF_A_DRIVE
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise NotFoundError(f"There is no folder {target.parent} to make {target.name} in.") from None
        return False
    except NotADirectoryError:
        raise ExistsError(f"{target} is a file: choose a folder that does not exist, or an empty one.") from None
    if not all(map(leftovers.fullmatch, names)):
        raise ExistsError(f"{target} is not empty: choose a folder that does not exist, or an empty one.")
    return True


def check_outside(root: Path, folder: Path) -> None:
    """Refuse a folder in the library, or in a mount of MixFS, whatever path leads there. Raises UnsuitablePlace."""
    real = os.path.realpath(folder)
    mount = mount_of(real)
    if mount is not None and mount.kind == "fuse.mixfs":
        raise UnsuitablePlace(f"{folder} lies inside the MixFS mount {mount.mountpoint}: choose a folder elsewhere.")
    # By what they are: a bind mount shows the library under another path.
    own = {_identity(root), *(_identity(Path(each.path)) for each in os.scandir(root) if each.is_dir())}
    for above in (Path(real), *Path(real).parents):
        if _identity(above) in own:
            raise UnsuitablePlace(f"{folder} lies inside the library {root}: choose a folder elsewhere.")


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def check_room(folder: Path, size: int, files: int = 0) -> None:
    """Refuse an export that does not fit. Raises OSError."""
    free = os.statvfs(folder)
    needed = size + files * free.f_frsize
    room = free.f_bavail * free.f_frsize
    if needed > room:
        raise OSError(errno.ENOSPC, f"The export needs {needed} bytes there, and {room} are free", str(folder))


def check_fits(folder: Path, files: Iterable[tuple[str, int]]) -> None:
    """Refuse files that a file system has no names or sizes for, each by its name. Raises MixfsError."""
    mount = mount_of(os.path.realpath(folder))
    kind = mount.kind if mount is not None else ""
    wrong = []
    for name, size in files:
        if kind in _FOUR_GIB and size >= 4 << 30:
            wrong.append(f"{name}: it has {size} bytes; 4 GiB are too much for {kind}")
        elif kind in _WINDOWS_NAMES and any(map(_NO_WINDOWS_NAME.search, name.split("/"))):
            wrong.append(f"{name}: {kind} has no such names")
    if wrong:
        more = f"\n… and {len(wrong) - _SHOWN_FILES} more" if len(wrong) > _SHOWN_FILES else ""
        raise MixfsError(
            f"Nothing was exported: {len(wrong)} files can't be written to {folder}. Choose another drive, or "
            f"`--format workflow-package`.\n" + "\n".join(wrong[:_SHOWN_FILES]) + more
        )


def write_original(blobs: LocalBlobs, digest: Digest, folder: Path, path: Path, missing: dict[str, str]) -> int | None:
    """Write an original to a new file below `folder`; returns its size.

    None, with the reason in `missing`, when it is not in the library or damaged there: that keeps back no other file.
    """
    size = 0
    try:
        with path.open("xb") as file:
            for chunk in blobs.chunks(digest):
                size += file.write(chunk)
    except (BlobMissing, BlobDamaged) as error:
        path.unlink()
        missing[str(path.relative_to(folder))] = str(error)
        return None
    return size


def size_of(sizes: Iterable[tuple[Digest, int]]) -> int:
    """Bytes of originals, each counted once."""
    return sum(dict(sizes).values())


def _explained(error: OSError, beside: Path) -> OSError:
    """An error of writing, with the reason where the system has none but a number."""
    words = {
        errno.EINVAL: "This file system has no such names. Nothing was exported",
        errno.EFBIG: "The file is too large for this file system. Nothing was exported",
        errno.ENOSPC: "The disk became full while the export was written. Nothing was exported",
    }.get(error.errno or 0)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if words is None or (name and not name.startswith(f"{beside}/")):
        return error
    shown = os.path.relpath(name, beside) if name else str(beside.parent)
    return OSError(error.errno, words, shown)


def publish_file(written: Path, target: Path) -> None:
    """Give a new file its name, unless somebody has taken that meanwhile. Raises ExistsError, OSError."""
    try:
        os.link(written, target)
        written.unlink()
    except FileExistsError:
        raise ExistsError(f"{target} exists: choose another name.") from None
    except OSError as error:
        # No hard links, as on a USB stick.
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(target):
            raise ExistsError(f"{target} exists: choose another name.") from None
        os.rename(written, target)
    fsync_directory(target.parent)


def flush(root: Path, folder: Path) -> None:
    """Have another disk than the library's write out what it holds back, which is when it finds that it can't.

    Raises OSError.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None or os.stat(root).st_dev == os.stat(folder).st_dev:
        return
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(fd)
