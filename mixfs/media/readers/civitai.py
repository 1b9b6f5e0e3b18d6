"""Civitai's generator: A1111's text with `Civitai resources`, or a ComfyUI graph with `extraMetadata` in its JSON."""

from __future__ import annotations

from mixfs.media.readers import a1111, comfyui
from mixfs.media.readers.base import RawFields, as_list, as_object, as_text, build, first, parse_json
from mixfs.media.types import EmbeddedMetadata

_NAMES = {
    "prompt": ("prompt",), "negative_prompt": ("negativePrompt",), "seed": ("seed",), "steps": ("steps",),
    "cfg": ("cfgScale",), "sampler": ("sampler",), "width": ("width",), "height": ("height",),
}  # fmt: skip


class CivitaiReader:
    name = "civitai"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("exif:UserComment", "parameters", "prompt"):
            text = fields.get(key)
            if "extraMetadata" in text:
                extra = as_object(as_object(parse_json(text)).get("extraMetadata"))
                if "prompt" in extra:
                    resources = [as_object(item) for item in as_list(extra.get("resources"))]
                    model = next((as_text(first(r, "modelName", "name")) for r in resources
                                  if str(r.get("type")).lower() in ("checkpoint", "model")), None)  # fmt: skip
                    # Newer pictures name their resources by number only; the graph has the checkpoint's URN.
                    return comfyui.complete(build(self, "Civitai", extra, _NAMES, model=model), fields)
            if "Civitai resources:" in text:
                parsed = a1111.parse(text)
                settings = parsed.settings if parsed is not None else {}
                if parsed and "Civitai resources" in settings and settings.get("Version") in (None, "ComfyUI"):
                    return a1111.to_metadata(parsed, self, "Civitai", None)
        return None
