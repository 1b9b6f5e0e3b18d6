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
    MAX_PARAMETERS,
    RawFields,
    as_float,
    as_int,
    as_seed,
    as_size,
    lora_tags,
)
from mixfs.media.types import EmbeddedMetadata, Lora, Scalar

VERSION = 1
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
    negative_at = _negative_start(body, inline=at is not None)
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
    if lowered == "comfyui":
        return "ComfyUI", None
    if lowered.startswith("fooocus"):
        return "Fooocus", version[7:].strip(" v") or None
    if lowered in ("classic", "neo"):
        return f"Forge {lowered.capitalize()}", version
    if lowered.startswith(("forge", "f")) and (lowered.startswith("forge") or lowered[1:2].isdigit()):
        rest = lowered[1:].lstrip("0123456789.")
        if rest.startswith("-v"):
            return "EasyReforge", version
        if rest.startswith("v") and rest[1:].lstrip("0123456789.").startswith("-v"):
            return "reForge", version
        return "Forge", version
    if "vlad" in lowered:
        return "SD.Next", version
    if "reforge" in lowered:
        return "reForge", version
    return "AUTOMATIC1111", version or None


_TAKEN = frozenset({"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "Version"})


def to_metadata(parsed: Parsed, generator: str, version: str | None, reader: str) -> EmbeddedMetadata:
    """The common fields out of A1111's settings, under their many names."""
    s = parsed.settings
    width, height = as_size(s.get("Size") or s.get("size"))
    model = s.get("Model") or s.get("Base model") or s.get("Model name")
    seed = as_seed(s.get("Seed") or s.get("seed"))
    parameters: dict[str, Scalar] = {key: _scalar(value) for key, value in s.items() if key not in _TAKEN}
    if seed is None and s.get("Seed"):
        parameters["Seed"] = s["Seed"]
    loras = lora_tags(parsed.prompt) + _civitai_loras(s)
    if not loras:
        loras = _hashed_loras(s) + _numbered_loras(s)
    return EmbeddedMetadata(
        generator=generator,
        version=version,
        reader=reader,
        reader_version=VERSION,
        prompt=parsed.prompt or None,
        negative_prompt=parsed.negative or None,
        model=model or _civitai_model(s),
        model_hash=s.get("Model hash") or _hash_of_model(s),
        seed=seed,
        steps=as_int(s.get("Steps")),
        cfg=as_float(s.get("CFG scale") or s.get("CFG Scale") or s.get("Guidance scale")),
        sampler=s.get("Sampler") or None,
        scheduler=s.get("Schedule type") or s.get("Scheduler") or None,
        width=width,
        height=height,
        loras=loras,
        parameters=parameters,
    )


def _scalar(text: str) -> Scalar:
    if text in ("True", "False"):
        return text == "True"
    if text[:1].isdigit() or (text[:1] == "-" and text[1:2].isdigit()):
        if text.lstrip("-").isdigit() and len(text) < 20 and (len(text) == 1 or text.lstrip("-")[0] != "0"):
            return int(text)
        if text.count(".") == 1 and text.replace(".", "").lstrip("-").isdigit() and len(text) < 20:
            return float(text)
    return text


def _hashed_loras(s: dict[str, str]) -> tuple[Lora, ...]:
    """`Lora hashes: "a: 1f2, b: 3c4"`: names without weights, for a prompt whose tags were stripped."""
    pairs = (piece.rpartition(":")[0].strip() for piece in s.get("Lora hashes", "").split(","))
    return tuple(Lora(name=name) for name in pairs if name)


def _numbered_loras(s: dict[str, str]) -> tuple[Lora, ...]:
    """Fooocus: `Lora hashes: …, Lora weights` or older `LoRA 1: name : 0.5`."""
    out = []
    for key, value in s.items():
        if key.lower().startswith("lora ") and key[5:].strip().isdigit():
            name, _, weight = value.rpartition(":")
            out.append(Lora(name=(name or value).strip(), weight=as_float(weight) if name else None))
    return tuple(out)


def _civitai(s: dict[str, str]) -> list[dict[str, Any]]:
    try:
        items = json.loads(s.get("Civitai resources", "[]"))
    except (ValueError, RecursionError):
        return []
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


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
    try:
        hashes = json.loads(s.get("Hashes", "{}"))
    except (ValueError, RecursionError):
        return None
    value = hashes.get("model") if isinstance(hashes, dict) else None
    return value if isinstance(value, str) else None


class A1111Reader:
    """The last of the text readers: what has settings in A1111's manner and no better owner."""

    name = "a1111"
    version = VERSION

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        for key in fields.candidates(*SOURCES):
            parsed = parse(fields.get(key))
            if parsed is None or (key != "parameters" and not _known(parsed.settings)):
                continue
            generator, version = generator_of(parsed.settings)
            return to_metadata(parsed, generator, version, self.name)
        # A `parameters` text without settings is a prompt alone: some tools write just that.
        text = fields.get("parameters").strip()
        if text and text[:1] not in "{[" and len(text) < 100_000:
            return to_metadata(Parsed(prompt=text, negative=""), "AUTOMATIC1111", None, self.name)
        return None
