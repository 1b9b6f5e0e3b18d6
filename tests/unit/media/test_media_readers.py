"""Each generator's dialect in the containers that it writes, their order, and what readers do with rubbish."""

# ruff: noqa: E501 - tables of settings as generators write them

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from builders import exif_bytes, jpeg_bytes, picture, png_bytes, unicode_comment, webp_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfs.media.inspect import inspect_bytes_texts
from mixfs.media.readers import READERS, read_metadata
from mixfs.media.readers.invokeai import split_brackets
from mixfs.media.samples import (
    A1111_TEXT,
    FOOOCUS_DATA,
    INVOKEAI_METADATA,
    NOVELAI_COMMENT,
    SWARMUI_DATA,
    comfyui_graphs,
    novelai_texts,
)  # fmt: skip
from mixfs.media.types import EmbeddedMetadata, Lora

API, UI = (json.dumps(g) for g in comfyui_graphs())


def comment_png(key: str, text: str) -> bytes:
    return png_bytes(picture(), {key: text})


def comment_jpeg(text: str, main: dict[int, str | int] | None = None, *, little: bool = False) -> bytes:
    return jpeg_bytes(picture(), exif_bytes(main or {}, unicode_comment(text, little=little)))


def comment_webp(text: str, main: dict[int, str | int] | None = None, *, little: bool = False) -> bytes:
    return webp_bytes(picture(), exif_bytes(main or {}, unicode_comment(text, little=little)))


NAI = novelai_texts()
FOOOCUS_EXIF: dict[int, str | int] = {0x0131: "Fooocus v2.5.5"}
SWARM = json.dumps(SWARMUI_DATA, indent=2)
FOOOCUS = json.dumps(FOOOCUS_DATA)
COMFY_EXIF: dict[int, str | int] = {0x010F: f"workflow:{UI}", 0x0110: f"prompt:{API}"}

FILES: list[tuple[str, bytes, str, str, int, str]] = [
    *[(f"a1111 {kind}", data, "AUTOMATIC1111", "alpine valley", 1234567890, "realisticVisionV51_v51VAE") for kind, data in (
        ("png", comment_png("parameters", A1111_TEXT)), ("jpeg", comment_jpeg(A1111_TEXT)),
        ("webp", comment_webp(A1111_TEXT)))],
    *[(f"comfyui {kind}", data, "ComfyUI", "violet night", 156680208700286, "sd_xl_base_1.0.safetensors") for kind, data in (
        ("png", png_bytes(picture(), {"prompt": API, "workflow": UI})),
        ("webp", webp_bytes(picture(), exif_bytes(COMFY_EXIF))),
        ("jpeg", jpeg_bytes(picture(), exif_bytes({0x010E: f"Workflow: {UI}", 0x010F: f"Prompt: {API}"}))))],
    *[(f"invokeai {kind}", data, "InvokeAI", "mountain lake", 3951921344, "juggernautXL_v9") for kind, data in (
        ("png", png_bytes(picture(), {"invokeai_metadata": json.dumps(INVOKEAI_METADATA)}, itxt=True)),)],
    *[(f"swarmui {kind}", data, "SwarmUI", "desert dunes", 697543491, "sd_xl_base_1.0") for kind, data in (
        ("png", png_bytes(picture(), {"prompt": API, "parameters": SWARM})),
        ("jpeg", comment_jpeg(SWARM, little=True)), ("webp", comment_webp(SWARM, little=True)))],
    *[(f"fooocus {kind}", data, "Fooocus", "a quiet bay", 4711471147114711, "juggernautXL_v8Rundiffusion") for kind, data in (
        ("png", png_bytes(picture(), {"parameters": FOOOCUS, "fooocus_scheme": "fooocus"})),
        ("jpeg", comment_jpeg(FOOOCUS, FOOOCUS_EXIF)), ("webp", comment_webp(FOOOCUS, FOOOCUS_EXIF)))],
    *[(f"novelai {kind}", data, "NovelAI", "lighthouse at dusk", 880673757, "NovelAI Diffusion V4.5") for kind, data in (
        ("png", png_bytes(picture(), NAI)),
        ("webp", webp_bytes(picture(), exif_bytes(
            {0x0131: NAI["Source"], 0x010E: "\x00\x00\x00\x00" + NAI["Description"]},
            b"ASCII\x00\x00\x00" + json.dumps(NAI).encode()))),
        ("jpeg", jpeg_bytes(picture(), exif_bytes({}, b"ASCII\x00\x00\x00" + json.dumps(NAI).encode()))))],
]  # fmt: skip


@pytest.mark.parametrize(("data", "generator", "prompt", "seed", "model"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_six_families_in_three_containers(data: bytes, generator: str, prompt: str, seed: int, model: str) -> None:
    raw = inspect_bytes_texts(data)
    found = read_metadata(raw)
    assert found is not None
    assert (found.generator, found.seed, found.model) == (generator, seed, model)
    assert (found.prompt or "").startswith(prompt)
    assert found.negative_prompt
    assert found.raw == raw


def read(**texts: str) -> EmbeddedMetadata:
    found = read_metadata({key.replace("exif_", "exif:"): text for key, text in texts.items()})
    assert found is not None
    return found


def test_fooocus_in_a1111_text() -> None:
    text = ("a bay\nNegative prompt: people\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 42, Size: 768x512, CFG scale: 4, "
            "Sharpness: 2, Performance: Speed, Model hash: aeb7, Model: juggernaut, "
            'Lora hashes: "offset: 48526", Version: Fooocus v2.5.5')  # fmt: skip
    for found in (read(parameters=text, fooocus_scheme="a1111"), read(exif_UserComment=text, exif_MakerNote="a1111")):
        assert (found.generator, found.version, found.prompt) == ("Fooocus", "2.5.5", "a bay")
        assert (found.seed, found.model, found.loras) == (42, "juggernaut", (Lora(name="offset"),))


def test_ruined_fooocus() -> None:
    data = {"Prompt": "a", "Negative": "b", "steps": 30, "cfg": 8, "seed": 1, "base_model_name": "m.safetensors",
            "loras": [{"name": "x", "weight": 0.5}], "software": "RuinedFooocus"}  # fmt: skip
    found = read(parameters=json.dumps(data))
    assert (found.generator, found.prompt, found.negative_prompt) == ("RuinedFooocus", "a", "b")
    assert found.loras == (Lora(name="x", weight=0.5),)


def test_invokeai_second_age() -> None:
    data = {"model": "stable diffusion", "model_weights": "weights", "app_version": "2.2.5", "image": {
        "prompt": [{"prompt": "a cat [dog, bird] on a mat", "weight": 1.0}], "steps": 5, "cfg_scale": 7, "seed": 8,
        "width": 512, "height": 640, "sampler": "k_lms"}}  # fmt: skip
    found = read(**{"sd-metadata": json.dumps(data)})
    assert (found.prompt, found.negative_prompt) == ("a cat on a mat", "dog, bird")
    assert (found.model, found.seed, found.sampler, found.height) == ("weights", 8, "k_lms", 640)


@pytest.mark.parametrize("line", ['"a cat [dog]" -s 50 -S 29 -W 512 -H 768 -C 7.5 -A k_lms', "a cat [dog] -s50 -S29 -W512 -H768 -C7.5 -Ak_lms",
                                  '"a cat [dog]" --steps 50 --seed 29 --width 512 --height 768 --cfg_scale 7.5'])  # fmt: skip
def test_invokeai_first_age(line: str) -> None:
    found = read(Dream=line)
    assert (found.generator, found.prompt, found.negative_prompt) == ("InvokeAI", "a cat", "dog")
    assert (found.steps, found.seed, found.width, found.height, found.cfg) == (50, 29, 512, 768, 7.5)


def test_invokeai_three_point_something() -> None:
    data = {"positive_prompt": "a", "negative_prompt": "", "model": {"model_name": "m", "base_model": "sd-1"}, "seed": 0,
            "loras": [{"lora": {"model_name": "l"}, "weight": 0.75}], "steps": 9, "cfg_scale": 7.5,
            "scheduler": "euler"}  # fmt: skip
    found = read(invokeai_metadata=json.dumps(data))
    assert (found.model, found.seed, found.negative_prompt) == ("m", 0, None)
    assert found.loras == (Lora(name="l", weight=0.75),)


def test_invokeai_graph_alone() -> None:
    graph = {"nodes": {
        "p": {"type": "compel", "prompt": "a cat"}, "n": {"type": "compel", "prompt": "a dog"},
        "noise": {"type": "noise", "seed": 5, "width": 8, "height": 16},
        "m": {"type": "main_model_loader", "model": {"name": "mm"}},
        "d": {"type": "denoise_latents", "steps": 3, "cfg_scale": 7, "scheduler": "euler"}},
        "edges": [{"source": {"node_id": s, "field": "c"}, "destination": {"node_id": "d", "field": f}}
                  for s, f in (("p", "positive_conditioning"), ("n", "negative_conditioning"), ("noise", "noise"))]}  # fmt: skip
    found = read(invokeai_graph=json.dumps(graph))
    assert (found.prompt, found.negative_prompt, found.model) == ("a cat", "a dog", "mm")
    assert (found.seed, found.steps, found.width, found.height) == (5, 3, 8, 16)


def test_brackets() -> None:
    assert split_brackets("a [b] c [d, e]") == ("a c", "b, d, e")
    assert split_brackets("a [b") == ("a [b", "")


def test_novelai_of_each_version() -> None:
    old = {"steps": 28, "sampler": "k_euler", "seed": 3, "scale": 11.0, "uc": "bad"}
    found = read(Title="AI generated image", Description="a cat", Software="NovelAI",
                 Source="Stable Diffusion 1D44365E", Comment=json.dumps(old))  # fmt: skip
    assert (found.prompt, found.negative_prompt, found.model, found.model_hash) == ("a cat", "bad", "Stable Diffusion", "1D44365E")
    four = dict(NOVELAI_COMMENT, v4_prompt={"caption": {"base_caption": "base", "char_captions": [{"char_caption": "girl"}]}})
    found = read(stealth=json.dumps({"Comment": json.dumps(four), "Software": "NovelAI", "Source": "NovelAI Diffusion V4 37442FCA"}))
    assert (found.prompt, found.parameters["Character 1"]) == ("base", "girl")


def test_swarmui_wins_over_the_graph_it_carries() -> None:
    found = read(parameters=SWARM, prompt=API)
    assert (found.generator, found.api_prompt) == ("SwarmUI", API)
    assert found.loras == (Lora(name="dunes_xl", weight=0.9),)


def test_tensorart_takes_a_random_seed_from_the_graph() -> None:
    data = {"prompt": "a", "negativePrompt": "b", "seed": "-1", "steps": 25, "cfgScale": 7,
            "baseModel": {"modelFileName": "WAI", "hash": "A5"}, "ksamplerName": "euler"}  # fmt: skip
    found = read(generation_data=json.dumps(data) + "\x00", prompt=API)
    assert (found.generator, found.seed, found.model, found.prompt) == ("TensorArt", 156680208700286, "WAI", "a")


def test_smaller_dialects() -> None:
    ed = read(prompt="a", negative_prompt="b", seed="4", use_stable_diffusion_model="m", num_inference_steps="9")
    assert (ed.generator, ed.prompt, ed.seed, ed.model, ed.steps) == ("EasyDiffusion", "a", 4, "m", 9)
    dt = read(xmp='<xmp:CreatorTool>Draw Things</xmp:CreatorTool><exif:UserComment><rdf:li>{&quot;c&quot;:&quot;a &amp; b&quot;,'
                  '&quot;uc&quot;:&quot;n&quot;,&quot;seed&quot;:6,&quot;size&quot;:&quot;8x16&quot;,&quot;model&quot;:&quot;m&quot;}</rdf:li>')  # fmt: skip
    assert (dt.generator, dt.prompt, dt.seed, dt.height) == ("Draw Things", "a & b", 6, 16)
    mj = read(Description="a cat --ar 3:2 --v 6.1 --seed 7 Job ID: 0123-4567", Author="someone")
    assert (mj.generator, mj.prompt, mj.seed, mj.version) == ("Midjourney", "a cat", 7, "6.1")
    hf = read(parameters=json.dumps({"prompt": "a", "resolution": "8 x 16", "Model": {"Model": "M"}, "seed": 3}))
    assert (hf.generator, hf.prompt, hf.model, hf.seed) == ("Hugging Face", "a", "M", 3)


def test_credentials_are_a_claim_without_a_prompt() -> None:
    found = read(c2pa="claim_generator: Adobe_Firefly\nsoftwareAgent: Adobe Firefly\ndigitalSourceType: trainedAlgorithmicMedia")
    assert (found.generator, found.prompt) == ("Adobe Firefly", None)
    assert "not verified" in str(found.parameters["Source"])
    assert read(c2pa="softwareAgent: GPT-4o\ndigitalSourceType: trainedAlgorithmicMedia").generator == "OpenAI"
    assert read_metadata({"c2pa": "claim_generator: Camera\ndigitalSourceType: digitalCapture"}) is None


def test_nothing_known() -> None:
    assert read_metadata({}) is None
    assert read_metadata({"Software": "GIMP 3.0", "date:create": "2023", "exif:Model": "X100", "prompt": "{}"}) is None


def test_what_is_found_can_be_written_down() -> None:
    found = read(parameters=json.dumps({"sui_image_params": {"prompt": "a \ud800", "x": math.inf, "y": 10**400, "seed": 2**70}}))
    assert found.seed is None
    for value in (found.prompt, *found.parameters.values(), *found.parameters, *found.raw.values()):
        str(value).encode("utf-8")
    assert all(not isinstance(v, float) or math.isfinite(v) for v in found.parameters.values())


def test_names_that_are_no_names_are_cut() -> None:
    """They become names of folders, and cells of tables."""
    long = "m" * 250_000
    found = read(parameters=f"a\nSteps: 1, Sampler: {long}, Seed: 1, Model: {long}, Model hash: {long}, App: {long}, "
                 f'Version: {long}, Lora hashes: "{long}: 1"')  # fmt: skip
    labels = [found.generator, found.model, found.model_hash, found.sampler, found.version, found.loras[0].name]
    assert {len(label or "") for label in labels} == {1000}
    assert len(found.raw["parameters"]) > 1_500_000


def test_a_lora_without_a_name_is_none() -> None:
    """Found by tools/fuzz: by-lora/ had a folder for it."""
    text = 'a\nSteps: 1, Seed: 1, Sampler: x, LoRA networks: " ,b:1", Version: Fooocus v2'
    assert [lora.name for lora in read(parameters=text).loras] == ["b"]
    data = FOOOCUS_DATA | {"loras": [["", 0.1, "48"], ["\x00", 0.1, "48"], ["good", 1, "48"]]}
    assert [lora.name for lora in read(parameters=json.dumps(data)).loras] == ["good"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["parameters", "prompt", "workflow", "Comment", "Software", "Source", "Description", "Dream", "sd-metadata", "stealth",
        "invokeai_metadata", "invokeai_graph", "generation_data", "exif:UserComment", "exif:Make", "exif:Model", "xmp", "c2pa",
        "exif:Software", "fooocus_scheme", "metadata", "use_stable_diffusion_model"]  # fmt: skip
SEEDS: list[Any] = [comfyui_graphs()[0], comfyui_graphs()[1], SWARMUI_DATA, INVOKEAI_METADATA, FOOOCUS_DATA, NOVELAI_COMMENT,
                    {"Comment": json.dumps(NOVELAI_COMMENT), "Software": "NovelAI"}, {"software": "RuinedFooocus", "loras": []},
                    {"extraMetadata": {"prompt": "a", "resources": []}}, {"model": "m", "image": {"prompt": [{}]}},
                    {"prompt": "a", "baseModel": {}, "models": []}]  # fmt: skip


def mutate(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any], depth: int = 0) -> Any:
    """The same JSON with a place or two changed into something that does not belong there."""
    if depth and draw(st.integers(0, 11)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        return {k: mutate(v, draw, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [mutate(v, draw, depth + 1) for v in value]
    return value


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_reader_fails_on_rubbish(data: st.DataObject) -> None:
    texts = {}
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.integers(0, 2))
        if kind == 0:
            text = data.draw(st.text(max_size=80))
        elif kind == 1:
            text = json.dumps(data.draw(JSON))
        else:
            text = json.dumps(mutate(data.draw(st.sampled_from(SEEDS)), data.draw))
        texts[data.draw(st.sampled_from(KEYS))] = text
    check(texts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "\n", "Negative prompt:", "Steps: ", "20", ", ", ":", '"', "{", "}", "<lora:", ">", "Seed: ",
                                 "Version: ", "f1.2", "Size: 1x", "[", "Lora hashes: ", "\\"]), max_size=60))  # fmt: skip
def test_no_a1111_text_fails(pieces: list[str]) -> None:
    check({"parameters": "".join(pieces)})


class _NoLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


def check(texts: dict[str, str]) -> None:
    """`read_metadata` swallows and logs a reader's fault: here the log line is the failure."""
    logger, handler = logging.getLogger("mixfs.media.readers"), _NoLog()
    logger.addHandler(handler)
    try:
        found = read_metadata(texts)
    finally:
        logger.removeHandler(handler)
    if found is not None:
        assert found.seed is None or 0 <= found.seed < 2**64
        for value in (found.prompt, found.negative_prompt, found.model, found.sampler, *found.parameters):
            (value or "").encode("utf-8")


def test_readers_have_names_of_their_own() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)
    assert all(reader.version >= 1 for reader in READERS)
