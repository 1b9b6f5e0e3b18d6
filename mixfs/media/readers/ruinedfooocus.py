"""RuinedFooocus: JSON with `"software": "RuinedFooocus"`."""

from __future__ import annotations

from typing import Any

from mixfs.media.readers.base import RawFields, as_float, as_list, build, first
from mixfs.media.readers.fooocus import HOSTS
from mixfs.media.types import EmbeddedMetadata, Lora

_NAMES = {
    "version": ("version",), "prompt": ("Prompt", "prompt"),
    "negative_prompt": ("Negative", "negative_prompt", "negative"), "model": ("base_model_name", "model"),
    "model_hash": ("base_model_hash",), "seed": ("seed",), "steps": ("steps",), "cfg": ("cfg",),
    "sampler": ("sampler_name", "sampler"), "scheduler": ("scheduler",), "width": ("width",), "height": ("height",),
}  # fmt: skip


class RuinedFooocusReader:
    name = "ruinedfooocus"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates(*HOSTS):
            data = fields.object(key) if "RuinedFooocus" in fields.get(key) else {}
            if str(data.get("software", "")).startswith("RuinedFooocus"):
                loras = [lora for item in _listed(data.get("loras")) if (lora := _lora(item))]
                return build(self, "RuinedFooocus", data, _NAMES, drop=("software", "loras"), loras=loras)
        return None


def _listed(value: Any) -> list[Any]:
    """A list; the first versions wrote `Loras:<name:0.5>,<other:1.0>`."""
    if not isinstance(value, str):
        return as_list(value)
    pairs = (piece.strip("<> ").rpartition(":") for piece in value.removeprefix("Loras:").split(">,"))
    return [[name, weight] for name, _, weight in pairs if name]


def _lora(item: Any) -> Lora | None:
    """An object with name and weight, `[name, weight]`, or `[hash, "weight - name"]`, by age."""
    weight: Any = None
    if isinstance(item, dict):
        name, weight = first(item, "name", "lora"), first(item, "weight", "strength")
    elif isinstance(item, list) and len(item) >= 2:
        name, weight = (item[0], item[1]) if as_float(item[1]) is not None else (item[1], None)
        head, dash, tail = name.partition(" - ") if isinstance(name, str) else ("", "", "")
        if dash and weight is None and as_float(head) is not None:
            name, weight = tail, head
    else:
        name = item
    return Lora(name=name, weight=as_float(weight)) if isinstance(name, str) and name else None
