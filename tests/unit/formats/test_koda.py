"""Koda databases in SQLite and in a real PostgreSQL: what comes in, and what goes out again."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cli_home import Home
from format_home import picture, take
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from libsql import emptied, libsql_server
from postgres import database, postgres_server

from mixfs.errors import MixfsError
from mixfs.formats import koda
from mixfs.formats.hrana import Stream
from mixfs.formats.layouts import detect
from mixfs.formats.lost import TIMES
from mixfs.formats.source_urls import without_password
from mixfs.library.api import Library
from mixfs.records import Edge, Entry, Generation, ImageRef, Placement

TABLES = """
CREATE TABLE canvases(id text primary key, user_id text, name text not null, description text, created_at integer,
  updated_at integer, x_future text);
CREATE TABLE canvas_nodes(id text primary key, canvas_id text not null, type text not null, position_x real not null,
  position_y real not null, width real, height real, data text not null, z_index integer default 0, created_at integer);
CREATE TABLE canvas_edges(id text primary key, canvas_id text not null, source_node_id text not null,
  source_handle text, target_node_id text not null, target_handle text, type text default 'default');
CREATE TABLE assets(id text primary key, canvas_id text, node_id text, type text not null, filename text,
  mime_type text, size_bytes integer, url text, local_blob_key text, metadata text, created_at integer);
CREATE TABLE generations(id text primary key, canvas_id text, node_id text, model text not null, prompt text,
  parameters text, status text, result_asset_id text, error_message text, duration_ms integer, created_at integer);
CREATE TABLE users(id text primary key, name text);
CREATE TABLE user_settings(user_id text, api_keys_encrypted text);
"""
T = 1765274400


def uri(seed: int) -> str:
    return "data:image/png;base64," + base64.b64encode(picture(seed)).decode()


def fill(connection: Any, mark: str = "?") -> None:
    def put(table: str, *rows: tuple[Any, ...]) -> None:
        for row in rows:
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join([mark] * len(row))})", row)

    put("users", ("u1", "Ada"))
    put("user_settings", ("u1", "SECRET"))
    put("canvases", ("cv1", "u1", "Küche", "d", T, T + 5, "kept"), ("cv2", None, "Empty", None, T, T, None))
    nodes = [
        ("n0", "text", {"label": "one", "x": [None, 1.5]}, 0),
        ("n1", "imageGenerator", {"outputUrl": uri(1), "more": [{"u": uri(2)}], "t": "data:image/png;base64,@@"}, 1),
        ("n2", "image", {"label": "shown"}, 2),
    ]  # fmt: skip
    for node_id, kind, data, z in nodes:
        put("canvas_nodes", (node_id, "cv1", kind, 10.0 * z, 5.5, 200.0, None, json.dumps(data), z, T))
    put(
        "canvas_edges", ("e1", "cv1", "n0", None, "n1", "in", "default"), ("e0", "cv1", "n1", "o", "n2", None, "curved")
    )
    assets = [
        ("a1", "n2", "files/one.png", None), ("a2", None, uri(4), None),
        ("a3", None, "https://example.com/x.png", None), ("a4", None, None, "files/two.png"),
    ]  # fmt: skip
    for asset_id, node, url, key in assets:
        meta = json.dumps({"model": "flux"})
        put("assets", (asset_id, "cv1", node, "image", f"{asset_id}.png", "image/png", 1, url, key, meta, T))
    put(
        "generations",
        ("g1", "cv1", "n1", "flux", "a cat", json.dumps({"steps": 4}), "completed", "a1", None, 1234, T),
        ("g2", "cv1", "n1", "flux", None, None, "failed", None, "quota", None, T),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "koda"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "one.png").write_bytes(picture(3))
    (folder / "files" / "two.png").write_bytes(picture(5))
    with sqlite3.connect(folder / "koda.db") as connection:
        connection.executescript(TABLES)
        fill(connection)
    connection.close()
    return folder


TAKEN = {"sessions": 2, "pictures": 5, "entries": 3, "edges": 2, "generations": 2}


def check(library: Library) -> None:
    """The canvas of `fill` in a library."""
    session = library.session("cv1")
    assert (session.title, session.user_id, session.user_name) == ("Küche", "u1", "Ada")
    assert session.created_ns == T * 10**9 and session.foreign["koda"]["canvas"]["x_future"] == "kept"
    nodes = {entry.shown_id: entry for entry in library.entries("cv1")}
    assert list(nodes) == ["n0", "n1", "n2"] and nodes["n0"].data["data"] == {"label": "one", "x": [None, 1.5]}
    assert library.read_image(nodes["n1"].digest or b"") == picture(1)  # type: ignore[arg-type]
    assert library.read_image(nodes["n2"].digest or b"") == picture(3)  # type: ignore[arg-type]
    assert "base64," not in json.dumps(nodes["n1"].data["data"]["outputUrl"])
    edges = {edge.shown_id: edge for edge in library.edges("cv1")}
    assert (edges["e0"].source, edges["e0"].source_handle) == ("n1", "o")
    assert (edges["e0"].data, edges["e1"].data) == ({"koda": {"type": "curved"}}, {})
    one, two = sorted(library.generations("cv1"), key=lambda generation: generation.shown_id)
    assert (one.model, one.prompt, one.parameters, one.duration_ms) == ("flux", "a cat", {"steps": 4}, 1234)
    assert library.read_image(one.outputs[0].digest or "") == picture(3)
    assert (two.status, two.error, two.outputs) == ("failed", "quota", ())
    with library.read() as view:
        assert "SECRET" not in repr(list(view.records(type(session))))
        canvas = json.loads(view.render_session_document(session, "canvas.json"))
    assert {(edge["source"], edge["target"]) for edge in canvas["edges"]} == {("n0", "n1"), ("n1", "n2")}


def dump(path: Path) -> dict[str, Any]:
    """All rows of a SQLite file as values: JSON parsed, columns that are null left out."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    out = {}
    for table in ("canvases", "canvas_nodes", "canvas_edges", "assets", "generations"):
        rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
        for row in rows:
            for name in ("data", "metadata", "parameters"):
                if row.get(name) is not None:
                    row[name] = json.loads(row[name])
        out[table] = {row["id"]: {key: value for key, value in row.items() if value is not None} for row in rows}
    connection.close()
    return out


def test_a_canvas_is_a_session(library: Library, source: Path) -> None:
    before = (source / "koda.db").read_bytes(), sorted(source.rglob("*"))
    would = take(library, source, dry_run=True)
    assert library.sessions() == []
    report = take(library, source)
    assert (report.taken, report.not_taken) == (TAKEN, [])
    assert [item.place for item in report.skipped] == ["assets, id a3"]
    assert would.taken == report.taken
    check(library)
    with library.read() as view:
        state = view.state()
    again = take(library, source / "koda.db")
    assert (again.taken, again.known, again.differs) == ({}, TAKEN, 0)
    with library.read() as view:
        assert view.state()[0] == state[0]
    assert ((source / "koda.db").read_bytes(), sorted(source.rglob("*"))) == before


def test_what_is_in_the_write_ahead_log_is_read(library: Library, source: Path) -> None:
    connection = sqlite3.connect(source / "koda.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO canvases(id, name) VALUES ('late', 'Late')")
    connection.commit()
    try:
        before = {path: path.read_bytes() for path in source.glob("koda.db*") if path.suffix != ".db-shm"}
        assert take(library, source / "koda.db").taken["sessions"] == 3
        # The memory that connections share is this very process's.
        assert {path: path.read_bytes() for path in before} == before
    finally:
        connection.close()


def test_it_goes_out_as_it_came_in(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    ids = [session.id for session in library.sessions()]
    assert koda.not_carried(library, ids) == ("names of users (1)",)
    koda.write(library, ids, str(tmp_path / "out"))
    was, now = dump(source / "koda.db"), dump(tmp_path / "out" / "koda.db")
    for asset in was["assets"].values():
        # The size that it says was wrong.
        if asset["id"] != "a3":
            asset["size_bytes"] = now["assets"][asset["id"]]["size_bytes"]
    for canvas in now["canvases"].values():
        # Columns that the source does not have.
        assert (canvas.pop("is_template"), canvas.pop("is_public")) == (0, 0)
    assert now == was
    for name in ("one.png", "two.png"):
        assert (tmp_path / "out" / "files" / name).read_bytes() == (source / "files" / name).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_only_the_columns_that_are_there_are_needed(library: Library, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "k.db") as connection:
        connection.executescript(
            "CREATE TABLE canvases(id text);"
            "CREATE TABLE canvas_nodes(id text, canvas_id text, position_x, position_y);"
            "INSERT INTO canvases VALUES ('c'); INSERT INTO canvas_nodes VALUES ('n', 'c', 1, 2);"
        )
    connection.close()
    report = take(library, tmp_path / "k.db")
    assert report.taken == {"sessions": 1, "entries": 1} and report.not_taken == []
    assert library.session("c").title == "Untitled"


BROKEN = {
    "UPDATE canvas_nodes SET data = '{' WHERE id = 'n0'": ("canvas_nodes, id n0", "data: Line 1"),
    "UPDATE canvas_nodes SET position_x = 'left' WHERE id = 'n0'": ("canvas_nodes, id n0", "must be numbers"),
    "UPDATE canvas_nodes SET type = CAST(x'ff' AS TEXT) WHERE id = 'n0'": (
        "canvases, id cv1: entry n0", "can't be kept",
    ),
    "UPDATE canvas_nodes SET canvas_id = 'none' WHERE id = 'n0'": ("canvas_nodes, id n0", "no canvas"),
    "UPDATE canvas_edges SET source_node_id = 7.5 WHERE id = 'e1'": None,
    "UPDATE assets SET url = 'files/none.png' WHERE id = 'a1'": ("assets, id a1", "No such file"),
    "UPDATE assets SET url = '../koda.db' WHERE id = 'a1'": ("assets, id a1", "leads out"),
    "UPDATE assets SET url = '/etc/passwd' WHERE id = 'a1'": ("assets, id a1", "leads out"),
    "UPDATE assets SET url = 'data:image/png;base64,@' WHERE id = 'a1'": ("assets, id a1", "base64"),
    "UPDATE assets SET metadata = '[' WHERE id = 'a1'": ("assets, id a1", "metadata: Line 1"),
    "UPDATE generations SET parameters = '3' WHERE id = 'g1'": ("generations, id g1", "must be an object"),
}


@pytest.mark.parametrize("change", BROKEN)
def test_a_broken_record_is_reported_and_the_rest_goes_on(library: Library, source: Path, change: str) -> None:
    with sqlite3.connect(source / "koda.db") as connection:
        connection.execute(change)
    connection.close()
    report = take(library, source)
    expected = BROKEN[change]
    if expected is None:
        assert report.not_taken == []
        return
    assert [problem.place for problem in report.not_taken] == [expected[0]]
    assert expected[1] in report.not_taken[0].reason
    assert sum(report.taken.values()) == sum(TAKEN.values()) - 1


def test_a_damaged_file_and_others(library: Library, source: Path, tmp_path: Path) -> None:
    path = source / "koda.db"
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    report = take(library, path)
    assert "damaged" in report.not_taken[-1].reason
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE canvases(id text)")
        connection.execute("CREATE VIEW canvas_nodes AS SELECT 1 AS canvas_id")
    connection.close()
    assert detect(tmp_path / "other.db") is None and detect(tmp_path) is None
    (tmp_path / "text.db").write_text("SQLite format 3")
    assert detect(tmp_path / "text.db") is None


# -- PostgreSQL

PG_TABLES = (
    TABLES.replace("real", "double precision")
    .replace("updated_at integer", "updated_at timestamptz").replace("created_at integer", "created_at timestamptz")
    .replace("data text not null", "data jsonb not null").replace("parameters text", "parameters jsonb")
    .replace("metadata text", "metadata jsonb")
)  # fmt: skip


class _Pg:
    """A connection that takes what `fill` gives to SQLite."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, query: str, row: tuple[Any, ...]) -> None:
        values = [datetime.datetime.fromtimestamp(v, datetime.UTC) if v in (T, T + 5) else v for v in row]
        self._connection.execute(query.encode(), values)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def pg(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    with database(server, request.node.name[:60]) as url:
        yield url


def test_postgres_comes_in_and_goes_out(library: Library, pg: str, server: str, source: Path, tmp_path: Path) -> None:
    with psycopg.connect(pg) as connection:
        connection.execute(PG_TABLES.encode())
        fill(_Pg(connection), "%s")
        # A server has no folder for paths.
        connection.execute("UPDATE assets SET url = %s WHERE id = 'a1'", (uri(3),))
        connection.execute("UPDATE assets SET url = %s WHERE id = 'a4'", (uri(5),))
    report = take(library, pg)  # type: ignore[arg-type]
    assert (report.taken, report.not_taken) == (TAKEN, [])
    check(library)
    again = take(library, pg)  # type: ignore[arg-type]
    assert (again.taken, again.known, again.differs) == ({}, TAKEN, 0)
    ids = [session.id for session in library.sessions()]
    with database(server, "out") as out:
        koda.write(library, ids, out)
        with psycopg.connect(pg) as one, psycopg.connect(out) as other:
            for table, columns in (
                ("canvases", "id, user_id, name, description, created_at, updated_at"),
                ("canvas_nodes", "id, canvas_id, type, position_x, position_y, width, height, data, z_index"),
                ("canvas_edges", "id, canvas_id, source_node_id, source_handle, target_node_id, target_handle, type"),
                ("assets", "id, canvas_id, node_id, type, filename, url, local_blob_key, metadata, created_at"),
                ("generations", "id, node_id, model, prompt, status, result_asset_id, error_message, created_at"),
            ):
                query = f"SELECT {columns} FROM {table} ORDER BY id"
                assert one.execute(query).fetchall() == other.execute(query).fetchall(), table
        # Rows that are there stay.
        assert koda.write(library, ids, out).files == 0
    # From the server into a file, and the other way, it is the same canvas.
    koda.write(library, ids, str(tmp_path / "out"))
    assert dump(tmp_path / "out" / "koda.db")["canvas_nodes"] == dump(source / "koda.db")["canvas_nodes"]


def test_what_a_server_says_is_reported(library: Library, pg: str) -> None:
    for url, words in ((pg, "no table canvases"), (pg.replace("/test_what", "/none_"), "does not exist")):
        report = take(library, url.replace("mixfs@", "mixfs:geheim@"))  # type: ignore[arg-type]
        assert words in report.not_taken[0].reason
        assert "geheim" not in repr(report)
    assert without_password("postgresql://u:p@h/d?password=p&x=1") == "postgresql://u@h/d?password=…&…=…"


# -- libSQL


@pytest.fixture(scope="module")
def sqld() -> Iterator[str]:
    with libsql_server() as url:
        yield url


def fill_libsql(url: str, tables: str = TABLES) -> None:
    with Stream(emptied(url)) as stream:
        for statement in filter(str.strip, tables.split(";")):
            stream.execute(statement)
        fill(stream)
        # A server has no folder for paths.
        stream.execute("UPDATE assets SET url = ? WHERE id = 'a1'", (uri(3),))
        stream.execute("UPDATE assets SET url = ? WHERE id = 'a4'", (uri(5),))


def dump_libsql(url: str) -> dict[str, Any]:
    out = {}
    with Stream(url) as stream:
        for table in ("canvases", "canvas_nodes", "canvas_edges", "assets", "generations"):
            names = [name for [name] in stream.execute("SELECT name FROM pragma_table_info(?)", (table,)).rows]
            rows = [dict(zip(names, row, strict=True)) for row in stream.execute(f"SELECT * FROM {table}").rows]
            for row in rows:
                row |= {name: json.loads(row[name]) for name in ("data", "metadata", "parameters") if row.get(name)}
            out[table] = {row["id"]: {key: value for key, value in row.items() if value is not None} for row in rows}
    return out


def test_libsql_comes_in_and_goes_out(library: Library, sqld: str, tmp_path: Path) -> None:
    fill_libsql(sqld)
    before = dump_libsql(sqld)
    report = take(library, sqld)  # type: ignore[arg-type]
    assert (report.taken, report.not_taken) == (TAKEN, [])
    check(library)
    assert take(library, sqld).taken == {}  # type: ignore[arg-type]
    assert dump_libsql(sqld) == before
    ids = [session.id for session in library.sessions()]
    # Rows that are there stay, others are added, in a database without tables these are made.
    assert koda.write(library, ids, sqld).files == 0
    with Stream(sqld) as stream:
        stream.execute("DELETE FROM canvas_nodes WHERE id = 'n1'")
    assert koda.write(library, ids, sqld).files == 1
    assert dump_libsql(sqld) == before
    emptied(sqld)
    koda.write(library, ids, sqld.replace("http://", "libsql://") + "?tls=0")
    out = dump_libsql(sqld)
    assert {table: rows.keys() for table, rows in out.items()} == {table: rows.keys() for table, rows in before.items()}
    assert out["canvas_nodes"] == before["canvas_nodes"] and out["canvas_edges"] == before["canvas_edges"]


def test_values_of_any_size_come_from_libsql(library: Library, sqld: str) -> None:
    fill_libsql(sqld)
    with Stream(sqld) as stream:
        # More than the server says at once, in several rows and in one; and an integer that is no float.
        stream.execute("UPDATE canvas_nodes SET z_index = ? WHERE id = 'n1'", (2**53 + 1,))
        for number in range(12):
            node = json.dumps({"long": f"é{number}" * 500_000, "whole": 2**60 + 1})
            stream.execute(
                "INSERT INTO canvas_nodes VALUES (?, 'cv2', 'note', 0, 0, NULL, NULL, ?, 0, ?)", (f"l{number}", node, T)
            )
        # Each of them is six characters in the answer: one row is more than the server says at once.
        stream.execute("UPDATE canvases SET description = ? WHERE id = 'cv2'", ("\x07" * 3_000_000,))
    report = take(library, sqld)  # type: ignore[arg-type]
    assert report.not_taken == []
    assert {entry.shown_id: entry.z for entry in library.entries("cv1")}["n1"] == 2**53 + 1
    nodes = {entry.shown_id: entry.data["data"] for entry in library.entries("cv2")}
    assert nodes["l11"] == {"long": "é11" * 500_000, "whole": 2**60 + 1} and len(nodes) == 12
    assert library.session("cv2").foreign["koda"]["canvas"]["description"] == "\x07" * 3_000_000


def test_what_libsql_says_is_reported(library: Library, sqld: str) -> None:
    emptied(sqld)
    nobody = "http://127.0.0.1:1"
    for url, words in ((sqld, "no table canvases"), (nobody, "can't be reached"), (f"{sqld}/no/such", "answers 404")):
        report = take(library, f"{url}?authToken=geheim")  # type: ignore[arg-type]
        assert words in report.not_taken[0].reason
        assert "geheim" not in repr(report)
    assert without_password("libsql://h.io?authToken=x&tls=1") == "libsql://h.io?authToken=…&tls=1"
    session = library.create_session("x")
    library.put_entry(Entry(id="n", session_id=session.id))
    with Stream(sqld) as stream:
        stream.execute("CREATE TABLE canvas_nodes(id text)")
    with pytest.raises(MixfsError, match="Nothing was written"):
        koda.write(library, [session.id], sqld)
    with Stream(sqld) as stream:
        assert stream.execute("SELECT name FROM sqlite_master WHERE name = 'canvases'").rows == []


def test_a_transaction_that_is_not_committed_leaves_nothing(sqld: str) -> None:
    with Stream(emptied(sqld)) as stream:
        stream.execute("BEGIN")
        stream.execute("CREATE TABLE t(a)")
    with Stream(sqld) as stream:
        assert stream.execute("SELECT 1 FROM sqlite_master WHERE name = 't'").rows == []


def test_servers_and_file_urls_on_the_command_line(home: Home, sqld: str, source: Path, tmp_path: Path) -> None:
    fill_libsql(sqld)
    assert "2 sessions" in home.run("import", sqld).out
    assert "known already" in home.run("import", f"file:{source / 'koda.db'}").out
    emptied(sqld)
    home.run("export", "--all", sqld, "--format", "koda")
    assert dump_libsql(sqld)["canvases"].keys() == {"cv1", "cv2"}
    home.run("export", "--all", f"file://{tmp_path / 'out'}", "--format", "koda")
    assert (tmp_path / "out" / "koda.db").exists()


def test_postgres_on_the_command_line(home: Home, pg: str, source: Path) -> None:
    home.run("import", source)
    home.run("export", "--all", pg, "--format", "koda")
    assert "known already" in home.run("import", pg, code=0).out


# -- whatever the model holds

plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
numbers = st.floats(-1e9, 1e9)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | plain,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(plain, inner, max_size=2),
    max_leaves=4,
)
data = st.dictionaries(plain | st.sampled_from(["data", "koda", "label", "x-mixfs"]), values, max_size=3)


@settings(
    max_examples=30, deadline=None, phases=(Phase.reuse, Phase.generate), suppress_health_check=[HealthCheck.too_slow]
)
@given(
    title=plain.filter(str.strip), user=st.none() | plain, shown=st.none() | st.integers(0, 2),
    entries=st.lists(
        st.builds(
            Entry, id=st.uuids(version=4).map(str), session_id=st.just(""), type=plain, x=numbers, y=numbers,
            width=st.none() | numbers, height=st.none() | numbers, z=st.integers(-3, 3), text=st.none() | plain,
            generation_id=st.none() | plain, data=data,
        ), max_size=3,
    ),
    edges=st.lists(
        st.builds(
            Edge, id=st.uuids(version=4).map(str), session_id=st.just(""), source=plain, target=plain,
            source_handle=st.none() | plain,
        ), max_size=2,
    ),
    generations=st.lists(
        st.builds(
            Generation, id=st.uuids(version=4).map(str), session_id=st.just(""), model=st.none() | plain,
            prompt=st.none() | plain, parameters=st.dictionaries(plain, values, max_size=2), error=st.none() | plain,
            duration_ms=st.none() | st.integers(0, 2**40), time_ns=st.integers(0, 4 * 10**9).map(lambda s: s * 10**9),
        ), max_size=2,
    ),
)  # fmt: skip
def test_what_a_session_holds_comes_back_equal(
    two: tuple[Library, Library, Path], title: str, user: str | None, shown: int | None, entries: list[Entry],
    edges: list[Edge], generations: list[Generation],
) -> None:  # fmt: skip
    one, other, path = two
    session = one.create_session(title, user_id=user)
    for seed in (1, 2):
        one.import_bytes(picture(seed), f"ä {seed}.png", session_id=session.id)
    placement = one.placements(session.id)[0]
    output = ImageRef(digest=placement.digest, name="ä 1.png", role="output", size=placement.size,
                      placement_id=placement.id)  # fmt: skip
    for at, entry in enumerate(entries):
        digest = placement.digest if at == shown else None
        one.put_entry(dataclasses.replace(entry, session_id=session.id, digest=digest))
    for edge in edges:
        one.put_edge(dataclasses.replace(edge, session_id=session.id))
    for at, generation in enumerate(generations):
        one.put_generation(dataclasses.replace(generation, session_id=session.id, outputs=() if at else (output,)))
    # A second may begin between a file's own time and its coming in.
    assert {line.partition(" (")[0] for line in koda.not_carried(one, [session.id])} <= {TIMES}
    target = path / "out"
    koda.write(one, [session.id], str(target))
    report = take(other, target)
    try:
        assert report.not_taken == []
        assert _comparable(one, session.id) == _comparable(other, session.id)
        assert take(one, target).taken == {}
    finally:
        shutil.rmtree(target)
        other.delete_session(session.id)
        one.delete_session(session.id)


def _comparable(library: Library, session_id: str) -> Any:
    session = library.session(session_id)
    members = [*library.entries(session_id), *library.edges(session_id), *library.generations(session_id)]
    kept = [dataclasses.replace(m, **({"named_ns": 0} if hasattr(m, "named_ns") else {})) for m in members]
    kept = [dataclasses.replace(m, foreign={}) if isinstance(m, Generation) else m for m in kept]
    placements = [(p.id, p.name, p.digest) for p in library.placements(session_id)]
    return (session.title, session.user_id), sorted(kept, key=lambda m: m.id), placements


def test_the_samples_that_others_made(home: Home, samples: Path, tmp_path: Path) -> None:
    expected = json.loads((samples / "EXPECTED.json").read_text())["koda"]
    report = home.run("import", samples / "koda", "--json").json
    taken = report["layouts"][0]["taken"]
    assert (taken["sessions"], taken["entries"], taken["edges"], taken["generations"]) == (
        expected["canvases"], expected["nodes"], expected["edges"], expected["generations"],
    )  # fmt: skip
    with Library.open(home.library) as library, library.read() as view:
        assert {item.digest.hex() for item in view.records(Placement)} == set(expected["digests"])
    home.run("export", "--all", tmp_path / "out", "--format", "koda")
    assert dump(tmp_path / "out" / "koda.db") == dump(samples / "koda" / "koda.db")
