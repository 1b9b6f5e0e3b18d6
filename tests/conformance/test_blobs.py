"""What every blob store does (`mixfs.blobs.protocol`), run on each of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfs.blobs import BlobStore, Intake, LocalBlobs, MemoryBlobs
from mixfs.blobs.sums import BLOCK, BlockSums, blocks_around, first_bad_block, sums_of
from mixfs.errors import BlobDamaged, BlobMissing
from mixfs.ids import Digest

NOTHING = Digest(bytes(32))


class Box:
    """A store, a place for staging, and ways to spoil and to lose a blob behind the store's back."""

    def __init__(
        self, store: BlobStore, staging: Path, spoil: Callable[[Digest, bytes], None],
        lose: Callable[[Digest], object],
    ) -> None:  # fmt: skip
        self.store, self.spoil, self.lose, self._staging, self._number = store, spoil, lose, staging, 0

    def intake(self, data: bytes) -> Intake:
        self._number += 1
        intake = Intake(self._staging / str(self._number))
        intake.write(data, 0)
        return intake

    def put(self, data: bytes, *, durable: bool = True) -> tuple[Digest, bool]:
        intake = self.intake(data)
        try:
            return self.store.receive(intake, durable=durable)
        finally:
            intake.discard()


@pytest.fixture(params=["local", "memory"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    (tmp_path / "staging").mkdir()
    if request.param == "local":
        (tmp_path / "blobs").mkdir()
        local = LocalBlobs(tmp_path / "blobs")

        def spoil(digest: Digest, data: bytes) -> None:
            local.path(digest).unlink()
            local.path(digest).write_bytes(data)

        return Box(local, tmp_path / "staging", spoil, lambda digest: local.path(digest).unlink())
    memory = MemoryBlobs()
    return Box(memory, tmp_path / "staging", memory.data.__setitem__, memory.data.pop)


def test_a_blob_is_named_by_its_digest_and_comes_back_bit_for_bit(box: Box) -> None:
    data = os.urandom(200_000)
    digest, new = box.put(data)
    assert (digest, new) == (hashlib.sha256(data).digest(), True)
    assert box.store.fetch(digest) == data
    assert box.store.stat(digest) == len(data)
    assert list(box.store.enumerate()) == [(digest, len(data))]
    box.store.check(digest)
    fd = box.store.open(digest)
    assert os.pread(fd, 10, 100) == data[100:110]
    os.close(fd)


def test_the_same_bytes_are_kept_once(box: Box) -> None:
    first = box.put(b"same")
    assert box.put(b"same") == (first[0], False)
    assert len(list(box.store.enumerate())) == 1


def test_many_at_once_are_as_one_after_the_other(box: Box) -> None:
    known, _ = box.put(b"known")
    intakes = [box.intake(data) for data in (b"a", b"known", *(b"%d" % n for n in range(20)), b"a")]
    received = box.store.receive_all(intakes)
    assert [hashlib.sha256(os.pread(intake.fd, 9, 0)).digest() for intake in intakes] == [
        result[0] for result in received if not isinstance(result, OSError)
    ]
    assert [result[1] for result in received if not isinstance(result, OSError)] == [True, False, *[True] * 20, False]
    assert len(list(box.store.enumerate())) == 22 and box.store.fetch(known) == b"known"
    if isinstance(box.store, MemoryBlobs):
        assert len(box.store.durable) == 22


def test_one_that_fails_stops_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk when one is named, a bad sector when another is synced: each has its own error."""
    (tmp_path / "blobs").mkdir()
    blobs = LocalBlobs(tmp_path / "blobs")
    intakes = [Intake(tmp_path / str(n)) for n in range(12)]
    for n, intake in enumerate(intakes):
        intake.write(b"bytes %d" % n, 0)
    link, fsync = os.link, os.fsync
    bad_fd = intakes[7].fd
    bad_bucket = blobs.path(intakes[9].digest()).parent

    def some_links(source: Path, target: Path) -> None:
        if source == intakes[3].path:
            raise OSError(28, "No space left on device")
        link(source, target)

    def some_fsyncs(fd: int) -> None:
        if fd == bad_fd or os.path.realpath(f"/proc/self/fd/{fd}") == str(bad_bucket):
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "link", some_links)
    monkeypatch.setattr(os, "fsync", some_fsyncs)
    received = blobs.receive_all(intakes)
    failed = {n: result.errno for n, result in enumerate(received) if isinstance(result, OSError)}
    assert failed == {3: 28, 7: 5, 9: 5}
    monkeypatch.undo()
    assert blobs.stat(intakes[7].digest()) is None, "a name for bytes that are not durable"
    assert [blobs.receive(intake)[1] for intake in (intakes[3], intakes[7])] == [True, True]


def test_an_intake_stays_until_it_is_discarded(box: Box) -> None:
    """Its bytes may have to be published again: gc may take a blob away before it is named."""
    intake = box.intake(b"twice")
    digest, _ = box.store.receive(intake)
    box.lose(digest)
    assert box.store.stat(digest) is None
    assert box.store.receive(intake) == (digest, True)
    intake.discard()
    assert not intake.path.exists()
    assert box.store.fetch(digest) == b"twice"


@pytest.mark.parametrize("rot", [b"otherbytes", b"short", b"longer than it was", b""])
def test_a_damaged_blob_is_replaced_when_the_same_file_comes_again(box: Box, rot: bytes) -> None:
    digest, _ = box.put(b"good bytes")
    box.spoil(digest, rot)
    assert box.put(b"good bytes") == (digest, True)
    assert box.store.fetch(digest) == b"good bytes"


def test_damage_and_absence_have_errors_of_their_own(box: Box) -> None:
    digest, _ = box.put(b"good bytes")
    box.spoil(digest, b"bad bytes!")
    for read in (box.store.fetch, box.store.check):
        with pytest.raises(BlobDamaged):
            read(digest)
        with pytest.raises(BlobMissing):
            read(NOTHING)
    with pytest.raises(BlobMissing):
        box.store.open(NOTHING)
    assert box.store.stat(NOTHING) is None


def test_quarantine_takes_a_blob_out_of_the_way(box: Box) -> None:
    digest, _ = box.put(b"good bytes")
    assert box.store.quarantine(digest, "for a test") is not None
    assert box.store.stat(digest) is None
    assert box.store.quarantine(digest, "again") is None
    box.put(b"good bytes")
    assert box.store.quarantine(digest, "a second of its name") is not None


def test_a_damaged_blob_keeps_its_bytes_in_quarantine_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = LocalBlobs(tmp_path / "blobs")
    intake = Intake(tmp_path / "in")
    intake.write(b"bytes", 0)
    digest, _ = blobs.receive(intake)
    kept = blobs.quarantine(digest, "It was spoiled.")
    assert kept is not None and kept.read_bytes() == b"bytes"
    assert kept.with_suffix(".txt").read_text() == "It was spoiled.\n"


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "blobs").mkdir()
    blobs = LocalBlobs(tmp_path / "blobs")
    intake = Intake(tmp_path / "in")
    intake.write(b"bytes", 0)
    digest, new = blobs.receive(intake)
    assert new and blobs.fetch(digest) == b"bytes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "in"]


@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.binary(min_size=1, max_size=300)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_digest_and_sums_are_those_of_the_file_however_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("intake") / "file"
    intake = Intake(path)
    wanted = bytearray()
    for offset, data in writes:
        intake.write(data, offset)
        wanted.extend(bytes(max(0, offset + len(data) - len(wanted))))
        wanted[offset : offset + len(data)] = data
    sums = BlockSums()
    sums.update(bytes(wanted))
    assert intake.digest() == hashlib.sha256(wanted).digest()
    assert intake.sums() == sums_of(intake.fd) == sums.value()
    intake.discard()


@given(st.integers(1, 5 * BLOCK), st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_found_in_its_block(size: int, data: st.DataObject) -> None:
    good = os.urandom(size)
    sums = BlockSums()
    sums.update(good)
    offset = data.draw(st.integers(0, size - 1))
    start, end = blocks_around(offset, data.draw(st.integers(1, size - offset)))
    assert first_bad_block(sums.value(), memoryview(good)[start:end], start) is None
    flip = data.draw(st.integers(start, min(end, size) - 1))
    bad = bytearray(good)
    bad[flip] ^= 1 << data.draw(st.integers(0, 7))
    assert first_bad_block(sums.value(), memoryview(bad)[start:end], start) == flip // BLOCK * BLOCK
