"""Koda databases: canvases with nodes, edges, assets and generations, in SQLite, PostgreSQL or libSQL. In and out.

A canvas is a session. Pictures that nodes hold as data URIs become blobs; a mark stays in their place, from which the
data URI is made again. docs/formats/koda.md says what is kept, changed and not taken.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixfs.errors import InvalidValue, os_words
from mixfs.formats.base import (
    Asset,
    FoundFile,
    Piece,
    Problem,
    Refused,
    Skipped,
    Source,
    beside,
    data_uri,
    head_of,
    number,
    split_off,
    text,
)
from mixfs.formats.fetching import NotFetched
from mixfs.formats.koda_tables import (
    SCHEMA,
    TABLES,
    USER_COLUMNS,
    Tables,
    open_server,
    time_ns,
    write_server,
    write_sqlite,
)
from mixfs.formats.lost import NAMES, TIMES, Lost, keeps_name
from mixfs.formats.quick import is_media_name
from mixfs.formats.source_urls import is_url, local, web
from mixfs.formats.sqlite_files import open_sqlite
from mixfs.ids import Digest, digest_from_hex
from mixfs.library import canvas_json, documents, editing
from mixfs.library.api import Library
from mixfs.library.exporting import new_folder, size_of, write_original
from mixfs.library.view import View
from mixfs.media.sniff import extension
from mixfs.names import safe_name
from mixfs.records import Edge, Entry, Generation, ImageRef, Member, Placement, Session

NAME = "koda"
TITLE = "Koda database"
OURS = "x-mixfs"
"""The field of a node's data in which MixFS keeps what Koda has no column for."""
_MARK = "mixfs:data-uri"
_SETTINGS = (
    "negative_prompt", "generator", "generator_version", "model_hash", "seed", "steps", "cfg", "sampler", "scheduler",
    "width", "height", "loras", "canvas_state",
)  # fmt: skip


def detect(path: Path) -> bool:
    """A SQLite file with the tables canvases and canvas_nodes, or a folder with one such file."""
    found = _file(path)
    return found is not None


def _file(path: Path) -> Path | None:
    if path.is_dir():
        with os.scandir(path) as scan:
            there = [each.name for each in scan if not is_media_name(os.fsencode(each.name)) and each.is_file()]
        found = [path / name for name in sorted(there) if _is_koda(path / name)]
        return found[0] if len(found) == 1 else None
    return path if _is_koda(path) else None


def _is_koda(path: Path) -> bool:
    if head_of(path, 16) != b"SQLite format 3\0":
        return False
    try:
        with open_sqlite(path, TABLES, busy_s=0.5) as tables:
            return "id" in tables.columns("canvases") and "canvas_id" in tables.columns("canvas_nodes")
    except Refused:
        # Its reader waits longer for a program that writes to it, and reports it. The schema stands at the beginning.
        head = head_of(path, 64 << 10)
        return b"TABLE canvases" in head and b"TABLE canvas_nodes" in head


# -- in


def read(source: Source) -> Iterator[Piece | Problem]:
    """A piece for each canvas. Raises Refused."""
    opened: AbstractContextManager[Tables]
    if is_url(source.location):
        opened, folder = open_server(source.location), None
    else:
        path = _file(source.path)
        if path is None:
            raise Refused("It has no tables canvases and canvas_nodes.")
        source.file = str(path)
        opened, folder = open_sqlite(path, TABLES), path.parent
    with opened as tables:
        reader = _Reader(source, tables, folder)
        yield from reader.run()


class _Reader:
    """The reading of one database."""

    def __init__(self, source: Source, tables: Tables, folder: Path | None) -> None:
        self._source, self._tables, self._folder = source, tables, folder
        self._columns = {table: tables.columns(table) for table in (*SCHEMA, "users")}
        self._users: dict[str, str] = {}

    def run(self) -> Iterator[Piece | Problem]:
        if "id" not in self._columns["canvases"]:
            raise Refused("It has no table canvases with an id.")
        name = next((column for column in USER_COLUMNS[1:] if column in self._columns["users"]), None)
        if name is not None and "id" in self._columns["users"]:
            for row in self._tables.rows("users", ("id", name)):
                self._users[str(row["id"])] = str(row[name] or "")
        canvases = list(self._tables.rows("canvases", ("id",)))
        self._source.total = len(canvases)
        ids = {str(row["id"]) for row in canvases}
        for row in canvases:
            yield from self._canvas(row["id"])
            self._source.done += 1
        for table in ("canvas_nodes", "canvas_edges", "assets", "generations"):
            columns = self._columns[table]
            if "id" not in columns or "canvas_id" not in columns:
                continue
            for row in self._tables.rows(table, ("id", "canvas_id")):
                if str(row["canvas_id"]) not in ids:
                    yield Problem(f"{table}, id {row['id']}", f"It belongs to no canvas: {row['canvas_id']!r:.80}.")

    def _rows(self, table: str, canvas_id: Any) -> Iterator[dict[str, Any]]:
        columns = self._columns[table]
        if "id" in columns and "canvas_id" in columns:
            yield from self._tables.rows(table, columns, "canvas_id", canvas_id)

    def _canvas(self, canvas_id: Any) -> Iterator[Piece | Problem]:
        [row] = self._tables.rows("canvases", self._columns["canvases"], "id", canvas_id)
        place = f"canvases, id {canvas_id}"
        if not isinstance(canvas_id, str) or not canvas_id:
            yield Problem(place, "Its id is no text.")
            return
        files: dict[str, FoundFile] = {}
        shown: dict[str, Digest] = {}  # node -> the picture that it shows
        left: list[dict[str, Any]] = []
        for asset_row in self._rows("assets", canvas_id):
            found = self._asset(asset_row)
            if isinstance(found, FoundFile):
                files[found.id] = found
                if asset_row.get("node_id") is not None:
                    shown.setdefault(str(asset_row["node_id"]), found.asset.digest)
            else:
                left.append(asset_row)
                yield found
        nodes: list[Entry] = []
        for node_row in self._rows("canvas_nodes", canvas_id):
            try:
                nodes.append(self._node(node_row, files, shown))
            except InvalidValue as error:
                yield Problem(f"canvas_nodes, id {node_row['id']}", str(error))
        edges = self._each("canvas_edges", canvas_id, _edge)
        generations = self._each("generations", canvas_id, lambda row: _generation(row, files))
        problems = [item for item in (*edges, *generations) if isinstance(item, Problem)]
        yield from problems
        user_id = text(row.get("user_id"))
        kept = split_off(row, "id", "name", "user_id")
        session = Session(
            id=canvas_id, title=text(row.get("name")) or "", user_id=user_id,
            user_name=self._users.get(user_id or "") or None, created_ns=time_ns(row.get("created_at")),
            foreign={NAME: {"canvas": kept, **({"assets": left} if left else {})}},
        )  # fmt: skip
        yield Piece(
            place=place, session=session, files=tuple(files.values()), entries=tuple(nodes),
            edges=tuple(item for item in edges if isinstance(item, Edge)),
            generations=tuple(item for item in generations if isinstance(item, Generation)),
        )  # fmt: skip

    def _each(self, table: str, canvas_id: str, convert: Callable[[dict[str, Any]], Any]) -> list[Any]:
        out: list[Any] = []
        for row in self._rows(table, canvas_id):
            try:
                out.append(convert(row))
            except InvalidValue as error:
                out.append(Problem(f"{table}, id {row['id']}", str(error)))
        return out

    # -- assets

    def _asset(self, row: dict[str, Any]) -> FoundFile | Problem:
        place = f"assets, id {row['id']}"
        try:
            row["metadata"] = _json("metadata", row.get("metadata"))
            taken = self._bytes(row)
        except (InvalidValue, NotFetched) as error:
            return Problem(place, str(error))
        except OSError as error:
            return Problem(place, os_words(error))
        if isinstance(taken, str):
            return Skipped(place, taken)
        name = safe_name(text(row.get("filename")) or str(row["id"]), "asset")
        if b"." not in name and not text(row.get("filename")):
            name = safe_name(name.decode(), "asset", 240) + extension(taken.media_type).encode()
        if isinstance(row.get("url"), str) and row["url"].startswith("data:"):
            row["url"] = _mark(row["url"], taken)
        return FoundFile(
            id=str(row["id"]), place=place, asset=taken, name=name, mtime_ns=time_ns(row.get("created_at")),
            foreign={NAME: row},
        )  # fmt: skip

    def _bytes(self, row: dict[str, Any]) -> Asset | str:
        """The bytes of an asset, or why they stay where they are."""
        url, key = text(row.get("url")), text(row.get("local_blob_key"))
        if url is not None and url.startswith("data:"):
            return self._source.take_bytes(data_uri(url, may_be_empty=row.get("size_bytes") == 0))
        if url is not None and url.startswith(("http://", "https://")):
            if not self._source.options.fetch or self._source.dry_run:
                return f"It stays on the web: {web(url):.200}"
            return self._source.fetch(url)
        local = url or key
        if local is None:
            return "It has neither a url nor a local_blob_key."
        if self._folder is None:
            raise InvalidValue(f"{local!r:.120} is a path, which a database on a server has no folder for.")
        return self._source.take_file(beside(self._folder, local.removeprefix("./")))

    # -- nodes

    def _node(self, row: dict[str, Any], files: dict[str, FoundFile], shown: dict[str, Digest]) -> Entry:
        node_id = str(row["id"])
        data = _json("data", row.get("data"))
        taken: list[FoundFile] = []

        def take(value: str, path: str) -> Any:
            try:
                asset = self._source.take_bytes(data_uri(value))
            except InvalidValue:
                # No data URI, though it begins like one: a text like any other.
                return value
            name = safe_name(f"{node_id}{'' if not taken else f'-{len(taken) + 1}'}", "node", 240)
            mark = _mark(value, asset)
            file = FoundFile(
                id=f"{node_id}{path}", place=f"canvas_nodes, id {node_id}{path}", asset=asset,
                name=name + extension(asset.media_type).encode(), mtime_ns=time_ns(row.get("created_at")),
                foreign={NAME: {"node_id": node_id, "in": path}},
            )  # fmt: skip
            taken.append(file)
            return mark

        data = _replaced(data, "", take)
        ours = data.pop(OURS, None) if isinstance(data, dict) else None
        about: dict[str, Any] = ours if isinstance(ours, dict) else {}
        if ours is not None and not about:
            data[OURS] = ours
        files |= {file.id: file for file in taken}
        # The outermost picture: jsonb keeps no order of keys.
        first = min(taken, key=lambda file: (file.id.count(".") + file.id.count("["), file.id), default=None)
        digest = shown.get(node_id) or (first.asset.digest if first is not None else None)
        if "image" in about:
            file = files.get(str(about["image"]))
            digest = file.asset.digest if file is not None else None
        elif ours is not None:
            digest = None
        fields = {name: number(row.get(name)) for name in ("position_x", "position_y", "width", "height")}
        if fields["position_x"] is None or fields["position_y"] is None:
            raise InvalidValue("position_x and position_y must be numbers.")
        columns = split_off(row, "id", "canvas_id", "type", "data", "z_index", *fields)
        entry_data = {"data": data, NAME: columns}
        if ours is not None:
            # Of a canvas that is not Koda's: what it had, and nothing beside it.
            entry_data = dict(about["data"]) if isinstance(about.get("data"), dict) else {}
        z, kind = row.get("z_index"), text(row.get("type"))
        return Entry(
            id=node_id, session_id="", type="node" if kind is None else kind, x=fields["position_x"],
            y=fields["position_y"], width=fields["width"], height=fields["height"],
            z=z if isinstance(z, int) and not isinstance(z, bool) else 0, digest=digest, data=entry_data,
            text=text(about.get("text")), generation_id=text(about.get("generationId")),
        )  # fmt: skip


def _edge(row: dict[str, Any]) -> Edge:
    ends = {name: text(row.get(name)) for name in ("source_node_id", "target_node_id")}
    for name, value in ends.items():
        if value is None:
            raise InvalidValue(f"{name} must name a node.")
    columns = split_off(row, "id", "canvas_id", "source_handle", "target_handle", *ends)
    return Edge(
        id=str(row["id"]), session_id="", source=ends["source_node_id"] or "", target=ends["target_node_id"] or "",
        source_handle=text(row.get("source_handle")), target_handle=text(row.get("target_handle")),
        data={NAME: columns} if columns != {"type": "default"} else {},
    )  # fmt: skip


def _generation(row: dict[str, Any], files: Mapping[str, FoundFile]) -> Generation:
    parameters = _json("parameters", row.get("parameters"))
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidValue("parameters must be an object.")
    result = files.get(str(row.get("result_asset_id")))
    outputs: tuple[ImageRef, ...] = ()
    if result is not None:
        outputs = (
            ImageRef(
                digest=result.asset.digest, name=documents.text_of(result.name), role="output", size=result.asset.size,
                placement_id=result.id,
            ),
        )  # fmt: skip
    duration = row.get("duration_ms")
    columns = ("id", "canvas_id", "model", "prompt", "parameters", "status", "error_message", "duration_ms")
    return Generation(
        id=str(row["id"]), session_id="", time_ns=time_ns(row.get("created_at")), model=text(row.get("model")) or None,
        prompt=text(row.get("prompt")), parameters=parameters or {}, status=text(row.get("status")) or "pending",
        error=text(row.get("error_message")), outputs=outputs,
        duration_ms=duration if isinstance(duration, int) and not isinstance(duration, bool) else None,
        # Whether it was empty or null.
        foreign={NAME: split_off(row, *columns) | ({"parameters": {}} if parameters == {} else {})},
    )  # fmt: skip


def _json(name: str, value: Any) -> Any:
    """The value of a JSON column, which SQLite keeps as a text. Raises InvalidValue."""
    if not isinstance(value, str):
        return value
    try:
        return canvas_json.parse_value(value.encode("utf-8", "surrogateescape"))
    except InvalidValue as error:
        raise InvalidValue(f"{name}: {error}") from None


def _replaced(value: Any, path: str, take: Callable[[str, str], Any]) -> Any:
    """JSON with what `take` makes of the data URIs in it."""
    if isinstance(value, str):
        return take(value, path) if value.startswith("data:") and ";base64," in value[:200] else value
    if isinstance(value, dict):
        return {key: _replaced(item, f"{path}.{key}", take) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, f"{path}[{at}]", take) for at, item in enumerate(value)]
    return value


def _mark(uri: str, asset: Asset) -> Any:
    """What stands in the place of a data URI; the URI itself where it could not be made again as it was."""
    head, _, body = uri.partition(",")
    if head.endswith(";base64") and len(body) == 4 * -(-asset.size // 3) and not any(c in body for c in " \n\r\t"):
        return {_MARK: head, "digest": asset.digest.hex()}
    return uri


# -- out


@dataclass(slots=True)
class Written:
    """What went out; `missing` are originals that could not, the reason by path."""

    files: int = 0
    bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def not_carried(library: Library, session_ids: list[str]) -> tuple[str, ...]:
    """What of sessions a Koda database can't carry, for a human, one line each."""
    lost = Lost()
    ids: dict[type[Member], set[str]] = {cls: set() for cls in (Entry, Edge, Generation)}
    with library.read() as view:
        for session_id in session_ids:
            session = editing.require_session(view, session_id)
            lost.count("names of users", session.user_name is not None)
            there = any(value is not None for value in (session.zoom, session.pan_x, session.pan_y))
            lost.count("zoom and pan offset of canvases", there)
            lost.folders(view, session_id)
            lost.annotations(view, session_id)
            placements = {placement.id: placement for placement in view.members(Placement, session_id)}
            for placement in placements.values():
                lost.count("roles of files", placement.role != "output")
                if NAME not in placement.foreign:
                    lost.count(NAMES, not keeps_name(placement, "asset"))
                    lost.count(TIMES, placement.mtime_ns // 10**9 != placement.added_ns // 10**9)
            for cls, seen in ids.items():
                members = {record.shown_id for record in view.members(cls, session_id)}
                lost.count("ids that another session has too", len(members & seen))
                seen |= members
            for edge in view.members(Edge, session_id):
                carried = {NAME: _columns_of(session, edge)}
                lost.count("extra fields of connections", bool(edge.data) and dict(edge.data) != carried)
            for generation in view.members(Generation, session_id):
                lost.count("inputs of generations", bool(generation.inputs))
                further = [ref.placement_id in placements for ref in generation.outputs] not in ([], [True])
                lost.count("outputs of generations beyond the first, or that are no file of the session", further)
                settings = any(getattr(generation, name) not in (None, ()) for name in _SETTINGS)
                lost.count("seeds, steps and the like of generations", settings)
            lost.zones(view, session_id)
            lost.newer(view, session_id)
    return lost.lines()


def write(library: Library, session_ids: list[str], target: str) -> Written:
    """Write sessions as canvases: to a new folder with koda.db and files/, or into the database of a server by its URL.

    On a server pictures go along as data URIs; rows of ids that are there stay as they are. Raises NotFoundError,
    ExistsError, UnsuitablePlace, BlobMissing, BlobDamaged, MixfsError for what the server says, OSError.
    """
    written = Written()
    if is_url(target):
        with library.read() as view:
            rows = _Rows(library, view, None, written).of(session_ids)
        added = write_server(target, rows)
        written.files = sum(added.values())
        return written
    with library.read() as view:
        size = size_of((each.digest, each.size) for own_id in session_ids for each in view.members(Placement, own_id))
    with new_folder(library.root, Path(local(target)), size) as folder:
        with library.read() as view:
            rows = _Rows(library, view, folder, written).of(session_ids)
        write_sqlite(folder / "koda.db", rows)
        written.files += 1
        written.bytes += (folder / "koda.db").stat().st_size
    return written


def _columns_of(session: Session, edge: Edge) -> dict[str, Any]:
    """The columns of a connection that came from a Koda database."""
    columns = edge.data.get(NAME)
    return dict(columns) if NAME in session.foreign and isinstance(columns, Mapping) else {}


class _Rows:
    """Sessions as rows of the tables. Files are written on the way, where there is a folder."""

    def __init__(self, library: Library, view: View, folder: Path | None, written: Written) -> None:
        self._library, self._view, self._folder, self._written = library, view, folder, written
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in SCHEMA}
        self._ids: dict[str, set[str]] = {table: set() for table in SCHEMA}
        self._paths: set[str] = set()

    def of(self, session_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
        for session_id in session_ids:
            self._session(editing.require_session(self._view, session_id))
        return self._rows

    def _add(self, table: str, row: dict[str, Any]) -> None:
        self._ids[table].add(row["id"])
        self._rows[table].append(row)

    def _id(self, table: str, record: Any) -> str:
        """The id of a row: the one that it came with, unless another session has it."""
        own, shown = str(record.id), str(record.shown_id)
        return own if shown in self._ids[table] else shown

    def _session(self, session: Session) -> None:
        kept = session.foreign.get(NAME, {})
        changed_ns = self._view.session_row(session.id).mtime_ns
        times = {"created_at": documents.iso(session.created_ns), "updated_at": documents.iso(changed_ns)}
        canvas = times | dict(kept.get("canvas", {})) | {"id": session.id, "name": session.title}
        self._add("canvases", canvas | {"user_id": session.user_id})
        assets = {row["id"]: dict(row, canvas_id=session.id) for row in kept.get("assets", [])}
        placements = list(self._view.members(Placement, session.id))
        by_digest: dict[Digest, str] = {}
        held = {placement.digest for placement in placements}
        by_placement: dict[str, str] = {}
        for placement in placements:
            row = self._asset(session.id, placement, held)
            if row is not None:
                assets[row["id"]] = row
                by_digest.setdefault(placement.digest, row["id"])
                by_placement[placement.id] = row["id"]
        for row in assets.values():
            self._add("assets", row)
        entries = sorted(self._view.members(Entry, session.id), key=lambda entry: (entry.z, entry.shown_id))
        nodes = {entry.shown_id: self._id("canvas_nodes", entry) for entry in entries}
        for entry in entries:
            self._add("canvas_nodes", self._node(session, nodes[entry.shown_id], entry, by_digest, held))
        for edge in sorted(self._view.members(Edge, session.id), key=lambda edge: edge.shown_id):
            row = {"type": "default"} | _columns_of(session, edge)
            self._add(
                "canvas_edges",
                row | {
                    "id": self._id("canvas_edges", edge), "canvas_id": session.id,
                    "source_node_id": nodes.get(edge.source, edge.source), "source_handle": edge.source_handle,
                    "target_node_id": nodes.get(edge.target, edge.target), "target_handle": edge.target_handle,
                },
            )  # fmt: skip
        generations = sorted(self._view.members(Generation, session.id), key=lambda each: (each.time_ns, each.id))
        for generation in generations:
            result = next((by_placement.get(ref.placement_id or "") for ref in generation.outputs), None)
            row = {"result_asset_id": result, "created_at": documents.iso(generation.time_ns)}
            row |= dict(generation.foreign.get(NAME, {}))
            self._add(
                "generations",
                row | {
                    "id": self._id("generations", generation), "canvas_id": session.id, "model": generation.model or "",
                    "prompt": generation.prompt, "parameters": dict(generation.parameters) or row.get("parameters"),
                    "status": generation.status, "error_message": generation.error,
                    "duration_ms": generation.duration_ms,
                },
            )  # fmt: skip

    def _asset(self, session_id: str, placement: Placement, held: set[Digest]) -> dict[str, Any] | None:
        kept = placement.foreign.get(NAME, {})
        if "in" in kept:
            # It goes out within its node.
            return None
        blob = self._view.blob(placement.digest)
        media_type = blob.media_type if blob is not None else ""
        name = documents.text_of(placement.name)
        row: dict[str, Any] = {
            "id": placement.id, "node_id": None, "type": media_type.partition("/")[0], "mime_type": media_type,
            "filename": name, "metadata": None, "created_at": documents.iso(placement.added_ns),
        } | dict(kept)  # fmt: skip
        row |= {"canvas_id": session_id, "size_bytes": placement.size}
        url = row.get("url")
        if isinstance(url, Mapping):
            row["url"] = self._data_uri(url, held)
        elif isinstance(url, str) and url.startswith(("http://", "https://")):
            return row
        elif self._folder is None:
            row["url"] = self._data_uri({_MARK: f"data:{media_type};base64", "digest": placement.digest.hex()}, held)
        else:
            path = url if isinstance(url, str) and url else text(row.get("local_blob_key"))
            if path is None:
                path = row["url"] = f"files/{safe_name(f'{placement.id[-8:]}-{name}', 'file', 200).decode()}"
            self._file(path, placement.digest)
        return row

    def _file(self, path: str, digest: Digest) -> None:
        assert self._folder is not None
        target = beside(self._folder, path.removeprefix("./"))
        if path in self._paths:
            return
        self._paths.add(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = write_original(self._library.blobs, digest, self._folder, target, self._written.missing)
        if size is not None:
            self._written.bytes += size
            self._written.files += 1

    def _node(
        self, session: Session, node_id: str, entry: Entry, by_digest: Mapping[Digest, str], held: set[Digest]
    ) -> dict[str, Any]:
        data, columns = entry.data.get("data"), entry.data.get(NAME)
        row: dict[str, Any] = {
            "id": node_id, "canvas_id": session.id, "type": entry.type, "position_x": entry.x, "position_y": entry.y,
            "width": entry.width, "height": entry.height, "z_index": entry.z,
        }  # fmt: skip
        if NAME in session.foreign and isinstance(columns, Mapping) and entry.data.keys() == {"data", NAME}:
            return dict(columns) | row | {"data": self._restored(data, held)}
        ours = {
            "text": entry.text, "generationId": entry.generation_id,
            "image": by_digest.get(entry.digest) if entry.digest is not None else None,
            "data": dict(entry.data) or None,
        }  # fmt: skip
        # Koda's own nodes never have it; these are known by it.
        return row | {"data": {OURS: {key: value for key, value in ours.items() if value is not None} | {"mixfs": 1}}}

    def _restored(self, value: Any, held: set[Digest]) -> Any:
        if isinstance(value, Mapping):
            if value.keys() == {_MARK, "digest"}:
                return self._data_uri(value, held)
            return {key: self._restored(item, held) for key, item in value.items()}
        return [self._restored(item, held) for item in value] if isinstance(value, list) else value

    def _data_uri(self, mark: Mapping[str, Any], held: set[Digest]) -> str | dict[str, Any]:
        """The data URI of a mark; only for what the session holds, whatever a node says."""
        try:
            digest = digest_from_hex(str(mark["digest"]))
        except ValueError:
            return dict(mark)
        if digest not in held or not isinstance(mark[_MARK], str):
            return dict(mark)
        head: str = mark[_MARK]
        return f"{head},{base64.b64encode(self._library.blobs.fetch(digest)).decode()}"
