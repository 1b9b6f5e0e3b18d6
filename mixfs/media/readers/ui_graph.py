"""ComfyUI's graph in its UI form, for a file whose API graph is missing: nodes, numbered links, values without names.

What ComfyUI's page does before it runs a graph is done here: muted nodes go, bypassed ones hand their inputs through,
`Set`/`Get` pairs become links, and subgraphs (`definitions.subgraphs`) are put in where they are used.
"""

from __future__ import annotations

from typing import Any

from mixfs.media.readers.graph import MAX_NODES, Graph, Link, Node, input_value

_MUTED, _BYPASSED = 2, 4
_INPUT_NODE = -10
_OUTPUT_NODE = -20
_MAX_NESTING = 10

_SIZE = ("width", "height")
_WIDGETS: dict[str, tuple[str, ...]] = {
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl"),
    "CLIPTextEncodeSDXL": ("width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
    "GLIGENTextBoxApply": ("text",),
    "Power Prompt (rgthree)": ("prompt",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
    "PrimitiveNode": ("value", ""),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveInt": ("value", ""),
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSampler (Efficient)": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler",
                         "start_at_step", "end_at_step", "return_with_leftover_noise"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed", ""),
    "Seed (rgthree)": ("seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "SDTurboScheduler": ("steps", "denoise"),
    "Flux2Scheduler": ("steps", *_SIZE),
    "LTXVScheduler": ("steps",),
    "CFGGuider": ("cfg",),
    "DualCFGGuider": ("cfg_conds", "cfg_cond2_negative"),
    "FluxGuidance": ("guidance",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "ImageOnlyCheckpointLoader": ("ckpt_name",),
    "unCLIPCheckpointLoader": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "UnetLoaderGGUF": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "Efficient Loader": ("ckpt_name", "vae_name", "clip_skip", "lora_name", "lora_model_strength", "lora_clip_strength",
                         "positive", "negative", "token_normalization", "weight_interpretation", "empty_latent_width",
                         "empty_latent_height"),
    "EmptyLatentImage": _SIZE,
    "EmptySD3LatentImage": _SIZE,
    "EmptyFlux2LatentImage": _SIZE,
    "EmptyHunyuanLatentVideo": _SIZE,
    "EmptyLTXVLatentVideo": _SIZE,
    "EmptyMochiLatentVideo": _SIZE,
    "StableCascade_EmptyLatentImage": _SIZE,
    "StableZero123_Conditioning": _SIZE,
    "SVD_img2vid_Conditioning": _SIZE,
    "WanImageToVideo": _SIZE,
    "SDXL Empty Latent Image (rgthree)": ("dimensions",),
    "Note": (),
    "MarkdownNote": (),
}  # fmt: skip
"""Widget order of the nodes that matter, from their definitions; "" is `control_after_generate`.

Newer front ends list the widgets among a node's inputs, where their names are read for any node.
"""


def from_ui(data: Any) -> Graph | None:
    """A graph out of UI JSON. Only well-known nodes' widgets have names there."""
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        return None
    definitions = data.get("definitions")
    listed = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    reading = _Reading({d["id"]: d for d in _dicts(listed) if isinstance(d.get("id"), str)})
    reading.add(data, "", {}, 0)
    return Graph(reading.resolved()) if reading.nodes else None


class _Reading:
    """Nodes gathered from the graph and its subgraphs, ids as in the API form: `12:3` is node 3 in the subgraph 12."""

    def __init__(self, definitions: dict[str, dict[str, Any]]) -> None:
        self.definitions = definitions
        self.nodes: dict[str, Node] = {}
        self.outputs: dict[Link, Any] = {}
        """What an output of a subgraph's node really is."""
        self.sets: dict[str, Any] = {}
        self.gets: dict[Link, str] = {}
        self.room = 5 * MAX_NODES
        """Nodes and links that may still be looked at: subgraphs in subgraphs multiply."""

    def add(self, graph: dict[str, Any], prefix: str, given: dict[int, Any], depth: int) -> None:
        """Put a graph's nodes in; `given` are the values of its own inputs, where it is a subgraph."""
        if self.room < 0:
            return
        nodes, links = _dicts(graph.get("nodes")), _links(graph.get("links"))
        self.room -= 1 + len(nodes) + len(links)
        if self.room < 0:
            return
        sources: dict[int, Any] = {}
        for number, origin, slot, target, target_slot in links:
            source = given.get(slot) if origin == _INPUT_NODE else Link(f"{prefix}{origin}", slot)
            sources[number] = source
            if target == _OUTPUT_NODE and prefix:
                self.outputs[Link(prefix[:-1], target_slot)] = source
        for item in nodes:
            kind, mode = item.get("type"), item.get("mode")
            if not isinstance(kind, str) or mode == _MUTED:
                continue
            inputs = _inputs(item, sources, values=mode != _BYPASSED)
            key = f"{prefix}{item.get('id')}"
            if kind in self.definitions and mode != _BYPASSED and depth < _MAX_NESTING:
                ports = _dicts(self.definitions[kind].get("inputs"))
                inner = {slot: inputs.get(port.get("name", "")) for slot, port in enumerate(ports)}
                self.add(self.definitions[kind], f"{key}:", inner, depth + 1)
                continue
            label = item.get("widgets_values")
            name = label[0] if isinstance(label, list) and label and isinstance(label[0], str) else ""
            if kind == "SetNode":
                self.sets[name] = next(iter(inputs.values()), None)
            elif kind == "GetNode":
                self.gets[Link(key, 0)] = name
                continue
            title = item.get("title")
            self.nodes[key] = Node(key, kind if mode != _BYPASSED else "Reroute", inputs,
                                   title if isinstance(title, str) else "")  # fmt: skip

    def resolved(self) -> dict[str, Node]:
        return {
            key: Node(node.id, node.kind, {n: self._follow(v) for n, v in node.inputs.items()}, node.title)
            for key, node in self.nodes.items()
        }

    def _follow(self, value: Any) -> Any:
        for _ in range(2 * _MAX_NESTING):
            if isinstance(value, Link) and value in self.outputs:
                value = self.outputs[value]
            elif isinstance(value, Link) and value in self.gets:
                value = self.sets.get(self.gets[value])
            else:
                break
        return value


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value[:MAX_NODES] if isinstance(item, dict)] if isinstance(value, list) else []


def _links(value: Any) -> list[tuple[int, Any, int, Any, Any]]:
    """Number, origin, its slot, target, its slot: a list in the main graph, an object in a subgraph."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    found = []
    for link in value[: 4 * MAX_NODES] if isinstance(value, list) else []:
        parts = [link.get(name) for name in names] if isinstance(link, dict) else link
        if isinstance(parts, list) and len(parts) >= 5 and type(parts[0]) is int and type(parts[2]) is int:
            found.append((parts[0], parts[1], parts[2], parts[3], parts[4]))
    return found


def _inputs(item: dict[str, Any], sources: dict[int, Any], *, values: bool) -> dict[str, Any]:
    """A node's inputs by name; without its own `values` where it is bypassed."""
    inputs: dict[str, Any] = {}
    widgets = item.get("widgets_values") if values else None
    if isinstance(widgets, dict):
        inputs.update({str(name): input_value(value) for name, value in widgets.items()})
    elif isinstance(widgets, list):
        names = _WIDGETS[item["type"]] if item["type"] in _WIDGETS else _widget_names(item)
        inputs.update({name: _uncommented(value) for name, value in zip(names, widgets, strict=False) if name})
        # rgthree's Power Lora Loader: objects in a list, one a LoRA.
        inputs.update({f"lora_{n}": value for n, value in enumerate(widgets)
                       if isinstance(value, dict) and isinstance(value.get("lora"), str)})  # fmt: skip
    for port in _dicts(item.get("inputs")):
        if isinstance(port.get("name"), str) and type(port.get("link")) is int:
            source = sources.get(port["link"])
            if source is not None:
                inputs[port["name"]] = source
    return inputs


def _uncommented(value: Any) -> Any:
    """Text without `/* … */`: the page takes comments out before it runs a graph."""
    if not isinstance(value, str) or "/*" not in value:
        return value
    head, *pieces = value.split("/*")
    return head + "".join(piece.partition("*/")[2] for piece in pieces)


def _widget_names(item: dict[str, Any]) -> tuple[str, ...]:
    """Newer front ends list widgets among the inputs; a seed is followed by its unnamed control."""
    names: list[str] = []
    for port in item["inputs"] if isinstance(item.get("inputs"), list) else []:
        if isinstance(port, dict) and isinstance(port.get("widget"), dict) and isinstance(port.get("name"), str):
            names.append(port["name"])
            if port["name"] in ("seed", "noise_seed"):
                names.append("")
    return tuple(names)
