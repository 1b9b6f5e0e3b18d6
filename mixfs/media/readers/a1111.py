"""A1111's text, and its family: Forge, reForge, EasyReforge, Forge Classic and Neo, SD.Next.

    prompt, in any number of lines
    Negative prompt: in any number of lines
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: name, Lora hashes: "a: 1, b: 2"

Seen in PNG `parameters`, in EXIF UserComment of JPEG, WebP and AVIF, and in GIF comments. There is no grammar: the
settings are the last line that looks like `Key: value, …`; values with commas are JSON strings or, at Civitai, JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from mixfs.media.readers.base import (
    MAX_LORAS,
    MAX_PARAMETERS,
    RawFields,
    Reader,
    as_float,
    as_int,
    as_list,
    as_object,
    as_seed,
    as_size,
    lora_tags,
    parse_json,
)
from mixfs.media.types import EmbeddedMetadata, Lora, Scalar

_MAX_TEXT = 2 * 1024 * 1024
_MAX_PIECES = 2000
_NEGATIVE = "negative prompt:"
_STEPS = "Steps: "
_COMMON = ("Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash")
_decoder = json.JSONDecoder()

SOURCES = ("parameters", "exif:UserComment", "stealth", "exif:ImageDescription", "comment", "exif:XPComment",
           "Description", "Comment")  # fmt: skip
"""Where this text has been seen, the usual place first."""


@dataclass(slots=True)
class Parsed:
    """The three parts of an A1111 text; `settings` in the order written, values as text without their quotes."""

    prompt: str
    negative: str
    settings: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Parsed | None:
    """Take A1111's text apart; None when nothing in it looks like settings or a negative prompt."""
    if not text or len(text) > _MAX_TEXT or text.lstrip()[:1] == "{":
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\x00 \t\n")
    at = _settings_start(text)
    body, settings = (text, {}) if at is None else (text[:at], _settings(text[at:]))
    negative_at = _negative_start(body, inline=at is not None and at > 0 and text[at - 1] == " ")
    if at is None and negative_at is None:
        return None
    prompt = body if negative_at is None else body[:negative_at]
    negative = "" if negative_at is None else body[negative_at + len(_NEGATIVE) :]
    return Parsed(prompt=prompt.strip(), negative=negative.strip(), settings=settings)


def _settings_start(text: str) -> int | None:
    """Where the settings begin: the last line that starts with `Steps:`, else a last line of three settings or more."""
    at = text.rfind("\n" + _STEPS)
    if at >= 0:
        return at + 1
    if text.startswith(_STEPS):
        return 0
    last = text.rfind("\n") + 1
    line = text[last:].lstrip()
    settings = _settings(line) if len(line) < 100_000 else {}
    if len(settings) >= 3 and _known(settings) >= 2 and next(iter(settings)) in _COMMON:
        return last
    # Text that went through a web form may have lost its line ends.
    at = text.rfind(" " + _STEPS)
    if at >= 0 and _known(_settings(text[at + 1 :])) >= 3:
        return at + 1
    return None


def _known(settings: dict[str, str]) -> int:
    return sum(key in settings for key in _COMMON)


def _negative_start(body: str, *, inline: bool) -> int | None:
    lowered = body.lower()
    if len(lowered) != len(body):  # A few capital letters change length; positions would not fit.
        lowered = body.replace("Negative prompt:", _NEGATIVE)
    if lowered.startswith(_NEGATIVE):
        return 0
    at = lowered.find("\n" + _NEGATIVE)
    if at >= 0:
        return at + 1
    at = body.find(" Negative prompt:") if inline else -1
    return at + 1 if at >= 0 else None


def _settings(line: str) -> dict[str, str]:
    """`Key: value` pairs. A piece with no key of its own belongs to the value before it."""
    found: dict[str, str] = {}
    at, last = 0, ""
    for _ in range(_MAX_PIECES):
        if at >= len(line) or len(found) >= MAX_PARAMETERS:
            break
        colon = _key_end(line, at)
        if colon is None:
            end = _piece_end(line, at)
            if last:
                found[last] = (found[last] + line[max(at - 1, 0) : end]).strip()
            at = end + 1
            continue
        last = line[at:colon].strip()
        start = colon + 1
        while start < len(line) and line[start] == " ":
            start += 1
        value, at = _value(line, start)
        found.setdefault(last, value)
    return found


def _key_end(line: str, at: int) -> int | None:
    """The index of the colon, when what stands here is a key."""
    i = at
    while i < len(line) and line[i] in " \n":
        i += 1
    start = i
    while i < len(line) and i - start < 64 and (line[i].isalnum() or line[i] in " _-/()+.#&[]"):
        i += 1
    if i > start and line[start].isalpha() and line[i : i + 1] == ":" and line[i + 1 : i + 2] in (" ", "", '"', "\n"):
        return i
    return None


def _value(line: str, start: int) -> tuple[str, int]:
    """The value that begins at `start`, and where the next piece begins."""
    if line[start : start + 1] in ('"', "{", "["):
        try:
            value, end = _decoder.raw_decode(line, start)
        except (ValueError, RecursionError):
            pass
        else:
            after = end
            while after < len(line) and line[after] == " ":
                after += 1
            if after == len(line) or line[after] in ",\n":
                return (value if isinstance(value, str) else line[start:end]), after + 1
    end = _piece_end(line, start)
    return line[start:end].strip(), end + 1


def _piece_end(line: str, start: int) -> int:
    comma, newline = line.find(",", start), line.find("\n", start)
    return min(len(line), *(i for i in (comma, newline) if i >= 0)) if max(comma, newline) >= 0 else len(line)


def generator_of(settings: dict[str, str]) -> tuple[str, str | None]:
    """Which of the family wrote it, by its `Version` and `App`; and the version."""
    version, app = settings.get("Version", ""), settings.get("App", "")
    if app:
        return ("SD.Next" if app.lower().replace(" ", "") in ("sd.next", "sdnext") else app), version or None
    lowered = version.lower()
    if lowered == "comfyui" or (not version and _comfy_values(settings)):
        return "ComfyUI", None
    if lowered.startswith("fooocus"):
        return "Fooocus", version[7:].strip(" v") or None
    branch = lowered.partition("-")[0]
    if branch in ("classic", "neo"):
        return f"Forge {branch.capitalize()}", version
    if lowered.startswith("forge") or (lowered[:1] == "f" and lowered[1:2].isdigit()):
        rest = lowered[1:].lstrip("0123456789.")
        if rest.startswith("-v"):
            return "EasyReforge", version
        if rest.startswith("v") and rest[1:].lstrip("0123456789.").startswith("-v"):
            return "reForge", version
        return "Forge", version
    # Before it wrote its name: a commit for a version, and settings that no other has.
    commit = 7 <= len(version) <= 10 and all(c in "0123456789abcdef" for c in lowered)
    if "vlad" in lowered or (commit and ("Backend" in settings or "Operations" in settings)):
        return "SD.Next", version
    if "reforge" in lowered:
        return "reForge", version
    return "AUTOMATIC1111", version or None


def _comfy_values(settings: dict[str, str]) -> bool:
    """Savers for ComfyUI write this text too, some without a word of who they are; but with ComfyUI's names of samplers
    (`euler_ancestral`, A1111 has `Euler a`), model files with their extension, and seeds of more than 32 bits."""
    sampler, seed = settings.get("Sampler", ""), as_int(settings.get("Seed"))
    files = settings.get("Model", "").endswith((".safetensors", ".ckpt", ".gguf", ".sft"))
    return (sampler.islower() and "_" in sampler) or (files and seed is not None and seed >= 2**32)


_TAKEN = frozenset({"steps", "sampler", "schedule type", "scheduler", "cfg scale", "guidance scale", "seed", "size",
                    "model", "base model", "model name", "model hash", "version", "width", "height"})  # fmt: skip


def to_metadata(parsed: Parsed, reader: Reader, generator: str, version: str | None) -> EmbeddedMetadata:
    """The common fields out of A1111's settings, whose names' capitals differ from program to program."""
    s: dict[str, str] = {}
    for key, value in parsed.settings.items():
        s.setdefault(key.lower(), value)
    width, height = as_size(s.get("size"))
    if width is None:  # Civitai has two settings for it.
        width, height = as_int(s.get("width")), as_int(s.get("height"))
    seed = as_seed(s.get("seed"))
    parameters: dict[str, Scalar] = {k: _scalar(v) for k, v in parsed.settings.items() if k.lower() not in _TAKEN}
    if seed is None and s.get("seed"):
        parameters["Seed"] = s["seed"]
    loras = lora_tags(parsed.prompt) + _civitai_loras(parsed.settings)
    for other in (_hashed_loras, _network_loras, _listed_loras):
        loras = loras or other(parsed.settings)
    return EmbeddedMetadata(
        generator=generator,
        version=version,
        reader=reader.name,
        reader_version=reader.version,
        prompt=parsed.prompt or None,
        negative_prompt=parsed.negative or None,
        model=s.get("model") or s.get("base model") or s.get("model name") or _civitai_model(parsed.settings),
        model_hash=s.get("model hash") or _hash_of_model(parsed.settings),
        seed=seed,
        steps=as_int(s.get("steps")),
        cfg=as_float(s.get("cfg scale") or s.get("guidance scale")),
        sampler=s.get("sampler") or None,
        scheduler=s.get("schedule type") or s.get("scheduler") or None,
        width=width,
        height=height,
        loras=loras,
        parameters=parameters,
    )


def _scalar(text: str) -> Scalar:
    if text in ("True", "False"):
        return text == "True"
    if text[:1].isdecimal() or (text[:1] == "-" and text[1:2].isdecimal()):
        if text.lstrip("-").isdecimal() and len(text) < 20 and (len(text) == 1 or text.lstrip("-")[0] != "0"):
            return int(text)
        if text.count(".") == 1 and text.replace(".", "").lstrip("-").isdecimal() and len(text) < 20:
            return float(text)
    return text


def _hashed_loras(s: dict[str, str]) -> tuple[Lora, ...]:
    """`Lora hashes: "a: 1f2, b: 3c4"`: names without weights, for a prompt whose tags were stripped.

    Fooocus has the weights too: `Lora weights: "a: 0.5, b: 1.0"`, earlier behind the hash: `a: 1f2: 0.5`.
    """
    weights = {name: as_float(rest[-1]) for name, *rest in _colons(s.get("Lora weights", "")) if rest}
    return tuple(
        Lora(name=name, weight=as_float(rest[1]) if len(rest) == 2 else weights.get(name))
        for name, *rest in _colons(s.get("Lora hashes") or s.get("Lora weights", ""))
        if name
    )


def _colons(text: str) -> list[list[str]]:
    return [[part.strip() for part in piece.split(": ")] for piece in text.split(",")[:MAX_LORAS]]


def _listed_loras(s: dict[str, str]) -> tuple[Lora, ...]:
    """SD.Next: `LoRA networks: "a, b:0.5"`. Draw Things: `LoRA Model: a.ckpt, LoRA Weight: 0.5`."""
    if model := s.get("LoRA Model"):
        return (Lora(name=model, weight=as_float(s.get("LoRA Weight"))),)
    out = []
    for piece in s.get("LoRA networks", "").split(",")[:MAX_LORAS]:
        name, _, tail = piece.strip().rpartition(":")
        weight = as_float(tail) if name else None
        out.append(Lora(name=piece.strip() if weight is None else name.strip(), weight=weight))
    return tuple(lora for lora in out if lora.name)


def _network_loras(s: dict[str, str]) -> tuple[Lora, ...]:
    """Additional Networks: `AddNet Module 1: LoRA, AddNet Model 1: name(hash), AddNet Weight A 1: 0.5`."""
    out = []
    for key, value in s.items():
        n = key.removeprefix("AddNet Model ")
        if n != key and value != "None":
            weight = s.get(f"AddNet Weight A {n}") or s.get(f"AddNet Weight {n}")
            out.append(Lora(name=value.partition("(")[0].strip(), weight=as_float(weight)))
    return tuple(out)


def _civitai(s: dict[str, str]) -> list[dict[str, Any]]:
    return [item for item in as_list(parse_json(s.get("Civitai resources", ""))) if isinstance(item, dict)]


def _civitai_model(s: dict[str, str]) -> str | None:
    for item in _civitai(s):
        if item.get("type") == "checkpoint" and isinstance(name := item.get("modelName"), str):
            version = item.get("modelVersionName")
            return f"{name} {version}" if isinstance(version, str) and version else name
    return None


def _civitai_loras(s: dict[str, str]) -> tuple[Lora, ...]:
    return tuple(
        Lora(name=name, weight=as_float(item.get("weight")))
        for item in _civitai(s)
        if str(item.get("type", "")).lower() in ("lora", "lycoris", "dora", "locon")
        and isinstance(name := item.get("modelName"), str)
    )


def _hash_of_model(s: dict[str, str]) -> str | None:
    value = as_object(s.get("Hashes", "")).get("model")
    return value if isinstance(value, str) else None


class A1111Reader:
    """The last of the text readers: what has settings in A1111's manner and no better owner."""

    name = "a1111"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates(*SOURCES):
            parsed = parse(fields.get(key))
            if parsed is None or (key != "parameters" and not _known(parsed.settings)):
                continue
            generator, version = generator_of(parsed.settings)
            return to_metadata(parsed, self, generator, version)
        # A `parameters` text without settings is a prompt alone: some tools write just that.
        text = fields.get("parameters").strip()
        if text.startswith("Postprocess "):
            # The extras tab: an upscaled picture that came without settings. There was no prompt.
            return to_metadata(Parsed(prompt="", negative="", settings=_settings(text)), self, "AUTOMATIC1111", None)
        if text and text[:1] not in "{[" and len(text) < 100_000:
            return to_metadata(Parsed(prompt=text, negative=""), self, "AUTOMATIC1111", None)
        return None
