"""Workflow packages, `.genaiw.zip`: `manifest.json`, `workflow.json` and `assets/<assetId>.<ext>`.

A workflow is a session, a node an entry, a connection an edge; an asset is a placement. A package is taken whole or not
at all. docs/formats/workflow-package.md says what is kept, changed and not taken.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixfs import __version__
from mixfs.blobs.intake import CHUNK
from mixfs.errors import BlobMissing, ExistsError, InvalidValue, NotFoundError
from mixfs.formats.base import (
    Asset,
    FoundFile,
    Piece,
    Problem,
    Refused,
    Skipped,
    Source,
    TooLarge,
    head_of,
    split_off,
)
from mixfs.formats.base import number as a_number
from mixfs.formats.base import text as a_text
from mixfs.formats.fetching import NotFetched, fetch
from mixfs.formats.zips import open_checked
from mixfs.ids import Digest
from mixfs.journal.files import fsync_directory
from mixfs.library import canvas_json, documents, editing
from mixfs.library.api import Library
from mixfs.library.canvas_json import number, text
from mixfs.library.view import View
from mixfs.media.sniff import HEAD_SIZE, extension, sniff
from mixfs.names import safe_name
from mixfs.records import Edge, Entry, Folder, Generation, Placement, Session

NAME = "workflow-package"
TITLE = "workflow package (.genaiw.zip)"
VERSION = 1
OURS = "x-mixfs"
"""The field in which MixFS keeps what a package has no field for."""

_NODE_FIELDS = frozenset({"id", "type", "position", "size"})
# What canvas.json says of an entry itself: a node's field of such a name is kept beside, in `node`.
_COLUMNS = frozenset({"canvasId", "imageHash", "x", "y", "width", "height", "text", "generationId", "node", OURS})
_EDGE_FIELDS = ("source", "target", "sourceHandle", "targetHandle")
_LOCAL_KINDS = ("embedded", "opfs", "fs-handle", "idb")


def detect(path: Path) -> bool:
    """A ZIP file with a manifest.json that names a packageVersion."""
    if head_of(path, 4)[:2] != b"PK":
        return False
    if path.name.lower().endswith(".genaiw.zip"):
        return True
    try:
        with zipfile.ZipFile(path) as archive, archive.open("manifest.json") as file:
            return b'"packageVersion"' in file.read(1 << 20)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError, OSError):
        return False


# -- in


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
                _check_asset(where, asset, taken)
                self._file(asset_id, name, taken, dict(asset))
            elif asset.get("origin") == "url":
                self._url(where, asset_id, asset, asset.get("url"))

    def _url(self, where: str, asset_id: str, asset: Mapping[str, Any], url: Any) -> None:
        if not self._source.options.fetch or not isinstance(url, str):
            self.skipped.append(Skipped(where, f"It stays on the web: {url!s:.200}"))
            return
        if self._source.dry_run:
            self.skipped.append(Skipped(where, f"It would be downloaded: {url:.200}"))
            return
        try:
            with fetch(url, private=self._source.options.fetch_private) as download:
                taken = self._source.take_stream(download)
            _check_asset(where, asset, taken)
        except (NotFetched, Refused) as error:
            # The URL is kept; what it names may be had another time.
            self.skipped.append(Problem(where, str(error)))
            return
        self._file(asset_id, where, taken, dict(asset))

    def _file(self, asset_id: str, place: str, asset: Asset, foreign: dict[str, Any]) -> None:
        ours = foreign.get(OURS)
        given = ours.get("name") if isinstance(ours, dict) else None
        name = given if isinstance(given, str) else place.rpartition("/")[2] if place in self._names else asset_id
        wanted = safe_name(name, "asset")
        if b"." not in wanted:
            wanted = safe_name(name, "asset", 240) + extension(asset.media_type).encode()
        role = ours.get("role") if isinstance(ours, dict) else None
        self._files[asset_id] = FoundFile(
            id=asset_id, place=place, asset=asset, name=wanted, role=role if isinstance(role, str) else "output",
            foreign={NAME: foreign},
        )  # fmt: skip

    # -- nodes

    def _node(self, where: str, at: int, node: dict[str, Any]) -> Entry:
        position = node.get("position")
        if not isinstance(position, dict):
            raise InvalidValue(f"{where}.position must be an object with x and y.")
        ours = node.get(OURS)
        about: dict[str, Any] = ours if isinstance(ours, dict) else {}
        data = {key: value for key, value in node.items() if key not in _NODE_FIELDS and key not in _COLUMNS}
        beside = {key: value for key, value in node.items() if key in _COLUMNS and (key != OURS or ours is not about)}
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
            z=z if isinstance(z, int) and not isinstance(z, bool) else at,
            digest=digest,
            text=a_text(about.get("text")),
            generation_id=a_text(about.get("generationId")),
            data=data,
        )


def _edge(where: str, edge: dict[str, Any]) -> Edge:
    fields = {name: edge.get(name) for name in _EDGE_FIELDS}
    for name, value in fields.items():
        if value is not None or name in ("source", "target"):
            text(f"{where}.{name}", value)
    # A handle that is null is written back as null.
    data = {key: value for key, value in edge.items() if key != "id" and (key not in _EDGE_FIELDS or value is None)}
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


def _check_asset(where: str, asset: Mapping[str, Any], taken: Asset) -> None:
    """The bytes against what the manifest says of them."""
    if isinstance(asset.get("bytes"), int) and asset["bytes"] != taken.size:
        raise Refused(f"{where} has {taken.size} bytes, not {asset['bytes']}.")
    said = asset.get("hash")
    if said is None:
        return
    if _digest_of(said) != taken.digest:
        raise Refused(f"{where}: its SHA-256 is {taken.digest.hex()}, not {said!s:.80}.")


def _digest_of(said: Any) -> bytes | None:
    """The digest of `sha256-<hex>`, or of `sha256-<base64>` as web pages write it."""
    if not isinstance(said, str) or not said.lower().startswith("sha256-"):
        return None
    value = said[7:]
    try:
        return bytes.fromhex(value) if len(value) == 64 else base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return None


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


# -- out


@dataclass(slots=True)
class Written:
    """What went out."""

    files: int = 0
    bytes: int = 0


def not_carried(library: Library, session_id: str) -> tuple[str, ...]:
    """What of a session a package can't carry, for a human, one line each."""
    with library.read() as view:
        editing.require_session(view, session_id)
        placements = list(view.members(Placement, session_id))
        counts = {
            "generations": sum(1 for _ in view.members(Generation, session_id)),
            "folders": sum(1 for _ in view.members(Folder, session_id)),
            "tags, ratings and comments of pictures": sum(1 for p in placements if view.annotation(p.digest)),
            "extended attributes of files": sum(1 for p in placements if p.xattrs),
            "fields of a newer MixFS": sum(
                1 for cls in (Entry, Edge, Placement) for record in view.members(cls, session_id) if record.unknown
            ),
        }  # fmt: skip
    return tuple(f"{what} ({number})" for what, number in counts.items() if number)


def write(
    library: Library, session_id: str, target: Path, *, embed_remote: bool = False, fetch_private: bool = False
) -> Written:
    """Write a session as a package to `target`, which must not exist; nothing is left there on failure.

    With `embed_remote` assets that have a URL are downloaded, where the library has not got them, and embedded.
    Raises NotFoundError, ExistsError, BlobMissing, BlobDamaged, NotFetched, OSError.
    """
    if os.path.lexists(target):
        raise ExistsError(f"{target} exists: choose another name.")
    if not target.parent.is_dir():
        raise NotFoundError(f"There is no folder {target.parent} to write {target.name} in.")
    written = Written()
    fd, beside = tempfile.mkstemp(prefix=f".{target.name[:60]}.", suffix=".part", dir=target.parent)
    try:
        with library.read() as view, os.fdopen(fd, "w+b") as file:
            with zipfile.ZipFile(file, "w") as archive:
                _Writer(library, view, archive, embed_remote, fetch_private, written).write(session_id)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        # link(2) never replaces what somebody else has put there meanwhile.
        os.link(beside, target)
        fsync_directory(target.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
    return written


class _Writer:
    """The writing of one package."""

    def __init__(
        self, library: Library, view: View, archive: zipfile.ZipFile, embed: bool, private: bool, written: Written
    ) -> None:
        self._library, self._view, self._archive = library, view, archive
        self._embed, self._private, self._written = embed, private, written
        self._assets: dict[str, dict[str, Any]] = {}
        self._by_digest: dict[Digest, str] = {}
        self._by_url: dict[str, str] = {}
        self._names: set[str] = {"manifest.json", "workflow.json"}

    def write(self, session_id: str) -> None:
        session = editing.require_session(self._view, session_id)
        kept = session.foreign.get(NAME, {})
        manifest: dict[str, Any] = dict(kept.get("manifest", {})) or {
            "packageVersion": VERSION,
            "app": {"name": "MixFS", "version": __version__},
            "createdAt": documents.iso(self._view.session_row(session_id).mtime_ns),
        }
        about = manifest.get("workflow", {})
        name = about.get("file", "workflow.json")
        self._names.add(name)
        placements = {placement.id: placement for placement in self._view.members(Placement, session_id)}
        for asset in manifest.get("assets", []):
            own_id, _ = editing.member_id(self._view, Placement, session_id, str(asset.get("id")))
            self._asset(asset, placements.pop(own_id, None))
        for placement in placements.values():
            self._placement(placement)
        entries = sorted(self._view.members(Entry, session_id), key=lambda entry: (entry.z, entry.shown_id))
        order = {edge_id: at for at, edge_id in enumerate(kept.get("edges", []))}
        edges = sorted(
            self._view.members(Edge, session_id), key=lambda edge: (order.get(edge.shown_id, len(order)), edge.shown_id)
        )
        workflow: dict[str, Any] = {"id": session.id, "name": session.title}
        workflow["nodes"] = [self._node(at, entry) for at, entry in enumerate(entries)]
        workflow["edges"] = [_edge_out(edge) for edge in edges]
        rest = dict(kept.get("workflow", {}))
        viewport = {"x": session.pan_x, "y": session.pan_y, "zoom": session.zoom}
        viewport = {key: value for key, value in viewport.items() if value is not None}
        if viewport:
            extra = rest.get("viewport")
            rest["viewport"] = (extra if isinstance(extra, dict) else {}) | viewport
        user = {"userId": session.user_id, "userName": session.user_name}
        user = {key: value for key, value in user.items() if value is not None}
        workflow |= rest | ({OURS: user} if user else {})
        manifest["workflow"] = dict(about) | {"id": session.id, "file": name, "name": session.title}
        manifest["assets"] = list(self._assets.values())
        self._put(name, _json(workflow))
        self._put("manifest.json", _json(manifest))

    # -- assets

    def _asset(self, asset: dict[str, Any], placement: Placement | None) -> None:
        """An asset that the session came with, with the bytes that it has by now."""
        asset_id, url = str(asset["id"]), asset.get("url")
        if asset.get("origin") != "embedded":
            if not self._embed or not isinstance(url, str):
                self._assets[asset_id] = asset
                return
            self._by_url[url] = asset_id
            if placement is None:
                self._download(asset_id, asset, url)
                return
        if placement is None:
            # It was deleted here. What a node still shows comes in under the digest.
            return
        self._embedded(asset_id, placement.digest, asset, str(asset.get("file") or ""))

    def _placement(self, placement: Placement) -> None:
        kept = placement.foreign.get(NAME, {})
        if set(kept) == {"file"}:
            # A file of the package that its manifest does not name.
            self._put(kept["file"], self._library.blobs.chunks(placement.digest), zipfile.ZIP_STORED)
            return
        name = documents.text_of(placement.name)
        self._embedded(placement.id, placement.digest, {OURS: {"name": name, "role": placement.role}}, "")

    def _embedded(self, asset_id: str, digest: Digest, asset: Mapping[str, Any], name: str) -> None:
        blob = self._view.blob(digest)
        if blob is None:
            raise BlobMissing(f"Blob {digest.hex()} is not in the library: `mixfs fsck` says what is missing.")
        name = name or self._free(asset_id, blob.media_type)
        out = dict(asset) | {"id": asset_id, "origin": "embedded", "file": name}
        if _digest_of(asset.get("hash")) != digest:
            out |= {"mime": blob.media_type, "bytes": blob.size, "hash": f"sha256-{digest.hex()}"}
        self._assets[asset_id] = out
        self._by_digest.setdefault(digest, asset_id)
        self._put(name, self._library.blobs.chunks(digest), zipfile.ZIP_STORED)

    def _download(self, asset_id: str, asset: Mapping[str, Any], url: str) -> None:
        with tempfile.TemporaryFile() as file, fetch(url, private=self._private) as download:
            found, size, head = hashlib.sha256(), 0, b""
            while part := download.read():
                found.update(part)
                size += file.write(part)
                head = head or part[:HEAD_SIZE]
            digest, media_type = Digest(found.digest()), sniff(head)
            _check_asset(f"The asset {asset_id}", asset, Asset(digest, size, media_type))
            name = self._free(asset_id, media_type)
            out = {"mime": media_type, "bytes": size, "hash": f"sha256-{digest.hex()}"}
            self._assets[asset_id] = dict(asset) | out | {"origin": "embedded", "file": name}
            file.seek(0)
            self._put(name, iter(lambda: file.read(CHUNK), b""), zipfile.ZIP_STORED)

    def _free(self, asset_id: str, media_type: str) -> str:
        """A name below assets/ that nothing has."""
        stem, suffix = re.sub(r"[^A-Za-z0-9_-]", "_", asset_id)[:80], extension(media_type)
        name, at = f"assets/{stem}{suffix}", 2
        while name in self._names:
            name, at = f"assets/{stem}-{at}{suffix}", at + 1
        return name

    def _put(self, name: str, parts: Iterable[bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
        entry = zipfile.ZipInfo(name)
        entry.compress_type, entry.external_attr = compression, 0o644 << 16
        self._names.add(name)
        with self._archive.open(entry, "w", force_zip64=True) as file:
            for part in parts:
                self._written.bytes += file.write(part)
        self._written.files += 1

    # -- nodes

    def _node(self, at: int, entry: Entry) -> dict[str, Any]:
        node: dict[str, Any] = {"id": entry.shown_id, "type": entry.type}
        ours: dict[str, Any] = {"text": entry.text, "generationId": entry.generation_id}
        ours = {key: value for key, value in ours.items() if value is not None}
        if entry.z != at:
            ours["z"] = entry.z
        beside: dict[str, Any] = {}
        for key, value in entry.data.items():
            if key == "node" and isinstance(value, Mapping) and value and _COLUMNS.issuperset(value):
                node |= value
            elif key in _COLUMNS or key in ("id", "type"):
                beside[key] = value
            elif key not in _NODE_FIELDS:
                node[key] = value
        position, size = {"x": entry.x, "y": entry.y}, {"width": entry.width, "height": entry.height}
        _place(node, beside, "position", position, entry.data)
        _place(node, beside, "size", {key: value for key, value in size.items() if value is not None}, entry.data)
        self._result(entry, node, beside, ours)
        if beside:
            ours["data"] = beside
        if ours:
            node[OURS] = ours
        return node

    def _result(self, entry: Entry, node: dict[str, Any], beside: dict[str, Any], ours: dict[str, Any]) -> None:
        """The node's result, with references to what is embedded."""
        result = node.get("result")
        if "result" in node:
            node["result"] = result = self._rewritten(result)
        about = result if isinstance(result, dict) else {}
        kind = about.get("kind")
        if kind == "url" or (kind == "embedded" and about.get("id") in self._assets):
            return
        if "result" in node and (entry.digest is not None or kind == "embedded"):
            # It names nothing that is in the package, or another picture is shown.
            beside["result"] = node.pop("result")
        if entry.digest is None:
            return
        if entry.digest not in self._by_digest:
            self._embedded(entry.digest.hex(), entry.digest, {}, "")
        ours["image"] = True
        node["result"] = {"kind": "embedded", "id": self._by_digest[entry.digest]}

    def _rewritten(self, value: Any) -> Any:
        """References to URLs that are embedded now."""
        if isinstance(value, Mapping):
            if value.get("kind") == "url" and value.get("url") in self._by_url:
                return {"kind": "embedded", "id": self._by_url[value["url"]]}
            return {key: self._rewritten(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._rewritten(item) for item in value]
        return value


def _place(
    node: dict[str, Any], beside: dict[str, Any], key: str, columns: dict[str, Any], data: Mapping[str, Any]
) -> None:
    """A node's position or size: what the entry says, with what else came in it."""
    if key not in data:
        if columns:
            node[key] = columns
        return
    extra = data[key]
    if isinstance(extra, Mapping) and extra and columns.keys().isdisjoint(extra):
        node[key] = dict(extra) | columns
    elif columns or (isinstance(extra, Mapping) and extra):
        beside[key] = extra
        node[key] = columns
    else:
        node[key] = extra


def _edge_out(edge: Edge) -> dict[str, Any]:
    fields = {
        "source": edge.source, "target": edge.target, "sourceHandle": edge.source_handle,
        "targetHandle": edge.target_handle,
    }  # fmt: skip
    out: dict[str, Any] = {"id": edge.shown_id} | {key: value for key, value in fields.items() if value is not None}
    taken = {*out, OURS}
    beside = {
        key: value for key, value in edge.data.items() if key in taken or (key in _EDGE_FIELDS and value is not None)
    }
    out |= {key: value for key, value in edge.data.items() if key not in beside}
    return out | ({OURS: {"data": beside}} if beside else {})


def _json(value: Any) -> Iterator[bytes]:
    yield json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
