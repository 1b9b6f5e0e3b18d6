"""`mixfs import`: files, folders and what other programs keep their work in, into the library, without a mount."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixfs.cli.gc import DryRunOption
from mixfs.cli.options import JsonOption, LibraryOption, a_path, a_place, open_library
from mixfs.cli.output import count, emit_json, human_bytes, note, plain, say

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    from mixfs.formats.base import Format, Report
    from mixfs.formats.layouts import Watch
    from mixfs.library.api import Library
    from mixfs.library.importing import ImportReport


def import_(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", parser=a_place, help="Files and folders.")
    ],
    session: Annotated[
        str | None, typer.Option("--session", metavar="TITLE", help="Put everything into the session of this title.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--format", metavar="LAYOUT", help="The layout it is in; `files` looks at none. Else by content."),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what a workflow package names by URL.")] = False,
    fetch_private: Annotated[
        bool, typer.Option("--fetch-private", help="Also from addresses that are not public.")
    ] = False,
    rewrite: Annotated[
        Path | None,
        typer.Option(
            "--rewrite", metavar="OUT", parser=a_path, help="Write a gallery's JSON anew, without pictures in it."
        ),
    ] = None,
    dry_run: DryRunOption = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Import files and folders, and the layouts of other programs.

    A folder becomes a session of its name; a file by itself goes to the session Inbox. What is no picture is kept as a
    file of the session. The same file again changes nothing. Originals are copied and stay where they are.

    What other programs keep their work in is imported as what it is, also somewhere below a folder: workflow packages
    (.genaiw.zip), gallery JSON, outputs folders with a JSON file for each picture, Storage V2 folders, and Koda
    databases (a SQLite file, postgresql://… or libsql://…). Their sessions keep their titles. What can't be taken is
    reported with file, place and reason; then the exit code is 1.
    """
    from mixfs.formats import layouts
    from mixfs.formats.base import Options
    from mixfs.process import take_short_turns

    take_short_turns()
    began = time.monotonic()
    options = Options(fetch=fetch, fetch_private=fetch_private, rewrite=rewrite, session=session)
    plain = layout == "files"
    with _library(library, dry_run) as opened:
        try:
            imported = layouts.import_paths(
                opened, paths, options, formats=() if plain else layouts.FORMATS, dry_run=dry_run, watch=_bars(),
                layout=layouts.named(layout) if layout is not None and not plain else None,
            )  # fmt: skip
        except KeyboardInterrupt:
            note("interrupted. What was taken in so far is in the library; the same import again takes in the rest.")
            raise
    reports, report = imported.layouts, imported.files
    if json:
        emit_json(_as_json(report, reports))
    else:
        for each in reports:
            _print_layout(each)
        # Nothing is left for it where layouts took all that there was.
        if report is not None and (report.files or report.skipped or not reports):
            _print(report, time.monotonic() - began, dry_run)
    if (report is not None and report.failed) or any(each.not_taken for each in reports):
        raise typer.Exit(1)


@contextmanager
def _library(option: Path | None, dry_run: bool) -> Iterator[Library]:
    """The library that is meant; for a dry run an empty one where there is none, since none is made."""
    from mixfs.cli.config import find_library
    from mixfs.library.api import Library

    if dry_run and not (find_library(option) / "format").exists():
        with tempfile.TemporaryDirectory(prefix="mixfs-") as empty, Library.open(empty) as opened:
            yield opened
    else:
        with open_library(option, create=True) as opened:
            yield opened


def _bars() -> Watch:
    from mixfs.formats.layouts import Watch

    class Bars(Watch):
        """A progress bar for each source."""

        def layout(self, layout: Format) -> AbstractContextManager[Callable[[Report], None] | None]:
            return _layout_progress(layout.TITLE)

        def files(
            self, library: Library, paths: list[Path], but: frozenset[str]
        ) -> AbstractContextManager[Callable[[ImportReport], None] | None]:
            return _progress(library, paths, but)

    return Bars()


def _as_json(report: ImportReport | None, reports: list[Report]) -> dict[str, Any]:
    """Totals over all sources; `layouts` has those that are in a layout one by one."""
    failed = [{"path": failure.path, "reason": failure.reason} for failure in report.failed] if report else []
    skipped = [{"path": failure.path, "reason": failure.reason} for failure in report.skipped] if report else []
    out: dict[str, Any] = {
        "imported": report.imported if report else 0,
        "deduplicated": report.deduplicated if report else 0,
        "kept_as_files": report.kept_as_files if report else 0,
        "failed": failed,
        "skipped": skipped,
        "bytes": report.bytes if report else 0,
    }
    if reports:
        out["layouts"] = []
    for each in reports:
        out["imported"] += each.taken.get("pictures", 0)
        out["kept_as_files"] += each.taken.get("files", 0)
        out["deduplicated"] += each.known.get("pictures", 0) + each.known.get("files", 0)
        out["bytes"] += each.bytes
        out["layouts"].append(
            {
                "path": each.path, "format": each.layout, "dry_run": each.dry_run, "taken": each.taken,
                "known": each.known, "differs": each.differs, "bytes": each.bytes,
                "not_taken": [_problem_json(each, problem) for problem in each.not_taken],
                "skipped": [_problem_json(each, problem) for problem in each.skipped],
            }
        )  # fmt: skip
        failed += [_problem_json(each, problem) for problem in each.not_taken]
        skipped += [_problem_json(each, problem) for problem in each.skipped]
    return out


def _problem_json(report: Report, problem: Any) -> dict[str, str]:
    return {"path": problem.file or report.path, "place": problem.place, "reason": problem.reason}


def _print_layout(report: Report) -> None:
    for problem in report.not_taken:
        where = problem.file or report.path
        # Who can't be asked says who it is.
        parts = [problem.reason] if problem.reason.startswith(where) else [where, problem.place, problem.reason]
        note(": ".join(filter(None, parts)))
    taken, known = (_counted(counts) for counts in (report.taken, report.known))
    parts = [("would take in " if report.dry_run else "took in ") + (taken or "nothing")]
    if known:
        parts.append(f"{known} known already")
    if report.differs:
        parts.append(f"{report.differs:,} of them other than in the library, which stay as they are there")
    if report.skipped:
        parts.append(f"{len(report.skipped):,} left where they are")
    if report.not_taken:
        parts.append(f"{len(report.not_taken):,} not taken")
    say(f"{plain(report.path)} ({report.layout}): {'; '.join(parts)}")


_NOUNS = {
    "sessions": ("session", "sessions"), "pictures": ("picture", "pictures"), "files": ("file", "files"),
    "entries": ("entry", "entries"), "edges": ("connection", "connections"),
    "generations": ("generation", "generations"),
}  # fmt: skip


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(count(counts[kind], *_NOUNS[kind]) for kind in _NOUNS if counts.get(kind))


def _print(report: ImportReport, seconds: float, dry_run: bool) -> None:
    for failure in report.failed:
        note(f"{failure.path}: {failure.reason}")
    if dry_run:
        say(f"would import {count(report.imported, 'file')}, as far as they are not known already")
        return
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
def _layout_progress(title: str) -> Iterator[Callable[[Report], None] | None]:
    """A progress bar of one source on stderr; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(title), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("import", total=None)
        yield lambda report: bar.update(task, completed=report.done, total=report.total or None)

@contextmanager
def _progress(
    library: Library, paths: list[Path], but: frozenset[str]
) -> Iterator[Callable[[ImportReport], None] | None]:
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
            total = _count_files(library, paths, but, stop)
            if total is not None:
                bar.update(task, total=total)

        counter = threading.Thread(target=look_ahead, daemon=True)
        counter.start()
        try:
            yield lambda report: bar.update(task, completed=report.files, bytes=report.bytes)
        finally:
            stop.set()
            counter.join()


def _count_files(library: Library, paths: list[Path], but: frozenset[str], stop: threading.Event) -> int | None:
    """How many files there are to import, counted beside the import; None when it was over first."""
    from mixfs.library.importing import ImportReport, find_jobs, own_places

    total = 0
    for _ in find_jobs(paths, None, ImportReport(), frozenset(own_places(library)), but):
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
