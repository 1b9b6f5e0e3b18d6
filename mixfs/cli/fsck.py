"""`mixfs fsck`: is everything as it was written?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, existing_library
from mixfs.cli.output import count, emit_json, human_bytes, note, plain, say
from mixfs.errors import UsageError

if TYPE_CHECKING:
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
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Check the library, and change nothing unless told to.

    Every original is read and compared with its SHA-256, every item of the journal with its checksum, and the index
    with the journal. May run while the library is mounted. Exit code 0 only when all is well (after --repair: again),
    else 5.
    """
    from mixfs.library import fsck as checking
    from mixfs.library import repairing

    if copies and not repair:
        raise UsageError("--from names copies to repair from: say --repair too.")
    root = existing_library(library)
    repaired = None
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
            }
        )  # fmt: skip
    else:
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
    if not report.clean:
        raise typer.Exit(DAMAGED)


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
