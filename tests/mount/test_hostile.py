"""Hostile files and names through a real mount: what they do to it, and what becomes of them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bombs import all_bombs, cut_short, readable, with_parameters
from box import Box
from live import ROOT, Live, environment, living, needs_fuse, python, sha256

from mixfs.errors import InvalidValue, NameTooLong
from mixfs.library.api import Library
from mixfs.records import Image

pytestmark = [pytest.mark.mount, needs_fuse]


def workers_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for word in (task / "children").read_text().split():
            if b"mixfs.media.worker" in Path(f"/proc/{word}/cmdline").read_bytes():
                found.append(int(word))
    return found


def test_bombs(box: Box) -> None:
    """Each ends up where it belongs with a reason; the mount answers meanwhile, and its memory is as before.

    How fast it answers is measured by tools/bench/hostile: a time that a test asserts is red on a busy machine.
    """
    bombs = all_bombs()
    daemon = Path(f"/proc/{box.live.pid}/statm")
    before = int(daemon.read_text().split()[1])
    answered, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal answered
        while not ended.is_set():
            os.listdir(box.point / "sessions")
            os.stat(box.point / "README.txt")
            answered += 1
            ended.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for name, data in bombs.items():
            box.put(name, data, box.inbox)
        box.take_in()
    finally:
        ended.set()
        watcher.join(30)
    assert not watcher.is_alive() and answered
    whole = set(readable())
    assert {name for name in os.listdir(box.images) if not name.startswith(".")} >= whole
    for name, data in bombs.items():
        area = box.images if (box.images / name).exists() else box.session / "files"
        assert (area / name).read_bytes() == data, name
        assert (area == box.images) == (name in whole), name
    with box.library.read() as view:
        problems = {placement.name: image.problem for placement in box.placements().values()
                    if (image := view.get(Image, placement.digest.hex())) is not None}  # fmt: skip
    assert "too large" in (problems[b"too many pixels.png"] or "")
    assert "cut short" in (problems[b"cut short.png"] or "")
    assert "cut short" in (problems[b"22 kB that want 1.5 GB.png"] or "")
    # The pages of what was written go through the daemon; a decoder's gigabyte must not.
    assert (int(daemon.read_text().split()[1]) - before) * os.sysconf("SC_PAGESIZE") < 400 << 20
    assert len(workers_of(box.live.pid)) <= 2
    # No decoder was ever loaded by who serves the mount.
    assert "/PIL/" not in Path(f"/proc/{box.live.pid}/maps").read_text()


def test_mutated_files(tmp_path: Path) -> None:
    """What tools/fuzz makes, as a user would have it: in by the mount, out again bit for bit, every document valid."""
    loader = SourceFileLoader("mixfs_fuzz", str(ROOT / "tools" / "fuzz"))
    spec = importlib.util.spec_from_loader("mixfs_fuzz", loader)
    assert spec is not None
    fuzz = sys.modules["mixfs_fuzz"] = importlib.util.module_from_spec(spec)
    loader.exec_module(fuzz)
    maker = fuzz.Maker(11, None)
    files = {f"{n:03}.x": data for n in range(200) if (data := maker.make(n)[1])}
    with living(tmp_path / "live") as live:
        live.start()
        inbox = live.point / "import" / "Mutated"
        inbox.mkdir()
        for name, data in files.items():
            (inbox / name).write_bytes(data)
        live.take_in()
        session = live.point / "sessions" / "Mutated"
        for name, data in files.items():
            area = "images" if (session / "images" / name).exists() else "files"
            assert (session / area / name).read_bytes() == data, name
        documents = 0
        for path in session.rglob("*"):
            # A ComfyUI graph is shown as the picture carried it.
            if path.suffix == ".json" and not path.name.endswith(".workflow.json"):
                json.loads(path.read_bytes())
                documents += 1
            elif path.suffix == ".xmp":
                ElementTree.fromstring(path.read_bytes())
                documents += 1
        assert documents > 200
        for _, folders, names in os.walk(os.fsencode(live.point / "by-model")):
            for name in [*folders, *names]:
                assert_plain(name)
        workers = workers_of(live.pid)
        assert "Traceback" not in live.told() and "a fault of MixFS" not in live.told()
        live.stop()
    assert workers and not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
    # It exits with 1 when a single row or blob is not what the journal says.
    live.mixfs("fsck")


def test_every_document_of_a_hostile_picture_is_made(box: Box) -> None:
    """What a picture says of itself is shown as valid JSON, and goes into names that are names."""
    evil = "../../../../tmp/evil\x1b[2J\x07\u009b31m\u202egnp.exe\u2028\r\n/\\\x00"
    settings = ", ".join(
        f"{key}: {json.dumps(evil)}" for key in ("Sampler", "Model", "Model hash", "App", "Version", "Lora hashes")
    )
    text = f"{evil} <lora:{evil[:60]}:1> <lora:..:1> <lora:.:1>\nNegative prompt: {evil}\nSteps: 1, Seed: 3, {settings}"
    box.put("evil.png", with_parameters(text), box.inbox)
    box.take_in()
    seen = 0
    for folder, folders, files in os.walk(os.fsencode(box.point)):
        for name in [*folders, *files]:
            assert_plain(name)
            seen += 1
        for name in files:
            if not name.endswith((b".json", b".txt", b".xmp")) or not folder.startswith(os.fsencode(box.session)):
                continue
            told = Path(os.fsdecode(os.path.join(folder, name))).read_text()
            assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", told), name
            if name.endswith(b".json"):
                json.loads(told)
            elif name.endswith(b".xmp"):
                ElementTree.fromstring(told)
            else:
                assert "\\x1b[2J\\x07\\x9b31m" in told
    assert seen > 20
    for area in ("by-model", "by-lora", "by-generator"):
        assert any("evil" in name or "tmp" in name for name in os.listdir(box.point / area)), area
    assert not Path("/tmp/evil").exists()


def assert_plain(name: bytes) -> None:
    """A name that MixFS made: one cell of text, that leaves neither its line nor its directory."""
    assert name not in (b"", b".", b"..") and len(name) <= 255
    for char in name.decode("utf-8"):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), name
    assert b"/" not in name


HOSTILE_NAMES = [
    b"two\nlines.png", b"\x1b[2J\x1b]0;title\x07.png", b"\xff\xfe no UTF-8.png", "\u202egnp.exe.png".encode(),
    b'"}\\,{"kind":"forged"}\n{"kind":"forged"}.png', b"-rf", b"~", b" ", b"a" * 251 + b".png", b"\r.png",
    "\u2028\u0085\u009b31m.png".encode(), b"%s%n.png", b"$(reboot).png", b"...", b"CON", b"a\tb",
]  # fmt: skip


def test_hostile_names_stay_names(box: Box) -> None:
    """What a program calls its file stays as it was; no log, no status file and no listing is broken by it."""
    pictures = os.fsencode(box.inbox)
    os.mkdir(pictures)
    for name in HOSTILE_NAMES:
        with open(os.path.join(pictures, name), "wb") as file:
            # Damaged ones, so that each name is in problems.jsonl as well.
            file.write(cut_short())
    box.take_in()
    for name in (b"a/b", b"..", b"x" * 256, b"a\0b"):
        with pytest.raises((OSError, ValueError)):
            os.mkdir(os.path.join(pictures, b"not there", name))
    listed = set(os.listdir(os.fsencode(box.session / "files")))
    waiting = set(os.listdir(pictures)) if os.path.exists(pictures) else set()
    # What looks like a temporary file waits.
    assert listed | waiting == set(HOSTILE_NAMES)
    assert {b"two\nlines.png", b"\xff\xfe no UTF-8.png"} <= listed
    for name in ("problems.jsonl", "log.jsonl"):
        assert_lines((box.point / ".mixfs" / name).read_bytes())
    assert_lines(box.live.log.read_bytes())
    for name in os.listdir(box.point / ".mixfs"):
        if name.endswith(".json"):
            json.loads((box.point / ".mixfs" / name).read_bytes())
    text = (box.point / "README.txt").read_text()
    assert "lines.png" not in text and not any(line.startswith("\x1b") for line in text.splitlines())


def assert_lines(data: bytes) -> None:
    """JSON lines that a terminal can show, and that no reader of lines splits elsewhere."""
    text = data.decode("utf-8")
    assert text.count("\n") == len(text.splitlines())
    for line in text.splitlines():
        assert json.loads(line).get("kind") != "forged"
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")], line


TITLES = ["../../../tmp/evil", "/etc/passwd", "..", ".", "", "   ", "a\0b", "two\nlines", "\x1b[2J\x07", "\u202e\u2066",
          "\ud800", "x" * 4000, "é" * 300, ".hidden", "con\u200b", "\\..\\.."]  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_titles_become_names(box: Box, seed: int) -> None:
    """Made by the API while it is mounted: each session is one directory with a plain name, and can be entered."""
    titles = [f"{title} {seed}{box.title}" if title.strip(". ") else title for title in TITLES]
    random.Random(seed).shuffle(titles)
    before = set(os.listdir(os.fsencode(box.point / "sessions")))
    made = f"import json\nfor title in json.loads({json.dumps(titles)!r}):\n"
    made += "    try: library.create_session(title)\n    except Exception as error: print(type(error), error)"
    box.live.api(made)
    found = set(os.listdir(os.fsencode(box.point / "sessions"))) - before
    # Empty ones, and half a character, are refused.
    assert len(found) >= len(titles) - 3
    for name in found:
        assert_plain(name)
        assert json.loads((Path(os.fsdecode(os.path.join(os.fsencode(box.point), b"sessions", name))) / "session.json")
                          .read_bytes())["id"]  # fmt: skip


# ---- the API and `mixfs export`


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", ".", "", "a\0b", "x" * 256])
def test_the_api_refuses_what_is_no_name(tmp_path: Path, name: str) -> None:
    with Library.open(tmp_path / "library") as library:
        with pytest.raises((InvalidValue, NameTooLong)):
            library.import_bytes(b"words", name)
        placement = library.import_bytes(b"words", "good.txt")
        session = library.create_session("S")
        with pytest.raises((InvalidValue, NameTooLong)):
            library.move_placement(placement.id, session.id, name)
        assert library.placement(placement.id).name == b"good.txt"


@pytest.fixture
def exporting(tmp_path: Path) -> Iterator[tuple[Live, Path]]:
    with living(tmp_path) as live:
        yield live, tmp_path / "outer" / "dest"


def test_export_writes_nowhere_else(exporting: tuple[Live, Path]) -> None:
    """Names, titles and texts that point elsewhere; and DEST beside a folder that is watched."""
    live, dest = exporting
    dest.parent.mkdir()
    (dest.parent / "beside").write_text("mine")
    text = "../../beside\nSteps: 1, Sampler: /etc, Seed: 1, Model: ../../beside, App: /"
    data = with_parameters(text)
    with Library.open(live.library) as library:
        session = library.create_session("../../beside")
        for name in HOSTILE_NAMES:
            library.import_bytes(data, os.fsdecode(name), session_id=session.id)
    live.mixfs("export", session.id, dest)
    assert sorted(os.listdir(dest.parent)) == ["beside", "dest"]
    assert (dest.parent / "beside").read_text() == "mine"
    found = os.listdir(os.fsencode(dest / "images"))
    assert set(found) == set(HOSTILE_NAMES)
    assert {sha256(os.path.join(os.fsencode(dest / "images"), name)) for name in found} == {
        hashlib.sha256(data).hexdigest()
    }


def test_a_name_that_came_another_way_is_made_safe(
    exporting: tuple[Live, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library from elsewhere, whose journal says what this MixFS would not: it is shown under a name that can be."""
    live, dest = exporting
    dest.parent.mkdir()
    monkeypatch.setattr("mixfs.library.transaction.check_name", lambda record: None)
    monkeypatch.setattr("mixfs.library.api.file_name", os.fsencode)
    with Library.open(live.library) as library:
        session = library.create_session("S")
        library.import_bytes(b"words", "../../../beside", session_id=session.id)
    done = subprocess.run(
        python("-m", "mixfs.cli.main", "export", session.id, dest, "--library", live.library), capture_output=True,
        text=True, timeout=60, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert os.listdir(dest.parent) == [dest.name]
    [name] = os.listdir(dest / "files")
    assert (dest / "files" / name).read_bytes() == b"words"
    live.start()
    assert os.listdir(live.point / "sessions" / "S" / "files") == [name]
