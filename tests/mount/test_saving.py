"""Documents as programs save them: what close(2) and fsync(2) acknowledged is what the next open(2) reads."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from box import Box
from live import needs_fuse, python

pytestmark = needs_fuse

Json = dict[str, Any]
READER = """
import sys
for line in sys.stdin:
    with open(line.rstrip("\\n"), "rb") as file:
        data = file.read()
    sys.stdout.buffer.write(b"%d\\n" % len(data) + data)
    sys.stdout.buffer.flush()
"""


class Reader:
    """A process that reads files when it is asked to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(python("-c", READER), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, path: Path) -> bytes:
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None and answers is not None
        asks.write(os.fsencode(path) + b"\n")
        asks.flush()
        return answers.read(int(answers.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


# -- the documents, what a program adds to each, and how many of it there are


def _add_entry(document: Json, number: int) -> None:
    entry = {"canvasId": f"e{number}", "type": "text", "text": f"words {number}", "x": number, "y": 0}
    document.setdefault("canvas_images", []).append(entry)


def _add_zoom(document: Json, number: int) -> None:
    document["zoom"] = (document["zoom"] or 0) + 1


def _add_generation(document: Json, number: int) -> None:
    document["generations"].append(
        {"generation_id": f"g{number}", "timestamp": "2025-12-09T10:00:00.000Z", "status": "completed",
         "prompt": f"words {number}", "input_images": [], "output_images": [], "parameters": {}}
    )  # fmt: skip


def _add_line(document: Json, number: int) -> None:
    document["images"][f"h{number}"] = {"file_path": f"images/{number}.png", "size_bytes": number}


KINDS: dict[str, tuple[Callable[[Box, str], Path], Callable[[Json, int], None], Callable[[Json], object]]] = {
    "canvas.json": (lambda box, sid: box.session / "canvas.json", _add_entry, lambda d: len(d["canvas_images"])),
    "session.json": (lambda box, sid: box.session / "session.json", _add_zoom, lambda d: d["zoom"]),
    "app canvas": (
        lambda box, sid: box.point / "storage-v2/sessions" / f"{sid}_canvas.json", _add_entry,
        lambda d: len(d["canvas_images"]),
    ),
    "app generations": (
        lambda box, sid: box.point / "storage-v2/sessions" / f"{sid}_generations.json", _add_generation,
        lambda d: len(d["generations"]),
    ),
    "app registry": (
        lambda box, sid: box.point / "storage-v2/image_registry.json", _add_line,
        lambda d: len([alias for alias in d["images"] if alias.startswith("h")]),
    ),
}  # fmt: skip


def made(box: Box, kind: str) -> Path:
    box.session.mkdir()
    session_id = json.loads((box.session / "session.json").read_bytes())["id"]
    path = KINDS[kind][0](box, session_id)
    if not path.exists():
        path.write_text('{"generations": []}' if kind == "app generations" else '{"title": "A", "canvas_images": []}')
    return path


# -- the ways to save


def _in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _updated(path: Path, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.read()
        file.seek(0)
        file.write(data)
        file.truncate()


def _appended(path: Path, data: bytes) -> None:
    os.truncate(path, 0)
    with open(path, "ab") as file:
        file.truncate(0)
        file.write(data[:9])
        file.flush()
        file.write(data[9:])


def _renamed(path: Path, data: bytes) -> None:
    (path.parent / ".new.tmp").write_bytes(data)
    os.replace(path.parent / ".new.tmp", path)


WAYS = {"in place": _in_place, "fsync": _synced, "r+": _updated, "append": _appended, "renamed": _renamed}


@pytest.mark.parametrize(
    ("kind", "way"),
    [*((kind, way) for kind in KINDS for way in ("in place", "fsync")),
     *((kind, way) for kind in ("canvas.json", "app canvas") for way in ("r+", "append", "renamed"))],
)  # fmt: skip
def test_twenty_rounds_of_reading_adding_and_saving_keep_all_twenty(box: Box, reader: Reader, kind: str, way: str):
    path, add, count = made(box, kind), KINDS[kind][1], KINDS[kind][2]
    before = count(json.loads(path.read_bytes())) or 0
    assert isinstance(before, int | float)
    for number in range(20):
        document = json.loads(path.read_bytes())
        # Another program has it open all the while.
        with open(path, "rb"):
            add(document, number)
            WAYS[way](path, json.dumps(document).encode())
        data = reader.read(path)
        assert count(json.loads(data)) == before + number + 1
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
            assert bytes(mapped) == data and path.stat().st_size == len(data)
    if kind == "app registry":
        document = json.loads(path.read_bytes())
        document["images"] = {}
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("kind", KINDS)
def test_what_fsync_acknowledged_is_read_while_the_writer_has_it_open_still(box: Box, reader: Reader, kind: str):
    path, add, count = made(box, kind), KINDS[kind][1], KINDS[kind][2]
    document = json.loads(path.read_bytes())
    before = count(document) or 0
    add(document, 1)
    with open(path, "wb") as file:
        file.write(json.dumps(document).encode())
        file.flush()
        os.fsync(file.fileno())
        assert count(json.loads(reader.read(path))) == before + 1  # type: ignore[operator]
        with open(path, "rb") as other:
            assert count(json.loads(other.read())) == before + 1  # type: ignore[operator]
        # And may go on.
        add(document, 2)
        file.seek(0)
        file.truncate()
        file.write(json.dumps(document).encode())
    assert count(json.loads(reader.read(path))) == before + 2  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["canvas.json", "session.json", "app canvas"])
def test_a_save_undoes_no_rename_that_came_meanwhile(box: Box, kind: str):
    path, add, count = made(box, kind), KINDS[kind][1], KINDS[kind][2]
    document = json.loads(path.read_bytes())
    renamed = box.session.with_name(f"{box.title} renamed")
    for number in range(2):
        # The second time the program goes by what it saved itself, and has not read again.
        os.rename(box.session, renamed)
        title = renamed.name
        with contextlib.suppress(ValueError):
            path = renamed / path.relative_to(box.session)
        add(document, number)
        path.write_text(json.dumps(document))
        now = json.loads(path.read_bytes())
        assert now["title"] == title and renamed.is_dir() and count(now) == number + 1
        box.session, renamed = renamed, box.session
    # What the program itself changes is changed.
    document["title"] = f"{box.title} chosen"
    path = KINDS[kind][0](box, now.get("id") or now["session_id"])
    path.write_text(json.dumps(document))
    assert box.session.with_name(document["title"]).is_dir()


def test_two_programs_add_to_one_canvas(box: Box):
    path = made(box, "canvas.json")
    program = (
        "import json, sys\nfrom pathlib import Path\npath, name = Path(sys.argv[1]), sys.argv[2]\n"
        "document = json.loads(path.read_bytes())\n"
        "for line in sys.stdin:\n"
        "    document['canvas_images'].append({'canvasId': name + line.strip(), 'type': 'text', 'text': name})\n"
        "    path.write_text(json.dumps(document))\n"
        "    print('saved', flush=True)\n"
    )
    programs = [
        subprocess.Popen(python("-c", program, path, name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for number in range(10):
        for each in programs:
            assert each.stdin is not None and each.stdout is not None
            each.stdin.write(f"{number}\n")
            each.stdin.flush()
            assert each.stdout.readline() == "saved\n"
    for each in programs:
        each.communicate(timeout=30)
    ids = {entry["canvasId"] for entry in json.loads(path.read_bytes())["canvas_images"]}
    assert ids == {f"{name}{number}" for name in "ab" for number in range(10)}


@pytest.mark.parametrize("kind", ["canvas.json", "session.json"])
def test_what_is_not_valid_is_refused_and_changes_nothing(box: Box, reader: Reader, kind: str):
    path = made(box, kind)
    good = path.read_bytes()
    for how in (lambda file: os.fsync(file.fileno()), lambda file: file.close()):
        file = open(path, "wb", buffering=0)
        file.write(b"{")
        with pytest.raises(OSError, match="Invalid argument"):
            how(file)
        file.close()
        assert reader.read(path) == good
    assert "was not saved" in (box.point / ".mixfs" / "problems.jsonl").read_text().splitlines()[-1]
