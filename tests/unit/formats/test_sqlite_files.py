"""Foreign SQLite files: read as SQLite reads them, never written, and hostile ones refused."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from format_home import take

from mixfs.formats import sqlite_files
from mixfs.formats.koda import detect
from mixfs.formats.koda_tables import SCHEMA, TABLES, write_sqlite
from mixfs.library.api import Library

_KILLED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 5")
for other in sys.argv[2:]:
    db.execute("ATTACH ? AS other", (other,))
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE canvases SET name = 'UNCOMMITTED'")
for at in range(400):
    db.execute("INSERT INTO canvas_nodes(id, canvas_id, type, position_x, position_y, data) VALUES (?, 'c', 't', 0, 0, '')",
               (f"ghost{at:0900}",))
print("ready", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""  # noqa: E501


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """One canvas, Kitchen, with one node."""
    (tmp_path / "koda").mkdir()
    path = tmp_path / "koda" / "koda.db"
    node = {"id": "n", "canvas_id": "c", "type": "text", "position_x": 0, "position_y": 0, "data": {}}
    write_sqlite(path, {"canvases": [{"id": "c", "name": "Kitchen"}], "canvas_nodes": [node]})
    return path


def writing(path: Path, *others: Path) -> subprocess.Popen[bytes]:
    """A program in the middle of a transaction, part of which is in the file already; it dies when its input ends."""
    program = subprocess.Popen(
        [sys.executable, "-c", _KILLED, path, *others], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout is not None and program.stdout.readline() == b"ready\n"
    return program


def killed(path: Path, *others: Path) -> None:
    program = writing(path, *others)
    program.communicate()
    assert program.returncode == -signal.SIGKILL


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_kitchen(library: Library) -> None:
    assert [session.title for session in library.sessions()] == ["Kitchen"] and len(library.entries("c")) == 1


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
@pytest.mark.reader_process
def test_what_a_killed_writer_left_is_rolled_back_in_a_copy(library: Library, database: Path, mode: str) -> None:
    sqlite3.connect(database).execute(f"PRAGMA journal_mode = {mode}").connection.close()
    killed(database)
    before = content(database.parent)
    assert len(before) > 1
    report = take(library, database.parent)
    assert not report.not_taken
    is_kitchen(library)
    assert content(database.parent) == before


def test_a_journal_of_several_databases_counts_while_their_super_journal_is_there(
    library: Library, database: Path, tmp_path: Path
) -> None:
    killed(database)
    journal, master = database.with_name("koda.db-journal"), str(database.parent / "koda.db-mj12345678").encode()
    name = master + len(master).to_bytes(4, "big") + sum(master).to_bytes(4, "big")
    with journal.open("ab") as file:
        file.write(bytes(4) + name + sqlite_files._JOURNAL_MAGIC)
    with sqlite_files.open_sqlite(database, TABLES) as tables:
        # The transaction was committed when the super-journal was deleted.
        assert {row["name"] for row in tables.rows("canvases", ("name",))} == {"UNCOMMITTED"}
    (database.parent / "koda.db-mj12345678").write_bytes(os.fsencode(journal) + b"\0")
    before = content(database.parent)
    assert not take(library, database).not_taken
    is_kitchen(library)
    assert content(database.parent) == before
    shutil.move(database.parent, tmp_path / "moved")
    with sqlite_files.open_sqlite(tmp_path / "moved" / "koda.db", TABLES) as tables:
        assert {row["name"] for row in tables.rows("canvases", ("name",))} == {"Kitchen"}


def test_a_database_that_is_being_written_to_is_waited_for_and_then_named(
    library: Library, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_files, "BUSY_S", 0.1)
    monkeypatch.setattr(sqlite_files.open_sqlite.__wrapped__, "__defaults__", (0.1,))  # type: ignore[attr-defined]
    program = writing(database)
    try:
        report = take(library, database)
        [problem] = report.not_taken
        assert "Another program is writing to it" in problem.reason and not report.taken
    finally:
        program.communicate()
    assert not take(library, database).not_taken
    is_kitchen(library)


_ENDLESS = "CREATE VIEW endless AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT {} FROM n"
_COLUMNS = {table: ", ".join(f"x AS {name}" for name in columns) for table, columns in SCHEMA.items()}


def endless(path: Path, kind: str) -> None:
    """A database whose canvases never end."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE canvases")
        connection.execute(_ENDLESS.format(_COLUMNS["canvases"]))
        if kind == "fts5":
            connection.execute("CREATE VIRTUAL TABLE canvases USING fts5(id, name, content='endless')")
        elif kind == "view":
            connection.execute("CREATE VIEW canvases AS SELECT * FROM endless")
        else:
            connection.execute("CREATE VIRTUAL TABLE real_name USING fts5(id, name, content='endless')")
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "UPDATE sqlite_master SET name = 'canvases', tbl_name = 'canvases', rootpage = 2, "
                "sql = replace(sql, 'real_name', 'canvases') WHERE name = 'real_name'"
            )
    connection.close()


@pytest.mark.parametrize("kind", ["fts5", "view", "disguised"])
def test_endless_tables_are_not_read(database: Path, kind: str) -> None:
    endless(database, kind)
    assert not detect(database)


def test_only_tables_are_queried_and_no_row_takes_for_ever(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(_ENDLESS.format("x AS id"))
        connection.execute("CREATE TABLE users(id, name AS (hex(zeroblob(400000000))))")
        connection.execute("INSERT INTO users VALUES ('u')")
    connection.close()

    def read(table: str) -> Iterator[object]:
        with sqlite_files.open_sqlite(database, TABLES) as tables:
            yield from tables.rows(table, ("id",))

    with pytest.raises(sqlite_files.Refused, match="something else than a query"):
        next(read("endless"))
    with sqlite_files.open_sqlite(database, TABLES) as tables:
        # What is computed is not read: some bytes would become gigabytes.
        assert tables.columns("users") == ("id",) and tables.columns("endless") == ()
    monkeypatch.setattr(sqlite_files, "STEP_S", -1.0)
    monkeypatch.setattr(sqlite_files, "_CHECK_EVERY", 1)
    with pytest.raises(sqlite_files.Refused, match="takes longer"):
        next(read("canvas_nodes"))


def test_a_fifo_beside_a_database_is_refused(library: Library, database: Path) -> None:
    os.mkfifo(f"{database}-wal")
    [problem] = take(library, database).not_taken
    assert "koda.db-wal beside it is no regular file" in problem.reason
