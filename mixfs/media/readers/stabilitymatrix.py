"""Stability Matrix: `parameters-json` and `smproj` (the project) beside the ComfyUI graph that was run."""

from __future__ import annotations

import dataclasses

from mixfs.media.readers import comfyui
from mixfs.media.readers.base import RawFields, as_text, build
from mixfs.media.types import EmbeddedMetadata

_NAMES = {
    # The graph's prompt lacks what the program took for a comment or a wildcard.
    "prompt": ("PositivePrompt",), "negative_prompt": ("NegativePrompt",), "model": ("ModelName",),
    "model_hash": ("ModelHash",), "seed": ("Seed",), "steps": ("Steps",), "cfg": ("CfgScale",), "width": ("Width",),
    "height": ("Height",),
}  # fmt: skip


class StabilityMatrixReader:
    name = "stabilitymatrix"
    version = 1

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        data = fields.object("parameters-json")
        if "PositivePrompt" not in data:
            return None
        found = comfyui.complete(build(self, "Stability Matrix", data, _NAMES, drop=("Sampler",)), fields)
        # `Euler Ancestral Karras` is the sampler's and the scheduler's name in one; the graph has them apart.
        return found if found.sampler else dataclasses.replace(found, sampler=as_text(data.get("Sampler")))
