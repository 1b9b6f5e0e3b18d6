"""Many processes at once, listings while names change, one file written in every way: in import/ of a real mount."""

from __future__ import annotations

import collections
import ctypes
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import Live, living, needs_fuse, until

pytestmark = [pytest.mark.mount, needs_fuse]

_LIBC = ctypes.CDLL(None, use_errno=True)
for _name, _result, _arguments in (
    ("opendir", ctypes.c_void_p, [ctypes.c_char_p]), ("readdir", ctypes.c_void_p, [ctypes.c_void_p]),
    ("telldir", ctypes.c_long, [ctypes.c_void_p]), ("seekdir", None, [ctypes.c_void_p, ctypes.c_long]),
    ("closedir", ctypes.c_int, [ctypes.c_void_p]),
):  # fmt: skip
    getattr(_LIBC, _name).restype, getattr(_LIBC, _name).argtypes = _result, _arguments
# Where d_name stands in a struct dirent.
_D_NAME = 19


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with living(tmp_path_factory.mktemp("storms")) as live:
        live.start()
        yield live
        live.stop()


@pytest.fixture
def folder(shared: Live, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = shared.point / "import" / request.node.name
    path.mkdir()
    yield path
    shutil.rmtree(path)
    assert "handler_failed" not in shared.log.read_text()


def child(work: Callable[[], None]) -> int:
    """Run in a process of its own; returns its pid."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def all_went_well(pids: list[int]) -> None:
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


@pytest.mark.parametrize("seed", range(3))
def test_one_file_written_in_every_way(shared: Live, folder: Path, seed: int) -> None:
    """As fsx does: random offsets, through descriptors and maps, checked against a copy in memory after each."""
    rng = random.Random(seed)
    path, held = folder / "file", bytearray()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for step in range(400):
        at, size = rng.randrange(300_000), rng.choice([1, 10, 4096, 10_000, 70_000])
        data = rng.randbytes(size)
        match rng.randrange(9):
            case 0 | 1:
                os.pwrite(fd, data, at)
                held.extend(bytes(max(0, at + size - len(held))))
                held[at : at + size] = data
            case 2:
                os.ftruncate(fd, at)
                held = held[:at] + bytes(max(0, at - len(held)))
            case 3 if len(held) > size:
                at %= len(held) - size
                with mmap.mmap(fd, len(held)) as mapped:
                    mapped[at : at + size] = data
                held[at : at + size] = data
            case 4 if held:
                with mmap.mmap(fd, len(held), prot=mmap.PROT_READ) as mapped:
                    assert mapped[:] == held, step
            case 5:
                assert os.pread(fd, size, at) == held[at : at + size], step
            case 6:
                with open(path, "ab") as file:
                    file.write(data[:4096])
                held += data[:4096]
            case 7:
                os.close(fd)
                if rng.randrange(2):
                    shared.take_in()
                fd = os.open(path, os.O_RDWR)
            case 8:
                os.fsync(fd)
        assert os.fstat(fd).st_size == len(held), step
    os.close(fd)
    assert path.read_bytes() == held
    shared.take_in()
    assert path.read_bytes() == held


def names_of(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)]


def test_listings_while_names_change(shared: Live, folder: Path) -> None:
    """What stays is listed once in each listing, whatever comes, goes and is renamed beside it by other processes."""
    staying = {f"stays {number:03}" for number in range(300)}
    for name in staying:
        (folder / name).write_bytes(b"stays")
    shared.take_in()
    over_r, over_w = os.pipe()

    def churn(number: int) -> None:
        os.close(over_w)
        os.set_blocking(over_r, False)
        rng = random.Random(number)
        turn = 0
        while turn < 60 or not _ended(over_r):
            turn += 1
            old = folder / f"s{number} {rng.randrange(20)}"
            new = folder / f"t{number} {rng.randrange(20)}"
            old.write_bytes(rng.randbytes(20))
            os.rename(old, new)
            if turn % 3 == 0:
                new.unlink()
            if turn % 50 == 0:
                shared.take_in()

    pids = [child(lambda number=number: churn(number)) for number in range(3)]  # type: ignore[misc]
    try:
        for _ in range(25):
            counted = collections.Counter(names_of(folder))
            assert {name: counted[name] for name in staying if counted[name] != 1} == {}
    finally:
        os.close(over_w)
        all_went_well(pids)
        os.close(over_r)


def _ended(fd: int) -> bool:
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False


def test_places_in_a_listing_stay_right(folder: Path) -> None:
    """A telldir(3) place goes on behind the same name after names before and behind it came and went."""
    names = [f"{number:04}" for number in range(600)]
    for name in names:
        (folder / name).touch()
    stream = _LIBC.opendir(os.fsencode(folder))
    try:
        places: dict[str, int] = {}
        while entry := _LIBC.readdir(stream):
            places[ctypes.string_at(entry + _D_NAME).decode()] = _LIBC.telldir(stream)
        assert set(places) >= set(names)
        for name in names[:100] + names[500:550]:
            (folder / name).unlink()
        (folder / "0099 new").touch()
        for name in ("0150", "0499", "0300"):
            _LIBC.seekdir(stream, places[name])
            following = _LIBC.readdir(stream)
            assert ctypes.string_at(following + _D_NAME).decode() == (
                f"{int(name) + 1:04}" if name != "0499" else "0550"
            )
    finally:
        _LIBC.closedir(stream)


def test_appending_from_several_processes(folder: Path) -> None:
    path = folder / "log"
    path.touch()

    def append(number: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        for line in range(200):
            os.write(fd, b"%d %03d\n" % (number, line))
        os.close(fd)

    all_went_well([child(lambda number=number: append(number)) for number in range(4)])  # type: ignore[misc]
    lines = path.read_bytes().splitlines()
    assert sorted(lines) == sorted(b"%d %03d" % (number, line) for number in range(4) for line in range(200))


def test_processes_in_each_others_way(shared: Live, folder: Path) -> None:
    """Every call on the same few names, from four processes: errors are those that races bring, and all stays right."""
    # ESTALE where a name was another file's twice while one call looked at it: the kernel looks again once only.
    allowed = {"ENOENT", "EEXIST", "ENOTEMPTY", "ENOTDIR", "EISDIR", "EINVAL", "EPERM", "ESTALE"}

    def storm(number: int) -> None:
        import errno

        rng = random.Random(number)
        names = ["a", "b", "c", "d", "d/a", "d/b", "e", "e/d"]
        for _ in range(300):
            one, two = (folder / rng.choice(names) for _ in range(2))
            call = rng.choice([
                lambda one=one: one.write_bytes(rng.randbytes(100)), lambda one=one: one.mkdir(),
                lambda one=one: one.rmdir(), lambda one=one: one.unlink(),
                lambda one=one, two=two: os.rename(one, two), lambda one=one, two=two: os.link(one, two),
                lambda one=one: os.listdir(one), lambda one=one: one.read_bytes(),
                lambda one=one: os.truncate(one, 10), lambda one=one: os.chmod(one, 0o700),
            ])  # fmt: skip
            try:
                call()
            except OSError as error:
                if errno.errorcode[error.errno or 0] not in allowed:
                    print(error, file=sys.stderr, flush=True)
                    raise

    pids = [child(lambda number=number: storm(number)) for number in range(4)]  # type: ignore[misc]
    all_went_well(pids)
    shared.take_in()
    for at, _, files in os.walk(folder):
        for name in files:
            status = os.stat(os.path.join(at, name))
            assert len(Path(at, name).read_bytes()) == status.st_size


def test_a_large_folder_goes_in_one_go(shared: Live, folder: Path) -> None:
    large = folder / "large"
    large.mkdir()
    for number in range(500):
        (large / f"{number}").write_bytes(b"%d" % number)
        if number == 250:
            shared.take_in()
    subprocess.run(["rm", "-r", large], check=True, timeout=60)
    assert names_of(folder) == []


def test_files_that_wait_hold_no_descriptors(shared: Live, folder: Path) -> None:
    """More files may wait than a process may have open: empty ones, and those under temporary names."""

    def held() -> int:
        return len(os.listdir(f"/proc/{shared.pid}/fd"))

    before = held()
    for number in range(200):
        (folder / f"{number}.part").write_bytes(b"%d" % number)
        (folder / f"{number}.png").touch()
        os.chmod(folder / f"{number}.part", 0o640)
    shared.take_in()
    until(lambda: held() < before + 50, f"no more than {before} and a few descriptors, not {held()}")
    for number in range(200):
        os.rename(folder / f"{number}.part", folder / f"{number}.png")
    shared.take_in()
    assert [(folder / f"{number}.png").read_bytes() for number in range(200)] == [b"%d" % n for n in range(200)]


def test_a_stopped_client_holds_nobody_up(shared: Live, folder: Path) -> None:
    """A suspended process with files open for writing: others go on, and its file is taken in once it has closed it."""
    program = (
        "import os, sys\nfile = open(sys.argv[1], 'wb')\nfile.write(b'half')\nfile.flush()\n"
        "print('ready', flush=True)\nsys.stdin.read()\nfile.write(b' and half')\nfile.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, folder / "held"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None and client.stdin is not None
        client.stdout.readline()
        client.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{client.pid}/stat").read_text().split()[2] == "T", "the client stands still")
        (folder / "other").write_bytes(b"other")
        shared.take_in()
        assert "user.mixfs.digest" in os.listxattr(folder / "other")
        assert "user.mixfs.digest" not in os.listxattr(folder / "held")
        assert (folder / "held").read_bytes() == b"half"
        client.send_signal(signal.SIGCONT)
        client.stdin.close()
    assert client.returncode == 0
    shared.take_in()
    assert (folder / "held").read_bytes() == b"half and half"
    assert "user.mixfs.digest" in os.listxattr(folder / "held")
