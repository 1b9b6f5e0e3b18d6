"""What every blob store must do, and the intake through which all bytes come."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixfs.blobs import BlobStore, Intake, LocalBlobs, MemoryBlobs
from mixfs.errors import BlobDamaged, BlobMissing
from mixfs.ids import Digest


def local(path: Path) -> LocalBlobs:
    (path / "blobs").mkdir()
    return LocalBlobs(path / "blobs")


STORES: dict[str, Callable[[Path], BlobStore]] = {"memory": lambda _: MemoryBlobs(), "local": local}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return STORES[request.param](tmp_path)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def receive(store: BlobStore, path: Path, data: bytes, *, durable: bool = True) -> tuple[Digest, bool]:
    intake = Intake(path)
    intake.write(data, 0)
    found = store.receive(intake, durable=durable)
    assert not path.exists() and intake.fd == -1
    return found


@pytest.mark.parametrize("durable", [True, False])
def test_bytes_come_back_as_they_were(store: BlobStore, tmp_path: Path, durable: bool) -> None:
    for data in (b"", b"a", os.urandom(3 << 20)):
        digest, new = receive(store, tmp_path / "in", data, durable=durable)
        assert (digest, new) == (digest_of(data), True)
        assert store.fetch(digest) == data and store.stat(digest) == len(data)
        store.check(digest)
        fd = store.open(digest)
        assert os.pread(fd, len(data) + 1, 0) == data
        os.close(fd)
        assert receive(store, tmp_path / "in", data) == (digest, False)


def test_what_is_not_there(store: BlobStore) -> None:
    digest = digest_of(b"never put")
    assert store.stat(digest) is None and list(store.enumerate()) == []
    for act in (store.fetch, store.open, store.check):
        with pytest.raises(BlobMissing):
            act(digest)
    store.remove(digest)


def test_all_are_enumerated_in_order_and_can_be_removed(store: BlobStore, tmp_path: Path) -> None:
    made = sorted(receive(store, tmp_path / "in", b"%d" % n)[0] for n in range(40))
    assert [digest for digest, _ in store.enumerate()] == made
    assert {size for _, size in store.enumerate()} == {1, 2}
    for digest in made[::2]:
        store.remove(digest)
    assert [digest for digest, _ in store.enumerate()] == made[1::2]


def test_other_bytes_under_a_digest_are_damage(tmp_path: Path) -> None:
    blobs = local(tmp_path)
    digest, _ = receive(blobs, tmp_path / "in", b"right")
    path = blobs.path(digest)
    assert path.stat().st_mode & 0o777 == 0o444
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    for act in (blobs.fetch, blobs.check):
        with pytest.raises(BlobDamaged, match="back-up"):
            act(digest)
    # A torn one, of another length, is put right by the next import of the same file.
    path.write_bytes(b"wr")
    assert receive(blobs, tmp_path / "in", b"right") == (digest, True)
    assert blobs.fetch(digest) == b"right"


def test_names_that_are_no_digests_are_left_alone(tmp_path: Path) -> None:
    blobs = local(tmp_path)
    (blobs.root / "ab").mkdir()
    for name in ("ab/short", "README", "ab/" + "z" * 62):
        (blobs.root / name).write_text("mine")
    assert list(blobs.enumerate()) == []


def test_the_same_bytes_from_many_threads_are_kept_once(store: BlobStore, tmp_path: Path) -> None:
    found: list[Digest] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(receive(store, tmp_path / f"in{n}", b"same")[0]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digest_of(b"same")] * 8 and [size for _, size in store.enumerate()] == [4]


writes = st.lists(
    st.tuples(st.just("write"), st.integers(0, 30), st.binary(max_size=12))
    | st.tuples(st.just("append"), st.just(0), st.binary(max_size=12))
    | st.tuples(st.just("truncate"), st.integers(0, 40), st.just(b""))
    | st.tuples(st.just("digest"), st.just(0), st.just(b"")),
    max_size=8,
)


@settings(deadline=None, database=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes, st.booleans())
def test_an_intake_s_digest_is_that_of_its_bytes_however_they_came(
    tmp_path: Path, steps: list[tuple[str, int, bytes]], reopened: bool
) -> None:
    intake, model = Intake(tmp_path / "in"), bytearray()
    try:
        for what, at, data in steps:
            if what == "truncate":
                intake.truncate(at)
                model[:] = model[:at].ljust(at, b"\0")
            elif what == "digest":
                assert intake.digest() == digest_of(bytes(model))
            else:
                at = len(model) if what == "append" else at
                assert intake.write(data, at) == len(data)
                if data:
                    model[:] = model.ljust(at, b"\0")
                    model[at : at + len(data)] = data
        assert (intake.size, intake.digest()) == (len(model), digest_of(bytes(model)))
        if reopened:
            twin = Intake.twin(intake)
            twin.write(b"more", twin.size)
            assert twin.digest() == digest_of(bytes(model) + b"more")
            twin.close()
    finally:
        intake.discard()
    assert not (tmp_path / "in").exists()
