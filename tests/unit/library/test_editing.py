"""What can be done to a library: names, trash and restoring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs import Library

MAP = 1 << 22


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library", map_size=MAP) as library:
        yield library


def names(library: Library, session_id: str) -> list[bytes]:
    return sorted(placement.name for placement in library.placements(session_id))


def test_other_bytes_under_a_taken_name_take_the_next_number_of_its_family(library: Library) -> None:
    session = library.create_session("s")
    wanted = ["a (2).txt", "a (2).txt", "a.txt", "a.txt", "a (2).txt", "b (1).txt", "b (1).txt", ".txt (2)", ".txt (2)"]
    for n, name in enumerate(wanted):
        library.import_bytes(b"%d" % n, name, session_id=session.id)
    assert names(library, session.id) == sorted(
        [b"a (2).txt", b"a (3).txt", b"a.txt", b"a (4).txt", b"a (5).txt", b"b (1).txt", b"b (1) (2).txt",
         b".txt (2)", b".txt (3)"]
    )  # fmt: skip
    long = "n" * 251 + ".txt"
    for n in range(12):
        library.import_bytes(b"long %d" % n, long, session_id=session.id)
    found = {name for name in names(library, session.id) if name.startswith(b"nn")}
    assert len(found) == 12 and all(len(name) <= 255 for name in found)


def test_sessions_of_one_title_are_numbered_in_one_row(library: Library) -> None:
    made = [library.create_session(title).name for title in ("Trip (2)", "Trip (2)", "Trip", "Trip")]
    assert made == [b"Trip (2)", b"Trip (3)", b"Trip", b"Trip (4)"]
