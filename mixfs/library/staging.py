"""Staging: where files are written before they are blobs, a directory for each process that it holds locked.

A directory whose lock can be had belongs to a process that is gone. What the mount left there is taken up again by
the next mount (`mixfs/vfs/staging.py` keeps a log beside the files); what an import or the Python API left is of no
use to anybody, because nothing was reported of it, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from mixfs.blobs import Intake
from mixfs.errors import LibraryReplaced
from mixfs.ids import new_id
from mixfs.journal.files import fsync_directory, make_directory_durably
from mixfs.modes import create_file

LOG, LOCK = "log", "lock"
_MOUNT = b"mount\n"


class StagingArea:
    """This process's directory below LIBRARY/staging/, made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / f"{os.getpid()}-{new_id()[-12:]}"
        self._lock_fd = -1
        # Importing threads ask at once, and flock on a second descriptor of one process waits for the first.
        self._opening = threading.Lock()

    def open(self) -> Path:
        """The directory, made and locked. Any thread may call it."""
        with self._opening:
            if self._lock_fd < 0:
                # Locked under a hidden name first: nobody may find the directory without its lock held, and sweep it.
                hidden = self.root / f".{self.directory.name}"
                make_directory_durably(hidden)
                fd = create_file(hidden / LOCK, os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                    os.rename(hidden, self.directory)
                    fsync_directory(self.root)
                except BaseException:
                    # Kept open it would hold the lock, and whoever tries again would wait for ever. Swept later.
                    os.close(fd)
                    self.directory = self.root / f"{os.getpid()}-{new_id()[-12:]}"
                    raise
                self._lock_fd = fd
        return self.directory

    def intake(self) -> Intake:
        """A new empty file to write into. Raises LibraryReplaced, OSError."""
        directory = self.open()
        self.require_in_place()
        return Intake(directory / new_id())

    def require_in_place(self) -> None:
        """Raise LibraryReplaced when the path of the open directory leads to another library's by now.

        A file that is made there would lie where no log tells of it.
        """
        try:
            there = os.stat(self.directory / LOCK)
            held = os.fstat(self._lock_fd)
            if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                return
        except FileNotFoundError:
            pass
        raise LibraryReplaced(
            f"{self.directory} is not the directory that was opened here: nothing is written. Put {self.root.parent} "
            "back where it was, or unmount it and open what lies there now."
        )

    def mark_as_mount(self) -> None:
        """Note that files here are taken up by the next mount, even if the log beside them is lost."""
        os.pwrite(self._lock_fd, _MOUNT, 0)

    def close(self, *, keep: bool = False) -> None:
        """Give the lock back; the directory goes too, unless `keep` (a mount that leaves files for the next one)."""
        if self._lock_fd < 0:
            return
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock_fd)
        self._lock_fd = -1


def abandoned(root: Path) -> Iterator[tuple[Path, int]]:
    """(directory, lock's file descriptor) of each process that is gone; held locked until the caller closes the fd."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith("."):
            # Just being made. One that a killed process left behind is empty and harmless.
            continue
        path = root / name
        with contextlib.suppress(OSError):
            fd = create_file(path / LOCK, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            yield path, fd


def is_of_mount(path: Path) -> bool:
    """Whether a directory is a mount's: it has a log, or its lock says so. Mounts of older releases only had a log."""
    try:
        return (path / LOG).exists() or (path / LOCK).read_bytes() == _MOUNT
    except FileNotFoundError:
        return False


def left_by_mounts(root: Path) -> int:
    """How many files lie in directories of mounts: of ended ones, while no mount is writable. Locks nothing."""
    count = 0
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            with contextlib.suppress(OSError):
                if is_of_mount(path):
                    count += sum(name not in (LOG, LOCK) and "." not in name for name in os.listdir(path))
    return count


def sweep(root: Path) -> None:
    """Remove what dead processes left that nobody will take up: directories of imports."""
    for path, fd in abandoned(root):
        if not is_of_mount(path):
            shutil.rmtree(path, ignore_errors=True)
        os.close(fd)
