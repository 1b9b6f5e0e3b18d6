"""The generated documents: what stands in metadata/, generations/ and the three JSON views.

Each function is pure: records in, bytes out. That makes the index reproducible: a document's size and revision (a
digest of its content) are stored when a record is put, and reading renders the same bytes again. The two long
documents, canvas.json and generations.json, are made of items that are rendered one by one, so that their size and
revision can be kept up by adding and subtracting one item's share (`Sum`) and a put costs the same at any length.
Their schemas are Storage V2's.

A change here changes sizes and revisions in every index: raise `DERIVATION` in `mixfs/library/projections.py`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import cbor2

from mixfs import jsontext
from mixfs.errors import InvalidValue
from mixfs.records import (
    Annotation,
    Edge,
    Entry,
    Generation,
    Image,
    ImageRef,
    Metadata,
    Placement,
    Session,
)


def text_of(name: bytes) -> str:
    """A file name as text for a document; bytes that are no UTF-8 become U+FFFD."""
    return name.decode("utf-8", "replace")


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
# The years 2 to 9998, in ms: what a file or a foreign document says beyond them must not make a commit fail.
_FIRST_MS, _LAST_MS = -62_104_060_800_000, 253_370_764_799_999


def zone(utc_offset_s: int) -> datetime.timezone:
    """A time zone of a fixed offset, which is less than a day whatever was read."""
    return datetime.timezone(datetime.timedelta(seconds=max(-86_399, min(utc_offset_s, 86_399))))


def iso(ns: int, utc_offset_s: int = 0) -> str:
    """ISO 8601 with milliseconds; `Z` for UTC."""
    ms = max(_FIRST_MS, min(ns // 1_000_000, _LAST_MS))
    moment = datetime.datetime.fromtimestamp(ms / 1000, zone(utc_offset_s))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_offset_s(moment: Any) -> int:
    """The UTC offset that an ISO 8601 time says; 0 for one without, and anything else."""
    try:
        offset = datetime.datetime.fromisoformat(moment).utcoffset()
    except (ValueError, TypeError):
        return 0
    return int(offset.total_seconds()) if offset is not None else 0


def iso_ns(moment: Any) -> int:
    """Nanoseconds of an ISO 8601 time; one without a zone is UTC. 0 for anything else."""
    if not isinstance(moment, str):
        return 0
    try:
        parsed = datetime.datetime.fromisoformat(moment)
        zoned = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=datetime.UTC)
        return (zoned - _EPOCH) // _MICROSECOND * 1000
    except (ValueError, OverflowError):
        return 0


def to_json(value: Any, *, deep: bool = True) -> bytes:
    """A document's JSON: indented by 2, UTF-8, one line feed at the end. For `deep` see `jsontext.dumps`."""
    return _dumps(value, deep) + b"\n"


def _dumps(value: Any, deep: bool = True) -> bytes:
    return in_json(jsontext.dumps(value, indent=2, default=_plain, deep=deep)).encode()


def to_json_line(value: Any) -> bytes:
    """The same on one line, without a line feed: what a document has a hundred thousand of is made fast."""
    return in_json(jsontext.dumps(value, default=_plain)).encode()


# What JSON leaves as it is and a terminal acts upon: DEL, C1 (U+009B begins an escape sequence), line ends that aren't
# JSON's, and what turns text around. They can stand within strings only.
_ACTED_UPON_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ACTED_UPON = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


def in_json(text: str) -> str:
    """JSON that says the same and that a terminal can show."""
    return _ACTED_UPON_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown_text(text: str) -> bytes:
    """A text as a file that a terminal can show: control characters as `\\x1b`, line ends and tabs as they are."""
    return _ACTED_UPON.sub(lambda found: f"\\x{ord(found[0]):02x}", text).encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime | datetime.date) else jsontext.plain(value)


def revision(data: bytes) -> int:
    """64 bits that follow from the content."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def raw_texts(metadata: Metadata | None) -> dict[str, str]:
    """The raw texts of a picture, by the name of the chunk or field they stood in."""
    if metadata is None or not metadata.raw:
        return {}
    texts: dict[str, str] = cbor2.loads(zlib.decompress(metadata.raw))
    return texts


def pack_raw(texts: Mapping[str, str]) -> bytes:
    """The inverse of `raw_texts`, for `Metadata.raw`."""
    clean = {key: text.encode("utf-8", "replace").decode() for key, text in texts.items()}
    return zlib.compress(cbor2.dumps(clean), 6) if clean else b""


# -- what is known of one picture


class About(NamedTuple):
    """All that the documents of one placement are made of."""

    placement: Placement
    image: Image
    generation: Generation | None
    annotation: Annotation | None
    metadata: Metadata | None


def generation_fields(generation: Generation) -> dict[str, Any]:
    """A generation as a plain mapping, without what is unknown."""
    out: dict[str, Any] = {
        "generation_id": generation.shown_id,
        "timestamp": iso(generation.time_ns, generation.utc_offset_s),
        "status": generation.status,
        "generator": generation.generator,
        "generator_version": generation.generator_version,
        "prompt": generation.prompt,
        "negative_prompt": generation.negative_prompt,
        "model": generation.model,
        "model_hash": generation.model_hash,
        "seed": generation.seed,
        "steps": generation.steps,
        "cfg": generation.cfg,
        "sampler": generation.sampler,
        "scheduler": generation.scheduler,
        "width": generation.width,
        "height": generation.height,
    }
    out = {key: value for key, value in out.items() if value is not None}
    if generation.loras:
        out["loras"] = [{"name": lora[0], "weight": lora[1]} for lora in generation.loras]
    if generation.parameters:
        out["parameters"] = dict(generation.parameters)
    if generation.reader:
        out["read_by"] = {"reader": generation.reader, "version": generation.reader_version}
    return out


def image_json(about: About) -> bytes:
    """NAME.json: all that is known of a picture in a session."""
    placement, image = about.placement, about.image
    out: dict[str, Any] = {
        "name": text_of(placement.name),
        "digest": placement.digest.hex(),
        "size": placement.size,
        "media_type": image.media_type,
        "width": image.width,
        "height": image.height,
    }
    if image.orientation != 1:
        out["orientation"] = image.orientation
    if image.frames != 1:
        out["frames"] = image.frames
    if image.problem is not None:
        out["problem"] = image.problem
    out |= {
        "taken": iso(image.taken_ns, image.utc_offset_s),
        "added": iso(placement.added_ns),
        "modified": iso(placement.mtime_ns),
        "original_name": text_of(placement.original_name or placement.name),
        "role": placement.role,
        "image_id": image.id,
        "placement_id": placement.id,
        "session_id": placement.session_id,
        "generation": generation_fields(about.generation) if about.generation else None,
    }
    annotation = about.annotation
    out["tags"] = list(annotation.tags) if annotation else []
    out["rating"] = annotation.rating if annotation else None
    out["comment"] = annotation.comment if annotation else None
    out["raw"] = raw_texts(about.metadata)
    if placement.foreign:
        out["foreign"] = dict(placement.foreign)
    return to_json(out, deep=False)


def image_txt(about: About) -> bytes:
    """NAME.txt: prompt and parameters as A1111 writes them; empty when nothing is known of a generation."""
    return shown_text(a1111_text(about.generation)) if about.generation else b""


def a1111_text(generation: Generation) -> str:
    lines = [generation.prompt or ""]
    if generation.negative_prompt:
        lines.append(f"Negative prompt: {generation.negative_prompt}")
    pairs: list[tuple[str, Any]] = [
        ("Steps", generation.steps),
        ("Sampler", generation.sampler),
        ("Schedule type", generation.scheduler),
        ("CFG scale", generation.cfg),
        ("Seed", generation.seed),
        ("Size", f"{generation.width}x{generation.height}" if generation.width and generation.height else None),
        ("Model hash", generation.model_hash),
        ("Model", generation.model),
    ]
    known = {name for name, _ in pairs} | {"Version"}
    pairs += [(name, value) for name, value in generation.parameters.items() if name not in known]
    pairs.append(("Version", generation.generator_version))
    settings = [f"{name}: {_a1111_value(value)}" for name, value in pairs if value is not None]
    if settings:
        lines.append(", ".join(settings))
    return "\n".join(lines) + "\n"


def _a1111_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n\"") else text


def image_workflow(about: About) -> bytes:
    """NAME.workflow.json: the ComfyUI graph that the picture carried; empty when there is none.

    As it came where that is strict JSON that every parser reads; what is nested more deeply is a marked text there
    (`mixfs.jsontext`), and whole among the raw texts of NAME.json. NaN and Infinity are null, as in ComfyUI's own page.
    """
    texts = raw_texts(about.metadata)
    found = texts.get("workflow", "")
    if not found:
        # ComfyUI's WebP and JPEG savers put it into an EXIF field, behind its name.
        fields = (text.strip() for key, text in texts.items() if key.startswith("exif:"))
        found = next((text[9:].lstrip() for text in fields if text[:9].lower() == "workflow:"), "")
    try:
        if jsontext.is_strict(found) and not jsontext.is_deep(found):
            return in_json(found).encode()
        return to_json(jsontext.loads(found, strict=False, nan_as_null=True), deep=False) if found else b""
    except InvalidValue:
        # Cut off, or no JSON at all: it stands among the raw texts of NAME.json.
        return b""


def image_xmp(about: About) -> bytes:
    """NAME.xmp: a sidecar that photo managers read (tags, rating, comment, prompt, generator)."""
    # It loads urllib and http, which the start of a mount can do without.
    from xml.sax.saxutils import escape, quoteattr

    annotation, generation = about.annotation, about.generation
    tags = "".join(f"<rdf:li>{escape(_xml_text(tag))}</rdf:li>" for tag in (annotation.tags if annotation else ()))
    rating = annotation.rating if annotation else None
    description = (annotation.comment if annotation else None) or (generation.prompt if generation else None)
    tool = generation.generator if generation else None
    attributes = "".join(
        f" {name}={quoteattr(value)}"
        for name, value in (
            ("xmp:Rating", None if rating is None else str(round(rating / 2))),
            ("xmp:CreatorTool", tool),
            ("xmp:CreateDate", iso(about.image.taken_ns, about.image.utc_offset_s)),
        )
        if value is not None
    )
    body = f"<dc:subject><rdf:Bag>{tags}</rdf:Bag></dc:subject>" if tags else ""
    if description:
        body += (
            f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(_xml_text(description))}'
            "</rdf:li></rdf:Alt></dc:description>"
        )
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        f' xmlns:xmp="http://ns.adobe.com/xap/1.0/"{_xml_text(attributes)}>{body}</rdf:Description>\n'
        "</rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>\n'
    ).encode("utf-8", "replace")


def _xml_text(text: str) -> str:
    """Without what XML can't say, and without C1, on which terminals act."""
    return "".join(c for c in text if c in "\t\n\r" or (" " <= c < "\x7f") or (c >= "\xa0" and c not in "\ufffe\uffff"))


IMAGE_DOCUMENTS = {"json": image_json, "txt": image_txt, "workflow": image_workflow, "xmp": image_xmp}


# -- one generation


def prompt_txt(generation: Generation) -> bytes:
    return shown_text((generation.prompt or "") + "\n")


def generation_json(generation: Generation) -> bytes:
    out = generation_fields(generation)
    out["session_id"] = generation.session_id
    out["inputs"] = [_ref(ref) for ref in generation.inputs]
    out["outputs"] = [_ref(ref) for ref in generation.outputs]
    if generation.duration_ms is not None:
        out["generation_time_ms"] = generation.duration_ms
    if generation.error is not None:
        out["error"] = generation.error
    if generation.foreign:
        out["foreign"] = dict(generation.foreign)
    return to_json(out, deep=False)


def _ref(ref: ImageRef) -> dict[str, Any]:
    out: dict[str, Any] = {"name": ref.name, "digest": ref.digest.hex() if ref.digest else None, "size": ref.size}
    if ref.role:
        out["role"] = ref.role
    return out


def parameters_json(generation: Generation) -> bytes:
    return to_json(_parameters(generation), deep=False)


def _parameters(generation: Generation) -> dict[str, Any]:
    fields = generation_fields(generation)
    shown: tuple[str, ...] = ("model", "model_hash", "negative_prompt", "seed", "steps", "cfg", "sampler", "scheduler")
    shown += ("width", "height")
    out: dict[str, Any] = {name: fields[name] for name in shown if name in fields}
    if "loras" in fields:
        out["loras"] = fields["loras"]
    return out | dict(generation.parameters)


GENERATION_DOCUMENTS = {
    "prompt.txt": prompt_txt,
    "generation.json": generation_json,
    "parameters.json": parameters_json,
}


# -- the three JSON views of a session


class Sum(NamedTuple):
    """The share of a set of items in a document: how many, their bytes, the sum of their digests modulo 2^64."""

    items: int = 0
    size: int = 0
    digest: int = 0

    def with_item(self, item: bytes, sign: int = 1, order: int = 0) -> Sum:
        """The sum with an item added, or (sign -1) taken away. `order` is what the item is sorted by."""
        mark = revision(item + (order % 2**64).to_bytes(8, "little"))
        return Sum(self.items + sign, self.size + sign * len(item), (self.digest + sign * mark) % 2**64)


class Counts(NamedTuple):
    """What session.json counts."""

    images: int = 0
    files: int = 0
    bytes: int = 0


class SessionParts(NamedTuple):
    """What the documents of a session are made of, besides the items themselves."""

    session: Session
    mtime_ns: int
    counts: Counts
    entries: Sum
    edges: Sum
    generations: Sum


def session_json(parts: SessionParts) -> bytes:
    session = parts.session
    return to_json(
        {
            "id": session.id,
            "title": session.title,
            "user": {"displayName": session.user_name, "id": session.user_id},
            "created_at": iso(session.created_ns),
            "updated_at": iso(parts.mtime_ns),
            "images": parts.counts.images,
            "files": parts.counts.files,
            "bytes": parts.counts.bytes,
            "entries": parts.entries.items,
            "edges": parts.edges.items,
            "generations": parts.generations.items,
            "zoom": session.zoom,
            "panOffset": {"x": session.pan_x, "y": session.pan_y},
        }
    )


def entry_item(entry: Entry) -> bytes:
    """One element of canvas_images; `data` holds the fields that have no column of their own, as they came."""
    out: dict[str, Any] = {
        "canvasId": entry.shown_id,
        "imageHash": entry.digest.hex() if entry.digest else None,
        "type": entry.type,
        "x": entry.x,
        "y": entry.y,
        "width": entry.width,
        "height": entry.height,
        "text": entry.text,
        "generationId": entry.generation_id,
    }
    out = {key: value for key, value in out.items() if value is not None}
    out |= {key: value for key, value in entry.data.items() if key not in out}
    return item_bytes(out)


def edge_item(edge: Edge) -> bytes:
    out: dict[str, Any] = {
        "id": edge.shown_id,
        "source": edge.source,
        "target": edge.target,
        "sourceHandle": edge.source_handle,
        "targetHandle": edge.target_handle,
    }
    out = {key: value for key, value in out.items() if value is not None}
    return item_bytes(out | {key: value for key, value in edge.data.items() if key not in out})


def generation_item(generation: Generation) -> bytes:
    """One element of generations.json, Storage V2's schema."""
    out: dict[str, Any] = {
        "generation_id": generation.shown_id,
        "timestamp": iso(generation.time_ns, generation.utc_offset_s),
        "status": generation.status,
        "prompt": generation.prompt,
        "input_images": [_v2_ref(ref) for ref in generation.inputs],
        "output_images": [_v2_ref(ref) for ref in generation.outputs],
        "parameters": _parameters(generation),
    }
    if generation.duration_ms is not None:
        out["generation_time_ms"] = generation.duration_ms
    if generation.canvas_state is not None:
        out["canvas_state"] = dict(generation.canvas_state)
    return item_bytes(out)


def _v2_ref(ref: ImageRef) -> dict[str, Any]:
    digest = ref.digest.hex() if ref.digest else None
    return {"id": ref.placement_id, "filename": ref.name, "hash": digest, "size_bytes": ref.size}


def item_bytes(value: dict[str, Any]) -> bytes:
    return b"\n".join(b"    " + line for line in _dumps(value).split(b"\n"))


def _list_size(items: Sum) -> int:
    return 2 if not items.items else len(b"[\n") + items.size + len(b",\n") * (items.items - 1) + len(b"\n  ]")


def _list(items: Iterable[bytes]) -> bytes:
    body = b",\n".join(items)
    return b"[\n" + body + b"\n  ]" if body else b"[]"


class LongDocument(NamedTuple):
    """A document with item lists: `parts` are the bytes around them, one more than there are lists."""

    parts: tuple[bytes, ...]
    sums: tuple[Sum, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts)) + sum(map(_list_size, self.sums))

    @property
    def revision(self) -> int:
        return revision(repr((self.parts, self.sums)).encode())

    def render(self, *lists: Iterable[bytes]) -> bytes:
        """The document, of exactly `size` bytes when the lists hold the items of `sums`."""
        out = [self.parts[0]]
        for items, part in zip(lists, self.parts[1:], strict=True):
            out += [_list(items), part]
        return b"".join(out)


def head_fields(fields: Mapping[str, Any]) -> bytes:
    return b"".join(
        b"  " + _dumps(name) + b": " + _dumps(value).replace(b"\n", b"\n  ") + b",\n" for name, value in fields.items()
    )


def canvas_document(parts: SessionParts) -> LongDocument:
    """canvas.json: items are `entry_item` in the order of (z, id), then `edge_item` in the order of ids."""
    session = parts.session
    head = {
        "version": "2.0",
        "session_id": session.id,
        "title": session.title,
        "created_at": iso(session.created_ns),
        "updated_at": iso(parts.mtime_ns),
    }
    tail: dict[str, Any] = {"zoom": session.zoom, "panOffset": {"x": session.pan_x, "y": session.pan_y}}
    if session.foreign:
        tail["foreign"] = dict(session.foreign)
    user = {"displayName": session.user_name, "id": session.user_id}
    last = head_fields(tail) + b'  "user": ' + _dumps(user).replace(b"\n", b"\n  ") + b"\n}\n"
    return LongDocument(
        (b"{\n" + head_fields(head) + b'  "canvas_images": ', b',\n  "edges": ', b",\n" + last),
        (parts.entries, parts.edges),
    )


def generations_document(parts: SessionParts) -> LongDocument:
    """generations.json: items are `generation_item` in the order of (time, id)."""
    head = {"version": "2.0", "session_id": parts.session.id}
    return LongDocument((b"{\n" + head_fields(head) + b'  "generations": ', b"\n}\n"), (parts.generations,))
