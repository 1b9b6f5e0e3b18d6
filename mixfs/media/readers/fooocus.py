"""Fooocus and its forks: `fooocus_scheme` beside `parameters` in JSON or in A1111's text.

In JPEG and WebP: UserComment holds the parameters, Software `Fooocus v…`, MakerNote the scheme. The prompt is the one
that was typed; `full_prompt`, and the first lines of the A1111 text, are what styles and expansion made of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mixfs.media.readers import a1111
from mixfs.media.readers.base import RawFields, as_float, as_list, as_size, as_text, build, first, lowered
from mixfs.media.types import EmbeddedMetadata, Lora

HOSTS = ("parameters", "exif:UserComment", "Comment", "comment", "exif:ImageDescription")

_NAMES = {
    "prompt": ("prompt", "full_prompt"), "negative_prompt": ("negative_prompt",), "model": ("base_model", "model"),
    "model_hash": ("base_model_hash",), "seed": ("seed",), "steps": ("steps",),
    "cfg": ("guidance_scale", "cfg_scale", "cfg"), "sampler": ("sampler",),
    "scheduler": ("scheduler",), "width": ("width",), "height": ("height",),
}  # fmt: skip


class FooocusReader:
    name = "fooocus"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        software = fields.get("exif:Software") or fields.get("Software")
        scheme = fields.get("fooocus_scheme") or fields.get("exif:MakerNote")
        ours = bool(fields.get("fooocus_scheme")) or software.lower().startswith("fooocus")
        for key in fields.candidates(*HOSTS):
            text, data = fields.get(key), fields.object(key)
            if data and (_marked(lowered(data)) or (ours and "prompt" in lowered(data))):
                return self._json(data, software)
            if not data and (ours or scheme == "a1111" or "Version: Fooocus" in text):
                parsed = a1111.parse(text)
                if parsed is not None and (ours or parsed.settings.get("Version", "").startswith("Fooocus")):
                    return self._text(parsed, software)
        return None

    def _text(self, parsed: a1111.Parsed, software: str) -> EmbeddedMetadata:
        version = parsed.settings.get("Version") or (software if software.lower().startswith("fooocus") else "")
        found = a1111.to_metadata(parsed, self, "Fooocus", _number(version))
        raw, raw_negative = parsed.settings.get("Raw prompt"), parsed.settings.get("Raw negative prompt")
        if raw is None:
            return found
        full = {"Full prompt": found.prompt, "Full negative prompt": found.negative_prompt}
        rest = {k: v for k, v in found.parameters.items() if k not in ("Raw prompt", "Raw negative prompt")}
        return dataclasses.replace(
            found,
            prompt=raw or found.prompt,
            negative_prompt=raw_negative or found.negative_prompt,
            parameters={**rest, **full},
        )

    def _json(self, data: dict[str, Any], software: str) -> EmbeddedMetadata:
        settings = lowered(data)
        width, height = as_size(settings.get("resolution"))
        loras = [Lora(name=item[0], weight=as_float(item[1])) for item in as_list(settings.get("loras"))
                 if isinstance(item, list) and len(item) >= 2 and isinstance(item[0], str)]  # fmt: skip
        loras += [Lora(name=item["name"], weight=as_float(first(item, "weight", "strength")))
                  for item in as_list(settings.get("loras"))
                  if isinstance(item, dict) and isinstance(item.get("name"), str)]  # fmt: skip
        named = {key: lora for key, value in data.items() if (lora := _named_lora(key, value))}
        return build(
            self, "Fooocus", settings, _NAMES,
            drop={"version", "software", "loras", "resolution", "full_prompt", "full_negative_prompt", *lowered(named)},
            version=_number(as_text(first(settings, "version", "software")) or software),
            loras=loras or list(named.values()), width=width, height=height,
        )  # fmt: skip


def _named_lora(key: str, value: Any) -> Lora | None:
    """`lora_combined_1` or, as the log shows it, `LoRA 1`: `name : 0.5`; before 2.1 `LoRA [name] weight`: 0.5."""
    lower = key.lower()
    if lower.startswith("lora [") and lower.endswith("] weight"):
        return Lora(name=key[6:-8], weight=as_float(value))
    number = lower.removeprefix("lora_combined_") if lower.startswith("lora_combined_") else lower.removeprefix("lora ")
    if number == lower or not number.strip().isdigit() or not isinstance(value, str):
        return None
    name, _, weight = value.rpartition(":")
    name = name.strip() or value.strip()
    return Lora(name=name, weight=as_float(weight)) if name and name != "None" else None


def _marked(data: dict[str, Any]) -> bool:
    version = data.get("version")
    return (
        str(data.get("metadata_scheme")).lower() == "fooocus"
        or (isinstance(version, str) and version.startswith("Fooocus"))
        or ("base_model" in data and "performance" in data and "prompt" in data)
    )


def _number(version: str) -> str | None:
    if version.lower().startswith("fooocus"):
        version = version[7:].strip()
    return version.removeprefix("v") or None
