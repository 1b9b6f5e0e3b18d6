"""Midjourney: `Description` = prompt, `--flags`, `Job ID: uuid`; in EXIF, XMP or a comment where it is no PNG."""

from __future__ import annotations

import html

from mixfs.media.readers.base import RawFields, build
from mixfs.media.types import EmbeddedMetadata, Scalar

_NAMES = {"version": ("v", "version"), "negative_prompt": ("no",), "seed": ("seed",)}
_MAX_FLAGS = 60


class MidjourneyReader:
    name = "midjourney"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("Description", "exif:ImageDescription", "comment", "xmp"):
            text = fields.get(key)
            if key == "xmp":
                start = text.find("<dc:description>")
                end = text.find("</dc:description>", start)
                text = _strip_tags(text[start:end]) if 0 <= start < end else ""
            at = text.find("Job ID:")
            if at < 0:
                continue
            job = text[at + 7 :].split(maxsplit=1)[:1]
            prompt, *pieces = f" {text[:at].strip()}".split(" --", _MAX_FLAGS)
            flags: dict[str, Scalar] = {"Job ID": job[0] if job else None}
            for piece in pieces:
                name, _, value = piece.strip().partition(" ")
                if name:
                    flags[name] = value.strip() or True
            # Flags stay parameters under their own names too: `--v 6.1` is how people know them.
            return build(self, "Midjourney", flags, _NAMES, parameters=flags, prompt=prompt.strip() or None)
        return None


def _strip_tags(text: str) -> str:
    out, at = [], 0
    while (start := text.find("<", at)) >= 0:
        out.append(text[at:start])
        end = text.find(">", start)
        if end < 0:
            return html.unescape("".join(out))
        at = end + 1
    return html.unescape("".join([*out, text[at:]]))
