"""ComfyUI's UI graph alone: what its page would have made of it before running it."""

# ruff: noqa: E501 - nodes and links in rows

from __future__ import annotations

import json
import time
from typing import Any

from mixfs.media.readers import read_metadata
from mixfs.media.types import EmbeddedMetadata, Lora

Item = dict[str, Any]


def node(id: int, kind: str, widgets: Any = None, mode: int = 0, **links: int) -> Item:
    inputs = [{"name": name, "type": "*", "link": link} for name, link in links.items()]
    return {"id": id, "type": kind, "mode": mode, "inputs": inputs, "widgets_values": widgets}


def read(nodes: list[Item], links: list[Any], **more: Any) -> EmbeddedMetadata:
    found = read_metadata({"workflow": json.dumps({"nodes": nodes, "links": links, **more})})
    assert found is not None
    assert found.generator == "ComfyUI"
    return found


PLAIN = [
    node(1, "CheckpointLoaderSimple", ["m.safetensors"]),
    node(2, "LoraLoader", ["l.safetensors", 0.5, 1], model=1, clip=2),
    node(3, "CLIPTextEncode", ["a cat /* not this */"], clip=3),
    node(4, "CLIPTextEncode", ["a dog"], clip=3),
    node(5, "EmptyLatentImage", [640, 480, 1]),
    node(6, "KSampler", [7, "fixed", 20, 6.5, "euler", "karras", 1], model=4, positive=5, negative=6, latent_image=7),
    node(7, "VAEDecode", None, samples=8),
    node(8, "SaveImage", ["x"], images=9),
]
LINKS = [[1, 1, 0, 2, 0, "MODEL"], [2, 1, 1, 2, 1, "CLIP"], [3, 2, 1, 3, 0, "CLIP"], [4, 2, 0, 6, 0, "MODEL"], [5, 3, 0, 6, 1, "C"],
         [6, 4, 0, 6, 2, "C"], [7, 5, 0, 6, 3, "LATENT"], [8, 6, 0, 7, 0, "LATENT"], [9, 7, 0, 8, 0, "IMAGE"]]  # fmt: skip


def test_plain() -> None:
    found = read(PLAIN, LINKS)
    assert (found.prompt, found.negative_prompt, found.model) == ("a cat", "a dog", "m.safetensors")
    assert (found.seed, found.steps, found.cfg, found.sampler, found.scheduler) == (7, 20, 6.5, "euler", "karras")
    assert (found.width, found.height, found.loras) == (640, 480, (Lora(name="l.safetensors", weight=0.5),))


def test_a_bypassed_lora_is_none_of_the_pictures() -> None:
    found = read([{**n, "mode": 4} if n["id"] == 2 else n for n in PLAIN], LINKS)
    assert (found.model, found.loras, found.prompt) == ("m.safetensors", (), "a cat")


def test_a_muted_sampler_did_not_run() -> None:
    muted = node(9, "KSampler", [99, "fixed", 1, 1, "lcm", "simple", 1], mode=2, positive=6, negative=6)
    found = read([muted, *PLAIN, node(10, "SaveImage", ["x"], mode=2, images=99)], LINKS)
    assert found.seed == 7


def test_set_and_get_are_links() -> None:
    nodes = [*[n for n in PLAIN if n["id"] != 6], node(20, "SetNode", ["pos"], CONDITIONING=5), node(21, "GetNode", ["pos"]),
             node(6, "KSampler", [7, "fixed", 20, 6.5, "euler", "karras", 1], model=4, positive=20, negative=6,
                  latent_image=7)]  # fmt: skip
    found = read(nodes, [*LINKS, [20, 21, 0, 6, 1, "C"]])
    assert found.prompt == "a cat"


def test_a_get_that_gets_itself_ends() -> None:
    found = read([*PLAIN, node(20, "SetNode", ["a"], X=20), node(21, "GetNode", ["a"])],
                 [*[link for link in LINKS if link[0] != 5], [20, 21, 0, 20, 0, "X"], [5, 21, 0, 6, 1, "C"]])  # fmt: skip
    assert found.negative_prompt == "a dog"


def subgraph() -> Item:
    """The two encoders and the sampler as a subgraph with a text, a model, a CLIP and a latent for inputs."""
    names = ("text", "model", "clip", "latent")
    links = [{"id": i, "origin_id": o, "origin_slot": s, "target_id": t, "target_slot": ts} for i, o, s, t, ts in (
        (1, -10, 0, 3, 1), (2, -10, 1, 6, 0), (3, -10, 2, 3, 0), (4, 3, 0, 6, 1), (5, 4, 0, 6, 2), (6, -10, 3, 6, 3),
        (7, 6, 0, -20, 0))]  # fmt: skip
    return {"id": "5f3c", "name": "Sampling", "inputs": [{"name": name} for name in names], "outputs": [{"name": "LATENT"}],
            "nodes": [node(3, "CLIPTextEncode", ["left over"], clip=3, text=1), node(4, "CLIPTextEncode", ["a dog"]),
                      node(6, "KSampler", [7, "fixed", 20, 6.5, "euler", "karras", 1], model=2, positive=4, negative=5,
                           latent_image=6)],
            "links": links}  # fmt: skip


def test_a_subgraph_is_put_in_where_it_is_used() -> None:
    use: Item = {"id": 30, "type": "5f3c", "mode": 0, "widgets_values": ["a fox"], "inputs": [
        {"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": None}, {"name": "model", "link": 4},
        {"name": "clip", "link": 3}, {"name": "latent", "link": 7}]}  # fmt: skip
    nodes = [use, *[n for n in PLAIN if n["id"] not in (3, 4, 6)]]
    links = [*[link for link in LINKS if link[0] in (1, 2, 3, 4, 7, 9)], [8, 30, 0, 7, 0, "LATENT"]]
    found = read(nodes, links, definitions={"subgraphs": [subgraph()]})
    assert (found.prompt, found.negative_prompt, found.seed, found.model) == ("a fox", "a dog", 7, "m.safetensors")
    assert (found.width, found.height, found.loras) == (640, 480, (Lora(name="l.safetensors", weight=0.5),))


def test_subgraphs_that_multiply_or_hold_themselves_end() -> None:
    multiply = [{"id": f"s{i}", "nodes": [node(k, f"s{i + 1}") for k in range(8)], "links": []} for i in range(12)]
    itself = {"id": "s", "nodes": [node(k, "s") for k in range(50)], "links": []}
    heavy = [{"id": "a", "nodes": [node(k, "b") for k in range(2000)], "links": []},
             {"id": "b", "nodes": [], "links": [[i, 1, 0, 2, 0, "X"] for i in range(50_000)]}]  # fmt: skip
    begun = time.process_time()
    for first, definitions in (("s0", multiply), ("s", [itself]), ("a", heavy)):
        read_metadata({"workflow": json.dumps({"nodes": [node(1, first)], "links": [],
                                               "definitions": {"subgraphs": definitions}})})  # fmt: skip
    assert time.process_time() - begun < 6
