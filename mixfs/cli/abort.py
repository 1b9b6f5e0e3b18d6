"""`mixfs abort`: free whoever waits for a mount that hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixfs.cli.options import a_path
from mixfs.cli.output import plain, say


def abort(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=a_path, help="Where it is mounted.")],
) -> None:
    """Cut a mount that hangs off from its daemon.

    Every program that waits for it gets an error at once, and the daemon ends. What was copied in and closed is kept,
    and taken in when it is mounted again. For root, and for who mounted it.
    """
    from mixfs.daemon import mounts

    point = mounts.absolute(mountpoint)
    mounts.abort(point)
    say(f"{plain(point)} is cut off: programs that waited for it go on, with an error.")
