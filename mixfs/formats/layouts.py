"""Every layout that MixFS reads, which one a path is, and imports of whatever lies somewhere."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from mixfs.errors import UsageError
from mixfs.formats import gallery, koda, outputs, storage_v2, workflow_package
from mixfs.formats.base import Format, Options, Problem, Report, Skipped, head_of
from mixfs.formats.quick import is_media_name, may_be_read
from mixfs.formats.reader_process import ReaderProcess
from mixfs.formats.source_urls import is_url, local
from mixfs.formats.taking import Progress, Taking
from mixfs.library.api import Library
from mixfs.library.importing import ImportReport, find_jobs, own_places, refuse_own, would_import
from mixfs.walking import Seen, walk

FORMATS: tuple[Format, ...] = (workflow_package, storage_v2, gallery, koda, outputs)
# What may lie in a folder that is of an outer layout already: such a folder's reader leaves packages alone, and an
# outputs folder is a plain one but for the JSON files beside its pictures.
_WITHIN_OUTPUTS = tuple(layout for layout in FORMATS if layout is not outputs)
_WITHIN_OTHERS: tuple[Format, ...] = (workflow_package,)


def detect(place: Path | str) -> Format | None:
    """The layout of a file or folder, by its content; None for plain files and folders, and what can't be read.

    The URL of a server is a Koda database's.
    """
    if is_url(str(place)):
        return koda
    path = Path(os.path.abspath(local(str(place))))
    with tempfile.TemporaryDirectory(prefix="mixfs-") as folder, ReaderProcess([path], lambda: Path(folder)) as reader:
        found, _ = find(reader, path)
    return next((layout for where, layout in found if where == path), None)


def find(
    reader: ReaderProcess, path: Path, own: frozenset[str] = frozenset(), formats: tuple[Format, ...] = FORMATS
) -> tuple[list[tuple[Path, Format]], list[Problem]]:
    """What `within` finds, in a process of its own; and what could not be looked at, which stays a plain file."""
    if not formats or not _is_worth_looking_at(path, own):
        return [], []
    found, problems = reader.find(path, own, formats)
    return [(where, named(layout)) for where, layout in found], problems


def _is_worth_looking_at(path: Path, own: frozenset[str]) -> bool:
    """Whether there is a file that may be in a layout, or part of one: for pictures alone no process is started."""
    return any(may_be_read(_head(Path(seen.path))) for seen in walk(path, own) if _may_be_one(seen))


def _may_be_one(seen: Seen) -> bool:
    """Whether it is a file whose name doesn't say that it is a picture or film; the one that is asked for always is."""
    return seen.kind in ("file", "link") and (seen.depth == 0 or not is_media_name(seen.name))


class _Looking:
    """A folder, or a file, that is looked at."""

    def __init__(self, seen: Seen, formats: tuple[Format, ...]) -> None:
        self.path, self.depth = Path(seen.path), seen.depth
        self.layout: Format | None = None
        self.formats = formats
        """What may be in it."""

    def look(self, own: frozenset[str], tick: Callable[[], None]) -> None:
        within = self.formats
        for layout in self.formats:
            try:
                # The only one that looks at all that is below a folder.
                if outputs.detect(self.path, own, tick) if layout is outputs else layout.detect(self.path):
                    self.layout = layout
                    within = _WITHIN_OUTPUTS if layout is outputs else _WITHIN_OTHERS
                    break
            except OSError:
                # Who imports it as files says what is wrong with it.
                return
        else:
            # It saw no folder of that layout below it, so that none need be looked at for it again.
            within = tuple(layout for layout in within if layout is not outputs)
        self.formats = within


def within(
    path: Path, own: frozenset[str] = frozenset(), formats: tuple[Format, ...] = FORMATS,
    look_at: Callable[[Path], bool] = lambda path: True, tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, Format]]:  # fmt: skip
    """What below a folder, or the folder or file itself, is in a layout: the inner before what it lies in.

    Of layouts within each other the outermost counts, but every package does, and each in an outputs folder. As where
    plain files are imported, hidden and temporary names, links to folders and the folders `own` (real paths) are left
    out. Looks only at those files that their names don't say to be pictures or films, and lists each folder a fixed
    number of times. `look_at` is told of each path first, and may leave it out; `tick` is called meanwhile.
    """
    outer: list[_Looking] = []
    for seen in walk(path, own):
        while outer and outer[-1].depth >= seen.depth:
            ended = outer.pop()
            if ended.layout is not None:
                yield ended.path, ended.layout
        if seen.kind != "folder" and not _may_be_one(seen):
            continue
        looking = _Looking(seen, outer[-1].formats if outer else formats)
        if look_at(looking.path) and (seen.kind == "folder" or may_be_read(_head(looking.path))):
            looking.look(own, tick)
        outer.append(looking)
    for ended in reversed(outer):
        if ended.layout is not None:
            yield ended.path, ended.layout


def _head(path: Path) -> bytes:
    try:
        return head_of(path, 256)
    except OSError:
        return b""


def _left(folder: Path, own: frozenset[str], taken: set[str]) -> Iterator[Skipped]:
    """The pictures in a layout's folder that no session of it names: nobody shall think that they were taken."""
    if os.path.isdir(folder):
        for job in find_jobs([folder], None, ImportReport(), own, taken):
            if is_media_name(job.name):
                yield Skipped("", "The layout names it nowhere. `--format files` takes it.", str(job.path))


def named(name: str) -> Format:
    """The layout of a name. Raises UsageError."""
    for layout in FORMATS:
        if name == layout.NAME:
            return layout
    raise UsageError(f"There is no layout {name!r}. There are: {', '.join(layout.NAME for layout in FORMATS)}.")


def import_layout(
    library: Library, layout: Format, path: Path | str, options: Options | None = None, *, dry_run: bool = False,
    progress: Progress | None = None, taken: set[str] | None = None, reader: ReaderProcess | None = None,
) -> Report:  # fmt: skip
    """Import a source of a layout. Never raises for what it holds: the report says what was taken and what was not.

    With `dry_run` nothing is written. `taken` are the paths of files that inner layouts took, and what this one takes
    is put there. Raises UnsuitablePlace for a path in the library or its mount.
    """
    location = local(str(path))
    if not is_url(location):
        location = os.path.abspath(location)
        refuse_own(library, Path(location))
    taken = set() if taken is None else taken
    with ReaderProcess([Path(location)], library.staging.open) as own_reader:
        taking = Taking(
            library, layout, location, options or Options(), reader or own_reader, dry_run=dry_run, progress=progress,
            left_out=taken,
        )  # fmt: skip
        report = taking.run()
    taken |= taking.taken | taking.kept
    return report


class Watch:
    """Who watches an import; this one doesn't. Each method is called once for a source, and entered while it lasts."""

    def layout(self, layout: Format) -> AbstractContextManager[Progress | None]:
        """A source in a layout is read."""
        return nullcontext()

    def files(
        self, library: Library, paths: list[Path], but: frozenset[str]
    ) -> AbstractContextManager[Callable[[ImportReport], None] | None]:
        """Plain files are imported, those in `but` left out."""
        return nullcontext()


@dataclass(slots=True)
class Imported:
    """What became of an import: a report of each source that is in a layout, and one of all plain files."""

    layouts: list[Report] = field(default_factory=list)
    files: ImportReport | None = None


def import_paths(
    library: Library, places: Iterable[Path | str], options: Options | None = None, *,
    formats: tuple[Format, ...] = FORMATS, layout: Format | None = None, dry_run: bool = False,
    watch: Watch | None = None,
) -> Imported:  # fmt: skip
    """Import files and folders as what they are: what is in a layout, somewhere below too, and the rest as files.

    A place that is in a layout itself is imported as that, and the report names pictures in it that the layout doesn't
    name, which stay where they are; of a folder that only holds some, all that no layout took to its sessions goes in
    as plain files, the documents of layouts among them, as when the folder is copied into import/. With `formats` ()
    all is plain; with `layout` nothing is looked at, and each place is of that one. Places may be URLs of databases.
    Never raises for what a place holds. Raises UnsuitablePlace as `import_layout`.
    """
    options, watch = options or Options(), watch or Watch()
    own = frozenset(own_places(library))
    imported = Imported()
    taken: set[str] = set()
    ordinary: list[Path] = []
    with contextlib.ExitStack() as stack:
        found: list[tuple[Path | str, Format, ReaderProcess]] = []
        for place in places:
            is_server = is_url(str(place)) and (layout is not None or bool(formats))
            path = Path(os.path.abspath(local(str(place)) if formats else place))
            reader = stack.enter_context(ReaderProcess([] if is_server else [path], library.staging.open))
            if layout is not None or is_server:
                found.append((place, layout or koda, reader))
                continue
            refuse_own(library, path)
            inner, problems = find(reader, path, own, formats)
            found += [(where, kind, reader) for where, kind in inner]
            imported.layouts += [Report(each.file, "unknown", dry_run, not_taken=[each]) for each in problems]
            if not inner or inner[-1][0] != path:
                ordinary.append(path)
        for place, kind, reader in found:
            with watch.layout(kind) as progress:
                report = import_layout(
                    library, kind, place, options, dry_run=dry_run, progress=progress, taken=taken, reader=reader
                )
            imported.layouts.append(report)
            if not is_url(str(place)) and not any(Path(report.path).is_relative_to(path) for path in ordinary):
                report.skipped += _left(Path(report.path), own, taken)
    if ordinary and dry_run:
        imported.files = would_import(library, ordinary, options.session, taken)
    elif ordinary:
        with watch.files(library, ordinary, frozenset(taken)) as counting:
            imported.files = library.import_paths(ordinary, session=options.session, progress=counting, but=taken)
    return imported
