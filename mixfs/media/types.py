"""What is found in a foreign file: plain frozen data, picklable, and turned to and from CBOR-able mappings.

Nothing here imports a decoder: the daemon's process holds these and never PIL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scalar = str | int | float | bool | None

MAX_SEED = 2**64 - 1
"""A seed is a 64-bit unsigned number everywhere; anything else stays in `parameters` as it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA as the generator names it (a file name for ComfyUI), and its weight on the model where known."""

    name: str
    weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedMetadata:
    """What a generator wrote into its picture. Never verified: anyone can write it.

    `width` and `height` are those that were asked of the generator, which need not be the picture's.
    An empty prompt is None. `parameters` are further settings under the names that the generator shows.
    `raw` is every text of the file, so that a better reader can be run again on it without the file.
    """

    generator: str
    reader: str
    reader_version: int
    version: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    model: str | None = None
    model_hash: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    width: int | None = None
    height: int | None = None
    loras: tuple[Lora, ...] = ()
    parameters: dict[str, Scalar] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)
    workflow: str | None = None
    """ComfyUI's UI graph, the JSON text as found."""
    api_prompt: str | None = None
    """ComfyUI's API graph, the JSON text as found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What one look at a file found. Width and height are as stored, before `orientation` (EXIF 1 to 8) is applied.

    `problem` says for a human why a picture can't be shown; None for a good picture and for a file of another type.
    `taken_ns` is when it was made, in unix nanoseconds, by the file's own word.
    """

    media_type: str
    width: int | None = None
    height: int | None = None
    orientation: int = 1
    frames: int = 1
    taken_ns: int | None = None
    metadata: EmbeddedMetadata | None = None
    raw: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def inspection_to_dict(inspection: Inspection) -> dict[str, Any]:
    """Plain data for the wire. The raw text is sent once, though both objects show it."""
    fields = {f.name: getattr(inspection, f.name) for f in dataclasses.fields(inspection)}
    metadata = inspection.metadata
    if metadata is not None:
        inner = {f.name: getattr(metadata, f.name) for f in dataclasses.fields(metadata) if f.name != "raw"}
        inner["loras"] = [[lora.name, lora.weight] for lora in metadata.loras]
        fields["metadata"] = inner
    return fields


def inspection_from_dict(data: Mapping[str, Any]) -> Inspection:
    """The inverse of `inspection_to_dict`. Raises TypeError, KeyError or ValueError for anything else: what comes
    from a worker is checked field by field, since a worker may have been subverted by what it read."""
    raw = _text_map(data["raw"])
    metadata = None
    if data["metadata"] is not None:
        inner = data["metadata"]
        loras = tuple(Lora(name=_text(name), weight=_real(weight)) for name, weight in inner["loras"])
        parameters: dict[str, Scalar] = {}
        for key, value in inner["parameters"].items():
            if value is not None and not isinstance(value, str | int | float | bool):
                raise TypeError(f"parameter {key!r} is no scalar")
            parameters[_text(key)] = value
        texts = ("version", "prompt", "negative_prompt", "model", "model_hash", "sampler", "scheduler",
                 "workflow", "api_prompt")  # fmt: skip
        typed: dict[str, Any] = {name: _int(inner[name]) for name in ("seed", "steps", "width", "height")}
        typed |= {name: None if inner[name] is None else _text(inner[name]) for name in texts}
        metadata = EmbeddedMetadata(
            generator=_text(inner["generator"]),
            reader=_text(inner["reader"]),
            reader_version=_need_int(inner["reader_version"]),
            loras=loras,
            parameters=parameters,
            raw=raw,
            cfg=_real(inner["cfg"]),
            **typed,
        )
    return Inspection(
        media_type=_text(data["media_type"]),
        width=_int(data["width"]),
        height=_int(data["height"]),
        orientation=_need_int(data["orientation"]),
        frames=_need_int(data["frames"]),
        taken_ns=_int(data["taken_ns"]),
        metadata=metadata,
        raw=raw,
        problem=None if data["problem"] is None else _text(data["problem"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _text_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("mapping expected")
    return {_text(key): _text(item) for key, item in value.items()}


def _int(value: object) -> int | None:
    return None if value is None else _need_int(value)


def _need_int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("integer expected")
    return value


def _real(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("number expected")
    return float(value)
