"""Rubbish in: a clear line and the documented exit code out, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_home import Home, write_samples

READERS = (["sessions"], ["stats"], ["log"], ["show", "x"], ["fsck"], ["rebuild-index"], ["export", "x", "out"])


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_no_library(home: Home, words: list[str]) -> None:
    ran = home.run(*words, code=4)
    assert ran.out == "" and ran.err.startswith(f"mixfs: {home.library} is no MixFS library")
    assert len(ran.err.splitlines()) == 1
    assert not home.library.exists()


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_a_file_as_library(home: Home, words: list[str]) -> None:
    home.library.write_text("I am a file")
    assert str(home.library) in home.run(*words, code=4).err


def test_import_into_a_file_or_a_full_directory(home: Home) -> None:
    write_samples(home.path / "Trip")
    home.library.write_text("I am a file")
    assert str(home.library) in home.run("import", home.path / "Trip", code=None).err
    home.library.unlink()
    home.library.mkdir()
    (home.library / "letter").write_text("mine")
    assert "choose an empty directory" in home.run("import", home.path / "Trip", code=4).err
    assert os.listdir(home.library) == ["letter"]


@pytest.mark.parametrize("words", [*READERS, ["import", "Trip"], ["mount", "M"]], ids=lambda words: words[0])
def test_a_newer_format_is_refused(fresh: Home, words: list[str]) -> None:
    path = fresh.library / "format"
    path.write_text(path.read_text().replace("version = 1", "version = 99"))
    ran = fresh.run(*words, code=4)
    assert "format 99" in ran.err and "newer MixFS" in ran.err


@pytest.mark.parametrize("text", ["", "version = [", "\0\0", 'version = "x"\n'])
def test_a_format_file_that_makes_no_sense(fresh: Home, text: str) -> None:
    (fresh.library / "format").write_text(text)
    assert "format" in fresh.run("sessions", code=4).err
    assert "format" in fresh.run("fsck", code=4).err


def test_config_file(home: Home) -> None:
    write_samples(home.path / "Trip")
    config = home.path / ".config" / "mixfs" / "config.toml"
    config.parent.mkdir(parents=True)
    env = {"MIXFS_LIBRARY": ""}
    config.write_text('library = "~/elsewhere"\n')
    home.run("import", home.path / "Trip", env=env)
    assert (home.path / "elsewhere" / "format").exists()
    # The variable goes before the file, the option before both.
    home.run("import", home.path / "Trip")
    assert (home.library / "format").exists()
    home.run("import", home.path / "Trip", "--library", home.path / "third")
    assert (home.path / "third" / "format").exists()
    for text in ("library = [", "library = 3", "library = ''", "\xff"):
        config.write_text(text, encoding="latin-1")
        assert str(config) in home.run("stats", env=env, code=2).err
    config.write_text("")
    assert f"{home.path}/.local/share/mixfs is no MixFS library" in home.run("stats", env=env, code=4).err
    config.unlink()
    assert f"{home.path}/data/mixfs" in home.run("stats", env=env | {"XDG_DATA_HOME": f"{home.path}/data"}, code=4).err


def test_importing_what_is_in_the_library_already(fresh: Home) -> None:
    assert "inside the library's own" in fresh.run("import", fresh.library / "blobs", code=4).err


def test_what_can_t_be_read_is_named(fresh: Home, tmp_path: Path) -> None:
    user = _ordinary_user()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    for path in (fresh.path, fresh.path.parent, tmp_path.parent):
        path.chmod(0o755)
    (fresh.path / "Trip").chmod(0o755)
    # As a user who owns nothing of this.
    outside = fresh.env | {"HOME": str(tmp_path / "nobody")}
    for words in (["stats"], ["sessions"], ["fsck"], ["doctor"], ["rebuild-index"], ["import", str(locked)]):
        ran = subprocess.run(
            [*user, *fresh.command(*words)], env=outside, cwd="/", capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert "Traceback" not in ran.stderr, ran.stderr
        assert ran.returncode == (1 if words[0] == "doctor" else 4), (words, ran)
        assert str(fresh.library) in ran.stderr + ran.stdout, (words, ran)
        assert "chmod" in ran.stderr + ran.stdout, (words, ran)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users get to: those of pytest are for one."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_library_that_may_only_be_read(fresh: Home, public: Path) -> None:
    user = _ordinary_user()
    library = public / "library"
    shutil.copytree(fresh.library, library)
    for path in [library, *library.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    out = public / "out"
    out.mkdir()
    out.chmod(0o777)
    env = fresh.env | {"HOME": str(public), "MIXFS_LIBRARY": str(library)}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*user, *fresh.command(*words)], env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )

    for words in (["stats"], ["sessions"], ["show", "Trip"], ["log"], ["fsck"], ["export", "Trip", out / "Trip"]):
        ran = run(*words)
        assert ran.returncode == 0, (words, ran)
    assert (out / "Trip" / "files" / "notes.txt").read_bytes() == b"remember the light\n"
    for words in (["import", "/etc/hostname"], ["rebuild-index"], ["gc"]):
        ran = run(*words)
        assert ran.returncode in (1, 4) and str(library) in ran.stderr and "chmod" in ran.stderr, (words, ran)


def test_a_mount_of_somebody_else_is_nobody_s_trouble(fresh: Home, public: Path) -> None:
    user = _ordinary_user()
    locked = public / "locked"
    locked.mkdir(mode=0o700)
    code = "import time; print(flush=True); time.sleep(60)"
    theirs = subprocess.Popen(
        ["python3", "-c", code, "mixfs.daemon", "--library", "/l", "--mountpoint", locked / "M"], stdout=subprocess.PIPE
    )
    try:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        code = (
            "from mixfs.daemon import mounts\n"
            f"assert mounts.find_daemon('/mine') is None and mounts.inside_mount('{locked}/x') is None\n"
            f"mounts.absolute('{locked}/M')\n"
        )
        ran = subprocess.run(
            [*user, *fresh.command()[:2], "-c", code], env=fresh.env, cwd="/", capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    finally:
        theirs.kill()
        theirs.communicate()


def _ordinary_user() -> list[str]:
    """How to run a command as nobody; nothing, where we are no root ourselves."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    python = Home.command.__globals__["sys"].executable
    root = Path(Home.command.__globals__["ROOT"])
    probe = subprocess.run(
        [*user, python, "-c", "import typer"], cwd="/", env={"PYTHONPATH": str(root)}, capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("another user can't run this Python, or can't read this checkout")
    return user


def test_a_bug_is_one_line_and_its_details_are_kept(fresh: Home) -> None:
    # An index whose values are no CBOR stands for what nobody thought of.
    code = (
        "import mixfs.cli.stats as stats, mixfs.cli.app as app, mixfs.cli.main as main, sys\n"
        "def stats_(): raise ZeroDivisionError('unthinkable')\n"
        "whole = app.build()\n"
        "whole.command('boom')(stats_)\n"
        "app.build = lambda words: whole\n"
        "sys.argv = ['mixfs', 'boom']\n"
        "main.main()\n"
    )
    ran = subprocess.run(
        [*fresh.command()[:2], "-c", code], env=fresh.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 70
    assert ran.stderr.startswith("mixfs: This is a bug in MixFS: ZeroDivisionError: unthinkable.")
    assert len(ran.stderr.splitlines()) == 1
    assert "Traceback" in (fresh.path / ".local/state/mixfs/errors.log").read_text()
