"""The map of an index counts as the memory of the process that read it, until it is given back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mixfs.errors import IndexUnavailable
from mixfs.index.lmdb_engine import LmdbEngine

ROWS, SIZE = 600, 20_000


def mapped(path: Path) -> list[int]:
    """Resident bytes of each map of a file, of deleted ones too."""
    out, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = str(path) in line
        elif inside and line.startswith("Rss:"):
            out.append(int(line.split()[1]) << 10)
    return out


def fill(path: Path) -> LmdbEngine:
    engine = LmdbEngine(path)
    with engine.write() as txn:
        for number in range(ROWS):
            txn.put(b"k%06d" % number, bytes([number % 256]) * SIZE)
    return engine


def total(engine: LmdbEngine) -> int:
    with engine.read() as txn:
        return sum(sum(value[::4096]) for _, value in txn.scan(b"k", b"l"))


def test_pages_are_given_back_and_read_again(tmp_path: Path) -> None:
    engine = fill(tmp_path / "index")
    expected = total(engine)
    assert sum(mapped(tmp_path / "index")) > ROWS * SIZE / 2
    with engine.read() as txn:
        # Beside a transaction that is open, in whose middle a value stands.
        first = txn.get(b"k000001")
        engine.release_pages()
        assert sum(mapped(tmp_path / "index")) < ROWS * SIZE / 10
        assert first == txn.get(b"k000001")
    assert total(engine) == expected
    engine.close()
    assert mapped(tmp_path / "index") == []


def test_an_index_that_was_replaced_is_let_go_of_with_its_last_read(tmp_path: Path) -> None:
    engine = fill(tmp_path / "index")
    with engine.read() as txn:
        shutil.rmtree(tmp_path / "index")
        engine.retire()
        assert txn.get(b"k000002") and len(mapped(tmp_path / "index" / "data.mdb")) == 1
        with pytest.raises(IndexUnavailable):
            engine.read().__enter__()
    assert mapped(tmp_path / "index") == []
    assert not [fd for fd in os.listdir("/proc/self/fd") if str(tmp_path) in _target(fd)]


def _target(fd: str) -> str:
    try:
        return str(Path("/proc/self/fd", fd).readlink())
    except OSError:
        return ""
