"""Smaller dialects: Civitai, EasyDiffusion, Draw Things, Midjourney, Hugging Face Spaces."""

from __future__ import annotations

import html
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


class CivitaiReader:
    """Civitai's generator: A1111's text with `Civitai resources`, or a ComfyUI graph with `extraMetadata` in JSON."""

    name = "civitai"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("exif:UserComment", "parameters", "prompt"):
            text = fields.get(key)
            if "extraMetadata" in text and text.lstrip()[:1] == "{":
                whole = as_object(parse_json(text))
                extra = as_object(whole.get("extraMetadata"))
                if extra and "prompt" in extra:
                    return self._extra(extra, text)
            if "Civitai resources:" in text:
                parsed = a1111.parse(text)
                settings = parsed.settings if parsed is not None else {}
                if parsed and "Civitai resources" in settings and settings.get("Version") in (None, "ComfyUI"):
                    return a1111.to_metadata(parsed, "Civitai", None, self.name)
        return None

    def _extra(self, extra: dict[str, Any], text: str) -> EmbeddedMetadata:
        prompt = as_text(extra.get("prompt"))
        resources = [as_object(item) for item in as_list(extra.get("resources"))]
        taken = {"prompt", "negativePrompt", "steps", "cfgScale", "sampler", "seed", "width", "height", "resources"}
        return EmbeddedMetadata(
            generator="Civitai",
            reader=self.name,
            reader_version=VERSION,
            prompt=prompt,
            negative_prompt=as_text(extra.get("negativePrompt")),
            model=next((as_text(first(r, "modelName", "name")) for r in resources
                        if r.get("type") in ("checkpoint", "Checkpoint", "model")), None),
            seed=as_seed(extra.get("seed")),
            steps=as_int(extra.get("steps")),
            cfg=as_float(extra.get("cfgScale")),
            sampler=as_text(extra.get("sampler")),
            width=as_int(extra.get("width")),
            height=as_int(extra.get("height")),
            loras=lora_tags(prompt),
            parameters=scalars(extra, taken),
            api_prompt=text,
        )  # fmt: skip


class EasyDiffusionReader:
    """EasyDiffusion: one PNG text a setting, or all of them as JSON in the EXIF UserComment."""

    name = "easydiffusion"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        marker = "use_stable_diffusion_model"
        data: dict[str, Any] = dict(fields.texts)
        if marker not in data and "Stable Diffusion model" not in data:
            data = fields.object("exif:UserComment") or fields.object("parameters")
            if marker not in data and "Stable Diffusion model" not in data:
                return None
        lowered = {key.lower().replace(" ", "_"): value for key, value in data.items()}
        prompt = as_text(first(lowered, "prompt"))
        names = first(lowered, "use_lora_model", "lora_model")
        weights = first(lowered, "lora_alpha", "lora_strength")
        names = [names] if isinstance(names, str) else as_list(names)
        weights = weights if isinstance(weights, list) else [weights]
        taken = {"prompt", "negative_prompt", marker, "seed", "num_inference_steps", "guidance_scale", "width",
                 "height"}  # fmt: skip
        return EmbeddedMetadata(
            generator="EasyDiffusion",
            reader=self.name,
            reader_version=VERSION,
            prompt=prompt,
            negative_prompt=as_text(lowered.get("negative_prompt")),
            model=as_text(first(lowered, marker, "stable_diffusion_model")),
            seed=as_seed(lowered.get("seed")),
            steps=as_int(first(lowered, "num_inference_steps", "steps")),
            cfg=as_float(lowered.get("guidance_scale")),
            sampler=as_text(first(lowered, "sampler_name", "sampler")),
            scheduler=as_text(lowered.get("scheduler_name")),
            width=as_int(lowered.get("width")),
            height=as_int(lowered.get("height")),
            loras=tuple(Lora(name=n, weight=as_float(weights[i]) if i < len(weights) else None)
                        for i, n in enumerate(names) if isinstance(n, str) and n and n != "None"),
            parameters={k: v for k, v in scalars(lowered, taken).items() if k not in fields.texts or len(str(v)) < 500},
        )  # fmt: skip


class DrawThingsReader:
    """Draw Things: XMP with CreatorTool `Draw Things`, the settings as JSON in its `exif:UserComment`."""

    name = "drawthings"
    version = VERSION

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
        loras = tuple(
            Lora(name=name, weight=as_float(entry.get("weight")))
            for item in as_list(data.get("lora"))
            if isinstance(name := first(entry := as_object(item), "model", "file", "name"), str)
        )
        return EmbeddedMetadata(
            generator="Draw Things",
            reader=self.name,
            reader_version=VERSION,
            prompt=as_text(data.get("c")),
            negative_prompt=as_text(data.get("uc")),
            model=as_text(data.get("model")),
            seed=as_seed(data.get("seed")),
            steps=as_int(data.get("steps")),
            cfg=as_float(data.get("scale")),
            sampler=as_text(data.get("sampler")),
            width=width,
            height=height,
            loras=loras,
            parameters=scalars(data, {"c", "uc", "model", "seed", "steps", "scale", "sampler", "size"}),
        )


class MidjourneyReader:
    """Midjourney: `Description` = prompt, `--flags`, `Job ID: uuid`."""

    name = "midjourney"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("Description", "exif:ImageDescription", "xmp"):
            text = fields.get(key)
            if key == "xmp":
                start = text.find("<dc:description>")
                end = text.find("</dc:description>", start)
                text = _strip_tags(text[start:end]) if 0 <= start < end else ""
            at = text.find("Job ID:")
            if at < 0:
                continue
            body, job = text[:at].strip(), text[at + 7 :].split(maxsplit=1)[:1]
            prompt, _, flags = body.partition(" --")
            parameters = {}
            for piece in (" --" + flags).split(" --")[1:60]:
                name, _, value = piece.strip().partition(" ")
                if name:
                    parameters[name] = value or True
            return EmbeddedMetadata(
                generator="Midjourney",
                version=as_text(parameters.get("v")),
                reader=self.name,
                reader_version=VERSION,
                prompt=prompt.strip() or None,
                negative_prompt=as_text(parameters.get("no")),
                seed=as_seed(parameters.get("seed")),
                parameters={**parameters, "Job ID": job[0] if job else None},
            )
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


class HuggingFaceReader:
    """Hugging Face Spaces: JSON with `Model`, `resolution` and `prompt` in `metadata` or `parameters`."""

    name = "huggingface"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates("metadata", "parameters", "exif:UserComment", "parameters-json"):
            data = fields.object(key)
            if not data:
                continue
            lowered = {k.lower().replace(" ", "_"): v for k, v in data.items()}
            model = first(lowered, "model", "modelname", "model_name")
            if "prompt" not in lowered and "positiveprompt" not in lowered:
                continue
            width, height = as_size(first(lowered, "resolution", "size"))
            if isinstance(model, dict):
                model = first(model, "name", "model", "Model")
            name = as_text(model)
            space = "resolution" in lowered
            matrix = "parameters-json" in fields.texts
            prompt = as_text(first(lowered, "prompt", "positiveprompt"))
            return EmbeddedMetadata(
                generator="Hugging Face" if space else "Stability Matrix" if matrix else "unknown",
                reader=self.name,
                reader_version=VERSION,
                prompt=prompt,
                negative_prompt=as_text(first(lowered, "negative_prompt", "negativeprompt")),
                model=name,
                model_hash=as_text(first(lowered, "model_hash", "modelhash")),
                seed=as_seed(lowered.get("seed")),
                steps=as_int(first(lowered, "num_inference_steps", "steps")),
                cfg=as_float(first(lowered, "guidance_scale", "cfg_scale", "cfgscale")),
                sampler=as_text(lowered.get("sampler")),
                width=width or as_int(lowered.get("width")),
                height=height or as_int(lowered.get("height")),
                loras=lora_tags(prompt),
                parameters=scalars(data, {"prompt", "negative_prompt"}),
            )
        return None
