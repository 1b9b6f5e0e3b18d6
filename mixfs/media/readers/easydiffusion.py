"""EasyDiffusion: one PNG text a setting, or all of them as JSON in the EXIF UserComment."""

from __future__ import annotations

from typing import Any

from mixfs.media.readers.base import RawFields, as_float, as_list, build, first, lowered
from mixfs.media.types import EmbeddedMetadata, Lora

_NAMES = {
    "prompt": ("prompt",), "negative_prompt": ("negative_prompt",),
    "model": ("use_stable_diffusion_model", "stable_diffusion_model"), "seed": ("seed",),
    "steps": ("num_inference_steps", "steps"), "cfg": ("guidance_scale",), "sampler": ("sampler_name", "sampler"),
    "scheduler": ("scheduler_name",), "width": ("width",), "height": ("height",),
}  # fmt: skip


class EasyDiffusionReader:
    name = "easydiffusion"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for data in (fields.texts, fields.object("exif:UserComment"), fields.object("parameters")):
            settings = lowered(data)
            if first(settings, *_NAMES["model"]) is not None:
                break
        else:
            return None
        weights = _listed(first(settings, "lora_alpha", "lora_strength"))
        loras = [
            Lora(name=name, weight=as_float(weights[i]) if i < len(weights) else None)
            for i, name in enumerate(_listed(first(settings, "use_lora_model", "lora_model")))
            if isinstance(name, str) and name and name != "None"
        ]
        drop = {key for key, value in settings.items() if isinstance(value, str) and len(value) > 2000}
        drop |= {"use_lora_model", "lora_model", "lora_alpha", "lora_strength"}
        return build(self, "EasyDiffusion", settings, _NAMES, drop=drop, loras=loras)


def _listed(value: Any) -> list[Any]:
    """A list, one value, or a list that was written into a PNG text as Python shows it: `['a', 'b']`."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return [part.strip(" '\"") for part in value[1:-1].split(",")]
    return as_list(value) if isinstance(value, list) else [value]
