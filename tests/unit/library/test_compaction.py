"""Compaction: the journal gets shorter and says the same."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixfs import Library
from mixfs.errors import JournalDamaged
from mixfs.index.engine import prefix_end
from mixfs.library import fsck
from mixfs.library.compaction import compact
from mixfs.media.samples import make_sample
from mixfs.records import Entry, Session

DAY_S = 86400


def rows(library: Library) -> dict[bytes, bytes]:
    """All rows that follow from the journal, but what counts commits."""
    out: dict[bytes, bytes] = {}
    with library.read() as view:
        for prefix in (b"r", b"d", b"n", b"x", b"y", b"s", b"i", b"t", b"z", b"w", b"c"):
            out |= dict(view.txn.scan(prefix, prefix_end(prefix)))
    return out


def work(library: Library, times: int = 10) -> None:
    """Sessions, retitles, pictures, deletes: most of it made void by what comes later."""
    session = library.create_session("first")
    placement = library.import_bytes(make_sample("a1111")[1], "a.png", session_id=session.id)
    for number in range(times):
        library.retitle_session(session.id, f"title {number}")
        library.annotate(placement.digest, rating=number % 10, tags=[f"tag {number}"])
        library.put_entry(Entry(id="note", session_id=session.id, type="text", text=f"note {number}"))
        other = library.import_bytes(b"%d" % number, "file.txt", session_id=session.id)
        if number % 2:
            library.delete_placement(other.id)
    gone = library.create_session("gone")
    library.import_bytes(b"gone too", "gone.txt", session_id=gone.id)
    library.delete_session(gone.id)


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        work(opened)
        yield opened


def check_same(library: Library, before: dict[bytes, bytes]) -> None:
    assert rows(library) == before
    library.store.rebuild_index()
    assert rows(library) == before


def test_a_compacted_journal_is_shorter_and_says_the_same(library: Library) -> None:
    before = rows(library)
    done = compact(library, keep_days=-1)
    assert done.changes_after < done.changes_before * 0.7 and done.bytes_after < done.bytes_before
    assert sum(1 for change in library.changes() if change.entity_id == "note") == 1
    check_same(library, before)
    library.close()
    report = fsck.check(library.root)
    assert report.clean, report.problems


def test_history_of_the_days_that_are_kept_stays_whole(library: Library) -> None:
    before, changes = rows(library), list(library.changes(local=True))
    compact(library, keep_days=1)
    assert [change[1:] for change in library.changes(local=True)] == [change[1:] for change in changes]
    check_same(library, before)


def test_only_what_is_older_is_folded(library: Library) -> None:
    time.sleep(0.002)
    horizon = time.time()
    work(library, 4)
    before, changes = rows(library), list(library.changes())
    compact(library, keep_days=(time.time() - horizon) / DAY_S)
    newer = [change[1:] for change in changes if change.stamp_ns > horizon * 1e9]
    after = list(library.changes())
    assert newer and [change[1:] for change in after][-len(newer) :] == newer
    assert len(after) < len(changes)
    check_same(library, before)


def test_work_goes_on_after_it_and_it_can_be_done_again(library: Library) -> None:
    for _ in range(3):
        compact(library, keep_days=-1)
        work(library, 3)
    check_same(library, rows(library))


def test_another_process_goes_on_after_it(library: Library, tmp_path: Path) -> None:
    code = "import sys; from mixfs import Library; from mixfs.library.compaction import compact\n"
    code += "with Library.open(sys.argv[1]) as library: compact(library, keep_days=-1)"
    subprocess.run([sys.executable, "-c", code, str(library.root)], check=True, timeout=60)
    session = library.create_session("after")
    assert library.session(session.id).title == "after"
    check_same(library, rows(library))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_another_process_compacts_it_again_and_again_while_this_one_looks_on(library: Library, times: int) -> None:
    """The segment that this process wrote to last is gone, and so is the one that came after it."""
    code = (
        "import sys; from mixfs import Library; from mixfs.library.compaction import compact\n"
        "with Library.open(sys.argv[1]) as library: compact(library, keep_days=0)"
    )
    for _ in range(times):
        subprocess.run([sys.executable, "-c", code, str(library.root)], check=True, timeout=60)
    session = library.create_session("afterwards")
    assert library.session(session.id).title == "afterwards"
    before = rows(library)
    library.store.rebuild_index()
    check_same(library, before)


@pytest.mark.parametrize(
    ("call", "number"),
    [*itertools.product(("rename", "fsync", "pwrite"), range(1, 4)), ("unlink", 1), ("unlink", 2)],
)
def test_cut_short_it_changes_nothing(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    library.store.journal.segment_limit = 2048
    # One compaction before: the times that it kept must not be set again by the next one.
    compact(library, keep_days=-1)
    work(library, 3)
    before = rows(library)
    real, calls = getattr(os, call), []

    def failing(*args: Any, **options: Any) -> Any:
        if "compaction" in str(args[0]) or str(args[0]).endswith(".seg") or isinstance(args[0], int):
            calls.append(args)
            if len(calls) == number:
                raise OSError(5, "Input/output error")
        return real(*args, **options)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError):
        # What is younger is copied, with the times that the first one kept.
        compact(library, keep_days=1)
    monkeypatch.undo()
    # As a kill would have left it.
    shutil.copytree(library.root, tmp_path / "killed")
    report = fsck.check(tmp_path / "killed")
    assert report.clean, report.problems
    # Whoever has it open goes on, and so does who opens it.
    library.create_session("live")
    check_same(library, rows(library))
    root = library.root
    library.close()
    shutil.rmtree(root)
    (tmp_path / "killed").rename(root)
    text = (root / "format").read_text()
    bound = text.split('bound_to = "')[1].split('"')[0]
    # A library that was copied would be another replica.
    (root / "format").write_text(text.replace(bound, f"{bound.rpartition(':')[0]}:{root.stat().st_ino}"))
    with Library.open(root) as again:
        check_same(again, before)
        again.create_session("goes on")
        compact(again, keep_days=-1)
        check_same(again, rows(again))
        assert any(session.title == "goes on" for session in again.sessions())


def test_a_damaged_journal_is_left_alone(library: Library) -> None:
    path = library.store.journal.path(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalDamaged, match="left as it is"):
        compact(library, keep_days=-1)
    assert path.read_bytes() == data


def test_an_index_that_says_otherwise_is_no_ground_to_go_by(library: Library) -> None:
    before = library.store.journal.path(1).read_bytes()
    with library.store._engine.write() as txn:
        key, value = next(iter(txn.scan(b"d", b"e")))
        txn.put(key, bytes([value[0] ^ 1]) + value[1:])
    with pytest.raises(JournalDamaged, match="left as it is"):
        compact(library, keep_days=-1)
    assert library.store.journal.path(1).read_bytes() == before
    assert library.store.journal.segments() == [1]


def test_deletes_stay_for_replicas_that_have_not_heard_of_them(library: Library) -> None:
    compact(library, keep_days=-1)
    deleted = [change for change in library.changes() if change.deleted]
    assert Session.__name__ in {change.kind for change in deleted}


def test_directories_that_were_emptied_keep_their_times(tmp_path: Path) -> None:
    """What every mount has (by-model/, trash/) keeps a row when the last thing in it goes, and compaction its time."""
    with Library.open(tmp_path / "library") as library:
        placement = library.import_bytes(make_sample("a1111")[1], "a.png")
        library.delete_placement(placement.id)
        library.restore(library.trash()[0].id)
        library.delete_placement(placement.id)
        compact(library, keep_days=0)
    assert fsck.check(tmp_path / "library").clean


def test_a_library_without_a_commit_can_be_compacted(tmp_path: Path) -> None:
    with Library.open(tmp_path / "empty") as empty:
        compact(empty, keep_days=0)
        work(empty)
        check_same(empty, rows(empty))
    assert fsck.check(tmp_path / "empty").clean
