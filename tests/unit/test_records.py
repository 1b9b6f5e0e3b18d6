"""Records: nothing is lost between a record and its CBOR map."""

from __future__ import annotations

import dataclasses
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import by_kind

from mixfs.records import KINDS, Record, Session, from_map, to_map

relaxed = settings(deadline=None, database=None, max_examples=60)


def fields_with_keys(cls: type[Record]) -> dict[str, int]:
    return {field.name: field.metadata["key"] for field in dataclasses.fields(cls) if "key" in field.metadata}


@pytest.mark.parametrize("cls", sorted(by_kind, key=lambda cls: cls.KIND), ids=lambda cls: cls.__name__)
def test_every_kind_comes_back_from_cbor(cls: type[Record]) -> None:
    @relaxed
    @given(by_kind[cls])
    def run(record: Record) -> None:
        data = cbor2.loads(cbor2.dumps(to_map(record)))
        again = from_map(cls, data)
        assert again == record
        assert dict(again.unknown) == dict(record.unknown)
        assert to_map(again) == data
        assert again.entity_id == record.entity_id

    run()


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: cls.__name__)
def test_keys_are_small_integers_each_used_once(cls: type[Record]) -> None:
    keys = list(fields_with_keys(cls).values())
    assert len(set(keys)) == len(keys)
    assert all(isinstance(key, int) and 0 < key < 100 for key in keys)


@relaxed
@given(st.dictionaries(st.integers(100, 200) | st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3))
def test_fields_of_a_later_version_are_kept(later: dict[Any, Any]) -> None:
    data = {1: "an id", 2: "a title", **later}
    session = from_map(Session, data)
    assert dict(session.unknown) == later
    assert to_map(dataclasses.replace(session, title="another")) == {**data, 2: "another"}


def test_defaults_are_not_written() -> None:
    assert to_map(Session(id="x")) == {1: "x"}


def test_a_record_without_its_id_is_refused() -> None:
    with pytest.raises(TypeError):
        from_map(Session, {2: "a title"})


# The numbers are on disk: a field's number never changes, and a new field takes a new one.
@pytest.mark.parametrize("kind", range(1, 14))
def test_the_numbers_of_version_1_stay(kind: int) -> None:
    name, numbers = NUMBERS[kind]
    assert KINDS[kind].__name__ == name
    now = fields_with_keys(KINDS[kind])
    assert {field: now.get(field) for field in numbers} == numbers
    assert not {number for field, number in now.items() if field not in numbers} & set(numbers.values())


NUMBERS: dict[int, tuple[str, dict[str, int]]] = {
    1: ("Session", {
        "id": 1, "title": 2, "name": 3, "created_ns": 4, "user_id": 5, "user_name": 6, "zoom": 7, "pan_x": 8,
        "pan_y": 9, "stamps": 15,
    }),
    2: ("Folder", {
        "id": 1, "session_id": 2, "parent_id": 3, "name": 4, "mode": 5, "named_ns": 6,
    }),
    3: ("Placement", {
        "id": 1, "session_id": 2, "digest": 3, "name": 4, "folder_id": 5, "area": 6, "role": 7, "size": 8, "mode": 9,
        "mtime_ns": 10, "named_ns": 11, "original_name": 12, "xattrs": 13, "added_ns": 14,
    }),
    4: ("Entry", {
        "id": 1, "session_id": 2, "type": 3, "x": 4, "y": 5, "width": 6, "height": 7, "z": 8, "digest": 9,
        "text": 10, "generation_id": 11, "data": 12, "named_ns": 13,
    }),
    5: ("Edge", {
        "id": 1, "session_id": 2, "source": 3, "target": 4, "source_handle": 5, "target_handle": 6, "data": 7,
    }),
    6: ("Generation", {
        "id": 1, "session_id": 2, "time_ns": 3, "utc_offset_s": 4, "status": 5, "prompt": 6, "negative_prompt": 7,
        "generator": 8, "generator_version": 9, "model": 10, "model_hash": 11, "seed": 12, "steps": 13, "cfg": 14,
        "sampler": 15, "scheduler": 16, "width": 17, "height": 18, "loras": 19, "parameters": 20, "inputs": 21,
        "outputs": 22, "duration_ms": 23, "error": 24, "reader": 25, "reader_version": 26, "canvas_state": 27,
        "named_ns": 28,
    }),
    7: ("Blob", {
        "digest": 1, "size": 2, "media_type": 3, "added_ns": 4,
    }),
    8: ("Image", {
        "digest": 1, "id": 2, "media_type": 3, "width": 4, "height": 5, "orientation": 6, "frames": 7, "problem": 8,
        "taken_ns": 9, "utc_offset_s": 10, "size": 11, "added_ns": 12,
    }),
    9: ("Annotation", {
        "digest": 1, "tags": 2, "rating": 3, "comment": 4, "stamps": 15,
    }),
    10: ("Trash", {
        "id": 1, "deleted_ns": 2, "reason": 3, "session_id": 4, "session_title": 5, "name": 6, "digest": 7,
        "records": 8,
    }),
    11: ("ImportFolder", {
        "id": 1, "parent_id": 2, "name": 3, "mode": 4, "mtime_ns": 5, "session_id": 6, "folder_id": 7, "named_ns": 8,
        "xattrs": 9, "unlooked": 10, "layout": 11,
    }),
    12: ("Receipt", {
        "id": 1, "parent_id": 2, "name": 3, "digest": 4, "size": 5, "mode": 6, "mtime_ns": 7, "placement_id": 8,
        "session_id": 9, "xattrs": 10, "named_ns": 11,
    }),
    13: ("Metadata", {
        "digest": 1, "raw": 2, "reader": 3, "reader_version": 4,
    }),
}  # fmt: skip
