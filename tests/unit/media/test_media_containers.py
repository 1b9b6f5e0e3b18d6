"""Texts out of PNG, JPEG, WebP, GIF and EXIF; bombs, lies and random bytes."""

from __future__ import annotations

import datetime
import io
import struct
import zlib

import pytest
from builders import (
    chunk,
    exif_bytes,
    gif,
    itxt,
    jpeg_bytes,
    jumbf,
    picture,
    png,
    segment,
    text_chunk,
    unicode_comment,
    webp_bytes,
    with_jpeg_segment,
    ztxt,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixfs.media.exif import decode_user_comment, parse_exif, parse_time
from mixfs.media.gif import scan_gif
from mixfs.media.inspect import inspect_bytes_texts
from mixfs.media.texts import MAX_TEXT, MAX_TEXTS_TOTAL, RawTexts, decode_utf16, inflate

MIXED = "hatsune miku, #テスト ✨ 🦊"


@pytest.mark.parametrize("after", [False, True])
def test_png_texts_before_and_after_the_pixels(after: bool) -> None:
    data = png(
        text_chunk("parameters", "plain"),
        text_chunk("utf8", MIXED),
        text_chunk("latin", b"caf\xe9"),
        ztxt("packed", b"z" * 1000),
        itxt("intl", MIXED),
        itxt("intl2", MIXED, compressed=True),
        itxt("XML:com.adobe.xmp", "<x/>"),
        after_idat=after,
    )
    assert inspect_bytes_texts(data) == {
        "parameters": "plain", "utf8": MIXED, "latin": "café", "packed": "z" * 1000, "intl": MIXED, "intl2": MIXED,
        "xmp": "<x/>",
    }  # fmt: skip


def test_a_bad_checksum_does_not_hide_a_text() -> None:
    data = png(chunk(b"tEXt", b"parameters\x00still here", crc=0))
    assert inspect_bytes_texts(data) == {"parameters": "still here"}


def test_the_same_key_twice_keeps_both() -> None:
    data = png(text_chunk("a", "1"), text_chunk("a", "2"), text_chunk("a", "1"))
    assert inspect_bytes_texts(data) == {"a": "1", "a (2)": "2"}


@pytest.mark.parametrize("make", [lambda b: ztxt("bomb", b), lambda b: itxt("bomb", b.decode(), compressed=True)])
def test_a_bomb_is_left_out(make: object) -> None:
    bomb = make(b"a" * (MAX_TEXT + 1))  # type: ignore[operator]
    assert len(bomb) < 20_000
    assert inspect_bytes_texts(png(bomb, text_chunk("after", "it"))) == {"after": "it"}


def test_inflate_stops_at_its_limit() -> None:
    packed = zlib.compress(b"a" * 1000)
    assert inflate(packed, 1000) == b"a" * 1000
    assert inflate(packed, 999) is None
    assert inflate(packed[:-8] + b"\xff" * 8, 1000) is None


def test_many_bombs_stay_under_the_total() -> None:
    bombs = [ztxt(f"b{i}", bytes([65 + i]) * (MAX_TEXT - 1)) for i in range(6)]
    found = inspect_bytes_texts(png(*bombs))
    assert 0 < sum(map(len, found.values())) <= MAX_TEXTS_TOTAL


def test_a_flood_of_texts_is_bounded() -> None:
    found = inspect_bytes_texts(png(*(text_chunk(f"k{i}", "v") for i in range(2000))))
    assert len(found) == 512


def test_jpeg_exif_xmp_comment_and_credentials() -> None:
    exif = exif_bytes({0x0131: "Some Program", 0x0112: 6}, unicode_comment(MIXED))
    store = jumbf(("claim_generator", "Maker/1.0"), ("digitalSourceType", "x/trainedAlgorithmicMedia"))
    first, second = store[:60], store[60:]
    data = with_jpeg_segment(
        jpeg_bytes(picture(), exif),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta/>"),
        segment(0xFE, b"a comment"),
        segment(0xEB, b"JP\x00\x01\x00\x00\x00\x01" + first),
        segment(0xEB, b"JP\x00\x01\x00\x00\x00\x02" + store[:8] + second),
    )
    found = inspect_bytes_texts(data)
    assert found["exif:UserComment"] == MIXED
    assert found["exif:Software"] == "Some Program"
    assert found["xmp"] == "<x:xmpmeta/>"
    assert found["comment"] == "a comment"
    assert found["c2pa"] == "claim_generator: Maker/1.0\ndigitalSourceType: x/trainedAlgorithmicMedia"


def test_webp_exif() -> None:
    exif = exif_bytes({0x0110: "prompt:{}", 0x010F: "workflow:{}"}, b"ASCII\x00\x00\x00plain")
    found = inspect_bytes_texts(webp_bytes(picture(), exif))
    assert found == {"exif:Make": "workflow:{}", "exif:Model": "prompt:{}", "exif:UserComment": "plain"}


@pytest.mark.parametrize("text", [MIXED, "日本語だけ", "plain ascii", "é"])
@pytest.mark.parametrize("little", [False, True])
def test_utf16_byte_order_by_content(text: str, little: bool) -> None:
    assert decode_user_comment(unicode_comment(text, little=little)) == text
    order = "utf-16-le" if little else "utf-16-be"
    assert decode_utf16(("\ufeff" + text).encode(order)) == text


def test_user_comment_without_a_code_is_text() -> None:
    assert decode_user_comment(b"Steps: 20") == "Steps: 20"
    assert decode_user_comment(b"\x00" * 8 + b"Steps: 20\x00\x00") == "Steps: 20"


def test_user_comment_that_says_unicode_and_is_utf8() -> None:
    text = "a cat, テスト\nSteps: 20, Sampler: Euler"
    assert decode_user_comment(b"UNICODE\x00" + text.encode()) == text
    assert decode_user_comment(b"UNICODE\x00" + text.encode("utf-16-be")) == text
    only_kana = "テストのための猫と犬の絵です"
    assert decode_user_comment(b"UNICODE\x00" + only_kana.encode("utf-16-le")) == only_kana


def test_novelai_leading_nuls() -> None:
    data = exif_bytes({0x010E: "\x00\x00\x00\x001girl"})
    assert parse_exif(data).texts["ImageDescription"] == "1girl"


def test_exif_time_with_and_without_a_zone() -> None:
    when = datetime.datetime(2025, 12, 8, 10, 15, tzinfo=datetime.timezone(datetime.timedelta(hours=9)))
    assert parse_time("2025:12:08 10:15:00", "+09:00") == int(when.timestamp()) * 10**9
    local = datetime.datetime(2025, 12, 8, 10, 15).timestamp()
    assert parse_time("2025:12:08 10:15:00") == int(local) * 10**9
    assert parse_time("2026-01-04T01:27:21.2717070Z") == 1767490041271707000
    for bad in ("0000:00:00 00:00:00", "", "yesterday", "9999:99:99"):
        assert parse_time(bad) is None


def test_an_exif_directory_that_points_at_itself_ends() -> None:
    loop = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHII", 1, 0x8769, 4, 1, 8) + b"\x00" * 4
    assert parse_exif(loop).texts == {}
    huge = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 0x010E, 2, 0xFFFFFFFF, 8)
    assert parse_exif(huge).texts == {}


def test_gif_frames_comment_and_cut() -> None:
    data, raw = gif(7), RawTexts()
    assert scan_gif(io.BytesIO(data), raw) == (7, False)
    assert raw.items == {"comment": "made here"}
    assert scan_gif(io.BytesIO(data[:-20]), RawTexts())[1]


BASES = [
    png(text_chunk("parameters", "x" * 50), ztxt("z", b"y" * 99), itxt("i", "w" * 20, compressed=True)),
    jpeg_bytes(picture(), exif_bytes({0x010E: "text"}, unicode_comment("comment"))),
    webp_bytes(picture(), exif_bytes({0x0110: "prompt:{}"}, unicode_comment("comment", little=True))),
    gif(2),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BASES), st.data())
def test_mutated_containers_never_raise(base: bytes, data: st.DataObject) -> None:
    changed = bytearray(base)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(8, len(changed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(12, len(changed)))
    for text in inspect_bytes_texts(bytes(changed[:end])).values():
        text.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([base[:12] for base in BASES] + [b"MM\x00*", b"II*\x00"]), st.binary(max_size=400))
def test_random_bytes_after_a_magic_never_raise(head: bytes, data: bytes) -> None:
    inspect_bytes_texts(head + data)
    parse_exif(head + data)
