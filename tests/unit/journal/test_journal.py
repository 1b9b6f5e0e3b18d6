"""The journal: segments, failed appends, torn tails, damage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from mixfs.errors import FormatTooNew, JournalDamaged
from mixfs.ids import ReplicaId
from mixfs.journal import START, Item, Journal, Position, frames
from mixfs.journal import journal as module
from mixfs.journal.files import write_durably

REPLICA = ReplicaId(b"replica1")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, REPLICA)
    yield journal
    journal.close()


def other(journal: Journal) -> Journal:
    """The same journal as another process has it."""
    return Journal(journal.directory.parent, REPLICA)


def payloads(journal: Journal, start: Position = START) -> list[bytes | None]:
    return [item.payload for item in journal.read(start)]


def header(path: Path) -> Any:
    payload = frames.decode_at(memoryview(path.read_bytes()), 0, None)
    assert payload is not None
    return cbor2.loads(payload)


def segment(journal: Journal, number: int) -> Path:
    return journal.directory / f"{number:08d}.seg"


def test_appended_items_are_read_back_from_any_position(journal: Journal) -> None:
    ends = [journal.append(b"item %d" % i) for i in range(5)]
    assert payloads(journal) == [b"item %d" % i for i in range(5)]
    for i, end in enumerate(ends):
        assert payloads(journal, end) == [b"item %d" % n for n in range(i + 1, 5)]
    items = list(journal.read())
    assert [item.end for item in items] == ends
    assert journal.end() == ends[-1]


def test_a_segment_begins_with_its_header(journal: Journal) -> None:
    journal.append(b"x")
    assert header(segment(journal, 1)) == {1: 2, 2: REPLICA, 3: 1, 4: None}


def test_a_full_segment_is_closed_and_the_next_names_its_length(tmp_path: Path) -> None:
    journal = Journal(tmp_path, REPLICA, segment_limit=200)
    ends = [journal.append(b"%03d" % i * 20) for i in range(12)]
    journal.close()
    assert ends == sorted(ends)
    assert len(journal.segments()) > 3
    for number in journal.segments()[1:]:
        assert header(segment(journal, number))[4] == segment(journal, number - 1).stat().st_size
    assert payloads(journal) == [b"%03d" % i * 20 for i in range(12)]
    for i, end in enumerate(ends):
        assert len(payloads(journal, end)) == 11 - i
    assert [size for _, size in journal.sizes()] == [segment(journal, n).stat().st_size for n in journal.segments()]


def test_another_process_s_new_segment_is_followed(tmp_path: Path) -> None:
    first, second = (Journal(tmp_path, REPLICA, segment_limit=150) for _ in range(2))
    expected = []
    for i in range(20):
        (first if i % 3 else second).append(b"%d" % i * 30)
        expected.append(b"%d" % i * 30)
    assert payloads(first) == payloads(second) == expected
    assert len(first.segments()) > 2
    first.close()
    second.close()


def test_bytes_beyond_the_durable_length_are_never_read(journal: Journal) -> None:
    journal.append(b"kept")
    end = journal.end()
    journal._rotate(end.offset)
    journal.append(b"after")
    with open(segment(journal, 1), "ab") as file:
        file.write(frames.encode(b"a ghost"))
    assert payloads(journal) == [b"kept", b"after"]
    assert payloads(journal, end) == [b"after"]


class Failing:
    """`os.fdatasync` that fails as often as told, after the bytes were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, error: int = errno.EIO) -> None:
        self.left, self._real, self._error = 0, getattr(os, name), error
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(self._error, os.strerror(self._error))
        return self._real(*args)


def test_a_failed_fdatasync_closes_the_segment_and_the_item_is_never_read(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fdatasync = Failing(monkeypatch, "fdatasync")
    end = journal.append(b"first")
    fdatasync.left = 1
    with pytest.raises(OSError, match="Input/output"):
        journal.append(b"failed")
    assert payloads(journal) == [b"first"]
    assert journal.segments() == [1, 2]
    assert header(segment(journal, 2))[4] == end.offset
    journal.append(b"second")
    assert payloads(journal) == payloads(other(journal)) == [b"first", b"second"]


def test_where_even_cutting_fails_the_item_is_still_not_read(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fdatasync, ftruncate = Failing(monkeypatch, "fdatasync"), Failing(monkeypatch, "ftruncate")
    journal.append(b"first")
    fdatasync.left = ftruncate.left = 1
    with pytest.raises(OSError):
        journal.append(b"failed")
    journal.append(b"second")
    assert payloads(journal) == payloads(other(journal)) == [b"first", b"second"]
    assert b"failed" in segment(journal, 1).read_bytes()


def test_a_commit_that_another_process_made_behind_a_failed_one_stays(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the append fails, and so does the new segment. Then another process finds room."""
    fdatasync = Failing(monkeypatch, "fdatasync", errno.ENOSPC)
    journal.append(b"first")
    fdatasync.left = 1
    with monkeypatch.context() as full:
        full.setattr(module, "write_durably", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError):
            journal.append(b"failed")
        with pytest.raises(OSError):
            journal.end()
    neighbour = other(journal)
    neighbour.append(b"acknowledged")
    neighbour.close()
    journal.append(b"second")
    assert payloads(other(journal)) == [b"first", b"acknowledged", b"second"]


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from mixfs.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), b"replica1")
journal.append(b"first")
resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
try:
    journal.append(b"failed" * 200)
    sys.exit("the append did not fail")
except OSError as error:
    print(error.errno)
journal.append(b"second")
"""


def test_a_real_short_write_is_undone(tmp_path: Path) -> None:
    """RLIMIT_FSIZE writes a part of the frame, then fails."""
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(ran.stdout) == errno.EFBIG
    journal = Journal(tmp_path, REPLICA)
    assert payloads(journal) == [b"first", b"second"]
    assert journal.segments() == [1, 2]
    assert b"failed" not in segment(journal, 1).read_bytes()


@pytest.mark.parametrize("kept", [1, 3, 4, 11, 12, 20])
def test_a_torn_tail_is_cut_and_its_bytes_are_kept(journal: Journal, tmp_path: Path, kept: int) -> None:
    end = journal.append(b"whole")
    tail = frames.encode(b"torn away here")[:kept]
    with open(segment(journal, 1), "ab") as file:
        file.write(tail)
    *_, item = journal.read()
    assert item == Item(end, Position(1, end.offset + kept), None, True)
    file_kept = journal.cut_tail(item, tmp_path / "quarantine")
    assert file_kept.read_bytes() == tail
    assert journal.end() == end
    assert payloads(journal) == [b"whole"]
    journal.append(b"next")
    assert payloads(journal) == [b"whole", b"next"]


def test_two_torn_tails_at_one_place_are_both_kept(journal: Journal, tmp_path: Path) -> None:
    journal.append(b"whole")
    for tail in (b"\xf5MX", b"\xf5MXJ\1"):
        with open(segment(journal, 1), "ab") as file:
            file.write(tail)
        *_, item = journal.read()
        journal.cut_tail(item, tmp_path / "quarantine")
    assert {path.read_bytes() for path in (tmp_path / "quarantine").iterdir()} == {b"\xf5MX", b"\xf5MXJ\1"}


def test_damage_in_the_middle_is_reported_and_never_cut(journal: Journal, tmp_path: Path) -> None:
    ends = [journal.append(b"item %d" % i) for i in range(3)]
    path = segment(journal, 1)
    raw = bytearray(path.read_bytes())
    raw[ends[0].offset + frames.HEAD_SIZE + 2] ^= 4
    path.write_bytes(raw)
    items = list(journal.read())
    assert [item.payload for item in items] == [b"item 0", None, b"item 2"]
    damage = items[1]
    assert (damage.start, damage.end, damage.torn) == (ends[0], ends[1], False)
    with pytest.raises(JournalDamaged):
        journal.cut_tail(damage, tmp_path / "quarantine")
    assert path.read_bytes() == bytes(raw)


def test_a_bad_end_of_a_closed_segment_is_damage_not_a_torn_tail(tmp_path: Path) -> None:
    journal = Journal(tmp_path, REPLICA, segment_limit=60)
    journal.append(b"a" * 30)
    journal.append(b"b" * 30)
    assert journal.segments() == [1, 2]
    path = segment(journal, 1)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    items = list(journal.read())
    assert [(item.payload, item.torn) for item in items] == [(None, False), (b"b" * 30, False)]
    with pytest.raises(JournalDamaged):
        journal.cut_tail(items[0], tmp_path / "quarantine")
    journal.close()


def test_a_damaged_header_is_reported_and_the_items_behind_it_are_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, REPLICA, segment_limit=60)
    journal.append(b"a" * 30)
    journal.append(b"b" * 30)
    journal.close()
    path = segment(journal, 2)
    raw = bytearray(path.read_bytes())
    raw[6] ^= 1
    path.write_bytes(raw)
    assert payloads(journal) == [b"a" * 30, None, b"b" * 30]


def test_a_newer_format_is_refused_for_reading_and_for_writing(journal: Journal) -> None:
    journal.append(b"x")
    newer = cbor2.dumps({1: module.FORMAT + 1, 2: REPLICA, 3: 2, 4: journal.end().offset})
    write_durably(segment(journal, 2), frames.encode(newer))
    with pytest.raises(FormatTooNew, match="newer MixFS"):
        list(journal.read())
    with pytest.raises(FormatTooNew, match="newer MixFS"):
        journal.append(b"y")
    with pytest.raises(FormatTooNew, match="newer MixFS"):
        other(journal).append(b"y")


def test_a_failed_small_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "format"
    write_durably(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
    with pytest.raises(OSError):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_strange_files_in_the_directory_are_no_segments(journal: Journal) -> None:
    journal.append(b"x")
    for name in ("notes.txt", ".00000002.seg.12.new", "x.seg"):
        (journal.directory / name).write_bytes(b"?")
    assert journal.segments() == [1]


