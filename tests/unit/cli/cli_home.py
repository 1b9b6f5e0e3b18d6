"""The command line as a user has it: a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from strict_json import check_output

from mixfs.media.samples import make_sample

ROOT = Path(__file__).resolve().parents[3]


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Home:
    """A user: a home directory with nothing in it, and no variables that say otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.library = path / "library"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MIXFS_"))}
        self.env |= {"HOME": str(path), "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
        self.env["MIXFS_LIBRARY"] = str(self.library)
        # Whatever systemd this machine has is not for a test to change.
        self.env["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nonexistent"

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-P", "-m", "mixfs.cli.main", *map(str, words)]

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start `mixfs WORDS`, to be interrupted. A script's background job ignores Ctrl-C, and so would this."""
        return subprocess.Popen(
            ["env", "--default-signal=INT", *self.command(*words)], env=self.env, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str | Path, code: int | None = 0, env: dict[str, str] | None = None) -> Ran:
        """Run `mixfs WORDS`; `code` is what it must end with (None: anything)."""
        done = subprocess.run(
            self.command(*words), env=self.env | (env or {}), cwd=self.path, capture_output=True, text=True,
            errors="surrogateescape", timeout=120, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        check_output(words, done.stdout)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def write_samples(folder: Path, kinds: Sequence[str] = ("a1111", "comfyui")) -> dict[str, bytes]:
    """Pictures with metadata, and one file that is none; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = dict(map(make_sample, kinds)) | {"notes.txt": b"remember the light\n"}
    for name, data in written.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    return written


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose library has the session Trip in it. Not to be changed."""
    home = Home(tmp_path_factory.mktemp("filled") / "home")
    write_samples(home.path / "Trip")
    home.run("import", home.path / "Trip")
    return home


@pytest.fixture
def fresh(home: Home) -> Home:
    """As `filled`, to be changed."""
    write_samples(home.path / "Trip")
    home.run("import", home.path / "Trip")
    return home


