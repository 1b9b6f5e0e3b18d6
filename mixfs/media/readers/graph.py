"""A ComfyUI graph in its API form: nodes by id, inputs that are values or links, and bounded ways to walk it.

    {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0], …}, "_meta": {"title": …}}, …}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_NODES = 20_000
MAX_STEPS = 20_000
MAX_DEPTH = 60
MAX_TEXT = 200_000


@dataclass(frozen=True, slots=True)
class Link:
    """An input that takes output `slot` of another node."""

    id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    id: str
    kind: str
    inputs: dict[str, Any]
    title: str = ""

    def links(self) -> Iterator[tuple[str, Link]]:
        """The inputs that are links, in the order written."""
        for name, value in self.inputs.items():
            if isinstance(value, Link):
                yield name, value


class Graph:
    """Nodes by id, plus a budget of steps that all walks together may take: a cycle or a flood ends, it never hangs."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.steps = 0

    def node(self, link: object) -> Node | None:
        """The node at the other end of an input; None for a value, a dangling link, or when the budget is spent."""
        self.steps += 1
        if not isinstance(link, Link) or self.steps > MAX_STEPS:
            return None
        return self.nodes.get(link.id)


def from_api(data: Any) -> Graph | None:
    """A graph out of parsed API JSON; None when it is none."""
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict) and "class_type" not in data:
        data = data["prompt"]
    if not isinstance(data, dict):
        return None
    nodes: dict[str, Node] = {}
    for key, item in list(data.items())[:MAX_NODES]:
        if not isinstance(item, dict) or not isinstance(item.get("class_type"), str):
            continue
        inputs = item.get("inputs")
        meta = item.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        nodes[str(key)] = Node(
            id=str(key),
            kind=item["class_type"],
            inputs={n: _input(v) for n, v in inputs.items()} if isinstance(inputs, dict) else {},
            title=title if isinstance(title, str) else "",
        )
    return Graph(nodes) if nodes else None


def _input(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int:
        return Link(str(value[0]), value[1])
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    return value


# ---- the UI form, for a file whose API graph is missing

_WIDGETS: dict[str, tuple[str, ...]] = {
    "CLIPTextEncode": ("text",),
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler",
                         "start_at_step", "end_at_step", "return_with_leftover_noise"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "UnetLoaderGGUF": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "RandomNoise": ("noise_seed", ""),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "PrimitiveNode": ("value", ""),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveInt": ("value", ""),
    "Note": (),
    "MarkdownNote": (),
}  # fmt: skip
"""Widget order of the nodes that matter, from ComfyUI's node definitions; "" is `control_after_generate`."""


def from_ui(data: Any) -> Graph | None:
    """A graph out of UI JSON: nodes and numbered links. Only well-known nodes' widgets have names there."""
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        return None
    sources: dict[Any, Link] = {}
    for link in data["links"] if isinstance(data.get("links"), list) else []:
        if isinstance(link, list) and len(link) >= 3 and isinstance(link[0], int) and type(link[2]) is int:
            sources[link[0]] = Link(str(link[1]), link[2])
        elif isinstance(link, dict) and isinstance(link.get("id"), int) and type(link.get("origin_slot")) is int:
            sources[link["id"]] = Link(str(link.get("origin_id")), link["origin_slot"])
    nodes: dict[str, Node] = {}
    for item in data["nodes"][:MAX_NODES]:
        # Mode 2 is muted; 4 is bypassed, and its links are followed as if it were a reroute.
        if not isinstance(item, dict) or not isinstance(item.get("type"), str) or item.get("mode") == 2:
            continue
        inputs: dict[str, Any] = {}
        values = item.get("widgets_values")
        if isinstance(values, dict):
            inputs.update({str(k): _input(v) for k, v in values.items()})
        elif isinstance(values, list):
            names = _WIDGETS[item["type"]] if item["type"] in _WIDGETS else _widget_names(item)
            inputs.update({name: value for name, value in zip(names, values, strict=False) if name})
        for port in item["inputs"] if isinstance(item.get("inputs"), list) else []:
            if isinstance(port, dict) and isinstance(port.get("name"), str) and isinstance(port.get("link"), int):
                source = sources.get(port["link"])
                if source is not None:
                    inputs[port["name"]] = source
        title = item.get("title")
        node_id = str(item.get("id"))
        nodes[node_id] = Node(node_id, item["type"], inputs, title if isinstance(title, str) else "")
    return Graph(nodes) if nodes else None


def _widget_names(item: dict[str, Any]) -> tuple[str, ...]:
    """Newer front ends list widgets among the inputs; a seed is followed by its unnamed control."""
    names: list[str] = []
    for port in item["inputs"] if isinstance(item.get("inputs"), list) else []:
        if isinstance(port, dict) and isinstance(port.get("widget"), dict) and isinstance(port.get("name"), str):
            names.append(port["name"])
            if port["name"] in ("seed", "noise_seed"):
                names.append("")
    return tuple(names)
