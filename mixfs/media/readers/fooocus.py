"""Fooocus and its forks: `fooocus_scheme` beside `parameters` in JSON or in A1111's text; RuinedFooocus' own JSON.

In JPEG and WebP: UserComment holds the parameters, Software `Fooocus v…`, MakerNote the scheme.
"""

from __future__ import annotations

from typing import Any

from mixfs.media.readers import a1111
from mixfs.media.readers.base import (
    RawFields,
    as_float,
    as_int,
    as_list,
    as_object,
    as_seed,
    as_size,
    as_text,
    first,
    lora_tags,
    parse_json,
    scalars,
)  # fmt: skip
from mixfs.media.types import EmbeddedMetadata, Lora

VERSION = 1
_HOSTS = ("parameters", "exif:UserComment", "Comment", "comment", "exif:ImageDescription")

_TAKEN = frozenset({"prompt", "negative_prompt", "base_model", "base_model_hash", "seed", "steps", "guidance_scale",
                    "sampler", "scheduler", "resolution", "version", "loras", "full_prompt",
                    "full_negative_prompt"})  # fmt: skip


class FooocusReader:
    name = "fooocus"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        software = fields.get("exif:Software") or fields.get("Software")
        scheme = fields.get("fooocus_scheme") or fields.get("exif:MakerNote")
        ours = bool(fields.get("fooocus_scheme")) or software.lower().startswith("fooocus")
        for key in fields.candidates(*_HOSTS):
            text = fields.get(key)
            data = as_object(parse_json(text))
            if data and (_marked(data) or (ours and "prompt" in {k.lower() for k in data})):
                return self._json({k.lower().replace(" ", "_"): v for k, v in data.items()}, software)
            if not data and (ours or scheme == "a1111"):
                parsed = a1111.parse(text)
                version = software if software.lower().startswith("fooocus") else ""
                if parsed is not None and (ours or parsed.settings.get("Version", "").startswith("Fooocus")):
                    version = parsed.settings.get("Version") or version
                    return a1111.to_metadata(parsed, "Fooocus", _number(version), self.name)
        return None

    def _json(self, data: dict[str, Any], software: str) -> EmbeddedMetadata:
        width, height = as_size(data.get("resolution"))
        loras: list[Lora] = []
        for item in as_list(data.get("loras")):
            if isinstance(item, list) and len(item) >= 2 and isinstance(item[0], str):
                loras.append(Lora(name=item[0], weight=as_float(item[1])))
            elif isinstance(item, dict) and isinstance(item.get("name"), str):
                loras.append(Lora(name=item["name"], weight=as_float(first(item, "weight", "strength"))))
        for key, value in data.items():
            if key.startswith("lora_combined_") and isinstance(value, str):
                name, _, weight = value.rpartition(":")
                loras.append(Lora(name=name.strip() or value, weight=as_float(weight)))
        prompt = as_text(data.get("prompt")) or as_text(data.get("full_prompt"))
        negative = as_text(data.get("negative_prompt"))
        sampler = as_text(data.get("sampler"))
        return EmbeddedMetadata(
            generator="Fooocus",
            version=_number(as_text(data.get("version")) or software),
            reader=self.name,
            reader_version=VERSION,
            prompt=prompt,
            negative_prompt=negative,
            model=as_text(first(data, "base_model", "model")),
            model_hash=as_text(data.get("base_model_hash")),
            seed=as_seed(data.get("seed")),
            steps=as_int(data.get("steps")),
            cfg=as_float(first(data, "guidance_scale", "cfg_scale")),
            sampler=sampler,
            scheduler=as_text(data.get("scheduler")),
            width=width or as_int(data.get("width")),
            height=height or as_int(data.get("height")),
            loras=tuple(loras) or lora_tags(prompt),
            parameters=scalars(data, _TAKEN),
        )


def _marked(data: dict[str, Any]) -> bool:
    version = data.get("version")
    return (
        data.get("metadata_scheme") == "fooocus"
        or (isinstance(version, str) and version.startswith("Fooocus"))
        or ("base_model" in data and "performance" in data and "prompt" in data)
    )


def _number(version: str) -> str | None:
    lowered = version.lower()
    if lowered.startswith("fooocus"):
        version = version[7:].strip()
    return version.removeprefix("v") or None


class RuinedFooocusReader:
    """RuinedFooocus: JSON with `"software": "RuinedFooocus"`."""

    name = "ruinedfooocus"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates(*_HOSTS):
            if "RuinedFooocus" not in fields.get(key):
                continue
            data = fields.object(key)
            software = data.get("software")
            if not isinstance(software, str) or not software.startswith("RuinedFooocus"):
                continue
            loras = []
            for item in as_list(data.get("loras")):
                if isinstance(item, dict):
                    name, weight = first(item, "name", "lora"), first(item, "weight", "strength")
                elif isinstance(item, list) and len(item) >= 2:
                    # [hash, name] or [name, weight], by age.
                    name, weight = (item[0], item[1]) if as_float(item[1]) is not None else (item[1], None)
                    if weight is None and isinstance(name, str) and " - " in name:
                        head, _, tail = name.partition(" - ")
                        name, weight = (tail, head) if as_float(head) is not None else (name, None)
                else:
                    name, weight = item, None
                if isinstance(name, str) and name:
                    loras.append(Lora(name=name, weight=as_float(weight)))
            taken = {"Prompt", "Negative", "steps", "cfg", "width", "height", "seed", "sampler_name", "scheduler",
                     "base_model_name", "base_model_hash", "loras", "software"}  # fmt: skip
            prompt = as_text(first(data, "Prompt", "prompt"))
            return EmbeddedMetadata(
                generator="RuinedFooocus",
                version=as_text(first(data, "version")),
                reader=self.name,
                reader_version=VERSION,
                prompt=prompt,
                negative_prompt=as_text(first(data, "Negative", "negative_prompt", "negative")),
                model=as_text(first(data, "base_model_name", "model")),
                model_hash=as_text(data.get("base_model_hash")),
                seed=as_seed(data.get("seed")),
                steps=as_int(data.get("steps")),
                cfg=as_float(data.get("cfg")),
                sampler=as_text(first(data, "sampler_name", "sampler")),
                scheduler=as_text(data.get("scheduler")),
                width=as_int(data.get("width")),
                height=as_int(data.get("height")),
                loras=tuple(loras) or lora_tags(prompt),
                parameters=scalars(data, taken),
            )
        return None
