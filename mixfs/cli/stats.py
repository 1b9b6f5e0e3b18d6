"""`mixfs stats`: totals of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import emit_json, fields, human_bytes, one_line, table
from mixfs.errors import UsageError


def stats(
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="WHAT", help="Count files by model, day, type, session or size (in pixels)."),
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Count what is in the library."""
    if by is not None:
        _by(by, library, json)
        return
    with open_library(library, read_only=True) as opened:
        totals, root = opened.stats(), opened.root
    if json:
        emit_json(totals._asdict())
        return
    fields(
        (
            ("Library", root),
            ("Sessions", f"{totals.sessions:,}"),
            ("Images", f"{totals.images:,}"),
            ("Placements", f"{totals.placements:,} (pictures and files in sessions)"),
            ("Generations", f"{totals.generations:,}"),
            ("Originals kept", f"{totals.blobs:,}, {human_bytes(totals.blob_bytes)}"),
            ("In lost/", f"{totals.lost:,}, {human_bytes(totals.lost_bytes)}" if totals.lost else None),
            ("Saved", f"{human_bytes(totals.saved_bytes)} by keeping each original once"),
        )
    )


def _by(what: str, library: Path | None, json: bool) -> None:
    from mixfs.library import catalogue

    if what not in catalogue.GROUPS:
        raise UsageError(f"Nothing is counted by {what!r}. There are: {', '.join(catalogue.GROUPS)}.")
    with open_library(library, read_only=True) as opened, opened.read() as view:
        groups = catalogue.groups(view, what)
    if json:
        emit_json([{what: group.name or None, "files": group.files, "bytes": group.bytes} for group in groups])
        return
    table(
        (what.upper(), "FILES", "SIZE"),
        ((one_line(group.name) or "(unknown)", f"{group.files:,}", human_bytes(group.bytes)) for group in groups),
        right=(1, 2),
    )
