"""`mixfs log`: what happened in the library, from its journal."""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixfs import jsontext
from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import emit_json, human_bytes, one_line, plain, quoted

if TYPE_CHECKING:
    from mixfs.library.api import Change, Library

# What comes along with a picture; the line that says where it was put tells enough.
_DETAILS = {"Blob", "Image", "Metadata", "Folder"}
# A record that says it was made within this time of its change is new.
_NEW_NS = 1_000_000
_NAMES = ("name", "original_name")


def log(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen, until Ctrl-C.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only the last so many.")] = None,
    details: Annotated[bool, typer.Option("--all", help="Also what comes with a picture, and deletes.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show what changed in the library, the oldest first: when, and what.

    With --json every change is a line: time, kind, id, deleted, record.
    """
    with open_library(library, read_only=True) as opened:
        teller = Teller(opened, details, json)
        position = opened.store.written_end() if follow else None
        told: deque[Any] = deque(maxlen=None if lines is None else min(lines, sys.maxsize))
        for change in opened.changes():
            position = max(position, change.position) if position is not None else None
            line = teller.tell(change)
            if line is None:
                continue
            if lines is None:
                _put(line, json)
            else:
                told.append(line)
        for line in told:
            _put(line, json)
        if follow:
            for change in opened.follow_changes(position):
                line = teller.tell(change)
                if line is not None:
                    _put(line, json)


def _put(line: Any, json: bool) -> None:
    if json:
        emit_json(line, indent=None)
    else:
        print(line, flush=True)


class Teller:
    """Puts changes into words, remembering the titles of sessions as they go by."""

    def __init__(self, library: Library, details: bool, json: bool) -> None:
        self._library, self._details, self._json = library, details, json
        self._titles: dict[str, str] = {}

    def tell(self, change: Change) -> Any:
        """A line, or what becomes one in JSON; None for what isn't told."""
        from mixfs.library import documents

        record: Any = change.record
        if change.kind == "Session" and record is not None:
            self._titles[record.id] = record.title
        if self._json:
            return {
                "time": documents.iso(change.time_ns), "kind": change.kind, "id": change.entity_id,
                "deleted": change.deleted, "record": None if record is None else _plain(record),
            }  # fmt: skip
        if not self._details and (change.kind in _DETAILS or (change.deleted and change.kind != "Session")):
            return None
        moment = datetime.datetime.fromtimestamp(change.time_ns / 1e9)
        return f"{moment:%Y-%m-%d %H:%M:%S}  {self._words(change)}"

    def _in(self, session_id: str) -> str:
        return f"in {quoted(self._titles.get(session_id, session_id))}"

    def _words(self, change: Change) -> str:
        record: Any = change.record
        kind = change.kind
        if record is None:
            if kind == "Session":
                return f"session {quoted(self._titles.get(change.entity_id, change.entity_id))} deleted"
            return f"{kind.lower()} {plain(change.entity_id)} {'deleted' if change.deleted else 'changed'}"
        match kind:
            case "Session":
                made = change.time_ns - record.created_ns < _NEW_NS
                return f"session {quoted(record.title)} {'made' if made else 'changed'}"
            case "Placement":
                made = change.time_ns - record.added_ns < _NEW_NS
                where = f"{record.area}/{plain(record.name)}"
                did = "put" if made else "changed"
                return f"{where} {did} {self._in(record.session_id)} ({human_bytes(record.size)})"
            case "Generation":
                by = f" with {plain(record.model)}" if record.model else ""
                return f"generation{by} {self._in(record.session_id)}: {one_line(record.prompt or 'no prompt')}"
            case "Trash":
                where = f" from {quoted(record.session_title)}" if record.session_title else ""
                return f"{plain(record.name)}{where} moved to the trash ({plain(record.reason)})"
            case "Annotation":
                said = [f"tags {', '.join(record.tags)}" if record.tags else "", record.comment or ""]
                said += [f"rating {record.rating}" if record.rating is not None else ""]
                return f"{record.digest.hex()[:12]}… annotated: {one_line('; '.join(filter(None, said)) or 'nothing')}"
            case "Entry":
                return f"canvas entry ({plain(record.type)}) {self._in(record.session_id)}"
            case "Edge":
                return f"canvas connection {self._in(record.session_id)}"
            case _:
                return f"{kind.lower()} {plain(change.entity_id)}"


def _plain(value: Any, room: int = 2 * jsontext.DEPTH) -> Any:
    """JSON for any value of a record: names as text, digests and raw bytes as hex."""
    if dataclasses.is_dataclass(value):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if not room:
        # Nested as deep only in the journals of older versions.
        return value
    if isinstance(value, Mapping):
        return {
            str(key): os.fsdecode(item) if key in _NAMES and isinstance(item, bytes) else _plain(item, room - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, room - 1) for item in value]
    return value.hex() if isinstance(value, bytes) else value
