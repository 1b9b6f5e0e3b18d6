"""What each generator's settings become, field by field: texts as the programs write them, several ages of each."""

# ruff: noqa: E501, C408 - settings as generators write them; what is expected reads best as keywords

from __future__ import annotations

import json
from typing import Any

import pytest
from test_media_comfyui import BASE, graph

from mixfs.media.readers import READERS, read_metadata
from mixfs.media.types import EmbeddedMetadata, Lora

STEPS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768, Model hash: abc, Model: m"


def read(texts: dict[str, Any]) -> EmbeddedMetadata:
    found = read_metadata({key: value if isinstance(value, str) else json.dumps(value) for key, value in texts.items()})
    assert found is not None
    return found


FOOOCUS_TEXT = (
    "full, prompt, styled\nNegative prompt: full neg\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 42, Size: 1152x896, CFG scale: 4, "
    'Sharpness: 2, ADM Guidance: "(1.5, 0.8, 0.3)", Model: jug, Model hash: ae, Performance: Speed, Scheduler: karras, VAE: Default (model), '
    'Raw prompt: "the, prompt", Raw negative prompt: typed, Lora hashes: "off: 485, other: 11", Lora weights: "off: 0.1, other: -0.5", '
    "Version: Fooocus v2.5.5"
)
FOOOCUS = dict(generator="Fooocus", version="2.5.5", prompt="the, prompt", negative_prompt="typed", model="jug", model_hash="ae", seed=42,
               steps=30, cfg=4.0, scheduler="karras", width=1152, height=896,
               loras=(Lora(name="off", weight=0.1), Lora(name="other", weight=-0.5)))  # fmt: skip
CIVITAI_EXTRA = {"prompt": "a", "negativePrompt": "b", "steps": 25, "cfgScale": 5, "sampler": "Euler a", "seed": 1,
                 "resources": [{"modelVersionId": 2, "strength": 1}]}  # fmt: skip
INVOKE_WORKFLOW = {
    "nodes": [{"id": key, "type": "invocation", "data": {"type": kind, "inputs": {n: {"name": n, "value": v} for n, v in inputs.items()}}}
              for key, kind, inputs in (
                  ("p", "compel", {"prompt": "a cat"}), ("n", "compel", {"prompt": "a dog"}), ("r", "integer", {"value": 77}),
                  ("x", "noise", {"seed": 1, "width": 512, "height": 768}), ("m", "main_model_loader", {"model": {"name": "mm"}}),
                  ("d", "denoise_latents", {"steps": 9, "cfg_scale": 6, "scheduler": "euler"}))],
    "edges": [{"source": s, "sourceHandle": "o", "target": t, "targetHandle": h}
              for s, t, h in (("p", "d", "positive_conditioning"), ("n", "d", "negative_conditioning"), ("x", "d", "noise"), ("r", "x", "seed"))],
}  # fmt: skip
MATRIX = {"PositivePrompt": "a cat # not shown\r\nb", "NegativePrompt": "a dog", "Steps": 20, "Sampler": "Euler Ancestral Karras", "CfgScale": 5,
          "Seed": 11, "Height": 480, "Width": 640, "ModelHash": "A5", "ModelName": "m.safetensors"}  # fmt: skip

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a1111: a line of the negative prompt that begins with Steps": (
        {"parameters": f"a\nNegative prompt: c\nSteps: not these\n{STEPS}"},
        dict(prompt="a", negative_prompt="c\nSteps: not these", steps=20)),
    "a1111: a prompt that has the words Negative prompt in it": (
        {"parameters": f"a, the Negative prompt: effect\n{STEPS}"}, dict(prompt="a, the Negative prompt: effect", negative_prompt=None)),
    "a1111: line ends lost": ({"parameters": f"a cat Negative prompt: dog {STEPS}"}, dict(prompt="a cat", negative_prompt="dog", seed=5)),
    "a1111: dynamic prompts behind the settings": (
        {"parameters": f"a\n{STEPS}, Version: v1.10.1\nTemplate: {{a|b}}, c\nNegative Template: y"},
        dict(generator="AUTOMATIC1111", prompt="a", seed=5, version="v1.10.1")),
    "a1111: additional networks": (
        {"parameters": f"a\n{STEPS}, AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: kd_v15(e2e4), AddNet Weight A 1: 0.5"},
        dict(loras=(Lora(name="kd_v15", weight=0.5),))),
    "a1111: lora tags count before hashes": (
        {"parameters": f'a <lora:x:0.5> <LORA:y>\n{STEPS}, Lora hashes: "x: 1, y: 2"'},
        dict(loras=(Lora(name="x", weight=0.5), Lora(name="y")))),
    "a1111: the extras tab": (
        {"parameters": "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN 4x+"}, dict(generator="AUTOMATIC1111", prompt=None)),
    "forge neo with a number": ({"parameters": f"a\n{STEPS}, ADetailer Version: Neo, Version: neo-2.28"}, dict(generator="Forge Neo")),
    "sd.next before it wrote its name": (
        {"parameters": 'a\nSteps: 20, Seed: 5, Sampler: Euler a, Parser: Full parser, Model: m, Backend: Diffusers, Version: 1bf3b9f, Operations: "txt2img"'},
        dict(generator="SD.Next", version="1bf3b9f", seed=5, model="m")),
    "a saver for comfyui without a version": (
        {"exif:UserComment": "a\nSteps: 20, Sampler: euler_ancestral_karras, CFG scale: 5.0, Seed: 34, Size: 8x8, Model: m.safetensors"},
        dict(generator="ComfyUI", sampler="euler_ancestral_karras")),
    "another, told by its seed": (
        {"exif:UserComment": "a\nSteps: 20, Sampler: Euler a, CFG scale: 5.0, Seed: 347382230306562, Model: m.safetensors"}, dict(generator="ComfyUI")),
    "fooocus in a1111's text": ({"parameters": FOOOCUS_TEXT, "fooocus_scheme": "a1111"}, FOOOCUS),
    "fooocus in exif": ({"exif:UserComment": FOOOCUS_TEXT, "exif:MakerNote": "a1111", "exif:Software": "Fooocus v2.5.5"}, FOOOCUS),
    "fooocus known by its version alone": ({"parameters": FOOOCUS_TEXT}, FOOOCUS),
    "fooocus with the names of its log": (
        {"parameters": {"Prompt": "p", "Negative Prompt": "n", "Styles": "['Fooocus V2']", "Performance": "Speed", "Resolution": "(1152, 896)",
                        "Guidance Scale": 4.0, "Base Model": "jug", "Sampler": "dpmpp", "Scheduler": "karras", "Seed": "12",
                        "LoRA 1": "off : 0.1", "LoRA [Two] weight": 0.3, "Version": "Fooocus v2.1.855"}},
        dict(generator="Fooocus", version="2.1.855", prompt="p", negative_prompt="n", model="jug", seed=12, cfg=4.0, width=1152, height=896,
             loras=(Lora(name="off", weight=0.1), Lora(name="Two", weight=0.3)))),
    "ruinedfooocus' loras": (
        {"parameters": {"Prompt": "a", "Negative": "b", "steps": 30, "cfg": 8, "seed": 1, "base_model_name": "m", "software": "RuinedFooocus",
                        "loras": [["hash", "0.5 - one"], ["hash", "1.0 - x - y"], ["two", 0.25]]}},
        dict(generator="RuinedFooocus", prompt="a", cfg=8.0,
             loras=(Lora(name="one", weight=0.5), Lora(name="x - y", weight=1.0), Lora(name="two", weight=0.25)))),
    "ruinedfooocus' loras in one text": (
        {"parameters": {"Prompt": "a", "loras": "Loras:<one.safetensors:0.5>,<two:1.0>", "software": "RuinedFooocus"}},
        dict(generator="RuinedFooocus", loras=(Lora(name="one.safetensors", weight=0.5), Lora(name="two", weight=1.0)))),
    "fooocus with styles and nothing typed against": (
        {"parameters": FOOOCUS_TEXT.replace("Raw negative prompt: typed", "Raw negative prompt: ")},
        dict(generator="Fooocus", prompt="the, prompt", negative_prompt="full neg")),
    "invokeai: the metadata node of a graph": (
        {"invokeai_graph": {"nodes": {"c": {"id": "c", "type": "core_metadata", "positive_prompt": "p", "negative_prompt": "n", "steps": 30, "seed": None,
                                            "model": {"name": "mm", "hash": "h"}, "loras": [{"model": {"name": "L"}, "weight": 0.5}]},
                                      "x": {"id": "x", "type": "noise", "seed": 5}}, "edges": []}},
        dict(generator="InvokeAI", prompt="p", negative_prompt="n", steps=30, seed=5, model="mm", model_hash="h", loras=(Lora(name="L", weight=0.5),))),
    "swarmui before 0.9.5": (
        {"parameters": {"sui_image_params": {"prompt": "a <lora:x:0.5>", "negativeprompt": "", "model": "Off/sd_xl", "seed": 1, "steps": 20,
                                             "cfgscale": 7.0, "width": 1024, "height": 768, "comfyuisampler": "euler", "comfyuischeduler": "normal",
                                             "swarm_version": "0.6.4.0"}}},
        dict(generator="SwarmUI", version="0.6.4.0", prompt="a <lora:x:0.5>", negative_prompt=None, model="Off/sd_xl", sampler="euler",
             scheduler="normal", width=1024, height=768, loras=(Lora(name="x", weight=0.5),))),
    "invokeai: a command line with values right behind their flags": (
        {"Dream": '"a \\"big\\" cat [dog]" -s50 -S123 -W512 -H768 -C7.5 -Ak_lms --seamless'},
        dict(prompt='a "big" cat', negative_prompt="dog", steps=50, seed=123, width=512, height=768, cfg=7.5, sampler="k_lms")),
    "invokeai: a grid": (
        {"sd-metadata": {"model_weights": "w", "app_version": "2.2.4", "images": [{"prompt": [{"prompt": "a [b]", "weight": 1.0}], "seed": 9, "steps": 5}]}},
        dict(generator="InvokeAI", version="2.2.4", prompt="a", negative_prompt="b", model="w", seed=9, steps=5)),
    "invokeai: flux": (
        {"invokeai_metadata": {"app_version": "5.4.0", "guidance": 4, "width": 8, "height": 16, "seed": 5, "steps": 30, "positive_prompt": "p",
                               "model": {"hash": "blake3:1", "name": "FLUX Dev"}, "loras": [{"model": {"name": "L"}, "weight": 1}]}},
        dict(prompt="p", negative_prompt=None, cfg=4.0, model="FLUX Dev", model_hash="blake3:1", loras=(Lora(name="L", weight=1.0),))),
    "invokeai: only the editor's workflow": (
        {"invokeai_workflow": INVOKE_WORKFLOW},
        dict(generator="InvokeAI", prompt="a cat", negative_prompt="a dog", model="mm", seed=77, steps=9, cfg=6.0, sampler="euler", width=512, height=768)),
    "novelai: software lost": (
        {"Title": "AI generated image", "Description": "a", "Comment": {"uc": "bad", "steps": 28, "scale": 11.0, "seed": 3, "sampler": "k_euler"}},
        dict(generator="NovelAI", prompt="a", negative_prompt="bad", steps=28, cfg=11.0, seed=3)),
    "novelai: only the comment": (
        {"Comment": {"prompt": "p", "uc": "n", "seed": 3, "v4_prompt": {"caption": {"base_caption": "base", "char_captions": []}}}},
        dict(generator="NovelAI", prompt="base", negative_prompt="n", seed=3)),
    "civitai: resources by number, the graph has their names": (
        {"exif:UserComment": {**json.loads(graph({**BASE, "4": ("CheckpointLoaderSimple", {"ckpt_name": "urn:air:sdxl:checkpoint:civitai:1@2"})})),
                              "extra": {"airs": []}, "extraMetadata": json.dumps(CIVITAI_EXTRA)}, "exif:Artist": "ai"},
        dict(generator="Civitai", prompt="a", negative_prompt="b", seed=1, steps=25, sampler="Euler a", scheduler="normal",
             model="urn:air:sdxl:checkpoint:civitai:1@2", width=640, height=480)),
    "civitai: size in two settings": (
        {"exif:UserComment": 'a\nSteps: 25, CFG scale: 5, Sampler: Euler a, Seed: 1, width: 832, height: 1216, Civitai resources: [{"type":"checkpoint","modelName":"M","modelVersionName":"v1"}]'},
        dict(generator="Civitai", model="M v1", width=832, height=1216)),
    "stability matrix": (
        {"parameters-json": MATRIX, "parameters": "a cat\nSteps: 20, Sampler: Euler Ancestral Karras, Seed: 11", "prompt": graph(BASE), "smproj": "{}"},
        dict(generator="Stability Matrix", prompt="a cat # not shown\nb", negative_prompt="a dog", model="m.safetensors", model_hash="A5", seed=11,
             steps=20, cfg=5.0, sampler="euler", scheduler="normal", width=640, height=480, api_prompt=graph(BASE))),
    "stability matrix without its graph": ({"parameters-json": MATRIX}, dict(generator="Stability Matrix", sampler="Euler Ancestral Karras")),
    "hugging face: animagine": (
        {"metadata": {"prompt": "p", "negative_prompt": "n", "resolution": "832 x 1216", "guidance_scale": 7, "num_inference_steps": 28, "seed": 5,
                      "sampler": "Euler a", "use_lora": None, "Model": {"Model": "Animagine XL 3.1", "Model hash": "e3c4"}}},
        dict(generator="Hugging Face", prompt="p", model="Animagine XL 3.1", model_hash="e3c4", cfg=7.0, steps=28, width=832, height=1216)),
    "easydiffusion: labels, and lists as python shows them": (
        {"Prompt": "p", "Negative Prompt": "n", "Seed": "1", "Stable Diffusion model": "sd", "Steps": "25", "Guidance Scale": "7.5", "Sampler": "euler_a",
         "Width": "512", "Height": "640", "use_lora_model": "['a', 'b']", "lora_alpha": "[0.5, 1]"},
        dict(generator="EasyDiffusion", prompt="p", negative_prompt="n", seed=1, model="sd", steps=25, cfg=7.5, sampler="euler_a", width=512, height=640,
             loras=(Lora(name="a", weight=0.5), Lora(name="b", weight=1.0)))),
    "sd.next: loras by name": (
        {"parameters": 'a\nSteps: 20, Seed: 5, CFG scale: 6, Model: m, App: SD.Next, Version: cb0eb55, Operations: upscale; img2img, LoRA networks: "One-5, Two:0.5"'},
        dict(generator="SD.Next", loras=(Lora(name="One-5"), Lora(name="Two", weight=0.5)))),
    "draw things: loras where they are now": (
        {"xmp": '<xmp:CreatorTool>Draw Things</xmp:CreatorTool><exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{"c":"a red&#xA;cube","uc":"blue","model":"m.ckpt",'
                '"sampler":"Euler A","scale":4.5,"seed":2441935286,"size":"64x32","steps":8,"v2":{"loras":[{"file":"l.ckpt","weight":0.8}]}}</rdf:li></rdf:Alt></exif:UserComment>'},
        dict(generator="Draw Things", prompt="a red\ncube", negative_prompt="blue", cfg=4.5, seed=2441935286, width=64, height=32, loras=(Lora(name="l.ckpt", weight=0.8),))),
    "draw things: only its description": (
        {"xmp": '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">a cube&#xA;-blue&#xA;Steps: 20, Sampler: Euler Ancestral, Guidance Scale: 4.0, Seed: 42, Size: 64x32, '
                'Model: m.ckpt, LoRA Model: l.ckpt, LoRA Weight: 0.8</rdf:li></rdf:Alt></dc:description><xmp:CreatorTool>Draw Things</xmp:CreatorTool>'},
        dict(generator="Draw Things", prompt="a cube", negative_prompt="blue", steps=20, cfg=4.0, seed=42, width=64, model="m.ckpt", sampler="Euler Ancestral", loras=(Lora(name="l.ckpt", weight=0.8),))),
    "midjourney in xmp": (
        {"xmp": '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">a cat --no dog, bird --v 7 --seed 3 Job ID: abc</rdf:li></rdf:Alt></dc:description>'},
        dict(generator="Midjourney", prompt="a cat", negative_prompt="dog, bird", version="7", seed=3)),
    "a composite is a claim too": (
        {"xmp": 'DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia" Made with Google AI'},
        dict(generator="Gemini", prompt=None)),
}  # fmt: skip


@pytest.mark.parametrize(("texts", "expected"), CASES.values(), ids=CASES)
def test_fields(texts: dict[str, Any], expected: dict[str, Any]) -> None:
    found = read(texts)
    assert {name: getattr(found, name) for name in expected} == expected


def test_whoever_reads_signs_with_its_own_name_and_version() -> None:
    versions = {reader.name: reader.version for reader in READERS}
    for texts, _ in CASES.values():
        found = read(texts)
        assert versions[found.reader] == found.reader_version
