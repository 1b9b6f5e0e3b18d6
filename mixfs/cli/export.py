"""`mixfs export`: sessions as plain files, or in the layout of another program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, a_place, open_library
from mixfs.cli.output import count, emit_json, human_bytes, note, plain, quoted, say
from mixfs.errors import BlobMissing, UsageError

if TYPE_CHECKING:
    from mixfs.library.api import Library
    from mixfs.records import Session

LAYOUTS = ("folder", "workflow-package", "outputs", "koda", "storage-v2")
_ONE = ("folder", "workflow-package")

# Files, bytes, and what is missing: the reason by path.
_Written = tuple[int, int, dict[str, str]]


def export(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SESSION... DEST",
            help="Titles, folder names or ids; then a new folder or an empty one, or a new file.", show_default=False,
        ),
    ],
    layout: Annotated[
        str, typer.Option("--format", metavar="LAYOUT", help=f"The layout to write: {', '.join(LAYOUTS)}.")
    ] = "folder",
    every: Annotated[bool, typer.Option("--all", help="All sessions, instead of naming them.")] = False,
    template: Annotated[
        str | None,
        typer.Option(
            "--template", metavar="TEXT",
            help="How `outputs` names a picture; else {date}/{model}/{timestamp}_{model_slug}_{short_id}.{ext}",
        ),
    ] = None,
    embed_remote: Annotated[
        bool, typer.Option("--embed-remote", help="Download what has a URL, and put it into the workflow package.")
    ] = False,
    fetch_private: Annotated[
        bool, typer.Option("--fetch-private", help="Also from addresses that are not public.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Write a session's folder as plain files, or sessions in the layout of another program.

    As a folder: the same folders and files as in the mount, images/, files/, metadata/, thumbnails/, canvas/,
    generations/ and the three JSON documents. Pictures are bit for bit what was imported, and keep their times. A file
    whose original is missing or damaged is left out and named on stderr, and the exit code is 5; of a workflow package,
    or what goes into a database, nothing is written then.

    What another layout has no place for is said on stderr before it is written.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r} to export. There are: {', '.join(LAYOUTS)}.")
    *names, last = words
    if every == bool(names):
        raise UsageError("Name the sessions (or say --all), and then where they go.")
    dest = a_place(last)
    with open_library(library, read_only=True) as opened:
        found = opened.sessions() if every else [opened.find_session(name) for name in names]
        if layout in _ONE and len(found) != 1:
            raise UsageError(f"{len(found)} sessions are meant; as a {layout} one goes at a time.")
        lost = _not_carried(opened, found, layout, template)
        for line in lost:
            note(f"this layout ({layout}) has no place for {line}")
        written: _Written
        if layout == "workflow-package":
            written = _as_package(opened, found[0], Path(dest), embed_remote, fetch_private)
        elif layout == "outputs":
            written = _as_outputs(opened, found, Path(dest), template)
        elif layout == "storage-v2":
            written = _as_storage_v2(opened, found, Path(dest))
        elif layout == "koda":
            written = _as_koda(opened, found, dest)
        else:
            written = _as_folder(opened, found[0], Path(dest))
    files, size, missing = written
    for path, reason in missing.items():
        note(f"{path} was not exported: {reason}")
    if layout == "koda":
        from mixfs.formats.source_urls import is_url, without_password

        if is_url(dest):
            dest = without_password(dest)
    if json:
        about = {
            "dest": dest if "://" in dest else os.path.abspath(dest), "format": layout, "files": files, "bytes": size,
            "not_carried": list(lost),
            "missing": [{"path": path, "reason": reason} for path, reason in missing.items()],
            "sessions": [{"session": session.title, "session_id": session.id} for session in found],
        }  # fmt: skip
        if len(found) == 1:
            about |= {"session": found[0].title, "session_id": found[0].id}
        emit_json(about)
    else:
        what = f"{quoted(found[0].title)} is" if len(found) == 1 else f"{count(len(found), 'session')} are"
        without = f", without {count(len(missing), 'file')}" if missing else ""
        say(f"{what} in {plain(dest)}: {count(files, 'file')}, {human_bytes(size)}{without}")
    if missing:
        raise typer.Exit(BlobMissing.exit_code)


def _not_carried(
    library: Library, sessions: Sequence[Session], layout: str, template: str | None
) -> tuple[str, ...]:
    from mixfs.formats import koda, outputs, storage_v2, workflow_package

    if layout == "workflow-package":
        return workflow_package.not_carried(library, sessions[0].id)
    if layout == "outputs":
        return outputs.not_carried(library, [session.id for session in sessions], template or outputs.TEMPLATE)
    if layout == "storage-v2":
        return storage_v2.not_carried(library, [session.id for session in sessions])
    if layout == "koda":
        return koda.not_carried(library, [session.id for session in sessions])
    return ()


def _as_package(library: Library, session: Session, dest: Path, embed: bool, private: bool) -> _Written:
    from mixfs.formats import workflow_package

    written = workflow_package.write(library, session.id, dest, embed_remote=embed, fetch_private=private)
    return written.files, written.bytes, {}


def _as_outputs(library: Library, sessions: Sequence[Session], dest: Path, template: str | None) -> _Written:
    from mixfs.formats import outputs

    written = outputs.write(library, [session.id for session in sessions], dest, template or outputs.TEMPLATE)
    return written.files, written.bytes, written.missing


def _as_storage_v2(library: Library, sessions: Sequence[Session], dest: Path) -> _Written:
    from mixfs.formats import storage_v2

    written = storage_v2.write(library, [session.id for session in sessions], dest)
    return written.files, written.bytes, written.missing


def _as_koda(library: Library, sessions: Sequence[Session], dest: str) -> _Written:
    from mixfs.formats import koda

    written = koda.write(library, [session.id for session in sessions], dest)
    return written.files, written.bytes, written.missing


def _as_folder(library: Library, session: Session, dest: Path) -> _Written:
    from mixfs.vfs.export import export_session

    exported = export_session(library, session.id, dest)
    return exported.files, exported.bytes, exported.missing
