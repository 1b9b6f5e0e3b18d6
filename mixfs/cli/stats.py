"""`mixfs stats`: totals of the library."""

from __future__ import annotations

from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import emit_json, fields, human_bytes


def stats(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Count what is in the library."""
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
            ("Saved", f"{human_bytes(totals.saved_bytes)} by keeping each original once"),
        )
    )
