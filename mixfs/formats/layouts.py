"""Every layout that MixFS reads, and which one a path is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mixfs.errors import UsageError
from mixfs.formats import gallery, koda, outputs, storage_v2, workflow_package
from mixfs.formats.base import Format, Options, Report
from mixfs.formats.koda_tables import is_url, local
from mixfs.formats.taking import Progress, Taking
from mixfs.library.api import Library
from mixfs.library.importing import refuse_own

FORMATS: tuple[Format, ...] = (workflow_package, storage_v2, gallery, koda, outputs)


def detect(place: Path | str) -> Format | None:
    """The layout of a file or folder, by its content; None for plain files and folders, and what can't be read.

    The URL of a server is a Koda database's.
    """
    if is_url(str(place)):
        return koda
    path = Path(local(str(place)))
    for layout in FORMATS:
        try:
            if layout.detect(path):
                return layout
        except OSError:
            # Who imports it as files says what is wrong with it.
            return None
    return None


def within(path: Path) -> Iterator[tuple[Path, Format]]:
    """What below a folder, or the folder or file itself, is in a layout: the outermost of each, and every package."""
    layout = detect(path)
    if layout is not None:
        yield path, layout
    if not path.is_dir():
        return
    for child in sorted(path.iterdir()):
        if layout is None:
            yield from within(child)
        elif child.is_dir():
            yield from ((found, kind) for found, kind in within(child) if kind is workflow_package)
        elif detect(child) is workflow_package:
            yield child, workflow_package


def named(name: str) -> Format:
    """The layout of a name. Raises UsageError."""
    for layout in FORMATS:
        if name == layout.NAME:
            return layout
    raise UsageError(f"There is no layout {name!r}. There are: {', '.join(layout.NAME for layout in FORMATS)}.")


def import_layout(
    library: Library, layout: Format, path: Path | str, options: Options | None = None, *, dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Import a source of a layout. Never raises for what it holds: the report says what was taken and what was not.

    With `dry_run` nothing is written. Raises UnsuitablePlace for a path in the library or its mount.
    """
    location = local(str(path))
    if not is_url(location):
        location = os.path.abspath(location)
        refuse_own(library, Path(location))
    return Taking(library, layout, location, options or Options(), dry_run=dry_run, progress=progress).run()
