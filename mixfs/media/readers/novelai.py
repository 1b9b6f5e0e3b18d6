"""NovelAI: PNG text (Title, Description, Software, Source, Comment = JSON), the same as one JSON object in the EXIF
UserComment of WebP, and the same again hidden in the lowest bits of alpha (`stealth`)."""

from __future__ import annotations

from typing import Any

from mixfs.media.readers.base import RawFields, as_list, as_object, as_text, build
from mixfs.media.types import EmbeddedMetadata, Scalar

_NAMES = {
    "prompt": ("prompt",), "negative_prompt": ("uc", "negative_prompt"), "seed": ("seed",), "steps": ("steps",),
    "cfg": ("scale",), "sampler": ("sampler",), "scheduler": ("noise_schedule",), "width": ("width",),
    "height": ("height",),
}  # fmt: skip
_TITLES = ("NovelAI generated image", "AI generated image")


class NovelAIReader:
    name = "novelai"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        outer = _outer(fields)
        if outer is None:
            return None
        comment = as_object(outer.get("Comment"))
        source = as_text(outer.get("Source")) or as_text(fields.get("exif:Software")) or ""
        model, model_hash = _model(source)
        parameters: dict[str, Scalar] = {}
        for i, text in enumerate(_characters(comment.get("v4_prompt")), 1):
            parameters[f"Character {i}"] = text
        for i, text in enumerate(_characters(comment.get("v4_negative_prompt")), 1):
            parameters[f"Character {i} negative"] = text
        if time := as_text(outer.get("Generation time")):
            parameters["Generation time"] = time
        prompt = _caption(comment.get("v4_prompt")) or as_text(comment.get("prompt"))
        return build(
            self, "NovelAI", comment, _NAMES, drop=("signed_hash",), parameters=parameters,
            prompt=prompt or as_text(outer.get("Description")),
            negative_prompt=_caption(comment.get("v4_negative_prompt")),
            model=model, model_hash=model_hash,
        )  # fmt: skip


def _outer(fields: RawFields) -> dict[str, Any] | None:
    """The fields around `Comment`, as PNG has them; None for another generator's picture."""
    png = {key: fields.get(key) for key in ("Title", "Description", "Software", "Source", "Comment",
                                            "Generation time")}  # fmt: skip
    if png["Software"].startswith("NovelAI") or png["Source"].startswith("NovelAI"):
        return png
    if png["Title"] in _TITLES and "uc" in fields.object("Comment"):
        return png
    for key in fields.candidates("exif:UserComment", "stealth", "exif:ImageDescription", "Comment"):
        found = fields.object(key)
        software = f"{found.get('Software', '')}{found.get('Source', '')}{fields.get('exif:Software')}"
        if "NovelAI" in software and ("Comment" in found or "uc" in found):
            return found if "Comment" in found else {"Comment": found}
        if "v4_prompt" in found:
            return {"Comment": found}
    if fields.get("exif:Software").startswith("NovelAI"):
        return {"Description": fields.get("exif:ImageDescription")}
    return None


def _caption(value: Any) -> str | None:
    return as_text(as_object(as_object(value).get("caption")).get("base_caption"))


def _characters(value: Any) -> list[str]:
    captions = as_list(as_object(as_object(value).get("caption")).get("char_captions"))[:20]
    return [text for item in captions if (text := as_text(as_object(item).get("char_caption")))]


def _model(source: str) -> tuple[str | None, str | None]:
    """`NovelAI Diffusion V4.5 C02D4F98`: the model, and the digits that tell its build."""
    name, _, last = source.rpartition(" ")
    if name and len(last) == 8 and all(c in "0123456789ABCDEFabcdef" for c in last):
        return name, last
    return source or None, None
