"""`mixfs gc`: what was deleted long ago goes for good."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mixfs.cli.config import FOREVER_DAYS
from mixfs.cli.config import trash_days as configured_trash_days
from mixfs.cli.options import JsonOption, LibraryOption, a_length, open_library
from mixfs.cli.output import count, emit_json, human_bytes, say

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


def gc(
    library: LibraryOption = None,
    dry_run: DryRunOption = False,
    trash_days: Annotated[
        float | None,
        typer.Option(
            "--trash-days", metavar="DAYS", parser=a_length,
            help="How long what was deleted is kept. Else `trash_days = …` of config.toml, else 30.",
            show_default=False,
        ),
    ] = None,
    grace_hours: Annotated[
        float,
        typer.Option(
            "--grace-hours", metavar="HOURS", parser=a_length, help="How long an original that nothing names is left."
        ),
    ] = 24,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="The clock is right: don't wait a day after it jumped.")
    ] = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Free what was deleted more than 30 days ago.

    Takes away trash that has expired, and originals that no session, canvas, generation or trash names any more. May
    run while the library is mounted; a mounted library does it once a day by itself.

    Nothing expires within a day of a jump of the clock by more than a day.
    """
    from mixfs.library import gc as collecting

    days = configured_trash_days() if trash_days is None else min(trash_days, FOREVER_DAYS)
    with open_library(library) as opened:
        if trust_clock and not dry_run:
            opened.store.steadiness.trust()
        waits = opened.store.steadiness.words()
        freed = collecting.collect(opened, trash_days=days, grace_hours=grace_hours, dry_run=dry_run)
    if json:
        emit_json(asdict(freed) | {"dry_run": dry_run})
        return
    what = f"{count(freed.blobs, 'original')} ({human_bytes(freed.bytes)})"
    also = [count(freed.trash, "expired deletion")] if freed.trash else []
    also += [f"{count(freed.receipts, 'name')} in import/"] if freed.receipts else []
    if waits:
        say(waits)
    say(f"{'Would free' if dry_run else 'Freed'} {what}" + (f", with {' and '.join(also)}." if also else "."))
