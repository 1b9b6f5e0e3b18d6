"""What people and scripts really give: names that move a cursor, paths that are empty, numbers without an end, places
that may not be looked into."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_home import ROOT, Home, write_samples

from mixfs import mountinfo
from mixfs.cli import show, umount
from mixfs.daemon import __main__ as daemon_main
from mixfs.daemon import mounts
from mixfs.errors import MountError, NotFoundError
from mixfs.library import doctor

# A title, a colour, CSI as one character, text that runs backwards, and what overwrites a line.
EVIL = "\x1b]0;t\x07\x1b[31m\x9b31m\u202e\r\x08\x7f"
BAD_BYTES = "\udcff"


def harmless(text: str) -> bool:
    return not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udc80-\udcff]", text)


@pytest.fixture
def evil(home: Home) -> Home:
    """A library in which a title, a name, a folder and a prompt are full of escape sequences."""
    from io import BytesIO

    from PIL import Image, PngImagePlugin

    folder = home.path / f"Trip{EVIL}{BAD_BYTES}" / f"in{EVIL}"
    folder.mkdir(parents=True)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("parameters", f"a prompt {EVIL}\nNegative prompt: {EVIL}\nSteps: 9, Seed: 3, Model: m{EVIL}")
    png = BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG", pnginfo=texts)
    (folder / f"a{EVIL}.png").write_bytes(png.getvalue())
    (folder / f"cut{EVIL}.png").write_bytes(png.getvalue()[:90])
    (folder / f"b{EVIL}{BAD_BYTES}.txt").write_text("x")
    home.run("import", folder.parent)
    return home


def test_no_command_sends_an_escape_sequence(evil: Home) -> None:
    (session,) = evil.run("sessions", "--json").json
    assert session["title"] == f"Trip{EVIL}\ufffd"
    about = evil.run("show", session["id"], "--json").json
    names = {item["name"] for item in about["placements"]}
    assert names == {f"a{EVIL}.png", f"cut{EVIL}.png", f"b{EVIL}\ufffd.txt"}
    out = evil.path / f"out{EVIL}"
    words: list[Sequence[str | Path]] = [
        ["sessions"], ["stats"], ["doctor"], ["fsck"], ["log"], ["log", "--all"], ["show", session["title"]],
        ["export", session["title"], out], ["import", evil.path / f"Trip{EVIL}{BAD_BYTES}", f"/no{EVIL}"],
        ["cleanup", "--keep", "1", "--dry-run"], ["show", f"x{EVIL}"], ["wait", f"x{EVIL}"], ["umount", f"x{EVIL}"],
        ["cleanup", "--older-than", EVIL], ["stats", "--library", f"/x{EVIL}{BAD_BYTES}"], [f"x{EVIL}"],
        ["service", "install", f"x{EVIL}", "--library", f"/y{EVIL}"], ["service", "status"],
    ]  # fmt: skip
    words += [["show", item["digest"]] for item in about["placements"]]
    for command in words:
        for asked in (command, [*command, "--json"]):
            ran = evil.run(*asked, code=None, env={"XDG_RUNTIME_DIR": str(evil.path)})
            assert harmless(ran.out + ran.err), (asked, ran)
            assert ran.code != 70, (asked, ran)


def test_a_name_in_a_sentence_is_escaped_once(home: Home) -> None:
    write_samples(home.path / "Trip")
    home.run("import", home.path / "Trip", "--session", "it's \\ \x1b[1m")
    assert "session 'it's \\ \\x1b[1m' made" in home.run("log").out
    assert home.run("export", "it's \\ \x1b[1m", home.path / "out").out.startswith("'it's \\ \\x1b[1m' is in ")


def test_json_says_what_was_meant(evil: Home) -> None:
    text = evil.run("show", f"Trip{EVIL}\ufffd", "--json", env={"PYTHONIOENCODING": "utf-8"}).out
    assert "\\u009b" in text and "\\u202e" in text and "\\u007f" in text and "\ufffd" in text
    assert json.loads(text)["title"] == f"Trip{EVIL}\ufffd"


def test_a_change_in_json_is_the_record_and_no_more(fresh: Home) -> None:
    changes = [json.loads(line) for line in fresh.run("log", "--json").out.splitlines()]
    assert not any(name.isupper() for change in changes for name in change["record"])


def test_a_library_whose_name_is_no_utf_8(home: Home) -> None:
    write_samples(home.path / "Trip")
    library = f"{home.path}/caf\udce9"
    home.run("import", home.path / "Trip", "--library", library)
    assert home.run("stats", "--json", "--library", library).json["images"] == 2
    home.run("fsck", "--library", library)
    home.run("rebuild-index", "--library", library)
    home.run("import", home.path / "Trip", "--session", "caf\udce9", "--library", library)
    titles = [item["title"] for item in home.run("sessions", "--json", "--library", library).json]
    assert titles == ["Trip", "caf\ufffd"]


@pytest.mark.parametrize(
    "words",
    [["import", ""], ["import", ".", ""], ["mount", ""], ["umount", ""], ["wait", ""], ["abort", ""],
     ["stats", "--library", ""], ["export", "Trip", ""], ["service", "install", ""]],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_path_is_not_the_working_directory(home: Home, words: list[str]) -> None:
    (home.path / "mine.txt").write_text("not meant")
    ran = home.run(*words, code=2)
    assert "the path is empty" in " ".join(ran.err.split()), ran
    assert not home.library.exists()


@pytest.mark.parametrize(
    "words",
    [["gc", "--trash-days", "inf"], ["gc", "--trash-days", "1e300"], ["gc", "--grace-hours", "inf"],
     ["compact", "--keep-days", "inf"], ["cleanup", "--older-than", "9" * 400], ["log", "-n", "9" * 40]],
    ids=lambda words: f"{words[0]} {words[-1][:5]}",
)  # fmt: skip
def test_numbers_without_an_end_mean_for_ever(fresh: Home, words: list[str]) -> None:
    fresh.run(*words)
    assert fresh.run("stats", "--json").json["placements"] == 3


def test_how_long_the_trash_is_kept(home: Home) -> None:
    write_samples(home.path / "Trip")
    home.run("import", home.path / "Trip")
    home.run("cleanup", "--keep", "1")
    config = home.path / ".config" / "mixfs" / "config.toml"
    config.parent.mkdir(parents=True)
    for days, expired in (("inf", 0), ("1e300", 0), ("0", 1)):
        config.write_text(f"trash_days = {days}\n")
        assert home.run("gc", "--dry-run", "--json").json["trash"] == expired
    for days in ("nan", "-1", "true", '"30"'):
        config.write_text(f"trash_days = {days}\n")
        assert f"{config}: trash_days" in home.run("gc", code=2).err


def test_a_config_file_that_can_t_be_used_is_named_with_what_to_do(home: Home) -> None:
    config = home.path / ".config" / "mixfs" / "config.toml"
    config.mkdir(parents=True)
    env = {"MIXFS_LIBRARY": ""}
    assert f"{config}: Is a directory. A file is meant" in home.run("stats", env=env, code=2).err
    config.rmdir()
    config.write_text('library = "a\\u0000b"\n')
    assert f"{config}: library must be a path" in home.run("stats", env=env, code=2).err
    config.write_text('library = "~no-such-user/x"\n')
    assert "no home to be found for ~no-such-user" in home.run("stats", env=env, code=2).err
    for ran in (home.run("stats", "--library", "~no-such-user/x", code=2),
                home.run("stats", env={"MIXFS_LIBRARY": "~no-such-user/x"}, code=2)):  # fmt: skip
        assert "no home to be found for ~no-such-user" in ran.err


def test_stdout_that_takes_nothing(filled: Home) -> None:
    closed = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", *filled.command("stats", "--json")],
        env=filled.env, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stderr) == (0, "")
    for words in (["stats"], ["--help"], ["--version"], ["stats", "--json"]):
        with open("/dev/full", "w") as full:
            ran = subprocess.run(
                filled.command(*words), env=filled.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
                check=False,
            )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (1, "mixfs: No space left on device. Make room there, and try again.\n")


def test_a_failure_of_the_library_is_not_laid_on_the_picture(fresh: Home) -> None:
    shutil.rmtree(fresh.library / "blobs")
    (fresh.library / "blobs").write_text("in the way")
    (fresh.path / "new.txt").write_text("new")
    (failed,) = fresh.run("import", fresh.path / "new.txt", "--json", code=1).json["failed"]
    assert failed["path"] == str(fresh.path / "new.txt")
    assert failed["reason"].startswith(f"{fresh.library}/blobs") and "Not a directory" in failed["reason"]


def test_what_can_t_be_shown_in_a_mount(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"There is no .*/sessions/Gone"):
        show._show_path((str(tmp_path), "sessions/Gone"), None, False)


def test_a_mount_in_the_mount_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = mountinfo.Mount("/m/import/x", "tmpfs", "tmpfs", frozenset())
    monkeypatch.setattr(mountinfo, "mounts", lambda: [mountinfo.Mount("/m", mounts.KIND, "mixfs", frozenset()), inner])
    assert umount._why_not("/m", "target is busy") == (
        "/m can't be unmounted: /m/import/x is mounted in it. Unmount that first."
    )


def test_a_mount_point_that_can_t_be_made() -> None:
    with pytest.raises(MountError, match=r"^The mount point can't be made. /proc/x: No such file or directory. Check"):
        mounts.check_mountpoint("/proc/x")


@pytest.mark.skipif(bool(mounts.fuse_device_problem()), reason="NOT RUN: a mount needs /dev/fuse")
def test_an_option_that_fuse_does_not_know_is_named(fresh: Home) -> None:
    ran = fresh.run("mount", fresh.path / "M", "-o", "noatime,nonsense", code=6)
    assert "Check the options too: -o noatime,nonsense." in ran.err


def test_a_mount_option_goes_into_no_log_as_it_is(fresh: Home) -> None:
    assert "plain characters" in fresh.run("mount", fresh.path / "M", "-o", "x=\x1b[31m", code=2).err


def test_a_service_says_what_it_mounts(home: Home) -> None:
    env = {"XDG_RUNTIME_DIR": str(home.path)}
    point, library = f"{home.path}/a{EVIL}{BAD_BYTES}", f"{home.path}/b{EVIL}{BAD_BYTES}"
    home.run("service", "install", point, "--library", library, env=env)
    about = home.run("service", "status", "--json", env=env).json
    # JSON is UTF-8, whatever a path is.
    assert (about["mountpoint"], about["library"]) == tuple(
        path.replace(BAD_BYTES, "\ufffd") for path in (point, library)
    )


def test_a_bug_of_the_daemon_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, mixfs.daemon.run as run, mixfs.daemon.__main__ as main\n"
        "def fail(*arguments): raise ZeroDivisionError('unthinkable')\n"
        "run.run = fail\n"
        "sys.exit(main.main())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "--library", tmp_path, "--mountpoint", tmp_path, "--log", tmp_path / "log",
         "--ready-fd", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 70 and ran.stderr == "" and daemon_main.__doc__
    assert ran.stdout == (
        f"error: This is a bug in MixFS: ZeroDivisionError('unthinkable'). Details are at the end of {tmp_path}/log.\n"
    )
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "Traceback" in json.loads(line)["exception"]


def test_doctor_of_a_library_that_is_not_ours_to_write(fresh: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor.check_format(fresh.library)
    assert found.state == doctor.WARNING and "exported from, no more" in found.text and "owner" in found.remedy

    def refuse(root: Path) -> None:
        raise PermissionError(13, "Permission denied", f"{root}/format")

    monkeypatch.setattr(doctor.place, "read_format", refuse)
    found = doctor.check_format(fresh.library)
    assert found.state == doctor.PROBLEM and found.text.startswith(f"{fresh.library}/format: Permission denied. Change")


def test_ctrl_c_keeps_what_was_taken_in(home: Home) -> None:
    folder = home.path / "Many"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i}.txt").write_text(str(i))
    importing = home.start("import", folder, "--json")
    with importing:
        while importing.poll() is None and not list(home.library.glob("blobs/*/*")):
            time.sleep(0.05)
        importing.send_signal(signal.SIGINT)
        out, err = importing.communicate(timeout=60)
    assert importing.returncode == 130, err
    assert out == "" and err.startswith("mixfs: interrupted. What was taken in so far is in the library")
    assert len(err.splitlines()) == 1
    left = home.run("import", folder, "--json").json
    assert left["failed"] == [] and left["kept_as_files"] + left["deduplicated"] == 3000
    assert left["kept_as_files"] > 0, "it was not over before the interrupt"
    report = home.run("fsck", "--json").json
    assert report["clean"] and report["blobs"] == 3000
    assert os.listdir(home.library / "staging") == []
