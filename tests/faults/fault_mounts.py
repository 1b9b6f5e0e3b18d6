"""A mount whose daemon is struck at the n-th call that changes a disk, while a program works in it.

    fault_mounts.py kill|torn|EIO|ENOSPC DIRECTORY [STEP]

As fault_host.py, which it builds on: one process that has everything imported, and a fork for each daemon. The program
below is this process itself. It knows after each step what may be there: the old state or the new one while the step is
under way, the new one only once it was acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_host import TIMEOUT_S, Counter, ended, fork

from mixfs.daemon import logs
from mixfs.daemon.run import run
from mixfs.library import fsck

GONE = None


class Mounted:
    """A daemon in a fork."""

    def __init__(
        self, directory: Path, counter: Counter | None = None, before: Callable[[], None] = lambda: None,
        root: Path | None = None,
    ) -> None:  # fmt: skip
        self.root, self.point, self.log = root or directory / "library", directory / "mount", directory / "log"
        self.point.mkdir(exist_ok=True)
        reading, writing = os.pipe()

        def serve() -> None:
            os.close(reading)
            # A process group of its own: ^C is for this test, not for each daemon.
            os.setpgid(0, 0)
            before()
            if counter is not None:
                counter.install().armed = True
            logs.configure(self.log, stderr=False)
            run(self.root, self.point, set(), lambda: os.close(writing), None, 30)
            if counter is not None:
                counter.armed = False
                (directory / "struck").write_text(counter.struck or "-")

        self.pid = fork(serve)
        os.close(writing)
        # The end comes when it answers, and when it dies.
        ready, _, _ = select.select([reading], [], [], TIMEOUT_S)
        os.close(reading)
        assert ready, "it neither mounts nor ends"

    def sync(self) -> None:
        fd = os.open(self.point / ".mixfs" / "imported", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def end(self) -> int:
        """Unmount, or take away what a dead daemon left; returns its exit code."""
        if subprocess.run(["fusermount3", "-u", self.point], capture_output=True, timeout=TIMEOUT_S).returncode:
            subprocess.run(["fusermount3", "-uz", self.point], capture_output=True, timeout=TIMEOUT_S)
        return ended(self.pid)


class Model:
    """What each path below the mount may hold: a set of contents, GONE among them."""

    def __init__(self) -> None:
        self.may: dict[str, set[bytes | None]] = {}
        # Written whole, whether or not the close came back: nothing else may ever be in a session.
        self.whole: set[bytes] = set()
        # Being written: any beginning of it may be seen in import/, and in import/ only.
        self.partly: dict[str, bytes] = {}
        # Whether b was there for certain when it was renamed to bb.
        self.renamed = False

    @contextlib.contextmanager
    def change(self, **effects: bytes | None) -> Iterator[None]:
        for path, content in effects.items():
            self.may.setdefault(path, {GONE}).add(content)
        yield
        for path, content in effects.items():
            self.may[path] = {content}


def write(path: Path, data: bytes, *, sync: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for start in range(0, len(data), 3000):
            os.write(fd, data[start : start + 3000])
        if sync:
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def steps(mounted: Mounted, model: Model) -> list[Callable[[], None]]:
    trip, images = mounted.point / "import" / "Trip", mounted.point / "sessions" / "Trip" / "images"
    contents = {name: name.encode() * 2000 for name in ("a", "b", "c", "d", "e")}
    # The effects' keywords are the names in import/Trip, and those in the session with an underscore before them.

    def put(name: str, data: bytes, where: Path, key: str, **how: bool) -> Callable[[], None]:
        def step() -> None:
            model.whole.add(data)
            model.partly[key] = data
            with model.change(**{key: data}):
                write(where / name, data, **how)
            del model.partly[key]

        return step

    def rename() -> None:
        if GONE in model.may["b"]:
            return
        model.renamed = True
        with model.change(b=GONE, bb=contents["b"]):
            os.rename(trip / "b", trip / "bb")

    def rename_in_session() -> None:
        if GONE in model.may["_d"]:
            return
        with model.change(_d=GONE, _dd=contents["d"]):
            os.rename(images / "d", images / "dd")

    def remove() -> None:
        with model.change(c=GONE):
            os.unlink(trip / "c")

    def remove_in_session() -> None:
        if "_dd" not in model.may:
            return
        with model.change(_dd=GONE):
            os.unlink(images / "dd")

    def tag() -> None:
        os.setxattr(trip / "bb", "user.colour", b"green")

    return [
        lambda: os.mkdir(trip), put("a", contents["a"], trip, "a"), put("b", contents["b"], trip, "b"),
        put("c", contents["c"], trip, "c", sync=True), rename, tag, mounted.sync,
        put("a", contents["e"], trip, "a"), remove, put("d", contents["d"], images, "_d"), mounted.sync,
        rename_in_session, remove_in_session, mounted.sync,
    ]  # fmt: skip


def held(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return GONE


def look(mounted: Mounted, model: Model) -> None:
    """Through a new daemon: what was acknowledged is there, nothing is torn, everything still works."""
    trip, session = mounted.point / "import" / "Trip", mounted.point / "sessions" / "Trip"
    mounted.sync()
    for name, may in model.may.items():
        path = session / "images" / name[1:] if name[0] == "_" else trip / name
        found = held(path)
        if name in model.partly and found is not None and model.partly[name].startswith(found):
            continue
        assert found in may, f"{name}: {found and found[:10]!r} of {[one and one[:10] for one in may]}"
    if model.renamed:
        assert (held(trip / "b") is None) != (held(trip / "bb") is None), "a rename lost or doubled the file"
    inside = {
        path.name: path.read_bytes()
        for area in ("images", "files") if (session / area).exists() for path in (session / area).iterdir()
    }  # fmt: skip
    for name, data in inside.items():
        beginning = model.partly.get(f"_{name}", b"").startswith(data) and f"_{name}" in model.partly
        assert data in model.whole or beginning, f"{name} is torn in the session"
    for name, may in model.may.items():
        if name[0] != "_" and GONE not in may and name not in model.partly:
            assert inside.get(name) in may, f"{name} was closed and is not in the session: {sorted(inside)}"
    trip.mkdir(exist_ok=True)
    write(trip / "afterwards", b"afterwards")
    mounted.sync()
    # No picture: it lies in files/ of the session.
    assert held(session / "files" / "afterwards") == b"afterwards"


def attempt(mode: str, when: int, directory: Path) -> str:
    """One daemon struck at call `when`; returns what was struck, "-" when nothing was."""
    model = Model()
    mounted = Mounted(directory, Counter(mode, when))
    errors = 0
    for step in steps(mounted, model):
        try:
            step()
        except OSError as error:
            # In a daemon that lives, only what was injected may come back, and what follows from it.
            if mode in ("kill", "torn"):
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.EIO), error
                break
            errors += 1
            allowed = {getattr(errno, mode), errno.ENOENT}
            assert error.errno in allowed, f"{os.strerror(error.errno or 0)} instead of {mode} at {error.filename}"
    code = mounted.end()
    if mode in ("kill", "torn"):
        assert code in (0, -signal.SIGKILL), code
    elif code:
        # Refused while it was starting, before anything was promised.
        assert not model.may or all(GONE in may for may in model.may.values()), "the daemon died of an error"
    again = Mounted(directory)
    try:
        look(again, model)
    finally:
        assert again.end() == 0
    check = fork(lambda: clean(mounted.root, bool(model.partly)))
    assert ended(check) == 0
    struck = directory / "struck"
    return struck.read_text() if struck.exists() else mode


def clean(root: Path, unclosed: bool) -> None:
    report = fsck.check(root)
    assert report.clean, report.problems
    left = [path for path in (root / "staging").iterdir() if not path.name.startswith(".")]
    # What was never closed waits there for its program to come back.
    assert unclosed or not left, [str(path) for folder in left for path in folder.iterdir()]


def attempts(mode: str, base: Path, step: int) -> dict[str, Any]:
    base.mkdir(parents=True)
    when, made, struck = 1, 0, {}  # type: ignore[var-annotated]
    while True:
        directory = base / str(when)
        directory.mkdir()
        made += 1
        try:
            what = attempt(mode, when, directory)
        except BaseException:
            print(f"{mode} at call {when}; see {directory}", file=sys.stderr)
            raise
        struck[what] = struck.get(what, 0) + 1
        shutil.rmtree(directory)
        if what == "-":
            return {"attempts": made, "calls": when, "struck": struck}
        when += step


if __name__ == "__main__":
    print(json.dumps(attempts(sys.argv[1], Path(sys.argv[2]), int((sys.argv[3:] or ["1"])[0]))))
