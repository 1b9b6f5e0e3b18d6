"""A1111's text as it is found in the wild."""

from __future__ import annotations

import time

import pytest

from mixfs.media.readers import read_metadata
from mixfs.media.readers.a1111 import parse
from mixfs.media.types import EmbeddedMetadata, Lora


def read(text: str, key: str = "parameters", **more: str) -> EmbeddedMetadata:
    found = read_metadata({key: text, **more})
    assert found is not None
    return found


def test_prompt_and_negative_in_several_lines() -> None:
    found = read("a cat\non a mat, <lora:Soft Fur:0.8>\n\nNegative prompt: dog\nbird\n"
                 "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768, Model: m")  # fmt: skip
    assert found.prompt == "a cat\non a mat, <lora:Soft Fur:0.8>"
    assert found.negative_prompt == "dog\nbird"
    assert (found.steps, found.sampler, found.cfg, found.seed) == (20, "Euler a", 7.0, 5)
    assert (found.width, found.height, found.model) == (512, 768, "m")
    assert found.loras == (Lora(name="Soft Fur", weight=0.8),)


def test_without_a_negative_prompt() -> None:
    found = read("a cat\nSteps: 20, Sampler: Euler, Seed: 1")
    assert (found.prompt, found.negative_prompt) == ("a cat", None)


def test_without_a_prompt() -> None:
    found = read("Negative prompt: dog\nSteps: 20, Sampler: Euler, Seed: 1")
    assert (found.prompt, found.negative_prompt) == (None, "dog")
    assert read("Steps: 20, Sampler: Euler, Seed: 1").prompt is None


def test_without_steps() -> None:
    found = read("a cat\nNegative prompt: dog\nSampler: Euler, CFG scale: 7, Seed: 9, Model: m")
    assert (found.prompt, found.negative_prompt, found.seed, found.model) == ("a cat", "dog", 9, "m")


def test_a_prompt_that_speaks_of_steps() -> None:
    found = read("Steps: going up\na stair\nSteps: 20, Sampler: Euler, Seed: 3")
    assert (found.prompt, found.steps) == ("Steps: going up\na stair", 20)


def test_only_a_prompt() -> None:
    assert read("just a prompt").prompt == "just a prompt"


def test_values_with_commas_and_quotes() -> None:
    found = read('p\nSteps: 1, Sampler: Euler, Seed: 1, Size: 8x8, ADetailer prompt: "face, \\"eyes\\", Steps: 9", '
                 'Lora hashes: "a b: 1f2, c: 3c4", Hashes: {"vae": "735e", "model": "ffee", "lora:x": "1"}, '
                 'TI hashes: "easy: 1, easy: 1", Version: v1.9.4')  # fmt: skip
    assert found.parameters["ADetailer prompt"] == 'face, "eyes", Steps: 9'
    assert found.parameters["Lora hashes"] == "a b: 1f2, c: 3c4"
    assert found.model_hash == "ffee"
    assert found.version == "v1.9.4"
    assert found.loras == (Lora(name="a b"), Lora(name="c"))


def test_bare_json_values() -> None:
    found = read('p\nSteps: 4, Sampler: Euler, Seed: 1, Civitai resources: [{"type":"checkpoint",'
                 '"modelName":"M, x","modelVersionName":"v1"},{"type":"lora","weight":0.5,"modelName":"L"}], '
                 "Civitai metadata: {}")  # fmt: skip
    assert found.generator == "Civitai"
    assert found.model == "M, x v1"
    assert found.loras == (Lora(name="L", weight=0.5),)


def test_a_comma_inside_a_bare_value() -> None:
    found = read("p\nSteps: 4, Sampler: Euler, Seed: 1, Operations: txt2img, hires, detail, App: SD.Next")
    assert found.parameters["Operations"] == "txt2img, hires, detail"
    assert found.generator == "SD.Next"


def test_all_in_one_line() -> None:
    found = read("a cat Negative prompt: dog Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 8x8, Model: m")
    assert (found.prompt, found.negative_prompt, found.seed) == ("a cat", "dog", 5)


def test_windows_line_ends() -> None:
    found = read("a cat\r\nNegative prompt: dog\r\nSteps: 20, Sampler: Euler, Seed: 5")
    assert (found.prompt, found.negative_prompt, found.seed) == ("a cat", "dog", 5)


@pytest.mark.parametrize(
    ("tail", "generator"),
    [
        ("Version: v1.10.1", "AUTOMATIC1111"), ("Version: 1.6.0", "AUTOMATIC1111"), ("", "AUTOMATIC1111"),
        ("Version: f0.0.17v1.8.0rc-latest-276-g29be1da7", "Forge"),
        ("Version: f2.0.1v1.10.1-previous-659-gc055f2d4", "Forge"),
        ("Version: f1.7.0-v1.10.1RC-latest-2164-gabc", "EasyReforge"),
        ("Version: f1.0.0v2-v1.10.1RC-latest-854-gf", "reForge"),
        ("Version: classic", "Forge Classic"), ("Version: neo", "Forge Neo"),
        ("App: SD.Next, Version: 8b73cb6", "SD.Next"), ("Version: ComfyUI", "ComfyUI"),
        ("Version: Fooocus v2.5.5", "Fooocus"),
    ],
)  # fmt: skip
def test_the_family(tail: str, generator: str) -> None:
    assert read(f"p\nSteps: 20, Sampler: Euler, Seed: 1{', ' if tail else ''}{tail}").generator == generator


@pytest.mark.parametrize(("seed", "expected"), [("18446744073709551615", 2**64 - 1), ("18446744073709551616", None),
                                                ("-1", None), ("abc", None)])  # fmt: skip
def test_seeds_are_64_bits(seed: str, expected: int | None) -> None:
    found = read(f"p\nSteps: 20, Sampler: Euler, Seed: {seed}, Size: 8x8")
    assert found.seed == expected
    assert (expected is None) == ("Seed" in found.parameters)


def test_user_comment_of_a_camera_is_none_of_ours() -> None:
    assert read_metadata({"exif:UserComment": "Holiday in Rome, day 2"}) is None
    assert read_metadata({"exif:ImageDescription": "OLYMPUS DIGITAL CAMERA"}) is None


def test_loras_of_every_form() -> None:
    tags = "<lora:a> <lora:b:0.5:0.7> <lyco:c:1> <lora:d:te=0.2:unet=0.4> <lora:> <lora:open"
    found = read(tags + "\nSteps: 1, Sampler: E, Seed: 1")
    assert [(lora.name, lora.weight) for lora in found.loras] == [("a", None), ("b", 0.5), ("c", 1.0), ("d", 0.2)]


@pytest.mark.parametrize("text", ["," * 2_000_000, "<lora:" * 300_000, "a: " * 600_000, '"' * 1_000_000,
                                  "Steps: " * 250_000, "\nSteps: 1, " + "k" * 1_900_000, "{" * 1_000_000])  # fmt: skip
def test_hostile_text_takes_no_time(text: str) -> None:
    begun = time.process_time()
    parse(text)
    read_metadata({"parameters": text})
    assert time.process_time() - begun < 3


@pytest.mark.parametrize("value", ["²", "5²", "-²", "5.²", "٣", "--5", "5-5", "-", "1.2.3"])
def test_digits_that_are_no_numbers(value: str) -> None:
    """Found by tools/fuzz: a superscript is a digit to Python, and no number; the reader raised."""
    found = read(f"a\nSteps: 20, Sampler: e, Seed: 1, Clip skip: {value}")
    assert found.prompt == "a"
    assert found.parameters["Clip skip"] == (3 if value == "٣" else value)
