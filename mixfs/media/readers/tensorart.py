"""TensorArt: PNG `generation_data` (JSON, closed by a NUL), beside the ComfyUI graph that was run."""

from __future__ import annotations

from mixfs.media.readers import comfyui
from mixfs.media.readers.base import RawFields, as_float, as_list, as_object, as_text, build, first
from mixfs.media.types import EmbeddedMetadata, Lora

_NAMES = {
    "prompt": ("prompt",), "negative_prompt": ("negativePrompt",), "seed": ("seed",), "steps": ("steps",),
    "cfg": ("cfgScale",), "sampler": ("ksamplerName", "samplerName"), "scheduler": ("schedule",), "width": ("width",),
    "height": ("height",),
}  # fmt: skip


class TensorArtReader:
    name = "tensorart"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        data = fields.object("generation_data")
        if "prompt" not in data:
            return None
        base = as_object(data.get("baseModel"))
        loras = [
            Lora(name=name, weight=as_float(entry.get("weight")))
            for item in as_list(data.get("models"))
            if (entry := as_object(item)).get("type") in ("LORA", "LYCORIS", "DORA")
            and isinstance(name := first(entry, "modelFileName", "label"), str)
        ]
        found = build(
            self, "TensorArt", data, _NAMES, loras=loras,
            model=as_text(first(base, "modelFileName", "label")), model_hash=as_text(base.get("hash")),
        )  # fmt: skip
        # A random seed is asked for as -1; what it became stands in the graph.
        return comfyui.complete(found, fields)
