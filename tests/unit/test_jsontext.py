"""JSON of other programs, read and written: `mixfs.jsontext`."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_json import Odd, odd_json, same, texts
from strict_json import strict

from mixfs import jsontext
from mixfs.errors import InvalidValue


def levels(value: Any) -> int:
    """How deep a value is nested; fails for one that Python can't walk."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(levels, inner), default=0) if isinstance(value, dict | list) else 0


@given(odd_json())
@settings(max_examples=30, deadline=None)
def test_what_comes_in_goes_out_again_strictly_and_equal(odd: Odd) -> None:
    text, value = odd
    whole = jsontext.loads(text, whole=True)
    assert same(whole, value)
    kept = jsontext.loads(text)
    assert levels(kept) <= jsontext.DEPTH + 1
    assert jsontext.keepable(kept, "x", 200) is kept
    for options in ({}, {"indent": 2}, {"ascii": True}):
        out = jsontext.dumps(kept, **options)  # type: ignore[arg-type]
        out.encode()
        assert same(jsontext.loads(out, whole=True), value)
        # It is the same again, so that a document that is saved as it is shown changes nothing.
        assert jsontext.loads(out) == kept
        if "9" * 5000 not in out and levels(kept) < jsontext.DEPTH:
            strict(out)


@given(odd_json(), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_the_parts_of_a_stream_are_those_of_the_text(odd: Odd, size: int) -> None:
    text, value = odd
    at = iter(range(0, len(text), size))
    found = jsontext.events(lambda _: text[(n := next(at, len(text))) : n + size])
    assert same(jsontext.build(found, *next(found)), value)
    assert next(found, None) is None


@given(st.lists(st.none() | st.integers() | st.dictionaries(texts(), texts())))
@settings(max_examples=20, deadline=None)
def test_every_encoding_of_json_is_read(value: Any) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        data = json.dumps({"a": value}, ensure_ascii=False).encode(encoding)
        assert jsontext.loads(data) == {"a": value}
        found = jsontext.file_events(io.BytesIO(data))
        assert jsontext.build(found, *next(found)) == {"a": value}
        assert jsontext.beginning(data).startswith("{")


@pytest.mark.parametrize(
    "text",
    ['{"a" 1}', "[1,]", "[1 2]", "[01]", '"a', "[", '{"a":', "", "[1] x", "[tru]", '{"a":1,}', '"\x01"', r'"\x"', "[1}",
     "-", "[1.]", "[.5]", "[+1]", "[nan]", "{1:2}", "[" * 100, "[" * 100 + "]" * 99, "[" * 20_000, '{"a":[' * 70 + "x"],
)  # fmt: skip
def test_what_is_no_json_is_refused_with_its_place(text: str) -> None:
    for read in (jsontext.loads, jsontext.parsed):
        with pytest.raises(InvalidValue, match=r"Line 1, column \d+"):
            read(text)
    with pytest.raises(InvalidValue, match=r"Line [34], column"):
        jsontext.loads("[\n1,\n" + text + "\n\x01")


def test_bytes_that_are_no_text_are_refused_with_their_place() -> None:
    with pytest.raises(InvalidValue, match="Byte 3 is no UTF-8"):
        jsontext.loads(b'["a\xff"]')
    with pytest.raises(InvalidValue, match="Byte 5 is no UTF-8"):
        list(jsontext.file_events(io.BytesIO(b'["abc\xff"]')))


def test_writing_is_strict_whatever_the_value_holds() -> None:
    value: dict[Any, Any] = {"n": float("nan"), "i": [float("inf"), -float("inf")], "h": "\ud83d", "b": b"\1"}
    value |= {5: {None: 1}, "big": 10**5000}
    said = strict(jsontext.dumps(value))
    assert said | {"big": 0} == {
        "n": "NaN", "i": ["Infinity", "-Infinity"], "h": "\ufffd", "b": "01", "5": {"null": 1}, "big": 0,
    }  # fmt: skip
    strict(jsontext.dumps(value, ascii=True, indent=1))
    # In a journal of another program anything may stand in the place of the text.
    assert strict(jsontext.dumps({"mixfs:json": "no JSON ["})) == {"mixfs:json": "no JSON ["}
    assert strict(jsontext.dumps([{"mixfs:json": "[1, NaN,\n {}]"}])) == [[1, "NaN", {}]]


def test_a_value_that_no_record_can_hold_is_refused_by_its_place() -> None:
    wrong: tuple[tuple[Any, str], ...] = (
        ({"a": ["\ud83d"]}, "x.a[0]"), ([object()], "x[0]"), ({"k": {(1, 2): 3}}, "x.k"), (10**5000, "x"),
    )  # fmt: skip
    for value, place in wrong:
        with pytest.raises(InvalidValue) as caught:
            jsontext.keepable(value, "x", 50)
        assert str(caught.value).startswith(place + " ")
    within: list[Any] = []
    within.append(within)
    with pytest.raises(InvalidValue, match="within itself"):
        jsontext.keepable(within, "x", 50)
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    assert levels(jsontext.keepable({"a": deep}, "x", 50)) == 51


@given(odd_json())
@settings(max_examples=20, deadline=None)
def test_what_only_shows_is_read_by_every_parser(odd: Odd) -> None:
    text, _ = odd
    for value in (jsontext.loads(text), jsontext.loads(text, whole=True)):
        assert levels(json.loads(jsontext.dumps(value, deep=False), parse_int=str)) <= 100


def test_what_only_shows_has_deep_containers_as_text_and_nothing_else() -> None:
    deep = "[" * 5000 + "]" * 5000
    value = jsontext.loads(f'{{"big": 1e999, "deep": {deep}}}')
    said = jsontext.dumps(value, deep=False)
    assert '"big": 1e999' in said
    at = json.loads(said)["deep"]
    while isinstance(at, list):
        (at,) = at
    left = at["mixfs:json"]
    assert left == "[" * (len(left) // 2) + "]" * (len(left) // 2)
    assert same(jsontext.loads(jsontext.dumps(value), whole=True), jsontext.parsed(f'{{"big": 1e999, "deep": {deep}}}'))
