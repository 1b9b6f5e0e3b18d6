"""InvokeAI's three ages: `invokeai_metadata` (3.0 on), `sd-metadata` (1.15 to 2.3), `Dream` (a command line)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mixfs.media.readers.base import (
    RawFields,
    as_float,
    as_int,
    as_list,
    as_object,
    as_seed,
    as_text,
    first,
    lora_tags,
    scalars,
)  # fmt: skip
from mixfs.media.types import EmbeddedMetadata, Lora, Scalar

VERSION = 1

_DREAM_FLAGS = {
    "-s": "steps", "--steps": "steps", "-S": "seed", "--seed": "seed", "-W": "width", "--width": "width",
    "-H": "height", "--height": "height", "-C": "cfg_scale", "--cfg_scale": "cfg_scale", "-A": "sampler",
    "--sampler": "sampler", "-m": "sampler", "--sampler_name": "sampler", "-f": "strength", "--strength": "strength",
    "-G": "gfpgan_strength", "-ft": "facetool", "-cf": "codeformer_fidelity", "-U": "upscale", "-I": "init_img",
    "--perlin": "perlin", "--threshold": "threshold", "-v": "variation_amount", "-V": "with_variations",
}  # fmt: skip

_TAKEN = frozenset({"positive_prompt", "negative_prompt", "model", "seed", "steps", "cfg_scale", "scheduler", "width",
                    "height", "app_version", "loras"})  # fmt: skip


class InvokeAIReader:
    name = "invokeai"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        if fields.get("invokeai_metadata") or fields.get("invokeai_graph"):
            return self._current(fields)
        if old := fields.object("sd-metadata"):
            return self._sd_metadata(old, fields.get("Dream") or fields.get("dream"))
        dream = _parse_dream(fields.get("Dream") or fields.get("dream"))
        return self._build(dream, None, None, None) if dream else None

    def _current(self, fields: RawFields) -> EmbeddedMetadata | None:
        data = fields.object("invokeai_metadata")
        graph = _from_graph(fields.object("invokeai_graph"))
        if not data and not graph:
            return None
        model = as_object(first(data, "model")) or as_object(graph.get("model"))
        loras = []
        for item in as_list(data.get("loras")):
            inner = as_object(item)
            named = as_object(first(inner, "model", "lora"))
            name = first(named, "name", "model_name")
            if isinstance(name, str):
                loras.append(Lora(name=name, weight=as_float(inner.get("weight"))))
        positive = as_text(data.get("positive_prompt")) or as_text(graph.get("positive"))
        parameters: dict[str, Scalar] = scalars(data, _TAKEN)
        for key in ("vae", "refiner_model"):
            named_model = first(as_object(data.get(key)), "name", "model_name")
            if isinstance(named_model, str):
                parameters[key] = named_model
        return EmbeddedMetadata(
            generator="InvokeAI",
            version=as_text(data.get("app_version")),
            reader=self.name,
            reader_version=VERSION,
            prompt=positive,
            negative_prompt=as_text(data.get("negative_prompt")) or as_text(graph.get("negative")),
            model=as_text(first(model, "name", "model_name")) or as_text(data.get("model")),
            model_hash=as_text(first(model, "hash", "model_hash")),
            seed=as_seed(first(data, "seed")) if "seed" in data else as_seed(graph.get("seed")),
            steps=as_int(first(data, "steps")) if "steps" in data else as_int(graph.get("steps")),
            cfg=as_float(first(data, "cfg_scale", "guidance")) if data else as_float(graph.get("cfg_scale")),
            sampler=as_text(data.get("scheduler")) or as_text(graph.get("scheduler")),
            width=as_int(data.get("width")) or as_int(graph.get("width")),
            height=as_int(data.get("height")) or as_int(graph.get("height")),
            loras=tuple(loras) or lora_tags(positive),
            parameters=parameters,
        )

    def _sd_metadata(self, data: dict[str, Any], dream: str) -> EmbeddedMetadata:
        image = as_object(data.get("image"))
        prompt = image.get("prompt")
        if isinstance(prompt, list):
            prompt = " ".join(
                part["prompt"] if isinstance(part, dict) else part
                for part in prompt
                if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("prompt"), str))
            )
        settings = dict(image)
        settings["prompt"] = prompt
        line = _parse_dream(dream)
        if line and isinstance(line.get("prompt"), str):
            # The command line keeps what the JSON of some versions lost: the negative part, in brackets.
            settings["prompt"] = line["prompt"]
        model = as_text(first(data, "model_weights", "model"))
        return self._build(settings, model, as_text(data.get("model_hash")), as_text(data.get("app_version")))

    def _build(
        self, data: Mapping[str, Any], model: str | None, model_hash: str | None, version: str | None
    ) -> EmbeddedMetadata:
        positive, negative = split_brackets(as_text(data.get("prompt")) or "")
        return EmbeddedMetadata(
            generator="InvokeAI",
            version=version,
            reader=self.name,
            reader_version=VERSION,
            prompt=positive or None,
            negative_prompt=negative or None,
            model=model,
            model_hash=model_hash,
            seed=as_seed(data.get("seed")),
            steps=as_int(data.get("steps")),
            cfg=as_float(data.get("cfg_scale")),
            sampler=as_text(first(data, "sampler", "sampler_name")),
            width=as_int(data.get("width")),
            height=as_int(data.get("height")),
            parameters=scalars(data, {"prompt", "seed", "steps", "cfg_scale", "sampler", "width", "height"}),
        )


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
        elif word[:2] in _DREAM_FLAGS and word[2:3].isdigit():
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

    out: dict[str, Any] = {}
    for key, node in nodes.items():
        kind = str(node.get("type", ""))
        if "denoise" in kind or kind in ("t2l", "l2l"):
            out.update({name: node[name] for name in ("steps", "cfg_scale", "scheduler") if node.get(name) is not None})
            for side in ("positive", "negative"):
                origin = into.get((key, f"{side}_conditioning")) or into.get((key, f"{side}_text_conditioning"))
                out[side] = text_behind(origin)
            for name in ("seed", "width", "height"):
                if as_int(node.get(name)) and name not in out:
                    out[name] = node[name]
        elif kind == "noise":
            out.update({name: node[name] for name in ("seed", "width", "height") if node.get(name) is not None})
        elif "model_loader" in kind and "model" not in out:
            out["model"] = node.get("model")
    return {name: value for name, value in out.items() if value is not None}
