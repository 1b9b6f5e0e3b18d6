"""Type by content: each known magic, text, and nothing that raises."""

from __future__ import annotations

import pytest
from builders import gif, jpeg_bytes, picture, png, webp_bytes
from hypothesis import given
from hypothesis import strategies as st

from mixfs.media.sniff import IMAGE_TYPES, UNKNOWN, extension, sniff


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (png(), "image/png"),
        (gif(1), "image/gif"),
        (jpeg_bytes(picture(), b""), "image/jpeg"),
        (webp_bytes(picture(), b""), "image/webp"),
        (b"BM" + b"\x00" * 12 + b"\x28\x00\x00\x00" + b"\x00" * 20, "image/bmp"),
        (b"BMW is a car maker and this is text", "text/plain"),
        (b"II*\x00\x08\x00\x00\x00", "image/tiff"),
        (b"MM\x00*\x00\x00\x00\x08", "image/tiff"),
        (b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1", "image/avif"),
        (b"\x00\x00\x00\x20ftypmif1\x00\x00\x00\x00mif1avif", "image/avif"),
        (b"\x00\x00\x00\x20ftypheic\x00\x00\x00\x00mif1heic", "image/heic"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2", "video/mp4"),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", "video/quicktime"),
        (b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x42\x82\x84webm", "video/webm"),
        (b"PK\x03\x04\x14\x00", "application/zip"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "image/svg+xml"),
        (b"<svg xmlns='x'/>", "image/svg+xml"),
        (b'{"a": 1}', "application/json"),
        (b'\xef\xbb\xbf{ "a": [', "application/json"),
        (b"{curly} words", "text/plain"),
        (b"[1, 2]", "application/json"),
        ("naïve prompt, テスト".encode(), "text/plain"),
        (b"caf\xe9 in latin-1", UNKNOWN),
        (b"\x00\x01\x02\x03", UNKNOWN),
        (b"", UNKNOWN),
    ],
)
def test_by_magic(head: bytes, expected: str) -> None:
    assert sniff(head) == expected


def test_a_character_cut_by_the_end_of_the_head_is_still_text() -> None:
    text = ("テ" * 3000).encode()
    assert [sniff(text[:n]) for n in (4094, 4095, 4096)] == ["text/plain"] * 3


def test_extensions() -> None:
    assert {extension(t) for t in IMAGE_TYPES} == {".png", ".jpg", ".webp", ".gif", ".avif", ".tif", ".bmp"}
    assert extension(UNKNOWN) == ""


@given(st.binary(max_size=200))
def test_any_bytes_have_a_type(data: bytes) -> None:
    assert "/" in sniff(data)
