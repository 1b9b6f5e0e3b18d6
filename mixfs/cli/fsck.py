"""`mixfs fsck`: is everything as it was written?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, existing_library, open_library
from mixfs.cli.output import confirmed, count, emit_json, human_bytes, note, plain, say
from mixfs.errors import UsageError

if TYPE_CHECKING:
    from mixfs.library.accepting import Acceptance
    from mixfs.library.lost import Adoption
    from mixfs.library.repairing import Repaired

DAMAGED = 5


def fsck(
    library: LibraryOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended: the index; originals that have a copy.")
    ] = False,
    copies: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", metavar="DIR", exists=True,
            help="With --repair: where copies of damaged originals may be; files are told by their SHA-256.",
        ),
    ] = None,
    adopt_lost: Annotated[
        bool,
        typer.Option(
            "--adopt-lost",
            help="Take all originals back from lost/, into the session Recovered, under their last names.",
        ),
    ] = False,
    give_up: Annotated[
        list[str] | None,
        typer.Option(
            "--give-up", metavar="DIGEST",
            help="Stop reporting this original, which is missing or damaged; importing the file again brings it back.",
        ),
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="List what is missing from the journal and what has lost its place, and ask whether to accept that; "
            "gc works again then.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --accept-loss: do not ask.")] = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Check the library, and change nothing unless told to.

    Every original is read and compared with its SHA-256, every item of the journal with its checksum, and the index
    with the journal. May run while the library is mounted. Exit code 0 only when all is well (after --repair: again),
    5 when damage was found, 1 when something could not be checked.
    """
    from mixfs.library import accepting, healing, lost, repairing
    from mixfs.library import fsck as checking
    from mixfs.library.api import as_digest

    if copies and not repair:
        raise UsageError("--from names copies to repair from: say --repair too.")
    if yes and not accept_loss:
        raise UsageError("--yes answers what --accept-loss asks: say that too.")
    root = existing_library(library)
    repaired, adoption, given_up = None, None, {}
    acceptance = None
    if accept_loss:
        acceptance = accepting.accept_loss(root, (lambda found: True) if yes else _agrees)
        if acceptance.gaps and not acceptance.accepted:
            note("Nothing was accepted.")
            raise typer.Exit(1)
    if adopt_lost or give_up:
        digests = [as_digest(words) for words in give_up or ()]
        with open_library(root) as opened:
            adoption = lost.adopt(opened) if adopt_lost else None
            given_up = {digest.hex(): healing.give_up(opened, digest) for digest in digests}
    with _progress() as progress:
        if repair:
            repaired, report = repairing.repair(root, copies or [], progress)
        else:
            report = checking.check(root, progress)
    if json:
        emit_json(
            {
                "clean": report.clean, "library": str(root), "blobs": report.blobs, "blob_bytes": report.blob_bytes,
                "commits": report.commits, "rows": report.rows,
                "problems": [asdict(problem) for problem in report.problems], "notes": report.notes,
                **({"repaired": asdict(repaired)} if repaired is not None else {}),
                **({"lost": asdict(adoption)} if adoption is not None else {}),
                **({"given_up": given_up} if given_up else {}),
                **({"accepted": asdict(acceptance)} if acceptance is not None else {}),
            }
        )  # fmt: skip
    else:
        if acceptance is not None:
            _tell_accepted(acceptance)
        if adoption is not None:
            _tell_adopted(adoption)
        for digest, names in given_up.items():
            say(f"The original {digest} is given up. Reading it is an error:")
            for name in names:
                say(f"  {plain(name)}")
        if repaired is not None:
            _tell(repaired)
        for problem in report.problems:
            note(f"{problem.where}: {problem.reason} {problem.remedy}")
            for name in problem.affected:
                note(f"  affected: {name}")
        for text in report.notes:
            say(plain(text))
        looked = (
            f"{count(report.blobs, 'original')} ({human_bytes(report.blob_bytes)}), {count(report.commits, 'commit')} "
            f"and {count(report.rows, 'row')} of the index checked"
        )
        say(f"{looked}: " + ("all is well" if report.clean else count(len(report.problems), "problem")))
    if any(not problem.kind.endswith("-unchecked") for problem in report.problems):
        raise typer.Exit(DAMAGED)
    if not report.clean or (adoption is not None and adoption.failed):
        raise typer.Exit(1)


def _agrees(found: Acceptance) -> bool:
    """List what is lost, and ask. Raises UsageError where there is nobody to ask."""
    for gap in found.gaps:
        note(f"Lost: {plain(gap)}.")
    for session_id in found.sessions:
        note(f"The session {plain(session_id)} would be made again for what is left of it.")
    for name in found.moved:
        note(f"{plain(name)} would stand in images/: its folder is lost.")
    for line in _unplaced(found):
        note(line)
    if not sys.stdin.isatty():
        raise UsageError("Nothing was accepted: --accept-loss asks first. Say --yes to accept all that is listed.")
    return confirmed("Accept this loss?")


def _unplaced(acceptance: Acceptance) -> Iterator[str]:
    for found in acceptance.unplaced:
        yield f"Nothing references the original {found.digest} ({human_bytes(found.size)}): {plain(found.known)}."
    if acceptance.unplaced:
        yield "`mixfs gc` moves these originals to lost/; `mixfs fsck --adopt-lost` takes them from there."


def _tell_accepted(acceptance: Acceptance) -> None:
    for gap in acceptance.gaps:
        say(f"Accepted as lost: {plain(gap)}.")
    for name in acceptance.sessions:
        say(f"Made the session {plain(name)} again for what is left of it.")
    for name in acceptance.moved:
        say(f"{plain(name)} stands in images/ now: its folder is lost.")
    for line in _unplaced(acceptance):
        say(line)
    if not acceptance.gaps:
        say("The journal is whole: there is no loss to accept.")


def _tell_adopted(adoption: Adoption) -> None:
    for found in adoption.adopted:
        say(f"{found.digest[:12]} is {plain(f'{found.session}/{found.area}/{found.name}')} now.")
    if adoption.returned:
        say(f"Brought {count(len(adoption.returned), 'original')} back from lost/ that something references.")
    for digest, reason in adoption.failed.items():
        note(f"The original {digest} stays in lost/: {reason}")
    say(f"Took {count(len(adoption.adopted), 'original')} back from lost/.")


def _tell(repaired: Repaired) -> None:
    if repaired.index:
        say("The index was made again from the journal.")
    for kept in repaired.quarantined:
        say(f"A damaged original was moved to {plain(kept)}.")
    for digest in repaired.recorded:
        say(f"The size and the block sums of the original {digest} were recorded again.")
    if repaired.thumbnails:
        say(f"{count(repaired.thumbnails, 'damaged thumbnail')} removed.")
    for digest in repaired.restored:
        say(f"The original {digest} is back.")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, where somebody sees it."""
    if not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("checking {task.description}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total or None)
