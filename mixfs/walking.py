"""Walking folders that somebody else filled, however deep: each is listed once, and no link is followed to one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from mixfs.names import is_temporary

Kind = Literal["folder", "file", "link", "other", "temporary", "own", "unlisted", "unseen"]


class Seen(NamedTuple):
    """Something in a folder. `link` is a link to a file; `temporary` a name that is left out; `own` a folder that is.

    `unlisted` is a folder once more, which could not be listed; `unseen` what could not be looked at.
    """

    path: str
    name: bytes
    kind: Kind
    depth: int
    error: OSError | None = None


def walk(top: Path | str, own: frozenset[str] = frozenset()) -> Iterator[Seen]:
    """A folder or file and all that is below it, in order of the names' bytes, a folder before what is in it.

    The folders `own` (real paths) are not entered, nor those with hidden and temporary names. A folder is listed when
    the next one is asked for.
    """
    top = os.fspath(top)
    left_out = barred(top, own)
    kind: Kind = "file" if os.path.isfile(top) else "folder" if os.path.isdir(top) else "other"
    waiting = [Seen(top, os.fsencode(os.path.basename(top)), "own" if top in left_out else kind, 0)]
    while waiting:
        seen = waiting.pop()
        yield seen
        if seen.kind == "folder":
            waiting += _listed(seen, left_out)


def barred(top: Path | str, own: frozenset[str]) -> set[str]:
    """The folders `own` (real paths) by their paths below a top, which is itself among them when it is one."""
    top = os.fspath(top)
    # Below the top no link is followed, so that only its own path need be resolved.
    real = os.path.realpath(top)
    below = f"{real.rstrip('/')}/"
    within = {os.path.join(top, each[len(below) :]) for each in own if each.startswith(below)}
    return within | ({top} if real in own else set())


def _listed(folder: Seen, left_out: set[str]) -> list[Seen]:
    """What is in a folder, the last first."""
    try:
        with os.scandir(folder.path) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name), reverse=True)
    except OSError as error:
        return [folder._replace(kind="unlisted", error=error)]
    return [_seen(entry, folder.depth + 1, left_out) for entry in entries]


def _seen(entry: os.DirEntry[str], depth: int, left_out: set[str]) -> Seen:
    name = os.fsencode(entry.name)
    if is_temporary(name):
        return Seen(entry.path, name, "temporary", depth)
    kind: Kind = "other"
    try:
        if entry.is_dir(follow_symlinks=False):
            kind = "own" if entry.path in left_out else "folder"
        elif entry.is_file():
            kind = "link" if entry.is_symlink() else "file"
    except OSError as error:
        return Seen(entry.path, name, "unseen", depth, error)
    return Seen(entry.path, name, kind, depth)
