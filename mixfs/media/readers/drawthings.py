"""Draw Things: XMP with CreatorTool `Draw Things`, the settings as JSON in its `exif:UserComment`."""

from __future__ import annotations

import html

from mixfs.media.readers.base import RawFields, as_float, as_list, as_object, as_size, build, first, parse_json
from mixfs.media.types import EmbeddedMetadata, Lora

_NAMES = {
    "prompt": ("c",), "negative_prompt": ("uc",), "model": ("model",), "seed": ("seed",), "steps": ("steps",),
    "cfg": ("scale",), "sampler": ("sampler",),
}  # fmt: skip


class DrawThingsReader:
    name = "drawthings"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        xmp = fields.get("xmp")
        if "Draw Things" not in xmp:
            return None
        start = xmp.find("exif:UserComment")
        brace = xmp.find("{", start)
        end = xmp.rfind("}")
        if start < 0 or brace < 0 or end < brace:
            return None
        data = as_object(parse_json(html.unescape(xmp[brace : end + 1])))
        if "c" not in data:
            return None
        width, height = as_size(data.get("size"))
        loras = [
            Lora(name=name, weight=as_float(entry.get("weight")))
            for item in as_list(data.get("lora"))
            if isinstance(name := first(entry := as_object(item), "model", "file", "name"), str)
        ]
        return build(self, "Draw Things", data, _NAMES, drop=("size",), width=width, height=height, loras=loras)
