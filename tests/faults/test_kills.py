"""Processes killed at every system call that matters, and system calls that fail.

Each child is killed by strace at the n-th call of a kind, for each n until it survives. After each: all that was
acknowledged is there, nothing is torn, and the index caught up equals one made from the journal alone.
"""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mixfs.index import keys
from mixfs.library import place
from mixfs.library.store import Store
from mixfs.records import Placement, Session

CHILD = Path(__file__).with_name("child.py")
TIMEOUT = 60


def strace_works() -> bool:
    try:
        probe = [*strace("fsync", "signal=SIGKILL:when=1"), "/bin/true"]
        return subprocess.run(probe, capture_output=True, timeout=TIMEOUT).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def strace(call: str, what: str) -> list[str]:
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{what}"]


needs_strace = pytest.mark.skipif(
    not strace_works(),
    reason="NOT RUN: kills at system calls need strace, and permission to trace (tools/test installs it)",
)


def run_child(root: Path, *arguments: object, under: list[str] | None = None) -> tuple[list[list[str]], int]:
    """What a child said, in words, and its exit code."""
    command = [*(under or []), sys.executable, "-S", str(CHILD), str(root), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    if b"Traceback" in ran.stderr.encode():
        raise AssertionError(ran.stderr)
    return [line.split() for line in ran.stdout.splitlines()], ran.returncode


def environment() -> dict[str, str]:
    # `-S` leaves site-packages out and starts a good deal faster; so the path is handed over.
    return {"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONDONTWRITEBYTECODE": "1"}


def said(words: list[list[str]], first: str) -> list[str]:
    return [line[1] for line in words if line[0] == first]


def rows(store: Store) -> dict[bytes, bytes]:
    with store.read() as view:
        found = dict(view.txn.scan(b"\0", b"\xff" * 512))
    return {key: value for key, value in found.items() if key[:1] != b"e" and key != keys.META_SEQUENCE}


def check(root: Path, acknowledged: list[str], never: list[str] = []) -> None:  # noqa: B006
    """Open what is left, look at it, and go on with it."""
    place.create(root)
    store = Store(root, map_size=1 << 20)
    try:
        with store.read() as view:
            there = {session.id for session in view.records(Session)} - {"afterwards"}
            placed = {placement.session_id for placement in view.records(Placement)}
        assert set(acknowledged) <= there, "an acknowledged commit is lost"
        assert there == placed, "a commit is torn"
        assert not there & set(never), "a commit that failed came back"
        store.commit(lambda txn: txn.put(Session(id="afterwards", name=b"afterwards")))
        caught_up = rows(store)
        store.rebuild_index()
        assert rows(store) == caught_up, "the journal makes another index"
        damage = [line for line in store.problems.read().splitlines() if b"journal-damaged" in line]
        assert not damage
        with store.read() as view:
            assert {session.id for session in view.records(Session)} == there | {"afterwards"}
    finally:
        store.close()
    assert not list(root.glob("index.*")) and not list(root.glob("journal/*/.*.new"))


def until_it_survives(base: Path, attempt, at_least: int, limit: int = 60) -> int:  # type: ignore[no-untyped-def]
    """Call `attempt(n)` for n = 1, 2, … until it says that the child came through; two at a time."""
    with ThreadPoolExecutor(2) as pool:
        for first in range(1, limit, 2):
            if any(list(pool.map(attempt, (first, first + 1)))):
                assert first >= at_least, f"only {first} calls were seen: is it the right system call?"
                return first
    raise AssertionError(f"still killed at call {limit}")


@needs_strace
@pytest.mark.parametrize(
    ("call", "at_least"),
    [("fdatasync", 7), ("fsync", 15), ("rename", 4), ("pwrite64", 10), ("ftruncate", 1), ("mkdir", 8)],
)
def test_killed_at_every_call(tmp_path: Path, call: str, at_least: int) -> None:
    """From an empty directory on; segments of 400 bytes, so that new ones begin in between."""

    def attempt(n: int) -> bool:
        root = tmp_path / f"{call}-{n}"
        words, code = run_child(root, "k", 3, 400, under=strace(call, f"signal=SIGKILL:when={n}"))
        survived = ["end"] in words
        assert survived == (code == 0)
        check(root, said(words, "ok"))
        shutil.rmtree(root)
        return survived

    until_it_survives(tmp_path, attempt, at_least if call != "ftruncate" else 0)


@needs_strace
@pytest.mark.parametrize(("call", "error"), [("fdatasync", "EIO"), ("pwrite64", "ENOSPC"), ("pwrite64", "EIO")])
def test_a_call_that_fails_is_reported_and_the_library_stays_usable(tmp_path: Path, call: str, error: str) -> None:
    failures: list[str] = []

    def attempt(n: int) -> bool:
        root = tmp_path / f"{call}-{error}-{n}"
        words, code = run_child(root, "e", 3, under=strace(call, f"error={error}:when={n}"))
        assert code == 0 and words[-1] == ["end"], words
        failed = said(words, "failed")
        assert len(failed) <= 1
        assert all(line[2] == str(getattr(errno, error)) for line in words if line[0] == "failed")
        assert len(said(words, "ok")) + len(failed) == 3
        check(root, said(words, "ok"), failed)
        shutil.rmtree(root)
        failures.extend(failed)
        # Three commits make fewer calls than that.
        return n > 20

    until_it_survives(tmp_path, attempt, 0)
    # Each commit's own append was hit; what failed in the index was no failure of the commit.
    assert sorted(set(failures)) == ["e-0", "e-1", "e-2"]


@needs_strace
def test_a_disk_that_stays_full_refuses_until_there_is_room(tmp_path: Path) -> None:
    """Every pwrite64 from the 9th on fails, journal's and index's: commits raise, then all is as it was before."""
    root = tmp_path / "full"
    words, _ = run_child(root, "f", 8, under=strace("pwrite64", "error=ENOSPC:when=9+"))
    assert said(words, "failed")
    assert {line[2] for line in words if line[0] == "failed"} == {str(errno.ENOSPC)}
    check(root, said(words, "ok"), said(words, "failed"))


@needs_strace
def test_two_writers_and_one_of_them_killed_at_any_sync(tmp_path: Path) -> None:
    """Every second fdatasync lies between the append and the end of the index's commit."""
    for n in (3, 4, 5, 6, 7, 8):
        root = tmp_path / f"two-{n}"
        place.create(root)
        with ThreadPoolExecutor(2) as pool:
            victim = pool.submit(
                run_child, root, "victim", 6, 700, under=strace("fdatasync", f"signal=SIGKILL:when={n}")
            )
            other = pool.submit(run_child, root, "other", 12, 700)
            words, other_words = victim.result()[0], other.result()[0]
        assert other_words[-1] == ["end"]
        assert len(said(other_words, "ok")) == 12
        check(root, said(words, "ok") + said(other_words, "ok"))


def test_killed_from_outside_at_any_moment(tmp_path: Path) -> None:
    """Two writers; one is killed after some acknowledgements, at no particular place; three times on one library."""
    root = tmp_path / "library"
    place.create(root)
    chance = random.Random(7)
    acknowledged: list[str] = []
    for round_ in range(3):
        children = [
            subprocess.Popen(
                [sys.executable, "-S", str(CHILD), str(root), f"{round_}{name}", "400", "3000"],
                stdout=subprocess.PIPE, text=True, env=environment(),
            )
            for name in ("victim", "other")
        ]  # fmt: skip
        try:
            outputs: list[list[str]] = [[], []]
            for which, count in ((0, chance.randint(3, 25)), (1, 10)):
                pipe = children[which].stdout
                assert pipe is not None
                outputs[which] = [pipe.readline() for _ in range(count)]
                children[which].kill()
            for which, child in enumerate(children):
                # What it had acknowledged before it died counts too; a last line may be cut.
                assert child.stdout is not None
                rest = child.stdout.read()
                lines = ("".join(outputs[which]) + rest).split("\n")[:-1]
                acknowledged += [line.split()[1] for line in lines if line.startswith("ok ")]
        finally:
            for child in children:
                child.kill()
                child.wait()
                assert child.stdout is not None
                child.stdout.close()
        assert len(acknowledged) >= 13 * (round_ + 1)
        check(root, acknowledged)


@needs_strace
def test_a_rebuild_killed_at_any_rename_or_sync(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mixfs.library.store import Store; "
        "s = Store(Path(sys.argv[1]), map_size=1 << 20); s.rebuild_index(); s.close()"
    )

    def attempt(call: str, n: int) -> bool:
        root = tmp_path / f"{call}-{n}"
        words, _ = run_child(root, "r", 3)
        ran = subprocess.run(
            [*strace(call, f"signal=SIGKILL:when={n}"), sys.executable, "-S", "-c", code, str(root)],
            capture_output=True, timeout=TIMEOUT, env=environment(),
        )  # fmt: skip
        check(root, said(words, "ok"))
        return ran.returncode == 0

    for call, at_least in (("rename", 3), ("fsync", 3), ("rmdir", 1)):
        assert until_it_survives(tmp_path, lambda n, call=call: attempt(call, n), at_least - 2)
