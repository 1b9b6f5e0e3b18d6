"""Any library that the model can hold goes out and comes back equal in each layout that goes both ways, or the export
says beforehand what it can't carry.

For each layout a table says by which line of `not_carried` a difference is excused; what isn't in it must be equal. So
a line that is missing fails a test, and so does one that is said of what was carried (`test_nothing_is_said_in_vain`).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from format_home import take
from hypothesis import HealthCheck, Phase, assume, given, settings
from postgres import database, postgres_server
from random_library import ASession, build, content, parameters_of, sessions, settings_of

from mixfs.formats import koda, outputs, storage_v2, workflow_package
from mixfs.library.api import Library
from mixfs.library.catalogue import Wanted, listed
from mixfs.records import Placement

# Shrinking would take minutes: each example is the commits of two libraries.
# MIXFS_MODEL=20 gives twenty times as many.
thorough = settings(
    max_examples=15 * max(1, int(os.environ.get("MIXFS_MODEL", "0"))), deadline=None,
    phases=(Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip

_numbers = itertools.count()

_APART = "pictures that no canvas or generation of their session names|second names of one picture"
STORAGE_V2 = {
    "pictures": _APART, "placements": _APART, "picture names": f"names of files|{_APART}",
    "files": "files that are no picture|names of files|second names", "folders": "folders",
    "roles": f"roles of pictures|files that are no picture|{_APART}",
    "times of files": f"times of files|files that are no picture|{_APART}",
    "annotations": "tags, ratings and comments", "edges": "connections", "edges' fields": "connections",
    "settings": "seeds, steps and the like as such", "parameters": "seeds, steps and the like as such",
    "entries' pictures": "files that are no picture", "inputs": "files that are no picture",
    "outputs": "files that are no picture", "view": "canvases without zoom or pan offset",
    "generators": "generators", "unknown": "fields of a newer MixFS",
}  # fmt: skip
PACKAGE = {
    "picture names": "names of files", "files": "names of files", "folders": "folders",
    "annotations": "tags, ratings and comments", "unknown": "fields of a newer MixFS",
} | dict.fromkeys(
    ("generations", "status", "parameters", "settings", "generators", "offsets", "canvas states", "inputs", "outputs"),
    "generations",
)  # fmt: skip
KODA = {
    "user name": "names of users", "view": "zoom and pan offset", "picture names": "names of files",
    "files": "names of files", "folders": "folders", "roles": "roles of files", "times of files": "times of files",
    "annotations": "tags, ratings and comments", "edges' fields": "extra fields of connections",
    "settings": "seeds, steps and the like", "generators": "seeds, steps and the like",
    "canvas states": "seeds, steps and the like", "offsets": "time zones", "inputs": "inputs of generations",
    "outputs": "outputs of generations beyond the first|names of files", "unknown": "fields of a newer MixFS",
}  # fmt: skip
# Of two sessions that use the same id, one gets others.
for _part in (
    "order", "entries", "entries' pictures", "edges", "edges' fields", "generations", "status", "parameters",
    "settings", "generators", "offsets", "canvas states", "inputs", "outputs",
):  # fmt: skip
    KODA[_part] = "|".join(filter(None, (KODA.get(_part), "ids that another session has too")))


@pytest.fixture(scope="module")
def pg() -> Iterator[str]:
    with postgres_server() as server:
        yield server


def check(
    one: Library, other: Library, wanted: Sequence[ASession], export: Callable[[list[str]], Sequence[str]],
    come_in: Callable[[], Any], excuses: Mapping[str, str], *, whole_s: bool = False,
) -> None:  # fmt: skip
    """Make a library of it, let it go out and come in elsewhere, and compare. `export` returns what isn't carried."""
    ids: list[str] = []
    try:
        ids = build(one, wanted)
        said = export(ids)
        report = come_in()
        if not any(words.startswith("files that are no picture, or a damaged one") for words in said):
            # A canvas may show what doesn't go out.
            assert report.not_taken == [], said
        found = {session.id for session in other.sessions()}
        in_vain = set(said)
        for session_id in ids:
            was = content(one, session_id, whole_s=whole_s)
            assert session_id in found, (session_id, said)
            for name, (before, after) in was.differences(content(other, session_id, whole_s=whole_s)).items():
                lines = tuple(filter(None, excuses.get(name, "").split("|")))
                in_vain -= {words for words in said if words.startswith(lines)}
                if not any(words.startswith(lines) for words in said):
                    pytest.fail(f"{name} came back otherwise: {_shorter(before, after)}; said was only {said}")
        # One that a picture's metadata tells of is made again.
        in_vain -= {words for words in in_vain if words.startswith("generations (")}
        assert not in_vain, (in_vain, "was said, and came back all the same")
        # Wherever it lies now: no picture is lost.
        assert _pictures(one) <= _pictures(other)
    finally:
        for library in (one, other):
            for session in library.sessions():
                library.delete_session(session.id)


def _shorter(before: Any, after: Any) -> Any:
    """What differs, without what doesn't."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return [(key, before.get(key), after.get(key)) for key in keys]
    if isinstance(before, list) and isinstance(after, list):
        return [item for item in before if item not in after], [item for item in after if item not in before]
    return before, after


def _pictures(library: Library) -> set[bytes]:
    with library.read() as view:
        return {item.digest for item in view.records(Placement) if item.area == "images"}


@thorough
@given(wanted=sessions)
def test_storage_v2(two: tuple[Library, Library, Path], wanted: Sequence[ASession]) -> None:
    one, other, path = two
    target = path / "v2"

    def export(ids: list[str]) -> Sequence[str]:
        said = storage_v2.not_carried(one, ids)
        storage_v2.write(one, ids, target)
        return said

    try:
        check(one, other, wanted, export, lambda: take(other, target), STORAGE_V2)
    finally:
        shutil.rmtree(target, ignore_errors=True)


@thorough
@given(wanted=sessions)
def test_workflow_packages(two: tuple[Library, Library, Path], wanted: Sequence[ASession]) -> None:
    one, other, path = two
    target = path / "p.zip"

    def export(ids: list[str]) -> Sequence[str]:
        said = workflow_package.not_carried(one, ids[0])
        workflow_package.write(one, ids[0], target)
        return said

    try:
        check(one, other, wanted[:1], export, lambda: take(other, target), PACKAGE)
    finally:
        target.unlink(missing_ok=True)


@thorough
@given(wanted=sessions)
def test_koda_in_a_file(two: tuple[Library, Library, Path], wanted: Sequence[ASession]) -> None:
    one, other, path = two
    target = path / "koda"

    def export(ids: list[str]) -> Sequence[str]:
        said = koda.not_carried(one, ids)
        koda.write(one, ids, str(target))
        return said

    try:
        check(one, other, wanted, export, lambda: take(other, target), KODA, whole_s=True)
    finally:
        shutil.rmtree(target, ignore_errors=True)


@thorough
@given(wanted=sessions)
def test_koda_on_a_server(two: tuple[Library, Library, Path], pg: str, wanted: Sequence[ASession]) -> None:
    one, other, _ = two
    with database(pg, f"round_trip_{next(_numbers)}") as url:

        def export(ids: list[str]) -> Sequence[str]:
            said = koda.not_carried(one, ids)
            koda.write(one, ids, url)
            return said

        check(one, other, wanted, export, lambda: take(other, url), KODA, whole_s=True)  # type: ignore[arg-type]


OUTPUTS = {
    "files": "files that are no picture", "sessions": "titles, users and views of sessions", "canvases": "canvases",
    "alone": "generations without a picture", "several": "generations of several pictures", "inputs": "inputs of",
    "versions": "loras, model hashes", "states": "states, errors and durations", "roles": "roles of pictures",
    "names": "names of files", "folders": "folders", "annotations": "tags, ratings and comments",
    "unknown": "fields of a newer MixFS",
}  # fmt: skip


@thorough
@given(wanted=sessions)
def test_outputs(two: tuple[Library, Library, Path], wanted: Sequence[ASession]) -> None:
    one, other, path = two
    target = path / "out"
    try:
        ids = build(one, wanted)
        said = outputs.not_carried(one, ids)
        outputs.write(one, ids, target)
        # A folder without a picture is no outputs folder.
        assume(_pictures(one))
        report = take(other, target)
        assert report.not_taken == []
        assert _as_outputs(one, ids, said) == _as_outputs(other, [session.id for session in other.sessions()], said)
    finally:
        shutil.rmtree(target, ignore_errors=True)
        for library in (one, other):
            for session in library.sessions():
                library.delete_session(session.id)


def _as_outputs(library: Library, ids: list[str], said: Sequence[str]) -> Any:
    """Each picture with how it was made, without what was said to get lost."""

    def unless(part: str, value: Any) -> Any:
        return None if any(words.startswith(OUTPUTS[part]) for words in said) else value

    found = []
    with library.read() as view:
        for session_id in ids:
            for item in listed(view, Wanted(session_id=session_id)):
                placement, made = item.placement, item.generation
                if placement.area != "images":
                    found.append(unless("files", (placement.digest,)))
                    continue
                about: dict[str, Any] = {
                    "digest": placement.digest, "mtime_ns": placement.mtime_ns, "names": placement.name,
                    "roles": placement.role,
                    "annotations": view.annotation(placement.digest), "unknown": placement.unknown,
                }  # fmt: skip
                if made is not None and not any(words.startswith("which generation") for words in said):
                    known = settings_of(made)
                    about |= {
                        "made": (made.prompt or None, made.model or None, made.time_ns // 10**6, made.utc_offset_s),
                        "generator": made.generator or None, "parameters": parameters_of(made),
                        "versions": (known.pop("loras", ()), known.pop("model_hash", None), made.generator_version),
                        "settings": known, "inputs": made.inputs,
                        "states": (made.status, made.error, made.duration_ms, made.canvas_state),
                        "several": len(made.outputs) > 1,
                    }  # fmt: skip
                found.append({part: unless(part, value) if part in OUTPUTS else value for part, value in about.items()})
    return sorted((item for item in found if item is not None), key=repr)
