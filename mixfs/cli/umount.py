"""`mixfs umount`: take the mount away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import LibraryOption, a_path
from mixfs.cli.output import note, plain, say

if TYPE_CHECKING:
    from mixfs.mountinfo import Mount

# What is being taken in is finished first; a big import on a slow disk takes its time.
PATIENCE_S = 10
LIMIT_S = 600


def umount(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=a_path, help="Where it is mounted.")],
    lazy: Annotated[
        bool, typer.Option("--lazy", "-z", help="Take it away at once; who uses it keeps it until they are done.")
    ] = False,
    library: LibraryOption = None,
) -> None:
    """Unmount, and wait until the daemon is gone.

    When the mount is in use, or bound to another place, names the processes and places and changes nothing.
    """
    from mixfs.cli.config import find_library
    from mixfs.daemon import mounts
    from mixfs.errors import MountError
    from mixfs.mountinfo import mount_at

    point = mounts.absolute(mountpoint)
    there = mount_at(point)
    if there is None:
        listed = ", ".join(mount.mountpoint for mount in mounts.mixfs_mounts())
        raise MountError(
            f"{point} is not mounted. " + (f"MixFS is mounted at {listed}." if listed else "Nothing of MixFS is.")
        )
    if there.kind != mounts.KIND:
        raise MountError(f"{point} is a mount of type {there.kind}, not of MixFS: it is left alone.")
    # Asked before it is unmounted: the daemon takes the note of it away.
    served = mounts.find_daemon(point) or mounts.read_mounted(find_library(library))
    if served is not None and mounts.absolute(served.mountpoint) != point:
        served = None
    state = mounts.answer(point)
    if state is mounts.Answer.HUNG and not lazy:
        remedy = f"`mixfs umount --lazy {shlex.quote(point)}` unmounts it"
        raise MountError(f"The daemon of {point} does not answer. {remedy}.")
    if lazy or state is mounts.Answer.STALE:
        mounts.lazy_unmount(point)
        if bound := mounts.bound_elsewhere(there):
            note(f"it is still mounted at {plain(', '.join(bound))}; its daemon ends when that is unmounted")
        say(f"{plain(point)} is unmounted" + (": its daemon was gone" if state is mounts.Answer.STALE else ""))
        return
    _check_bound(there)
    words = mounts.unmount(point)
    if words:
        raise MountError(_why_not(point, words))
    if served is not None and not _wait_gone(served.pid, there):
        raise MountError(f"{point} is unmounted, but its daemon, process {served.pid}, is still at work.")
    say(f"{plain(point)} is unmounted")


def _check_bound(there: Mount) -> None:
    """Raise MountError while the mount is shown elsewhere: its daemon would go on serving that."""
    from mixfs.daemon import mounts
    from mixfs.errors import MountError

    bound = mounts.bound_elsewhere(there)
    if bound:
        raise MountError(
            f"{there.mountpoint} can't be unmounted: it is also mounted at {', '.join(bound)} (a bind mount). Unmount "
            f"that first; or `mixfs umount --lazy {shlex.quote(there.mountpoint)}` takes only {there.mountpoint} away."
        )


def _wait_gone(pid: int, there: Mount) -> bool:
    from mixfs.daemon import mounts
    from mixfs.errors import MountError

    if mounts.wait_gone(pid, PATIENCE_S):
        return True
    # One that was made meanwhile, or that holds a copy of the mount in another namespace.
    bound = mounts.bound_elsewhere(there)
    if bound:
        raise MountError(
            f"{there.mountpoint} is unmounted, but its daemon, process {pid}, still serves {', '.join(bound)}. Unmount "
            "that to end it."
        )
    note(f"the daemon, process {pid}, finishes what was copied in …")
    return mounts.wait_gone(pid, LIMIT_S)


def _why_not(point: str, words: str) -> str:
    from mixfs import mountinfo
    from mixfs.daemon import mounts

    inside = [mount.mountpoint for mount in mountinfo.mounts() if mount.mountpoint.startswith(point + "/")]
    if inside:
        return f"{point} can't be unmounted: {inside[-1]} is mounted in it. Unmount that first."
    held = mounts.holders(point)
    if not held and "busy" not in words:
        return f"{point} can't be unmounted: {words}."
    remedy = f"`mixfs umount --lazy {shlex.quote(point)}` unmounts it when they are done."
    if not held:
        return f"{point} is in use, by a process that you may not look into. {remedy}"
    listed = "; ".join(f"{holder.name} (process {holder.pid}) has {holder.what}" for holder in held[:10])
    more = f"; and {len(held) - 10} more" if len(held) > 10 else ""
    return f"{point} is in use: {listed}{more}. Close them or leave the folder; or {remedy}"
