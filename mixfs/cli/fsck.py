"""`mixfs fsck`: is everything as it was written?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import typer

from mixfs.cli.options import JsonOption, LibraryOption, existing_library
from mixfs.cli.output import count, emit_json, human_bytes, note, plain, say

DAMAGED = 5


def fsck(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Check the library and change nothing.

    Every original is read and compared with its SHA-256, every item of the journal with its checksum, and the index
    with the journal. May run while the library is mounted. Exit code 0 only when all is well, else 5.
    """
    from mixfs.library import fsck as checking

    root = existing_library(library)
    with _progress() as progress:
        report = checking.check(root, progress)
    if json:
        emit_json(
            {
                "clean": report.clean, "library": str(root), "blobs": report.blobs, "blob_bytes": report.blob_bytes,
                "commits": report.commits, "rows": report.rows,
                "problems": [asdict(problem) for problem in report.problems], "notes": report.notes,
            }
        )  # fmt: skip
    else:
        for problem in report.problems:
            note(f"{problem.where}: {problem.reason} {problem.remedy}")
        for text in report.notes:
            say(plain(text))
        looked = (
            f"{count(report.blobs, 'original')} ({human_bytes(report.blob_bytes)}), {count(report.commits, 'commit')} "
            f"and {count(report.rows, 'row')} of the index checked"
        )
        say(f"{looked}: " + ("all is well" if report.clean else count(len(report.problems), "problem")))
    if not report.clean:
        raise typer.Exit(DAMAGED)


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
