"""Readers change nothing and wait for nobody, and those who must wait say for whom."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs import Library
from mixfs.errors import LibraryError
from mixfs.index import lmdb_engine
from mixfs.index.lmdb_engine import LmdbEngine
from mixfs.index.reading import open_for_reading
from mixfs.library import place
from mixfs.library.store import Store

SESSION = "the first"

# Commits without end, telling of each; told to, stays within one.
WRITER = """
import sys
from mixfs import Library
with Library.open(sys.argv[1]) as library:
    number = 0
    while True:
        number += 1
        def write(txn):
            from mixfs.library import editing
            editing.create_session(txn, f"s{number} " + "x" * 500)
            if sys.argv[2] == "stay":
                print("within", flush=True)
                sys.stdin.readline()
        library.commit(write)
        if sys.argv[2] != "stay" or number > 1:
            print(number, flush=True)
"""
READER = """
import sys
from mixfs import Library
with Library.open(sys.argv[1], read_only=True) as library:
    for number in range(60):
        if not library.store.is_current():
            library.store.refresh()
        found = sum(1 for _ in library.sessions())
    print(found)
"""


def contents(root: Path) -> dict[str, tuple[int, str]]:
    """Each file's and folder's time, and what is in it."""
    out = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names, "."]:
            path = Path(folder, name)
            data = path.read_bytes() if path.is_file() else b""
            out[str(path)] = path.lstat().st_mtime_ns, hashlib.sha256(data).hexdigest()
    return out


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Library.open(tmp_path / "library") as library:
        session = library.create_session(SESSION)
        library.import_bytes(b"some text", "a.txt", session_id=session.id)
        library.delete_placement(library.import_bytes(b"other text", "b.txt", session_id=session.id).id)
    return tmp_path / "library"


@pytest.fixture
def writer(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is suspended within a commit."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), "stay"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "within\n"
    process.send_signal(signal.SIGSTOP)
    yield process
    process.kill()
    process.communicate(timeout=60)


def test_readers_answer_while_a_writer_is_suspended(root: Path, writer: subprocess.Popen[str]) -> None:
    with Library.open(root, read_only=True) as library:
        assert [session.title for session in library.sessions()] == [SESSION]
        assert library.store.is_current()


def test_who_waits_for_the_lock_says_for_whom(
    root: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    heard = threading.Event()

    def say(words: str) -> None:
        told.append(words)
        heard.set()

    monkeypatch.setattr(place, "PATIENCE_S", 0.01)
    monkeypatch.setattr(place, "say_waiting", say)
    opening = threading.Thread(target=lambda: Library.open(root).close())
    opening.start()
    assert heard.wait(60)
    writer.kill()
    opening.join(60)
    assert len(told) == 1 and f"process {writer.pid} (" in told[0] and f"`kill -CONT {writer.pid}`" in told[0]
    assert place.lock_holder(root / "lock") == ""


def test_a_reader_beside_a_writer_lives(root: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root), "go"], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline()
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", READER, str(root)], capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0 and int(done.stdout) > 1, done.stderr
    finally:
        writer.kill()
        writer.communicate(timeout=60)


def test_where_the_readers_table_cannot_be_written_a_copy_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(root)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    reader = Library.open(root, read_only=True)
    assert isinstance(reader.store._engine, LmdbEngine) and reader.store._engine.path != root / "index"
    assert contents(root) == before
    monkeypatch.undo()
    with Library.open(root) as library:
        library.create_session("second")
    assert not reader.store.is_current()
    assert len(list(reader.sessions())) == 1, "the state that was copied"
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert reader.store.refresh() and len(list(reader.sessions())) == 2
    assert reader.store.is_current() and not reader.store.refresh()
    reader.close()


def test_an_index_that_is_behind_is_made_up_for_in_memory(root: Path) -> None:
    with Library.open(root) as library:
        behind = root / "behind"
        behind.mkdir()
        for name in ("data.mdb", "lock.mdb"):
            (behind / name).write_bytes((root / "index" / name).read_bytes())
        library.create_session("second")
    for name in ("data.mdb", "lock.mdb"):
        (root / "index" / name).write_bytes((behind / name).read_bytes())
        (behind / name).unlink()
    behind.rmdir()
    before = contents(root)
    with Library.open(root, read_only=True) as reader:
        assert len(list(reader.sessions())) == 2 and reader.store.is_current()
        assert contents(root) == before
        with Library.open(root) as library:
            library.create_session("third")
        assert not reader.store.is_current() and reader.store.refresh()
        assert len(list(reader.sessions())) == 3


def test_the_readers_table_is_put_back_only_when_nobody_else_has_it(root: Path) -> None:
    before = contents(root)
    engine = open_for_reading(root / "index")
    with engine.read() as txn:
        assert txn.get(b"mstamp")
    engine.close()
    assert contents(root) == before
    with Library.open(root):
        # In another process: this one has it open.
        code = "import sys; from mixfs import Library; Library.open(sys.argv[1], read_only=True).close()"
        subprocess.run([sys.executable, "-c", code, str(root)], check=True, timeout=60)
    with pytest.raises(LibraryError, match="open in this process"), Library.open(root):
        open_for_reading(root / "index")


def test_a_commit_within_a_read_that_must_grow_the_index_is_refused(root: Path) -> None:
    store = Store(root, map_size=1 << 18)

    def write(txn: object) -> None:
        from mixfs.library import editing

        for number in range(300):
            editing.create_session(txn, f"{number}" + "x" * 300)  # type: ignore[arg-type]

    with store.read(), pytest.raises(LibraryError, match="within a read of the same thread"):
        store.commit(write)
    store.commit(write)
    with store.read() as view:
        store.close()
        assert view.sequence()
    Store(root).close()


def test_a_read_elsewhere_keeps_a_commit_waiting_for_a_while_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_engine, "READ_S", 0.05)
    store = Store(root, map_size=1 << 18)
    began, end = threading.Event(), threading.Event()

    def read() -> None:
        with store.read():
            began.set()
            end.wait(60)

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(60)
    try:
        with pytest.raises(LibraryError, match="has gone on for more than"):
            store.commit(lambda txn: txn.txn.put(b"x", bytes(1 << 20)) or txn.made_by(b""))  # type: ignore
    finally:
        end.set()
        reader.join(60)
        store.close()


def test_an_empty_library_is_followed_without_a_change_to_it(tmp_path: Path) -> None:
    root = tmp_path / "library"
    Library.open(root).close()
    before, stop = contents(root), threading.Event()
    with Library.open(root, read_only=True) as reader:
        changes = reader.follow_changes(stop=stop, poll_ms=10)
        stop.set()
        assert list(changes) == []
    assert contents(root) == before
