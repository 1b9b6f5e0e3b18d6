"""NovelAI: PNG text (Title, Description, Software, Source, Comment = JSON), the same as one JSON object in the EXIF
UserComment of WebP, and the same again hidden in the lowest bits of alpha (`stealth`)."""

from __future__ import annotations

from typing import Any

from mixfs.media.readers.base import (
    RawFields,
    as_float,
    as_int,
    as_list,
    as_object,
    as_seed,
    as_text,
    first,
    scalars,
)  # fmt: skip
from mixfs.media.types import EmbeddedMetadata, Scalar

VERSION = 1

_TAKEN = frozenset({"prompt", "uc", "seed", "steps", "scale", "sampler", "noise_schedule", "width", "height",
                    "v4_prompt", "v4_negative_prompt", "signed_hash"})  # fmt: skip


class NovelAIReader:
    name = "novelai"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        outer: dict[str, Any] = {}
        if fields.get("Software").startswith("NovelAI") or fields.get("Source").startswith("NovelAI"):
            outer = {key: fields.get(key) for key in ("Title", "Description", "Software", "Source", "Comment",
                                                      "Generation time")}  # fmt: skip
        else:
            for key in fields.candidates("exif:UserComment", "stealth", "exif:ImageDescription", "Comment"):
                found = fields.object(key)
                software = f"{found.get('Software', '')}{found.get('Source', '')}{fields.get('exif:Software')}"
                if "NovelAI" in software and ("Comment" in found or "uc" in found):
                    outer = found if "Comment" in found else {"Comment": found}
                    break
            else:
                software = fields.get("exif:Software")
                if not software.startswith("NovelAI"):
                    return None
                outer = {"Source": software, "Description": fields.get("exif:ImageDescription")}
        comment = as_object(outer.get("Comment"))
        positive = _caption(comment.get("v4_prompt")) or as_text(comment.get("prompt"))
        negative = _caption(comment.get("v4_negative_prompt")) or as_text(first(comment, "uc", "negative_prompt"))
        source = as_text(outer.get("Source")) or as_text(fields.get("exif:Software")) or ""
        model, model_hash = _model(source)
        parameters: dict[str, Scalar] = scalars(comment, _TAKEN)
        for i, text in enumerate(_characters(comment.get("v4_prompt")), 1):
            parameters[f"Character {i}"] = text
        for i, text in enumerate(_characters(comment.get("v4_negative_prompt")), 1):
            parameters[f"Character {i} negative"] = text
        if time := as_text(outer.get("Generation time")):
            parameters["Generation time"] = time
        return EmbeddedMetadata(
            generator="NovelAI",
            version=None,
            reader=self.name,
            reader_version=VERSION,
            prompt=positive or as_text(outer.get("Description")),
            negative_prompt=negative,
            model=model,
            model_hash=model_hash,
            seed=as_seed(comment.get("seed")),
            steps=as_int(comment.get("steps")),
            cfg=as_float(comment.get("scale")),
            sampler=as_text(comment.get("sampler")),
            scheduler=as_text(comment.get("noise_schedule")),
            width=as_int(comment.get("width")),
            height=as_int(comment.get("height")),
            parameters=parameters,
        )


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
