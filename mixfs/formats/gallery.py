"""Gallery JSON, `gallery_data.json`: sessions with pictures as data URIs, or as paths of files beside it. In only.

The file is read as a stream, twice: first for what it says of each session, which may stand behind the pictures, then
for the pictures. No more than a few pictures are in memory at a time. docs/formats/gallery.md says what is kept.
"""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mixfs import jsontext
from mixfs.errors import InvalidValue, os_words
from mixfs.formats.base import (
    Asset,
    FoundFile,
    Piece,
    Problem,
    Skipped,
    Source,
    beside,
    data_uri,
    head_of,
    split_off,
)
from mixfs.formats.source_urls import web
from mixfs.library.documents import iso_ns
from mixfs.media.sniff import extension
from mixfs.names import safe_name
from mixfs.records import Session
from mixfs.regular_files import open_regular

NAME = "gallery"
TITLE = "gallery JSON"
FILE = "gallery_data.json"

# Levels of JSON that a value of the document is kept with, below the lists that it stands in.
_LEVELS = jsontext.DEPTH - 4
_BATCH_FILES, _BATCH_BYTES = 32, 16 << 20
_MIGRATED = re.compile(r"/api/(images/sessions/[^/]+/[^/]+)")
# How far `detect` looks for the first list of pictures: what a session says before it may be long.
_DETECT_EVENTS = 100_000


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def detect(path: Path) -> bool:
    """A JSON file, or a folder with a gallery_data.json, in which a session has a list of images."""
    path = _file(path)
    if not jsontext.beginning(head_of(path, 256)).startswith("{"):
        return False
    with open(open_regular(path), "rb") as file, contextlib.suppress(InvalidValue):
        where: list[str] = []
        for (event, value), _ in zip(jsontext.file_events(file), range(_DETECT_EVENTS), strict=False):
            if event == "map_key":
                where[-1] = value
            elif event in ("start_map", "start_array"):
                if event == "start_array" and where == ["sessions", "[", "images"]:
                    return True
                where.append("[" if event == "start_array" else "")
            elif event in ("end_map", "end_array"):
                where.pop()
    return False


def read(source: Source) -> Iterator[Piece | Problem]:
    """A piece for each session, or for some of its pictures. Raises ExistsError for what --rewrite would replace."""
    path = _file(source.path)
    source.file = str(path)
    rewrite = source.options.rewrite
    source.total = 2 * path.stat().st_size
    reader = _Reader(source, path)
    if rewrite is None or source.dry_run:
        yield from reader.run(None)
        return
    with open(source.begin_rewrite(), "w", encoding="utf-8") as out:
        yield from reader.run(out)
    if reader.broken:
        yield Problem("", f"{rewrite} is not written, because the end of {path.name} can't be read.")
    else:
        source.end_rewrite()


class _Reader:
    """The reading of one file."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source, self._path = source, path
        self._sessions: list[Session | None] = []
        self._rest: dict[str, Any] = {}
        self.broken = False

    def run(self, out: TextIO | None) -> Iterator[Piece | Problem]:
        with open(open_regular(self._path), "rb") as file:
            problems = list(self._look(file))
        yield from problems
        with open(open_regular(self._path), "rb") as file:
            yield from self._take(file, _Rewriting(out) if out is not None else None)

    def _look(self, file: BinaryIO) -> Iterator[Problem]:
        """What the file says of each session."""
        fields: dict[str, Any] = {}
        try:
            for kind, at, key, value in _walk(jsontext.file_events(file), images=False):
                self._source.done = file.tell()
                if kind == "top":
                    self._rest[key] = value
                elif kind == "start":
                    fields = {}
                elif kind == "field":
                    fields[key] = value
                elif kind == "other":
                    yield Problem(f"sessions[{at}]", f"It must be an object, not {value!r:.60}.")
                elif kind == "end":
                    self._sessions += [None] * (at + 1 - len(self._sessions))
                    self._sessions[at] = session = _session(at, fields)
                    if session is None:
                        yield Problem(f"sessions[{at}]", f"It has no id: {fields.get('id')!r:.60}.")
        except InvalidValue:
            # Said when the pictures are read, up to the same place. A session whose end is missing is named so far.
            if isinstance(fields.get("id"), str):
                self._sessions.append(_session(len(self._sessions), fields))

    def _take(self, file: BinaryIO, rewriting: _Rewriting | None) -> Iterator[Piece | Problem]:
        batch: list[FoundFile] = []
        names: set[str] = set()
        size = 0
        at = -1

        def piece() -> Iterator[Piece]:
            session = self._sessions[at] if at < len(self._sessions) else None
            if session is not None:
                foreign = {NAME: {**session.foreign[NAME], **({"document": self._rest} if self._rest else {})}}
                changed = Session(
                    id=session.id, title=session.title, created_ns=session.created_ns, foreign=foreign
                )
                yield Piece(place=f"sessions[{at}]", session=changed, files=tuple(batch))
            batch.clear()

        try:
            for kind, at, key, value in _walk(jsontext.file_events(file), images=True):
                self._source.done = self._source.total // 2 + file.tell()
                if kind == "start":
                    names, size = set(), 0
                elif kind == "image":
                    place = f"sessions[{at}].images[{key}]"
                    found = self._image(place, at, int(key), value, names)
                    if isinstance(found, FoundFile):
                        batch.append(found)
                        size += found.asset.size
                        if value["url"].startswith("data:"):
                            value["url"] = _url(self._sessions[at], found)
                    elif found is not None:
                        yield found
                    if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                        yield from piece()
                        size = 0
                elif kind == "end":
                    yield from piece()
                if rewriting is not None:
                    rewriting.write(kind, key, value)
            if rewriting is not None:
                rewriting.end()
        except InvalidValue as error:
            self.broken = True
            yield from piece()
            yield Problem("", f"{error} What is there and behind it is not taken: it is no valid JSON.")

    def _image(self, place: str, at: int, index: int, image: Any, names: set[str]) -> FoundFile | Problem | None:
        session = self._sessions[at] if at < len(self._sessions) else None
        if session is None:
            # Its session is reported.
            return None
        if not isinstance(image, dict) or not isinstance(image.get("url"), str):
            return Problem(place, "It must be an object with a url.")
        url = image["url"]
        if url.startswith(("http://", "https://")):
            return Skipped(place, f"It stays on the web: {web(url):.200}")
        try:
            asset = self._asset(url)
        except InvalidValue as error:
            return Problem(place, str(error))
        except OSError as error:
            return Problem(place, os_words(error))
        image_id = image.get("id")
        foreign_id = image_id if isinstance(image_id, str) and image_id not in names else f"{image_id}#{index}"
        room = image.get("roomType")
        room_id = room.get("id") if isinstance(room, dict) else None
        stem, suffix = (room_id if isinstance(room_id, str) and room_id else "image"), extension(asset.media_type)
        name = safe_name(f"{stem}-{foreign_id[:8]}", "image", 240) + suffix.encode()
        if name.decode() in names:
            name = safe_name(f"{stem}-{foreign_id}", "image", 240) + suffix.encode()
        names |= {foreign_id, name.decode()}
        kept = image if not url.startswith("data:") else split_off(image, "url")
        return FoundFile(
            id=foreign_id, place=place, asset=asset, name=name, mtime_ns=session.created_ns, foreign={NAME: kept}
        )

    def _asset(self, url: str) -> Asset:
        if url.startswith("data:"):
            return self._source.take_bytes(data_uri(url))
        path = urllib.parse.unquote(url.partition("?")[0])
        found = _MIGRATED.fullmatch(path)
        if found is None:
            raise InvalidValue(f"The url {url!r:.120} is no data URI and no /api/images/sessions/SESSION/FILE.")
        return self._source.take_file(beside(self._path.parent, found[1]))


def _session(at: int, fields: dict[str, Any]) -> Session | None:
    session_id = fields.get("id")
    if not isinstance(session_id, str) or not session_id:
        return None
    names = (fields.get("name"), fields.get("title"))
    title = next((name for name in names if isinstance(name, str) and name.strip()), f"Gallery {session_id[:8]}")
    return Session(
        id=session_id, title=title, created_ns=iso_ns(fields.get("createdAt")),
        foreign={NAME: split_off(fields, "id", "images")},
    )  # fmt: skip


def _url(session: Session | None, file: FoundFile) -> str:
    """Where the app looks for a picture that is no longer in its JSON."""
    assert session is not None
    parts = (session.id, file.name.decode())
    return "/api/images/sessions/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


# -- the stream


def _walk(events: Iterator[tuple[str, Any]], *, images: bool) -> Iterator[tuple[str, int, str, Any]]:
    """(kind, number of the session, key, value) for each part of the document, in its order.

    Kinds are `top` (a field beside the sessions), `sessions` (their list begins), `start`, `field`, `images` (the list
    begins), `image` (the key is its number; left out unless `images`), `images end`, `end` and `sessions end`; `other`
    is what stands in the list of sessions and is none.
    """
    event, _ = next(events)
    if event != "start_map":
        raise InvalidValue("The document must be a JSON object.")
    at = -1
    for key in _keys(events):
        event, value = next(events)
        if key != "sessions" or event != "start_array":
            yield "top", at, key, _value(events, event, value)
            continue
        yield "sessions", at, key, None
        for event, value in events:
            if event == "end_array":
                break
            at += 1
            if event != "start_map":
                yield "other", at, "", _value(events, event, value)
                continue
            yield "start", at, "", None
            for name in _keys(events):
                event, value = next(events)
                if name != "images" or event != "start_array":
                    yield "field", at, name, _value(events, event, value)
                    continue
                yield "images", at, name, None
                for index, (event, value) in enumerate(iter(lambda: next(events), ("end_array", None))):
                    if images:
                        yield "image", at, str(index), _value(events, event, value)
                    else:
                        _skip(events, event)
                yield "images end", at, name, None
            yield "end", at, "", None
        yield "sessions end", at, key, None


def _keys(events: Iterator[tuple[str, Any]]) -> Iterator[str]:
    """The keys of an object whose start was read, until its end; the value must be read in between."""
    for event, value in events:
        if event == "end_map":
            return
        yield value


def _skip(events: Iterator[tuple[str, Any]], event: str) -> None:
    depth = int(event.startswith("start_"))
    while depth:
        event, _ = next(events)
        depth += event.startswith("start_") - event.startswith("end_")


def _value(events: Iterator[tuple[str, Any]], event: str, value: Any) -> Any:
    """The value that begins with an event."""
    return jsontext.cut(jsontext.build(events, event, value), _LEVELS)


class _Rewriting:
    """Writes the parts of `_walk` as JSON again."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._comma = [False]
        out.write("{")

    def write(self, kind: str, key: str, value: Any) -> None:
        """Write a part; the key of an `image` is its number and not written."""
        if kind in ("top", "field"):
            self._next(f"{_json(key)}: {_json(value)}")
        elif kind in ("image", "other"):
            self._next(_json(value))
        elif kind in ("sessions", "images"):
            self._open(f"{_json(key)}: [")
        elif kind == "start":
            self._open("{")
        else:
            self._comma.pop()
            self._out.write("\n}" if kind == "end" else "\n]")

    def end(self) -> None:
        self._out.write("\n}\n")

    def _next(self, text: str) -> None:
        self._out.write(",\n" if self._comma[-1] else "\n")
        self._comma[-1] = True
        self._out.write(text)

    def _open(self, text: str) -> None:
        self._next(text)
        self._comma.append(False)


def _json(value: Any) -> str:
    return jsontext.dumps(value)
