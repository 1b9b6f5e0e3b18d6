"""`mixfs sessions`: which sessions there are."""

from __future__ import annotations

import json as json_module
from typing import Any

from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import emit_json, human_bytes, say, table


def sessions(library: LibraryOption = None, json: JsonOption = False) -> None:
    """List the sessions, the oldest first."""
    with open_library(library, read_only=True) as opened:
        listed: list[dict[str, Any]] = []
        for session in opened.sessions():
            with opened.read() as view:
                listed.append(json_module.loads(view.render_session_document(session, "session.json")))
    if json:
        emit_json(listed)
        return
    if not listed:
        say("There are no sessions yet. `mixfs import FOLDER` makes one.")
        return
    table(
        ("SESSION", "IMAGES", "FILES", "SIZE", "GENERATIONS", "CHANGED"),
        (
            (
                item["title"], f"{item['images']:,}", f"{item['files']:,}", human_bytes(item["bytes"]),
                f"{item['generations']:,}", item["updated_at"][:16].replace("T", " "),
            )
            for item in listed
        ),
        right=(1, 2, 3, 4),
    )  # fmt: skip
