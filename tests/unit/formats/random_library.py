"""Whole libraries for Hypothesis, built through the public API, and what of them is compared after a round trip."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from format_home import picture
from hypothesis import strategies as st

from mixfs.library import documents
from mixfs.library.api import Library
from mixfs.library.editing import ensure_path, member_id, move_placement
from mixfs.media.samples import make_sample
from mixfs.records import Edge, Entry, Folder, Generation, ImageRef, Member, Placement, Session

# -- what is made

SECOND = 1_000_000_000
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
words = text.filter(bool)
numbers = st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
# What canvas.json says of an entry itself can't stand in its data.
_SHOWN = {"canvasId", "imageHash", "type", "x", "y", "width", "height", "text", "generationId", "id", "target"}
data = st.dictionaries(
    (text | st.sampled_from(["position", "size", "result", "node", "x-mixfs", "data", "koda", "prompt"])).filter(
        lambda key: key not in _SHOWN
    ),
    values, max_size=3,
)  # fmt: skip
unknown = st.sampled_from([{}, {}, {}, {100: "later"}])


@functools.cache
def contents() -> tuple[bytes, ...]:
    """Pictures, one with a generator's metadata, one that is damaged, and what is none."""
    whole = picture(4)
    return (
        picture(1), picture(2, "JPEG"), picture(3, "WEBP"), make_sample("a1111")[1], whole[: len(whole) // 2],
        b"no picture", b'{"timestamp": 1, "prompt": "p"}', b"",
    )  # fmt: skip


PICTURES = range(4)


@dataclass(frozen=True)
class AFile:
    content: int
    name: bytes
    folders: tuple[bytes, ...] = ()
    role: str = "output"
    tags: tuple[str, ...] = ()
    comment: str | None = None
    mtime_ns: int = 1_765_274_400 * SECOND
    unknown: dict[int | str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ASession:
    title: str
    user_id: str | None = None
    user_name: str | None = None
    zoom: float | None = None
    pan_x: float | None = None
    files: Sequence[AFile] = ()
    # A number shows the file of that place, or nothing where there is none.
    entries: Sequence[tuple[Entry, int]] = ()
    edges: Sequence[Edge] = ()
    generations: Sequence[tuple[Generation, Sequence[int], Sequence[int]]] = ()
    unknown: dict[int | str, Any] = field(default_factory=dict)


names = st.sampled_from(
    [b"a.png", b"a.png", b"b.jpg", "ä 夜.png".encode(), "a\u0308.png".encode(), b"\xff\x80.png", b"no extension",
     b"x.json", b"a  b.png", b".hidden.png", b"sp ace .png ", "bidi\u202egnp.png".encode(), b"n" * 251 + b".png",
     b"20251208_101500_flux_0e8e0b.png", b"back\\slash.png", b"cont\x07rol.png", b"a.png.json"]
)  # fmt: skip
files = st.lists(
    st.builds(
        AFile, content=st.sampled_from([*PICTURES, *range(8)]), name=names,
        folders=st.sampled_from([(), (), (b"deep", b"er"), (b"images", b"generations")]),
        role=st.sampled_from(["output", "output", "input", "reference", "control", "odd"]),
        tags=st.sampled_from([(), (), ("sea", "Küche")]), comment=st.sampled_from([None, None, "nice"]),
        mtime_ns=st.integers(0, 4 * 10**9).map(lambda s: s * SECOND), unknown=unknown,
    ), max_size=4,
)  # fmt: skip
times = st.integers(-(10**9), 4 * 10**9).map(lambda s: s * SECOND)
entries = st.lists(
    st.tuples(
        st.builds(
            Entry, id=st.sampled_from(["n1", "é", "a/b"]) | st.uuids(version=4).map(str), session_id=st.just(""),
            type=st.sampled_from(["image", "text", "board", "sticker", "node"]) | text, x=numbers, y=numbers,
            width=st.none() | numbers, height=st.none() | numbers, z=st.integers(-3, 3), text=st.none() | text,
            generation_id=st.none() | text, data=data, unknown=unknown,
        ), st.integers(0, 6),
    ), max_size=3, unique_by=lambda pair: pair[0].id,
)  # fmt: skip
edges = st.lists(
    st.builds(
        Edge, id=st.sampled_from(["e1", "ö"]) | st.uuids(version=4).map(str), session_id=st.just(""),
        source=st.sampled_from(["n1", "gone"]) | text, target=st.sampled_from(["é", "gone"]) | text,
        source_handle=st.none() | text, target_handle=st.none() | text,
        data=st.just({}) | data, unknown=unknown,
    ), max_size=2, unique_by=lambda edge: edge.id,
)  # fmt: skip
generations = st.lists(
    st.tuples(
        st.builds(
            Generation, id=st.sampled_from(["g1", "ü"]) | st.uuids(version=4).map(str), session_id=st.just(""),
            time_ns=times, utc_offset_s=st.sampled_from([0, 0, 7200, -5 * 3600]), prompt=st.none() | text,
            negative_prompt=st.none() | text, model=st.none() | text, generator=st.none() | text,
            status=st.sampled_from(["completed", "failed", "odd"]), error=st.none() | text,
            seed=st.none() | st.integers(0, 2**63), steps=st.none() | st.integers(0, 100),
            cfg=st.none() | st.floats(0, 20), duration_ms=st.none() | st.integers(0, 2**40),
            loras=st.sampled_from([(), (["detail", 0.5],)]), parameters=st.dictionaries(words, values, max_size=2),
            canvas_state=st.none() | st.just({"zoom": 1}), unknown=unknown,
        ),
        st.lists(st.integers(0, 6), max_size=2), st.lists(st.integers(0, 6), max_size=2),
    ), max_size=2, unique_by=lambda item: item[0].id,
)  # fmt: skip
sessions = st.lists(
    st.builds(
        ASession, title=st.sampled_from(["Trip", "Trip", "..", "Küche / Bad", "夕焼け 🌅"]) | words.filter(str.strip),
        user_id=st.none() | text, user_name=st.none() | text, zoom=st.none() | numbers, pan_x=st.none() | numbers,
        files=files, entries=entries, edges=edges, generations=generations, unknown=unknown,
    ), min_size=1, max_size=3,
)  # fmt: skip


def build(library: Library, wanted: Sequence[ASession]) -> list[str]:
    """Make them; returns their ids."""
    return [_build(library, each) for each in wanted]


def _build(library: Library, wanted: ASession) -> str:
    session = library.create_session(wanted.title, user_id=wanted.user_id, user_name=wanted.user_name)
    library.update_session(session.id, zoom=wanted.zoom, pan_x=wanted.pan_x)
    placed: list[Placement] = []
    for each in wanted.files:
        placed.append(
            library.import_bytes(
                contents()[each.content], os.fsdecode(each.name), session_id=session.id, role=each.role,
                mtime_ns=each.mtime_ns,
            )
        )  # fmt: skip
        if (each.tags or each.comment) and each.content in PICTURES:
            library.annotate(placed[-1].digest, tags=each.tags, comment=each.comment)

    def refs(numbers: Sequence[int], role: str) -> tuple[ImageRef, ...]:
        return tuple(
            ImageRef(
                digest=placed[at].digest, name=documents.text_of(placed[at].name), role=role, size=placed[at].size,
                placement_id=placed[at].id,
            )
            if at < len(placed) else ImageRef(name="gone.png", role=role)
            for at in numbers
        )  # fmt: skip

    def ids(cls: type[Member], shown_id: str) -> dict[str, Any]:
        with library.read() as view:
            own_id, foreign_id = member_id(view, cls, session.id, shown_id)
        return {"id": own_id, "foreign_id": foreign_id, "session_id": session.id}

    for entry, at in wanted.entries:
        digest = placed[at].digest if at < len(placed) else None
        library.put_entry(dataclasses.replace(entry, **ids(Entry, entry.id), digest=digest))
    for edge in wanted.edges:
        library.put_edge(dataclasses.replace(edge, **ids(Edge, edge.id)))
    for generation, inputs, outputs in wanted.generations:
        library.put_generation(
            dataclasses.replace(
                generation, **ids(Generation, generation.id), inputs=refs(inputs, "input"),
                outputs=refs(outputs, "output"),
            )
        )  # fmt: skip

    def finish(txn: Any) -> None:
        for each, placement in zip(wanted.files, placed, strict=True):
            held = txn.get(Placement, placement.id)
            if each.folders and held.folder_id is None:
                held = move_placement(txn, held.id, session.id, ensure_path(txn, session.id, each.folders), held.name)
            if each.unknown:
                txn.put(dataclasses.replace(held, unknown=each.unknown))
        if wanted.unknown:
            txn.put(dataclasses.replace(txn.get(Session, session.id), unknown=wanted.unknown))

    library.commit(finish)
    return session.id


# -- what is compared


@dataclass(frozen=True)
class Content:
    """What a session holds, by what an export may say that it can't carry."""

    parts: dict[str, Any]

    def differences(self, other: Content) -> dict[str, tuple[Any, Any]]:
        return {
            name: (value, other.parts[name]) for name, value in self.parts.items() if value != other.parts[name]
        }


def content(library: Library, session_id: str, *, whole_s: bool = False) -> Content:
    """All that a session holds, record by record; times in milliseconds, or in seconds where a layout has no finer."""
    unit = SECOND if whole_s else 1_000_000
    session = library.session(session_id)
    with library.read() as view:
        folders = {folder.id: folder for folder in view.members(Folder, session_id)}
        placements = list(view.members(Placement, session_id))
        annotations = {p.digest: view.annotation(p.digest) for p in placements}
    members = {cls: _members(library, cls, session_id) for cls in (Entry, Edge, Generation)}

    def path(placement: Placement) -> tuple[bytes, ...]:
        at, out = placement.folder_id, ()
        while at is not None:
            out, at = (folders[at].name, *out), folders[at].parent_id
        return out

    def each(cls: type[Any], of: Callable[[Any], Any]) -> dict[str, Any]:
        return {record.shown_id: of(record) for record in members[cls]}

    pictures = [p for p in placements if p.area == "images"]
    others = [p for p in placements if p.area != "images"]
    shown = sorted(members[Entry], key=lambda entry: (entry.z, entry.shown_id))
    return Content(
        {
            "title": session.title,
            "user": session.user_id,
            "user name": session.user_name,
            "view": (session.zoom, session.pan_x, session.pan_y),
            "created": session.created_ns // unit,
            "pictures": sorted({p.digest for p in pictures}),
            "placements": sorted(p.digest for p in pictures),
            "picture names": sorted((p.digest, p.name) for p in pictures),
            "files": sorted((p.digest, p.name) for p in others),
            "folders": sorted({(p.digest, path(p)) for p in placements if path(p)}),
            "roles": sorted((p.digest, p.role) for p in placements),
            "times of files": sorted((p.digest, p.mtime_ns // unit) for p in placements),
            "annotations": sorted(
                (p.digest, a.tags, a.rating, a.comment) for p in placements if (a := annotations[p.digest]) is not None
            ),
            "order": [entry.shown_id for entry in shown],
            "entries": each(
                Entry, lambda e: (e.type, e.x, e.y, e.width, e.height, e.text, e.generation_id, _without_hash(e))
            ),
            "entries' pictures": each(Entry, lambda e: e.digest),
            "edges": each(Edge, lambda e: (e.source, e.target, e.source_handle, e.target_handle)),
            "edges' fields": each(Edge, lambda e: dict(e.data)),
            "generations": each(Generation, lambda g: (g.prompt or None, g.model or None, g.time_ns // unit)),
            "status": each(Generation, lambda g: (g.status, g.error, g.duration_ms)),
            "parameters": each(Generation, parameters_of),
            "settings": each(Generation, settings_of),
            "generators": each(Generation, lambda g: (g.generator, g.generator_version)),
            "offsets": each(Generation, lambda g: g.utc_offset_s),
            "canvas states": each(Generation, lambda g: g.canvas_state),
            "inputs": each(Generation, lambda g: [(ref.digest, ref.name) for ref in g.inputs]),
            "outputs": each(Generation, lambda g: [(ref.digest, ref.name) for ref in g.outputs]),
            "unknown": sorted(
                str(record.unknown) for record in [session, *placements, *itertools.chain(*members.values())]
                if record.unknown
            ),
        }
    )  # fmt: skip


def _members(library: Library, cls: type[Any], session_id: str) -> list[Any]:
    return {Entry: library.entries, Edge: library.edges, Generation: library.generations}[cls](session_id)


_SETTINGS = (
    "negative_prompt", "seed", "steps", "cfg", "sampler", "scheduler", "width", "height", "loras", "model_hash",
)  # fmt: skip


def _without_hash(entry: Entry) -> dict[str, Any]:
    """The data of an entry without what Storage V2 calls its picture."""
    return {name: value for name, value in entry.data.items() if name != "imageHash"}


def settings_of(generation: Generation) -> dict[str, Any]:
    return {name: value for name in _SETTINGS if (value := getattr(generation, name)) not in (None, ())}


def parameters_of(generation: Generation) -> dict[str, Any]:
    return json.loads(json.dumps(dict(generation.parameters)))


