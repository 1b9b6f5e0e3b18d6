"""An index file that was cut short or written over: nobody is killed by it, and it is made anew from the journal.

LMDB maps the file and believes its meta pages, so reading beyond the file's end would be a bus error.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixfs.library.api import Library

CODE = """
import sys
from mixfs import Library
with Library.open(sys.argv[1]) as library:
    print(*sorted(session.title for session in library.sessions()))
    library.create_session("after")
"""
READ_ONLY = """
import sys
from mixfs import Library
with Library.open(sys.argv[1], read_only=True) as library:
    print(*sorted(session.title for session in library.sessions()))
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "library"
    with Library.open(root) as library:
        for number in range(40):
            library.create_session(f"s{number:02d}")
    return root


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def without_its_end(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-size]


def over(offset: int, junk: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + junk + data[offset + len(junk) :]


@pytest.mark.parametrize("code", [CODE, READ_ONLY], ids=["writer", "reader"])
@pytest.mark.parametrize(
    "spoil",
    [
        *map(cut, (0, 1, 100, 200, 4095, 4096, 4097, 4200, 8191, 8192, 8193, 20_000)),
        *map(without_its_end, (1, 4095, 4096, 4097)),
        over(0, b"\xff" * 4096), over(16, b"\xff" * 120), over(4096, b"\xff" * 4096), over(0, b"\xaa" * 8192),
        over(0, bytes(8192)), lambda data: b"no index at all",
    ],
)  # fmt: skip
def test_a_spoiled_index_is_made_anew(
    filled: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], code: str
) -> None:
    root = tmp_path / "library"
    shutil.copytree(filled, root)
    index = root / "index" / "data.mdb"
    index.write_bytes(spoil(index.read_bytes()))
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.split() == [f"s{number:02d}" for number in range(40)]


HEALING = """
import sys
from mixfs import Library
from mixfs.errors import IndexDamaged
with Library.open(sys.argv[1]) as library:
    if sys.argv[2] == "write":
        library.create_session("after")
    for _ in range(2):
        try:
            print(*sorted(session.title for session in library.sessions()))
            break
        except IndexDamaged:
            # As the task of a mount does that follows the commits.
            assert library.store.refresh()
    library.create_session("last")
"""


@pytest.mark.parametrize(("junk", "boot"), [(bytes(4096), "another"), (b"\xff" * 4096, "the same")])
@pytest.mark.parametrize("first", ["read", "write"])
def test_a_page_that_was_never_written_is_found_and_the_index_made_anew(
    filled: Path, tmp_path: Path, first: str, junk: bytes, boot: str
) -> None:
    """Wherever it is. LMDB ends the process over some pages of zeros, so they are found before it comes by."""
    size = (filled / "index" / "data.mdb").stat().st_size
    healed = 0
    for page in range(2, size // 4096):
        root = tmp_path / str(page)
        shutil.copytree(filled, root)
        index = root / "index" / "data.mdb"
        index.write_bytes(over(page * 4096, junk)(index.read_bytes()))
        if boot == "another":
            (root / "index" / "boot").write_text("before the power went")
        done = subprocess.run(
            [sys.executable, "-c", HEALING, str(root), first], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (page, done.returncode, done.stderr)
        titles = [f"s{number:02d}" for number in range(40)]
        assert done.stdout.split() == (["after"] if first == "write" else []) + titles, page
        with Library.open(root) as library:
            assert "last" in {session.title for session in library.sessions()}
        healed += (root / "problems.jsonl").exists()
    assert healed > 1
