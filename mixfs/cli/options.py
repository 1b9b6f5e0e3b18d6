"""Options that several commands share, and how they open the library."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.config import find_library

if TYPE_CHECKING:
    from mixfs.library.api import Library


# Of a path: the usual signs, and not even those of a URL or a connection string.
_SPECIAL = re.compile(r"[:=]")


def a_path(text: str) -> Path:
    """The parser of every path: typer's own path type looks at the file, which hangs below a hung mount."""
    # To Python an empty path is the working directory; to a script it is a variable that was never set.
    if not text:
        raise typer.BadParameter("the path is empty.")
    return Path(text)


def a_place(text: str) -> str:
    """The parser of what may be the URL of a server: a Path would take one of its slashes."""
    if not _SPECIAL.search(text):
        return str(a_path(text))
    from mixfs.errors import UsageError
    from mixfs.formats.source_urls import check_place, is_url

    try:
        check_place(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    return text if is_url(text) or text[:5].lower() == "file:" else str(a_path(text))


def a_length(text: str) -> float:
    """The parser of every length of time: a number that is not negative; inf is for ever."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not found >= 0:
        raise typer.BadParameter(f"{text!r} is no number from 0 on.")
    return found


LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        metavar="DIR", parser=a_path,
        help="The library's directory. Else MIXFS_LIBRARY, then config.toml, then $XDG_DATA_HOME/mixfs.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else, on stdout.")]


def existing_library(option: Path | None) -> Path:
    """The directory of the library that is meant. Raises NotALibrary when there is none."""
    from mixfs.errors import NotALibrary

    root = find_library(option)
    with opening(root):
        there = (root / "format").exists()
    if not there:
        raise NotALibrary(
            f"{root} is no MixFS library. Make one there with `mixfs import` or `mixfs mount`, or name another with "
            "--library, MIXFS_LIBRARY or config.toml."
        )
    return root


def open_library(option: Path | None, *, create: bool = False, read_only: bool = False) -> Library:
    """The library that is meant. Raises NotALibrary when there is none and `create` is False.

    With `read_only` nothing in it is changed, and no writer is waited for.
    """
    from mixfs.cli.output import note
    from mixfs.library import place
    from mixfs.library.api import Library

    place.say_waiting = note
    root = find_library(option) if create else existing_library(option)
    with opening(root):
        return Library.open(root, create=create, read_only=read_only)


@contextmanager
def opening(root: Path) -> Iterator[None]:
    """Says of an error of the system that the library could not be opened for it. Raises LibraryError."""
    from mixfs.errors import LibraryError, os_words

    try:
        yield
    except OSError as error:
        raise LibraryError(f"The library {root} can't be opened. {os_words(error)}") from error
