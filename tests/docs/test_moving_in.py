"""docs/moving-in.md, line by line, as a new user would try it: a real mount, and what is printed is what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import ROOT, needs_fuse

sys.path.insert(0, str(Path(__file__).parent))

from apps import make_home  # noqa: E402

GUIDE = ROOT / "docs" / "moving-in.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def steps(text: str) -> list[tuple[str, str]]:
    """Each command of the `console` blocks, and what it prints."""
    found = []
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


def pattern(printed: str) -> re.Pattern[str]:
    """`…` is anything within a line, and a line of it alone any lines."""
    lines = [re.escape(line).replace("…", ".*") + "\n" for line in printed.splitlines()]
    return re.compile("".join("(?:.*\n)*" if line == ".*\n" else line for line in lines))


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user with a home, and `mixfs` on the path."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    make_home(home, tmp_path / "scratch")
    script = programs / "mixfs"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m mixfs.cli.main "$@"\n')
    script.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MIXFS_"))}
    env |= {"HOME": str(home), "PATH": f"{programs}:{env['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    yield env | {"NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    if os.path.ismount(home / "MixFS"):
        subprocess.run(["fusermount3", "-uz", home / "MixFS"], check=True)


@needs_fuse
def test_every_line_of_it(env: dict[str, str]) -> None:
    assert shutil.which("bash")
    done = steps(GUIDE.read_text())
    assert len(done) > 20
    for command, printed in done:
        ran = subprocess.run(
            ["bash", "-c", command], env=env, cwd=env["HOME"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        # grep says by its code that it found nothing.
        assert ran.returncode == 0 or command.startswith("grep -c"), (command, ran.stdout)
        assert pattern(printed).fullmatch(ran.stdout), (command, ran.stdout, printed)


def test_the_reading_of_it() -> None:
    text = "a\n```console\n$ one\n$ two 'x\n1\n2\n```\n```\n$ three\n```\n"
    assert steps(text) == [("one", ""), ("two 'x", "1\n2\n")]
    assert pattern("a…c\n…\nd\n").fullmatch("abc\nx\ny\nd\n") and not pattern("a\n").fullmatch("a\nb\n")
