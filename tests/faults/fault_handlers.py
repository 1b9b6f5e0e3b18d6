"""A mount whose tree raises what it should not, and one whose disk hangs: `fault_handlers.py raise|hang DIRECTORY`.

As fault_mounts.py: the daemon is a fork of this process, in which methods are replaced.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_mounts import Mounted, write

from mixfs.blobs import LocalBlobs
from mixfs.vfs import attributes, files, naming, renaming
from mixfs.vfs.tree import Tree


class OddError(BaseException):
    pass


def recurse() -> None:
    recurse()


def raised(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


ODD: dict[str, Callable[[], None]] = {
    "value": raised(ValueError("\udcff")), "memory": raised(MemoryError()), "recursion": recurse,
    "interrupt": raised(KeyboardInterrupt()), "exit": raised(SystemExit(3)), "stop": raised(StopAsyncIteration()),
    "base": raised(OddError()), "group": raised(BaseExceptionGroup("several", [ValueError(), KeyboardInterrupt()])),
    "assertion": raised(AssertionError()), "unicode": raised(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")),
}  # fmt: skip


def make_odd() -> None:
    """Every method of the tree that a handler calls raises what the file `odd` in the daemon's directory says."""

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            word = Path("odd").read_text() if Path("odd").exists() else ""
            if word:
                ODD[word]()
            return real(*arguments, **named)

        setattr(owner, name, call)

    for owner, names in (
        (Tree, ("lookup", "attr", "entries")), (files, ("opened", "read", "write", "flush", "fsync")),
        (naming, ("create", "make_directory", "unlink", "remove_directory", "link")),
        (renaming, ("rename",)), (attributes, ("get", "set_one", "names", "set_attributes", "remove")),
    ):  # fmt: skip
        for name in names:
            wrap(owner, name)


def raising(directory: Path) -> dict[str, int]:
    os.chdir(directory)
    mounted = Mounted(directory, before=make_odd)
    trip = mounted.point / "import" / "Trip"
    trip.mkdir()
    write(trip / "a", b"a")
    fd = os.open(trip / "b", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"b" * 10)
    calls: list[Callable[[], object]] = [
        lambda: os.stat(trip / "never seen"), lambda: os.listdir(mounted.point / "sessions"),
        lambda: os.open(trip / "a", os.O_RDONLY), lambda: os.open(trip / "new", os.O_WRONLY | os.O_CREAT),
        lambda: os.mkdir(trip / "folder"), lambda: os.unlink(trip / "a"), lambda: os.rename(trip / "a", trip / "c"),
        lambda: os.getxattr(trip / "a", "user.odd"), lambda: os.setxattr(trip / "a", "user.odd", b"1"),
        lambda: os.listxattr(trip / "a"), lambda: os.chmod(trip / "a", 0o600), lambda: os.truncate(trip / "a", 0),
        lambda: os.write(fd, b"more"), lambda: os.fsync(fd), lambda: os.rmdir(trip),
        lambda: os.link(trip / "a", trip / "l"),
    ]  # fmt: skip
    tried = 0
    for word in ODD:
        (directory / "odd").write_text(word)
        for number, call in enumerate(calls):
            try:
                call()
            except OSError as error:
                assert error.errno == errno.EIO, (word, number, error)
            else:
                raise AssertionError(f"call {number} worked though the tree raised {word}")
            tried += 1
        (directory / "odd").unlink()
        # It lives, and nothing has changed.
        assert sorted(os.listdir(trip)) == ["a", "b"] and (trip / "a").read_bytes() == b"a", word
    os.close(fd)
    mounted.sync()
    assert sorted(os.listdir(mounted.point / "sessions" / "Trip" / "files")) == ["a", "b"]
    assert mounted.end() == 0
    return {"tried": tried}


def hanging(directory: Path) -> dict[str, float]:
    """Forty programs open and read what never comes; all others go on as if nothing were."""
    gate, release = os.pipe()
    hung_open, hung_read, other = (os.urandom(300_000) for _ in range(3))
    hung: set[int] = set()

    def make_hang() -> None:
        open_cached, blob_open, preadv = LocalBlobs.open_cached, LocalBlobs.open, os.preadv

        def wait() -> None:
            # Readable for all of them when the other end is closed.
            os.read(gate, 1)

        def size_of(store: LocalBlobs, digest: Any) -> bytes:
            return store.path(digest).read_bytes()

        def cached(store: LocalBlobs, digest: Any) -> int | None:
            return None if size_of(store, digest) == hung_open else note(store, digest, open_cached(store, digest))

        def opened(store: LocalBlobs, digest: Any) -> int:
            if size_of(store, digest) == hung_open:
                wait()
            return note(store, digest, blob_open(store, digest))  # type: ignore[return-value]

        def note(store: LocalBlobs, digest: Any, fd: int | None) -> int | None:
            if fd is not None and size_of(store, digest) == hung_read:
                hung.add(os.fstat(fd).st_ino)
            return fd

        def read(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
            if os.fstat(fd).st_ino in hung:
                if flags & os.RWF_NOWAIT:
                    raise BlockingIOError(errno.EAGAIN, "the disk hangs")
                wait()
            return preadv(fd, buffers, offset, flags)

        os.close(release)
        LocalBlobs.open_cached, LocalBlobs.open, os.preadv = cached, opened, read  # type: ignore[method-assign,assignment]

    mounted = Mounted(directory)
    trip = mounted.point / "import" / "Trip"
    trip.mkdir()
    for name, data in (("open", hung_open), ("read", hung_read), ("other", other)):
        write(trip / name, data)
    mounted.sync()
    assert mounted.end() == 0
    mounted = Mounted(directory, before=make_hang)
    readers = [
        subprocess.Popen(["cat", trip / name], stdout=subprocess.PIPE) for name in ("open", "read") for _ in range(20)
    ]
    # Long enough for all of them to have asked; what follows is measured with the disk hanging.
    deadline = time.monotonic() + 20
    while sum(waits_in(reader.pid) in (b"request_wait_answer", b"folio_wait_bit_common") for reader in readers) < 35:
        assert time.monotonic() < deadline, [waits_in(reader.pid) for reader in readers]
        time.sleep(0.02)
    # Whoever waited for the disk would wait until it answers, which it doesn't before all of this is done.
    began = time.monotonic()
    assert (trip / "other").read_bytes() == other
    for n in range(30):
        write(trip / f"new-{n}", b"new %d" % n, sync=n % 10 == 0)
    os.listdir(mounted.point / "sessions" / "Trip" / "files")
    os.rename(trip / "new-0", trip / "renamed")
    mounted.sync()
    assert (mounted.point / "sessions" / "Trip" / "files" / "renamed").read_bytes() == b"new 0"
    took = time.monotonic() - began
    assert all(reader.poll() is None for reader in readers), "they do not hang"
    os.close(release)
    for number, reader in enumerate(readers):
        assert reader.communicate(timeout=30)[0] == (hung_open if number < 20 else hung_read)
    assert mounted.end() == 0
    return {"took_s": round(took, 3)}


def waits_in(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/wchan").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.mkdir()
    print(json.dumps((raising if sys.argv[1] == "raise" else hanging)(place)))
