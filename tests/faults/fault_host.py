"""Runs operations on a library over and over, each time killed, or refused, one system call later: `fault_host.py ...`.

A process that has everything imported forks for each attempt, so that hundreds of them take seconds. In the fork,
the calls of `os` that change a disk are counted over all threads, and at the n-th one the fork kills itself (before the
call, or in the middle of a write), or the call fails. LMDB's own calls are made in C and not seen here: tests that use
strace reach those. A second fork looks at what is left.

    fault_host.py kill|torn|EIO|ENOSPC OPERATION DIRECTORY [STEP]

prints one line of JSON: how many attempts there were. It fails with the first attempt that broke a promise.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixfs.errors import MixfsError
from mixfs.journal import Journal
from mixfs.library import compaction, fsck, gc, importing, lost, repairing
from mixfs.library.api import Library
from mixfs.media.samples import make_sample
from mixfs.records import Placement, Session, Trash

CALLS = ("fsync", "fdatasync", "rename", "write", "pwrite", "unlink", "rmdir", "mkdir", "ftruncate", "fchmod", "link")
TIMEOUT_S = 60
# Opened in a fork that was not told to fail; what it needs to write there must not be counted.
real_write = os.write


class Counter:
    """Counts the calls of this process and strikes at the n-th."""

    def __init__(self, mode: str, when: int, *, first: bool = False) -> None:
        self.mode, self.when, self.count = mode, when, 0
        self._lock = threading.Lock()
        self.armed = first
        self.struck = ""

    def install(self) -> Counter:
        for name in CALLS:
            setattr(os, name, self._wrap(name, getattr(os, name)))
        return self

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.armed:
                return function(*arguments, **named)
            with self._lock:
                self.count += 1
                due = self.count == self.when
                if due:
                    self.struck = name
                    if self.mode in ("kill", "torn"):
                        if self.mode == "torn" and name in ("write", "pwrite"):
                            data = memoryview(arguments[1]).cast("B")
                            function(arguments[0], data[: len(data) // 2], *arguments[2:])
                        os.kill(os.getpid(), signal.SIGKILL)
                        time.sleep(10)
            if due:
                number = getattr(errno, self.mode)
                raise OSError(number, os.strerror(number))
            return function(*arguments, **named)

        return call


def fork(function: Callable[[], None]) -> int:
    """Run it in a child; returns the child's pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(TIMEOUT_S)
        function()
        code = 0
    except BaseException:  # noqa: BLE001 - told, and the exit code says it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Attempt:
    """One attempt's directory, and what it was told."""

    def __init__(self, directory: Path) -> None:
        self.root, self.source, self.told = directory / "library", directory / "source", directory / "told"

    def say(self, *words: object) -> None:
        fd = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        real_write(fd, (json.dumps(words) + "\n").encode())
        os.close(fd)

    def said(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.told.read_text().splitlines()] if self.told.exists() else []


def files(source: Path) -> None:
    (source / "Trip" / "deeper").mkdir(parents=True)
    name, picture = make_sample("a1111")
    (source / "Trip" / name).write_bytes(picture)
    for n in range(5):
        (source / "Trip" / f"{n}.bin").write_bytes(b"file %d" % n * 100)
    (source / "Trip" / "deeper" / "again.bin").write_bytes(b"file 1" * 100)
    (source / "Trip" / "deeper" / name).write_bytes(picture)


# -- the operations: each tells what was acknowledged, and raises nothing but what a user would be told


def create(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        attempt.say("title", library.create_session("New").title)


def import_(attempt: Attempt) -> None:
    importing.BATCH_FILES = 2
    with Library.open(attempt.root) as library:
        def tell(report: importing.ImportReport) -> None:
            attempt.say("files", report.files - len(report.failed))

        report = library.import_paths([attempt.source / "Trip"], session="Imported")
        # In one line at the end too: with `progress` the numbers come as they are committed.
        tell(report)
        if report.failed:
            attempt.say("refused", [failure.reason for failure in report.failed])


def delete(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        session = library.find_session("Kept")
        for placement in library.placements(session.id):
            attempt.say("deleting", placement.id)
            library.delete_placement(placement.id)
            attempt.say("deleted", placement.id)
        library.delete_session(library.find_session("Goes").id)
        attempt.say("session deleted")


def edit(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        session = library.find_session("Kept")
        library.retitle_session(session.id, "Retitled")
        attempt.say("title", "Retitled")
        placement = next(each for each in library.placements(session.id) if each.area == "images")
        library.annotate(placement.digest, tags=["sea"], rating=7)
        attempt.say("rating", placement.digest.hex())
        library.move_placement(placement.id, library.find_session("Goes").id)
        attempt.say("moved", placement.id)


def rebuild(attempt: Attempt) -> None:
    fsck.rebuild(attempt.root)
    attempt.say("rebuilt")


def without_index(attempt: Attempt) -> None:
    shutil.rmtree(attempt.root / "index")
    edit(attempt)


def repair(attempt: Attempt) -> None:
    repairing.repair(attempt.root, [attempt.source])
    attempt.say("repaired")


def collect(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        gc.expire_trash(library, [trash.id for trash in library.trash()])
        freed = gc.collect(library, grace_hours=0)
        attempt.say("freed", freed.blobs)


def empty_lost(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        gc.collect(library, trash_days=0)
        attempt.say("deleted for good")


def adopt(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        lost.adopt(library)
        attempt.say("adopted")


def compact(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        compaction.compact(library, keep_days=1)
        attempt.say("compacted")


def restore(attempt: Attempt) -> None:
    with Library.open(attempt.root) as library:
        attempt.say("title", library.restore_session("Deleted").title)


OPERATIONS: dict[str, Callable[[Attempt], None]] = {
    "create": create, "import": import_, "delete": delete, "edit": edit, "rebuild": rebuild,
    "without-index": without_index, "repair": repair, "gc": collect, "compact": compact,
    "restore": restore, "adopt": adopt, "empty-lost": empty_lost,
}  # fmt: skip


# -- what must hold afterwards


def look(attempt: Attempt, operation: str, before: dict[str, Any]) -> None:
    """All that was acknowledged is there, nothing is torn, the library opens by itself and goes on."""
    said = attempt.said()
    if operation not in ("create", "repair"):
        # As it lies there, before anybody opens it and repairs it.
        report = fsck.check(attempt.root)
        assert report.clean, report.problems
    if operation == "repair":
        # Whatever a killed one left, the next one goes on from there.
        _, report = repairing.repair(attempt.root, [attempt.source])
        assert report.clean, report.problems
    if operation in ("gc", "adopt"):
        # Moved or not, nothing is gone. The next run goes on where a killed one stopped.
        assert originals(attempt.root) >= set(before["originals"]), "an original is lost"
        OPERATIONS[operation](attempt)
        assert originals(attempt.root) >= set(before["originals"])
        assert len(originals(attempt.root, "lost")) == (4 if operation == "gc" else 0)
    elif operation == "empty-lost":
        empty_lost(attempt)
        # A note whose original is nowhere stays, because it is the last that is known of it.
        left = [path for path in (attempt.root / "lost").rglob("*") if path.is_file()]
        assert not [path for path in left if path.suffix != ".json"]
    with Library.open(attempt.root) as library:
        if operation == "adopt":
            names = [each.name for each in library.placements(library.find_session("Recovered").id)]
            assert sorted(names) == [b"0.txt", b"1.txt", b"2.txt", b"3.txt"]
        library.create_session("afterwards")
        with library.read() as view:
            sessions = {session.title: session for session in view.records(Session)}
            placements = {placement.id: placement for placement in view.records(Placement)}
            trashed = {trash.id for trash in view.records(Trash)}
        for placement in placements.values():
            assert sha256(library.read_image(placement.digest)) == placement.digest.hex()
        for word, *rest in said:
            if word == "title":
                assert rest[0] in sessions, f"{rest[0]} is lost"
            elif word == "files" and rest[0]:
                held = library.placements(sessions["Imported"].id)
                assert len(held) >= rest[0], f"{rest[0]} files were reported, {len(held)} are there"
            elif word == "deleted":
                assert rest[0] not in placements, "a deletion came undone"
            elif word == "session deleted":
                assert "Goes" not in sessions
            elif word == "rating":
                assert library.annotation(rest[0]).rating == 7
            elif word == "moved":
                assert placements[rest[0]].session_id == sessions["Goes"].id
        # What nobody touched is as it was; what was deleted is in the trash.
        if operation not in ("create",):
            touched = {rest[0] for word, *rest in said if word in ("deleting",)}
            gone = set(before["placements"]) - set(placements) - touched
            assert not gone or (operation == "delete" and len(trashed) > len(before["trash"]))
    report = fsck.check(attempt.root)
    assert report.clean, report.problems
    if operation == "compact":
        with Library.open(attempt.root) as library:
            held = rows(library)
            library.store.rebuild_index()
            assert rows(library) == held, "the journal says otherwise than the index"
    assert not any("journal" in line for line in report.notes), report.notes
    leftovers = list(attempt.root.glob("index.*"))
    assert not leftovers, leftovers
    staging = [path for path in (attempt.root / "staging").iterdir() if not path.name.startswith(".")]
    assert not staging, staging
    problems = (attempt.root / "problems.jsonl").read_text() if (attempt.root / "problems.jsonl").exists() else ""
    assert '"journal-damaged"' not in problems, problems


def originals(root: Path, *folders: str) -> set[str]:
    """The digests of the files in blobs/ and lost/ whose bytes are right."""
    paths = (path for folder in folders or ("blobs", "lost") for path in (root / folder).rglob("*") if path.is_file())
    named = ((path.parent.name + path.name, path) for path in paths)
    return {name for name, path in named if sha256(path.read_bytes()) == name}


def rows(library: Library) -> dict[bytes, bytes]:
    """All rows of the index but those that count commits."""
    with library.read() as view:
        return {key: value for key, value in view.txn.scan(b"\0", b"\xff") if key[:1] not in (b"e", b"m")}


def prepare(directory: Path, operation: str) -> dict[str, Any]:
    """A library with two sessions, and files to import; in a child, because LMDB and fork don't mix."""
    attempt = Attempt(directory)
    files(attempt.source)

    def make() -> None:
        with Library.open(attempt.root) as library:
            for title in ("Kept", "Goes"):
                library.create_session(title)
            kept, goes = library.find_session("Kept"), library.find_session("Goes")
            library.import_bytes(make_sample("a1111")[1], "0.png", session_id=kept.id)
            for n in range(3):
                library.import_bytes(b"kept %d" % n, f"{n}.txt", session_id=kept.id)
                library.import_bytes(b"goes %d" % n, f"{n}.txt", session_id=goes.id)
            placements = [placement.id for session in (kept, goes) for placement in library.placements(session.id)]
            (directory / "before").write_text(json.dumps({"placements": placements, "trash": []}))

    def throw_away() -> None:
        with Library.open(attempt.root) as library:
            session = library.create_session("Deleted")
            for n in range(4):
                library.import_bytes(b"deleted %d" % n, f"{n}.txt", session_id=session.id)
            library.delete_placement(library.placements(session.id)[0].id)
            library.delete_session(session.id)
            if operation in ("adopt", "empty-lost"):
                gc.collect(library, trash_days=0, grace_hours=0)

    def work_on() -> None:
        with Library.open(attempt.root) as library:
            for n in range(6):
                session = library.create_session(f"Later {n}")
                library.import_bytes(b"later %d" % n, f"{n}.txt", session_id=session.id)
                if n % 2:
                    library.delete_session(session.id)

    if operation == "create":
        return {"placements": [], "trash": []}
    assert ended(fork(make)) == 0
    if operation == "repair":
        damage(attempt)
    if operation in ("gc", "compact", "restore", "adopt", "empty-lost"):
        assert ended(fork(throw_away)) == 0
    if operation == "compact":
        # Several segments, and times that a compaction kept.
        assert ended(fork(lambda: compact(attempt))) == 0
        assert ended(fork(work_on)) == 0
    found: dict[str, Any] = json.loads((directory / "before").read_text())
    found["originals"] = list(originals(attempt.root))
    return found


def damage(attempt: Attempt) -> None:
    """A flipped bit in one original, another is gone, and so is a row of the index."""
    (attempt.source / "copies").mkdir()
    flipped, gone, *_ = sorted(path for path in (attempt.root / "blobs").rglob("*") if path.is_file())
    for path in (flipped, gone):
        shutil.copy(path, attempt.source / "copies" / path.name)
    flipped.chmod(0o600)
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    gone.unlink()
    index = attempt.root / "index" / "data.mdb"
    index.write_bytes(index.read_bytes().replace(b"Goes", b"Gone"))


def attempts(mode: str, operation: str, base: Path, step: int = 1) -> dict[str, Any]:
    """Strike at call 1, 1 + step, … until the operation comes through untouched."""
    if operation == "compact":
        Journal.__init__.__kwdefaults__["segment_limit"] = 2048
    template = base / "template"
    template.mkdir(parents=True)
    before = prepare(template, operation)
    struck: dict[str, int] = {}
    when = 1
    while True:
        directory = base / f"{when}"
        # Unlike a copied library, a renamed one keeps its inode; so the replica's id is told to stay.
        shutil.copytree(template, directory, symlinks=True)
        attempt = Attempt(directory)
        rebind(attempt.root)

        def strike(attempt: Attempt = attempt, when: int = when) -> None:
            counter = Counter(mode, when, first=True).install()
            try:
                OPERATIONS[operation](attempt)
            except (OSError, MixfsError) as error:
                attempt.say("raised", type(error).__name__, str(error))
                counter.armed = False
            counter.armed = False
            attempt.say("ended", counter.struck)

        code = ended(fork(strike))
        said = attempt.said()
        came_through = ["ended", ""] in said
        assert code == 0 or (mode in ("kill", "torn") and code == -signal.SIGKILL), (when, code, said)
        if ended(fork(lambda attempt=attempt: look(attempt, operation, before))):  # type: ignore[misc]
            raise SystemExit(f"{mode} at call {when} of {operation}: {said}; see {directory}")
        for word, *rest in said:
            if word == "ended":
                struck[rest[0] or "-"] = struck.get(rest[0] or "-", 0) + 1
        shutil.rmtree(directory)
        if came_through:
            return {"attempts": (when - 1) // step + 1, "calls": when, "struck": struck}
        when += step


def rebind(root: Path) -> None:
    """Bind a copied library's replica to where it lies now, as if it had been there all the time."""
    path = root / "format"
    if path.exists():
        text = path.read_text()
        old = text.split('bound_to = "')[1].split('"')[0]
        path.write_text(text.replace(old, f"{old.rpartition(':')[0]}:{root.stat().st_ino}"))


if __name__ == "__main__":
    mode_, operation_, base_, *rest_ = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        print(json.dumps(attempts(mode_, operation_, Path(base_), *map(int, rest_))))
