"""The tables of a Koda database, in a SQLite file, or behind the URL of PostgreSQL or libSQL: rows out, and rows in.

Readers are given plain values: times as seconds or ISO texts, UUIDs as texts, JSON as it is kept. Only the columns that
are there are asked for. `api_keys_encrypted` is never read, nor is anything else of user_settings.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import math
import re
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mixfs import jsontext
from mixfs.errors import MixfsError
from mixfs.formats.base import Refused
from mixfs.formats.hrana import ServerError, Stream
from mixfs.formats.source_urls import SourceUrl, parse
from mixfs.formats.sqlite_files import SqliteTables, quoted
from mixfs.library.documents import iso_ns

if TYPE_CHECKING:
    import psycopg

TIMES = ("created_at", "updated_at")
JSONS = ("data", "metadata", "parameters")
FLAGS = ("is_template", "is_public")

# Column → type, as the app makes them; PostgreSQL's where they differ from SQLite's.
SCHEMA: dict[str, dict[str, str]] = {
    "canvases": {
        "id": "text primary key", "user_id": "text", "name": "text not null", "description": "text",
        "thumbnail": "text", "is_template": "flag", "is_public": "flag", "created_at": "time", "updated_at": "time",
    },
    "canvas_nodes": {
        "id": "text primary key", "canvas_id": "text not null references canvases(id) on delete cascade",
        "type": "text not null", "position_x": "number not null", "position_y": "number not null", "width": "number",
        "height": "number", "data": "json not null", "z_index": "integer default 0", "created_at": "time",
        "updated_at": "time",
    },
    "canvas_edges": {
        "id": "text primary key", "canvas_id": "text not null references canvases(id) on delete cascade",
        "source_node_id": "text not null", "source_handle": "text", "target_node_id": "text not null",
        "target_handle": "text", "type": "text default 'default'",
    },
    "assets": {
        "id": "text primary key", "canvas_id": "text references canvases(id) on delete cascade", "node_id": "text",
        "type": "text not null", "filename": "text", "mime_type": "text", "size_bytes": "integer", "url": "text",
        "local_blob_key": "text", "metadata": "json", "created_at": "time",
    },
    "generations": {
        "id": "text primary key", "canvas_id": "text", "node_id": "text", "user_id": "text", "model": "text not null",
        "prompt": "text", "parameters": "json", "status": "text default 'pending'", "result_asset_id": "text",
        "error_message": "text", "duration_ms": "integer", "created_at": "time",
    },
}  # fmt: skip
_SQLITE = {"flag": "integer default 0", "time": "integer", "number": "real", "json": "text"}
_POSTGRES = {
    "flag": "boolean default false", "time": "timestamptz", "number": "double precision", "json": "jsonb",
    "integer": "bigint",
}  # fmt: skip
# A server that accepts a connection and never answers is given up.
_CONNECT = {"connect_timeout": "15"}
_STATEMENT_MS = 120_000
_COLUMN = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# What is read of users: never how they log in.
USER_COLUMNS = ("id", "display_name", "name", "username")
TABLES = frozenset({*SCHEMA, "users"})
# Rows that a libSQL server is asked for at once, and bytes of a value where one row is too many.
_PAGE, _PIECE = 200, 2 << 20


Row = dict[str, Any]


class Tables(Protocol):
    """An open database."""

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of a table; none when there is no such table."""

    def rows(self, table: str, columns: tuple[str, ...], where: str = "", value: Any = None) -> Iterator[Row]:
        """The rows whose column `where` has a value (all rows without one), in order of ids."""


# -- reading


def open_server(url: str) -> contextlib.AbstractContextManager[Tables]:
    """The database of a server at one moment of it, read only. Raises Refused, UsageError."""
    place = parse(url)
    return open_postgres(place) if place.is_postgres else open_libsql(place)


@contextlib.contextmanager
def open_libsql(url: SourceUrl) -> Iterator[Tables]:
    """The tables of a libSQL server, copied to a SQLite file that goes afterwards. Raises Refused, OSError."""
    with tempfile.TemporaryDirectory(prefix="mixfs-") as folder:
        connection = sqlite3.connect(Path(folder, "copy.db"))
        try:
            connection.row_factory = sqlite3.Row
            # Nobody needs it after a crash.
            connection.execute("PRAGMA synchronous = OFF")
            try:
                with Stream(url) as stream:
                    stream.execute("BEGIN")
                    for table in (*SCHEMA, "users"):
                        _copy(stream, connection, table)
            except ServerError as error:
                raise Refused(f"{url.shown}: {url.masked(str(error))}") from error
            yield SqliteTables(connection)
        finally:
            connection.close()


def _copy(stream: Stream, connection: sqlite3.Connection, table: str) -> None:
    """Copy a table, a page of rows at a time: a server limits how much it says at once."""
    columns = _columns(stream, table)
    if table == "users":
        columns = [name for name in columns if name in USER_COLUMNS]
    if not columns:
        return
    connection.execute(f"CREATE TABLE {quoted(table)} ({', '.join(map(quoted, columns))})")
    order = quoted("id" if "id" in columns else columns[0])
    query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table)} ORDER BY {order}"
    put = f"INSERT INTO {quoted(table)} VALUES ({', '.join('?' * len(columns))})"
    at, page = 0, _PAGE
    while True:
        try:
            rows = stream.execute(f"{query} LIMIT ? OFFSET ?", (page, at)).rows
        except ServerError as error:
            if error.code != "RESPONSE_TOO_LARGE":
                raise
            if page > 1:
                page //= 2
                continue
            rows = [[_in_pieces(stream, name, query, at) for name in columns]]
        connection.executemany(put, rows)
        at += len(rows)
        if len(rows) < page:
            return
        page = min(_PAGE, 2 * page)


def _in_pieces(stream: Stream, name: str, query: str, at: int) -> Any:
    """One value of a row that is too large to be said at once."""
    only, value_of = f"FROM ({query} LIMIT 1 OFFSET {at})", f"CAST({quoted(name)} AS BLOB)"
    [[kind, size]] = stream.execute(f"SELECT typeof({quoted(name)}), length({value_of}) {only}").rows
    if size is None or size <= _PIECE:
        return stream.execute(f"SELECT {quoted(name)} {only}").rows[0][0]
    value = b"".join(
        stream.execute(f"SELECT substr({value_of}, ?, ?) {only}", (start + 1, _PIECE)).rows[0][0]
        for start in range(0, size, _PIECE)
    )
    return value.decode("utf-8", "surrogateescape") if kind == "text" else value


def _columns(stream: Stream, table: str) -> list[str]:
    """The columns of a table; none of a view, or where there is no such table."""
    found = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
    if not stream.execute(found, (table,)).rows:
        return []
    return [str(name) for [name] in stream.execute("SELECT name FROM pragma_table_info(?)", (table,)).rows]


@contextlib.contextmanager
def open_postgres(url: SourceUrl) -> Iterator[Tables]:
    """A PostgreSQL database at one moment of it, read only. Raises Refused."""
    psycopg = _psycopg()
    try:
        with psycopg.connect(**_CONNECT | url.parameters()) as connection:
            psycopg.types.json.set_json_loads(jsontext.loads, connection)
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute(f"SET LOCAL statement_timeout = {_STATEMENT_MS}")
            yield _Postgres(connection)
    except (psycopg.Error, ValueError) as error:
        raise Refused(f"{url.shown}: {url.masked(_words(error))}") from error


class _Postgres:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def columns(self, table: str) -> tuple[str, ...]:
        query = (
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped "
            "ORDER BY attnum"
        )
        return tuple(str(name) for (name,) in self._connection.execute(query, (table,)))

    def rows(self, table: str, columns: tuple[str, ...], where: str = "", value: Any = None) -> Iterator[Row]:
        query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table)}"
        if where:
            # Compared as texts: ids are UUIDs in some databases.
            query += f" WHERE {quoted(where)}::text IS NOT DISTINCT FROM %s"
        query += f" ORDER BY {quoted('id')}::text COLLATE \"C\""
        with self._connection.cursor() as cursor:
            cursor.execute(query.encode(), (value,) if where else None)
            while batch := cursor.fetchmany(100):
                for row in batch:
                    yield {column: plain(row[at]) for at, column in enumerate(columns)}


def plain(value: Any) -> Any:
    """A value of a database as one that JSON and records can hold."""
    match value:
        case datetime.datetime():
            return value.isoformat()
        case datetime.date() | uuid.UUID():
            return str(value)
        case decimal.Decimal() if not value.is_finite():
            return str(value)
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes() | memoryview():
            return bytes(value).hex()
        case float() if not math.isfinite(value):
            return jsontext.loads(str(value).replace("inf", "Infinity").replace("nan", "NaN"))
        case None | bool() | int() | float() | str() | dict() | list():
            return value
        case _:
            return str(value)


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise Refused(f"PostgreSQL needs psycopg: pip install 'mixfs[postgresql]' ({error}).") from error
    return psycopg


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -- writing


def time_ns(value: Any) -> int:
    """Nanoseconds of a time as either database keeps it: seconds since the epoch, or ISO 8601. 0 for none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not -1e15 < value < 1e15:
            return 0
        # Some write milliseconds.
        return int(value * 1_000_000) if abs(value) > 1e11 else int(value * 1_000_000_000)
    return iso_ns(value)


Rows = Mapping[str, list[Row]]


def write_sqlite(path: Path, rows: Rows) -> None:
    """A new database file with rows of each table; columns beyond the app's own are added."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            for table, columns in SCHEMA.items():
                more = sorted({column for row in rows.get(table, ()) for column in row} - set(columns))
                parts = [f"{quoted(name)} {_typed(kind, _SQLITE)}" for name, kind in columns.items()]
                parts += [quoted(name) for name in more if _COLUMN.fullmatch(name)]
                connection.execute(f"CREATE TABLE {table} ({', '.join(parts)})")
                for row in rows.get(table, ()):
                    there = {name: value for name, value in row.items() if name in columns or _COLUMN.fullmatch(name)}
                    names = ", ".join(map(quoted, there))
                    marks = ", ".join("?" * len(there))
                    values = [_for_sqlite(name, value) for name, value in there.items()]
                    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
    finally:
        connection.close()


def _typed(kind: str, types: Mapping[str, str]) -> str:
    word, _, rest = kind.partition(" ")
    return f"{types.get(word, word)} {rest}".rstrip()


def _for_sqlite(name: str, value: Any) -> Any:
    if name in TIMES and value is not None:
        return time_ns(value) // 1_000_000_000
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, dict | list) or (name in JSONS and value is not None):
        return jsontext.dumps(value)
    return value


def write_server(url: str, rows: Rows) -> dict[str, int]:
    """Add rows in one transaction; tables are made where they aren't there, rows of an id that is there stay.

    Returns how many rows were added, by table. Raises MixfsError.
    """
    place = parse(url)
    return _write_postgres(place, rows) if place.is_postgres else _write_libsql(place, rows)


def _write_libsql(url: SourceUrl, rows: Rows) -> dict[str, int]:
    try:
        with Stream(url) as stream:
            stream.execute("BEGIN IMMEDIATE")
            added = _add(
                rows, _SQLITE, _for_sqlite, "?", lambda table: _columns(stream, table),
                lambda query, values: stream.execute(query, values).changed,
            )  # fmt: skip
            stream.execute("COMMIT")
    except ServerError as error:
        raise MixfsError(f"{url.shown}: {url.masked(str(error))} Nothing was written.") from error
    return added


def _write_postgres(url: SourceUrl, rows: Rows) -> dict[str, int]:
    psycopg = _psycopg()
    try:
        with psycopg.connect(**_CONNECT | url.parameters()) as connection:
            return _add(
                rows, _POSTGRES, _for_postgres, "%s", _Postgres(connection).columns,
                lambda query, values: connection.execute(query, values).rowcount,
            )  # fmt: skip
    except (psycopg.Error, ValueError) as error:
        raise MixfsError(f"{url.shown}: {url.masked(_words(error))} Nothing was written.") from error


def _add(
    rows: Rows, types: Mapping[str, str], convert: Callable[[str, Any], Any], mark: str,
    columns_of: Callable[[str], Sequence[str]], run: Callable[[str, list[Any]], int],
) -> dict[str, int]:  # fmt: skip
    """Add rows to the tables of an open transaction."""
    added: dict[str, int] = {}
    for table, columns in SCHEMA.items():
        if not columns_of(table):
            parts = [f"{quoted(name)} {_typed(kind, types)}" for name, kind in columns.items()]
            run(f"CREATE TABLE {table} ({', '.join(parts)})", [])
        there = set(columns_of(table))
        added[table] = 0
        for row in rows.get(table, ()):
            kept = {name: convert(name, value) for name, value in row.items() if name in there}
            names, marks = ", ".join(map(quoted, kept)), ", ".join([mark] * len(kept))
            query = f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
            added[table] += run(query, list(kept.values()))
    return added


def _for_postgres(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in TIMES:
        return datetime.datetime.fromtimestamp(time_ns(value) / 1e9, datetime.UTC)
    if name in FLAGS:
        return bool(value)
    if isinstance(value, dict | list) or name in JSONS:
        return jsontext.dumps(value)
    return value
