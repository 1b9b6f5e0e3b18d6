"""What a process brings with it: parents that had the library open, and a umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixfs import Library
from mixfs.library.doctor import OK, WARNING, check_leftovers
from mixfs.library.exporting import new_folder
from mixfs.media.samples import make_sample
from mixfs.modes import create_file, make_directory

# Every mode below a library but those of originals, which nobody may write to.
PRIVATE, ORIGINAL = 0o600, 0o444

FORK = """
import os, sys
from mixfs import Library
from mixfs.errors import LibraryError
library = Library.open(sys.argv[1])
library.import_bytes(b"from the parent", "parent.txt")
staged = library.staging.intake()
with library.read():
    child = os.fork()
    if child == 0:
        attempts = [
            lambda: library.sessions(), lambda: library.create_session("child"), library.store.refresh,
            lambda: library.import_bytes(b"x", "x.txt"), lambda: library.store.rebuild_index(),
            lambda: library.import_paths([sys.argv[0]] if sys.argv[0] != "-c" else ["/etc/hostname"]),
        ]
        refused = 0
        for attempt in attempts:
            try:
                list(attempt() or ())
            except LibraryError as error:
                refused += f"process {os.getppid()}" in str(error)
        library.close()
        os._exit(0 if refused == len(attempts) else 1)
    _, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
# The parent has all that it had.
assert staged.path.exists()
library.create_session("after")
print(*(session.title for session in library.sessions()))
library.close()
"""


def test_a_forked_child_is_told_to_open_the_library_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "library")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["Inbox", "after"]), done.stderr
    assert not (tmp_path / "library" / "problems.jsonl").exists(), "nothing was taken for damaged"


@pytest.mark.parametrize("umask", [0o777, 0o077, 0o000])
def test_a_library_is_made_whole_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "library"
    old = os.umask(umask)
    try:
        for _ in range(2):
            with Library.open(root) as library:
                name, data = make_sample("a1111")
                placement = library.import_bytes(data, name)
                library.import_paths([_file(tmp_path)], session="files")
                row = library.thumbnails.make(placement.digest)
                assert row is not None
                library.thumbnails.record({placement.digest: row})
                library.store.problems.report("test", "a line")
                library.store.rebuild_index()
    finally:
        os.umask(old)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    for folder, folders, names in os.walk(root):
        for each in folders:
            assert stat.S_IMODE(Path(folder, each).stat().st_mode) == 0o700, each
        for each in names:
            expected = ORIGINAL if Path(folder).parent == root / "blobs" else PRIVATE
            assert stat.S_IMODE(Path(folder, each).stat().st_mode) == expected, (folder, each)


def _file(folder: Path) -> Path:
    path = folder / "text.txt"
    if not path.exists():
        path.write_text("some text")
        path.chmod(0o644)
    return path


@pytest.mark.parametrize("make", [make_directory, lambda path: os.close(create_file(path, os.O_WRONLY))])
def test_what_is_there_keeps_its_mode(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "there"
    if make is make_directory:
        path.mkdir(mode=0o750)
        make_directory(path, exist_ok=True)
    else:
        path.write_text("")
        path.chmod(0o640)
        make(path)
    assert stat.S_IMODE(path.stat().st_mode) in (0o750, 0o640)


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_counted_and_swept(tmp_path: Path, dead_pid: int) -> None:
    root = tmp_path / "library"
    with Library.open(root) as library:
        library.import_bytes(*reversed(make_sample("a1111")))
        replica = library.store.journal.directory

    def leave(pid: int) -> set[Path]:
        files = {
            root / f".upkeep.json.{pid}.new", root / f".format.{pid}.new", root / "quarantine" / f".x.blob.{pid}.new",
            replica / f".00000002.seg.{pid}.new", root / "lost" / "ab" / f".cd.json.{pid}.new",
            root / "thumbnails" / ".new" / f"abcd.{pid}.140", root / f"index.new-{pid}" / "data.mdb",
            root / "staging" / f".{pid}-0123" / "lock", root / "staging" / f"{pid}-4567" / "compaction" / "part-0",
        }  # fmt: skip
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half")
        return files

    dead = leave(dead_pid)
    log = root / "staging" / f"{dead_pid}-mount"
    log.mkdir()
    (log / "log").write_text("for the next mount")
    assert check_leftovers(root).state == WARNING and f" {len(dead)} " in f" {check_leftovers(root).text}"
    with Library.open(root) as library:
        alive = {path for path in leave(os.getpid()) if "index.new" not in str(path) and "seg" not in path.name}
        assert not any(path.exists() for path in dead)
        assert check_leftovers(root).text.startswith("1 "), "staging of a process that does not hold its lock"
    with Library.open(root, read_only=True):
        pass
    with Library.open(root):
        left = {path for path in alive if not path.exists()}
        # Made under the lock, or without one: nobody else's can be there then.
        assert {path.parent.name if path.name == "part-0" else path.name for path in left} == {
            f".format.{os.getpid()}.new", f".x.blob.{os.getpid()}.new", "compaction"
        }  # fmt: skip
        assert (log / "log").exists()
    assert check_leftovers(root).state == OK


def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path, dead_pid: int) -> None:
    left, others = tmp_path / f".out.{dead_pid}-abcd_123.part", tmp_path / f".out.{os.getpid()}-abcd_123.part"
    mine = tmp_path / ".out.mine.part"
    for folder in (left, others, mine):
        folder.mkdir()
    with Library.open(tmp_path / "library") as library, new_folder(library.root, tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "out" / "a").exists() and not left.exists() and others.exists() and mine.exists()
