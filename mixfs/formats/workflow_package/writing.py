"""A session as a workflow package, and what of it a package has no place for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixfs import __version__, jsontext
from mixfs.blobs.intake import CHUNK
from mixfs.errors import BlobMissing, ExistsError, NotFoundError
from mixfs.formats.base import Asset
from mixfs.formats.fetching import fetch
from mixfs.formats.lost import NAMES, Lost, keeps_name
from mixfs.formats.workflow_package.parts import (
    COLUMNS,
    EDGE_FIELDS,
    NAME,
    NODE_FIELDS,
    OURS,
    VERSION,
    check_asset,
    digest_of,
)
from mixfs.ids import Digest
from mixfs.library import documents, editing
from mixfs.library.api import Library
from mixfs.library.exporting import check_outside, check_room, publish_file, size_of
from mixfs.library.view import View
from mixfs.media.sniff import HEAD_SIZE, extension, sniff
from mixfs.records import Edge, Entry, Generation, Placement


@dataclass(slots=True)
class Written:
    """What went out."""

    files: int = 0
    bytes: int = 0


def not_carried(library: Library, session_id: str) -> tuple[str, ...]:
    """What of a session a package can't carry, for a human, one line each."""
    lost = Lost()
    with library.read() as view:
        editing.require_session(view, session_id)
        lost.count("generations", sum(1 for _ in view.members(Generation, session_id)))
        lost.folders(view, session_id)
        lost.annotations(view, session_id)
        for placement in view.members(Placement, session_id):
            lost.count("extended attributes of files", bool(placement.xattrs))
            lost.count(NAMES, NAME not in placement.foreign and not keeps_name(placement, "asset"))
        lost.newer(view, session_id)
    return lost.lines()


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
    check_outside(library.root, target.parent)
    with library.read() as view:
        size = size_of((each.digest, each.size) for each in view.members(Placement, session_id))
    check_room(target.parent, size)
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
        with contextlib.suppress(PermissionError):  # of file systems without modes
            os.chmod(beside, 0o666 & ~umask)
        publish_file(Path(beside), target)
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
        ours: dict[str, Any] = {"userId": session.user_id, "userName": session.user_name}
        if not kept:
            ours["createdNs"] = session.created_ns
        ours = {key: value for key, value in ours.items() if value is not None}
        workflow |= rest | ({OURS: ours} if ours else {})
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
            # It was deleted here. Where a node shows the same picture of another session, it comes under its digest.
            return
        self._embedded(asset_id, placement.digest, asset, str(asset.get("file") or ""))

    def _placement(self, placement: Placement) -> None:
        kept = placement.foreign.get(NAME, {})
        if set(kept) == {"file"}:
            # A file of the package that its manifest does not name.
            self._put(kept["file"], self._library.blobs.chunks(placement.digest), zipfile.ZIP_STORED)
            return
        name = documents.text_of(placement.name)
        ours = {"name": name, "role": placement.role, "mtimeNs": placement.mtime_ns}
        self._embedded(placement.id, placement.digest, {OURS: ours}, "")

    def _embedded(self, asset_id: str, digest: Digest, asset: Mapping[str, Any], name: str) -> None:
        blob = self._view.blob(digest)
        if blob is None:
            raise BlobMissing(f"Blob {digest.hex()} is not in the library: `mixfs fsck` says what is missing.")
        name = name or self._free(asset_id, blob.media_type)
        out = dict(asset) | {"id": asset_id, "origin": "embedded", "file": name}
        if digest_of(asset.get("hash")) != digest:
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
            check_asset(f"The asset {asset_id}", asset, Asset(digest, size, media_type))
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
            if key == "node" and isinstance(value, Mapping) and value and COLUMNS.issuperset(value):
                node |= value
            elif key in COLUMNS or key in ("id", "type"):
                beside[key] = value
            elif key not in NODE_FIELDS:
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
        if entry.digest is None or not self._view.is_placed(entry.digest):
            # A picture that was deleted does not go out.
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
        key: value for key, value in edge.data.items() if key in taken or (key in EDGE_FIELDS and value is not None)
    }
    out |= {key: value for key, value in edge.data.items() if key not in beside}
    return out | ({OURS: {"data": beside}} if beside else {})


def _json(value: Any) -> Iterator[bytes]:
    yield jsontext.dumps(value, indent=1).encode()
