"""A journal that is not what it was: what is missing or altered is noticed, and no original is deleted."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
import pytest

from mixfs import Library
from mixfs.errors import JournalDamaged, LibraryIncomplete, LibraryReplaced, MixfsError
from mixfs.ids import Digest
from mixfs.journal import journal as journal_module
from mixfs.library import compaction, fsck, gc
from mixfs.library.accepting import Acceptance, accept_loss
from mixfs.library.gaps import Gap, Gaps
from mixfs.library.repairing import repair
from mixfs.records import Session, to_map

MAP = 1 << 22


def opened(root: Path) -> Library:
    return Library.open(root, create=False, map_size=MAP)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 24 originals in a journal of several segments. Not to be changed."""
    root = tmp_path_factory.mktemp("gaps") / "library"
    with Library.open(root, map_size=MAP) as library:
        library.store.journal.segment_limit = 1500
        session = library.create_session("Trip")
        for n in range(24):
            library.import_bytes(b"text %d" % n, f"{n}.txt", session_id=session.id)
        assert len(library.store.journal.segments()) > 4
    return root


@pytest.fixture
def root(tmp_path: Path, sample: Path) -> Path:
    shutil.copytree(sample, tmp_path / "library")
    # As if it had been moved: a copy is a replica of its own.
    path = tmp_path / "library" / "format"
    lines = path.read_text().splitlines()
    machine = lines[-1].split('"')[1].rpartition(":")[0]
    lines[-1] = f'bound_to = "{machine}:{path.parent.stat().st_ino}"'
    path.write_text("\n".join(lines) + "\n")
    return tmp_path / "library"


def segments(root: Path) -> list[Path]:
    return sorted((root / "journal").glob("*/*.seg"))


def originals(root: Path) -> int:
    return sum(path.is_file() for path in (root / "blobs").rglob("*"))


def collected(root: Path) -> None:
    """gc with nothing left of its patience."""
    with opened(root) as library:
        gc.collect(library, trash_days=0, grace_hours=-1)


def is_refused(root: Path) -> bool:
    """Whether gc says that the library is incomplete, or it can't be opened; all originals stay in either case."""
    before = originals(root)
    try:
        collected(root)
    except (LibraryIncomplete, JournalDamaged):
        assert originals(root) == before
        return True
    return False


def no_index(root: Path) -> None:
    shutil.rmtree(root / "index")


def cut_at_an_item(path: Path) -> None:
    """As a backup that was made earlier has it: whole, and shorter."""
    journal = journal_module.Journal(path.parent.parent, bytes.fromhex(path.parent.name))  # type: ignore[arg-type]
    items = [item for item in journal.read() if item.start.segment == int(path.stem) and item.payload is not None]
    os.truncate(path, items[-1].start.offset)


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def test_an_untouched_library_is_whole(root: Path) -> None:
    no_index(root)
    collected(root)
    with opened(root) as library:
        assert library.store.gaps() == [] and originals(root) == 24
    assert fsck.check(root).clean and not (root / "incomplete.json").exists()


@pytest.mark.parametrize("which", [0, 1, 2, -2, -1])
@pytest.mark.parametrize("harm", ["lost", "cut", "cut at an item", "swapped", "emptied"])
@pytest.mark.parametrize("index", ["kept", "rebuilt"])
def test_a_segment_that_is_not_what_it_was_stops_gc(root: Path, which: int, harm: str, index: str) -> None:
    path = segments(root)[which]
    whole = path.read_bytes()
    if harm == "lost":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, len(whole) - 5)
    elif harm == "cut at an item":
        cut_at_an_item(path)
    elif harm == "swapped":
        path.write_bytes(segments(root)[(which + 1) % len(segments(root))].read_bytes())
    else:
        path.write_bytes(b"")
    if index == "rebuilt":
        no_index(root)
        fsck.rebuild(root)
    assert not fsck.check(root).clean
    assert is_refused(root)
    fsck.rebuild(root)
    assert is_refused(root), "making the index again is no cure"
    assert not fsck.check(root).clean
    # The backup of the segment is.
    path.write_bytes(whole)
    fsck.rebuild(root)
    assert not is_refused(root) and originals(root) == 24
    assert fsck.check(root).clean
    with opened(root) as library:
        assert library.stats().placements == 24


def test_no_flipped_bit_lets_gc_take_an_original(root: Path, tmp_path: Path) -> None:
    chance = random.Random(14)
    for number in range(24):
        damaged = tmp_path / f"damaged-{number}" / "library"
        shutil.copytree(root, damaged)
        flip(chance.choice(segments(damaged)), chance)
        no_index(damaged)
        assert is_refused(damaged), number
        assert not fsck.check(damaged).clean


def test_a_flipped_bit_at_the_end_is_no_torn_tail(root: Path) -> None:
    path = segments(root)[-1]
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    assert is_refused(root), "where the index has seen the item as well"
    shutil.rmtree(root / "index")
    (root / "incomplete.json").unlink()
    with opened(root) as library:
        assert library.store.gaps()
        library.create_session("later")
    assert path.read_bytes() == bytes(data), "what was acknowledged is never cut"
    assert is_refused(root) and not fsck.check(root).clean


def test_without_any_memory_a_torn_tail_may_have_been_acknowledged(root: Path) -> None:
    os.truncate(segments(root)[-1], segments(root)[-1].stat().st_size - 5)
    no_index(root)
    shutil.rmtree(root / "high-water")
    assert is_refused(root)


def test_what_only_an_index_of_another_derivation_knows_is_noticed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at_an_item(segments(root)[-1])
    shutil.rmtree(root / "high-water")
    monkeypatch.setattr("mixfs.library.store.DERIVATION", 999)
    assert is_refused(root)
    fsck.rebuild(root)
    assert is_refused(root)


def test_a_whole_journal_of_an_older_day_is_noticed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "journal", tmp_path / "backup")
    with opened(root) as library:
        kept = library.import_bytes(b"made after the backup", "late.txt", session_id=library.find_session("Trip").id)
    shutil.rmtree(root / "journal")
    shutil.copytree(tmp_path / "backup", root / "journal")
    no_index(root)
    with pytest.raises(JournalDamaged, match="rebuild-index"):
        opened(root)
    fsck.rebuild(root)
    assert is_refused(root)
    with opened(root) as library:
        assert library.has_blob(Digest(kept.digest))


def test_accepting_the_loss_lists_what_has_no_place_and_lets_gc_go_on(root: Path) -> None:
    path = segments(root)[2]
    os.truncate(path, 200)
    accepted = accept_loss(root)
    assert accepted.gaps and "segment 3" in accepted.gaps[0]
    assert accepted.unplaced and all("bytes" not in each.known for each in accepted.unplaced)
    report = fsck.check(root)
    assert report.clean and any("accepted" in note for note in report.notes)
    assert not is_refused(root)
    with opened(root) as library:
        assert {each.digest for each in accepted.unplaced} == {
            path.parent.name + path.name for path in (root / "lost").rglob("*") if path.is_file() and not path.suffix
        }
        compaction.compact(library)
    # What could be read stands in a chain of its own now, and the damaged segment in quarantine/.
    assert not (root / "incomplete.json").exists() and list((root / "quarantine").glob("*.seg"))
    assert accept_loss(root).gaps == [] and fsck.check(root).clean


def test_only_what_was_listed_is_accepted(root: Path) -> None:
    os.truncate(segments(root)[2], 200)
    told: list[Acceptance] = []

    def refuse(found: Acceptance) -> bool:
        told.append(found)
        return False

    assert not accept_loss(root, refuse).accepted and is_refused(root)
    later = Gap("00" * 16, 7, 1, 7, 2, "met meanwhile", "")

    def agree(found: Acceptance) -> bool:
        Gaps(root).add([later])
        return True

    done = accept_loss(root, agree)
    assert done.accepted and done.gaps == told[0].gaps and done.unplaced == told[0].unplaced
    assert Gaps(root).open() == [later]


def test_of_an_accepted_item_that_makes_no_sense_compaction_keeps_the_rest(root: Path) -> None:
    with opened(root) as library:
        good = to_map(Session(id="good", title="good", name=b"good"))
        payload = {1: [[1, "good", 2**62, 0, good], [1, "bad", 2**62 + 1, 0, {1: 5}]], 3: 5}
        for each in (payload, {1: "nonsense"}):
            library.store.journal.append(cbor2.dumps(each))
    assert accept_loss(root).accepted
    for keep_days in (90, 0):
        with opened(root) as library:
            before = [session.title for session in library.sessions()]
            compaction.compact(library, keep_days=keep_days)
            library.store.rebuild_index()
            assert [session.title for session in library.sessions()] == before and "good" in before
        assert not (root / "incomplete.json").exists() and fsck.check(root).clean


def test_a_session_whose_record_is_lost_is_made_again(root: Path) -> None:
    # The first item of the first segment made it.
    data = bytearray(segments(root)[0].read_bytes())
    data[data.index(b"Trip")] ^= 1
    segments(root)[0].write_bytes(data)
    no_index(root)
    accepted = accept_loss(root)
    assert accepted.sessions == ["Recovered"]
    with opened(root) as library:
        (session,) = library.sessions()
        assert sum(1 for _ in library.placements(session.id)) == 24


def test_a_mark_that_can_t_be_read_is_a_gap(root: Path) -> None:
    for text in ("", "{}", '{"gaps": [1]}', "[" * 100_000):
        (root / "incomplete.json").write_text(text)
        assert Gaps(root).open() and is_refused(root)


@pytest.mark.parametrize("index", ["kept", "gone"])
def test_the_journal_of_another_replica_that_is_gone_is_a_gap(
    sample: Path, tmp_path: Path, index: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(sample, root)
    with opened(root) as library:
        # A copy is a replica of its own: what it was copied with lies in the other's journal.
        library.create_session("here")
        other = next(path for path in (root / "journal").iterdir() if path.name != library.store.journal.replica.hex())
    other.rename(tmp_path / "away")
    if index == "gone":
        no_index(root)
    assert is_refused(root)
    fsck.rebuild(root)
    assert is_refused(root) and not fsck.check(root).clean
    (tmp_path / "away").rename(other)
    fsck.rebuild(root)
    assert not is_refused(root) and originals(root) == 24 and fsck.check(root).clean


def test_the_gaps_of_a_journal_that_is_gone_since_stay(root: Path) -> None:
    Gaps(root).add([Gap("0" * 16, 1, 0, 1, 9, "cut", "2026-01-01T00:00:00Z")])
    no_index(root)
    fsck.rebuild(root)
    assert is_refused(root)


def test_originals_newer_than_a_restored_library_are_not_deleted(root: Path, tmp_path: Path) -> None:
    """Everything but blobs/ from an older backup: nothing in it tells that there was more."""
    shutil.copytree(root, tmp_path / "backup")
    with opened(root) as library:
        library.import_bytes(b"made after the backup", "late.txt", session_id=library.find_session("Trip").id)
    for path in (tmp_path / "backup").iterdir():
        if path.name not in ("blobs", "format"):
            shutil.rmtree(root / path.name) if path.is_dir() else (root / path.name).unlink()
            path.rename(root / path.name)
    for _ in range(3):
        collected(root)
    assert originals(root) + sum(path.is_file() and not path.suffix for path in (root / "lost").rglob("*")) == 25
    assert "No journal has ever named 1" in " ".join(fsck.check(root).notes)


def test_a_repair_leaves_the_index_that_knows_more_than_the_journal(root: Path) -> None:
    segments(root)[1].unlink()
    done, report = repair(root)
    assert not done.index and not report.clean
    fsck.rebuild(root)
    assert (root / "quarantine" / "index" / "data.mdb").exists()


# -- the library is replaced while it is open


def moved_away_for_a_backup(root: Path) -> None:
    shutil.copytree(root, root.with_name("backup"), symlinks=True)
    root.rename(root.with_name("old"))
    root.with_name("backup").rename(root)


def moved_away(root: Path) -> None:
    root.rename(root.with_name("old"))


def a_new_library_at_the_old_path(root: Path) -> None:
    root.rename(root.with_name("old"))
    Library.open(root, map_size=MAP).close()


def the_journal_from_a_backup(root: Path) -> None:
    shutil.copytree(root / "journal", root.with_name("journal"))
    shutil.rmtree(root / "journal")
    root.with_name("journal").rename(root / "journal")


def a_segment_from_a_backup(root: Path) -> None:
    path = segments(root)[-1]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def a_segment_cut_in_place(root: Path) -> None:
    cut_at_an_item(segments(root)[-1])


def another_format_file(root: Path) -> None:
    text = (root / "format").read_text()
    (root / "format").write_text(text.replace('library = "0', 'library = "1').replace('library = "f', 'library = "0'))


REPLACEMENTS: list[Callable[[Path], None]] = [
    moved_away_for_a_backup, moved_away, a_new_library_at_the_old_path, the_journal_from_a_backup,
    a_segment_from_a_backup, a_segment_cut_in_place, another_format_file,
]  # fmt: skip


@pytest.fixture
def open_library(root: Path) -> Iterator[Library]:
    with opened(root) as library:
        library.create_session("before")
        yield library


@pytest.mark.parametrize("replace", REPLACEMENTS, ids=lambda each: each.__name__)
def test_a_library_that_is_replaced_while_it_is_open_is_not_written_to(
    open_library: Library, root: Path, replace: Callable[[Path], None]
) -> None:
    replace(root)
    before = {path: path.read_bytes() for path in root.parent.rglob("*.seg")}
    for act in (
        lambda: open_library.create_session("after"),
        open_library.store.rebuild_index,
        lambda: gc.collect(open_library, grace_hours=-1),
    ):
        with pytest.raises(MixfsError):
            act()
    assert {path: path.read_bytes() for path in root.parent.rglob("*.seg")} == before
    assert "Nothing is written" in open_library.store.displacement() or "nothing is written" in (
        open_library.store.displacement()
    )


def test_a_symbolic_link_to_the_library_that_is_switched(root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    with opened(link) as library:
        library.create_session("before")
        shutil.copytree(root, root.with_name("copy"))
        link.unlink()
        link.symlink_to(root.with_name("copy"))
        with pytest.raises(LibraryReplaced, match="Nothing is written"):
            library.create_session("after")
        link.unlink()
        link.symlink_to(root)
        library.create_session("again")
        assert library.store.displacement() == ""


def test_an_index_of_another_library_is_not_used(root: Path, tmp_path: Path) -> None:
    with Library.open(tmp_path / "other", map_size=MAP) as library:
        library.create_session("foreign")
    no_index(root)
    shutil.copytree(tmp_path / "other" / "index", root / "index")
    assert not fsck.check(root).clean
    with opened(root) as library:
        assert [session.title for session in library.sessions()] == ["Trip"]


def test_commits_of_two_processes_and_a_compaction_are_no_replacement(root: Path) -> None:
    """The segment that is open here is full, compacted and gone by another store's doing."""
    with opened(root) as here:
        here.store.journal.segment_limit = 1500
        for n in range(6):
            here.create_session(f"here {n}")
        subprocess.run([sys.executable, "-c", _NEIGHBOUR, str(root)], check=True, timeout=120)
        here.create_session("after")
        assert here.store.displacement() == "" and here.store.gaps() == []
    assert fsck.check(root).clean


_NEIGHBOUR = """
import sys
from pathlib import Path
from mixfs import Library
from mixfs.library import compaction
with Library.open(Path(sys.argv[1]), create=False) as library:
    library.store.journal.segment_limit = 1500
    for n in range(12):
        library.create_session(f"there {n}")
    compaction.compact(library, keep_days=0)
"""
