"""`mixfs cleanup`: pictures go to the trash by rule."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mixfs.cli.config import FOREVER_DAYS
from mixfs.cli.gc import DryRunOption
from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import count, emit_json, human_bytes, say, table
from mixfs.errors import UsageError

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400, "m": 30 * 86400, "y": 365 * 86400}


def cleanup(
    library: LibraryOption = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only what is older: 12h, 30d, 6w, 3m (months) or 1y."),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=0, help="The newest N of what is meant stay, however old.")
    ] = 0,
    session: Annotated[str | None, typer.Option("--session", metavar="SESSION", help="Only of this session.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Only of this model; `flux*` is what begins so.")
    ] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Move old pictures to the trash.

    Needs --older-than, --keep or both. Nothing is lost yet: `mixfs restore` brings it back until `mixfs gc` frees it.
    """
    from mixfs.library import cleanup as cleaning

    if older_than is None and not keep:
        raise UsageError("Say which pictures are to go: --older-than 30d, --keep 1000, or both.")
    age_s = None if older_than is None else parse_age(older_than)
    with open_library(library) as opened:
        session_id = opened.find_session(session).id if session is not None else None
        rule = cleaning.Rule(older_than_s=age_s, keep=keep, session_id=session_id, model=model)
        chosen = cleaning.choose(opened, rule)
        trashed = 0 if dry_run else cleaning.trash(opened, chosen)
    size = sum(item.placement.size for item in chosen)
    if json:
        listed = [
            {"session": item.session.title, "name": item.placement.name.decode("utf-8", "surrogateescape"),
             "id": item.placement.id, "digest": item.placement.digest.hex(), "size": item.placement.size}
            for item in chosen
        ]  # fmt: skip
        emit_json({"dry_run": dry_run, "trashed": trashed, "bytes": size, "files": listed})
    elif dry_run:
        if chosen:
            table(
                ("SESSION", "NAME", "SIZE"),
                (
                    (item.session.title, item.placement.name.decode("utf-8", "surrogateescape"),
                     human_bytes(item.placement.size))
                    for item in chosen
                ),
                right=(2,),
            )  # fmt: skip
        say(f"Would move {count(len(chosen), 'file')} ({human_bytes(size)}) to the trash.")
    else:
        say(f"Moved {count(trashed, 'file')} ({human_bytes(size)}) to the trash.")


def parse_age(text: str) -> float:
    """Seconds of `12h`, `30d`, `6w`, `3m`, `1y`; a number alone is days. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdwmy]?)", text.strip().lower())
    if found is None:
        raise UsageError(f"{text!r} is no age. Write 12h, 30d, 6w, 3m or 1y.")
    return min(float(found[1]) * _UNITS[found[2] or "d"], FOREVER_DAYS * 86400)
