"""`mixfs/library/three_way.py`: a save changes what its program changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixfs.library.three_way import merge


def items(*ids: str, **changed: Any) -> list[dict[str, Any]]:
    return [{"canvasId": each, "x": changed.get(each, 0)} for each in ids]


@pytest.mark.parametrize(
    ("base", "saved", "current", "expected"),
    [
        ({"t": "A", "z": 1}, {"t": "A", "z": 2}, {"t": "B", "z": 1}, {"t": "B", "z": 2}),
        ({"t": "A"}, {"t": "C"}, {"t": "B"}, {"t": "C"}),
        ({"p": {"x": 1, "y": 1}}, {"p": {"x": 2, "y": 1}}, {"p": {"x": 1, "y": 3}}, {"p": {"x": 2, "y": 3}}),
        ({"a": 1}, {}, {"a": 1, "b": 2}, {"b": 2}),
        ({"a": 1}, {"a": 1}, {}, {}),
        ({"a": 1}, {"a": 2}, {}, {"a": 2}),
        ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": None}, {}, {"a": None}, {}),
        ({"a": 1, "b": [0]}, {"a": True, "b": [False]}, {"a": 1, "b": [0]}, {"a": True, "b": [False]}),
        ({"a": 1}, {"a": 1.0}, {"a": 1}, {"a": 1.0}),
        ({"a": 1.0}, {"a": 1}, {"a": 2.5}, {"a": 2.5}),
        (items("a"), items("a", "b"), items("a", "c"), items("a", "b", "c")),
        (items("a", "b"), items("a"), items("a", "b", "c"), items("a", "c")),
        (items("a", "b"), items("a", "b"), items("b"), items("b")),
        (items("a", "b"), items("a", "b", a=5), items("a", "b", b=7), items("a", "b", a=5, b=7)),
        (items("a", "b"), items("b", "a"), items("a", "b", "c"), items("b", "c", "a")),
        ([1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 3]),
        ([], items("a"), items("b"), items("a", "b")),
        (None, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"l": items("a")}, {"l": items("a", "b")}, {"l": items("a"), "t": 1}, {"l": items("a", "b"), "t": 1}),
    ],
)
def test_merge(base: Any, saved: Any, current: Any, expected: Any) -> None:
    # As text: to Python, 1 and true are equal.
    assert json.dumps(merge(base, saved, current), sort_keys=True) == json.dumps(expected, sort_keys=True)


_value = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    | st.lists(st.sampled_from("abcd"), unique=True).flatmap(
        lambda ids: st.tuples(*(st.fixed_dictionaries({"id": st.just(each), "v": inner}) for each in ids)).map(list)
    ),
    max_leaves=8,
)


@given(_value, _value, _value)
def test_a_side_that_changed_nothing_gives_the_other(base: Any, saved: Any, current: Any) -> None:
    assert merge(base, base, current) == current
    assert merge(base, saved, base) == saved
    assert merge(base, saved, saved) == saved
    merge(base, saved, current)
