"""Random records of every kind, for Hypothesis: small pools of ids and names, so that they meet each other."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mixfs.ids import Digest
from mixfs.library.storage_v2 import POOL_ID
from mixfs.records import (
    KINDS,
    Annotation,
    Blob,
    Edge,
    Entry,
    Folder,
    Generation,
    Image,
    ImageRef,
    ImportFolder,
    Metadata,
    Placement,
    Receipt,
    Record,
    Session,
    Trash,
)

MOMENT = 1_700_000_000_000_000_000


def uuid(tag: int, n: int) -> str:
    return f"01900000-0000-7000-8000-{tag:06x}{n:06x}"


def pool(tag: int, size: int = 3, foreign: str = "") -> st.SearchStrategy[str]:
    ids = [uuid(tag, n) for n in range(size)]
    return st.sampled_from([*ids, foreign] if foreign else ids)


DIGESTS = [Digest(bytes([n]) * 32) for n in range(3)]
digests = st.sampled_from(DIGESTS)
sizes = st.integers(0, 1 << 40)
times = st.integers(MOMENT, MOMENT + 3) | st.integers(0, 4 * 10**18)
orders = st.integers(MOMENT, MOMENT + 3)
offsets = st.sampled_from([0, 3600, -5 * 3600, 20700])
LONG = b"n" * 251 + b".png"
names = st.sampled_from(
    [b"a.png", b"a (2).png", b"a (3).png", b"a (2) (2).png", b"b", b"b ", LONG, b"n" * 239 + b" (2).png", b"\xff\x80"]
)
texts = st.sampled_from(["", "a cat", "ein Bär\nim Wald", 'quoted "text", a: b', "x" * 300, "../..", "😀\u202e"])
optional_texts = st.none() | texts
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
mappings = st.dictionaries(texts, values, max_size=2)
# Keys of a later version.
unknown = st.just({}) | st.dictionaries(st.sampled_from([100, 101, "later"]), values, max_size=2)
sessions_ids = pool(1, 2, "a foreign/session") | st.just(POOL_ID)
refs = st.lists(
    st.builds(ImageRef, digest=st.none() | digests, name=texts, role=texts, size=sizes, unknown=unknown), max_size=2
).map(tuple)

# What a Storage V2 folder leaves in a record, and what another program's journal may have there instead.
aliases = st.sampled_from(["h1", "h2", DIGESTS[0].hex()])
files = st.sampled_from(["a.png", "b.png", "../b", ""])
kept = st.fixed_dictionaries(
    {},
    optional={
        "hash": aliases | values, "file": files | values, "info": st.just({"file_path": "images/b.png"}) | values,
        "canvas": mappings | values, "generations": mappings | values, "lacks": st.just(["_canvas.json"]) | values,
        "user": mappings | values, "panOffset": mappings | values, "registry": mappings | values,
        "pending": st.dictionaries(texts, mappings, max_size=2) | values,
        "input_images": st.lists(st.fixed_dictionaries({"hash": aliases}), max_size=2) | values,
    },
)
foreign = mappings | st.fixed_dictionaries({"storage-v2": kept | values})
data = mappings | st.fixed_dictionaries({"imageHash": aliases | values})

by_kind: dict[type[Record], st.SearchStrategy[Any]] = {
    Session: st.builds(
        Session, id=sessions_ids, title=texts, name=names, created_ns=times, user_id=optional_texts,
        user_name=optional_texts, zoom=st.none() | st.floats(0, 9), pan_x=st.none() | st.floats(-9, 9), unknown=unknown,
        foreign=foreign,
    ),
    Folder: st.builds(
        Folder, id=pool(2), session_id=sessions_ids, parent_id=st.none() | pool(2), name=names, mode=st.just(0o755),
        named_ns=orders, unknown=unknown,
    ),
    # A blob has one size, so the size of what holds it follows from its digest.
    Placement: st.builds(
        lambda digest, **fields: Placement(digest=digest, size=1000 + digest[0], **fields), digest=digests,
        id=pool(3, 5, "img_foreign"), session_id=sessions_ids, name=names, folder_id=st.none() | pool(2),
        area=st.sampled_from(["images", "files"]), mtime_ns=times, named_ns=orders, added_ns=times, unknown=unknown,
        original_name=names, foreign=foreign, xattrs=st.dictionaries(texts, st.binary(max_size=4), max_size=1),
    ),
    Entry: st.builds(
        Entry, id=pool(4, 3, "f/oreign"), session_id=sessions_ids,
        type=st.sampled_from(["image", "text", "board", "odd"]), x=st.floats(-9, 9), z=st.integers(-3, 3),
        digest=st.none() | digests, text=optional_texts, data=data, named_ns=orders, unknown=unknown,
        foreign_id=optional_texts,
    ),
    Edge: st.builds(
        Edge, id=pool(5), session_id=sessions_ids, source=pool(4), target=pool(4), source_handle=optional_texts,
        data=mappings, unknown=unknown, foreign_id=optional_texts,
    ),
    Generation: st.builds(
        Generation, id=pool(6), session_id=sessions_ids, time_ns=times, utc_offset_s=offsets, prompt=optional_texts,
        negative_prompt=optional_texts, model=optional_texts, generator=optional_texts,
        seed=st.none() | st.integers(0, 2**64),
        loras=st.lists(st.tuples(texts, st.floats(0, 2)).map(list), max_size=2).map(tuple), parameters=mappings,
        inputs=refs, outputs=refs, duration_ms=st.none() | sizes, error=optional_texts, named_ns=orders,
        unknown=unknown, foreign_id=optional_texts, foreign=foreign,
    ),
    Blob: st.builds(
        lambda digest, **fields: Blob(digest=digest, size=1000 + digest[0], **fields), digest=digests,
        media_type=st.sampled_from(["image/png", "text/plain"]), added_ns=times, unknown=unknown,
    ),
    Image: st.builds(
        lambda digest, **fields: Image(digest=digest, size=1000 + digest[0], **fields), digest=digests,
        media_type=st.sampled_from(["image/png", "image/jpeg"]), width=st.none() | st.integers(1, 9),
        problem=st.none() | st.just("damaged"), taken_ns=times, utc_offset_s=offsets, added_ns=times, unknown=unknown,
    ),
    Annotation: st.builds(
        Annotation, digest=digests, tags=st.lists(texts, max_size=2).map(tuple), rating=st.none() | st.integers(0, 10),
        comment=optional_texts, unknown=unknown,
    ),
    Trash: st.builds(
        Trash, id=pool(10), deleted_ns=times, name=names, digest=st.none() | digests, unknown=unknown,
        records=st.lists(st.tuples(st.integers(1, 13), texts, mappings).map(list), max_size=1).map(tuple),
    ),
    ImportFolder: st.builds(
        ImportFolder, id=pool(11), parent_id=st.none() | pool(11), name=names, mtime_ns=times, named_ns=orders,
        session_id=st.none() | sessions_ids, unknown=unknown,
    ),
    Receipt: st.builds(
        lambda digest, **fields: Receipt(digest=digest, size=1000 + digest[0], **fields), digest=digests, id=pool(12),
        parent_id=st.none() | pool(11), name=names, mtime_ns=times, named_ns=orders, unknown=unknown,
    ),
    Metadata: st.builds(Metadata, digest=digests, raw=st.just(b""), reader=optional_texts, unknown=unknown),
}  # fmt: skip
assert set(by_kind) == set(KINDS.values())

records: st.SearchStrategy[Record] = st.one_of(*by_kind.values())
