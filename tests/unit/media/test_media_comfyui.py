"""Walking ComfyUI graphs: the nodes that people use, several passes, and graphs that would trap a walker."""

# ruff: noqa: E501 - nodes in rows

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mixfs.media.readers import read_metadata
from mixfs.media.samples import comfyui_graphs
from mixfs.media.types import EmbeddedMetadata, Lora

Nodes = dict[str, tuple[str, dict[str, Any]]]

BASE: Nodes = {
    "3": ("KSampler", {"seed": 11, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal",
                       "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
                       "latent_image": ["5", 0]}),
    "4": ("CheckpointLoaderSimple", {"ckpt_name": "sub/model.safetensors"}),
    "5": ("EmptyLatentImage", {"width": 640, "height": 480, "batch_size": 1}),
    "6": ("CLIPTextEncode", {"text": "a cat", "clip": ["4", 1]}),
    "7": ("CLIPTextEncode", {"text": "a dog", "clip": ["4", 1]}),
    "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
    "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "x"}),
}  # fmt: skip


def graph(nodes: Nodes) -> str:
    return json.dumps({key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()})


def read(nodes: Nodes, **changes: Any) -> EmbeddedMetadata:
    """BASE with the nodes put in or replaced; `changes` go to the sampler's inputs."""
    whole = {**BASE, **nodes}
    whole["3"] = (whole["3"][0], {**whole["3"][1], **changes})
    found = read_metadata({"prompt": graph(whole)})
    assert found is not None
    assert found.generator == "ComfyUI"
    return found


def test_plain() -> None:
    found = read({})
    assert (found.prompt, found.negative_prompt, found.model) == ("a cat", "a dog", "sub/model.safetensors")
    assert (found.seed, found.steps, found.cfg, found.sampler, found.scheduler) == (11, 20, 7.5, "euler", "normal")
    assert (found.width, found.height) == (640, 480)


TEXTS: list[tuple[str, Nodes, str]] = [
    ("string node", {"6": ("CLIPTextEncode", {"text": ["20", 0]}), "20": ("PrimitiveString", {"value": "far"})}, "far"),
    ("through reroutes", {"6": ("CLIPTextEncode", {"text": ["20", 0]}), "20": ("Reroute", {"": ["21", 0]}),
                          "21": ("String Literal", {"string": "far"})}, "far"),
    ("show text", {"6": ("CLIPTextEncode", {"text": ["20", 0]}), "20": ("ShowText|pysssss", {"text": ["21", 0]}),
                   "21": ("DPRandomGenerator", {"text": "far", "seed": 3})}, "far"),
    ("join", {"6": ("CLIPTextEncode", {"text": ["20", 0]}),
              "20": ("Text Concatenate", {"delimiter": ", ", "clean_whitespace": "true", "text_a": ["21", 0],
                                          "text_b": ["22", 0]}),
              "21": ("Text Multiline", {"text": "one"}), "22": ("Text Multiline", {"text": "two"})}, "one, two"),
    ("string concatenate", {"6": ("CLIPTextEncode", {"text": ["20", 0]}),
                            "20": ("StringConcatenate", {"string_a": "one", "string_b": "two", "delimiter": "-"})},
     "one-two"),
    ("switch", {"6": ("CLIPTextEncode", {"text": ["20", 0]}),
                "20": ("ImpactSwitch", {"select": 2, "input1": ["21", 0], "input2": ["22", 0]}),
                "21": ("PrimitiveString", {"value": "no"}), "22": ("PrimitiveString", {"value": "yes"})}, "yes"),
    ("impact wildcard", {"6": ("ImpactWildcardEncode", {"wildcard_text": "__a__", "populated_text": "cat"})}, "cat"),
    ("styler", {"6": ("CLIPTextEncode", {"text": ["20", 0]}),
                "20": ("SDXLPromptStyler", {"text_positive": "good", "text_negative": "bad", "style": "s"})}, "good"),
    ("sdxl same", {"6": ("CLIPTextEncodeSDXL", {"text_g": "both", "text_l": "both", "width": 1})}, "both"),
    ("sdxl two", {"6": ("CLIPTextEncodeSDXL", {"text_g": "g", "text_l": "l"})}, "g\nl"),
    ("flux", {"6": ("CLIPTextEncodeFlux", {"clip_l": "", "t5xxl": "long text", "guidance": 3.5})}, "long text"),
    ("combine", {"6": ("ConditioningCombine", {"conditioning_1": ["20", 0], "conditioning_2": ["21", 0]}),
                 "20": ("CLIPTextEncode", {"text": "one"}), "21": ("CLIPTextEncode", {"text": "two"})}, "one\ntwo"),
    ("concat", {"6": ("ConditioningConcat", {"conditioning_from": ["21", 0], "conditioning_to": ["20", 0]}),
                "20": ("CLIPTextEncode", {"text": "one"}), "21": ("CLIPTextEncode", {"text": "two"})}, "one\ntwo"),
    ("old controlnet", {"6": ("ControlNetApply", {"conditioning": ["20", 0], "control_net": ["22", 0],
                                                  "image": ["23", 0], "strength": 1}),
                        "20": ("CLIPTextEncode", {"text": "one"}), "22": ("ControlNetLoader", {}),
                        "23": ("LoadImage", {"image": "pose.png"})}, "one"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "prompt"), [t[1:] for t in TEXTS], ids=[t[0] for t in TEXTS])
def test_where_text_comes_from(nodes: Nodes, prompt: str) -> None:
    found = read(nodes)
    assert (found.prompt, found.negative_prompt) == (prompt, "a dog")


def test_controlnet_hands_both_sides_through_by_output() -> None:
    apply = ("ControlNetApplyAdvanced", {"positive": ["6", 0], "negative": ["7", 0], "control_net": ["22", 0],
                                         "image": ["23", 0]})  # fmt: skip
    found = read({"20": apply}, positive=["20", 0], negative=["20", 1])
    assert (found.prompt, found.negative_prompt) == ("a cat", "a dog")


def test_styler_gives_the_negative_by_its_second_output() -> None:
    nodes: Nodes = {
        "7": ("CLIPTextEncode", {"text": ["20", 1]}),
        "20": ("SDXLPromptStyler", {"text_positive": "good", "text_negative": "bad"}),
    }
    assert read(nodes).negative_prompt == "bad"


def test_zeroed_negative() -> None:
    assert read({"7": ("ConditioningZeroOut", {"conditioning": ["6", 0]})}).negative_prompt is None


def test_efficiency_nodes() -> None:
    nodes: Nodes = {
        "1": ("Efficient Loader", {"ckpt_name": "m.safetensors", "lora_name": "l.safetensors",
                                   "lora_model_strength": 0.7, "positive": "a cat", "negative": "a dog",
                                   "empty_latent_width": 512,
                                   "empty_latent_height": 768, "lora_stack": ["2", 0]}),
        "2": ("LoRA Stacker", {"lora_count": 1, "lora_name_1": "s.safetensors", "lora_wt_1": 0.3,
                               "lora_name_2": "unused.safetensors", "lora_wt_2": 1}),
        "3": ("KSampler (Efficient)", {"seed": 5, "steps": 9, "cfg": 3, "sampler_name": "euler", "scheduler": "karras",
                                       "model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2],
                                       "latent_image": ["1", 3]}),
        "9": ("SaveImage", {"images": ["3", 5]}),
    }  # fmt: skip
    found = read_metadata({"prompt": graph(nodes)})
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.model, found.seed) == ("a cat", "a dog", "m.safetensors", 5)
    assert (found.width, found.height) == (512, 768)
    assert found.loras == (Lora(name="s.safetensors", weight=0.3), Lora(name="l.safetensors", weight=0.7))


def test_loras_in_order_and_rgthree() -> None:
    nodes: Nodes = {
        "20": ("LoraLoader", {"lora_name": "one", "strength_model": 0.5, "strength_clip": 1, "model": ["4", 0]}),
        "21": ("Power Lora Loader (rgthree)", {
            "PowerLoraLoaderHeaderWidget": {"type": "x"}, "lora_1": {"on": True, "lora": "two", "strength": 0.25},
            "lora_2": {"on": False, "lora": "off", "strength": 1}, "model": ["20", 0], "clip": ["20", 1]}),
        "22": ("LoraLoaderModelOnly", {"lora_name": "three", "strength_model": ["23", 0], "model": ["21", 0]}),
        "23": ("PrimitiveFloat", {"value": -1.5}),
    }  # fmt: skip
    found = read(nodes, model=["22", 0])
    assert found.loras == (Lora(name="one", weight=0.5), Lora(name="two", weight=0.25), Lora(name="three", weight=-1.5))
    assert found.model == "sub/model.safetensors"


FLUX: Nodes = {
    "1": ("SamplerCustomAdvanced", {"noise": ["2", 0], "guider": ["3", 0], "sampler": ["4", 0], "sigmas": ["5", 0],
                                    "latent_image": ["6", 0]}),
    "2": ("RandomNoise", {"noise_seed": ["20", 0]}),
    "3": ("BasicGuider", {"model": ["7", 0], "conditioning": ["8", 0]}),
    "4": ("KSamplerSelect", {"sampler_name": "euler"}),
    "5": ("BasicScheduler", {"scheduler": "simple", "steps": 25, "denoise": 1, "model": ["7", 0]}),
    "6": ("EmptySD3LatentImage", {"width": ["21", 0], "height": 1216}),
    "7": ("UnetLoaderGGUF", {"unet_name": "flux1-dev-Q8_0.gguf"}),
    "8": ("FluxGuidance", {"guidance": 3.5, "conditioning": ["9", 0]}),
    "9": ("CLIPTextEncode", {"text": "a fox", "clip": ["10", 0]}),
    "10": ("DualCLIPLoader", {"clip_name1": "t5.safetensors", "clip_name2": "clip_l.safetensors", "type": "flux"}),
    "11": ("VAEDecode", {"samples": ["1", 0], "vae": ["12", 0]}),
    "12": ("VAELoader", {"vae_name": "ae.safetensors"}),
    "13": ("SaveImage", {"images": ["11", 0]}),
    "20": ("Seed (rgthree)", {"seed": 2**63 + 5}),
    "21": ("PrimitiveInt", {"value": 832}),
}  # fmt: skip


def test_flux_with_custom_sampling() -> None:
    found = read_metadata({"prompt": graph(FLUX)})
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.model) == ("a fox", None, "flux1-dev-Q8_0.gguf")
    assert (found.seed, found.steps, found.sampler, found.scheduler) == (2**63 + 5, 25, "euler", "simple")
    assert (found.width, found.height, found.parameters["Guidance"]) == (832, 1216, 3.5)


def test_cfg_guider() -> None:
    guider = ("CFGGuider", {"model": ["7", 0], "positive": ["9", 0], "negative": ["30", 0], "cfg": 4.5})
    found = read_metadata({"prompt": graph({**FLUX, "3": guider, "30": ("CLIPTextEncode", {"text": "bad"})})})
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.cfg) == ("a fox", "bad", 4.5)


def test_the_first_of_two_passes_decides() -> None:
    nodes: Nodes = {
        "30": ("LatentUpscale", {"samples": ["3", 0], "width": 1280, "height": 960}),
        "31": ("KSampler", {**BASE["3"][1], "seed": 99, "steps": 8, "denoise": 0.5, "latent_image": ["30", 0]}),
        "8": ("VAEDecode", {"samples": ["31", 0], "vae": ["4", 2]}),
    }
    found = read(nodes)
    assert (found.seed, found.steps, found.parameters["Passes"]) == (11, 20, 2)
    assert (found.width, found.height) == (640, 480)


def test_a_sampler_that_is_not_saved_does_not_count() -> None:
    other = ("KSampler", {**BASE["3"][1], "seed": 99, "positive": ["7", 0]})
    assert read({"0": other, "1": ("VAEDecode", {"samples": ["0", 0]})}).seed == 11


def test_nan_and_trailing_nul() -> None:
    text = graph(BASE).replace('"steps": 20', '"steps": 20, "is_changed": [NaN]') + "\x00"
    found = read_metadata({"prompt": text})
    assert found is not None
    assert found.seed == 11


@pytest.mark.parametrize("key", ["exif:Model", "exif:Make", "exif:ImageDescription", "exif:UserComment"])
@pytest.mark.parametrize("label", ["prompt:", "Prompt: "])
def test_in_exif(key: str, label: str) -> None:
    found = read_metadata({key: label + graph(BASE), "exif:Artist": "x"})
    assert found is not None
    assert (found.generator, found.seed, found.api_prompt) == ("ComfyUI", 11, graph(BASE))


def test_both_graphs_in_one_user_comment() -> None:
    whole = json.dumps({"prompt": json.loads(graph(BASE)), "workflow": comfyui_graphs()[1]})
    found = read_metadata({"exif:UserComment": whole})
    assert found is not None
    assert found.seed == 11
    assert found.workflow is not None


def test_only_the_ui_graph() -> None:
    found = read_metadata({"workflow": json.dumps(comfyui_graphs()[1])})
    assert found is not None
    assert found.prompt == "violet night over rolling hills, huge moon, synthwave poster"
    assert (found.negative_prompt, found.seed, found.model) == (
        "text, watermark, people", 156680208700286, "sd_xl_base_1.0.safetensors",
    )  # fmt: skip


def test_a1111_text_beside_an_unknown_graph_fills_the_gaps() -> None:
    found = read_metadata({
        "prompt": graph({"1": ("MysteryNode", {"x": 1}), "2": ("SaveImage", {"images": ["1", 0]})}),
        "parameters": "a cat\nNegative prompt: b\nSteps: 20, Sampler: Euler, Seed: 4, Model: m, Version: ComfyUI",
    })  # fmt: skip
    assert found is not None
    assert (found.generator, found.prompt, found.seed, found.model) == ("ComfyUI", "a cat", 4, "m")


def test_service_nodes_have_no_sampler() -> None:
    nodes: Nodes = {
        "1": ("OpenAIGPTImage1", {"prompt": ["2", 0], "seed": 7, "quality": "low"}),
        "2": ("PrimitiveStringMultiline", {"value": "a cat"}),
        "3": ("SaveImage", {"images": ["1", 0]}),
    }
    found = read_metadata({"prompt": graph(nodes)})
    assert found is not None
    assert (found.prompt, found.seed) == ("a cat", 7)


def test_cycles_end() -> None:
    ring: Nodes = {
        "3": ("KSampler", {"seed": ["3", 0], "steps": 1, "positive": ["6", 0], "negative": ["6", 0], "model": ["4", 0],
                           "latent_image": ["3", 0]}),
        "4": ("LoraLoader", {"lora_name": "a", "model": ["4", 0], "lora_stack": ["4", 0]}),
        "6": ("ConditioningCombine", {"conditioning_1": ["6", 0], "conditioning_2": ["7", 0]}),
        "7": ("CLIPTextEncode", {"text": ["20", 0]}),
        "20": ("StringConcatenate", {"string_a": ["20", 0], "string_b": ["7", 0], "delimiter": ","}),
        "9": ("SaveImage", {"images": ["3", 0]}),
    }  # fmt: skip
    begun = time.process_time()
    found = read_metadata({"prompt": graph(ring)})
    assert found is not None
    assert time.process_time() - begun < 3


def test_a_ladder_that_doubles_at_each_step_ends() -> None:
    ladder: Nodes = {
        str(i): ("StringConcatenate", {"string_a": [str(i + 1), 0], "string_b": [str(i + 1), 0], "delimiter": ""})
        for i in range(100, 160)
    }
    ladder["160"] = ("PrimitiveString", {"value": "x" * 1000})
    begun = time.process_time()
    read({**ladder, "6": ("CLIPTextEncode", {"text": ["100", 0]})})
    assert time.process_time() - begun < 5


def test_many_nodes_and_deep_json() -> None:
    wide: Nodes = {str(i): ("Reroute", {"x": [str(i + 1), 0]}) for i in range(30_000)}
    begun = time.process_time()
    read_metadata({"prompt": graph({**wide, "s": ("SaveImage", {"images": ["0", 0]})})})
    assert read_metadata({"prompt": '{"class_type":' + "[" * 200_000}) is None
    assert time.process_time() - begun < 5


def text_from(node: tuple[str, dict[str, Any]], **others: tuple[str, dict[str, Any]]) -> str | None:
    """The prompt when the encoder takes its text from this node."""
    return read({"6": ("CLIPTextEncode", {"text": ["20", 0], "clip": ["4", 1]}), "20": node, **others}).prompt


def test_a_switch_hands_on_the_branch_that_it_was_set_to() -> None:
    lora = ("LoraLoaderModelOnly", {"lora_name": "l", "strength_model": 1, "model": ["4", 0]})
    for on, loras in ((False, ()), (True, (Lora(name="l", weight=1.0),))):
        switch = ("ComfySwitchNode", {"switch": ["32", 0], "on_false": ["4", 0], "on_true": ["31", 0]})
        found = read({"30": switch, "31": lora, "32": ("PrimitiveBoolean", {"value": on})}, model=["30", 0])
        assert (found.model, found.loras) == ("sub/model.safetensors", loras)
    two = ("CheckpointLoaderSimple", {"ckpt_name": "two"})
    numbered = ("CR Model Input Switch", {"Input": 2, "model1": ["4", 0], "model2": ["31", 0]})
    assert read({"30": numbered, "31": two}, model=["30", 0]).model == "two"
    latent = ("ImpactSwitch", {"select": 2, "sel_mode": False, "input1": ["5", 0], "input2": ["31", 0]})
    small = ("EmptyLatentImage", {"width": 11, "height": 12})
    assert read({"30": latent, "31": small}, latent_image=["30", 0]).width == 11
    first = text_from(("Any Switch (rgthree)", {"any_01": ["21", 0], "any_02": ["22", 0]}),
                      **{"21": ("PrimitiveString", {"value": "one"}), "22": ("PrimitiveString", {"value": "two"})})  # fmt: skip
    assert first == "one"


def test_what_a_language_model_was_told_is_no_prompt() -> None:
    writer = ("OllamaGenerate", {"prompt": "write a prompt about a cat", "model": "llama"})
    assert text_from(writer) is None
    assert text_from(("ShowText|pysssss", {"text": ["21", 0], "text_0": "a fox"}), **{"21": writer}) == "a fox"
    switch = ("ComfySwitchNode", {"switch": True, "on_true": ["21", 0], "on_false": ["22", 0]})
    told = ("TextGenerate", {"prompt": "You are an expert", "clip": ["4", 1]})
    assert text_from(switch, **{"21": told, "22": ("PrimitiveString", {"value": "a hare"})}) == "a hare"


def test_text_nodes_of_extensions() -> None:
    function = {"tidy_tags": "yes", "text_a": "one", "text_b": "two", "text_c": ""}
    assert text_from(("StringFunction|pysssss", {"action": "append", **function})) == "one, two"
    replace = {"action": "replace", "text_a": "one fish", "text_b": "fish", "text_c": "cat"}
    assert text_from(("StringFunction|pysssss", replace)) == "one cat"
    assert text_from(("CR Combine Prompt", {"part1": "one", "part2": "two", "separator": ", "})) == "one, two"
    styles = {"20": ("easy stylesSelector", {"styles": "x", "positive": "good", "negative": "bad"}),
              "7": ("CLIPTextEncode", {"text": ["20", 1], "clip": ["4", 1]})}  # fmt: skip
    assert read({**styles}).negative_prompt == "bad"


PIPES: dict[str, Nodes] = {
    "efficiency sdxl": {
        "1": ("Eff. Loader SDXL", {"base_ckpt_name": "m", "positive": "a cat", "negative": "a dog", "empty_latent_width": 640,
                                   "empty_latent_height": 480, "lora_stack": ["2", 0]}),
        "2": ("LoRA Stacker", {"lora_count": 1, "lora_name_1": "l", "lora_wt_1": 0.5}),
        "3": ("KSampler SDXL (Eff.)", {"noise_seed": 11, "steps": 20, "cfg": 7.5, "sampler_name": "euler",
                                       "scheduler": "normal", "sdxl_tuple": ["1", 0], "latent_image": ["1", 1]}),
        "9": ("SaveImage", {"images": ["3", 3]})},
    "easy use": {
        "1": ("easy fullLoader", {"ckpt_name": "m", "lora_name": "l", "lora_model_strength": 0.5, "positive": "a cat",
                                  "negative": "a dog", "empty_latent_width": 640, "empty_latent_height": 480}),
        "2": ("easy preSampling", {"steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
                                   "seed": ["5", 0], "pipe": ["1", 0]}),
        "3": ("easy kSampler", {"image_output": "Preview", "pipe": ["2", 0]}), "5": ("easy seed", {"seed": 11}),
        "9": ("SaveImage", {"images": ["3", 1]})},
    "rgthree context": {
        **{key: BASE[key] for key in "56789"}, "4": ("CheckpointLoaderSimple", {"ckpt_name": "m"}),
        "2": ("LoraLoader", {"lora_name": "l", "strength_model": 0.5, "model": ["4", 0]}),
        "10": ("Context (rgthree)", {"model": ["2", 0], "clip": ["4", 1], "positive": ["6", 0], "negative": ["7", 0],
                                     "latent": ["5", 0], "seed": 11}),
        "11": ("Context (rgthree)", {"base_ctx": ["10", 0]}),
        "3": ("KSampler", {**BASE["3"][1], "model": ["11", 1], "positive": ["11", 4], "negative": ["11", 5],
                           "latent_image": ["11", 6], "seed": ["11", 8]})},
    "impact pipe": {
        **{key: BASE[key] for key in "5679"}, "4": ("CheckpointLoaderSimple", {"ckpt_name": "m"}),
        "2": ("LoraLoader", {"lora_name": "l", "strength_model": 0.5, "model": ["4", 0]}),
        "10": ("ToBasicPipe", {"model": ["2", 0], "clip": ["4", 1], "vae": ["4", 2], "positive": ["6", 0], "negative": ["7", 0]}),
        "3": ("ImpactKSamplerBasicPipe", {"seed": 11, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal",
                                          "basic_pipe": ["10", 0], "latent_image": ["5", 0]}),
        "8": ("VAEDecode", {"samples": ["3", 1], "vae": ["4", 2]})},
    "wan video": {
        "1": ("WanVideoModelLoader", {"model": "m", "base_precision": "fp16", "lora": ["2", 0]}),
        "2": ("WanVideoLoraSelect", {"lora": "l", "strength": 0.5}), "4": ("WanVideoEmptyEmbeds", {"width": 640, "height": 480}),
        "5": ("WanVideoTextEmbedBridge", {"positive": ["6", 0], "negative": ["7", 0]}), "6": BASE["6"], "7": BASE["7"],
        "3": ("WanVideoSampler", {"steps": 20, "cfg": 7.5, "seed": 11, "scheduler": "normal", "model": ["1", 0],
                                  "text_embeds": ["5", 0], "image_embeds": ["4", 0]})},
}  # fmt: skip


@pytest.mark.parametrize("nodes", PIPES.values(), ids=PIPES)
def test_everything_in_one_link(nodes: Nodes) -> None:
    found = read_metadata({"prompt": graph(nodes)})
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.model) == ("a cat", "a dog", "m")
    assert (found.seed, found.steps, found.cfg, found.scheduler) == (11, 20, 7.5, "normal")
    assert (found.width, found.height, found.loras) == (640, 480, (Lora(name="l", weight=0.5),))
    assert "Passes" not in found.parameters


def test_sizes_from_a_list() -> None:
    found = read({"5": ("SDXL Empty Latent Image (rgthree)", {"dimensions": "1216 x 832   (landscape)"})})
    assert (found.width, found.height) == (1216, 832)


def test_a_later_pass_does_not_lend_its_denoising_to_the_first() -> None:
    later = ("KSampler", {**BASE["3"][1], "seed": 9, "denoise": 0.3, "latent_image": ["3", 0]})
    found = read({"30": later, "8": ("VAEDecode", {"samples": ["30", 0]})})
    assert (found.seed, found.parameters) == (11, {"Passes": 2})


def test_lora_tags_in_a_loader() -> None:
    loader = ("LoraTagLoader", {"text": "<lora:tagged:0.7>", "model": ["4", 0], "clip": ["4", 1]})
    assert read({"30": loader}, model=["30", 0]).loras == (Lora(name="tagged", weight=0.7),)


def test_replacing_makes_no_gigabytes() -> None:
    a, b = "a" * 190_000, "b" * 190_000
    begun = time.process_time()
    for node in (("StringFunction|pysssss", {"action": "replace", "text_a": a, "text_b": "a", "text_c": b}),
                 ("Text Find and Replace", {"text": a, "find": "a", "replace": b})):  # fmt: skip
        assert len(text_from(node) or "") <= 200_000
    assert time.process_time() - begun < 2
