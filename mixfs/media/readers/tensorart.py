"""TensorArt: PNG `generation_data` (JSON, closed by a NUL), beside the ComfyUI graph that was run."""

from __future__ import annotations

import dataclasses

from mixfs.media.readers import comfyui
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
from mixfs.media.types import EmbeddedMetadata, Lora

VERSION = 1
_TAKEN = {"prompt", "negativePrompt", "width", "height", "steps", "cfgScale", "seed", "ksamplerName", "samplerName",
          "schedule"}  # fmt: skip


class TensorArtReader:
    name = "tensorart"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        data = fields.object("generation_data")
        if not data or "prompt" not in data:
            return None
        base = as_object(data.get("baseModel"))
        loras = tuple(
            Lora(name=name, weight=as_float(entry.get("weight")))
            for item in as_list(data.get("models"))
            if (entry := as_object(item)).get("type") in ("LORA", "LYCORIS", "DORA")
            and isinstance(name := first(entry, "modelFileName", "label"), str)
        )
        prompt = as_text(data.get("prompt"))
        found = EmbeddedMetadata(
            generator="TensorArt",
            reader=self.name,
            reader_version=VERSION,
            prompt=prompt,
            negative_prompt=as_text(data.get("negativePrompt")),
            model=as_text(first(base, "modelFileName", "label")),
            model_hash=as_text(base.get("hash")),
            seed=as_seed(data.get("seed")),
            steps=as_int(data.get("steps")),
            cfg=as_float(data.get("cfgScale")),
            sampler=as_text(first(data, "ksamplerName", "samplerName")),
            scheduler=as_text(data.get("schedule")),
            width=as_int(data.get("width")),
            height=as_int(data.get("height")),
            loras=loras or lora_tags(prompt),
            parameters=scalars(data, _TAKEN),
        )
        graph, api, ui = comfyui.load(fields)
        if graph is not None:
            # A random seed is asked for as -1; what it became stands in the graph.
            found = comfyui.fill(found, dataclasses.replace(comfyui.describe(graph), loras=(), parameters={}))
        return dataclasses.replace(found, workflow=ui, api_prompt=api)
