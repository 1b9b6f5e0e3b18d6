"""What every reader shares: the fields of a file, safe JSON, numbers and LoRA tags out of untrusted text.

A reader is a pure function of the raw texts (and the picture's size), so that a better one can be run again later on
what the library kept. It never raises for bad content and never loops without a bound.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mixfs import jsontext
from mixfs.errors import InvalidValue
from mixfs.media.texts import clean
from mixfs.media.types import MAX_SEED, EmbeddedMetadata, Lora, Scalar

MAX_JSON = 8 * 1024 * 1024
MAX_PARAMETERS = 200
MAX_PARAMETER_TEXT = 20_000
MAX_LABEL = 1000
"""Characters of the name of a model, sampler, LoRA or generator: folders and cells of tables are made of it."""
MAX_LORAS = 100
_MAX_INT = 2**64
_TAG = re.compile("<(?:lora|lyco):([^<>]{1,400})>", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFields:
    """The texts of one file by key (`parameters`, `exif:UserComment`, `xmp`, `stealth`, ...), as they were found.

    `width` and `height` are the picture's own, where known.
    """

    texts: Mapping[str, str]
    width: int | None = None
    height: int | None = None
    _json: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def get(self, key: str) -> str:
        """A field's text; empty when there is none."""
        return self.texts.get(key, "")

    def json(self, key: str) -> Any:
        """A field parsed as JSON; None when it is none. Parsed once."""
        if key not in self._json:
            self._json[key] = parse_json(self.get(key))
        return self._json[key]

    def object(self, key: str) -> dict[str, Any]:
        """A field that is a JSON object; an empty one otherwise."""
        value = self.json(key)
        return value if isinstance(value, dict) else {}

    def candidates(self, *keys: str) -> Iterator[str]:
        """Those of the keys that are there."""
        return (key for key in keys if self.get(key))


class Reader(Protocol):
    """One generator's way to describe its pictures. A change of what it finds raises `version`."""

    name: str
    version: int

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        """What the generator wrote, or None when these fields are not its own. Does not raise."""
        ...


def parse_json(text: str) -> Any:
    """JSON, with NaN, trailing NULs and bare line ends in texts, as ComfyUI, TensorArt and XMP have them; else None."""
    text = text.strip("\x00 \t\r\n\ufeff")
    if text[:1] not in ("{", "[") or len(text) > MAX_JSON:
        return None
    try:
        return jsontext.loads(text, strict=False)
    except InvalidValue:
        return None


def as_object(value: Any) -> dict[str, Any]:
    """A JSON object, given as one or as text that holds one; else an empty one."""
    if isinstance(value, str):
        value = parse_json(value)
    return value if isinstance(value, dict) else {}


def lowered(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same with keys as `negative_prompt`, where a program also shows them as `Negative Prompt`."""
    return {str(key).lower().replace(" ", "_"): value for key, value in data.items()}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str | None:
    """Text with content, without the white space around it; lists of text are joined by lines."""
    if isinstance(value, list):
        value = "\n".join(part for part in value if isinstance(part, str))
    if isinstance(value, str):
        return value.strip("\x00 \t\r\n") or None
    return None


def as_int(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if -_MAX_INT < value < _MAX_INT else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and abs(value) < _MAX_INT else None
    if isinstance(value, str):
        value = value.strip()
        if not 0 < len(value) <= 32:
            return None
        try:
            return as_int(int(value))
        except ValueError:
            number = as_float(value)
            return int(number) if number is not None and abs(number) < _MAX_INT else None
    return None


def as_float(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        if not 0 < len(value) <= 32:
            return None
    if isinstance(value, int | float | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return None


def as_seed(value: Any) -> int | None:
    """A seed in 0 … 2**64-1. A negative one (`-1`: random) or a larger one is no seed."""
    seed = as_int(value)
    return seed if seed is not None and 0 <= seed <= MAX_SEED else None


def as_size(text: Any) -> tuple[int | None, int | None]:
    """`512x768`, `(512, 768)`, `512 × 768`: width and height."""
    if isinstance(text, list | tuple) and len(text) >= 2:
        return positive(as_int(text[0])), positive(as_int(text[1]))
    if not isinstance(text, str) or len(text) > 64:
        return None, None
    digits = "".join(c if "0" <= c <= "9" else " " for c in text).split()
    if len(digits) < 2:
        return None, None
    return positive(as_int(digits[0])), positive(as_int(digits[1]))


def positive(number: int | None) -> int | None:
    return number if number is not None and 0 < number < 1_000_000 else None


def first(mapping: Mapping[str, Any], *names: str) -> Any:
    """The first of the names whose value is neither missing, None nor empty text."""
    for name in names:
        value = mapping.get(name)
        if value is not None and value != "":
            return value
    return None


def lora_tags(text: str | None) -> tuple[Lora, ...]:
    """`<lora:name:0.8>`, also `<lyco:…>`, without a weight, or with several: as A1111 and its kin write them."""
    found: list[Lora] = []
    for match in itertools.islice(_TAG.finditer(text or ""), MAX_LORAS):
        parts = match[1].split(":")
        name = parts[0].strip()
        if name:
            weight = None
            for part in parts[1:]:
                number = as_float(part.partition("=")[2] if "=" in part else part)
                if number is not None:
                    weight = number
                    break
            found.append(Lora(name=name, weight=weight))
    return unique_loras(found)


def unique_loras(loras: list[Lora] | tuple[Lora, ...]) -> tuple[Lora, ...]:
    """Without those named again; the first mention counts."""
    by_name: dict[str, Lora] = {}
    for lora in loras:
        by_name.setdefault(lora.name, lora)
    return tuple(by_name.values())[:MAX_LORAS]


def scalars(mapping: Mapping[str, Any], skip: frozenset[str] | set[str] = frozenset()) -> dict[str, Scalar]:
    """The flat settings of a JSON object: texts, numbers and truth values, and lists of text joined by commas."""
    out: dict[str, Scalar] = {}
    for key, value in mapping.items():
        if key in skip or value is None or value == "":
            continue
        if isinstance(value, str | int | float | bool):
            out[key] = value
        elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            out[key] = ", ".join(value)
    return out


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "version": as_text, "prompt": as_text, "negative_prompt": as_text, "model": as_text, "model_hash": as_text,
    "seed": as_seed, "steps": as_int, "cfg": as_float, "sampler": as_text, "scheduler": as_text, "width": as_int,
    "height": as_int,
}  # fmt: skip


def build(
    reader: Reader,
    generator: str,
    data: Mapping[str, Any],
    names: Mapping[str, tuple[str, ...]],
    *,
    drop: Collection[str] = (),
    parameters: Mapping[str, Scalar] | None = None,
    **found: Any,
) -> EmbeddedMetadata:
    """Metadata out of a flat object of settings.

    `names` says under which keys of `data` a field may stand: the first key with a fit value counts. `found` are fields
    that the reader got by itself; they win unless None. Whatever is neither named nor in `drop` becomes a parameter,
    with the reader's own `parameters` over it. Without other LoRAs those that the prompt's tags name are taken.
    """
    for name, keys in names.items():
        if found.get(name) is None:
            values = (_FIELDS[name](data.get(key)) for key in keys)
            found[name] = next((value for value in values if value is not None), None)
    found["loras"] = tuple(found.get("loras") or ()) or lora_tags(found.get("prompt"))
    taken = {key for keys in names.values() for key in keys}
    return EmbeddedMetadata(
        generator=generator,
        reader=reader.name,
        reader_version=reader.version,
        parameters={**scalars(data, taken.union(drop)), **(parameters or {})},
        **found,
    )


def finish(found: EmbeddedMetadata) -> EmbeddedMetadata:
    """Bound and clean what a reader put together: no lone surrogates, no NaN, no number over 64 bits, no flood."""
    parameters: dict[str, Scalar] = {}
    for key, value in list(found.parameters.items())[:MAX_PARAMETERS]:
        if isinstance(value, str):
            value = clean(value[:MAX_PARAMETER_TEXT])
        elif isinstance(value, float) and not math.isfinite(value):
            continue
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            value = f"{value}"[:MAX_PARAMETER_TEXT]
        parameters[clean(key[:200])] = value
    texts: dict[str, Any] = {
        name: clean(value.replace("\r\n", "\n").strip("\x00 \t\r\n")[:limit]) or None
        for limit, names in (
            (None, ("prompt", "negative_prompt")),
            (MAX_LABEL, ("generator", "version", "model", "model_hash", "sampler", "scheduler")),
        )
        for name in names
        if isinstance(value := getattr(found, name), str)
    }
    texts["generator"] = texts["generator"] or "unknown"
    graphs: dict[str, Any] = {
        name: clean(value) for name in ("workflow", "api_prompt") if (value := getattr(found, name)) is not None
    }
    return replace(
        found,
        parameters=parameters,
        loras=tuple(
            Lora(name=clean(lora.name[:MAX_LABEL]), weight=lora.weight)
            for lora in unique_loras(found.loras)
            if lora.name.strip("\x00 \t\r\n")
        ),
        steps=found.steps if found.steps is not None and 0 <= found.steps < 1_000_000 else None,
        width=positive(found.width),
        height=positive(found.height),
        **texts,
        **graphs,
    )
