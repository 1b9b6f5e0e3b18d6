"""A clock that jumps: what is shown as a time is the clock's, and nothing expires until it is steady again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs import Library
from mixfs.errors import ClockJumped
from mixfs.index import keys
from mixfs.index.dentries import scan_dentries
from mixfs.library import cleanup, gc
from mixfs.library.compaction import compact
from mixfs.library.doctor import OK, WARNING, check_clock
from mixfs.library.trashed import TRASH_ROOT
from mixfs.media.samples import make_sample
from mixfs.records import Placement, Trash

HOUR_S, DAY_S, YEAR_S = 3600.0, 86400.0, 365.25 * 86400.0
YEARS = 10 * YEAR_S


class Clock:
    """A machine's clock and uptime, which tests set."""

    def __init__(self) -> None:
        self.wall_s, self.up_s, self.boot = float(int(time.time())), 1000.0, "first"

    def now_ns(self) -> int:
        return int(self.wall_s * 1e9)

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.up_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("mixfs.clock.now_ns", clock.now_ns)
    monkeypatch.setattr("mixfs.clock.uptime_s", lambda: clock.up_s)
    monkeypatch.setattr("mixfs.clock.boot_id", lambda: clock.boot)
    return clock


@pytest.fixture
def library(tmp_path: Path, clock: Clock) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        yield opened


def picture() -> bytes:
    return make_sample("a1111")[1]


def jumps_reported(library: Library) -> list[float]:
    lines = map(json.loads, library.store.problems.read().splitlines())
    return [line["by_s"] for line in lines if line["kind"] == "clock-jumped"]


def times_shown(library: Library, placement: Placement) -> dict[str, float]:
    """Every time that is shown of a session with one picture and of what was deleted: seconds."""
    placement = library.placement(placement.id)
    with library.read() as view:
        session = view.get(type(library.session(placement.session_id)), placement.session_id)
        assert session is not None
        directories = {tag: view.directory_row(tag + keys.key16(session.id)) for tag in (b"S", b"p")}
        out: dict[str, int] = {
            f"directory {tag!r}": row.mtime_ns for tag, row in directories.items() if row is not None
        }
        for name, directory in (("sessions", b"S"), ("images", b"p"), ("canvas", b"c")):
            place = directory + keys.key16(session.id)
            out |= {f"ctime of {d.name!r} in {name}": d.ctime_ns for d in scan_dentries(view.txn, place)}
        trash = list(view.records(Trash))
        out |= {f"deleted {at}": each.deleted_ns for at, each in enumerate(trash)}
        row = view.directory_row(TRASH_ROOT)
        assert row is not None
        out["trash/"] = row.mtime_ns
        out["updated"] = view.session_row(session.id).mtime_ns
        image = view.image(placement.digest)
        assert image is not None
        out["image"] = image.added_ns
    out |= {"created": session.created_ns, "changed": session.changed_ns, "added": placement.added_ns}
    out |= {"named": placement.named_at_ns, "log": list(library.changes(local=True))[-1].time_ns}
    return {name: ns / 1e9 for name, ns in out.items()}


def work(library: Library, number: int) -> Placement:
    session = library.create_session(f"session {number}")
    gone = library.import_bytes(f"gone {number}".encode(), "gone.txt", session_id=session.id)
    library.delete_placement(gone.id)
    placement = library.import_bytes(picture(), f"{number}.png", session_id=session.id)
    library.annotate(placement.digest, rating=number)
    return placement


def test_one_commit_by_a_wrong_clock_dates_nothing_that_comes_after_it(library: Library, clock: Clock) -> None:
    clock.wall_s += YEARS
    session = library.create_session("ahead")
    clock.wall_s -= YEARS
    clock.passes(60)
    placement = work(library, 1)
    # In a session, and a folder, that the wrong clock dated.
    library.import_bytes(b"late", "late.txt", session_id=session.id)
    library.close()
    with Library.open(library.root) as library:
        before = times_shown(library, placement)
        with library.read() as view:
            late = view.session_row(session.id).mtime_ns / 1e9
            stamps = view.stamp_of(Placement.KIND, placement.id)
        assert stamps is not None and stamps[0] > (clock.wall_s + YEARS - HOUR_S) * 1e9, "stamps only go on"
        assert {name: at for name, at in before.items() if abs(at - clock.wall_s) > 1} == {}
        assert abs(late - clock.wall_s) < 1
        library.store.rebuild_index()
        assert times_shown(library, placement) == before, "a replay says the same"
        compact(library, keep_days=-1)
        assert times_shown(library, placement) == before
        library.store.rebuild_index()
        assert times_shown(library, placement) == before, "a compacted journal says the same"


def test_names_stay_with_what_had_them_first_whatever_the_clock_says(library: Library, clock: Clock) -> None:
    session = library.create_session("S")
    clock.wall_s += YEARS
    for number in range(2):
        library.delete_placement(library.import_bytes(b"%d" % number, "a.txt", session_id=session.id).id)
        clock.wall_s -= YEARS + number
    with library.read() as view:
        (folder,) = scan_dentries(view.txn, TRASH_ROOT)
        names = {dentry.size: (dentry.name, dentry.order) for dentry in scan_dentries(view.txn, folder.key)}
        assert sorted(dentry.name for dentry in scan_dentries(view.txn, folder.key)) == [b"a (2).txt", b"a.txt"], names
    newest = library.trash()[0]
    assert newest.deleted_ns < library.trash()[1].deleted_ns, "the last that was deleted is the first that is listed"


@pytest.mark.parametrize("by_s", [YEARS, -YEARS, 1.1 * DAY_S, -1.1 * DAY_S])
def test_nothing_expires_within_a_day_of_a_jump(library: Library, clock: Clock, by_s: float) -> None:
    placement = library.import_bytes(picture(), "a.png")
    library.delete_session(placement.session_id)
    clock.passes(HOUR_S)
    clock.wall_s += by_s
    for passed_h in range(0, 24, 6):
        with pytest.raises(ClockJumped, match=r"Nothing expires until .* Nothing was freed\."):
            gc.collect(library, trash_days=-1, grace_hours=-1)
        with pytest.raises(ClockJumped):
            cleanup.choose(library, cleanup.Rule(older_than_s=1))
        assert check_clock(library.root).state == WARNING
        assert library.read_image(placement.digest), f"gone after {passed_h} hours"
        clock.passes(6 * HOUR_S - 1)
    history = len(list(library.changes()))
    compact(library, keep_days=1)
    assert len(list(library.changes())) == history
    assert len(jumps_reported(library)) == 1 and abs(jumps_reported(library)[0] - by_s) < 2
    clock.passes(10)
    assert gc.collect(library, trash_days=-1, grace_hours=-1).trash == 1
    assert check_clock(library.root).state == OK


def test_time_that_passes_is_no_jump(library: Library, clock: Clock) -> None:
    for passed_s in (HOUR_S, 40 * DAY_S, 1.0):
        clock.passes(passed_s)
        gc.collect(library)
    clock.wall_s += 0.9 * DAY_S
    gc.collect(library)
    # Off for a night.
    clock.boot, clock.up_s, clock.wall_s = "second", 20.0, clock.wall_s + DAY_S / 3
    gc.collect(library)
    assert jumps_reported(library) == []


def test_smaller_steps_add_up_to_a_jump(library: Library, clock: Clock) -> None:
    gc.collect(library)
    for _ in range(2):
        clock.passes(1.0)
        clock.wall_s += 0.6 * DAY_S
        wait_s = library.store.steadiness.wait_s()
    assert wait_s == DAY_S
    with pytest.raises(ClockJumped):
        gc.collect(library)


def test_a_machine_that_was_off_for_long_waits_too_but_gets_there(library: Library, clock: Clock) -> None:
    """It runs for eight hours each week; it can't be told from one whose clock jumps at each start."""
    for week in range(3):
        clock.boot, clock.up_s, clock.wall_s = f"week {week}", 0.0, clock.wall_s + 7 * DAY_S
        with pytest.raises(ClockJumped, match="or the machine was off"):
            gc.collect(library)
        clock.passes(8 * HOUR_S)
        library.store.steadiness.wait_s()
    gc.collect(library)


def test_a_second_jump_begins_the_wait_again_and_a_person_ends_it(library: Library, clock: Clock) -> None:
    clock.wall_s += YEARS
    for _ in range(2):
        assert library.store.steadiness.wait_s() == DAY_S
        clock.passes(23 * HOUR_S)
        assert library.store.steadiness.wait_s() == HOUR_S
        clock.wall_s -= YEARS
    library.store.steadiness.trust()
    gc.collect(library)


def test_the_jump_shows_after_a_restart_of_what_uses_the_library(library: Library, clock: Clock) -> None:
    library.close()
    clock.wall_s += YEARS
    with Library.open(library.root) as opened:
        opened.create_session("by the wrong clock")
    clock.wall_s -= YEARS
    with Library.open(library.root) as opened, pytest.raises(ClockJumped):
        gc.collect(opened)
    assert len(jumps_reported(opened)) == 2


def test_a_library_that_has_not_noted_the_clock_yet_goes_by_its_last_commit(library: Library, clock: Clock) -> None:
    library.create_session("S")
    library.close()
    for by_s, jumped in ((HOUR_S, False), (YEARS, True), (-2 * YEARS, True)):
        (library.root / "clock.json").write_text('{"nonsense": 1}')
        clock.wall_s += by_s
        with Library.open(library.root) as opened:
            assert (opened.store.steadiness.wait_s() > 0) is jumped


def test_a_stamp_that_is_ahead_tells_no_time(library: Library, clock: Clock) -> None:
    clock.wall_s += YEARS
    library.create_session("by the wrong clock")
    clock.wall_s -= YEARS
    library.create_session("by the right one")
    library.close()
    (library.root / "clock.json").unlink()
    with Library.open(library.root) as opened:
        assert not opened.store.steadiness.wait_s()


def test_what_a_wrong_clock_deleted_does_not_stay_for_ever(library: Library, clock: Clock) -> None:
    clock.wall_s += YEARS
    placement = library.import_bytes(picture(), "a.png")
    library.delete_session(placement.session_id)
    library.store.steadiness.wait_s()
    clock.wall_s -= YEARS
    with pytest.raises(ClockJumped):
        gc.collect(library)
    clock.passes(DAY_S)
    assert gc.collect(library).trash == 0
    clock.passes(29 * DAY_S)
    assert gc.collect(library).trash == 0
    clock.passes(1.1 * DAY_S)
    assert gc.collect(library).trash == 1
