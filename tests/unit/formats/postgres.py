"""A PostgreSQL server of the tests' own, gone without a trace when they are over."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest


def _program(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: path.parts[-3].zfill(4))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a running server, without a database in it; skips where PostgreSQL is not installed."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("NOT RUN: there is no PostgreSQL here")
    # It refuses to run as root, and its user may not look into a folder of root's.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    folder = tempfile.mkdtemp(prefix="mixfs-pg-", dir="/tmp")
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    os.chmod(folder, 0o755)
    data = f"{folder}/data"

    def run(*command: str) -> None:
        done = subprocess.run(
            command, user=user.pw_uid if user else None, group=user.pw_gid if user else None,
            extra_groups=[] if user else None, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, cwd="/", env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": folder}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)

    try:
        run(initdb, "-D", data, "-U", "mixfs", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        run(pg_ctl, "-D", data, "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://mixfs@/{{}}?host={quote(folder, safe='')}"
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """The URL of a new database."""
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield server.format(name)
