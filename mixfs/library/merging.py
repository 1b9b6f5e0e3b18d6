"""Two versions of one record made one: sessions and annotations, whose fields carry stamps of their own.

The outcome depends on which changes there are, never on the order in which they come: see
`tests/unit/library/test_order.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mixfs.records import Record, field_keys, from_map, to_map


def _merge_fields(old: Record, new: Record) -> dict[str, Any]:
    """The fields of two versions of one record, each from the version that set it last (last writer wins)."""
    out: dict[str, Any] = {}
    merged: dict[int, list[Any]] = {}
    old_stamps: Mapping[int, list[Any]] = old.stamps  # type: ignore[attr-defined]
    new_stamps: Mapping[int, list[Any]] = new.stamps  # type: ignore[attr-defined]
    for name, key in field_keys(type(old)).items():
        before, after = old_stamps.get(key, [0, b""]), new_stamps.get(key, [0, b""])
        newest, source = (after, new) if after >= before else (before, old)
        out[name] = getattr(source, name)
        if newest[0]:
            merged[key] = list(newest)
    out["stamps"] = merged
    return out


def merge_rows(cls: type[Record], held: list[Any], change: list[Any]) -> list[Any]:
    """The row [stamp, replica, map | nil] of a record whose fields carry stamps, after a change.

    A tombstone goes on holding the newest put and what was merged into it, [stamp, replica, nil, stamp of the put, its
    replica, map]: the fields are those of all puts, and whether the record lives depends on what was newest, so that
    nothing depends on the order in which they came.
    """
    put = held[:3] if held[2] is not None else held[3:]
    deleted = held[:3] if held[2] is None else [0, b"", None]
    if change[2] is None:
        deleted = max(deleted, change, key=lambda row: (row[0], row[1]))
    else:
        new = from_map(cls, change[2])
        if put:
            old = from_map(cls, put[2])
            newer = (change[0], change[1]) > (put[0], put[1])
            new = replace(new if newer else old, **_merge_fields(old, new))
            if not newer:
                change = put
        put = [change[0], change[1], to_map(new)]
    if put and (put[0], put[1]) > (deleted[0], deleted[1]):
        return put
    return [*deleted, *put]
