"""`mixfs mount`: show the library as folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mixfs.cli import launch
from mixfs.cli.config import find_library, log_file
from mixfs.cli.options import LibraryOption, a_path, opening
from mixfs.cli.output import note, plain, say
from mixfs.daemon import mounts

_OPENING = "the library is being opened; this may take a while …"


def mount(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=a_path, help="An empty or a new folder.")],
    library: LibraryOption = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay in the foreground, with the log on stderr.")
    ] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("-o", metavar="OPTIONS", help="Mount options, with commas: ro, allow_other, nonempty, …"),
    ] = None,
) -> None:
    """Mount the library.

    Returns when the mount answers; the daemon goes on in the background and logs to the state directory
    ($XDG_STATE_HOME/mixfs, else ~/.local/state/mixfs). A library is made where there is none. A mount that was left
    behind by a crash is taken away first.
    """
    from mixfs.errors import MountError, UsageError
    from mixfs.library import place
    from mixfs.mountinfo import mount_at

    root = find_library(library)
    point = mounts.absolute(mountpoint)
    wanted = [part for group in options or [] for part in group.split(",") if part]
    if any(not (part.isascii() and part.isprintable()) for part in wanted):
        raise UsageError("A mount option is made of plain characters: -o takes ro, allow_other, nonempty, …")
    read_only = "ro" in wanted
    # First of all: below a mount that hangs, nothing may be looked at.
    if _is_mounted(point, root):
        say(f"{plain(point)} shows {plain(str(root))} already.")
        return
    mounts.check_apart(point, str(root))
    problem = mounts.fuse_device_problem()
    if problem:
        raise MountError(problem)
    if "allow_other" in wanted and os.geteuid() != 0 and not mounts.user_allow_other():
        raise MountError(
            "allow_other is for root only here. Write the line user_allow_other into /etc/fuse.conf, or leave it out."
        )
    if not read_only:
        with opening(root):
            place.create(root)
        served = mounts.read_mounted(root)
        if served is not None and mount_at(served.mountpoint) is not None:
            raise MountError(
                f"{root} is mounted at {served.mountpoint} already (process {served.pid}). Unmount that first, or "
                "mount with `-o ro`."
            )
    with opening(root):
        place.read_format(root)
    mounts.check_mountpoint(point, nonempty="nonempty" in wanted)
    command = launch.daemon_command(root, point, wanted)
    if foreground:
        sys.stdout.flush()
        # In place of this process, so that a service manager watches the daemon itself.
        os.execv(command[0], [*command, "--foreground"])
    launch.start(command, log_file(root), lambda: _say_what_is_waited_for(root))
    say(f"{plain(str(root))} is mounted at {plain(point)}")


def _say_what_is_waited_for(root: Path) -> None:
    from mixfs.library import place

    holder = place.lock_holder(root / "lock")
    note(f"waiting for {holder}, which is writing to the library …" if holder else _OPENING)


def _is_mounted(point: str, root: Path) -> bool:
    """True when this library is mounted there; a stale mount is taken away. Raises MountError for any other mount."""
    from mixfs.errors import MountError
    from mixfs.mountinfo import mount_at

    there = mount_at(point)
    if there is None:
        return False
    if there.kind != mounts.KIND:
        if there.kind.startswith("fuse") and mounts.answer(point) is mounts.Answer.STALE:
            raise MountError(
                f"{point} is a {there.kind} mount whose program is gone. `fusermount3 -u -z {point}` takes it away."
            )
        # A file system that someone keeps for this: mounted over, if it is empty.
        return False
    match mounts.answer(point):
        case mounts.Answer.STALE:
            mounts.lazy_unmount(point)
            note(f"{point} was left behind by a daemon that is gone: unmounted it first.")
            return False
        case mounts.Answer.HUNG:
            raise MountError(
                f"A MixFS is mounted at {point} but does not answer. `mixfs abort {point}` frees who waits for it, and "
                f"`mixfs umount --lazy {point}` takes it away."
            )
        case _:
            # What was begun for this mount point is not its daemon.
            launch.cancel()
    served = mounts.read_mounted(root)
    if served is None or mounts.absolute(served.mountpoint) != point:
        served = mounts.find_daemon(point)
    if served is not None and os.path.realpath(served.library) == os.path.realpath(root):
        return True
    other = f"Another library, {served.library}," if served is not None else "Another library"
    raise MountError(f"{other} is mounted at {point}. `mixfs umount {point}` first, or choose another mount point.")
