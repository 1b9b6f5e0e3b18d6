"""`mixfs gc`: trash expires, and originals that nothing references go to lost/ and from there for good."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.config import FOREVER_DAYS
from mixfs.cli.config import trash_days as configured_trash_days
from mixfs.cli.options import JsonOption, LibraryOption, a_length, open_library
from mixfs.cli.output import confirmed, count, emit_json, human_bytes, note, say
from mixfs.errors import UsageError

if TYPE_CHECKING:
    from mixfs.library.gc import Freed

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
# With less than this, pictures that were deleted a moment ago by mistake may be what is moved.
_ASK_BELOW_HOURS = 1.0


def gc(
    library: LibraryOption = None,
    dry_run: DryRunOption = False,
    trash_days: Annotated[
        float | None,
        typer.Option(
            "--trash-days", metavar="DAYS", parser=a_length,
            help="Keep deletions in the trash, and then originals in lost/, this long. Below an hour, say what would "
            "be deleted for good and ask. Else `trash_days = …` of config.toml, else 30.",
            show_default=False,
        ),
    ] = None,
    grace_hours: Annotated[
        float,
        typer.Option(
            "--grace-hours", metavar="HOURS", parser=a_length,
            help="Keep unreferenced originals in place this long. Below 1, say what would be done and ask.",
        ),
    ] = 24,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="The clock is right: don't wait a day after it jumped.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Empty the trash of what was deleted more than 30 days ago.

    Originals that no session, canvas, generation or trash references any more move to lost/ in the library, each with
    a note of all that was known of it, and are deleted 30 days later. `mixfs fsck --adopt-lost` takes them back. While
    part of the journal is missing or damaged nothing is moved or deleted, and the exit code is 5. May run while the
    library is mounted; a mounted library does it once a day by itself.

    Nothing expires within a day of a jump of the clock by more than a day.
    """
    from mixfs.library import gc as collecting

    days = configured_trash_days() if trash_days is None else min(trash_days, FOREVER_DAYS)
    with open_library(library) as opened:
        if trust_clock and not dry_run:
            opened.store.steadiness.trust()
        waits = opened.store.steadiness.words()
        hasty = grace_hours < _ASK_BELOW_HOURS or days * 24 < _ASK_BELOW_HOURS
        if hasty and not (dry_run or yes):
            would = collecting.collect(opened, trash_days=days, grace_hours=grace_hours, dry_run=True)
            if grace_hours < _ASK_BELOW_HOURS or would.deleted:
                _ask(would)
        freed = collecting.collect(opened, trash_days=days, grace_hours=grace_hours, dry_run=dry_run)
    if json:
        emit_json(asdict(freed) | {"dry_run": dry_run})
        return
    if waits:
        say(waits)
    for line in _lines(freed, would=dry_run):
        say(line)
    if freed.blobs and not dry_run:
        say("`mixfs fsck --adopt-lost` takes them back.")


def _ask(would: Freed) -> None:
    """Go on only if the user says so. Raises UsageError where there is nobody to ask."""
    lines = _lines(would, would=True)
    if not sys.stdin.isatty():
        raise UsageError(f"{' '.join(lines)} Say --yes to do it: so short a time is asked about first.")
    for line in lines:
        note(line)
    if not confirmed("Do it?"):
        note("Nothing was changed.")
        raise typer.Exit(1)


def _lines(freed: Freed, *, would: bool) -> list[str]:
    """What was done, or would be, in a sentence each."""

    def did(past: str, verb: str) -> str:
        return f"Would {verb}" if would else past

    names = f", with {count(freed.receipts, 'name')} in import/" if freed.receipts else ""
    out = [f"{did('Moved', 'move')} {count(freed.blobs, 'original')} ({human_bytes(freed.bytes)}) to lost/{names}."]
    if freed.trash:
        out.append(f"{did('Forgot', 'forget')} {count(freed.trash, 'expired deletion')}.")
    if freed.deleted:
        gone = f"{count(freed.deleted, 'original')} ({human_bytes(freed.deleted_bytes)})"
        out.append(f"{did('Deleted', 'delete')} {gone} in lost/ for good.")
    if freed.returned:
        out.append(f"{did('Brought', 'bring')} {count(freed.returned, 'original')} back from lost/.")
    return out
