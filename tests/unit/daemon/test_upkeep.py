"""What a mounted library does for itself: quarantine, gc once a day, a scrub once a month."""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mixfs.daemon import upkeep
from mixfs.daemon.status import Status
from mixfs.daemon.upkeep import DAY_S, SCRUB_EVERY_S, SCRUB_SHARE, Upkeep
from mixfs.errors import ClockJumped, IndexDamaged, LibraryIncomplete, MixfsError
from mixfs.ids import Digest
from mixfs.index import keys
from mixfs.library import gc, healing
from mixfs.library.api import Library
from mixfs.records import Placement

WAIT_S = 20.0


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        for i in range(5):
            opened.import_bytes(b"original %d" % i, f"{i}.txt")
        yield opened


@pytest.fixture
def keep(library: Library) -> Iterator[Callable[..., Upkeep]]:
    """Starts an upkeep that has nothing to wait for, from a state of upkeep.json."""
    started: list[Upkeep] = []

    def start(settle_s: float = 0, **state: object) -> Upkeep:
        if state:
            (library.root / "upkeep.json").write_text(json.dumps(state))
        started.append(Upkeep(library, settle_s=settle_s))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """Every original that was looked at, in order."""
    seen: list[Digest] = []
    real = healing.quarantine_if_damaged

    def check(library: Library, digest: Digest) -> Path | None:
        seen.append(digest)
        return real(library, digest)

    monkeypatch.setattr(healing, "quarantine_if_damaged", check)
    return seen


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The trash_days of every gc."""
    runs: list[float] = []

    def collect(library: Library, *, trash_days: float) -> gc.Freed:
        runs.append(trash_days)
        return gc.Freed()

    monkeypatch.setattr(gc, "collect", collect)
    return runs


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < until, "it didn't happen in time"
        time.sleep(0.01)


def saved(library: Library) -> dict[str, object]:
    state: dict[str, object] = json.loads((library.root / "upkeep.json").read_text())
    return state


def digests(library: Library) -> list[Digest]:
    return [digest for digest, _ in library.blobs.enumerate()]


def damage(library: Library, digest: Digest) -> None:
    path = library.blobs.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"x" + path.read_bytes()[1:])


def test_what_a_read_found_damaged_goes_to_quarantine_at_once(library: Library, keep: Callable[..., Upkeep]) -> None:
    first, second, *_ = digests(library)
    damage(library, first)
    # While the daemon still leaves the disk alone after mounting.
    keeping = keep(settle_s=3600)
    keeping.damaged(first)
    keeping.damaged(second)
    wait_for(lambda: not library.blobs.path(first).exists())
    kept = library.root / "quarantine" / f"{first.hex()}.blob"
    wait_for(kept.exists)
    assert "Affected: Inbox/files/" in kept.with_suffix(".txt").read_text()
    keeping.close()
    assert library.blobs.path(second).exists(), "what is well stays, whoever says otherwise"
    assert "blob-damaged" in library.store.problems.path.read_text()


def test_gc_runs_once_a_day(library: Library, keep: Callable[..., Upkeep], collected: list[float]) -> None:
    keep(collected=time.time() - DAY_S + 60, scrub_began=time.time(), scrubbed="done").close()
    assert collected == []
    keeping = keep(collected=time.time() - DAY_S - 1, scrub_began=time.time(), scrubbed="done")
    wait_for(lambda: collected)
    time.sleep(0.1)
    keeping.close()
    assert collected == [gc.TRASH_DAYS]
    last = saved(library)["collected"]
    assert isinstance(last, float) and time.time() - last < WAIT_S
    # And a remount is no reason to do it again.
    keep().close()
    assert collected == [gc.TRASH_DAYS]


def test_a_clock_that_was_set_back_stops_nothing(
    library: Library, keep: Callable[..., Upkeep], collected: list[float], checked: list[Digest]
) -> None:
    keep(collected=time.time() + 90 * DAY_S, scrub_began=time.time() + 90 * DAY_S, scrubbed="done")
    wait_for(lambda: collected and len(checked) == 5)


def test_a_gc_that_fails_stops_nothing(
    library: Library, keep: Callable[..., Upkeep], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[bool] = []

    def fail(library: Library, *, trash_days: float) -> gc.Freed:
        failed.append(True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gc, "collect", fail)
    first, *_ = digests(library)
    damage(library, first)
    keeping = keep(collected=0, scrub_began=time.time(), scrubbed="done")
    wait_for(lambda: failed)
    keeping.damaged(first)
    wait_for(lambda: not library.blobs.path(first).exists())


def test_a_gc_that_is_refused_says_so(
    library: Library, keep: Callable[..., Upkeep], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(library: Library, *, trash_days: float) -> gc.Freed:
        raise LibraryIncomplete("Segment 3 is missing.")

    monkeypatch.setattr(gc, "collect", refuse)
    keeping = keep(collected=0, scrub_began=time.time(), scrubbed="done")
    wait_for(lambda: keeping.status()["refused"])
    assert keeping.status()["refused"] == "Segment 3 is missing."
    assert "gc-refused" in library.store.problems.path.read_text()
    assert keeping.refusal() == "", "there is no gap any more"


@pytest.mark.parametrize("error", [IndexDamaged, ClockJumped])
def test_health_tells_of_a_refused_gc_and_a_damaged_index_is_made_again_once(
    library: Library, keep: Callable[..., Upkeep], monkeypatch: pytest.MonkeyPatch, error: type[MixfsError]
) -> None:
    def refuse(library: Library, *, trash_days: float) -> gc.Freed:
        raise error("Because.")

    rebuilt: list[bool] = []
    monkeypatch.setattr(gc, "collect", refuse)
    monkeypatch.setattr(library.store, "rebuild_index", lambda: rebuilt.append(True))
    keeping = keep(collected=0, scrub_began=time.time(), scrubbed="done")
    wait_for(lambda: keeping.status()["refused"])
    assert len(rebuilt) == (error is IndexDamaged)
    status = Status(library, None)
    status._upkeep = keeping
    (trouble,) = status._troubles()
    assert trouble.kind == "gc-refused" and "Because." in trouble.text


def test_a_damaged_index_that_gc_met_is_made_again(library: Library, keep: Callable[..., Upkeep]) -> None:
    kept = library.import_bytes(b"kept", "kept.txt")
    with library.store._engine.write() as txn:
        txn.delete(keys.refers(kept.digest, Placement.KIND, kept.id))
    removed = library.import_bytes(b"removed", "removed.txt")
    library.delete_placement(removed.id)
    real = gc.collect
    gc_at_once = functools.partial(real, grace_hours=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", gc_at_once)
        keeping = keep(collected=0, scrub_began=time.time(), scrubbed="done")
        wait_for(lambda: keeping._rebuilt and time.time() - keeping._collected < WAIT_S)
        keeping.close()
    assert keeping.refusal() == "" and library.has_blob(kept.digest)
    with library.read() as view:
        assert view.is_referenced(kept.digest)


def test_what_could_not_be_read_is_tried_again_and_stays_where_it_is(
    library: Library, keep: Callable[..., Upkeep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_RETRY_S", 0.05)
    (library.root / "upkeep.json").unlink(missing_ok=True)
    every, check, fails = digests(library), library.blobs.check, [3]
    damage(library, every[4])

    def failing(digest: Digest) -> None:
        if digest == every[1] and fails[0]:
            fails[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        check(digest)

    monkeypatch.setattr(library.blobs, "check", failing)
    keeping = keep()
    wait_for(lambda: keeping.status()["scrubbed"] == 1.0)
    assert fails == [0] and digests(library) == every[:4], "the damaged one alone was moved"
    keeping.close()
    assert "unchecked" not in saved(library)
    assert library.store.problems.path.read_text().count("originals-unchecked") == 1


def test_a_new_library_is_scrubbed_once(
    library: Library, keep: Callable[..., Upkeep], checked: list[Digest], collected: list[float]
) -> None:
    bad = digests(library)[3]
    damage(library, bad)
    every = digests(library)
    keeping = keep()
    wait_for(lambda: keeping.status()["scrubbed"] == 1.0)
    assert checked == every == sorted(every)
    assert not library.blobs.path(bad).exists()
    assert (library.root / "quarantine" / f"{bad.hex()}.blob").exists()
    keeping.close()
    assert saved(library)["scrubbed"] == "done" and collected == []
    began = saved(library)["scrub_began"]
    assert isinstance(began, float) and time.time() - began < WAIT_S, "the next is a month away"


def test_a_scrub_goes_on_where_it_was_left(
    library: Library, keep: Callable[..., Upkeep], checked: list[Digest]
) -> None:
    every = digests(library)
    began = time.time() - 5 * DAY_S
    keeping = keep(collected=time.time(), scrub_began=began, scrubbed=every[2].hex())
    wait_for(lambda: keeping.status()["scrubbed"] == 1.0)
    keeping.close()
    assert checked == every[3:]
    assert saved(library)["scrub_began"] == began


def test_after_a_month_it_begins_again(library: Library, keep: Callable[..., Upkeep], checked: list[Digest]) -> None:
    keeping = keep(collected=time.time(), scrub_began=time.time() - SCRUB_EVERY_S - 1, scrubbed="done")
    wait_for(lambda: len(checked) == 5 and keeping.status()["scrubbed"] == 1.0)
    began = keeping.status()["scrub_began"]
    assert isinstance(began, float) and time.time() - began < WAIT_S


def test_the_scrub_leaves_the_disk_to_others(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "quarantine_if_damaged", lambda library, digest: time.sleep(0.05))
    pause = Upkeep(library)._scrub(digests(library)[0])
    assert pause >= 0.05 * (1 / SCRUB_SHARE - 1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"collected": null, "scrub_began": "x", "scrubbed": 3}', '{"scrubbed": "zz"}',
     '{"collected": NaN, "scrub_began": Infinity, "scrubbed": "zzzz"}'],
)  # fmt: skip
def test_a_state_that_makes_no_sense_is_begun_anew(
    library: Library, keep: Callable[..., Upkeep], collected: list[float], text: str
) -> None:
    (library.root / "upkeep.json").write_text(text)
    keeping = keep(settle_s=3600)
    status = keeping.status()
    keeping.close()
    assert status["scrubbed"] == 0 and collected == []
    assert all(isinstance(status[name], float) and time.time() - status[name] < WAIT_S  # type: ignore[operator]
               for name in ("collected", "scrub_began"))  # fmt: skip


def test_it_ends_at_once(library: Library, keep: Callable[..., Upkeep]) -> None:
    keeping = keep(settle_s=3600)
    # Else it would sleep for an hour.
    keeping.close()
    assert saved(library).keys() == {"collected", "scrub_began", "scrubbed"}


def test_the_scrub_reads_in_the_idle_class(
    library: Library, keep: Callable[..., Upkeep], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = {"x86_64": 252, "aarch64": 31}.get(platform.machine())
    if number is None:
        pytest.skip("NOT RUN: the number of ioprio_get(2) is not known on this machine")
    classes: list[int] = []

    def check(library: Library, digest: Digest) -> None:
        # Of the calling thread: the class stands in the bits from 13 on, and 3 is idle.
        classes.append(ctypes.CDLL(None).syscall(number, 1, 0) >> 13)

    monkeypatch.setattr(healing, "quarantine_if_damaged", check)
    keep(collected=time.time(), scrub_began=time.time(), scrubbed="")
    end = time.monotonic() + WAIT_S
    while not classes and time.monotonic() < end:
        time.sleep(0.01)
    assert classes and set(classes) == {3}
