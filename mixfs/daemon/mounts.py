"""What the kernel and /proc say of mounts: which there are, whether one answers, who holds one, who serves it.

Knows neither pyfuse3 nor trio: the command line asks here before any daemon runs, and after it died. Nothing here looks
at a file below a mount point without a limit in time: a mount whose daemon hangs would hang its caller.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from mixfs.errors import MountError, UnsuitablePlace, os_words
from mixfs.mountinfo import Mount, mount_at, mounts, parse_mountinfo
from mixfs.process import arguments_of, owner_of, start_of

KIND = "fuse.mixfs"
FUSE_CONF = Path("/etc/fuse.conf")
FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONTROL = Path("/sys/fs/fuse/connections")
_ANSWER_S = 5.0


class Served(NamedTuple):
    """A daemon and what it mounts."""

    pid: int
    mountpoint: str
    library: str


class Holder(NamedTuple):
    """A process that keeps a mount busy; `what` is a path below it."""

    pid: int
    name: str
    what: str


class Answer(Enum):
    """How a mount answers."""

    ALIVE = "alive"
    STALE = "stale"  # its daemon is gone
    HUNG = "hung"  # its daemon doesn't answer


# -- mounts


def mixfs_mounts() -> list[Mount]:
    """The mounts of MixFS that this process sees, stale ones too."""
    return [mount for mount in mounts() if mount.kind == KIND]


def absolute(path: str | os.PathLike[str]) -> str:
    """A mount point as mountinfo writes it: links above it resolved, and it alone never looked into."""
    whole = os.path.abspath(os.fspath(path))
    if mount_at(whole) is not None:
        return whole
    # Of os.path, which answers no where it may not look.
    if os.path.islink(whole):  # noqa: PTH114
        return os.path.realpath(whole)
    return os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))


def inside_mount(path: str) -> tuple[str, str] | None:
    """`(mount point, path below it)` of a path in a MixFS mount, or None. Touches nothing below a mount point."""
    whole = os.path.abspath(path)
    points = [mount.mountpoint for mount in mixfs_mounts()]
    # Links are followed one directory at a time, and only outside the mounts: everything in one is a file or folder.
    for _ in range(40):
        for point in points:
            if _is_below(whole, point):
                return point, whole[len(point) :].strip("/")
        link = _first_link(whole)
        if link is None:
            return None
        head, rest = link
        whole = os.path.normpath(os.path.join(os.path.dirname(head), Path(head).readlink(), rest))
    return None


def _first_link(path: str) -> tuple[str, str] | None:
    parts = path.strip("/").split("/")
    for i in range(1, len(parts) + 1):
        head = "/" + "/".join(parts[:i])
        if os.path.islink(head):  # noqa: PTH114
            return head, "/".join(parts[i:])
    return None


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")


# -- does it answer?


def answer(mountpoint: str, timeout_s: float = _ANSWER_S) -> Answer:
    """Ask a mount how it is, in bounded time.

    By statfs: the kernel asks the daemon for that each time, whereas stat is answered from its cache for hours.
    """
    found: list[Answer] = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            found.append(Answer.STALE if error.errno == errno.ENOTCONN else Answer.ALIVE)
        else:
            found.append(Answer.ALIVE)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else Answer.HUNG


def is_stale(mountpoint: str) -> bool:
    """True for a mount of MixFS whose daemon is gone: "Transport endpoint is not connected"."""
    mount = mount_at(mountpoint)
    return mount is not None and mount.kind == KIND and answer(mountpoint) is Answer.STALE


def troubles(mountpoint: str) -> list[dict[str, str]]:
    """What the daemon of a mount that answers says is wrong, as .mixfs/health.json has it."""
    try:
        health = json.loads((Path(mountpoint) / ".mixfs" / "health.json").read_bytes())
        return [{key: str(each[key]) for key in ("kind", "text", "remedy")} for each in health["problems"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


# -- unmounting


def _run_unmount(mountpoint: str, *, lazy: bool) -> str:
    """Unmount; returns what the tool complained of, "" when it worked."""
    fusermount = shutil.which("fusermount3")
    commands = [["umount", *(["-l"] if lazy else []), "--", mountpoint]] if os.geteuid() == 0 else []
    if fusermount is not None:
        commands.append([fusermount, "-u", *(["-z"] if lazy else []), "--", mountpoint])
    words = "neither umount nor fusermount3 can be run here"
    for command in commands:
        try:
            ran = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd="/", check=False)
        except OSError as error:
            words = str(error)
            continue
        if ran.returncode == 0:
            return ""
        words = " ".join(ran.stderr.split()) or f"{command[0]} failed"
        if not lazy:
            break
    return words


def unmount(mountpoint: str) -> str:
    """Unmount what nobody uses; returns the reason when it can't be, else ""."""
    return _run_unmount(mountpoint, lazy=False)


def lazy_unmount(mountpoint: str) -> None:
    """Take a mount out of the tree, whoever holds it. Raises MountError."""
    words = _run_unmount(mountpoint, lazy=True)
    if words:
        raise MountError(f"{mountpoint} can't be unmounted: {words}.")


def abort(mountpoint: str) -> None:
    """Abort the FUSE connection of a mount: who waits for it gets ENOTCONN. Raises MountError.

    Touches nothing of the mount, so it can't hang with it: the number of the connection stands in mountinfo.
    """
    there = mount_at(mountpoint)
    if there is None or there.kind != KIND:
        raise MountError(f"No MixFS is mounted at {mountpoint}.")
    control = FUSE_CONTROL / str(there.minor) / "abort"
    if not control.exists() and os.geteuid() == 0:
        subprocess.run(["mount", "-t", "fusectl", "none", FUSE_CONTROL], capture_output=True, check=False)
    try:
        control.write_text("1")
    except FileNotFoundError:
        raise MountError(
            f"There is no {control}: `mount -t fusectl none {FUSE_CONTROL}`, as root, makes it. To end the daemon "
            "frees them too: `kill -9` its process."
        ) from None
    except PermissionError:
        raise MountError(f"{mountpoint} was mounted by somebody else: only they and root may abort it.") from None


# -- who serves it, who holds it


def read_mounted(library: Path) -> Served | None:
    """What the daemon of a library wrote down when it mounted it; None when it runs no more."""
    path = library / "mounted"
    try:
        data, writer = json.loads(path.read_text()), path.stat().st_uid
        served = Served(int(data["pid"]), str(data["mountpoint"]), str(data.get("library", library)))
        started = data.get("started")
        if not library.samefile(served.library):
            # The file came with a copy of the library.
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A pid alone says little: after a crash another process may have the number.
    if not is_daemon(served.pid, {writer, 0}) or started not in (None, start_of(served.pid)):
        return None
    return served


def is_daemon(pid: int, owners: Collection[int]) -> bool:
    """Whether a process of one of these users is a MixFS daemon. Others may have any command line."""
    return owner_of(pid) in owners and "mixfs.daemon" in arguments_of(pid)


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def find_daemon(mountpoint: str) -> Served | None:
    """The daemon that serves a mount point: a process of the user who mounted it, with its command line and its device.

    A command line alone says nothing, since every user's processes may have it.
    """
    there = mount_at(mountpoint)
    if there is None or there.kind != KIND:
        return None
    for pid in _pids():
        # The user first: nothing of another's command line is looked up in the file system.
        if not is_daemon(pid, {there.user}) or not _has_device(pid, there):
            continue
        arguments = arguments_of(pid)
        named = _named(arguments, "--mountpoint")
        if named is not None and absolute(named) == mountpoint:
            return Served(pid, mountpoint, _named(arguments, "--library") or "")
    return None


def _has_device(pid: int, mount: Mount) -> bool:
    """Whether a process has the FUSE device of a mount open; True where that can't be looked at (another user's)."""
    base = f"/proc/{pid}"
    try:
        numbers = os.listdir(f"{base}/fd")
    except PermissionError:
        return True
    except OSError:
        return False
    for number in numbers:
        with contextlib.suppress(OSError):
            if Path(f"{base}/fd/{number}").readlink() != FUSE_DEVICE:
                continue
            connection = _fdinfo(Path(f"{base}/fdinfo/{number}").read_bytes(), b"fuse_connection")
            # Kernels before 6.18 don't tell of which mount it is.
            if connection is None or connection == mount.minor:
                return True
    return False


def _fdinfo(data: bytes, name: bytes) -> int | None:
    for line in data.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _named(arguments: list[str], option: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(option + "="):
            return argument[len(option) + 1 :]
    return None


def holders(mountpoint: str) -> list[Holder]:
    """Who keeps a mount busy: working directories, roots, open files and mapped files below it.

    Only processes that the caller may look into are seen: root sees all.
    """
    found = []
    for pid in sorted(_pids()):
        if pid == os.getpid():
            continue
        what = next((path for path in _used(pid) if _is_below(path, mountpoint)), None)
        if what is not None:
            try:
                name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
            except OSError:
                name = "?"
            found.append(Holder(pid, name, what))
    return found


def bound_elsewhere(mount: Mount) -> list[str]:
    """Where else a mount is shown: bind mounts of it or of a folder in it, also those of other processes (containers).

    While there is one, the daemon serves it, and unmounting the mount point does not end it. Only processes that the
    caller may look into are seen: root sees all.
    """
    found = [
        each.mountpoint for each in mounts() if each.device == mount.device and each.mountpoint != mount.mountpoint
    ]
    seen = {_namespace("self")}
    for pid in sorted(_pids()):
        namespace = _namespace(pid)
        if namespace is None or namespace in seen:
            continue
        seen.add(namespace)
        with contextlib.suppress(OSError):
            there = parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_bytes())
            found += [f"{each.mountpoint} of process {pid}" for each in there if each.device == mount.device]
    return found


def _namespace(pid: int | str) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return None


def _used(pid: int) -> Iterator[str]:
    base = f"/proc/{pid}"
    links = [f"{base}/cwd", f"{base}/root", f"{base}/exe"]
    with contextlib.suppress(OSError):
        links += [f"{base}/fd/{name}" for name in os.listdir(f"{base}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            yield str(Path(link).readlink())
    with contextlib.suppress(OSError):
        for line in Path(f"{base}/maps").read_bytes().split(b"\n"):
            _, slash, path = line.partition(b" /")
            if slash:
                yield os.fsdecode(b"/" + path)


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Wait until a process has ended; True when it has."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return not Path(f"/proc/{pid}").exists()
    try:
        ready, _, _ = select.select([fd], [], [], timeout_s)
        return bool(ready)
    finally:
        os.close(fd)


# -- before mounting


def check_apart(mountpoint: str, library: str) -> None:
    """Raise UnsuitablePlace when mount point and library lie inside each other."""
    point, root = absolute(mountpoint), os.path.realpath(library)
    if _is_below(point, root):
        raise UnsuitablePlace(f"The mount point {point} lies inside the library {root}. Choose another mount point.")
    if _is_below(root, point):
        raise UnsuitablePlace(
            f"The library {root} lies inside the mount point {point}, which would hide it. Choose another mount point."
        )


def check_mountpoint(mountpoint: str, *, nonempty: bool = False) -> None:
    """Make sure that there is an empty directory to mount on, made where its parent is there. Raises MountError."""
    try:
        names = os.listdir(mountpoint)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(mountpoint)):
            raise MountError(
                f"There is no folder {os.path.dirname(mountpoint)} to make the mount point in. Make it first, or "
                "choose another mount point."
            ) from None
        try:
            os.mkdir(mountpoint)
        except OSError as error:
            raise MountError(f"The mount point can't be made. {os_words(error)}") from None
        return
    except NotADirectoryError:
        raise MountError(f"{mountpoint} is a file: the mount point must be a directory.") from None
    except OSError as error:
        raise MountError(f"The mount point can't be looked into. {os_words(error)}") from None
    if names and not nonempty:
        raise MountError(
            f"{mountpoint} is not empty, and a mount would hide what is in it. Choose an empty directory, or say "
            "`-o nonempty`."
        )


def fuse_device_problem() -> str:
    """Why FUSE can't be used here, with the remedy; "" when it can."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "There is no /dev/fuse: load the module with `modprobe fuse`; a container needs --device /dev/fuse."
    except OSError as error:
        return f"/dev/fuse can't be opened: {error.strerror}. Your user needs read and write permission on it."
    return ""


def user_allow_other(conf: Path = FUSE_CONF) -> bool:
    """Whether users other than root may mount with allow_other."""
    try:
        return any(line.strip() == "user_allow_other" for line in conf.read_text().splitlines())
    except OSError:
        return False
