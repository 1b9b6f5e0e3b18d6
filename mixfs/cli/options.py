"""Options that several commands share, and how they open the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.config import find_library

if TYPE_CHECKING:
    from mixfs.library.api import Library

# `parser=Path` wherever a path is taken: typer's own path type looks at the file, which hangs below a hung mount.
LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        metavar="DIR", parser=Path,
        help="The library's directory. Else MIXFS_LIBRARY, then config.toml, then $XDG_DATA_HOME/mixfs.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else, on stdout.")]


def existing_library(option: Path | None) -> Path:
    """The directory of the library that is meant. Raises NotALibrary when there is none."""
    from mixfs.errors import NotALibrary

    root = find_library(option)
    if not (root / "format").exists():
        raise NotALibrary(
            f"{root} is no MixFS library. Make one there with `mixfs import` or `mixfs mount`, or name another with "
            "--library, MIXFS_LIBRARY or config.toml."
        )
    return root


def open_library(option: Path | None, *, create: bool = False) -> Library:
    """The library that is meant. Raises NotALibrary when there is none and `create` is False."""
    from mixfs.library.api import Library

    return Library.open(find_library(option) if create else existing_library(option), create=create)
