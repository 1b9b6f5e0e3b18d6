"""ComfyUI: no prompt is stored as such; it is found by walking the graph back from what was saved.

**Which sampler.** From the node that saves the picture, links are followed back to the sampler that made it, and from
there along the latents to the *first* pass. The first pass decides: its seed, steps, cfg, sampler, prompt and model are
what the picture came from; later passes (upscaling, refining, detailing) work on its result and often change only the
noise. What the first pass leaves open is taken from the later ones, nearest first. `parameters["Passes"]` counts them.

Where: PNG tEXt `prompt` (API graph) and `workflow` (UI graph); WebP EXIF Model `prompt:{…}`, Make `workflow:{…}`; other
 savers ImageDescription `Workflow: {…}`, Make `Prompt: {…}`, or a UserComment with both.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mixfs import jsontext
from mixfs.media.readers import a1111
from mixfs.media.readers.base import RawFields, as_float, as_int, as_seed, lora_tags, parse_json
from mixfs.media.readers.comfy_values import Values
from mixfs.media.readers.graph import Graph, Link, Node, from_api
from mixfs.media.readers.ui_graph import from_ui
from mixfs.media.types import EmbeddedMetadata, Lora, Scalar

VERSION = 2
_MAX_PASSES = 24

_HOSTS = ("exif:Model", "exif:Make", "exif:ImageDescription", "exif:UserComment", "exif:Software", "exif:DocumentName",
          "exif:XPComment", "comment", "Comment", "xmp", "stealth")  # fmt: skip


def find_graphs(fields: RawFields) -> tuple[str | None, str | None]:
    """The texts of the API graph and of the UI graph, wherever a saver put them."""
    api, ui = _graph_text(fields.get("prompt"), "api"), _graph_text(fields.get("workflow"), "ui")
    for key in fields.candidates(*_HOSTS):
        text = fields.get(key).strip()
        label, _, rest = text[:20].partition(":")
        if label.strip().lower() in ("prompt", "workflow") and rest.lstrip()[:1] == "{":
            body = text[text.index(":") + 1 :].strip()
            if label.strip().lower() == "prompt":
                api = api or _graph_text(body, "api")
            else:
                ui = ui or _graph_text(body, "ui")
        elif text[:1] == "{" and ('"class_type"' in text or '"nodes"' in text or '\\"class_type\\"' in text):
            whole = parse_json(text)
            if not isinstance(whole, dict):
                continue
            if from_api(whole) is not None and "prompt" not in whole:
                api = api or text
            elif isinstance(whole.get("nodes"), list):
                ui = ui or text
            else:
                api = api or _inner(whole.get("prompt"), "api")
                ui = ui or _inner(whole.get("workflow"), "ui")
    return api, ui


def _inner(value: Any, kind: str) -> str | None:
    if isinstance(value, str):
        return _graph_text(value, kind)
    return _graph_text(jsontext.dumps(value), kind) if isinstance(value, dict) else None


def _graph_text(text: str, kind: str) -> str | None:
    marker = '"class_type"' if kind == "api" else '"nodes"'
    return text.strip("\x00 \t\r\n") if text.lstrip()[:1] == "{" and marker in text else None


def load(fields: RawFields) -> tuple[Graph | None, str | None, str | None]:
    """The graph, API form first, with the texts of both forms."""
    api, ui = find_graphs(fields)
    graph = from_api(parse_json(api)) if api else None
    if graph is None and ui:
        graph = from_ui(parse_json(ui))
    return graph, api, ui


class ComfyUIReader:
    name = "comfyui"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        graph, api, ui = load(fields)
        if graph is None:
            return None
        found = describe(graph)
        found = dataclasses.replace(found, workflow=ui, api_prompt=api)
        # Some savers write A1111's text beside the graph: it fills what the graph did not give.
        for key in fields.candidates("parameters", "exif:UserComment"):
            parsed = a1111.parse(fields.get(key))
            if parsed is not None and parsed.settings:
                return fill(found, a1111.to_metadata(parsed, self, "ComfyUI", None))
        return found


def complete(found: EmbeddedMetadata, fields: RawFields) -> EmbeddedMetadata:
    """What another program wrote beside the ComfyUI graph that it ran: gaps are filled, the graph goes along."""
    graph, api, ui = load(fields)
    if graph is not None:
        found = fill(found, dataclasses.replace(describe(graph), parameters={}))
    return dataclasses.replace(found, workflow=ui, api_prompt=api)


def fill(found: EmbeddedMetadata, other: EmbeddedMetadata) -> EmbeddedMetadata:
    """`found`, with what it lacks taken from `other`."""
    names = ("prompt", "negative_prompt", "model", "model_hash", "seed", "steps", "cfg", "sampler", "scheduler",
             "width", "height")  # fmt: skip
    gaps = {name: getattr(other, name) for name in names if getattr(found, name) is None}
    return dataclasses.replace(
        found, **gaps, loras=found.loras or other.loras, parameters={**other.parameters, **found.parameters}
    )


def describe(graph: Graph) -> EmbeddedMetadata:
    """All that the graph says of the picture that it saved. Works, with gaps, on graphs of unknown nodes."""
    values = Values(graph)
    passes = find_passes(values)
    found = EmbeddedMetadata(generator="ComfyUI", reader="comfyui", reader_version=VERSION)
    for i, node in enumerate(reversed(passes)):
        described = _describe_pass(values, node)
        # A later pass' strength of denoising would read as if it were the first one's.
        found = fill(found, described if i == 0 else dataclasses.replace(described, parameters={}))
    if not passes:
        found = _without_sampler(values, found)
    if len(passes) > 1:
        found = dataclasses.replace(found, parameters={**found.parameters, "Passes": len(passes)})
    return found


# ---- which samplers

_AWAY = frozenset({"model", "clip", "vae", "positive", "negative", "conditioning", "control_net", "noise", "guider",
                   "sampler", "sigmas", "clip_vision", "style_model", "upscale_model", "mask", "text"})  # fmt: skip
"""Inputs that do not lead to the picture's earlier pass."""


def is_sampler(node: Node) -> bool:
    inputs, kind = node.inputs, node.kind.lower()
    if ("context" in kind or "pipe" in kind) and "sampler" not in kind:
        return False  # It carries a sampler's settings on, and a seed too.
    if "guider" in inputs:
        return "sigmas" in inputs or "latent_image" in inputs
    work = any(n in inputs for n in ("seed", "noise_seed", "sampler_name", "sampler", "sigmas", "steps", "cfg"))
    if ("positive" in inputs or "negative" in inputs) and work:
        # Loaders that take prompts as text have no latent and no steps.
        return isinstance(inputs.get("positive"), Link) or isinstance(inputs.get("negative"), Link)
    # Easy Use has the settings in a node before the sampler, which has none itself.
    named = "sampler" in kind or ("sampler_name" in inputs and "steps" in inputs)
    return named and work and any(isinstance(v, Link) for v in inputs.values())


def find_passes(values: Values) -> list[Node]:
    """The samplers on the way to the saved picture, the last pass first."""
    graph = values.graph
    for start in _ends(graph):
        passes: list[Node] = []
        seen: set[str] = set()
        queue = [start]
        while queue and len(passes) < _MAX_PASSES:
            node = queue.pop(0)
            if node.id in seen:
                continue
            seen.add(node.id)
            if is_sampler(node):
                passes.append(node)
            links = sorted(
                ((_rank(name), link) for name, link in node.links() if name not in _AWAY), key=lambda pair: pair[0]
            )
            if branches := values.branches(node):
                links = [(0, link) for link in branches[:1] if isinstance(link, Link)]
            if is_sampler(node):
                # Stable Cascade: the first stage comes in by way of the second stage's conditioning.
                hidden = graph.node(node.inputs.get("positive"))
                if hidden is not None and "stage_c" in hidden.inputs:
                    links.append((2, hidden.inputs["stage_c"]))
            for _, link in links:
                nxt = graph.node(link)
                if nxt is not None and nxt.id not in seen:
                    queue.append(nxt)
        if passes:
            return passes
    return []


def _rank(name: str) -> int:
    return 0 if name in ("images", "image", "samples", "latent_image", "latent", "pixels") else 1


def _ends(graph: Graph) -> list[Node]:
    """Where to begin: nodes that save, then previews, then whatever has no consumer, then samplers themselves."""
    used = {link.id for node in graph.nodes.values() for _, link in node.links()}

    def order(node: Node) -> int:
        kind = node.kind.lower()
        if "save" in kind or "videocombine" in kind.replace("_", ""):
            return 0
        if "preview" in kind or "output" in kind:
            return 1
        return 2 if node.id not in used else 3 if is_sampler(node) else 9

    ranked = [(order(node), node) for node in graph.nodes.values()]
    return [node for rank, node in sorted(ranked, key=lambda pair: pair[0]) if rank < 9][:200]


# ---- what a sampler says


def _describe_pass(values: Values, node: Node) -> EmbeddedMetadata:
    graph, inputs = values.graph, node.inputs
    guider = graph.node(inputs.get("guider"))
    noise = graph.node(inputs.get("noise"))
    sampler = graph.node(inputs.get("sampler"))
    sigmas = _sigmas(graph, inputs.get("sigmas"))
    source = guider or node
    prompt = values.conditioning(source.inputs, "positive")
    negative = values.conditioning(source.inputs, "negative")
    parameters: dict[str, Scalar] = {}
    if values.guidance is not None:
        parameters["Guidance"] = values.guidance
    model, loras = values.model(source.inputs.get("model", inputs.get("model")), node)
    seed_at = node if noise is None else noise
    seed = as_seed(values.number(seed_at.inputs, "noise_seed", "seed"))
    scheduler = values.text_of(inputs, "scheduler")
    if sigmas is not None:
        scheduler = scheduler or values.text_of(sigmas.inputs, "scheduler")
        if scheduler is None and sigmas.kind.endswith("Scheduler"):
            scheduler = sigmas.kind.removesuffix("Scheduler") or None
    steps = values.number(inputs, "steps")
    if steps is None and sigmas is not None:
        steps = values.number(sigmas.inputs, "steps")
    sampler_name = values.text_of(inputs, "sampler_name")
    if sampler_name is None and sampler is not None:
        sampler_name = values.text_of(sampler.inputs, "sampler_name") or sampler.kind.removeprefix("Sampler")
    cfg = values.number(source.inputs, "cfg", "cfg_conds", "guidance")
    denoise = as_float(values.number(inputs if sigmas is None else sigmas.inputs, "denoise"))
    if denoise is not None and denoise != 1:
        parameters["Denoise"] = denoise
    width, height = values.size(inputs)
    return EmbeddedMetadata(
        generator="ComfyUI",
        reader="comfyui",
        reader_version=VERSION,
        prompt=prompt or None,
        negative_prompt=negative or None,
        model=model,
        seed=seed,
        steps=as_int(steps),
        cfg=as_float(cfg),
        sampler=sampler_name,
        scheduler=scheduler,
        width=width,
        height=height,
        loras=loras + _new(lora_tags(prompt), loras),
        parameters=parameters,
    )


def _new(loras: tuple[Lora, ...], known: tuple[Lora, ...]) -> tuple[Lora, ...]:
    stems = {lora.name.rpartition("/")[2].rpartition("\\")[2].partition(".safetensors")[0] for lora in known}
    return tuple(lora for lora in loras if lora.name not in stems)


def _sigmas(graph: Graph, link: object) -> Node | None:
    """The scheduler behind splitting and mixing nodes."""
    node = graph.node(link)
    for _ in range(20):
        if node is None or "steps" in node.inputs or "scheduler" in node.inputs:
            return node
        node = graph.node(next((value for name, value in node.links() if name.startswith("sigmas")), None))
    return None


def _without_sampler(values: Values, found: EmbeddedMetadata) -> EmbeddedMetadata:
    """Nodes that call a service (a prompt in, a picture out) have no sampler: take the first that holds a prompt."""
    for end in _ends(values.graph):
        queue, seen = [end], set[str]()
        while queue and len(seen) < 500:
            node = queue.pop(0)
            if node.id in seen:
                continue
            seen.add(node.id)
            for side in ("prompt", "positive", "positive_prompt", "text"):
                text = values.string(node.inputs.get(side))
                if text and text.strip():
                    negative = values.string(node.inputs.get("negative_prompt")) or values.string(
                        node.inputs.get("negative")
                    )
                    model = values.text_of(node.inputs, "model", "model_name", "ckpt_name")
                    if model is None:
                        model, loras = values.model(node.inputs.get("model"), node)
                    else:
                        loras = ()
                    return dataclasses.replace(
                        found,
                        prompt=text.strip(),
                        negative_prompt=negative or None,
                        model=model,
                        loras=loras + _new(lora_tags(text), loras),
                        seed=as_seed(values.number(node.inputs, "seed", "noise_seed")),
                        steps=as_int(values.number(node.inputs, "steps", "num_inference_steps")),
                    )
            queue.extend(nxt for _, link in node.links() if (nxt := values.graph.node(link)) is not None)
    return found
