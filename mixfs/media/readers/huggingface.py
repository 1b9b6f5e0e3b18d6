"""Hugging Face Spaces: JSON with `Model`, `resolution` and `prompt` in `metadata` or `parameters`; and whatever else
describes a picture by such JSON, whose generator is then not known."""

from __future__ import annotations

from mixfs.media.readers.base import RawFields, as_object, as_size, as_text, build, first, lowered
from mixfs.media.types import EmbeddedMetadata

_NAMES = {
    "prompt": ("prompt", "positiveprompt", "positive_prompt"), "negative_prompt": ("negative_prompt", "negativeprompt"),
    "model": ("model", "modelname", "model_name"), "model_hash": ("model_hash", "modelhash"), "seed": ("seed",),
    "steps": ("num_inference_steps", "steps"), "cfg": ("guidance_scale", "cfg_scale", "cfgscale"),
    "sampler": ("sampler",), "width": ("width",), "height": ("height",),
}  # fmt: skip


class HuggingFaceReader:
    name = "huggingface"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("metadata", "parameters", "exif:UserComment"):
            data = lowered(fields.object(key))
            if as_text(first(data, *_NAMES["prompt"])) is None:
                continue
            width, height = as_size(first(data, "resolution", "size"))
            # Animagine's Space: "Model": {"Model": name, "Model hash": digits}
            nested = lowered(as_object(data.get("model")))
            return build(
                self, "Hugging Face" if "resolution" in data else "unknown", data, _NAMES, drop=("resolution", "size"),
                model=as_text(first(nested, "model", "name")), model_hash=as_text(nested.get("model_hash")),
                width=width, height=height,
            )  # fmt: skip
        return None
