"""JSON as Python, JavaScript and PostgreSQL write it, with the value that is to come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from mixfs.jsontext import Marked, marked


def same(one: Any, other: Any) -> bool:
    """`==`, however deep."""
    due = [(one, other)]
    while due:
        a, b = due.pop()
        if isinstance(a, dict) and isinstance(b, dict) and not isinstance(a, Marked) and not isinstance(b, Marked):
            if a.keys() != b.keys():
                return False
            due += [(a[key], b[key]) for key in a]
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            due += zip(a, b, strict=True)
        elif a != b:
            return False
    return True


def _scalar() -> st.SearchStrategy[tuple[str, Any]]:
    plain = st.one_of(
        st.none(), st.booleans(), st.integers(-(10**400), 10**400), st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([2**53, 2**63, 2**64, 10**30, -(2**63) - 1, 10**400]), texts(),
    ).map(lambda value: (json.dumps(value), value))  # fmt: skip
    odd = st.sampled_from([
        ("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e400", marked("1e400")),
        ("-0.0", -0.0), ("9" * 5000, marked("9" * 5000)), (r'"half \ud83d"', "half \ufffd"),
        (r'"\udc00\ud83d\ude00"', "\ufffd\U0001f600"), (r'"\\ud83d"', "\\ud83d"),
        (r'"\u2028\u0000\u009b"', "\u2028\0\x9b"),
    ])  # fmt: skip
    return plain | odd


def texts() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _keys() -> st.SearchStrategy[str]:
    return texts() | st.sampled_from(["mixfs:json", "", "a", "data", "url", "x-mixfs"])


def _list(items: list[tuple[str, Any]]) -> tuple[str, Any]:
    return "[" + ",".join(text for text, _ in items) + "]", [value for _, value in items]


def _object(items: list[tuple[str, tuple[str, Any]]]) -> tuple[str, Any]:
    # Keys that stand twice: the last one counts.
    return (
        "{" + ", ".join(f"{json.dumps(key)} : {text}" for key, (text, _) in items) + "}",
        {key: value for key, (_, value) in items},
    )  # fmt: skip


def _nested(levels: int, in_objects: bool, inner: tuple[str, Any]) -> tuple[str, Any]:
    text, value = inner
    begin, end = ('{"k":', "}") if in_objects else ("[", "]")
    for _ in range(levels):
        value = {"k": value} if in_objects else [value]
    return begin * levels + text + end * levels, value


class Odd:
    """A JSON text and its value, which Hypothesis can't show: it is nested too deeply."""

    def __init__(self, pair: tuple[str, Any]) -> None:
        self._pair = pair

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pair)

    def __repr__(self) -> str:
        text = self._pair[0]
        return f"Odd({text!r})" if len(text) < 2000 else f"Odd({text[:900]!r} … {text[-900:]!r})"


def odd_json() -> st.SearchStrategy[Odd]:
    """`(text, value)`."""
    shallow = st.recursive(
        _scalar(),
        lambda inner: st.lists(inner, max_size=4).map(_list)
        | st.lists(st.tuples(_keys(), inner), max_size=4).map(_object),
        max_leaves=12,
    )  # fmt: skip
    looks_marked = st.sampled_from(['{"mixfs:json": "[1]"}', '{"mixfs\\u003ajson": "7"}', '[{"mixfs:json": "no"}]'])
    deep = st.builds(_nested, st.sampled_from([55, 60, 64, 65, 130, 390, 398, 10_000]), st.booleans(), shallow)
    return st.one_of(shallow, looks_marked.map(lambda text: (text, json.loads(text))), deep).map(Odd)
