"""What the documents say: every `mixfs …` line is one that exists, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mixfs.cli.app import build

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^|(?<=\n\n))((?: {4}[^\n]*\n|\n(?= {4}))+)")
_INLINE = re.compile(r"`((?:\.venv/bin/)?mixfs [^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def commands_in(text: str) -> Iterator[str]:
    """The `mixfs …` command lines of code blocks and of inline code."""
    rest = _FENCE.sub("\n", text)
    for block in (*_FENCE.findall(text), *_INDENTED.findall(rest)):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\s*[$#] ", "", line).strip()
            if re.match(r"(?:\S*/)?mixfs( |$)", line) and not line.startswith("mixfs:"):
                yield line
    yield from _INLINE.findall(_INDENTED.sub("", rest))


def check_command(line: str) -> None:
    """Every word of a command line up to its arguments is a command or an option that exists."""
    words = shlex.split(re.split(r" +#| [|&>;]|;", line)[0].replace("…", "..."))[1:]
    command: Any = typer.main.get_command(build())
    while words and words[0] and not words[0].startswith("-") and hasattr(command, "commands"):
        name = words.pop(0).strip("[]")
        if name == "COMMAND":
            return
        # A table may name several at once: install|uninstall|status.
        found = [command.commands.get(part) for part in name.split("|")]
        assert all(found), f"`{line}`: mixfs has no command {name!r}"
        command = found[0]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    for word in words:
        option = word.strip("[]").split("=")[0]
        if re.match(r"--?[a-z]", option):
            assert option in known, f"`{line}`: there is no option {option}"


def test_the_check_itself() -> None:
    check_command("mixfs import --session Trip a b | cat")
    check_command("mixfs service install|uninstall|status")
    for wrong in ("mixfs fly", "mixfs import --fast x", "mixfs service explode"):
        with pytest.raises(AssertionError):
            check_command(wrong)
    text = "`mixfs stats` and\n```\n$ mixfs log --follow  # on\nmixfs: a message\n.venv/bin/mixfs fsck\n```\n"
    text += "like\n\n    cp a b\n    mixfs wait # now\n\n    mixfs doctor\n\nand so on\n"
    assert list(commands_in(text)) == [
        "mixfs log --follow  # on", ".venv/bin/mixfs fsck", "mixfs wait # now", "mixfs doctor", "mixfs stats",
    ]  # fmt: skip


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_exists(path: Path) -> None:
    for line in commands_in(path.read_text()):
        check_command(line)


def anchor(heading: str) -> str:
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    text = _FENCE.sub("", path.read_text())
    for groups in _LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        target = groups[0] or groups[1]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        found = (path.parent / name) if name else path
        assert found.exists(), f"{path.name} links to {target}, which is not there"
        if fragment and found.suffix == ".md":
            assert fragment in map(anchor, _HEADING.findall(found.read_text())), f"{path.name}: no heading #{fragment}"


def test_the_storage_service_does_what_its_page_shows(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "formats" / "storage-v2.md").read_text()
    [program] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert re.fullmatch(r"Trip 1 \S+Z", first) and last == "saved"
