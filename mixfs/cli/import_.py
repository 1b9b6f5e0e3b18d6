"""`mixfs import`: files and folders into the library, without a mount."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, a_path, open_library
from mixfs.cli.output import count, emit_json, human_bytes, note, say

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    from mixfs.library.importing import ImportReport


def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", parser=a_path, help="Files and folders.")],
    session: Annotated[
        str | None, typer.Option("--session", metavar="TITLE", help="Put everything into the session of this title.")
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Import files and folders.

    A folder becomes a session of its name; a file by itself goes to the session Inbox. What is no picture is kept as a
    file of the session. The same file again changes nothing. Originals are copied and stay where they are.
    """
    began = time.monotonic()
    with open_library(library, create=True) as opened, _progress(paths, session) as progress:
        try:
            report = opened.import_paths(paths, session=session, progress=progress)
        except KeyboardInterrupt:
            note("interrupted. What was taken in so far is in the library; the same import again takes in the rest.")
            raise
    if json:
        emit_json(
            {
                "imported": report.imported,
                "deduplicated": report.deduplicated,
                "kept_as_files": report.kept_as_files,
                "failed": [{"path": failure.path, "reason": failure.reason} for failure in report.failed],
                "skipped": [{"path": failure.path, "reason": failure.reason} for failure in report.skipped],
                "bytes": report.bytes,
            }
        )
    else:
        _print(report, time.monotonic() - began)
    if report.failed:
        raise typer.Exit(1)


def _print(report: ImportReport, seconds: float) -> None:
    for failure in report.failed:
        note(f"{failure.path}: {failure.reason}")
    parts = [f"{count(report.imported, 'picture')} imported"]
    if report.deduplicated:
        parts.append(f"{report.deduplicated:,} known already")
    if report.kept_as_files:
        parts.append(f"{report.kept_as_files:,} kept as {'a file' if report.kept_as_files == 1 else 'files'}")
    if report.skipped:
        parts.append(f"{len(report.skipped):,} skipped (hidden, temporary, or no regular files)")
    if report.failed:
        parts.append(f"{len(report.failed):,} failed")
    say(f"{', '.join(parts)}: {human_bytes(report.bytes)} in {seconds:.1f} s")


@contextmanager
def _progress(paths: list[Path], session: str | None) -> Iterator[Callable[[ImportReport], None] | None]:
    """A progress bar on stderr; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("importing"), BarColumn(), MofNCompleteColumn(), _rate(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("import", total=None, bytes=0)
        stop = threading.Event()

        def look_ahead() -> None:
            total = _count_files(paths, session, stop)
            if total is not None:
                bar.update(task, total=total)

        counter = threading.Thread(target=look_ahead, daemon=True)
        counter.start()
        try:
            yield lambda report: bar.update(task, completed=report.files, bytes=report.bytes)
        finally:
            stop.set()
            counter.join()


def _count_files(paths: list[Path], session: str | None, stop: threading.Event) -> int | None:
    """How many files there are to import, counted beside the import; None when it was over first."""
    from mixfs.library.importing import ImportReport, find_jobs

    total = 0
    for _ in find_jobs(paths, session, ImportReport()):
        total += 1
        if stop.is_set():
            return None
    return total


def _rate() -> ProgressColumn:
    """Files and megabytes a second since the beginning."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            seconds = task.elapsed or 0
            if seconds < 0.1:
                return Text("")
            files, size = task.completed / seconds, task.fields["bytes"] / seconds
            return Text(f"{files:.0f} files/s  {size / 1e6:.1f} MB/s")

    return Rate()
