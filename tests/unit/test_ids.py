"""Identifiers."""

from __future__ import annotations

import threading
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfs.ids import derived_id, digest_from_hex, hash16, id_of_key, ino_of, key16, new_id, new_replica_id

relaxed = settings(deadline=None, database=None)


def test_new_ids_are_uuids_of_version_7_that_sort_as_they_were_made() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert ids == sorted(set(ids))
    parsed = uuid.UUID(ids[0])
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, ids[0])


def test_threads_never_make_the_same_id() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda m=m: m.extend(new_id() for _ in range(3000))) for m in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({i for m in made for i in m}) == 12_000
    assert all(m == sorted(m) for m in made)


@relaxed
@given(st.uuids())
def test_a_uuid_stands_for_its_own_bytes_in_canonical_spelling_only(value: uuid.UUID) -> None:
    text = str(value)
    assert key16(text) == value.bytes
    assert id_of_key(value.bytes) == text
    others = {text.upper(), text.replace("-", ""), "{" + text + "}", text.replace("-", "", 1) + "-"} - {text}
    for other in others:
        assert key16(other) != value.bytes


@relaxed
@given(st.lists(st.text(), unique=True, max_size=8))
def test_foreign_ids_have_16_bytes_each_of_its_own(ids: list[str]) -> None:
    ids = [i for i in ids if not any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in i)]
    raw = [key16(i) for i in ids]
    assert all(len(r) == 16 for r in raw)
    assert len(set(raw)) == len(ids)


def test_parts_of_a_digest_are_told_apart() -> None:
    assert hash16(b"ab", b"c") != hash16(b"a", b"bc") != hash16(b"abc") != hash16(b"", b"abc")
    assert derived_id(b"a", b"b") == derived_id(b"a", b"b") != derived_id(b"ab", b"")
    assert uuid.UUID(derived_id(b"a")).version == 8


def test_digests_have_64_hex_digits() -> None:
    assert digest_from_hex("ab" * 32) == b"\xab" * 32
    for wrong in ("", "ab", "ab" * 31, "ab" * 33, "xy" * 32):
        with pytest.raises(ValueError):
            digest_from_hex(wrong)


@relaxed
@given(st.binary(max_size=60), st.integers(0, 3))
def test_inos_fit_in_63_bits_and_are_not_the_root_s(key: bytes, salt: int) -> None:
    ino = ino_of(key, salt)
    assert 1 < ino < 2**63
    assert ino == ino_of(key, salt)
    assert ino != ino_of(key, salt + 1)


def test_replica_ids_have_8_bytes() -> None:
    assert len(new_replica_id()) == 8 and new_replica_id() != new_replica_id()
