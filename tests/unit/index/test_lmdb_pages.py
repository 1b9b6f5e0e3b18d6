"""An LMDB file that was cut short, overwritten or flipped never ends the process."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mixfs.errors import IndexDamaged
from mixfs.index.lmdb_engine import LmdbEngine

MAP = 1 << 24


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three commits, three levels, deleted keys and values on pages of their own."""
    path = tmp_path_factory.mktemp("lmdb") / "index"
    engine = LmdbEngine(path, map_size=MAP)
    chance = random.Random(1)
    for _ in range(3):
        with engine.write() as txn:
            for n in range(4000):
                txn.put(b"key %06d" % chance.randrange(9000) + b"-" * (n % 90), chance.randbytes(n % 200))
            for n in range(0, 9000, 7):
                txn.delete(b"key %06d" % n)
            txn.put(b"long", chance.randbytes(30_000))
    engine.check()
    engine.close()
    return (path / "data.mdb").read_bytes()


def file_with(tmp_path: Path, data: bytes) -> Path:
    index = tmp_path / "index"
    index.mkdir(exist_ok=True)
    (index / "data.mdb").write_bytes(data)
    return index


_READ = """
import sys
from pathlib import Path
from mixfs.errors import IndexDamaged
from mixfs.index.lmdb_engine import LmdbEngine
for path in sys.argv[1:]:
    try:
        engine = LmdbEngine(Path(path), map_size=1 << 24)
        engine.check()
        with engine.read() as txn:
            print(len(list(txn.scan(b"\\0", b"\\xff" * 512))))
        engine.close()
    except IndexDamaged:
        print("damaged")
"""


def read(*paths: Path) -> list[str]:
    """What a process of its own finds in each: a crash must fail the test, not end it."""
    ran = subprocess.run(
        [sys.executable, "-c", _READ, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    return ran.stdout.split()


def test_a_whole_file_is_well(tmp_path: Path, sample: bytes) -> None:
    (found,) = read(file_with(tmp_path, sample))
    assert int(found) > 5000


def test_cut_to_any_length(tmp_path: Path, sample: bytes) -> None:
    lengths = [0, 1, 15, 16, 100, 151, 152, 4095, 4096, 4097, 4248, 8191, 8192, 8193, 12288, len(sample) // 2]
    lengths += [len(sample) // 2 + 77, len(sample) - 4096, len(sample) - 1]
    paths = []
    for length in lengths:
        (tmp_path / str(length)).mkdir()
        paths.append(file_with(tmp_path / str(length), sample[:length]))
    found = read(*paths)
    assert found[0] == "0"
    # The very last pages may hold nothing any more; anything else is missed.
    assert set(found[1:-2]) == {"damaged"}


@pytest.mark.parametrize("seed", range(3))
def test_garbage_in_the_meta_pages(tmp_path: Path, sample: bytes, seed: int) -> None:
    chance = random.Random(seed)
    paths = []
    for n in range(60):
        data = bytearray(sample)
        page = chance.choice((0, 4096))
        start = page + chance.randrange(0, 152)
        length = chance.choice((1, 2, 4, 8, 152))
        data[start : start + length] = chance.choice((os.urandom(length), bytes(length), b"\xff" * length))
        (tmp_path / str(n)).mkdir()
        paths.append(file_with(tmp_path / str(n), bytes(data)))
    assert len(read(*paths)) == len(paths)


def test_flipped_bits_anywhere_are_no_crash(tmp_path: Path, sample: bytes) -> None:
    """In keys, offsets, sizes, references; a bit of a value or of a free page is not this check's business."""
    chance = random.Random(5)
    paths = []
    for n in range(150):
        data = bytearray(sample)
        for _ in range(chance.choice((1, 40))):
            # Mostly where a page's head, offsets and nodes' heads are.
            page = chance.randrange(2, len(data) // 4096) * 4096
            data[page + chance.choice((chance.randrange(16), chance.randrange(200), chance.randrange(4096)))] ^= (
                1 << chance.randrange(8)
            )
        (tmp_path / str(n)).mkdir()
        paths.append(file_with(tmp_path / str(n), bytes(data)))
    found = read(*paths)
    assert found.count("damaged") > 50


def test_a_value_that_got_shorter_keeps_the_pages_of_the_longer_one(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "index", map_size=MAP)
    with engine.write() as txn:
        txn.put(b"long", bytes(30_000))
        txn.put(b"long", bytes(9_000))
    engine.check()
    engine.close()


def test_a_page_in_use_that_is_listed_as_free_is_found(tmp_path: Path, sample: bytes) -> None:
    """The next commit would overwrite it."""
    data = bytearray(sample)
    newer = max(0, 4096, key=lambda page: struct.unpack_from("<Q", data, page + 144)[0])
    free, main = (struct.unpack_from("<Q", data, newer + 16 + at)[0] for at in (64, 112))
    # The last number on the free list's only page becomes that of the main tree's root.
    (lower,) = struct.unpack_from("<H", data, free * 4096 + 12)
    (offset,) = struct.unpack_from("<H", data, free * 4096 + lower - 2)
    size = struct.unpack_from("<HH", data, free * 4096 + offset)
    end = free * 4096 + offset + 16 + (size[0] | size[1] << 16)
    struct.pack_into("<Q", data, end - 8, main)
    index = file_with(tmp_path, bytes(data))
    engine = LmdbEngine(index, map_size=MAP)
    with pytest.raises(IndexDamaged, match="free"):
        engine.check()
    engine.close()


def test_a_file_cut_under_an_open_engine_is_noticed(tmp_path: Path, sample: bytes) -> None:
    index = file_with(tmp_path, sample)
    engine = LmdbEngine(index, map_size=MAP)
    assert engine.is_current()
    os.truncate(index / "data.mdb", len(sample) // 2)
    assert not engine.is_current() and not engine.is_replaced()
    engine.close()
    with pytest.raises(IndexDamaged, match="cut short"):
        LmdbEngine(index, map_size=MAP)
