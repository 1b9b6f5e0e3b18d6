"""A daemon that is killed loses nothing that a program was told was written, at whatever moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import DEADLINE_S, Live, environment, everything, living, needs_fuse, python, sha256, until

from mixfs.media.samples import make_sample

pytestmark = [pytest.mark.mount, needs_fuse]

# Copies a folder, and names each file whose close(2) came back.
COPY = """
import os, sys
source, target = sys.argv[1:]
for name in sorted(os.listdir(source)):
    with open(f"{source}/{name}", "rb") as file:
        data = file.read()
    fd = os.open(f"{target}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for start in range(0, len(data), 4096):
        os.write(fd, data[start:start + 4096])
    os.close(fd)
    os.write(1, f"{name}\\n".encode())
"""
# What `mixfs wait` does, again and again until the mount is gone.
WAIT = """
import os, sys
while True:
    fd = os.open(f"{sys.argv[1]}/.mixfs/imported", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path) as live:
        yield live


def make_files(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Small files of several kinds; name -> SHA-256."""
    rng = random.Random(seed)
    folder.mkdir()
    _, picture = make_sample("a1111")
    for n in range(count):
        data = rng.randbytes(rng.randint(1, 12_000))
        if n % 50 == 0:
            data = picture + data[:8]
        elif n % 10 == 3:
            # Known already when it is published: then its file in staging is removed, not renamed.
            data = b"the same again"
        (folder / f"{n:04}{rng.choice(['.png', '.txt', '', '.jpeg'])}").write_bytes(data)
    return {path.name: sha256(path) for path in folder.iterdir()}


def copying(live: Live, source: Path) -> subprocess.Popen[bytes]:
    target = live.point / "import" / "Trip"
    target.mkdir(exist_ok=True)
    return subprocess.Popen(
        python("-c", COPY, source, target), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def waiting(live: Live) -> subprocess.Popen[bytes]:
    return subprocess.Popen(python("-c", WAIT, live.point), env=environment(), stderr=subprocess.DEVNULL)


def in_session(live: Live, title: str = "Trip") -> dict[str, str]:
    """name -> SHA-256 of what a session holds, as the mount shows it."""
    out = {}
    for area in ("images", "files"):
        folder = live.point / "sessions" / title / area
        for path in folder.iterdir() if folder.exists() else []:
            out[path.name] = sha256(path)
    return out


def check_after_kill(live: Live, digests: dict[str, str], acknowledged: list[str]) -> None:
    """Mount what is left, wait, and compare: all that was acknowledged, nothing torn, nothing twice."""
    live.start()
    live.take_in()
    found = in_session(live)
    lost = [name for name in acknowledged if name not in found]
    assert not lost, f"acknowledged and lost: {lost}"
    torn = [name for name, digest in found.items() if digests.get(name) != digest]
    assert not torn, f"torn, or twice: {torn}"
    listed = set(os.listdir(live.point / "import" / "Trip"))
    assert set(acknowledged) <= listed
    for name in acknowledged:
        assert sha256(live.point / "import" / "Trip" / name) == digests[name]


@pytest.mark.parametrize("seed", range(4))
def test_a_daemon_killed_while_files_are_copied_in_loses_none_that_was_closed(live: Live, tmp_path: Path, seed: int):
    rng = random.Random(seed)
    digests = make_files(tmp_path / "source", 300, seed)
    live.start()
    copier = copying(live, tmp_path / "source")
    # In every other run the intake is at work all the while, not one quiet second behind.
    waiter = waiting(live) if seed % 2 else None
    assert copier.stdout is not None
    acknowledged: list[str] = []
    kill_at = rng.randint(1, 290)
    for line in copier.stdout:
        acknowledged.append(line.decode().rstrip("\n"))
        if len(acknowledged) == kill_at:
            threading.Event().wait(rng.uniform(0, 0.02))
            os.kill(live.pid, signal.SIGKILL)
    copier.stdout.close()
    assert copier.wait(timeout=DEADLINE_S) != 0
    if waiter is not None:
        assert waiter.wait(timeout=DEADLINE_S) != 0
    live.buried()
    assert kill_at <= len(acknowledged) < 300
    check_after_kill(live, digests, acknowledged)


def strace_works() -> bool:
    try:
        probe = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:signal=SIGKILL:when=1", "/bin/true"]
        return subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.skipif(not strace_works(), reason="NOT RUN: kills at system calls need strace, and permission to trace")
@pytest.mark.parametrize(
    ("call", "when"),
    [("/^link", 1), ("/^link", 2), ("/^link", 7), ("fsync", 2), ("fdatasync", 1), ("fdatasync", 2), ("fdatasync", 3),
     ("write", 20), ("write", 333), ("pwrite64", 3), ("pwrite64", 20), ("unlink", 1), ("unlink", 2)],
)  # fmt: skip
def test_a_daemon_killed_at_a_call_of_the_intake_takes_all_in_when_it_is_back(
    live: Live, tmp_path: Path, call: str, when: int
) -> None:
    digests = make_files(tmp_path / "source", 40, when)
    live.start()
    (live.point / "import" / "Trip").mkdir()
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={when}",
         "-p", str(live.pid)],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert tracer.stderr is not None
    assert b"attached" in tracer.stderr.readline()
    copier = copying(live, tmp_path / "source")
    acknowledged = [line.decode().rstrip("\n") for line in copier.stdout or []]
    copier.communicate()
    # Counted for each thread: the worker threads have to come to it, so there is always more to do.
    waiter = waiting(live)
    later = 0
    while waiter.poll() is None:
        try:
            (live.point / "import" / "Trip" / f"later-{later}").write_bytes(b"later %d" % later)
        except OSError:
            break
        later += 1
        threading.Event().wait(0.02)
    assert waiter.wait(timeout=DEADLINE_S) != 0
    live.buried()
    tracer.stderr.close()
    tracer.wait(timeout=DEADLINE_S)
    for n in range(later + 1):
        digests[f"later-{n}"] = hashlib.sha256(b"later %d" % n).hexdigest()
    acknowledged += [f"later-{n}" for n in range(later)]
    check_after_kill(live, digests, acknowledged)


# cp, one file at a time, and the names of those for which it succeeded.
CP = 'cd "$1" && find . -type f | sort | while read -r f; do cp "$f" "$2/$f" && echo "$f"; done'


def test_every_file_whose_cp_succeeded_is_there_after_kills_at_random_instants(live: Live, tmp_path: Path):
    rng = random.Random(os.urandom(8))
    source, kills = tmp_path / "source", 3
    digests = make_files(source, 60 * kills, 7)
    copied: dict[str, str] = {}
    for turn in range(kills + 1):
        live.start()
        target = live.point / "import" / "Trip"
        target.mkdir(exist_ok=True)
        waiter = waiting(live) if turn % 2 else None
        copier = subprocess.Popen(
            ["sh", "-c", CP, "sh", source, target], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert copier.stdout is not None
        kill_at = rng.randint(1, 50)
        for done, line in enumerate(copier.stdout, 1):
            name = line.decode().rstrip("\n").removeprefix("./")
            copied[name] = digests[name]
            (source / name).unlink()
            if done == kill_at and turn < kills:
                threading.Event().wait(rng.uniform(0, 0.01))
                os.kill(live.pid, signal.SIGKILL)
        copier.stdout.close()
        copier.wait(timeout=DEADLINE_S)
        if turn < kills:
            live.buried()
            if waiter is not None:
                waiter.wait(timeout=DEADLINE_S)
    assert copied == digests
    live.take_in()
    assert in_session(live) == digests
    assert {name: sha256(target / name) for name in os.listdir(target)} == digests
    assert imported(live) == []


def imported(live: Live) -> list[str]:
    waiting_names: list[str] = json.loads((live.point / ".mixfs" / "imported").read_bytes())["waiting"]
    return waiting_names


def test_a_file_that_was_not_closed_is_listed_again_as_it_was_and_waits(live: Live):
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    fd = os.open(trip / "open.bin", os.O_WRONLY | os.O_CREAT, 0o640)
    os.write(fd, b"half of ")
    os.setxattr(trip / "open.bin", "user.colour", b"green")
    before = os.fstat(fd)
    live.kill()
    with pytest.raises(OSError):
        os.close(fd)

    live.start()
    live.take_in()
    again = os.stat(trip / "open.bin")
    assert (again.st_ino, again.st_mode, again.st_size) == (before.st_ino, before.st_mode, 8)
    assert again.st_mtime_ns == before.st_mtime_ns
    assert os.getxattr(trip / "open.bin", "user.colour") == b"green"
    assert imported(live) == ["open.bin"]
    assert "open.bin" not in in_session(live)
    with open(trip / "open.bin", "ab") as file:
        file.write(b"it")
    live.take_in()
    assert imported(live) == []
    assert (live.point / "sessions" / "Trip" / "files" / "open.bin").read_bytes() == b"half of it"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_temporary_names_survive_and_are_taken_in_under_their_real_name(live: Live, how: str):
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    names = {".hidden": b"a", "b.part": b"b", "c~": b"c", "empty": b""}
    inos = {}
    for name, data in names.items():
        (trip / name).write_bytes(data)
        inos[name] = os.stat(trip / name).st_ino
    getattr(live, how)()
    live.start()
    live.take_in()
    assert {name: (trip / name).read_bytes() for name in os.listdir(trip)} == names
    assert {name: os.stat(trip / name).st_ino for name in names} == inos
    assert in_session(live) == {}
    (trip / "b.part").rename(trip / "b.bin")
    (trip / "empty").write_bytes(b"no more")
    live.take_in()
    assert set(in_session(live)) == {"b.bin", "empty"}
    assert os.stat(trip / "b.bin").st_ino == inos["b.part"]


def test_a_damaged_staging_log_loses_no_file(live: Live):
    live.start()
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    _, picture = make_sample("a1111")
    for n in range(20):
        # Such names are not taken in by themselves.
        (trip / f"{n}.part").write_bytes(picture if n == 11 else b"bytes of %d" % n)
    written = sorted(path.read_bytes() for path in trip.iterdir())
    live.kill()
    [log] = live.library.glob("staging/*/log")
    data, rng = bytearray(log.read_bytes()), random.Random(20)
    for _ in range(6):
        data[rng.randrange(len(data))] ^= 1
    log.write_bytes(data.replace(b"11.part", b"11.qart"))

    live.start()
    live.take_in()
    recovered = live.point / "import" / "Recovered"
    found = [*trip.iterdir(), *recovered.iterdir()]
    assert sorted(path.read_bytes() for path in found) == written and any(path.suffix == ".png" for path in found)
    assert set(in_session(live, "Recovered").values()) >= {sha256(path) for path in recovered.iterdir()}
    assert "staging-log-damaged" in (live.point / ".mixfs" / "problems.jsonl").read_text()


def folders(top: Path) -> dict[str, tuple[int, int, dict[str, bytes]]]:
    """import/ and the folders below it: mode, mtime, attributes."""
    out = {}
    for path in (top, *(path for path in sorted(top.rglob("*")) if path.is_dir())):
        status = os.stat(path)
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        out[str(path)] = (status.st_mode, status.st_mtime_ns, xattrs)
    return out


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("taken_in", [False, True], ids=["staged", "taken in"])
def test_what_was_set_on_folders_of_import_survives(live: Live, how: str, taken_in: bool):
    live.start()
    top = live.point / "import"
    set_all, changed = top / "set", top / "changed"
    for path in (set_all / "deeper", changed, top / "gone"):
        path.mkdir(parents=True)
    for n, path in enumerate((set_all / "deeper", set_all, top)):
        (path / "a.bin").write_bytes(b"%d" % n)
        os.setxattr(path, "user.colour", b"green")
        os.chmod(path, 0o750)
        os.utime(path, ns=(10**18 + n, 10**18 + n))
    if taken_in:
        live.take_in()
    (changed / "b.part").write_bytes(b"waits")
    (top / "gone").rmdir()
    os.utime(top, ns=(10**18, 10**18))
    before = folders(top)
    assert before[str(top)] == (0o40750, 10**18, {"user.colour": b"green"})
    assert before[str(set_all / "deeper")] == (0o40750, 10**18, {"user.colour": b"green"})
    for _ in range(2):
        getattr(live, how)()
        live.start()
        assert folders(top) == before
        # What a listing of the level above says of them is the same.
        listed = {entry.name: entry.stat(follow_symlinks=False).st_mtime_ns for entry in os.scandir(top)}
        assert all(listed[path.name] == before[str(path)][1] for path in (set_all, changed))
    getattr(live, how)()
    shutil.rmtree(live.library / "index")
    live.start()
    assert folders(top) == before


@pytest.mark.parametrize("what", ["valid", "invalid later"])
def test_a_document_that_was_saved_survives_while_a_reader_holds_it_open(live: Live, what: str):
    live.start()
    session = live.point / "sessions" / "Trip"
    session.mkdir()
    path = session / "session.json"
    reader = open(path, "rb")
    document = json.loads(path.read_bytes()) | {"zoom": 2.5}
    path.write_bytes(json.dumps(document).encode())
    if what == "invalid later":
        with pytest.raises(OSError):
            path.write_bytes(b"{no document}")
    live.kill()
    with contextlib.suppress(OSError):
        reader.close()
    live.start()
    assert json.loads(path.read_bytes())["zoom"] == 2.5
    live.stop()
    assert os.listdir(live.library / "staging") == []


def fill(live: Live) -> None:
    """One of everything that a library can show."""
    trip = live.point / "import" / "Trip"
    (trip / "deeper" / "still").mkdir(parents=True)
    for kind in ("a1111", "comfyui", "novelai"):
        name, data = make_sample(kind)
        (trip / name).write_bytes(data)
        (trip / "deeper" / name).write_bytes(data)
    (trip / "deeper" / "still" / "notes.txt").write_bytes(b"the light\n")
    Path(os.fsdecode(os.fsencode(trip) + b"/n\xe4me \xff.bin")).write_bytes(b"latin-1")
    (live.point / "import" / "single.txt").write_bytes(b"for the Inbox")
    (trip / "waits.part").write_bytes(b"waiting")
    os.chmod(trip / "deeper" / "still" / "notes.txt", 0o600)
    os.utime(trip / "deeper", ns=(10**18, 10**18))
    live.take_in()
    os.setxattr(live.point / "sessions" / "Trip" / "images" / name, "user.xdg.tags", b"sea,night")


def comparable(found: dict[bytes, object]) -> dict[bytes, object]:
    """Without the times that say when the library was mounted."""
    fixed = (b"README.txt", b".trackerignore")
    return {path: seen._replace(mtime_ns=0) if path in fixed else seen for path, seen in found.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_remount_shows_the_same_names_numbers_and_bytes_also_without_its_index(live: Live, how: str):
    live.start()
    fill(live)
    getattr(live, how)()
    live.start()
    before = comparable(everything(live.point))
    assert any(path.startswith(b"sessions/Trip/metadata/") for path in before)
    assert any(path.startswith(b"by-model/") for path in before)
    getattr(live, how)()
    live.start()
    assert comparable(everything(live.point)) == before
    getattr(live, how)()
    shutil.rmtree(live.library / "index")
    live.start()
    assert comparable(everything(live.point)) == before
    until(lambda: (live.point / "sessions" / "Trip" / "images").is_dir(), "the mount answers", 1)
