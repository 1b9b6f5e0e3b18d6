"""`mixfs fsck` and `rebuild-index` on libraries that were damaged in all ways that are cheap to make."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from cli_home import Home

from mixfs.journal import frames


def segment(home: Home) -> Path:
    (found,) = (home.library / "journal").rglob("*.seg")
    return found


def a_blob(home: Home) -> Path:
    return min(path for path in (home.library / "blobs").rglob("*") if path.is_file())


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def in_index(home: Home, change: Callable[[lmdb.Transaction], None]) -> None:
    environment = lmdb.open(str(home.library / "index"), map_size=1 << 30, lib_version=0)
    with environment.begin(write=True) as txn:
        change(txn)
    environment.close()


def kinds(home: Home, code: int = 5) -> set[str]:
    report = home.run("fsck", "--json", code=code).json
    assert report["clean"] is (code == 0)
    for problem in report["problems"]:
        assert problem.keys() == {"kind", "where", "reason", "remedy", "affected"}
        assert all(problem[name] for name in ("kind", "where", "reason", "remedy"))
    return {problem["kind"] for problem in report["problems"]}


def listing(home: Home) -> list[str]:
    return [item["name"] for item in home.run("show", "Trip", "--json").json["placements"]]


def test_a_library_that_is_well(filled: Home) -> None:
    before = {path: path.stat().st_mtime_ns for path in filled.library.rglob("*") if "staging" not in path.parts
              and path.name != "lock.mdb"}  # fmt: skip
    report = filled.run("fsck", "--json").json
    assert report["clean"] and report["problems"] == [] and report["notes"] == []
    # An import commits by time too: how many commits it takes depends on how busy the machine is.
    assert report["blobs"] == 3 and 1 <= report["commits"] <= 3 and report["rows"] > 20
    assert "all is well" in filled.run("fsck").out
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert os.listdir(filled.library / "staging") == []


def test_a_flipped_bit_in_an_original(fresh: Home) -> None:
    flip(a_blob(fresh), 3)
    ran = fresh.run("fsck", code=5)
    assert str(a_blob(fresh)) in ran.err and "backup" in ran.err
    assert kinds(fresh) == {"blob-damaged"}


def test_repair_mends_what_it_can_and_names_the_rest(fresh: Home, tmp_path: Path) -> None:
    assert "--repair" in fresh.run("fsck", "--from", str(tmp_path), code=2).err
    path = a_blob(fresh)
    (tmp_path / "backup").mkdir()
    shutil.copy(path, tmp_path / "backup" / "whatever it was called")
    flip(path, 3)
    ran = fresh.run("fsck", "--repair", code=5)
    assert "affected: Trip/" in ran.err and "quarantine" in ran.out
    ran = fresh.run("fsck", "--repair", "--from", str(tmp_path / "backup"))
    assert "is back" in ran.out and "all is well" in ran.out
    report = fresh.run("fsck", "--repair", "--json").json
    assert report["clean"] and not any(report["repaired"].values())


def test_originals_come_back_from_lost_and_can_be_given_up(fresh: Home) -> None:
    (fresh.path / "note.txt").write_text("a note")
    fresh.run("import", fresh.path / "note.txt", "--session", "Notes")
    fresh.run("cleanup", "--session", "Notes", "--older-than", "0")
    fresh.run("gc", "--trash-days", "0", "--grace-hours", "0", "--yes")
    assert "In lost/:       1, 6 B" in fresh.run("stats").out and "adopt-lost" in fresh.run("doctor", code=None).out
    assert any("adopt-lost" in text for text in fresh.run("fsck", "--json").json["notes"])
    ran = fresh.run("fsck", "--adopt-lost")
    assert "Recovered/files/note.txt" in ran.out and "Took 1 original back" in ran.out and "all is well" in ran.out
    assert fresh.run("fsck", "--adopt-lost", "--json").json["lost"] == {"adopted": [], "returned": [], "failed": {}}
    (placement,) = fresh.run("show", "Recovered", "--json").json["placements"]
    digest = placement["digest"]
    assert "there is nothing to give up" in fresh.run("fsck", "--give-up", digest, code=1).err
    assert "no digest" in fresh.run("fsck", "--give-up", "abc", code=3).err
    (fresh.library / "blobs" / digest[:2] / digest[2:]).unlink()
    assert "--give-up" in fresh.run("fsck", code=5).err
    ran = fresh.run("fsck", "--give-up", digest)
    assert "Recovered/files/note.txt" in ran.out and "given up" in ran.out and "all is well" in ran.out
    assert "It was given up on 20" in fresh.run("export", "Recovered", fresh.path / "out", code=5).err
    fresh.run("import", fresh.path / "note.txt")
    assert fresh.run("fsck", "--json").json["notes"] == []


def test_an_original_that_is_gone(fresh: Home) -> None:
    a_blob(fresh).unlink()
    assert kinds(fresh) == {"blob-missing"}


def test_an_original_that_nothing_names_is_only_mentioned(fresh: Home) -> None:
    path = fresh.library / "blobs" / "ba" / "7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"abc")
    report = fresh.run("fsck", "--json").json
    assert report["clean"] and "named by nothing" in report["notes"][0]


def test_damage_in_the_middle_of_the_journal(fresh: Home) -> None:
    (fresh.path / "more.txt").write_text("more")
    fresh.run("import", fresh.path / "more.txt")
    flip(segment(fresh), 200)
    assert "journal-damaged" in kinds(fresh)


def test_damage_at_the_end_of_the_journal(fresh: Home) -> None:
    flip(segment(fresh), segment(fresh).stat().st_size - 5)
    assert kinds(fresh) == {"journal-damaged"}
    report = fresh.run("fsck", "--json", code=5).json
    assert not any("moves them to lost/" in note for note in report["notes"])


def test_a_journal_that_lost_acknowledged_commits(fresh: Home) -> None:
    path = segment(fresh)
    header = frames.HEAD_SIZE + len(frames.decode_at(memoryview(path.read_bytes()), 0, None) or b"")
    os.truncate(path, header)
    assert kinds(fresh) == {"journal-damaged"}
    # The index still has it all, but nothing can be added, and the message says how to go on.
    assert fresh.run("stats", "--json").json["images"] == 2
    assert "rebuild-index" in fresh.run("import", fresh.library / "format", code=5).err
    assert "--accept-loss" in fresh.run("rebuild-index").err
    assert fresh.run("stats", "--json").json["images"] == 0
    assert kinds(fresh) == {"journal-damaged"}


def test_a_write_that_was_cut_short_is_no_damage(fresh: Home) -> None:
    with segment(fresh).open("ab") as file:
        file.write(frames.encode_at(b"never finished", 0)[:-3])
    assert kinds(fresh, 0) == set()
    # The high-water mark tells that it was never acknowledged. Without that and the index, nothing does.
    shutil.rmtree(fresh.library / "index")
    assert kinds(fresh, 0) == set()
    shutil.rmtree(fresh.library / "high-water")
    assert kinds(fresh) == {"journal-damaged"}


def test_an_index_that_is_gone_is_only_mentioned(fresh: Home) -> None:
    before = listing(fresh)
    shutil.rmtree(fresh.library / "index")
    report = fresh.run("fsck", "--json").json
    assert report["clean"] and "made again" in report["notes"][0]
    assert listing(fresh) == before


@pytest.mark.parametrize("prefix", [b"r", b"d", b"n", b"z", b"s", b"c"])
def test_a_changed_row_of_the_index(fresh: Home, prefix: bytes) -> None:
    before = listing(fresh)

    def change(txn: lmdb.Transaction) -> None:
        cursor = txn.cursor()
        assert cursor.set_range(prefix)
        key, value = cursor.item()
        assert key[:1] == prefix
        txn.put(key, value[:-1] + bytes([value[-1] ^ 1]) if value else b"x")

    in_index(fresh, change)
    assert kinds(fresh) >= {"index-differs"}
    fresh.run("rebuild-index")
    assert kinds(fresh, 0) == set()
    assert listing(fresh) == before


def test_a_lost_row_and_one_too_many(fresh: Home) -> None:
    def lose(txn: lmdb.Transaction) -> None:
        cursor = txn.cursor()
        cursor.set_range(b"d")
        cursor.delete()

    in_index(fresh, lose)
    reasons = [problem["reason"] for problem in fresh.run("fsck", "--json", code=5).json["problems"]]
    assert any("in the journal and not in the index" in reason for reason in reasons)
    fresh.run("rebuild-index")
    in_index(fresh, lambda txn: txn.put(b"d" + bytes(17) + b"ghost", b"x" * 60) and None)
    reasons = [problem["reason"] for problem in fresh.run("fsck", "--json", code=5).json["problems"]]
    assert any("in the index and not in the journal" in reason for reason in reasons)


def test_a_row_that_can_t_be_read(fresh: Home) -> None:
    in_index(fresh, lambda txn: txn.put(b"e" + b"\xff" * 8, b"\xff\xff") and None)
    assert kinds(fresh) == {"index-damaged"}
    fresh.run("rebuild-index")
    assert kinds(fresh, 0) == set()


def test_an_index_that_is_no_index(fresh: Home) -> None:
    before = listing(fresh)
    (fresh.library / "index" / "data.mdb").write_bytes(os.urandom(1 << 16))
    assert kinds(fresh) == {"index-damaged"}
    fresh.run("rebuild-index")
    assert kinds(fresh, 0) == set()
    assert listing(fresh) == before


def test_a_copied_library_is_well(fresh: Home) -> None:
    before = fresh.run("fsck", "--json").json["commits"]
    shutil.copytree(fresh.library, fresh.path / "copy")
    (fresh.path / "more.txt").write_text("more")
    fresh.run("import", fresh.path / "more.txt", "--library", fresh.path / "copy")
    assert fresh.run("fsck", "--json", "--library", fresh.path / "copy").json["commits"] == before + 1
    # A copy has a journal of its own: what was before is told too.
    told = fresh.run("log", "--library", fresh.path / "copy").out
    assert told.startswith(fresh.run("log").out) and "more.txt" in told


def test_beside_an_import(fresh: Home) -> None:
    folder = fresh.path / "Many"
    folder.mkdir()
    for i in range(300):
        (folder / f"{i}.txt").write_text(str(i))
    importing = subprocess.Popen(fresh.command("import", folder), env=fresh.env, stdout=subprocess.DEVNULL)
    with importing:
        while importing.poll() is None:
            fresh.run("fsck")
    assert importing.returncode == 0
    assert fresh.run("fsck", "--json").json["blobs"] == 303


def test_accepting_a_loss_lists_it_and_asks(filled: Home) -> None:
    # The item in the middle.
    flip(segment(filled), segment(filled).stat().st_size // 2)
    refused = filled.run("fsck", "--accept-loss", code=2)
    assert "Lost: journal/" in refused.err and "--yes" in refused.err
    assert "incomplete" in filled.run("gc", code=5).err
    ours, theirs = pty.openpty()
    for text, code in (("n", 1), ("y", 0)):
        os.write(ours, f"{text}\n".encode())
        command = filled.command("fsck", "--accept-loss")
        ran = subprocess.run(command, env=filled.env, stdin=theirs, capture_output=True, text=True, check=False)
        assert ran.returncode == code and "[y/N]" in ran.stderr, ran
        assert ("Nothing was accepted." in ran.stderr) is (text == "n")
    os.close(ours)
    os.close(theirs)
    assert "no loss to accept" in filled.run("fsck", "--accept-loss", "--yes").out
    filled.run("gc")
