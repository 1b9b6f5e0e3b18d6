"""`mixfs export`: sessions as plain files, or in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, a_path, open_library
from mixfs.cli.output import count, emit_json, human_bytes, note, plain, quoted, say
from mixfs.errors import UsageError

if TYPE_CHECKING:
    from mixfs.library.api import Library
    from mixfs.records import Session

LAYOUTS = ("folder", "workflow-package")


def export(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Title, folder name or id.", show_default=False)],
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", parser=a_path, help="A new folder or an empty one; a new file.")
    ],
    layout: Annotated[
        str, typer.Option("--format", metavar="LAYOUT", help=f"The layout to write: {', '.join(LAYOUTS)}.")
    ] = "folder",
    embed_remote: Annotated[
        bool, typer.Option("--embed-remote", help="Download what has a URL, and put it into the workflow package.")
    ] = False,
    fetch_private: Annotated[
        bool, typer.Option("--fetch-private", help="Also from addresses that are not public.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Write a session's folder as plain files, or in the layout of another program.

    As a folder: the same folders and files as in the mount, images/, files/, metadata/, thumbnails/, canvas/,
    generations/ and the three JSON documents. Pictures are bit for bit what was imported, and keep their times.

    What another layout has no place for is said on stderr.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r} to export. There are: {', '.join(LAYOUTS)}.")
    with open_library(library, read_only=True) as opened:
        found = opened.find_session(session)
        if layout == "workflow-package":
            from mixfs.formats import workflow_package

            lost = workflow_package.not_carried(opened, found.id)
            for line in lost:
                note(f"a workflow package has no place for {line}")
            written = workflow_package.write(
                opened, found.id, dest, embed_remote=embed_remote, fetch_private=fetch_private
            )
            files, size = written.files, written.bytes
        else:
            lost = ()
            files, size = _as_folder(opened, found, dest)
    if json:
        emit_json(
            {"session": found.title, "session_id": found.id, "dest": str(dest.absolute()), "format": layout,
             "files": files, "bytes": size, "not_carried": list(lost)}
        )  # fmt: skip
        return
    say(f"{quoted(found.title)} is in {plain(str(dest))}: {count(files, 'file')}, {human_bytes(size)}")


def _as_folder(library: Library, session: Session, dest: Path) -> tuple[int, int]:
    from mixfs.vfs.export import export_session

    exported = export_session(library, session.id, dest)
    return exported.files, exported.bytes
