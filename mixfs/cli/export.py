"""`mixfs export`: a session as plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, a_path, open_library
from mixfs.cli.output import count, emit_json, human_bytes, plain, quoted, say


def export(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Title, folder name or id.", show_default=False)],
    dest: Annotated[Path, typer.Argument(metavar="DEST", parser=a_path, help="A new folder, or an empty one.")],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Write a session's folder as plain files.

    The same folders and files as in the mount: images/, files/, metadata/, thumbnails/, canvas/, generations/ and the
    three JSON documents. Pictures are bit for bit what was imported, and keep their times.
    """
    from mixfs.vfs.export import export_session

    with open_library(library, read_only=True) as opened:
        found = opened.find_session(session)
        exported = export_session(opened, found.id, dest)
    if json:
        emit_json(
            {"session": found.title, "session_id": found.id, "dest": str(dest.absolute()), "files": exported.files,
             "bytes": exported.bytes}
        )  # fmt: skip
        return
    what = f"{count(exported.files, 'file')}, {human_bytes(exported.bytes)}"
    say(f"{quoted(found.title)} is in {plain(str(dest))}: {what}")
