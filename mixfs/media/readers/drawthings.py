"""Draw Things: XMP with CreatorTool `Draw Things`, the settings as JSON in its `exif:UserComment`, and as text that is
much like A1111's in its `dc:description`."""

from __future__ import annotations

import html

from mixfs.media.readers import a1111
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
        data = as_object(parse_json(html.unescape(xmp[brace : end + 1]))) if 0 <= start < brace < end else {}
        if "c" not in data:
            return self._description(xmp)
        width, height = as_size(data.get("size"))
        loras = [
            Lora(name=name, weight=as_float(entry.get("weight")))
            for item in as_list(data.get("lora")) or as_list(as_object(data.get("v2")).get("loras"))
            if isinstance(name := first(entry := as_object(item), "model", "file", "name"), str)
        ]
        return build(self, "Draw Things", data, _NAMES, drop=("size",), width=width, height=height, loras=loras)

    def _description(self, xmp: str) -> EmbeddedMetadata | None:
        """Prompt, a line with `-` and the negative prompt, `Steps: 8, Sampler: …, Guidance Scale: …`."""
        start = xmp.find("<rdf:li", xmp.find("<dc:description>"))
        begin, end = xmp.find(">", start) + 1, xmp.find("</rdf:li>", start)
        if not 0 <= start < begin <= end:
            return None
        text = html.unescape(xmp[begin:end])
        first_line, *lines = [line.strip() for line in text.split("\n")]
        marked = (f"Negative prompt: {line[1:]}" if line.startswith("-") else line for line in lines)
        parsed = a1111.parse("\n".join([first_line, *marked]))
        return None if parsed is None else a1111.to_metadata(parsed, self, "Draw Things", None)
