"""`mixfs compact`: a shorter journal that says the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mixfs.cli.config import FOREVER_DAYS
from mixfs.cli.options import JsonOption, LibraryOption, a_length, open_library
from mixfs.cli.output import emit_json, human_bytes, say


def compact(
    library: LibraryOption = None,
    keep_days: Annotated[
        float,
        typer.Option(
            "--keep-days", metavar="DAYS", parser=a_length, help="How far back every single change stays known."
        ),
    ] = 90,
    json: JsonOption = False,
) -> None:
    """Rewrite the journal without superseded changes.

    Pictures, sessions and the trash stay as they are. `mixfs log` forgets what was changed again since, where that is
    longer ago than --keep-days. What is written is compared with the library before it counts; cut short, nothing is
    changed. While that goes on, other programs can read, and wait to write.
    """
    from mixfs.library import compaction

    with open_library(library) as opened:
        done = compaction.compact(opened, keep_days=min(keep_days, FOREVER_DAYS))
    if json:
        emit_json(asdict(done))
        return
    say(
        f"The journal had {done.changes_before:,} changes in {human_bytes(done.bytes_before)}, and has "
        f"{done.changes_after:,} in {human_bytes(done.bytes_after)}."
    )
