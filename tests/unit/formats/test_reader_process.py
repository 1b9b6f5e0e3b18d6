"""The process that reads foreign layouts: what comes through it, what it may do, and what happens when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
from pathlib import Path

import pytest
from format_home import package, picture, take, write_package
from test_gallery import gallery
from test_hostile_sources import storage
from test_koda import TABLES, fill
from test_sqlite_files import endless

from mixfs.formats import dropped, reader_process
from mixfs.formats import gallery as gallery_layout
from mixfs.formats.base import Options, Piece, Source
from mixfs.formats.channel import Channel, Closed
from mixfs.formats.koda_tables import write_sqlite
from mixfs.formats.layouts import detect, import_paths, within
from mixfs.formats.reader_process import ReaderProcess
from mixfs.ids import new_id
from mixfs.library.api import Library
from mixfs.records import Receipt

pytestmark = pytest.mark.reader_process


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A folder with a source in each layout."""
    top = tmp_path / "all"
    storage(top / "storage")
    (top / "koda" / "files").mkdir(parents=True)
    with sqlite3.connect(top / "koda" / "koda.db") as connection:
        connection.executescript(TABLES)
        fill(connection)
    connection.close()
    for name in ("one", "two"):
        (top / "koda" / "files" / f"{name}.png").write_bytes(picture(ord(name[0])))
    (top / "gallery").mkdir()
    (top / "gallery" / "gallery_data.json").write_text(json.dumps(gallery()))
    dated = top / "outputs" / "2025-01-01"
    dated.mkdir(parents=True)
    (dated / "p.png").write_bytes(picture(9))
    (dated / "p.json").write_text('{"prompt": "p", "model": "m", "timestamp": "2025-12-08T10:15:00Z"}')
    write_package(top / "x.zip", package())
    return top


def test_what_comes_through_it_is_what_the_reader_says(everything: Path, tmp_path: Path) -> None:
    seen = set()
    with ReaderProcess([everything], lambda: tmp_path) as reader:
        for path, layout in within(everything):
            seen.add(layout.NAME)
            here, there = (Source(str(path), Options(), None) for _ in range(2))
            assert list(reader.read(layout, there)) == list(layout.read(here)), layout.NAME
            assert (here.taken, here.bytes, here.done) == (there.taken, there.bytes, there.done)
        assert reader.free == "", "readers are not restricted on this machine"
    assert seen == {"storage-v2", "koda", "gallery", "outputs", "workflow-package"}
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def broken(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Readers run `code` before anything else."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(f"import mixfs.formats.gallery as gallery\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))


WAYS = {
    "loops": ("while True: pass", "made no progress"),
    "dies": ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    "fills the memory": ("x = bytes(8 << 30)", "memory"),
    "has a fault": ("raise KeyError('k')", "bug in MixFS: KeyError"),
    "says nonsense": ("import os; os.write(int(__import__('sys').argv[1]), bytes(4) + b'x' * 999)", "was lost"),
}


@pytest.mark.parametrize(
    ("way", "step"),
    [("loops", "detect"), ("dies", "detect"), *((way, "read") for way in WAYS if way != "loops")],
)
def test_a_reader_that_fails_costs_what_it_was_reading(
    library: Library, everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, step: str
) -> None:
    code, words = WAYS[way]
    # The silence of one that only starts to work is not taken for its end.
    monkeypatch.setattr(reader_process, "SILENCE_S", 3.0)
    broken(
        monkeypatch, tmp_path,
        f"def {step}(path, real=gallery.{step}):\n"
        f"    at = getattr(path, 'path', path)\n"
        f"    if 'gallery' not in str(at): return real(path)\n"
        f"    {code}\n"
        f"gallery.{step} = {step}\n",
    )  # fmt: skip
    # Such a folder takes all that is below it.
    (everything / "outputs" / "2025-01-01" / "p.json").unlink()
    imported = import_paths(library, [everything])
    titles = {session.title for session in library.sessions()}
    assert {"Trip", "Küche", "My Workflow", "all"} <= titles and "Named" not in titles
    problems = [(report.path, problem.reason) for report in imported.layouts for problem in report.not_taken]
    assert any(words in reason and "gallery" in path for path, reason in problems), problems
    # It is in the library as the file that it is.
    assert imported.files is not None and not imported.files.failed
    names = {each.name for session in library.sessions() for each in library.placements(session.id)}
    assert b"gallery_data.json" in names
    assert not list((library.root / "staging").glob("*/reader-*"))


TRIES = """
import os, socket, subprocess, pathlib
def tried(what):
    try:
        what()
    except BaseException as error:
        return f"{type(error).__name__} {getattr(error, 'errno', '')}"
    return "done"
def read(source):
    from mixfs.formats.base import Problem
    here, outside = str(source.path), OUTSIDE
    for name, what in {
        "read": lambda: open(here).read(), "outside": lambda: open(outside).read(),
        "shadow": lambda: open("/etc/passwd").read(), "write": lambda: open(here, "a"),
        "make": lambda: open(os.path.dirname(here) + "/new", "w"), "remove": lambda: os.unlink(here),
        "link": lambda: os.link(here, here + "2"), "rename": lambda: os.rename(here, here + "2"),
        "socket": lambda: socket.socket(), "run": lambda: subprocess.run(["true"]), "fork": lambda: os.fork(),
        "kill": lambda: os.kill(os.getppid(), 0),
        "temporary": lambda: open(os.environ["TMPDIR"] + "/x", "w").write("x"),
    }.items():
        yield Problem(name, tried(what))
gallery.read = read
"""


def test_a_reader_may_read_its_source_and_nothing_else(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("mine")
    broken(monkeypatch, tmp_path, TRIES.replace("OUTSIDE", repr(str(tmp_path / "secret"))))
    path = everything / "gallery" / "gallery_data.json"
    with ReaderProcess([path], lambda: tmp_path) as reader:
        answers = {each.place: each.reason for each in reader.read(gallery_layout, Source(str(path), Options(), None))}
        if reader.free:
            pytest.skip(f"NOT RUN: {reader.free}")
    allowed = {name for name, answer in answers.items() if answer == "done"}
    assert allowed == {"read", "temporary"}, answers


THUMBNAILS = """
def read(source):
    from pathlib import Path
    from mixfs.formats.base import Piece
    from mixfs.records import Session
    here = source.path.parent
    names = ("own.png", "../secret", "../gallery-2/x.png", "link.png", "linked/x.png")
    yield Piece(
        place="p", session=Session(id="s", title="s"), thumbnails=tuple(("s", here / name) for name in names)
    )
gallery.read = read
"""


def test_a_reader_names_thumbnails_of_its_source_only(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was taken over may name any file of the user's."""
    here = everything / "gallery"
    (everything / "gallery-2").mkdir()
    for path in (here / "own.png", everything / "secret", everything / "gallery-2" / "x.png"):
        path.write_bytes(b"x")
    (here / "link.png").symlink_to(everything / "secret")
    (here / "linked").symlink_to(everything / "gallery-2")
    broken(monkeypatch, tmp_path, THUMBNAILS)
    path = here / "gallery_data.json"
    with ReaderProcess([path], lambda: tmp_path) as reader:
        [piece] = reader.read(gallery_layout, Source(str(path), Options(), None))
    assert isinstance(piece, Piece) and piece.thumbnails == (("s", here / "own.png"),)


@pytest.mark.parametrize("body", [b"\xa0", b"no message"])
def test_descriptors_that_nobody_asked_for_are_closed(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(3)]
    with theirs, contextlib.closing(Channel(ours)) as channel:
        socket.send_fds(theirs, [len(body).to_bytes(4, "big")], [end for _, end in pipes])
        theirs.sendall(body)
        for _, end in pipes:
            os.close(end)
        if body == b"\xa0":
            message, fd = channel.receive()
            assert message == {} and fd is not None
            os.close(fd)
        else:
            with pytest.raises(Closed):
                channel.receive()
    for end, _ in pipes:
        os.set_blocking(end, False)
        assert os.read(end, 1) == b"", "it is open elsewhere"
        os.close(end)


def test_it_ends_with_the_process_that_started_it(everything: Path, tmp_path: Path) -> None:
    with ReaderProcess([everything], lambda: tmp_path) as reader:
        reader.find(everything, frozenset(), (gallery_layout,))
        process = reader._process
        assert process is not None and process.stdin is not None and os.getpgid(process.pid) == process.pid
        process.stdin.close()
        assert process.wait(30) == 0
        # And another takes its place.
        assert take_again(reader, everything)


def take_again(reader: ReaderProcess, everything: Path) -> bool:
    found, problems = reader.find(everything, frozenset(), (gallery_layout,))
    return bool(found) or bool(problems)


def test_looking_for_layouts_ends_in_time_and_the_rest_is_plain(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "All").mkdir()
    write_package(tmp_path / "All" / "flow.zip", package())
    (tmp_path / "All" / "a.png").write_bytes(picture(1))
    monkeypatch.setattr(reader_process, "FIND_S", 0.0)
    done = import_paths(library, [tmp_path / "All"])
    [problem] = done.layouts[0].not_taken
    assert "the rest is imported as plain files" in problem.reason
    assert done.files is not None and done.files.files == 2
    assert detect(tmp_path / "All" / "flow.zip") is None


def test_an_endless_database_is_a_plain_file(library: Library, tmp_path: Path) -> None:
    """Both ways in: an import, and a drop into import/."""
    write_sqlite(tmp_path / "endless.db", {})
    endless(tmp_path / "endless.db", "fts5")
    assert detect(tmp_path / "endless.db") is None
    report = library.import_paths([tmp_path / "endless.db"])
    assert (report.kept_as_files, report.failed) == (1, [])
    [placement] = library.placements(library.find_session("Inbox").id)
    receipt = Receipt(id=new_id(), name=b"endless.db", digest=placement.digest, size=placement.size,
                      placement_id=placement.id, session_id=placement.session_id)  # fmt: skip
    library.commit(lambda txn: txn.put(receipt))
    assert dropped.import_file(library, receipt.id).layouts == []


def test_a_rewritten_gallery_is_written_by_who_asked(library: Library, everything: Path, tmp_path: Path) -> None:
    report = take(library, everything / "gallery", rewrite=tmp_path / "slim.json")
    slim = (tmp_path / "slim.json").read_text()
    assert report.taken["pictures"] == 4 and "/api/images/sessions/s2/" in slim and "Named" in slim
    report = take(library, everything / "gallery", rewrite=tmp_path / "slim.json")
    assert "exists: choose another name" in report.not_taken[0].reason
