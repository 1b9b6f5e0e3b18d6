"""InvokeAI's three ages: `invokeai_metadata` (3.0 on), `sd-metadata` (1.15 to 2.3), `Dream` (a command line)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mixfs.media.readers.base import (
    RawFields,
    as_float,
    as_list,
    as_object,
    as_text,
    build,
    first,
)  # fmt: skip
from mixfs.media.types import EmbeddedMetadata, Lora, Scalar

_NAMES = {
    "version": ("app_version",), "prompt": ("positive_prompt",), "negative_prompt": ("negative_prompt",),
    "seed": ("seed",), "steps": ("steps",), "cfg": ("cfg_scale", "guidance"), "sampler": ("scheduler",),
    "width": ("width",), "height": ("height",),
}  # fmt: skip
_OLD_NAMES = {
    "seed": ("seed",), "steps": ("steps",), "cfg": ("cfg_scale",), "sampler": ("sampler", "sampler_name"),
    "width": ("width",), "height": ("height",),
}  # fmt: skip

_DREAM_FLAGS = {
    "-s": "steps", "--steps": "steps", "-S": "seed", "--seed": "seed", "-W": "width", "--width": "width",
    "-H": "height", "--height": "height", "-C": "cfg_scale", "--cfg_scale": "cfg_scale", "-A": "sampler",
    "--sampler": "sampler", "-m": "sampler", "--sampler_name": "sampler", "-f": "strength", "--strength": "strength",
    "-G": "gfpgan_strength", "-ft": "facetool", "-cf": "codeformer_fidelity", "-U": "upscale", "-I": "init_img",
    "--perlin": "perlin", "--threshold": "threshold", "-v": "variation_amount", "-V": "with_variations",
}  # fmt: skip


class InvokeAIReader:
    name = "invokeai"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        if found := self._current(fields):
            return found
        dream = _parse_dream(fields.get("Dream") or fields.get("dream"))
        if old := fields.object("sd-metadata"):
            return self._sd_metadata(old, dream)
        return self._old(dream, {}) if dream else None

    def _current(self, fields: RawFields) -> EmbeddedMetadata | None:
        data = fields.object("invokeai_metadata")
        graph = _from_graph(fields.object("invokeai_graph") or _workflow_graph(fields.object("invokeai_workflow")))
        if not data and not graph:
            return None
        model = as_object(data.get("model")) or as_object(graph.get("model"))
        loras = []
        for item in as_list(first(data, "loras") or graph.get("loras")):
            inner = as_object(item)
            named = as_object(first(inner, "model", "lora"))
            name = first(named, "name", "model_name")
            if isinstance(name, str):
                loras.append(Lora(name=name, weight=as_float(inner.get("weight"))))
        parameters: dict[str, Scalar] = {}
        for key in ("vae", "refiner_model"):
            named_model = first(as_object(data.get(key)), "name", "model_name")
            if isinstance(named_model, str):
                parameters[key] = named_model
        whole = {**graph, **{key: value for key, value in data.items() if value is not None and value != ""}}
        return build(
            self, "InvokeAI", whole, _NAMES, drop=("model", "loras"), parameters=parameters,
            model=as_text(first(model, "name", "model_name")) or as_text(data.get("model")),
            model_hash=as_text(first(model, "hash", "model_hash")), loras=loras,
        )  # fmt: skip

    def _sd_metadata(self, data: dict[str, Any], dream: dict[str, Any]) -> EmbeddedMetadata:
        # A grid has `images`, a list; each has the same settings.
        image = as_object(data.get("image")) or as_object(next(iter(as_list(data.get("images"))), None))
        prompt = image.get("prompt")
        if isinstance(prompt, list):
            prompt = " ".join(
                part["prompt"] if isinstance(part, dict) else part
                for part in prompt
                if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("prompt"), str))
            )
        # The command line keeps what the JSON of some versions lost: the negative part, in brackets.
        return self._old({**image, "prompt": dream.get("prompt", prompt)}, data)

    def _old(self, image: Mapping[str, Any], model: Mapping[str, Any]) -> EmbeddedMetadata:
        positive, negative = split_brackets(as_text(image.get("prompt")) or "")
        return build(
            self, "InvokeAI", image, _OLD_NAMES, drop=("prompt",),
            prompt=positive or None, negative_prompt=negative or None, version=as_text(model.get("app_version")),
            model=as_text(first(model, "model_weights", "model")), model_hash=as_text(model.get("model_hash")),
        )  # fmt: skip


def split_brackets(text: str) -> tuple[str, str]:
    """Old InvokeAI writes what is not wanted in brackets: `a cat [blurry, text]` is prompt and negative prompt.

    Unbalanced brackets stay in the prompt.
    """
    positive = ""
    negative: list[str] = []
    at = 0
    while (start := text.find("[", at)) >= 0:
        end = text.find("]", start)
        if end < 0:
            break
        negative.append(text[start + 1 : end].strip())
        before, at = text[at:start], end + 1
        positive += before.lstrip(" ") if positive.endswith(" ") else before
    rest = text[at:]
    positive += rest.lstrip(" ") if positive.endswith(" ") else rest
    return positive.strip(), ", ".join(part for part in negative if part)


def _parse_dream(line: str) -> dict[str, Any]:
    """`"prompt" -s 50 -S 2980747362 -W 512 …`; empty when it is no such line."""
    line = line.strip("\x00 \t\r\n")
    if not line or len(line) > 200_000:
        return {}
    out: dict[str, Any] = {}
    if line[0] == '"':
        end = 1
        while (end := line.find('"', end)) > 0 and line[end - 1] == "\\":
            end += 1
        if end < 0:
            return {}
        out["prompt"], rest = line[1:end].replace('\\"', '"'), line[end + 1 :]
    else:
        end = line.find(" -")
        out["prompt"], rest = (line, "") if end < 0 else (line[:end], line[end:])
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    key = ""
    for word in words:
        if word in _DREAM_FLAGS:
            key = _DREAM_FLAGS[word]
            out.setdefault(key, "")
        elif word[:2] in _DREAM_FLAGS and (word[2:3].isdigit() or word[:2] == "-A"):
            # `-s50`: the value stands right behind its flag.
            out[_DREAM_FLAGS[word[:2]]], key = word[2:], ""
        elif word.startswith("-") and not word[1:2].isdigit():
            key = ""
        elif key:
            out[key] = f"{out[key]} {word}".strip()
    return out


def _from_graph(graph: dict[str, Any]) -> dict[str, Any]:
    """What a workflow's graph says when no metadata field does: values of the nodes that the denoising depends on."""
    nodes = graph.get("nodes")
    if not isinstance(nodes, dict):
        return {}
    nodes = {key: node for key, node in list(nodes.items())[:5000] if isinstance(node, dict)}
    into: dict[tuple[str, str], str] = {}
    for edge in as_list(graph.get("edges"))[:20_000]:
        source, target = as_object(as_object(edge).get("source")), as_object(as_object(edge).get("destination"))
        into[str(target.get("node_id")), str(target.get("field"))] = str(source.get("node_id"))

    def text_behind(node_id: str | None) -> str | None:
        for _ in range(10):
            node = nodes.get(node_id or "")
            if node is None or node_id is None:
                return None
            text = as_text(first(node, "prompt", "value", "positive_prompt"))
            if text:
                return text
            node_id = next(
                (into[node_id, name] for name in ("prompt", "item", "value", "collection") if (node_id, name) in into),
                None,
            )
        return None

    def value(key: str, name: str) -> Any:
        linked = nodes.get(into.get((key, name), ""))
        return nodes[key].get(name) if linked is None else first(linked, "value", name)

    out: dict[str, Any] = {}
    for key, node in nodes.items():
        kind = str(node.get("type", ""))
        if "denoise" in kind or kind in ("t2l", "l2l"):
            # `seed` here and not in a node of its own: FLUX and SD 3.
            for name in ("steps", "num_steps", "cfg_scale", "guidance", "scheduler", "seed", "width", "height"):
                if (item := value(key, name)) is not None:
                    out.setdefault(name.removeprefix("num_"), item)
            for side in ("positive", "negative"):
                origin = into.get((key, f"{side}_conditioning")) or into.get((key, f"{side}_text_conditioning"))
                if text := text_behind(origin):
                    out[f"{side}_prompt"] = text
        elif kind == "core_metadata":
            # What the picture's own field would hold, as far as it was known before the graph ran.
            for name, item in node.items():
                if name not in ("id", "type", "is_intermediate", "use_cache") and item not in (None, "", []):
                    out.setdefault(name, item)
        elif kind == "noise":
            out.update({name: value(key, name) for name in ("seed", "width", "height")})
        elif "model_loader" in kind and "model" not in out:
            out["model"] = node.get("model")
    return {name: item for name, item in out.items() if item is not None}


def _workflow_graph(workflow: dict[str, Any]) -> dict[str, Any]:
    """The editor's form of a workflow, brought into the graph's: values are in `data.inputs`, edges have handles."""
    nodes: dict[str, Any] = {}
    for item in as_list(workflow.get("nodes"))[:5000]:
        data = as_object(as_object(item).get("data"))
        inputs = {name: as_object(port).get("value") for name, port in as_object(data.get("inputs")).items()}
        nodes[str(as_object(item).get("id"))] = {**inputs, "type": data.get("type")}
    edges = [
        {"source": {"node_id": edge.get("source"), "field": edge.get("sourceHandle")},
         "destination": {"node_id": edge.get("target"), "field": edge.get("targetHandle")}}
        for item in as_list(workflow.get("edges"))[:20_000] if (edge := as_object(item))
    ]  # fmt: skip
    return {"nodes": nodes, "edges": edges}
