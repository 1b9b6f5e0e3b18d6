"""`mixfs trash` and `mixfs restore`: what was deleted, and taking that back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import emit_json, plain, say, table

if TYPE_CHECKING:
    from mixfs.library.api import Library
    from mixfs.records import Record


def trash(library: LibraryOption = None, json: JsonOption = False) -> None:
    """List what was deleted or overwritten, the newest first: a line for each deletion, however much it took."""
    from mixfs.library.documents import iso

    with open_library(library, read_only=True) as opened:
        listed: list[dict[str, Any]] = [
            {
                "id": each.id, "deleted_at": iso(each.deleted_ns), "session": each.head.session_title,
                "name": each.head.name.decode("utf-8", "surrogateescape"), "reason": each.head.reason,
                "items": each.items, "records": each.records,
            }
            for each in opened.deletions()
        ]  # fmt: skip
    if json:
        emit_json(listed)
    elif not listed:
        say("The trash is empty.")
    else:
        table(
            ("ID", "DELETED", "SESSION", "NAME", "ITEMS", "WHY"),
            (
                (
                    item["id"], item["deleted_at"][:16].replace("T", " "), item["session"], item["name"],
                    str(item["items"]), item["reason"],
                )
                for item in listed
            ),
            right=(4,),
        )  # fmt: skip
        say("`mixfs restore ID` brings back all that one deletion took, `mixfs restore SESSION` a deleted session.")


def restore(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="ID|SESSION|PATH...", help="An id of `mixfs trash`, a deleted session, or a path in trash/."
        ),
    ],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Bring back what was deleted, where it was.

    An ID brings back all that one deletion took, a session all that went with it; what was deleted from it before stays
    in the trash. A path in trash/ is one picture or file. A name that was taken meanwhile stays with who has it: ` (2)`
    is given.
    """
    from mixfs.daemon import mounts

    places = [mounts.inside_mount(each) for each in what]
    mounted = {mounts.find_daemon(place[0]) for place in places if place is not None}
    for daemon in mounted:
        if library is None and daemon is not None:
            library = Path(daemon.library)
    restored = []
    with open_library(library) as opened:
        for each, place in zip(what, places, strict=True):
            records = _restore(opened, each, place)
            restored.append({"what": each, "records": len(records), "session": _session_of(opened, records)})
    if json:
        emit_json(restored)
        return
    for item in restored:
        say(f"{plain(str(item['what']))} is back in {plain(str(item['session']))}.")


def _restore(library: Library, what: str, place: tuple[str, str] | None) -> list[Record]:
    from mixfs.errors import NotFoundError

    if place is not None:
        first, _, rest = place[1].partition("/")
        folder, _, name = rest.partition("/")
        if first != "trash" or not folder:
            raise NotFoundError(f"{os.path.join(*place)} is not in trash/.")
        if name:
            return library.restore_shown(folder, name)
        what = folder
    elif library.in_trash(what):
        return library.restore(what)
    return [library.restore_session(what)]


def _session_of(library: Library, records: list[Record]) -> str:
    """The title of the session that something came back to."""
    from mixfs.errors import NotFoundError
    from mixfs.records import Session

    for record in records:
        if isinstance(record, Session):
            return record.title
        session_id = getattr(record, "session_id", None)
        if session_id is not None:
            try:
                return library.session(session_id).title
            except NotFoundError:
                continue
    return "the library"
