"""Frames: what was written is read back, and nothing else is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mixfs.journal import frames

relaxed = settings(deadline=None, database=None, max_examples=100)
# Payloads that hold the magic, or a whole frame, are the interesting ones.
payloads = st.lists(st.sampled_from([frames.MAGIC, frames.encode_at(b"inner", 0), b"\0", b"ab"]), max_size=6).map(
    b"".join
) | st.binary(max_size=80)


def written(items: list[bytes]) -> list[bytes]:
    """The items as frames of one stream, one behind the other."""
    out: list[bytes] = []
    for item in items:
        out.append(frames.encode_at(item, sum(map(len, out))))
    return out


def scan(data: bytes, offset: int = 0) -> list[frames.Found]:
    return list(frames.scan(memoryview(data), offset))


@relaxed
@given(st.lists(payloads, max_size=6))
def test_what_was_written_is_read_back(items: list[bytes]) -> None:
    data = b"".join(written(items))
    found = scan(data)
    assert [f.payload for f in found] == items
    assert [f.start for f in found] == [0, *(f.end for f in found)][:-1]
    assert sum(f.end - f.start for f in found) == len(data)


@settings(relaxed, max_examples=20)
@given(st.binary(max_size=24))
def test_every_flipped_bit_is_found(payload: bytes) -> None:
    frame = frames.encode_at(payload, 0)
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        assert frames.decode_at(memoryview(bytes(damaged)), 0) is None, bit


@relaxed
@given(st.lists(payloads, min_size=1, max_size=5), st.data())
def test_a_reader_goes_on_behind_a_damaged_frame(items: list[bytes], data: st.DataObject) -> None:
    encoded = written(items)
    bad = data.draw(st.integers(0, len(items) - 1))
    raw = bytearray(encoded[bad])
    at = data.draw(st.integers(0, frames.HEAD_SIZE - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    encoded[bad] = bytes(raw)
    found = scan(b"".join(encoded))
    # A frame that lay inside the damaged payload doesn't come to light: it was not written there.
    assert [f.payload for f in found if f.payload is not None] == items[:bad] + items[bad + 1 :]
    bad_ones = [f for f in found if f.payload is None]
    assert bad_ones[0].start == sum(map(len, encoded[:bad]))
    assert bad_ones[-1].torn == (found[-1].payload is None)


@relaxed
@given(payloads, payloads, st.data())
def test_a_cut_frame_is_torn_and_only_at_the_end(first: bytes, second: bytes, data: st.DataObject) -> None:
    whole, last = written([first, second])
    kept = data.draw(st.integers(1, len(last) - 1))
    found = scan(whole + last[:kept])
    assert found[0].payload == first
    assert found[1].start == len(whole) and found[1].payload is None
    assert found[1:] == [frames.Found(len(whole), len(whole) + kept, None, torn=True)]


def test_a_length_that_leads_beyond_the_file_is_no_frame() -> None:
    frame = bytearray(frames.encode_at(b"x" * 10, 0))
    frame[4:8] = (1 << 29).to_bytes(4, "little")
    assert frames.decode_at(memoryview(bytes(frame)), 0) is None


def test_a_frame_is_valid_only_where_it_was_written() -> None:
    frame = frames.encode_at(b"x" * 10, 64, b"segment 2")
    data = memoryview(bytes(64) + frame)
    assert frames.decode_at(data, 64, b"segment 2") == b"x" * 10
    assert frames.decode_at(data, 64, b"segment 3") is None
    assert frames.decode_at(memoryview(bytes(60) + frame), 60, b"segment 2") is None
    assert frames.decode_at(data, 64, None) is None


def test_plain_frames_of_older_releases_are_read() -> None:
    data = memoryview(frames.encode(b"one") + frames.encode(b"two"))
    assert [f.payload for f in frames.scan(data, 0, None)] == [b"one", b"two"]
