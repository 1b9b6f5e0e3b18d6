"""`mixfs cleanup` and `mixfs gc`: old pictures to the trash, the trash to nothing."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest
from cli_home import Home

from mixfs.cli.cleanup import parse_age
from mixfs.errors import UsageError


@pytest.fixture
def aged(home: Home, tmp_path: Path) -> Home:
    """Sessions Old and New of two files each, 10, 9, 2 and 1 days old."""
    for title, days in (("Old", (10, 9)), ("New", (2, 1))):
        folder = tmp_path / title
        folder.mkdir()
        for age in days:
            path = folder / f"{age}.txt"
            path.write_text(f"{age} days old")
            then = time.time() - age * 86400
            os.utime(path, (then, then))
        home.run("import", str(folder))
    return home


def names(home: Home, *options: str) -> list[str]:
    return [file["name"] for file in json.loads(home.run("cleanup", "--json", *options).out)["files"]]


def test_a_rule_says_what_goes(aged: Home) -> None:
    dry = ("--dry-run",)
    assert names(aged, *dry, "--older-than", "5d") == ["10.txt", "9.txt"]
    assert names(aged, *dry, "--keep", "1") == ["10.txt", "9.txt", "2.txt"]
    assert names(aged, *dry, "--keep", "3", "--older-than", "1h") == ["10.txt"]
    assert names(aged, *dry, "--older-than", "1h", "--session", "New") == ["2.txt", "1.txt"]
    assert names(aged, *dry, "--older-than", "1h", "--model", "flux*") == []
    assert json.loads(aged.run("stats", "--json").out)["placements"] == 4


def test_a_rule_without_limits_is_refused(aged: Home) -> None:
    assert "--older-than" in aged.run("cleanup", "--session", "New", code=2).err
    assert "30d" in aged.run("cleanup", "--older-than", "soon", code=2).err


def test_cleaned_up_is_trashed_and_gc_frees_it(aged: Home) -> None:
    assert "2 files" in aged.run("cleanup", "--older-than", "5d").out
    assert json.loads(aged.run("stats", "--json").out)["placements"] == 2
    now = ("gc", "--grace-hours", "0", "--yes")
    assert json.loads(aged.run(*now, "--json").out)["blobs"] == 0
    words = aged.run(*now, "--trash-days", "0", "--dry-run").out
    assert words == "Would move 2 originals (21 B) to lost/.\nWould forget 1 expired deletion.\n"
    nothing = {"trash": 0, "blobs": 0, "bytes": 0, "receipts": 0, "deleted": 0, "deleted_bytes": 0, "returned": 0}
    assert json.loads(aged.run(*now, "--trash-days", "0", "--json").out) == nothing | {
        "trash": 1, "blobs": 2, "bytes": 21, "dry_run": False,
    }  # fmt: skip
    # In lost/ they stay as long as in the trash.
    assert json.loads(aged.run(*now, "--json").out) == nothing | {"dry_run": False}
    assert "Would delete 2 originals (21 B) in lost/ for good." in aged.run("gc", "--trash-days", "0", "--dry-run").out
    assert "--yes" in aged.run("gc", "--trash-days", "0", code=2).err
    assert json.loads(aged.run("gc", "--trash-days", "0", "--yes", "--json").out) == nothing | {
        "deleted": 2, "deleted_bytes": 21, "dry_run": False,
    }  # fmt: skip
    assert not [path for path in (aged.library / "lost").rglob("*") if path.is_file()]
    assert json.loads(aged.run("stats", "--json").out)["blobs"] == 2
    aged.run("fsck")


def test_how_long_the_trash_is_kept_can_be_configured(aged: Home) -> None:
    aged.run("cleanup", "--older-than", "5d")
    config = aged.path / ".config" / "mixfs" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("trash_days = 0\n")
    assert json.loads(aged.run("gc", "--json", "--dry-run").out)["trash"] == 1
    config.write_text('trash_days = "long"\n')
    assert "trash_days" in aged.run("gc", code=2).err


def test_gc_without_a_grace_period_says_what_it_will_do_and_asks(aged: Home) -> None:
    aged.run("cleanup", "--older-than", "5d")
    words = ("gc", "--grace-hours", "0", "--trash-days", "0")
    refused = aged.run(*words, code=2)
    assert "Would move 2 originals (21 B) to lost/" in refused.err and "--yes" in refused.err

    def answer(text: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            aged.command(*words), env=aged.env, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        ) as asking:  # fmt: skip
            os.close(theirs)
            os.write(ours, f"{text}\n".encode())
            assert asking.stdout is not None
            said = asking.stdout.read()
        os.close(ours)
        assert "Would move 2 originals (21 B) to lost/." in said and "[y/N]" in said
        return asking.returncode, said

    for text in ("", "n", "what?"):
        code, said = answer(text)
        assert code == 1 and "Nothing was changed." in said
    assert json.loads(aged.run("stats", "--json").out)["blobs"] == 4
    code, said = answer("y")
    assert code == 0 and "Moved 2 originals (21 B) to lost/." in said


def test_gc_leaves_what_is_young_or_named(aged: Home) -> None:
    aged.run("cleanup", "--keep", "1")
    # Expired, and too young to be freed: a day must have gone by since they came.
    assert aged.run("gc", "--trash-days", "0").out == (
        "Moved 0 originals (0 B) to lost/.\nForgot 1 expired deletion.\n"
    )
    now = ("gc", "--grace-hours", "0", "--yes")
    assert aged.run(*now).out.startswith("Moved 3 originals (")
    assert aged.run(*now).out == "Moved 0 originals (0 B) to lost/.\n"
    for words in (["--trash-days", "-1"], ["--grace-hours", "nan"], ["--trash-days", "soon"]):
        assert words[0] in aged.run("gc", *words, code=2).err
    aged.run("fsck")


def test_cleanup_for_people_and_programs(aged: Home) -> None:
    dry = aged.run("cleanup", "--keep", "3", "--dry-run").out.splitlines()
    assert dry[0].split() == ["SESSION", "NAME", "SIZE"] and dry[1].split()[:2] == ["Old", "10.txt"]
    assert dry[-1] == "Would move 1 file (11 B) to the trash."
    done = json.loads(aged.run("cleanup", "--keep", "3", "--json").out)
    assert done.keys() == {"dry_run", "trashed", "bytes", "files"}
    assert (done["dry_run"], done["trashed"], done["bytes"]) == (False, 1, 11)
    (gone,) = done["files"]
    assert gone.keys() == {"session", "name", "id", "digest", "size"} and gone["session"] == "Old"
    assert "10.txt from 'Old' moved to the trash (cleaned up)" in aged.run("log").out
    assert "no session 'Nowhere'" in aged.run("cleanup", "--keep", "1", "--session", "Nowhere", code=3).err


def test_compact_makes_the_journal_shorter_and_changes_nothing_else(aged: Home) -> None:
    aged.run("cleanup", "--keep", "2")
    for days in ("30", "0"):
        aged.run("gc", "--trash-days", days)
    before = {title: aged.run("show", title, "--json").json for title in ("Old", "New")}
    changes = len(aged.run("log", "--json").out.splitlines())
    # What is younger than --keep-days stays known, change by change.
    kept = aged.run("compact", "--json").json
    assert kept.keys() == {"changes_before", "changes_after", "bytes_before", "bytes_after"}
    assert kept["changes_before"] == kept["changes_after"] == changes
    words = aged.run("compact", "--keep-days", "0").out
    shorter = len(aged.run("log", "--json").out.splitlines())
    assert words.startswith(f"The journal had {changes} changes in ") and f", and has {shorter} in " in words
    assert shorter < changes
    assert {title: aged.run("show", title, "--json").json for title in ("Old", "New")} == before
    aged.run("fsck")
    assert "--keep-days" in aged.run("compact", "--keep-days", "-1", code=2).err


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("2", 48), ("1.5d", 36), ("1w", 168), ("1y", 8760)])
def test_ages(text: str, hours: float) -> None:
    assert parse_age(text) == hours * 3600


@pytest.mark.parametrize("text", ["", "d", "1x", "-3d", "1d2h"])
def test_no_ages(text: str) -> None:
    with pytest.raises(UsageError):
        parse_age(text)
