"""Storage V2, a desktop app's folder: sessions/, images/, image_registry.json and logs.jsonl. In and out; V1 in.

A session is a session, its canvas_images are entries, its generations generations, and the images that they name are
files of it. The app's own image hashes go out as they came. docs/formats/storage-v2.md says what is kept and changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixfs.errors import InvalidValue, os_words
from mixfs.formats.base import (
    FoundFile,
    Piece,
    Problem,
    Source,
    beside,
    data_uri,
    head_of,
    iso_ns,
    iso_offset_s,
    number,
    split_off,
    text,
)
from mixfs.formats.lost import NAMES, TIMES, Lost
from mixfs.ids import Digest, derived_id
from mixfs.library import canvas_json, documents, editing
from mixfs.library.api import Library
from mixfs.library.exporting import new_folder
from mixfs.library.view import View
from mixfs.media.sniff import extension
from mixfs.names import safe_name
from mixfs.records import Edge, Entry, Generation, ImageRef, Placement, Session

NAME = "storage-v2"
TITLE = "Storage V2 folder"
REGISTRY, LOGS = "image_registry.json", "logs.jsonl"
_CANVAS, _GENERATIONS = "_canvas.json", "_generations.json"
_UNNAMED = "images"
_ENTRY_FIELDS = ("canvasId", "type", "x", "y", "width", "height", "text", "generationId")
_SETTINGS = (
    "negative_prompt", "model_hash", "seed", "steps", "cfg", "sampler", "scheduler", "width", "height", "loras",
)  # fmt: skip


def detect(path: Path) -> bool:
    """A folder with an image_registry.json, or one with a single such folder; a V1 session with data URIs, or sessions/
    of such."""
    if path.is_file():
        return _is_v1(path)
    return _root(path) is not None


def _root(path: Path) -> Path | None:
    """The folder that has sessions/ in it."""
    if not path.is_dir():
        return None
    if _is_root(path):
        return path
    found = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_root(child)]
    return found[0] if len(found) == 1 else None


def _is_root(path: Path) -> bool:
    if b'"images"' in head_of(path / REGISTRY) and head_of(path / REGISTRY, 64).lstrip()[:1] == b"{":
        return True
    first = next(iter(sorted((path / "sessions").glob("*.json"))), None) if (path / "sessions").is_dir() else None
    return first is not None and (_is_v1(first) or first.name.endswith(_CANVAS))


def _is_v1(path: Path) -> bool:
    head = head_of(path, 64 << 10)
    words = (b'"session_id"', b'"canvas_images"', b'"dataUri"')
    return head.lstrip()[:1] == b"{" and all(word in head for word in words)


# -- in


def read(source: Source) -> Iterator[Piece | Problem]:
    """A piece for each session; one more for images that no session names."""
    if source.path.is_file():
        yield from _Reader(source, source.path.parent).version_1(source.path)
        return
    root = _root(source.path)
    assert root is not None
    yield from _Reader(source, root).run()


class _Reader:
    """The reading of one folder."""

    def __init__(self, source: Source, root: Path) -> None:
        self._source, self._root = source, root
        self._images: dict[str, dict[str, Any]] = {}
        self._named: set[str] = set()
        self._logs: dict[str, list[list[Any]]] = {}

    def run(self) -> Iterator[Piece | Problem]:
        registry: dict[str, Any] = {}
        problems: list[Problem] = []
        if (self._root / REGISTRY).exists():
            registry = self._json(self._root / REGISTRY, problems) or {}
            images = registry.get("images")
            for key, info in images.items() if isinstance(images, dict) else ():
                if isinstance(info, dict):
                    self._images[key] = info
                else:
                    problems.append(Problem(f"{REGISTRY}: images.{key}", "It must be an object."))
        folder = self._root / "sessions"
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        ids = list(dict.fromkeys(name.removesuffix(_CANVAS).removesuffix(_GENERATIONS) for name in names))
        self._source.total = len(ids)
        problems += self._read_logs({each for each in ids if not each.endswith(".json")}, ids[0] if ids else "")
        yield from problems
        for at, session_id in enumerate(ids):
            if session_id.endswith(".json"):
                yield from self.version_1(folder / session_id)
            else:
                yield from self._session(folder, session_id, split_off(registry, "images") if at == 0 else {})
            self._source.done += 1
        yield from self._unnamed()

    def _json(self, path: Path, problems: list[Problem]) -> dict[str, Any] | None:
        try:
            return canvas_json.parse(path.read_bytes())
        except InvalidValue as error:
            problems.append(Problem("", str(error), str(path)))
        except OSError as error:
            problems.append(Problem("", os_words(error), str(path)))
        return None

    def _read_logs(self, ids: set[str], first: str) -> Iterator[Problem]:
        """Log lines, each with its place among all, to the session that it names, else to the first."""
        if not (self._root / LOGS).is_file():
            return
        with (self._root / LOGS).open("rb") as file:
            for at, data in enumerate(file):
                if not data.strip():
                    continue
                try:
                    line = canvas_json.parse(data)
                except InvalidValue as error:
                    yield Problem(f"{LOGS}, line {at + 1}", str(error))
                    continue
                context = line.get("context")
                named = context.get("sessionId") if isinstance(context, dict) else None
                self._logs.setdefault(named if named in ids else first, []).append([at, line])

    def _session(self, folder: Path, session_id: str, registry: dict[str, Any]) -> Iterator[Piece | Problem]:
        problems: list[Problem] = []
        canvas: dict[str, Any] = {}
        history: dict[str, Any] = {}
        if (folder / f"{session_id}{_CANVAS}").exists():
            canvas = self._json(folder / f"{session_id}{_CANVAS}", problems) or {}
        if (folder / f"{session_id}{_GENERATIONS}").exists():
            history = self._json(folder / f"{session_id}{_GENERATIONS}", problems) or {}
        files: dict[str, FoundFile] = {}
        generations: list[Generation] = []
        for place, item in _items(history, "generations", problems, str(folder / f"{session_id}{_GENERATIONS}")):
            try:
                generations.append(self._generation(item, files, problems))
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(folder / f"{session_id}{_GENERATIONS}")))
        entries: list[Entry] = []
        for place, item in _items(canvas, "canvas_images", problems, str(folder / f"{session_id}{_CANVAS}")):
            try:
                alias = text(item.get("imageHash"))
                file = self._file(alias, files, problems, "output") if alias is not None else None
                entries.append(_entry(item, text(item.get("canvasId")), len(entries), file))
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(folder / f"{session_id}{_CANVAS}")))
        kept = {
            "canvas": split_off(canvas, "session_id", "title", "canvas_images", "zoom", "panOffset", "user"),
            "generations": split_off(history, "session_id", "generations"),
            "logs": self._logs.get(session_id, []), "registry": registry,
        }  # fmt: skip
        yield from problems
        yield Piece(
            place=session_id, session=_head(session_id, canvas, kept), files=tuple(files.values()),
            entries=tuple(entries), generations=tuple(generations),
        )  # fmt: skip

    def _unnamed(self) -> Iterator[Piece | Problem]:
        """What the registry has and no session names: in a session called like the folder."""
        files: dict[str, FoundFile] = {}
        problems: list[Problem] = []
        for alias in self._images:
            if alias not in self._named:
                self._file(alias, files, problems, "output")
        yield from problems
        if files:
            title = (self._root.name or NAME).encode("utf-8", "replace").decode()
            own_id = derived_id(b"storage-v2", title.encode())
            session = Session(id=own_id, title=title, foreign={NAME: {_UNNAMED: True}})
            yield Piece(place=REGISTRY, session=session, files=tuple(files.values()))

    def _file(
        self, alias: str, files: dict[str, FoundFile], problems: list[Problem], role: str,
        ref: Mapping[str, Any] | None = None,
    ) -> FoundFile | None:  # fmt: skip
        if alias in files:
            return files[alias]
        self._named.add(alias)
        info = self._images.get(alias, {})
        path = text(info.get("file_path"))
        if path is None and ref is not None and text(ref.get("filename")):
            path = f"images/{ref['filename']}"
        place = f"{REGISTRY}: images.{alias}"
        try:
            if path is None:
                raise InvalidValue("It has no file_path.")
            asset = self._source.take_file(beside(self._root, path))
        except (OSError, InvalidValue) as error:
            problems.append(Problem(place, os_words(error) if isinstance(error, OSError) else str(error)))
            return None
        files[alias] = FoundFile(
            id=alias, place=place, asset=asset, name=safe_name(path.rpartition("/")[2], "image"), role=role,
            mtime_ns=iso_ns(info.get("imported_at")),
            foreign={NAME: {"hash": alias, "digest": asset.digest.hex(), "info": info}},
        )  # fmt: skip
        return files[alias]

    def _generation(self, item: dict[str, Any], files: dict[str, FoundFile], problems: list[Problem]) -> Generation:
        refs: dict[str, list[ImageRef]] = {}
        for key, role in (("input_images", "input"), ("output_images", "output")):
            refs[key] = []
            listed = item.get(key)
            for ref in listed if isinstance(listed, list) else ():
                if not isinstance(ref, dict):
                    raise InvalidValue(f"{key} must be objects.")
                alias = text(ref.get("hash"))
                file = self._file(alias, files, problems, role, ref) if alias is not None else None
                refs[key].append(
                    ImageRef(
                        digest=file.asset.digest if file is not None else None, name=text(ref.get("filename")) or "",
                        role=role, size=file.asset.size if file is not None else 0,
                        placement_id=alias if file is not None else None,
                    )
                )  # fmt: skip
        return dataclasses.replace(_run(item), inputs=tuple(refs["input_images"]), outputs=tuple(refs["output_images"]))

    # -- V1

    def version_1(self, path: Path) -> Iterator[Piece | Problem]:
        """A session with its pictures as data URIs."""
        problems: list[Problem] = []
        document = self._json(path, problems)
        yield from problems
        if document is None:
            return
        session_id = text(document.get("session_id"))
        if not session_id:
            yield Problem("session_id", "It must be a text.", str(path))
            return
        files: list[FoundFile] = []
        entries: list[Entry] = []
        problems = []
        for at, (place, item) in enumerate(_items(document, "canvas_images", problems, str(path))):
            entry_id = text(item.get("id")) or text(item.get("canvasId"))
            try:
                file = None
                if text(item.get("dataUri")) is not None:
                    asset = self._source.take_bytes(data_uri(item["dataUri"]))
                    name = safe_name(f"{entry_id}", "image", 240) + extension(asset.media_type).encode()
                    file = FoundFile(id=f"{entry_id}", place=place, asset=asset, name=name)
                entries.append(_entry(split_off(item, "id", "dataUri"), entry_id, at, file))
                if file is not None:
                    files.append(file)
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(path)))
        generations: list[Generation] = []
        for place, item in _items(document, "generations", problems, str(path)):
            try:
                generations.append(_run(item))
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(path)))
        fields = ("session_id", "title", "canvas_images", "generations", "zoom", "panOffset", "user")
        yield from problems
        yield Piece(
            place=session_id, session=_head(session_id, document, {"v1": split_off(document, *fields)}),
            files=tuple(files), entries=tuple(entries), generations=tuple(generations),
        )  # fmt: skip


def _items(
    document: dict[str, Any], key: str, problems: list[Problem], file: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    items = document.get(key, [])
    if not isinstance(items, list):
        problems.append(Problem(key, "It must be a list.", file))
        return
    for at, item in enumerate(items):
        if isinstance(item, dict):
            yield f"{key}[{at}]", item
        else:
            problems.append(Problem(f"{key}[{at}]", "It must be an object.", file))


def _head(session_id: str, canvas: Mapping[str, Any], kept: dict[str, Any]) -> Session:
    user, pan = canvas.get("user"), canvas.get("panOffset")
    user = user if isinstance(user, dict) else {}
    pan = pan if isinstance(pan, dict) else {}
    kept = kept | {"user": split_off(user, "id", "displayName"), "panOffset": split_off(pan, "x", "y")}
    return Session(
        id=session_id, title=text(canvas.get("title")) or "", created_ns=iso_ns(canvas.get("created_at")),
        user_id=text(user.get("id")), user_name=text(user.get("displayName")), zoom=number(canvas.get("zoom")),
        pan_x=number(pan.get("x")), pan_y=number(pan.get("y")),
        foreign={NAME: {key: value for key, value in kept.items() if value}},
    )  # fmt: skip


def _entry(item: dict[str, Any], entry_id: str | None, z: int, file: FoundFile | None) -> Entry:
    if not entry_id:
        raise InvalidValue("It has no id.")
    data = {key: value for key, value in item.items() if key not in _ENTRY_FIELDS or value is None}
    return Entry(
        id=entry_id, session_id="", type=canvas_json.text("type", item.get("type", "image")),
        x=canvas_json.number("x", item.get("x", 0)), y=canvas_json.number("y", item.get("y", 0)),
        width=canvas_json.optional(canvas_json.number, "width", item.get("width")),
        height=canvas_json.optional(canvas_json.number, "height", item.get("height")), z=z,
        digest=file.asset.digest if file is not None else None,
        text=canvas_json.optional(canvas_json.text, "text", item.get("text")),
        generation_id=canvas_json.optional(canvas_json.text, "generationId", item.get("generationId")), data=data,
    )  # fmt: skip


def _run(item: dict[str, Any]) -> Generation:
    """A generation without its images. Raises InvalidValue."""
    parameters = item.get("parameters")
    parameters = dict(parameters) if isinstance(parameters, dict) else {}
    model = parameters.pop("model") if isinstance(parameters.get("model"), str) else None
    duration, state = item.get("generation_time_ms"), item.get("canvas_state")
    return Generation(
        id=canvas_json.text("generation_id", item.get("generation_id")), session_id="",
        time_ns=iso_ns(item.get("timestamp")), utc_offset_s=iso_offset_s(item.get("timestamp")),
        status=text(item.get("status")) or "completed",
        prompt=text(item.get("prompt")), model=model, parameters=parameters, error=text(item.get("error")),
        duration_ms=duration if isinstance(duration, int) and not isinstance(duration, bool) else None,
        canvas_state=state if isinstance(state, dict) else None, foreign={NAME: item},
    )  # fmt: skip


# -- out


@dataclass(slots=True)
class Written:
    """What went out."""

    files: int = 0
    bytes: int = 0


def not_carried(library: Library, session_ids: list[str]) -> tuple[str, ...]:
    """What of sessions a Storage V2 folder can't carry, for a human, one line each."""
    lost = Lost()
    with library.read() as view:
        for session_id in session_ids:
            session = editing.require_session(view, session_id)
            lost.folders(view, session_id)
            lost.count("connections", sum(1 for _ in view.members(Edge, session_id)))
            lost.annotations(view, session_id)
            _lost_files(view, session, lost)
            for generation in view.members(Generation, session_id):
                if NAME not in generation.foreign:
                    among = any(getattr(generation, name) not in (None, ()) for name in _SETTINGS)
                    lost.count("seeds, steps and the like as such: they come back among the parameters", among)
                    lost.count("generators of generations", generation.generator is not None)
            lost.newer(view, session_id)
    return lost.lines()


def _lost_files(view: View, session: Session, lost: Lost) -> None:
    """What a folder, in which images are named by canvases and generations, doesn't say of a session's files."""
    roles = _roles(view, session.id)
    seen: set[Digest] = set()
    for placement in view.members(Placement, session.id):
        digest = placement.digest
        if digest not in roles:
            if placement.area != "images":
                lost.count("files that are no picture")
            elif not session.foreign.get(NAME, {}).get(_UNNAMED):
                lost.count("pictures that no canvas or generation of their session names, so that they go apart")
        elif digest in seen:
            lost.count("second names of one picture in a session")
        elif placement.foreign.get(NAME, {}).get("digest") != digest.hex():
            lost.count(NAMES)
            lost.count("roles of pictures", placement.role != roles[digest])
            lost.count(TIMES, placement.mtime_ns // 1_000_000 != placement.added_ns // 1_000_000)
        seen.add(digest)


def _roles(view: View, session_id: str) -> dict[Digest, str]:
    """What a session's generations and entries name, and the role that an import gives it."""
    roles: dict[Digest, str] = {}
    generations = sorted(view.members(Generation, session_id), key=lambda each: (each.time_ns, each.shown_id))
    for generation in generations:
        for refs, role in ((generation.inputs, "input"), (generation.outputs, "output")):
            for ref in refs:
                if ref.digest is not None:
                    roles.setdefault(ref.digest, role)
    for entry in view.members(Entry, session_id):
        if entry.digest is not None:
            roles.setdefault(entry.digest, "output")
    return roles


def write(library: Library, session_ids: list[str], target: Path) -> Written:
    """Write sessions as a Storage V2 folder to `target`, which must not exist or be empty.

    Raises NotFoundError, ExistsError, UnsuitablePlace, BlobMissing, BlobDamaged, OSError.
    """
    with new_folder(library.root, target) as folder:
        with library.read() as view:
            writer = _Writer(library, view, folder)
            for session_id in session_ids:
                writer.session(editing.require_session(view, session_id))
        writer.finish()
        return writer.written


class _Writer:
    """The writing of one folder."""

    def __init__(self, library: Library, view: View, folder: Path) -> None:
        self._library, self._view, self._folder = library, view, folder
        self._registry: dict[str, Any] = {"version": "2.0"}
        self._images: dict[str, Any] = {}
        self._aliases: dict[Digest, str] = {}
        self._logs: list[list[Any]] = []
        self.written = Written()
        for name in ("images", "sessions"):
            (folder / name).mkdir()

    def finish(self) -> None:
        """Write what all sessions share."""
        self._json(REGISTRY, self._registry | {"images": self._images})
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for _, line in sorted(self._logs, key=lambda log: log[0]))
        self._bytes(LOGS, "".join(lines).encode("utf-8", "replace"))

    def session(self, session: Session) -> None:
        """Write a session, and the images that it has and none before."""
        kept = session.foreign.get(NAME, {})
        self._registry |= kept.get("registry", {})
        self._logs += kept.get("logs", [])
        named = _roles(self._view, session.id)
        for placement in self._view.members(Placement, session.id):
            if placement.area == "images" or placement.digest in named:
                self._image(placement)
        if kept.get(_UNNAMED) and not named:
            return
        changed_ns = self._view.session_row(session.id).mtime_ns
        canvas: dict[str, Any] = {"version": "2.0", "created_at": documents.iso(session.created_ns)}
        canvas["updated_at"] = documents.iso(changed_ns)
        canvas |= kept.get("canvas", {}) | kept.get("v1", {})
        canvas |= {"session_id": session.id, "title": session.title}
        pan = kept.get("panOffset", {}) | {"x": session.pan_x, "y": session.pan_y}
        user = kept.get("user", {}) | {"displayName": session.user_name, "id": session.user_id}
        entries = sorted(self._view.members(Entry, session.id), key=lambda entry: (entry.z, entry.shown_id))
        canvas["canvas_images"] = [self._entry(entry) for entry in entries]
        canvas |= {"zoom": session.zoom, "panOffset": pan, "user": user}
        generations = sorted(self._view.members(Generation, session.id), key=lambda each: (each.time_ns, each.shown_id))
        history = {"version": "2.0"} | kept.get("generations", {}) | {"session_id": session.id}
        history["generations"] = [self._generation(generation) for generation in generations]
        # Ids of other layouts may have what a file name can't.
        name = safe_name(session.id, "session", 200).decode()
        self._json(f"sessions/{name}{_CANVAS}", canvas)
        self._json(f"sessions/{name}{_GENERATIONS}", history)

    def _image(self, placement: Placement) -> None:
        kept, digest = placement.foreign.get(NAME, {}), placement.digest
        if digest in self._aliases:
            return
        image = self._view.image(digest)
        info: dict[str, Any]
        if kept.get("digest") == digest.hex() and kept.get("hash") not in self._images:
            alias, info = kept["hash"], dict(kept.get("info", {}))
        else:
            # It never was in such a folder, or was changed since: it goes by its digest.
            alias = digest.hex()
            kind = "input" if placement.role in ("input", "reference", "control") else "output"
            suffix = extension(image.media_type) if image is not None else ""
            info = {
                "id": image.id if image is not None else placement.id, "hash": alias,
                "original_name": documents.text_of(placement.original_name or placement.name),
                "imported_at": documents.iso(placement.added_ns), "size_bytes": placement.size,
                "width": image.width if image is not None else None,
                "height": image.height if image is not None else None,
                "mime_type": image.media_type if image is not None else "",
                "file_path": f"images/{kind}_{placement.added_ns // 1_000_000}_{alias[:6]}{suffix}",
            }  # fmt: skip
        self._aliases[digest] = alias
        if info:
            self._images[alias] = info
        path = text(info.get("file_path")) or f"images/{documents.text_of(placement.name)}"
        target = beside(self._folder, path)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in self._library.blobs.chunks(digest):
                self.written.bytes += file.write(chunk)
        self.written.files += 1

    def _entry(self, entry: Entry) -> dict[str, Any]:
        item: dict[str, Any] = json.loads(documents.entry_item(entry))
        if entry.digest is not None:
            item["imageHash"] = self._aliases.get(entry.digest, entry.digest.hex())
        return item

    def _generation(self, generation: Generation) -> dict[str, Any]:
        kept = generation.foreign.get(NAME)
        item: dict[str, Any] = json.loads(documents.generation_item(generation))
        for refs, key in ((generation.inputs, "input_images"), (generation.outputs, "output_images")):
            for ref, said in zip(refs, item[key], strict=True):
                if ref.digest is not None:
                    said["hash"] = self._aliases.get(ref.digest, ref.digest.hex())
        if generation.error is not None:
            item["error"] = generation.error
        if not isinstance(kept, Mapping):
            return item
        was = _run(dict(kept))
        names = ("time_ns", "status", "prompt", "model", "parameters", "error", "duration_ms", "canvas_state")
        # As it came, as far as it still is so.
        if all(getattr(was, name) == getattr(generation, name) for name in names):
            return dict(kept)
        return dict(kept) | split_off(item, "input_images", "output_images")

    def _json(self, name: str, value: Any) -> None:
        self._bytes(name, documents.to_json(value))

    def _bytes(self, name: str, data: bytes) -> None:
        self.written.bytes += (self._folder / name).write_bytes(data)
        self.written.files += 1
