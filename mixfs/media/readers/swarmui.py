"""SwarmUI: JSON with `sui_image_params`, in PNG `parameters` and in EXIF UserComment (UTF-16, little-endian)."""

from __future__ import annotations

from typing import Any

from mixfs.media.readers.base import RawFields, as_float, as_list, as_object, as_text, build, parse_json, scalars
from mixfs.media.readers.comfyui import find_graphs
from mixfs.media.types import EmbeddedMetadata, Lora

_NAMES = {
    "prompt": ("prompt",), "negative_prompt": ("negativeprompt",), "model": ("model",),
    "seed": ("seed",), "steps": ("steps",), "cfg": ("cfgscale",),
    # The names before version 0.9.5; AUTOMATIC1111 may be the backend too.
    "sampler": ("sampler", "comfyuisampler", "autowebuisampler"), "scheduler": ("scheduler", "comfyuischeduler"),
    "width": ("width",), "height": ("height",),
}  # fmt: skip


class SwarmUIReader:
    name = "swarmui"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("parameters", "exif:UserComment", "exif:ImageDescription", "stealth", "comment"):
            text = fields.get(key)
            whole = as_object(parse_json(text)) if "sui_image_params" in text else {}
            if data := as_object(whole.get("sui_image_params")):
                return self._read(fields, whole, data)
        return None

    def _read(self, fields: RawFields, whole: dict[str, Any], data: dict[str, Any]) -> EmbeddedMetadata:
        extra = as_object(whole.get("sui_extra_data"))
        model = next((m for item in as_list(whole.get("sui_models")) if (m := as_object(item)).get("param") == "model"),
                     {})  # fmt: skip
        weights = _listed(data.get("loraweights"))
        loras = [
            Lora(name=name.strip(), weight=as_float(weights[i]) if i < len(weights) else None)
            for i, name in enumerate(_listed(data.get("loras")))
            if isinstance(name, str) and name.strip()
        ]
        api, ui = find_graphs(fields)
        return build(
            self, "SwarmUI", data, _NAMES, drop=("loras", "loraweights", "swarm_version"), parameters=scalars(extra),
            loras=loras, prompt=as_text(data.get("prompt")) or as_text(extra.get("original_prompt")),
            model=as_text(data.get("model")) or as_text(model.get("name")), model_hash=as_text(model.get("hash")),
            version=as_text(data.get("swarm_version")) or as_text(whole.get("swarm_version")),
            workflow=ui, api_prompt=api,
        )  # fmt: skip


def _listed(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else as_list(value)
