"""A foreign SQLite file, read as SQLite reads it and never written: at one moment of it, and its tables only.

A database that an app left in the middle of a transaction has a rollback journal beside it, or a write-ahead log. What
they say is applied to a private copy, since SQLite would write to the original. A database that another program is
writing to is waited for, and then refused.

The file may be hostile. Nothing but plain tables of known names is read: views and virtual tables compute, some of
them for ever, and an authorizer refuses whatever a crafted schema would run beside a query.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sqlite3
import stat
import struct
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixfs.formats.base import Refused
from mixfs.regular_files import is_unchanged, open_regular

BUSY_S = 10.0
"""How long a database is waited for that another program is writing to."""
STEP_S = 30.0
"""How long one row may take."""
MAX_DATABASE = 8 << 30
_MAX_VALUE = 512 << 20
_CHECK_EVERY = 10_000
# Of SQLite's file format: where the locks of a rollback journal's time are, and how many bytes from PENDING on.
_LOCKS_AT, _LOCKS = 0x40000000, 512
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_TABLE = re.compile(r"\s*CREATE\s+TABLE\s", re.IGNORECASE)


class Busy(Refused):
    """Another program is writing to the database."""

    def __init__(self) -> None:
        super().__init__("Another program is writing to it. Close it there, then import it again.")


@contextlib.contextmanager
def open_sqlite(path: Path, tables: frozenset[str], busy_s: float = BUSY_S) -> Iterator[SqliteTables]:
    """The database at one moment of it: `tables` of it, and no others. Raises Refused, OSError."""
    path = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        try:
            connection = _connection(path, stack, busy_s)
            _restrict(connection, tables)
            yield SqliteTables(connection)
        except sqlite3.Error as error:
            raise _refusal(error) from error
        except RecursionError as error:
            raise Refused("Its schema is nested too deeply.") from error


def _refusal(error: sqlite3.Error) -> Refused:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy()
    if code == sqlite3.SQLITE_INTERRUPT:
        return Refused(f"It takes longer than {STEP_S:g} s to read one row of it.")
    if code == sqlite3.SQLITE_AUTH:
        return Refused("Its schema would run something else than a query. Views and virtual tables are not read.")
    return Refused(f"The database is damaged: {error}. `sqlite3 FILE .recover` may save what is left")


def _connection(path: Path, stack: contextlib.ExitStack, busy_s: float) -> sqlite3.Connection:
    """A connection in whichever way reads what SQLite would, without writing to the original."""
    with open(open_regular(path, MAX_DATABASE), "rb") as file:
        head = file.read(20)
    sizes = {suffix: _size(path, suffix) for suffix in ("-journal", "-wal", "-shm")}
    if sizes["-wal"]:
        # With the memory that its users share, the log is read where it is. Without, nobody has the database open.
        ways = (["mode=ro&readonly_shm=1"] if sizes["-shm"] else []) + [""]
    elif 2 in head[18:20]:
        # All of its log is in it already; SQLite would make an empty one to read it.
        return _unwritten(path, stack, busy_s)
    else:
        ways = ["mode=ro"] + ([""] if sizes["-journal"] else [])
    for way in ways:
        try:
            if way:
                return _connect(path, way, stack, busy_s)
            return _connect(_private_copy(path, stack, busy_s), "mode=rw", stack, busy_s)
        except sqlite3.Error as error:
            if way == ways[-1] or isinstance(_refusal(error), Busy):
                raise
    raise AssertionError("not reached")


def _size(path: Path, suffix: str) -> int:
    """The size of what lies beside a database. Raises Refused for what is no file: SQLite would wait for a FIFO."""
    try:
        status = os.lstat(f"{path}{suffix}")
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{path.name}{suffix} beside it is no regular file.")
    if status.st_size > MAX_DATABASE:
        raise Refused(f"{path.name}{suffix} beside it has {status.st_size} bytes; {MAX_DATABASE} are allowed.")
    return status.st_size


def _connect(path: Path, options: str, stack: contextlib.ExitStack, busy_s: float) -> sqlite3.Connection:
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None)
    try:
        if sys.version_info >= (3, 12):
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY", "mmap_size = 0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        # The first read takes the lock, and rolls back what a killed writer left.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    stack.callback(connection.close)
    return connection


@contextlib.contextmanager
def _same_afterwards(path: Path) -> Iterator[None]:
    before = os.stat(path)
    yield
    if not is_unchanged(before, os.stat(path)):
        raise Busy


def _unwritten(path: Path, stack: contextlib.ExitStack, busy_s: float) -> sqlite3.Connection:
    stack.enter_context(_same_afterwards(path))
    return _connect(path, "mode=ro&immutable=1", stack, busy_s)


def _private_copy(path: Path, stack: contextlib.ExitStack, busy_s: float) -> Path:
    """The database and the journal or log beside it, as they were at one moment."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixfs-")))
    deadline = time.monotonic() + busy_s
    fd = open_regular(path, MAX_DATABASE)
    try:
        while not _lock(fd) or not _copied(path, folder):
            if time.monotonic() > deadline:
                raise Busy
            time.sleep(0.05)
    finally:
        os.close(fd)
    _settle_journal(folder / f"{path.name}-journal", path)
    return folder / path.name


def _lock(fd: int) -> bool:
    """Keep other programs from writing, as SQLite's readers do; False while one does."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, _LOCKS, _LOCKS_AT)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        # No locks on this file system: the times of the files must do.
        return True
    return True


def _copied(path: Path, folder: Path) -> bool:
    """Copy the files; False if one of them changed meanwhile. Nobody locks a write-ahead log while it is copied."""
    names = [f"{path}{suffix}" for suffix in ("", "-journal", "-wal")]
    before = [os.stat(name) if os.path.exists(name) else None for name in names]
    size = sum(status.st_size for status in before if status is not None)
    room = shutil.disk_usage(folder).free
    if size > room:
        raise Refused(f"Reading it takes a copy of {size} bytes in {folder.parent}, which has {room} left.")
    for name, status in zip(names, before, strict=True):
        copy = folder / os.path.basename(name)
        copy.unlink(missing_ok=True)
        if status is not None:
            with open(open_regular(name, MAX_DATABASE), "rb") as source, copy.open("xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    after = [os.stat(name) if os.path.exists(name) else None for name in names]
    return all(
        old is new if old is None or new is None else is_unchanged(old, new)
        for old, new in zip(before, after, strict=True)
    )


def _settle_journal(journal: Path, path: Path) -> None:
    """Take the name of a super-journal out of a journal's copy, or the journal where its transaction was committed.

    A transaction over several databases is committed when its super-journal is deleted. SQLite looks for it under the
    name that stands in the journal, and would delete it: it belongs to the originals.
    """
    with contextlib.suppress(FileNotFoundError), journal.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16))
        tail = file.read(16)
        if len(tail) < 16 or tail[8:] != _JOURNAL_MAGIC:
            return
        length, checksum = struct.unpack(">II", tail[:8])
        if not 0 < length <= min(4096, size - 20):
            return
        file.seek(size - 16 - length)
        name = file.read(length)
        # SQLite adds the name's bytes as signed chars.
        if sum(byte - 256 if byte > 127 else byte for byte in name) & 0xFFFFFFFF != checksum:
            return
        there = os.fsdecode(name)
        if os.path.lexists(there) or os.path.lexists(path.with_name(os.path.basename(there))):
            file.truncate(size - 20 - length)
        else:
            journal.unlink()


def _restrict(connection: sqlite3.Connection, tables: frozenset[str]) -> None:
    readable = {*tables, "sqlite_master", "sqlite_schema"}

    def allowed(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
        if action == sqlite3.SQLITE_SELECT:
            fits = inner is None
        elif action == sqlite3.SQLITE_READ:
            fits = inner is None and (first or "").lower() in readable
        else:
            fits = action == sqlite3.SQLITE_PRAGMA and (first or "").lower() == "table_info"
        return sqlite3.SQLITE_OK if fits else sqlite3.SQLITE_DENY

    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
    # Text that is no UTF-8 makes its record be reported, when it is to be kept.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    connection.row_factory = sqlite3.Row
    connection.set_authorizer(allowed)


class SqliteTables:
    """The tables of an open database. Each row may take `STEP_S`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + STEP_S
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, _CHECK_EVERY)

    def _execute(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[sqlite3.Row]:
        self._deadline = time.monotonic() + STEP_S
        for row in self._connection.execute(query, values):
            yield row
            self._deadline = time.monotonic() + STEP_S

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of a plain table; none of a view or a virtual table, or where there is none; none computed."""
        found = list(
            self._execute(
                "SELECT sql, rootpage FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)
            )
        )
        if len(found) != 1 or not found[0]["rootpage"] or not _TABLE.match(str(found[0]["sql"])):
            return ()
        return tuple(row["name"] for row in self._execute(f"PRAGMA table_info({quoted(table)})"))

    def rows(
        self, table: str, columns: tuple[str, ...], where: str = "", value: Any = None
    ) -> Iterator[dict[str, Any]]:
        """As `Tables.rows`."""
        query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table)}"
        if where:
            query += f" WHERE {quoted(where)} IS ?"
        query += f" ORDER BY {quoted('id')}"
        for row in self._execute(query, (value,) if where else ()):
            yield {
                column: row[at].hex() if isinstance(row[at], bytes) else row[at] for at, column in enumerate(columns)
            }


def quoted(name: str) -> str:
    """A name within SQL."""
    return '"' + name.replace('"', '""') + '"'
