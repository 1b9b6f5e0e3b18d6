"""A workflow package into pieces: the whole of it, checked against what it says of itself, or nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from mixfs.errors import InvalidValue
from mixfs.formats.base import Asset, FoundFile, Piece, Problem, Refused, Skipped, Source, TooLarge, split_off
from mixfs.formats.base import number as a_number
from mixfs.formats.base import text as a_text
from mixfs.formats.fetching import NotFetched
from mixfs.formats.source_urls import web
from mixfs.formats.workflow_package.parts import COLUMNS, EDGE_FIELDS, NAME, NODE_FIELDS, OURS, VERSION, check_asset
from mixfs.formats.zips import open_checked
from mixfs.library import canvas_json
from mixfs.library.canvas_json import number, text
from mixfs.media.sniff import extension
from mixfs.names import safe_name
from mixfs.records import Edge, Entry, Session

_LOCAL_KINDS = ("embedded", "opfs", "fs-handle", "idb")


def read(source: Source) -> Iterator[Piece | Problem]:
    """One piece, whole. Raises Refused."""
    with open_checked(source.path) as archive:
        reader = _Reader(source, archive)
        piece = reader.piece()
        yield from reader.skipped
        yield piece


class _Reader:
    """The reading of one package."""

    def __init__(self, source: Source, archive: zipfile.ZipFile) -> None:
        self._source, self._archive = source, archive
        self._names = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
        self._files: dict[str, FoundFile] = {}  # asset id -> the file
        self.skipped: list[Problem] = []

    def piece(self) -> Piece:
        manifest = self._json("manifest.json")
        version = manifest.get("packageVersion")
        if version != VERSION:
            raise Refused(f"manifest.json: packageVersion is {version!r:.40}; {VERSION} is read here.")
        about = manifest.get("workflow", {})
        name = about.get("file", "workflow.json") if isinstance(about, dict) else None
        if not isinstance(name, str) or name not in self._names:
            raise Refused(f"manifest.json: workflow.file is {name!r:.80}, which is not in the package.")
        workflow = self._json(name)
        try:
            return self._session(manifest, name, workflow)
        except InvalidValue as error:
            raise Refused(str(error)) from error

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self._names:
            raise Refused(f"There is no {name} in it: it is no workflow package.")
        size = self._archive.getinfo(name).file_size
        if size > canvas_json.LIMIT:
            raise Refused(f"{name} has {size} bytes; {canvas_json.LIMIT} are allowed.")
        try:
            return canvas_json.parse(self._bytes(name))
        except InvalidValue as error:
            raise Refused(f"{name}: {error}") from error

    def _bytes(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zipfile.zlib.error, EOFError) as error:  # type: ignore[attr-defined]
            raise Refused(f"{name} is damaged: {error}.") from error

    def _take(self, name: str) -> Asset:
        entry = self._archive.getinfo(name)
        try:
            with self._archive.open(entry) as stream:
                asset = self._source.take_stream(stream, entry.file_size)
        except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, TooLarge) as error:  # type: ignore[attr-defined]
            raise Refused(f"{name} is damaged: {error}.") from error
        if asset.size != entry.file_size:
            raise Refused(f"{name} has {asset.size} bytes, not {entry.file_size} as its package says.")
        self._source.done += asset.size
        return asset

    def _session(self, manifest: dict[str, Any], name: str, workflow: dict[str, Any]) -> Piece:
        session_id = text(f"{name}: id", workflow.get("id"))
        if not session_id:
            raise Refused(f"{name}: id is empty.")
        title = text(f"{name}: name", workflow.get("name"))
        self._assets(manifest)
        used = {"manifest.json", name, *(file.place for file in self._files.values())}
        for place in sorted(self._names - used):
            # Named by nothing: kept as a file of the session.
            self._file(place, place, self._take(place), {"file": place})
        self._source.total = self._source.done
        nodes = [self._node(f"{name}: nodes[{at}]", at, node) for at, node in _list(name, workflow, "nodes")]
        edges = [_edge(f"{name}: edges[{at}]", edge) for at, edge in _list(name, workflow, "edges")]
        _check_ids(f"{name}: nodes", [node.id for node in nodes])
        _check_ids(f"{name}: edges", [edge.id for edge in edges])
        rest = split_off(workflow, "id", "name", "nodes", "edges", "viewport", OURS)
        ours = workflow.get(OURS)
        about = ours if isinstance(ours, dict) else {}
        if ours is not None and not isinstance(ours, dict):
            rest[OURS] = ours
        zoom, pan_x, pan_y = _viewport(workflow.get("viewport"), rest)
        session = Session(
            id=session_id, title=title, zoom=zoom, pan_x=pan_x, pan_y=pan_y,
            user_id=a_text(about.get("userId")), user_name=a_text(about.get("userName")),
            created_ns=_ns(about.get("createdNs")),
            foreign={NAME: {"manifest": manifest, "workflow": rest, "edges": [edge.id for edge in edges]}},
        )  # fmt: skip
        return Piece(
            place=name, session=session, files=tuple(self._files.values()), entries=tuple(nodes), edges=tuple(edges),
            whole=True,
        )  # fmt: skip

    # -- assets

    def _assets(self, manifest: dict[str, Any]) -> None:
        listed = list(_list("manifest.json", manifest, "assets"))
        _check_ids("manifest.json: assets", [str(asset.get("id")) for _, asset in listed])
        self._source.total = sum(self._archive.getinfo(name).file_size for name in self._names)
        for at, asset in listed:
            where = f"manifest.json: assets[{at}]"
            asset_id = text(f"{where}.id", asset.get("id"))
            if asset.get("origin") == "embedded":
                name = asset.get("file")
                if not isinstance(name, str) or name not in self._names:
                    raise Refused(f"{where}: file is {name!r:.80}, which is not in the package.")
                taken = self._take(name)
                check_asset(where, asset, taken)
                self._file(asset_id, name, taken, dict(asset))
            elif asset.get("origin") == "url":
                self._url(where, asset_id, asset, asset.get("url"))

    def _url(self, where: str, asset_id: str, asset: Mapping[str, Any], url: Any) -> None:
        if not self._source.options.fetch or not isinstance(url, str):
            self.skipped.append(Skipped(where, f"It stays on the web: {web(str(url)):.200}"))
            return
        if self._source.dry_run:
            self.skipped.append(Skipped(where, f"It would be downloaded: {web(url):.200}"))
            return
        try:
            taken = self._source.fetch(url)
            check_asset(where, asset, taken)
        except (NotFetched, Refused) as error:
            # The URL is kept; what it names may be had another time.
            self.skipped.append(Problem(where, str(error)))
            return
        self._file(asset_id, where, taken, dict(asset))

    def _file(self, asset_id: str, place: str, asset: Asset, foreign: dict[str, Any]) -> None:
        ours = foreign.get(OURS)
        about: dict[str, Any] = ours if isinstance(ours, dict) else {}
        given = about.get("name")
        name = given if isinstance(given, str) else place.rpartition("/")[2] if place in self._names else asset_id
        wanted = safe_name(name, "asset")
        if b"." not in wanted and not isinstance(given, str):
            wanted = safe_name(name, "asset", 240) + extension(asset.media_type).encode()
        self._files[asset_id] = FoundFile(
            id=asset_id, place=place, asset=asset, name=wanted, role=a_text(about.get("role")) or "output",
            mtime_ns=_ns(about.get("mtimeNs")), foreign={NAME: foreign},
        )  # fmt: skip

    # -- nodes

    def _node(self, where: str, at: int, node: dict[str, Any]) -> Entry:
        position = node.get("position")
        if not isinstance(position, dict):
            raise InvalidValue(f"{where}.position must be an object with x and y.")
        ours = node.get(OURS)
        about: dict[str, Any] = ours if isinstance(ours, dict) else {}
        data = {key: value for key, value in node.items() if key not in NODE_FIELDS and key not in COLUMNS}
        beside = {key: value for key, value in node.items() if key in COLUMNS and (key != OURS or ours is not about)}
        if beside:
            data["node"] = beside
        if extra := split_off(position, "x", "y"):
            data["position"] = extra
        size = node.get("size")
        width = height = None
        if isinstance(size, dict):
            width, height = a_number(size.get("width")), a_number(size.get("height"))
            left = {
                key: value for key, value in size.items() if key not in ("width", "height") or a_number(value) is None
            }
            if left or not size:
                data["size"] = left
        elif "size" in node:
            data["size"] = size
        result = node.get("result")
        if about.get("image") is True:
            # Not the node's own: it says which picture a canvas entry shows.
            data.pop("result", None)
        if isinstance(about.get("data"), dict):
            data |= about["data"]
        digest = None
        if isinstance(result, dict) and result.get("kind") in (*_LOCAL_KINDS, "url"):
            file = self._files.get(str(result.get("id")))
            if file is None and result["kind"] == "url":
                file = next((f for f in self._files.values() if f.foreign[NAME].get("url") == result.get("url")), None)
            if file is None and result["kind"] == "embedded":
                raise Refused(f"{where}.result names the asset {result.get('id')!r:.80}, which is not in the package.")
            digest = file.asset.digest if file is not None else None
        z = about.get("z")
        return Entry(
            id=text(f"{where}.id", node.get("id")),
            session_id="",
            type=text(f"{where}.type", node.get("type")),
            x=number(f"{where}.position.x", position.get("x")),
            y=number(f"{where}.position.y", position.get("y")),
            width=width,
            height=height,
            z=z if isinstance(z, int) and not isinstance(z, bool) and abs(z) < 2**63 else at,
            digest=digest,
            text=a_text(about.get("text")),
            generation_id=a_text(about.get("generationId")),
            data=data,
        )


def _edge(where: str, edge: dict[str, Any]) -> Edge:
    fields = {name: edge.get(name) for name in EDGE_FIELDS}
    for name, value in fields.items():
        if value is not None or name in ("source", "target"):
            text(f"{where}.{name}", value)
    # A handle that is null is written back as null.
    data = {key: value for key, value in edge.items() if key != "id" and (key not in EDGE_FIELDS or value is None)}
    ours = data.pop(OURS, None)
    if isinstance(ours, dict) and isinstance(ours.get("data"), dict):
        data |= ours["data"]
    elif ours is not None:
        data[OURS] = ours
    return Edge(
        id=text(f"{where}.id", edge.get("id")), session_id="", source=fields["source"] or "",
        target=fields["target"] or "", source_handle=fields["sourceHandle"], target_handle=fields["targetHandle"],
        data=data,
    )  # fmt: skip


def _ns(value: Any) -> int:
    """Nanoseconds that MixFS wrote; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else 0


def _list(name: str, document: Mapping[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    items = document.get(key, [])
    if not isinstance(items, list):
        raise Refused(f"{name}: {key} must be a list.")
    for at, item in enumerate(items):
        if not isinstance(item, dict):
            raise Refused(f"{name}: {key}[{at}] must be an object.")
        yield at, item


def _check_ids(where: str, ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        twice = next(one for at, one in enumerate(ids) if one in ids[:at])
        raise Refused(f"{where}: the id {twice!r:.80} stands there twice.")


def _viewport(viewport: Any, rest: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Zoom and pan offset; what they don't say stays in `rest`."""
    if not isinstance(viewport, dict):
        if viewport is not None:
            rest["viewport"] = viewport
        return None, None, None
    values = a_number(viewport.get("zoom")), a_number(viewport.get("x")), a_number(viewport.get("y"))
    left = {
        key: value for key, value in viewport.items() if key not in ("zoom", "x", "y") or a_number(value) is None
    }
    if left or not viewport:
        rest["viewport"] = left
    return values
