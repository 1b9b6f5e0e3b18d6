"""SwarmUI: JSON with `sui_image_params`, in PNG `parameters` and in EXIF UserComment (UTF-16, little-endian)."""

from __future__ import annotations

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
    parse_json,
    scalars,
)  # fmt: skip
from mixfs.media.readers.comfyui import find_graphs
from mixfs.media.types import EmbeddedMetadata, Lora

VERSION = 1

_TAKEN = frozenset({"prompt", "negativeprompt", "model", "seed", "steps", "cfgscale", "width", "height", "sampler",
                    "scheduler", "swarm_version", "loras", "loraweights"})  # fmt: skip


class SwarmUIReader:
    name = "swarmui"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("parameters", "exif:UserComment", "exif:ImageDescription", "stealth", "comment"):
            text = fields.get(key)
            if "sui_image_params" not in text[:65536] and "sui_image_params" not in text:
                continue
            whole = as_object(parse_json(text))
            data = as_object(whole.get("sui_image_params"))
            if data:
                break
        else:
            return None
        extra = as_object(whole.get("sui_extra_data"))
        prompt = as_text(data.get("prompt"))
        model = as_text(data.get("model"))
        model_hash = None
        for item in as_list(whole.get("sui_models")):
            entry = as_object(item)
            if entry.get("param") == "model":
                model_hash = as_text(entry.get("hash"))
                model = model or as_text(entry.get("name"))
        names = data.get("loras")
        weights = data.get("loraweights")
        if isinstance(names, str):
            names = names.split(",")
        if isinstance(weights, str):
            weights = weights.split(",")
        weights = as_list(weights)
        loras = [
            Lora(name=name.strip(), weight=as_float(weights[i]) if i < len(weights) else None)
            for i, name in enumerate(as_list(names))
            if isinstance(name, str) and name.strip()
        ]
        parameters = scalars(data, _TAKEN) | scalars(extra)
        api, ui = find_graphs(fields)
        original = as_text(first(extra, "original_prompt"))
        return EmbeddedMetadata(
            generator="SwarmUI",
            version=as_text(data.get("swarm_version")),
            reader=self.name,
            reader_version=VERSION,
            prompt=prompt or original,
            negative_prompt=as_text(data.get("negativeprompt")),
            model=model,
            model_hash=model_hash,
            seed=as_seed(data.get("seed")),
            steps=as_int(data.get("steps")),
            cfg=as_float(data.get("cfgscale")),
            sampler=as_text(data.get("sampler")),
            scheduler=as_text(data.get("scheduler")),
            width=as_int(data.get("width")),
            height=as_int(data.get("height")),
            loras=tuple(loras) or lora_tags(prompt),
            parameters=parameters,
            workflow=ui,
            api_prompt=api,
        )
