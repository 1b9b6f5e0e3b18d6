"""Storage V2, a desktop app's folder: sessions/, images/, image_registry.json and logs.jsonl. In and out; V1 in.

A session is a session, its canvas_images are entries, its generations generations, and the images that they name are
files of it. The app's own image hashes go out as they came. docs/formats/storage-v2.md says what is kept and changed.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mixfs import jsontext
from mixfs.errors import InvalidValue, os_words
from mixfs.formats import storage_v2_names
from mixfs.formats.base import (
    FoundFile,
    Piece,
    Problem,
    Source,
    beside,
    data_uri,
    head_of,
    number,
    split_off,
    text,
)
from mixfs.formats.lost import NAMES, TIMES, Lost
from mixfs.formats.storage_v2_names import GivenBack, name_of, renamed
from mixfs.ids import Digest
from mixfs.library import canvas_json, documents, editing
from mixfs.library import storage_v2 as documents_v2
from mixfs.library.api import Library
from mixfs.library.documents import iso_ns
from mixfs.library.exporting import new_folder, size_of, write_original
from mixfs.library.view import View
from mixfs.media.sniff import extension
from mixfs.names import safe_name
from mixfs.records import Edge, Entry, Generation, ImageRef, Placement, Session
from mixfs.regular_files import read_regular

NAME = "storage-v2"
TITLE = "Storage V2 folder"
REGISTRY, LOGS = documents_v2.REGISTRY, documents_v2.LOGS
_CANVAS, _GENERATIONS = documents_v2.CANVAS, documents_v2.GENERATIONS
_ENTRY_FIELDS = ("canvasId", "type", "x", "y", "width", "height", "text", "generationId")
_SETTINGS = (
    "negative_prompt", "model_hash", "seed", "steps", "cfg", "sampler", "scheduler", "width", "height", "loras",
)  # fmt: skip


def detect(path: Path) -> bool:
    """A folder with an image_registry.json, or one with such a folder and nothing else; a V1 session with data URIs, or
    sessions/ of such."""
    if path.is_file():
        return _is_v1(path)
    return _root(path) is not None


def _root(path: Path) -> Path | None:
    """The folder that has sessions/ in it."""
    if not path.is_dir():
        return None
    if _is_root(path):
        return path
    with os.scandir(path) as scan:
        # Most folders have more in them, and nothing of it need be looked at.
        seen = list(itertools.islice((Path(each.path) for each in scan if not each.name.startswith(".")), 2))
    return seen[0] if len(seen) == 1 and seen[0].is_dir() and _is_root(seen[0]) else None


def _is_root(path: Path) -> bool:
    head = jsontext.beginning(head_of(path / REGISTRY))
    if head.startswith("{") and '"images"' in head:
        return True
    first = next(iter(sorted((path / "sessions").glob("*.json"))), None) if (path / "sessions").is_dir() else None
    return first is not None and (_is_v1(first) or first.name.endswith(_CANVAS))


def _is_v1(path: Path) -> bool:
    head = jsontext.beginning(head_of(path, 64 << 10))
    return head.startswith("{") and all(word in head for word in ('"session_id"', '"canvas_images"', '"dataUri"'))


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
        # What was told of already, by hash and path: sessions name the same picture many times.
        self._told: set[tuple[str, str | None]] = set()
        self._logs: list[bytes] = []

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
                    problems.append(Problem(f"images.{key}", "It must be an object.", str(self._root / REGISTRY)))
        folder = self._root / "sessions"
        names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
        ids = list(dict.fromkeys(name.removesuffix(_CANVAS).removesuffix(_GENERATIONS) for name in names))
        self._source.total = len(ids)
        problems += self._read_logs()
        yield from problems
        for session_id in ids:
            if session_id.endswith(".json"):
                yield from self.version_1(folder / session_id)
            else:
                yield from self._session(folder, session_id)
            self._source.done += 1
        yield from self._unnamed(split_off(registry, "images"))

    def _json(self, path: Path, problems: list[Problem]) -> dict[str, Any] | None:
        try:
            return canvas_json.parse(read_regular(path, canvas_json.LIMIT))
        except InvalidValue as error:
            problems.append(Problem("", str(error), str(path)))
        except OSError as error:
            problems.append(Problem("", os_words(error), str(path)))
        return None

    def _read_logs(self) -> Iterator[Problem]:
        """Take the log's lines as they are."""
        path = self._root / LOGS
        if not os.path.lexists(path):
            return
        try:
            lines = read_regular(path, canvas_json.LIMIT).split(b"\n")
        except OSError as error:
            yield Problem("", os_words(error), str(path))
            return
        for at, data in enumerate(lines):
            if not data.strip():
                continue
            try:
                line = canvas_json.parse(data)
            except InvalidValue as error:
                yield Problem(f"line {at + 1}", str(error), str(path))
                continue
            text = jsontext.decode(data).strip()
            self._logs.append((text if jsontext.is_strict(text) else jsontext.dumps(line)).encode())

    def _session(self, folder: Path, session_id: str) -> Iterator[Piece | Problem]:
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
                generations.append(generation_of(item, lambda *ref: self._reference(files, problems, *ref)))
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(folder / f"{session_id}{_GENERATIONS}")))
        entries: list[Entry] = []
        for place, item in _items(canvas, "canvas_images", problems, str(folder / f"{session_id}{_CANVAS}")):
            try:
                alias = text(item.get("imageHash"))
                file = self._file(alias, files, problems, "output") if alias is not None else None
                digest = file.asset.digest if file is not None else None
                entries.append(entry_of(item, text(item.get("canvasId")), len(entries), digest))
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(folder / f"{session_id}{_CANVAS}")))
        lacks = [
            suffix for suffix in (_CANVAS, _GENERATIONS) if not (folder / f"{session_id}{suffix}").exists()
        ]  # fmt: skip
        kept: dict[str, Any] = {"lacks": lacks}
        if _CANVAS not in lacks:
            kept |= kept_of_canvas(session_id, canvas)
        if _GENERATIONS not in lacks:
            kept |= kept_of_history(session_id, history)
        yield from problems
        yield Piece(
            place=session_id, session=session_head(session_id, canvas, kept), files=tuple(files.values()),
            entries=tuple(entries), generations=placed(generations), log=tuple(self._logs),
            thumbnails=tuple(self._thumbnails(session_id)), settled=storage_v2_names.settled,
        )  # fmt: skip
        self._logs = []

    def _thumbnails(self, session_id: str) -> Iterator[tuple[str, Path]]:
        folder = self._root / "thumbnails" / session_id
        if documents_v2.stem_of(session_id) != session_id.encode("utf-8", "surrogateescape"):
            # It could lead out of the folder.
            return
        if folder.is_dir() and not folder.is_symlink():
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.is_symlink():
                    yield session_id, path

    def _reference(
        self, files: dict[str, FoundFile], problems: list[Problem], alias: str, role: str, ref: Mapping[str, Any]
    ) -> Found | None:
        file = self._file(alias, files, problems, role, ref)
        return Found(file.asset.digest, file.asset.size, alias) if file is not None else None

    def _unnamed(self, registry: dict[str, Any]) -> Iterator[Piece | Problem]:
        """What the registry has and no session names, and what else it says: in a session called like the folder."""
        files: dict[str, FoundFile] = {}
        problems: list[Problem] = []
        for alias in self._images:
            if alias not in self._named:
                self._file(alias, files, problems, "output")
        yield from problems
        if files or self._logs or registry not in ({}, {"version": "2.0"}):
            title = (self._root.name or NAME).encode("utf-8", "replace").decode()
            session = Session(id=documents_v2.POOL_ID, title=title, foreign={NAME: {"registry": registry}})
            yield Piece(
                place=REGISTRY, session=session, files=tuple(files.values()), log=tuple(self._logs),
                settled=storage_v2_names.settled,
            )  # fmt: skip

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
            if (alias, path) not in self._told:
                self._told.add((alias, path))
                words = os_words(error) if isinstance(error, OSError) else str(error)
                problems.append(Problem(f"images.{alias}", words, str(self._root / REGISTRY)))
            return None
        files[alias] = FoundFile(
            id=alias, place=place, asset=asset, name=safe_name(re.split(r"[/\\]", path)[-1], "image"), role=role,
            mtime_ns=iso_ns(info.get("imported_at")),
            foreign={NAME: {"hash": alias, "file": re.split(r"[/\\]", path)[-1], "info": info}},
        )  # fmt: skip
        return files[alias]

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
                file, digest = None, None
                if text(item.get("dataUri")) is not None:
                    asset = self._source.take_bytes(data_uri(item["dataUri"]))
                    name = safe_name(f"{entry_id}", "image", 240) + extension(asset.media_type).encode()
                    file, digest = FoundFile(id=f"{entry_id}", place=place, asset=asset, name=name), asset.digest
                entries.append(entry_of(split_off(item, "id", "dataUri"), entry_id, at, digest))
                if file is not None:
                    files.append(file)
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(path)))
        generations: list[Generation] = []
        for place, item in _items(document, "generations", problems, str(path)):
            try:
                run = generation_of(split_off(item, "input_images", "output_images"), lambda *ref: None)
                generations.append(dataclasses.replace(run, foreign={NAME: item}))
            except InvalidValue as error:
                problems.append(Problem(place, str(error), str(path)))
        fields = ("session_id", "title", "canvas_images", "generations", "zoom", "panOffset", "user")
        yield from problems
        yield Piece(
            place=session_id, session=session_head(session_id, document, {"v1": split_off(document, *fields)}),
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


_CANVAS_FIELDS = ("session_id", "title", "canvas_images", "zoom", "panOffset", "user")


def kept_of_canvas(session_id: str, canvas: Mapping[str, Any]) -> dict[str, Any]:
    """What a session keeps of SID_canvas.json, for what no field has."""
    kept = split_off(canvas, *_CANVAS_FIELDS) | _other_id(session_id, canvas)
    # Of another type than the app's own: given back as it came, as long as nobody says otherwise here.
    for name, fits in _FITS.items():
        if name in canvas and not fits(canvas[name]):
            kept[name] = canvas[name]
    user, pan = canvas.get("user"), canvas.get("panOffset")
    return {
        "canvas": kept,
        "user": split_off(user, "id", "displayName") if isinstance(user, dict) else {},
        "panOffset": split_off(pan, "x", "y") if isinstance(pan, dict) else {},
    }


_FITS: dict[str, Callable[[Any], bool]] = {
    "title": lambda value: isinstance(value, str) and bool(value.strip()),
    "zoom": lambda value: number(value) is not None,
    "panOffset": lambda value: isinstance(value, dict) and any(number(value.get(name)) is not None for name in "xy"),
    "user": lambda value: isinstance(value, dict) and any(text(value.get(name)) for name in ("displayName", "id")),
}


def kept_of_history(session_id: str, history: Mapping[str, Any]) -> dict[str, Any]:
    """What a session keeps of SID_generations.json."""
    return {"generations": split_off(history, "session_id", "generations") | _other_id(session_id, history)}


def _other_id(session_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The file's name says which session it is; another id that stands in it is given back."""
    said = document.get("session_id", session_id)
    return {"session_id": said} if said != session_id else {}


def session_head(session_id: str, canvas: Mapping[str, Any], kept: Mapping[str, Any]) -> Session:
    """A session's own record, of its canvas document."""
    user, pan = canvas.get("user"), canvas.get("panOffset")
    user = user if isinstance(user, dict) else {}
    pan = pan if isinstance(pan, dict) else {}
    return Session(
        id=session_id, title=text(canvas.get("title")) or "", created_ns=iso_ns(canvas.get("created_at")),
        user_id=text(user.get("id")), user_name=text(user.get("displayName")), zoom=number(canvas.get("zoom")),
        pan_x=number(pan.get("x")), pan_y=number(pan.get("y")),
        foreign={NAME: compact(kept)},
    )  # fmt: skip


def compact(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What a session keeps, without what says nothing: that the app wrote a document does."""
    return {key: value for key, value in kept.items() if value or key in ("canvas", "generations")}


def entry_of(item: Mapping[str, Any], entry_id: str | None, z: int, digest: Digest | None) -> Entry:
    """An element of canvas_images. Raises InvalidValue."""
    if not entry_id:
        raise InvalidValue("It has no id.")
    data = {key: value for key, value in item.items() if key not in _ENTRY_FIELDS or value is None}
    return Entry(
        id=entry_id, session_id="", type=canvas_json.text("type", item.get("type", "image")),
        x=canvas_json.number("x", item.get("x", 0)), y=canvas_json.number("y", item.get("y", 0)),
        width=canvas_json.optional(canvas_json.number, "width", item.get("width")),
        height=canvas_json.optional(canvas_json.number, "height", item.get("height")), z=z, digest=digest,
        text=canvas_json.optional(canvas_json.text, "text", item.get("text")),
        generation_id=canvas_json.optional(canvas_json.text, "generationId", item.get("generationId")), data=data,
    )  # fmt: skip


class Found(NamedTuple):
    """A picture that a generation names, where it is known."""

    digest: Digest
    size: int
    placement_id: str


Find = Callable[[str, str, Mapping[str, Any]], Found | None]


def generation_of(item: dict[str, Any], find: Find) -> Generation:
    """An element of `generations`; `find` says what a picture's name, role and reference stand for.

    Raises InvalidValue.
    """
    refs: dict[str, tuple[ImageRef, ...]] = {}
    for key, role in (("input_images", "input"), ("output_images", "output")):
        listed = item.get(key)
        refs[key] = tuple(_ref(key, role, ref, find) for ref in (listed if isinstance(listed, list) else ()))
    return Generation(
        id=canvas_json.text("generation_id", item.get("generation_id")), session_id="", foreign={NAME: item},
        inputs=refs["input_images"], outputs=refs["output_images"], **documents_v2.run_of(item),
    )  # fmt: skip


def _ref(key: str, role: str, ref: Any, find: Find) -> ImageRef:
    if not isinstance(ref, dict):
        raise InvalidValue(f"{key} must be objects.")
    alias, name = text(ref.get("hash")), text(ref.get("filename")) or ""
    found = find(alias, role, ref) if alias is not None else None
    if found is None:
        return ImageRef(name=name, role=role)
    return ImageRef(
        digest=found.digest, name=name, role=role, size=found.size, placement_id=found.placement_id
    )


def placed(generations: list[Generation]) -> tuple[Generation, ...]:
    """Generations that keep their order, which is nearly always that of their times."""
    if generations == sorted(generations, key=documents_v2.order_of):
        return tuple(generations)
    return tuple(
        dataclasses.replace(each, foreign={**each.foreign, documents_v2.PLACE: place})
        for place, each in enumerate(generations)
    )


# -- out


@dataclass(slots=True)
class Written:
    """What went out; `missing` are originals that could not, the reason by path."""

    files: int = 0
    bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def not_carried(library: Library, session_ids: list[str]) -> tuple[str, ...]:
    """What of sessions a Storage V2 folder can't carry, for a human, one line each."""
    lost = Lost()
    with library.read() as view:
        for session_id in session_ids:
            session = editing.require_session(view, session_id)
            lost.folders(view, session_id)
            lost.count("connections", sum(1 for _ in view.members(Edge, session_id)))
            lost.annotations(view, session_id)
            bare = session.zoom is None or (session.pan_x is None and session.pan_y is None)
            first = "canvases without zoom or pan offset, which get those that an app begins with"
            lost.count(first, NAME not in session.foreign and bare)
            _lost_files(view, session, lost)
            for generation in view.members(Generation, session_id):
                if NAME not in generation.foreign:
                    among = any(getattr(generation, name) not in (None, ()) for name in _SETTINGS)
                    lost.count("seeds, steps and the like as such: they come back among the parameters", among)
                    lost.count("generators of generations", generation.generator is not None)
            lost.newer(view, session_id)
        lost.count("hashes and file names that two pictures go by", GivenBack(view, session_ids).others)
    return lost.lines()


def _lost_files(view: View, session: Session, lost: Lost) -> None:
    """What a folder, in which images are named by canvases and generations, doesn't say of a session's files."""
    roles = _roles(view, session.id)
    seen: set[Digest] = set()
    for placement in view.members(Placement, session.id):
        digest = placement.digest
        if placement.area != "images":
            lost.count("files that are no picture, or a damaged one")
        elif digest not in roles:
            if not documents_v2.is_file(placement):
                lost.count("pictures that no canvas or generation of their session names, so that they go apart")
        elif documents_v2.is_file(placement):
            pass  # under as many names as it came
        elif digest in seen:
            lost.count("second names of one picture in a session")
        else:
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
    with library.read() as view:
        size = size_of((each.digest, each.size) for own_id in session_ids for each in view.members(Placement, own_id))
    with new_folder(library.root, target, size) as folder:
        with library.read() as view:
            writer = _Writer(library, view, folder, GivenBack(view, session_ids))
            for session_id in session_ids:
                writer.session(editing.require_session(view, session_id))
            writer.finish()
        return writer.written


class _Writer:
    """The writing of one folder: what the mount's storage-v2/ shows of some sessions."""

    def __init__(self, library: Library, view: View, folder: Path, back: GivenBack) -> None:
        self._library, self._view, self._folder, self._back = library, view, folder, back
        self._items: dict[str, bytes] = {}
        self._ids: set[str] = set()
        self.written = Written()
        for name in ("images", "sessions"):
            (folder / name).mkdir()

    def session(self, session: Session) -> None:
        """Write a session, and the images that it has and none before."""
        self._ids.add(session.id)
        for digest in dict.fromkeys(placement.digest for placement in self._view.members(Placement, session.id)):
            for shown in documents_v2.shown_of(self._view, digest):
                self._image(digest, shown)
        row = self._view.session_row(session.id)
        stem = documents_v2.stem_of(session.id).decode()
        for suffix, name in documents_v2.ROW_NAMES.items():
            if name in row.documents:
                data = documents_v2.render(self._view, session, suffix)
                if self._back.names:
                    data = documents.to_json(renamed(jsontext.loads(data), self._back.names))
                self._bytes(f"sessions/{stem}{suffix}", data)

    def _image(self, digest: Digest, shown: documents_v2.Shown) -> None:
        if shown.placement is not None:
            kept = self._back.of(shown.placement)
            if kept is None:
                return
            if kept != documents_v2.kept_of(shown.placement):
                name, said = name_of(kept), documents_v2.mapping(kept.get("info"))
                shown = documents_v2.Shown(name.hash, name.file.encode("utf-8", "surrogateescape"), said, None)
        info = shown.info or {}
        if shown.alias and info:
            self._items.setdefault(shown.alias, documents_v2.registry_item(shown.alias, info))
        target = beside(self._folder, text(info.get("file_path")) or f"images/{documents.text_of(shown.file)}")
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        size = write_original(self._library.blobs, digest, self._folder, target, self.written.missing)
        if size is not None:
            self.written.bytes += size
            self.written.files += 1

    def finish(self) -> None:
        """Write what all sessions share."""
        pool = documents_v2.pool_of(self._view)
        pending = documents_v2.pending_items(pool) if documents_v2.POOL_ID in self._ids else []
        self._bytes(REGISTRY, documents_v2.registry_bytes(pool, [*self._items.values(), *pending]))
        with (self._folder / LOGS).open("wb") as file:
            for line in self._library.app_files.lines():
                if self._concerns(line):
                    self.written.bytes += file.write(line + b"\n")
        self.written.files += 1
        stems = {documents_v2.stem_of(session_id).decode() for session_id in self._ids}
        for folder, name, path in self._library.app_files.all_thumbnails():
            if folder in stems and path.is_file():
                target = self._folder / "thumbnails" / folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._bytes(f"thumbnails/{folder}/{name}", path.read_bytes())

    def _concerns(self, line: bytes) -> bool:
        """Whether a log line goes along: one that tells of a session that stays does not."""
        try:
            context = jsontext.loads(line)["context"]
            named = context["sessionId"]
        except (InvalidValue, KeyError, TypeError):
            return True
        return named in self._ids or not isinstance(named, str) or self._view.get(Session, named) is None

    def _bytes(self, name: str, data: bytes) -> None:
        self.written.bytes += (self._folder / name).write_bytes(data)
        self.written.files += 1
