"""Merging a saved JSON document into one that changed meanwhile: what its program changed, and nothing else.

`base` is what the program had read, `saved` what it wrote, `current` what the document is now. A value that is the same
in `base` and `saved` was not touched by the program and stays as it is now. Objects are merged member by member; lists
of objects that bear an id, item by item. Where both sides changed the same value, the program's stands.

What belongs here: the merge, on plain JSON values. It knows no records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mixfs import jsontext

_ID_KEYS = ("canvasId", "generation_id", "id")
_MISSING: Any = object()
_Items = dict[str, Any]


class Version(NamedTuple):
    """What a program had read. `revision` is None for what it had saved itself, which no revision renders alike."""

    revision: int | None
    document: Callable[[], Any]


def merged(base: Version | None, saved: Any, revision: int | None, render: Callable[[], bytes]) -> Any:
    """The document to store, where the current one has a `revision` and is rendered by `render`."""
    if base is None or base.revision == revision:
        return saved
    document = base.document()
    return saved if document is None else merge(document, saved, jsontext.loads(render()))


def merge(base: Any, saved: Any, current: Any) -> Any:
    """The document to store."""
    if _equal(saved, base):
        # 1 that became 1.0 is no change that others would have to give way to.
        return saved if _equal(saved, current) else current
    if _equal(current, base):
        return saved
    if isinstance(saved, dict) and isinstance(current, dict):
        return _objects(base if isinstance(base, dict) else {}, saved, current)
    if isinstance(saved, list) and isinstance(current, list):
        id_key = _id_key(saved, current, base if isinstance(base, list) else [])
        if id_key is not None:
            items = [_by_id(value, id_key) for value in (base if isinstance(base, list) else [], saved, current)]
            return _lists(*items)
    return saved


def _equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same. To Python 1 and true are equal, too; to a program that saves one, no."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _objects(base: Mapping[str, Any], saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key in {**saved, **current}:
        value = _member(*(side.get(key, _MISSING) for side in (base, saved, current)))
        if value is not _MISSING:
            out[key] = value
    return out


def _member(base: Any, saved: Any, current: Any) -> Any:
    if _MISSING in (saved, current):
        # Left out by one side: the program's choice, if it is the one that changed something.
        return current if _equal(saved, base) else saved
    return merge(None if base is _MISSING else base, saved, current)


def _id_key(*lists: list[Any]) -> str | None:
    """The member by which the items of all lists are told apart, or None."""
    for id_key in _ID_KEYS:
        if all(_has_ids(items, id_key) for items in lists):
            return id_key
    return None


def _has_ids(items: list[Any], id_key: str) -> bool:
    ids = [item.get(id_key) if isinstance(item, dict) else None for item in items]
    return all(isinstance(each, str) for each in ids) and len(set(ids)) == len(ids)


def _by_id(items: list[Any], id_key: str) -> _Items:
    return {item[id_key]: item for item in items}


def _lists(base: _Items, saved: _Items, current: _Items) -> list[Any]:
    merged = {}
    for item_id in {**current, **saved}:
        value = _member(*(side.get(item_id, _MISSING) for side in (base, saved, current)))
        if value is not _MISSING:
            merged[item_id] = value
    kept = [item_id for item_id in saved if item_id in base]
    reordered = kept != [item_id for item_id in base if item_id in saved]
    leading, other = (saved, current) if reordered else (current, saved)
    return [merged[item_id] for item_id in _order(list(leading), list(other)) if item_id in merged]


def _order(leading: list[str], other: list[str]) -> list[str]:
    """The ids of `leading`, with those that only `other` has behind the one that they follow there."""
    known = set(leading)
    follows: dict[str | None, list[str]] = {}
    before: str | None = None
    for item_id in other:
        if item_id in known:
            before = item_id
        else:
            follows.setdefault(before, []).append(item_id)
    out = follows.get(None, [])
    for item_id in leading:
        out.append(item_id)
        out += follows.get(item_id, [])
    return out
