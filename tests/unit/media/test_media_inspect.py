"""Whole files: samples of our own, the collection of real ones where it is at hand, damage, bombs and limits."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import cbor2
import pytest
from builders import exif_bytes, gif, jpeg_bytes, picture, png, png_bytes, text_chunk, webp_bytes, with_stealth, ztxt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixfs.media.inspect import inspect_file
from mixfs.media.samples import A1111_TEXT, HEIGHT, KINDS, WIDTH, draw_landscape, make_sample, novelai_texts
from mixfs.media.sniff import IMAGE_TYPES
from mixfs.media.types import Inspection, inspection_from_dict, inspection_to_dict

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples" / "ai"
EXPECTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "expected_samples.json").read_text("utf-8"))


def look(tmp_path: Path, data: bytes) -> Inspection:
    path = tmp_path / "picture"
    path.write_bytes(data)
    return inspect_file(str(path))


@pytest.mark.parametrize("digest", EXPECTED, ids=lambda d: EXPECTED[d]["file"][-40:])
def test_real_samples(digest: str) -> None:
    path = SAMPLES / EXPECTED[digest]["file"]
    if not path.exists():
        pytest.skip("the collection of real samples (../shared/samples/ai) is not here")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    expected, found = EXPECTED[digest]["expected"], inspect_file(str(path))
    if expected is None:
        assert found.metadata is None
        return
    assert found.problem is None
    assert found.metadata is not None
    for name, value in expected.items():
        actual = [found.metadata.width, found.metadata.height] if name == "size" else getattr(found.metadata, name)
        assert actual == value, name


GENERATORS = {"a1111": "AUTOMATIC1111", "comfyui": "ComfyUI", "invokeai": "InvokeAI", "swarmui": "SwarmUI",
              "fooocus": "Fooocus", "novelai": "NovelAI"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_own_samples(tmp_path: Path, kind: str) -> None:
    name, data = make_sample(kind)
    assert make_sample(kind) == (name, data)
    found = look(tmp_path, data)
    assert (found.width, found.height, found.problem) == (WIDTH, HEIGHT, None)
    assert found.metadata is not None
    assert found.metadata.generator == GENERATORS[kind]
    assert all((found.metadata.prompt, found.metadata.negative_prompt, found.metadata.model, found.metadata.seed))
    assert pickle.loads(pickle.dumps(found)) == found
    assert inspection_from_dict(cbor2.loads(cbor2.dumps(inspection_to_dict(found)))) == found


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("container", ["png", "webp"])
def test_stealth(tmp_path: Path, container: str, compressed: bool) -> None:
    hidden = with_stealth(draw_landscape("a1111", (160, 90)), A1111_TEXT, compressed=compressed)
    data = png_bytes(hidden, {}) if container == "png" else webp_bytes(hidden, b"", lossless=True)
    found = look(tmp_path, data)
    assert found.raw == {"stealth": A1111_TEXT}
    assert found.metadata is not None
    assert (found.metadata.generator, found.metadata.seed) == ("AUTOMATIC1111", 1234567890)


def test_stealth_of_novelai(tmp_path: Path) -> None:
    found = look(tmp_path, png_bytes(with_stealth(draw_landscape("novelai"), json.dumps(novelai_texts())), {}))
    assert found.metadata is not None
    assert (found.metadata.generator, found.metadata.seed) == ("NovelAI", 880673757)


def test_no_picture_is_no_problem(tmp_path: Path) -> None:
    assert look(tmp_path, b"just words, nothing more") == Inspection(media_type="text/plain")
    assert look(tmp_path, b"") == Inspection(media_type="application/octet-stream")


def test_orientation_and_time(tmp_path: Path) -> None:
    found = look(tmp_path, jpeg_bytes(picture((40, 30)), exif_bytes({0x0112: 6})))
    assert (found.width, found.height, found.orientation) == (40, 30, 6)


def test_frames(tmp_path: Path) -> None:
    assert look(tmp_path, gif(5)).frames == 5
    out = io.BytesIO()
    pictures = [picture().rotate(90 * i) for i in range(3)]
    pictures[0].save(out, format="WEBP", save_all=True, append_images=pictures[1:])
    assert look(tmp_path, out.getvalue()).frames == 3


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (70_000, 10)])
def test_a_huge_header_is_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    found = look(tmp_path, png(text_chunk("parameters", A1111_TEXT), size=size, real=False))
    assert found.problem is not None
    assert "too large" in found.problem
    assert (found.width, found.height) == size
    assert found.metadata is not None, "what is written in it is read all the same"


@pytest.mark.parametrize("make", [
    lambda: jpeg_bytes(draw_landscape("a1111"), b""), lambda: png_bytes(draw_landscape("a1111"), {}),
    lambda: webp_bytes(draw_landscape("a1111"), b""), lambda: gif(1),
])  # fmt: skip
def test_cut_short(tmp_path: Path, make: Any) -> None:
    data = make()
    assert look(tmp_path, data).problem is None
    assert look(tmp_path, data[: len(data) // 2]).problem is not None


def test_an_animation_cut_after_its_first_frame(tmp_path: Path) -> None:
    data = gif(5)
    assert look(tmp_path, data[:-12]).problem is not None
    assert look(tmp_path, data[:-1]).problem is None, "a trailer alone is missing in many good files"


def test_a_bomb_in_a_text_is_reported_or_left_out(tmp_path: Path) -> None:
    found = look(tmp_path, png(ztxt("bomb", b"a" * (64 << 20)), text_chunk("parameters", A1111_TEXT)))
    assert set(found.raw) == {"parameters"}
    assert found.metadata is not None


def test_random_bytes_after_a_magic(tmp_path: Path) -> None:
    for head in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\x00", b"RIFF\x00\x00\x00\x00WEBP",
                 b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00", b"BM" + b"\x00" * 12 + b"\x28\x00\x00\x00"):  # fmt: skip
        found = look(tmp_path, head + bytes(range(256)) * 8)
        assert found.media_type in IMAGE_TYPES
        assert found.problem is not None


BASES = [make_sample(kind)[1] for kind in ("a1111", "swarmui")] + [
    webp_bytes(draw_landscape("a1111", (64, 48)), b""), gif(3), png(text_chunk("parameters", A1111_TEXT)),
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), data=st.data())
def test_mutated_pictures_never_raise(tmp_path: Path, base: bytes, data: st.DataObject) -> None:
    changed = bytearray(base)
    for _ in range(data.draw(st.integers(1, 10))):
        changed[data.draw(st.integers(4, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = look(tmp_path, bytes(changed))
    assert inspection_from_dict(cbor2.loads(cbor2.dumps(inspection_to_dict(found)))) == found
