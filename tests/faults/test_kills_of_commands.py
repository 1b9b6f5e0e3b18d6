"""Whole commands killed at the n-th call of every kind that writes, for every n: before or after, nothing between."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_kills import TIMEOUT, environment, needs_strace, rows, strace, until_it_survives

from mixfs import Library
from mixfs.library import fsck

ACT = Path(__file__).with_name("act.py")
MAP = 1 << 20
FILES = 9
CALLS = ("fsync", "fdatasync", "link", "rename", "write", "pwrite64", "unlink", "unlinkat")
# strace counts each thread's calls by themselves; so many of them one thread makes at least.
SEEN = {("import", "fsync"): 5, ("import", "link"): 3, ("import", "pwrite64"): 3, ("rebuild", "rename"): 2}
SEEN |= {(act, "fdatasync"): 2 for act in ("delete", "retitle", "restore")}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("commands")
    with Library.open(base / "library", map_size=MAP) as library:
        session = library.create_session("Trip")
        for n in range(3):
            library.import_bytes(b"file %d" % n, f"{n}.txt", session_id=session.id)
        gone = library.create_session("Gone")
        library.import_bytes(b"gone", "gone.txt", session_id=gone.id)
        library.delete_session(gone.id)
    (base / "More").mkdir()
    for n in range(FILES):
        (base / "More" / f"{n}.txt").write_bytes(b"more %d" % n)
    return base


def copy_of(sample: Path, root: Path) -> Path:
    shutil.copytree(sample / "library", root)
    text = (root / "format").read_text()
    inode = f":{(sample / 'library').stat().st_ino}\""
    assert inode in text
    # The same replica, moved: a copy would begin a journal of its own, and open differently.
    (root / "format").write_text(text.replace(inode, f':{root.stat().st_ino}"'))
    return root


def command(root: Path, act: str, sample: Path) -> list[str]:
    if act in ("import", "fsck"):
        words = ["import", str(sample / "More")] if act == "import" else ["fsck"]
        return [sys.executable, "-S", "-m", "mixfs.cli.main", *words, "--library", str(root)]
    return [sys.executable, "-S", str(ACT), str(root), act]


def told(root: Path) -> dict[str, Any]:
    """What a user sees."""
    with Library.open(root, map_size=MAP) as library:
        return {
            session.title: sorted((p.name, library.read_image(p.digest)) for p in library.placements(session.id))
            for session in library.sessions()
        }


def assert_sound(root: Path) -> None:
    report = fsck.check(root)
    assert [(problem.where, problem.reason) for problem in report.problems] == []
    with Library.open(root, map_size=MAP) as library:
        caught_up = rows(library.store)
        library.store.rebuild_index()
        assert rows(library.store) == caught_up
    for path in (path for path in (root / "blobs").rglob("*") if path.is_file()):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name + path.name
    left = [path for path in root.rglob("*") if path.name.endswith(".new") or path.name.startswith("index.")]
    assert left == []
    assert [path for path in (root / "staging").iterdir() if not path.name.startswith(".")] == []


@needs_strace
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("act", ["import", "delete", "retitle", "restore", "rebuild", "compact", "fsck"])
def test_killed_at_every_call(tmp_path: Path, sample: Path, act: str, call: str) -> None:
    before = told(copy_of(sample, tmp_path / "before"))
    done = copy_of(sample, tmp_path / "after")
    run(command(done, act, sample))
    after = told(done)
    assert (before != after) == (act not in ("rebuild", "compact", "fsck"))

    def attempt(n: int) -> bool:
        root = copy_of(sample, tmp_path / f"{n}")
        ran = run([*strace(call, f"signal=SIGKILL:when={n}"), *command(root, act, sample)])
        report = fsck.check(root)
        assert report.clean, report.problems
        found = told(root)
        if ran.returncode == 0 or b"done" in ran.stdout:
            assert found == after, "acknowledged, and lost"
        elif act == "import":
            # Its batches are commits of their own: each file is there whole, or not at all.
            assert before.items() <= found.items()
            assert set(found.get("More", [])) <= set(after["More"])
        else:
            assert found in (before, after), "torn"
        assert_sound(root)
        shutil.rmtree(root)
        return ran.returncode == 0

    until_it_survives(tmp_path, attempt, SEEN.get((act, call), 1), 200)


def run(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    ran = subprocess.run(words, capture_output=True, timeout=TIMEOUT, env=environment() | {"HOME": os.devnull})
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    return ran




@needs_strace
def test_bytes_are_durable_before_their_name_and_names_before_the_journal(tmp_path: Path, sample: Path) -> None:
    """A kill can't show a sync that was left out, since the page cache survives it; the order of the calls does."""
    root, log = copy_of(sample, tmp_path / "library"), tmp_path / "calls"
    one = tmp_path / "One"
    one.mkdir()
    (one / "a.txt").write_bytes(b"a")
    calls = "fsync,fdatasync,link,mkdir,pwrite64"
    traced = ["strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={calls}"]
    words = [sys.executable, "-S", "-m", "mixfs.cli.main", "import", str(one), "--library", str(root)]
    assert run([*traced, *words]).returncode == 0
    lines = log.read_text().splitlines()
    digest = hashlib.sha256(b"a").hexdigest()
    bucket = root / "blobs" / digest[:2]

    def place(*parts: str, after: int = -1) -> int:
        found = (n for n, line in enumerate(lines) if n > after and all(part in line for part in parts))
        return next(found, -1)

    written = place("pwrite64", "/staging/", '"a"')
    synced = place("fsync(", "/staging/", after=written)
    linked = place("link(", str(bucket / digest[2:]), after=synced)
    made = place("mkdir(", f'"{bucket}"')
    parent = place("fsync(", f"{root / 'blobs'}>", after=made)
    named = place("fsync(", f"{bucket}>", after=linked)
    journalled = place("pwrite64", ".seg>", after=named)
    durable = place("fdatasync(", ".seg>", after=journalled)
    indexed = place("fdatasync(", "data.mdb>", after=durable)
    assert -1 < written < synced < linked < named < journalled < durable < indexed
    assert -1 < made < parent < journalled
    assert place("pwrite64", "data.mdb>") > durable, "the index was written before the journal was durable"
