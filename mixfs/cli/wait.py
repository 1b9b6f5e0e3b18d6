"""`mixfs wait`: until everything that was copied into the mount is in the library."""

from __future__ import annotations

import errno
import json as json_module
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mixfs.cli.options import JsonOption, LibraryOption, a_path
from mixfs.cli.output import emit_json, plain, say


def wait(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(metavar="MOUNTPOINT", parser=a_path, help="Else where the library is mounted."),
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Wait until what was copied in is taken in and safe.

    Covers every file that was closed before the call. Files under temporary names (.part, .tmp, a leading dot, …) and
    empty ones go on waiting for a real name or for content: those are listed. Ctrl-C ends the wait and not the intake.
    Files that an earlier mount left and a read-only mount can't take in are counted; the exit code is 1 then.
    """
    from mixfs.daemon import mounts
    from mixfs.errors import MixfsError

    point = mounts.absolute(mountpoint) if mountpoint is not None else _mounted(library)
    answer = _imported(point)
    waiting = [str(name) for name in answer.get("waiting", [])]
    if left := answer.get("left_by_mounts"):
        raise MixfsError(
            f"{point} is mounted read-only, and files that an earlier mount left ({left}) wait in staging/ of the "
            "library. Mount it without -o ro: they are taken in then."
        )
    if json:
        emit_json({"mountpoint": point, "waiting": waiting})
        return
    if answer.get("read_only"):
        at = answer.get("writable_at")
        say(
            f"{point} is mounted read-only: nothing is copied in there."
            + (f" `mixfs wait {plain(at)}` waits for what is copied in at {plain(at)}." if at else "")
        )
        return
    say("Everything that was copied in is in the library." if not waiting else "In the library, all but these names:")
    for name in waiting:
        say(f"  {plain(name)}")


def _mounted(option: Path | None) -> str:
    from mixfs.cli.config import find_library
    from mixfs.daemon import mounts
    from mixfs.errors import MountError

    root = find_library(option)
    served = mounts.read_mounted(root)
    if served is None:
        raise MountError(f"{root} is not mounted. Name the mount point, or mount it with `mixfs mount MOUNTPOINT`.")
    return served.mountpoint


def _answer(path: str) -> dict[str, Any]:
    # Opened anew: the content of a file in .mixfs/ is that of the moment of its opening.
    with open(path, "rb") as file:
        answer: dict[str, Any] = json_module.loads(file.read() or b"{}")
    return answer


def _until_all_is_in(fd: int, path: str) -> None:
    """Ask until the answer is yes; what takes long is named, once each tenth of it."""
    told: dict[str, int] = {}
    try:
        while True:
            try:
                os.fsync(fd)
                return
            except BlockingIOError:
                for name, tenths, text in _long_files(path):
                    if told.get(name) != tenths:
                        told[name] = tenths
                        typer.echo(f"Taking in {text}", err=True)
    except KeyboardInterrupt:
        left = [text for _, _, text in _long_files(path)]
        typer.echo(f"Not in the library yet: {', '.join(left) or 'some files'}. The mount goes on with it.", err=True)
        raise


def _long_files(path: str) -> list[tuple[str, int, str]]:
    out = []
    for each in _answer(path).get("under_way", []):
        done, size = int(each["bytes"]), max(1, int(each["size"]))
        text = f"{plain(each['name'])} ({100 * done // size} % of {size:,} bytes)"
        out.append((each["name"], 10 * done // size, text))
    return out


def _imported(point: str) -> dict[str, Any]:
    """Have the daemon finish (fsync), then read what it says is left. Raises MountError."""
    from mixfs.daemon import mounts
    from mixfs.errors import LibraryReplaced, MixfsError, MountError, os_words

    path = os.path.join(point, ".mixfs", "imported")
    try:
        # Not to wait in the kernel for long, where nothing interrupts a program.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _until_all_is_in(fd, path)
        finally:
            os.close(fd)
        answer = _answer(path)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(f"The daemon of {point} is gone. `mixfs mount {point}` heals that.") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise MountError(f"{point} is no mount of MixFS: there is no {path}.") from error
        words = " ".join(f"{trouble['text']} {trouble['remedy']}" for trouble in mounts.troubles(point))
        raise MixfsError(f"Not everything could be taken in. {words or os_words(error)}") from error
    except ValueError as error:
        raise MountError(f"{path} makes no sense: {error}.") from error
    for trouble in mounts.troubles(point):
        if trouble["kind"] == "library-replaced":
            # Nothing waits, because nothing was accepted any more.
            raise LibraryReplaced(f"{trouble['text']} {trouble['remedy']}")
    return answer
