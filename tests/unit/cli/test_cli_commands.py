"""Every command that needs no mount: what it prints, the JSON it gives, how it ends."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from cli_home import Home, write_samples

COMMANDS = (
    "mount", "umount", "abort", "wait", "service", "import", "export", "sessions", "show", "stats", "log", "cleanup",
    "trash", "restore", "list",
    "gc", "compact", "fsck", "rebuild-index", "doctor",
)  # fmt: skip
OPTIONS = {
    "mount": ("MOUNTPOINT", "--library", "--foreground", "-o"),
    "umount": ("MOUNTPOINT", "--lazy", "--library"),
    "abort": ("MOUNTPOINT",),
    "wait": ("MOUNTPOINT", "--library", "--json"),
    "import": (
        "PATH", "--session", "--format", "--fetch", "--fetch-private", "--rewrite", "--dry-run", "--library", "--json",
    ),
    "export": ("SESSION", "DEST", "--format", "--embed-remote", "--template", "--all", "--library", "--json"),
    "sessions": ("--library", "--json"),
    "show": ("SESSION|DIGEST|PATH", "--library", "--json"),
    "stats": ("--by", "--library", "--json"),
    "list": (
        "--session", "--since", "--until", "--model", "--provider", "--category", "--size", "--library", "--json",
    ),
    "log": ("--follow", "--lines", "--all", "--library", "--json"),
    "cleanup": ("--older-than", "--keep", "--session", "--model", "--dry-run", "--library", "--json"),
    "trash": ("--library", "--json"),
    "restore": ("ID|SESSION|PATH", "--library", "--json"),
    "gc": ("--dry-run", "--trash-days", "--grace-hours", "--yes", "--library", "--json"),
    "compact": ("--keep-days", "--library", "--json"),
    "fsck": ("--repair", "--from", "--adopt-lost", "--give-up", "--library", "--json"),
    "rebuild-index": ("--library",),
    "doctor": ("--library", "--json"),
    "service install": ("MOUNTPOINT", "--library"),
    "service uninstall": (),
    "service status": ("--json",),
}


def test_help_names_every_command_and_the_exit_codes(home: Home) -> None:
    text = home.run("--help").out
    for command in COMMANDS:
        assert f" {command} " in text
    assert "Exit codes" in text and "5 damage was found" in text and "MIXFS_LIBRARY" in text
    assert home.run("-h").out == text


@pytest.mark.parametrize("command", OPTIONS)
def test_help_of_a_command_names_its_options(home: Home, command: str) -> None:
    text = home.run(*command.split(), "--help").out
    for option in OPTIONS[command]:
        assert option in text


@pytest.mark.parametrize("command", ["mount", "compact"])
def test_help_breaks_lines_where_the_terminal_ends(home: Home, command: str) -> None:
    text = home.run(command, "--help", env={"COLUMNS": "80"}).out
    lines = [line.rstrip() for line in text.partition("╭")[0].splitlines()]
    for line, after in itertools.pairwise(lines):
        word = (after.split() or [""])[0]
        assert not line or not word or len(line) + 1 + len(word) >= 80, (line, after)


def test_version(home: Home) -> None:
    assert home.run("--version").out == "mixfs 0.1.0\n"


def test_wrong_usage_is_exit_code_2(home: Home) -> None:
    for words in (["fly"], ["import"], ["stats", "--nonsense"], ["export", "one"]):
        assert home.run(*words, code=2).out == ""
    assert home.run(code=2).err + home.run(code=2).out


def test_import_reports_what_became_of_each_file(home: Home) -> None:
    written = write_samples(home.path / "Trip")
    (home.path / "Trip" / ".hidden").write_text("no")
    first = home.run("import", home.path / "Trip", "--json").json
    assert first == {
        "imported": 2, "deduplicated": 0, "kept_as_files": 1, "failed": [], "bytes": sum(map(len, written.values())),
        "skipped": [{"path": str(home.path / "Trip/.hidden"), "reason": "Hidden and temporary names are left out."}],
    }  # fmt: skip
    again = home.run("import", home.path / "Trip", "--json").json
    assert (again["imported"], again["deduplicated"], again["kept_as_files"]) == (0, 3, 0)
    assert [item["title"] for item in home.run("sessions", "--json").json] == ["Trip"]


def test_import_goes_on_after_a_failure_and_says_so(home: Home) -> None:
    write_samples(home.path / "Trip")
    ran = home.run("import", home.path / "nowhere", home.path / "Trip", "--session", "Mine", "--json", code=1)
    assert ran.json["imported"] == 2
    assert ran.json["failed"] == [
        {"path": str(home.path / "nowhere"), "reason": "There is no such file or folder."}
    ]
    assert [item["title"] for item in home.run("sessions", "--json").json] == ["Mine"]
    ran = home.run("import", home.path / "nowhere", code=1)
    assert ran.err == f"mixfs: {home.path}/nowhere: There is no such file or folder.\n"


def test_import_for_people(home: Home) -> None:
    write_samples(home.path / "Trip")
    assert home.run("import", home.path / "Trip").out.startswith("2 pictures imported, 1 kept as a file: ")
    assert home.run("import", home.path / "Trip").out.startswith("0 pictures imported, 3 known already: ")


def test_a_file_by_itself_goes_to_inbox_under_whatever_name(home: Home) -> None:
    name = os.fsencode(home.path) + b"/caf\xe9\x1b[31m.txt"
    Path(os.fsdecode(name)).write_bytes(b"x")
    home.run("import", os.fsdecode(name))
    shown = home.run("show", "Inbox").out
    # No escape sequence from a file's name reaches the terminal.
    assert "caf\\xe9\\x1b[31m.txt" in shown and "\x1b" not in shown
    names = [item["name"] for item in home.run("show", "Inbox", "--json").json["placements"]]
    assert names == ["caf\ufffd\x1b[31m.txt"]
    home.run("show", "Inbox", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert json.loads(home.run("show", "Inbox", "--json", env={"PYTHONIOENCODING": "ascii"}).out)["placements"]


def test_sessions(filled: Home) -> None:
    (session,) = filled.run("sessions", "--json").json
    assert session["title"] == "Trip" and (session["images"], session["files"], session["generations"]) == (2, 1, 2)
    assert {"id", "user", "created_at", "updated_at", "bytes", "entries", "zoom", "panOffset"} <= session.keys()
    assert "Trip" in filled.run("sessions").out


def test_no_sessions_yet(home: Home) -> None:
    (home.path / "empty").mkdir()
    home.run("import", home.path / "empty")
    assert home.run("sessions", "--json").json == []
    assert "no sessions yet" in home.run("sessions").out


def test_stats(filled: Home) -> None:
    totals = filled.run("stats", "--json").json
    assert list(totals) == [
        "sessions", "images", "placements", "generations", "blobs", "blob_bytes", "saved_bytes", "lost",
        "lost_bytes",
    ]  # fmt: skip
    assert (totals["sessions"], totals["images"], totals["placements"], totals["blobs"]) == (1, 2, 3, 3)
    assert "Originals kept: 3" in filled.run("stats").out


def test_show_a_session_by_title_and_id(filled: Home) -> None:
    about = filled.run("show", "Trip", "--json").json
    assert filled.run("show", about["id"], "--json").json == about
    assert {item["name"] for item in about["placements"]} == {"00017-1234567890.png", "ComfyUI_00042_.png", "notes.txt"}
    assert {item["area"] for item in about["placements"]} == {"images", "files"}
    assert len(about["generation_ids"]) == 2
    assert "00017-1234567890.png" in filled.run("show", "Trip").out


def test_show_a_picture_by_digest(filled: Home) -> None:
    placements = filled.run("show", "Trip", "--json").json["placements"]
    digest = next(item["digest"] for item in placements if item["name"].startswith("ComfyUI"))
    about = filled.run("show", digest, "--json").json
    assert about["media_type"] == "image/png" and (about["width"], about["height"]) == (768, 512)
    assert about["generations"][0]["seed"] == 156680208700286
    assert Path(about["path"]).is_file()
    text = filled.run("show", digest).out
    assert "156680208700286" in text and "violet night over rolling hills" in text
    notes = next(item["digest"] for item in placements if item["name"] == "notes.txt")
    assert filled.run("show", notes, "--json").json["generations"] == []


def test_what_is_not_there_is_exit_code_3(filled: Home) -> None:
    for words in (["show", "Nothing"], ["show", "ab" * 32], ["export", "Nothing", filled.path / "out"]):
        ran = filled.run(*words, code=3)
        assert ran.out == "" and ran.err.startswith("mixfs: There is no")


def test_log(filled: Home) -> None:
    text = filled.run("log").out
    assert "session 'Trip' made" in text and "images/ComfyUI_00042_.png put in 'Trip'" in text
    assert "blob" not in text and "blob" in filled.run("log", "--all").out
    assert len(filled.run("log", "-n", "2").out.splitlines()) == 2
    changes = [json.loads(line) for line in filled.run("log", "--json").out.splitlines()]
    assert {"Session", "Placement", "Blob", "Image", "Generation"} <= {change["kind"] for change in changes}
    assert all(change.keys() == {"time", "kind", "id", "deleted", "record"} for change in changes)
    placed = next(change["record"] for change in changes if change["kind"] == "Placement")
    assert placed["original_name"] and len(placed["digest"]) == 64


def test_log_follow_shows_what_another_process_does_and_ends_with_ctrl_c(fresh: Home) -> None:
    follower = fresh.start("log", "--follow", "-n", "1")
    assert follower.stdout is not None and follower.stderr is not None
    with follower:
        try:
            assert follower.stdout.readline()
            (fresh.path / "late.txt").write_text("late")
            fresh.run("import", fresh.path / "late.txt")
            seen = [follower.stdout.readline() for _ in range(2)]
            assert any("files/late.txt put in 'Inbox'" in line for line in seen), seen
        finally:
            follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130
        assert "Traceback" not in follower.stderr.read()


def test_output_into_a_closed_pipe_is_no_error_worth_a_word(filled: Home) -> None:
    ran = subprocess.run(
        ["bash", "-c", '"$@" | true; exit "${PIPESTATUS[0]}"', "bash", *filled.command("log", "--all", "--json")],
        env=filled.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode in (0, 141) and ran.stderr == ""


def test_export_writes_the_session_as_plain_files(filled: Home, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = filled.run("export", "Trip", target, "--json").json
    assert done["session"] == "Trip" and done["dest"] == str(target)
    source = filled.path / "Trip"
    for name, area in (("00017-1234567890.png", "images"), ("ComfyUI_00042_.png", "images"), ("notes.txt", "files")):
        copy = target / area / name
        assert copy.read_bytes() == (source / name).read_bytes()
        assert copy.stat().st_mtime_ns == (source / name).stat().st_mtime_ns
    files = [path for path in target.rglob("*") if path.is_file()]
    assert len(files) == done["files"] and sum(path.stat().st_size for path in files) == done["bytes"]
    assert {path.name for path in target.iterdir()} >= {
        "images", "files", "metadata", "canvas", "generations", "session.json", "canvas.json", "generations.json",
    }  # fmt: skip
    assert json.loads((target / "session.json").read_text())["images"] == 2
    assert len(json.loads((target / "generations.json").read_text())["generations"]) == 2
    assert "violet night" in (target / "metadata" / "ComfyUI_00042_.png.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    refused = filled.run("export", "Trip", target, code=1)
    assert "is not empty" in refused.err


def test_export_into_an_empty_folder_and_where_it_can_t_go(filled: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    filled.run("export", "Trip", tmp_path / "empty")
    assert (tmp_path / "empty" / "session.json").exists()
    (tmp_path / "file").write_text("")
    assert "is a file" in filled.run("export", "Trip", tmp_path / "file", code=1).err
    assert "There is no folder" in filled.run("export", "Trip", tmp_path / "no" / "where", code=3).err
    assert "inside the library" in filled.run("export", "Trip", filled.library / "out", code=4).err


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_export_writes_the_rest_where_an_original_is_missing_or_damaged(
    fresh: Home, tmp_path: Path, harm: str
) -> None:
    placements = fresh.run("show", "Trip", "--json").json["placements"]
    (digest,) = (each["digest"] for each in placements if each["name"] == "notes.txt")
    blob = fresh.library / "blobs" / digest[:2] / digest[2:]
    blob.chmod(0o644)
    if harm == "missing":
        blob.unlink()
    else:
        blob.write_bytes(b"other")
    ran = fresh.run("export", "Trip", tmp_path / "out", "--json", code=5)
    assert "files/notes.txt was not exported" in ran.err and str(blob) in ran.err
    assert [each["path"] for each in ran.json["missing"]] == ["files/notes.txt"]
    files = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(files) == ran.json["files"] and len([path for path in files if path.parent.name == "images"]) == 2
    assert not (tmp_path / "out" / "files" / "notes.txt").exists() and not list(tmp_path.glob(".out*"))
    assert "without 1 file" in fresh.run("export", "Trip", tmp_path / "again", code=5).out


def test_doctor(filled: Home) -> None:
    ran = filled.run("doctor", "--json", code=None)
    assert ran.code == (0 if ran.json["healthy"] else 1)
    names = [finding["name"] for finding in ran.json["findings"]]
    assert names == ["fuse-device", "fusermount3", "user-allow-other", "workers", "file-system", "disk", "library",
                     "clock", "leftovers", "lost", "mounts", "health"]  # fmt: skip
    assert all(finding.keys() == {"name", "state", "text", "remedy"} for finding in ran.json["findings"])
    assert "has format 1" in filled.run("doctor", code=None).out


def test_wait_without_a_mount(filled: Home, tmp_path: Path) -> None:
    assert "is not mounted" in filled.run("wait", code=6).err
    assert "is no mount of MixFS" in filled.run("wait", tmp_path, code=6).err


def test_wait_asks_and_then_reads(filled: Home, tmp_path: Path) -> None:
    # A directory that looks like a mount: the protocol is a file, and so it can be played.
    (tmp_path / ".mixfs").mkdir()
    (tmp_path / ".mixfs" / "imported").write_text('{"waiting": ["import/a.png.part"]}')
    assert filled.run("wait", tmp_path, "--json").json == {
        "mountpoint": str(tmp_path), "waiting": ["import/a.png.part"],
    }  # fmt: skip
    assert "import/a.png.part" in filled.run("wait", tmp_path).out
    (tmp_path / ".mixfs" / "imported").write_text('{"waiting": []}')
    assert "Everything" in filled.run("wait", tmp_path).out


def test_umount_of_what_is_not_mounted(filled: Home, tmp_path: Path) -> None:
    assert "is not mounted" in filled.run("umount", tmp_path, code=6).err
    assert "not of MixFS" in filled.run("umount", "/proc", code=6).err


def test_starting_up_is_quick(home: Home) -> None:
    loaded = subprocess.run(
        [*home.command()[:2], "-c", "import sys, mixfs.cli.main, mixfs.cli.app as a; a.build(); print(*sys.modules)"],
        env=home.env, capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert not {"lmdb", "trio", "PIL", "pyfuse3", "cbor2", "mixfs.library.api", "rich.progress"} & set(loaded)
