"""Where a library may lie: its directory, its format file, its lock, and what it is refused on."""

from __future__ import annotations

import fcntl
import os
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mixfs.errors import FormatTooNew, LibraryReplaced, NotALibrary, UnsuitablePlace
from mixfs.ids import ReplicaId, new_id, new_replica_id
from mixfs.journal.files import make_directory_durably, write_durably
from mixfs.modes import create_file
from mixfs.mountinfo import mount_of

FORMAT_VERSION = 1

_DIRECTORIES = ("blobs", "journal", "staging", "thumbnails", "quarantine", "lost")

# mmap and flock are not to be trusted there.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "fuse.sshfs", "fuse.rclone"}
_NETWORK |= {"fuse.mixfs", "fuse.s3fs", "fuse.glusterfs", "ncpfs", "lustre"}


@dataclass(frozen=True, slots=True)
class Format:
    """The format file: TOML with the format's version, the library's id, and this replica's."""

    version: int
    library_id: str
    replica: ReplicaId
    bound_to: str


def filesystem_type(path: Path) -> str:
    """The type of the file system that holds `path`, as /proc/self/mountinfo names it ("" when unknown)."""
    mount = mount_of(os.path.realpath(path))
    return mount.kind if mount is not None else ""


def check_suitable(root: Path) -> None:
    """Raise UnsuitablePlace where locks or memory maps can't be trusted."""
    existing = root
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    kind = filesystem_type(existing)
    if kind in _NETWORK:
        raise UnsuitablePlace(
            f"{root} lies on a file system of type {kind}, where locks and memory maps can't be trusted. "
            "Choose a directory on a local disk with --library."
        )


def _binding(root: Path) -> str:
    """What a replica's id is bound to: this machine and this directory. A copied library differs in one of them."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return f"{machine or os.uname().nodename}:{root.stat().st_ino}"


def read_format(root: Path) -> Format:
    """The format file of a library. Raises NotALibrary and FormatTooNew."""
    path = root / "format"
    try:
        data = tomllib.loads(path.read_text())
        version = int(data["version"])
        library_id = str(data["library"])
        replica, bound_to = ReplicaId(bytes.fromhex(data["replica"]["id"])), str(data["replica"]["bound_to"])
    except FileNotFoundError:
        raise NotALibrary(f"{root} is no MixFS library: it has no file named format.") from None
    except (KeyError, ValueError, TypeError) as error:
        raise NotALibrary(f"{path} can't be understood ({error}). Restore it from a backup.") from error
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"{root} has format {version}, made by a newer MixFS; this one reads up to {FORMAT_VERSION}. "
            "Install a newer MixFS."
        )
    return Format(version, library_id, replica, bound_to)


def _write_format(root: Path, form: Format) -> None:
    text = (
        "# MixFS library. Don't edit.\n"
        f'version = {form.version}\nlibrary = "{form.library_id}"\n\n'
        f'[replica]\nid = "{form.replica.hex()}"\nbound_to = "{form.bound_to}"\n'
    )
    write_durably(root / "format", text.encode())


def _is_leftover(path: Path) -> bool:
    if path.name in ("lock", "staging") or (path.name.startswith(".format.") and path.name.endswith(".new")):
        return True
    return path.name in _DIRECTORIES and path.is_dir() and not any(path.iterdir())


def create(root: Path) -> None:
    """Make an empty library in `root`, which may be an empty directory. Nothing happens to one that is there."""
    check_suitable(root)
    if (root / "format").exists():
        return
    if root.exists() and not root.is_dir():
        raise NotALibrary(f"{root} is a file: choose a directory for the library.")
    # What a killed `create` left behind is no obstacle: the directories of a library with nothing in them.
    if root.exists() and not all(_is_leftover(root / name) for name in os.listdir(root)):
        raise NotALibrary(f"{root} is no MixFS library and not empty: choose an empty directory for a new library.")
    make_directory_durably(root)
    os.chmod(root, 0o700)
    for name in _DIRECTORIES:
        make_directory_durably(root / name)
    with FileLock(root / "lock"):
        if not (root / "format").exists():
            _write_format(root, Format(FORMAT_VERSION, new_id(), new_replica_id(), _binding(root)))


def bind(root: Path) -> Format:
    """The format, after a copied or moved library was given a replica id of its own. Call under the lock."""
    form = read_format(root)
    binding = _binding(root)
    if form.bound_to != binding:
        form = Format(form.version, form.library_id, new_replica_id(), binding)
        _write_format(root, form)
    return form


class Identity:
    """Which directories a library was opened in: a path may lead to others later.

    That happens when a backup is put in their place, a symbolic link is switched, or a new library is made at an old
    path. What is open still leads to the old ones then, and every path to the new ones.
    """

    def __init__(self, root: Path, form: Format) -> None:
        self._root = root
        self._form = form
        self._paths = (root, *(root / name for name in ("blobs", "journal")))
        self._inodes = [_inode(path) for path in self._paths]
        self._format_status = _changed(root / "format")

    def check(self) -> None:
        """Raise LibraryReplaced when a path leads elsewhere by now, or the format file is another library's."""
        for path, inode in zip(self._paths, self._inodes, strict=True):
            try:
                found = _inode(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise self._replaced(path, error.strerror or "it is gone") from error
            if found != inode:
                raise self._replaced(path, "another directory lies there now")
        path = self._root / "format"
        try:
            status = _changed(path)
            if status != self._format_status:
                form = read_format(self._root)
                if (form.library_id, form.replica) != (self._form.library_id, self._form.replica):
                    raise self._replaced(path, "it is another library's, or another copy's")
                self._format_status = status
        except (FileNotFoundError, NotADirectoryError, NotALibrary) as error:
            raise self._replaced(path, str(error)) from error

    def _replaced(self, path: Path, what: str) -> LibraryReplaced:
        return LibraryReplaced(
            f"{path} is not what was opened here: {what}. Nothing is written to it. Put the directory back where it "
            f"was, or close (unmount) the library and open what lies in {self._root} now."
        )


def _inode(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _changed(path: Path) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# How long a lock is waited for before it is said who has it, and where that is said: the command line and the daemon
# put their own there.
PATIENCE_S = 3.0
say_waiting: Callable[[str], object] = len


def lock_holder(path: Path) -> str:
    """The process that holds a `flock` on the file, in words; empty when nobody does, or where that can't be told."""
    try:
        inode = os.stat(path).st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    for fields in map(str.split, lines):
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return _process_words(fields[4])
    return ""


def _process_words(pid: str) -> str:
    """Not its whole command line, in which there may be a password."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "backslashreplace").split("\0")
        is_stopped = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return f"process {pid}"
    at = next((at for at, word in enumerate(words) if word.rpartition("/")[2] in ("mixfs", "mixfs.daemon")), 0)
    name = " ".join([words[at].rpartition("/")[2], *words[at + 1 : at + 2]]) if at or "mixfs" in words[0] else words[0]
    suspended = f", which is suspended (`kill -CONT {pid}` lets it go on)" if is_stopped else ""
    return f"process {pid} ({name}){suspended}"


class FileLock:
    """`flock` on a file: held by one process, and in it by one thread. Freed by the kernel when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._thread = threading.Lock()

    def __enter__(self) -> FileLock:
        self._thread.acquire()
        try:
            if self._fd < 0:
                self._fd = create_file(self._path, os.O_RDWR)
            self._wait()
        except BaseException:
            self._thread.release()
            raise
        return self

    def _wait(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        telling = threading.Timer(PATIENCE_S, self._tell)
        telling.daemon = True
        telling.start()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        finally:
            telling.cancel()

    def _tell(self) -> None:
        if holder := lock_holder(self._path):
            say_waiting(f"The library {self._path.parent} is being written to by {holder}. Waiting for that …")

    def is_held(self) -> bool:
        """Whether somebody writes now. Takes nothing and makes nothing."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._thread.release()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
