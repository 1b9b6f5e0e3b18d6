"""Outputs folders: dated folders of pictures, each with a JSON file of its name beside it that says how it was made.

    images/generations/YYYY-MM-DD[/<model>]/YYYYMMDD_HHMMSS_<model-slug>_<short-id>.<ext>   and .json

In, and out with a name template. docs/formats/outputs.md says what is kept, changed and not taken.
"""

from __future__ import annotations

import datetime
import os
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixfs.errors import InvalidValue, UsageError, os_words
from mixfs.formats.base import (
    Asset,
    FoundFile,
    Piece,
    Problem,
    Skipped,
    Source,
    head_of,
    number,
    text,
)
from mixfs.formats.lost import NAMES, Lost
from mixfs.ids import derived_id, generation_id_for
from mixfs.library import canvas_json, documents
from mixfs.library.api import Library
from mixfs.library.catalogue import Listed, Wanted, listed
from mixfs.library.documents import iso_ns, iso_offset_s
from mixfs.library.exporting import new_folder, size_of, write_original
from mixfs.library.importing import NOT_REGULAR, OWN, TEMPORARY
from mixfs.library.view import View
from mixfs.media.sniff import IMAGE_TYPES, extension, sniff
from mixfs.media.types import MAX_SEED
from mixfs.names import is_temporary, safe_name, split_extension, with_counter
from mixfs.records import Edge, Entry, Generation, ImageRef, Placement, Session
from mixfs.regular_files import read_regular
from mixfs.walking import barred, walk

NAME = "outputs"
TITLE = "outputs folder"
BELOW = "images/generations"
TEMPLATE = "{date}/{model}/{timestamp}_{model_slug}_{short_id}.{ext}"
FIELDS = (
    "date", "year", "month", "day", "time", "timestamp", "model", "model_slug", "short_id", "digest", "seed", "session",
    "category", "name", "ext",
)  # fmt: skip

OURS = "x-mixfs"
"""The field in which MixFS says what the layout has no word for."""
NO_GENERATION = "It is not known how this picture was made."
_MAX_SIDECAR = 4 << 20
_BATCH_FILES, _BATCH_BYTES = 32, 64 << 20
_LOOKED_AT = 2000
_NAMED = re.compile(r"(\d{8}_\d{6})_.*?(?:_([0-9A-Za-z]{4,16}))?\.[A-Za-z0-9]+\Z")
# Fields of a generation by the names that apps give them among the parameters.
_NUMBERS = {"seed": "seed", "steps": "steps", "width": "width", "height": "height"}
_REALS = {"cfg": "cfg", "cfg_scale": "cfg", "guidance_scale": "cfg"}
_TEXTS = {"sampler": "sampler", "scheduler": "scheduler", "negative_prompt": "negative_prompt"}


def detect(path: Path, own: frozenset[str] = frozenset(), tick: Callable[[], None] = lambda: None) -> bool:
    """A folder in which a picture has a JSON file of its name beside it that says a prompt or model, and a time.

    Looks at all folders below, at a number of pictures in each: when there is none, none of these is one. Folders in
    `own` (real paths) are not looked into. `tick` is called for each.
    """
    there: list[_Names] = []
    for seen in walk(path, own):
        del there[seen.depth :]
        if seen.kind == "folder":
            tick()
            there.append(_Names(Path(seen.path)))
        elif seen.kind in ("file", "link") and there and there[-1].have_one_with(os.fsdecode(seen.name)):
            return True
    return False


@dataclass(slots=True)
class _Names:
    """The names in a folder, as they come."""

    folder: Path
    beside: set[str] = field(default_factory=set)
    others: dict[str, list[str]] = field(default_factory=dict)
    looked_at: int = 0

    def have_one_with(self, name: str) -> bool:
        """Whether there is, with this one, a picture with such a file beside it."""
        stem, dot, suffix = name.rpartition(".")
        if suffix == "json":
            self.beside.add(stem)
            return any(self._is_one(stem, other) for other in self.others.pop(stem, ()))
        if not dot or suffix.lower() == "json":
            return False
        if stem in self.beside:
            return self._is_one(stem, name)
        self.others.setdefault(stem, []).append(name)
        return False

    def _is_one(self, stem: str, name: str) -> bool:
        self.looked_at += 1
        if self.looked_at > _LOOKED_AT:
            return False
        try:
            return _is_sidecar(self.folder / f"{stem}.json") and sniff(head_of(self.folder / name)) in IMAGE_TYPES
        except OSError:
            return False


def _is_sidecar(path: Path) -> bool:
    try:
        said = _sidecar(path)
    except (OSError, InvalidValue):
        return False
    return "timestamp" in said and ("prompt" in said or "model" in said)


def _sidecar(path: Path) -> dict[str, Any]:
    """What the JSON file beside a picture says. Raises InvalidValue, OSError."""
    return canvas_json.parse(read_regular(path, _MAX_SIDECAR))


# -- in


def read(source: Source) -> Iterator[Piece | Problem]:
    """Pieces of one session, which is called like the folder, or as the options say."""
    title = source.options.session or source.path.name or "outputs"
    title = documents.text_of(os.fsencode(title))
    session = Session(id=derived_id(b"outputs", title.encode()), title=title)
    root = source.path / BELOW if (source.path / BELOW).is_dir() else source.path
    reader = _Reader(source, session, root)
    for seen in walk(source.path, source.own):
        source.total += seen.kind not in ("folder", "unlisted")
        source.tick()
    yield Piece(place="", session=session)
    yield from reader.folder(source.path)
    yield from reader.flush()


class _Reader:
    """The reading of one tree."""

    def __init__(self, source: Source, session: Session, root: Path) -> None:
        self._source, self._session, self._root = source, session, root
        self._files: list[FoundFile] = []
        self._generations: list[Generation] = []
        self._size = 0
        self._digests: set[bytes] = set()

    def flush(self) -> Iterator[Piece]:
        if self._files:
            yield Piece(
                place="", session=self._session, files=tuple(self._files), generations=tuple(self._generations)
            )
        self._files, self._generations, self._size = [], [], 0

    def folder(self, top: Path) -> Iterator[Piece | Problem]:
        left_out = barred(top, self._source.own)
        waiting: list[Path | tuple[os.DirEntry[str], set[str], set[str]]] = [top]
        while waiting:
            at = waiting.pop()
            if not isinstance(at, Path):
                entry, names, stems = at
                if entry.is_dir(follow_symlinks=False) and not is_temporary(os.fsencode(entry.name)):
                    waiting.append(Path(entry.path))
                else:
                    yield from self._entry(entry, names, stems)
            elif str(at) in left_out:
                yield Skipped("", OWN, str(at))
            else:
                try:
                    with os.scandir(at) as scan:
                        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name), reverse=True)
                except OSError as error:
                    yield Problem("", os_words(error), str(at))
                    continue
                names = {entry.name for entry in entries}
                stems = {name.rpartition(".")[0] for name in names if not name.lower().endswith(".json")}
                waiting += [(entry, names, stems) for entry in entries]

    def _entry(self, entry: os.DirEntry[str], names: set[str], stems: set[str]) -> Iterator[Piece | Problem]:
        path = Path(entry.path)
        if is_temporary(os.fsencode(entry.name)):
            yield Skipped("", TEMPORARY, str(path))
        elif not entry.is_file(follow_symlinks=False):
            yield Skipped("", NOT_REGULAR, str(path))
        else:
            stem, _, suffix = entry.name.rpartition(".")
            self._source.done += 1
            if str(path) in self._source.left_out:
                return
            if suffix.lower() == "json" and stem in stems and _is_sidecar(path):
                # It comes in with its picture.
                return
            yield from self._file(path, path.with_name(f"{stem}.json") if f"{stem}.json" in names else None)
            if len(self._files) >= _BATCH_FILES or self._size >= _BATCH_BYTES:
                yield from self.flush()

    def _file(self, path: Path, sidecar: Path | None) -> Iterator[Problem]:
        try:
            asset = self._source.take_file(path)
            mtime_ns = self._source.mtime_ns(path)
        except (OSError, InvalidValue) as error:
            yield Problem("", os_words(error) if isinstance(error, OSError) else str(error), str(path))
            return
        said = None
        if sidecar is not None and sidecar != path:
            try:
                said = _sidecar(sidecar)
            except (OSError, InvalidValue) as error:
                words = f"{os_words(error)}." if isinstance(error, OSError) else str(error)
                yield Problem(
                    "", f"{words} The picture is taken in without it, and it as a file.", str(sidecar)
                )
        below = self._root if path.is_relative_to(self._root) else self._source.path
        folders = tuple(os.fsencode(part) for part in path.relative_to(below).parts[:-1])
        relative = os.fsencode(path.relative_to(below))
        foreign_id = derived_id(b"output", self._session.id.encode(), relative, asset.digest)
        name = os.fsencode(path.name)
        self._files.append(
            FoundFile(id=foreign_id, place=str(path), asset=asset, name=name, folders=folders, mtime_ns=mtime_ns)
        )
        self._size += asset.size
        if said is not None and said.get(OURS) != NO_GENERATION and asset.media_type in IMAGE_TYPES:
            # The one that the picture's own metadata would make: of the two, what the file beside it says is kept.
            own_id = generation_id_for(asset.digest, self._session.id)
            if asset.digest in self._digests:
                own_id = derived_id(b"output generation", foreign_id.encode())
            self._digests.add(asset.digest)
            self._generations.append(_generation(own_id, foreign_id, asset, path.name, said, mtime_ns))


def _generation(
    generation_id: str, placement_id: str, asset: Asset, name: str, said: dict[str, Any], mtime_ns: int
) -> Generation:
    given = said.get("parameters")
    parameters: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    fields: dict[str, Any] = {"utc_offset_s": iso_offset_s(said.get("timestamp"))}
    for key, wanted in (_NUMBERS | _REALS | _TEXTS).items():
        value = parameters.get(key)
        if wanted in fields or not _fits(key, value):
            continue
        fields[wanted] = float(value) if key in _REALS else value  # type: ignore[arg-type]
        del parameters[key]
    named = _NAMED.fullmatch(name)
    time_ns = iso_ns(said.get("timestamp")) or (_time_of(named[1]) if named else 0) or mtime_ns
    return Generation(
        id=generation_id,
        session_id="",
        time_ns=time_ns,
        prompt=text(said.get("prompt")),
        model=text(said.get("model")),
        generator=text(said.get("provider")),
        parameters=parameters,
        outputs=(ImageRef(digest=asset.digest, name=name, role="output", size=asset.size, placement_id=placement_id),),
        foreign={NAME: said},
        **fields,
    )


def _fits(key: str, value: Any) -> bool:
    if key in _TEXTS:
        return isinstance(value, str)
    if key in _REALS:
        return number(value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEED


def _time_of(stamp: str) -> int:
    """Nanoseconds of `20251208_101500`, which is UTC as far as anybody says."""
    try:
        moment = datetime.datetime.strptime(stamp, "%Y%m%d_%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        return 0
    return int(moment.timestamp()) * 1_000_000_000


# -- out


@dataclass(slots=True)
class Written:
    """What went out; `missing` are originals that could not, the reason by path."""

    files: int = 0
    bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def check_template(template: str) -> None:
    """Raises UsageError for a template that names no file below the folder, or fields that there are none of."""
    try:
        names = [name for _, name, spec, conversion in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(f"The template {template!r} is wrong: {error}.") from None
    unknown = [name for name in names if name not in FIELDS]
    if unknown:
        raise UsageError(f"The template has no field {unknown[0]!r}. There are: {', '.join(FIELDS)}.")
    parts = template.split("/")
    if not template.endswith(".{ext}") or any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"The template {template!r} must name a file and end with .{{ext}}, like {TEMPLATE}.")


def not_carried(library: Library, session_ids: list[str], template: str = TEMPLATE) -> tuple[str, ...]:
    """What of sessions an outputs folder can't carry, for a human, one line each. Raises UsageError."""
    check_template(template)
    lost, runs = Lost(), set()
    with library.read() as view:
        for session_id in session_ids:
            lost.count("titles, users and views of sessions: all pictures go into one folder")
            pictures = [item for item in listed(view, Wanted(session_id=session_id)) if item.placement.area == "images"]
            placements = list(view.members(Placement, session_id))
            lost.count("files that are no picture", len(placements) - len(pictures))
            lost.count("canvases", any(True for cls in (Entry, Edge) for _ in view.members(cls, session_id)))
            generations = {item.generation.id: item.generation for item in pictures if item.generation}
            alone = sum(1 for each in view.members(Generation, session_id) if each.id not in generations)
            lost.count("generations without a picture of their own", alone)
            for generation in generations.values():
                _lost_fields(generation, lost)
            for item in pictures:
                lost.count("roles of pictures", item.placement.role != "output")
                lost.count(NAMES, os.fsencode(_path(item, template).name) != item.placement.name)
                runs.add((item.placement.digest, item.generation.id if item.generation else None))
            lost.folders(view, session_id)
            lost.annotations(view, session_id)
            lost.newer(view, session_id)
    several = len(runs) - len({digest for digest, _ in runs})
    lost.count("which generation a picture is of that stands in several sessions", several)
    return lost.lines()


def _lost_fields(generation: Generation, lost: Lost) -> None:
    """What the JSON beside a picture has no field for."""
    lost.count("generations of several pictures, which become one for each", len(generation.outputs) > 1)
    lost.count("inputs of generations", bool(generation.inputs))
    versions = (generation.loras, generation.model_hash, generation.generator_version)
    lost.count("loras, model hashes and versions of generators", any(value not in (None, ()) for value in versions))
    states = (generation.status != "completed", generation.error is not None, generation.duration_ms is not None)
    lost.count("states, errors and durations of generations", any(states) or generation.canvas_state is not None)


def write(library: Library, session_ids: list[str], target: Path, template: str = TEMPLATE) -> Written:
    """Write the pictures of sessions to `target`/images/generations/, which must not exist or be empty.

    Raises UsageError for the template, NotFoundError, ExistsError, UnsuitablePlace, BlobMissing, BlobDamaged, OSError.
    """
    check_template(template)
    written = Written()
    with library.read() as view:
        size = size_of((each.digest, each.size) for own_id in session_ids for each in view.members(Placement, own_id))
    with new_folder(library.root, target, size) as folder:
        root = folder / BELOW
        root.mkdir(parents=True)
        taken: set[Path] = set()
        for session_id in session_ids:
            with library.read() as view:
                items = [(item, _said(view, item)) for item in listed(view, Wanted(session_id=session_id))]
            for item, said in sorted(items, key=lambda pair: (pair[0].time_ns, pair[0].placement.id)):
                if item.placement.area == "images":
                    _write_picture(library, root, item, said, template, taken, written)
    return written


def _write_picture(
    library: Library, root: Path, item: Listed, said: dict[str, Any], template: str, taken: set[Path], written: Written
) -> None:
    path = _free(root / _path(item, template), taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The folder of the export is above images/generations/.
    size = write_original(library.blobs, item.placement.digest, root.parent.parent, path, written.missing)
    if size is None:
        return
    written.bytes += size
    beside = path.with_suffix(".json")
    written.bytes += beside.write_bytes(documents.to_json(said))
    written.files += 2
    for each in (path, beside):
        os.utime(each, ns=(item.placement.mtime_ns, item.placement.mtime_ns))


def _said(view: View, item: Listed) -> dict[str, Any]:
    """The JSON beside a picture: what it came with, as far as it still is so, and what is known of it."""
    generation = item.generation
    kept = generation.foreign.get(NAME) if generation else None
    said: dict[str, Any] = dict(kept) if isinstance(kept, Mapping) else {}
    if generation is None:
        return {"prompt": "", "model": "", "timestamp": documents.iso(item.time_ns), OURS: NO_GENERATION}
    moment = documents.iso(generation.time_ns, generation.utc_offset_s)
    if iso_ns(said.get("timestamp")) // 1_000_000 != generation.time_ns // 1_000_000:
        said["timestamp"] = moment
    said |= {"prompt": generation.prompt or "", "model": generation.model or ""}
    if generation.generator:
        said["provider"] = generation.generator
    if not isinstance(kept, Mapping):
        fields = {name: getattr(generation, name) for name in {**_NUMBERS, **_TEXTS, "cfg": "cfg"}}
        parameters = {key: value for key, value in fields.items() if value is not None} | dict(generation.parameters)
        if parameters:
            said["parameters"] = parameters
    return said


def _path(item: Listed, template: str) -> Path:
    generation, placement = item.generation, item.placement
    name = documents.text_of(placement.name)
    stem, suffix = split_extension(placement.name)
    model = (generation.model if generation else None) or "unknown"
    offset = generation.utc_offset_s if generation else 0
    moment = datetime.datetime.fromtimestamp(
        max(0, min(item.time_ns, 2**62)) // 1_000_000_000, documents.zone(offset)
    )
    named = _NAMED.fullmatch(documents.text_of(placement.original_name) or name)
    media_type = item.image.media_type if item.image else ""
    values = {
        "date": f"{moment:%Y-%m-%d}", "year": f"{moment:%Y}", "month": f"{moment:%m}", "day": f"{moment:%d}",
        "time": f"{moment:%H%M%S}", "timestamp": f"{moment:%Y%m%d_%H%M%S}", "model": model,
        "model_slug": re.sub(r"[^a-z0-9.]+", "-", model.lower()).strip("-") or "unknown",
        "short_id": named[2] if named and named[2] else placement.digest.hex()[:6], "digest": placement.digest.hex(),
        "seed": generation.seed if generation and generation.seed is not None else 0, "session": item.session.title,
        "category": item.category or "none", "name": documents.text_of(stem),
        "ext": (extension(media_type) or documents.text_of(suffix) or ".bin").lstrip("."),
    }  # fmt: skip
    # A slash in a value starts no folder.
    safe = {key: safe_name(str(value), "unknown", 120).decode() for key, value in values.items()}
    parts = string.Formatter().vformat(template, (), safe).split("/")
    return Path(*(safe_name(part, "unknown", 200).decode() for part in parts))


def _free(path: Path, taken: set[Path]) -> Path:
    """The path, or the first ` (n)` of it that nothing has, nor the JSON beside it."""
    found, at = path, 1
    while found.with_suffix("") in taken:
        at += 1
        found = path.with_name(os.fsdecode(with_counter(os.fsencode(path.name), at)))
    taken.add(found.with_suffix(""))
    return found
