"""The readers of embedded metadata, in their order of detection, and the one way to run them.

Unique keys come first (SwarmUI before ComfyUI, whose graph it carries along), then ComfyUI's `prompt` and `workflow`,
then JSON markers, then A1111's text, last what is only claimed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from mixfs.media.readers.a1111 import A1111Reader
from mixfs.media.readers.base import RawFields, Reader, finish
from mixfs.media.readers.civitai import CivitaiReader
from mixfs.media.readers.comfyui import ComfyUIReader
from mixfs.media.readers.credentials import CredentialsReader
from mixfs.media.readers.drawthings import DrawThingsReader
from mixfs.media.readers.easydiffusion import EasyDiffusionReader
from mixfs.media.readers.fooocus import FooocusReader
from mixfs.media.readers.huggingface import HuggingFaceReader
from mixfs.media.readers.invokeai import InvokeAIReader
from mixfs.media.readers.midjourney import MidjourneyReader
from mixfs.media.readers.novelai import NovelAIReader
from mixfs.media.readers.ruinedfooocus import RuinedFooocusReader
from mixfs.media.readers.stabilitymatrix import StabilityMatrixReader
from mixfs.media.readers.swarmui import SwarmUIReader
from mixfs.media.readers.tensorart import TensorArtReader
from mixfs.media.types import EmbeddedMetadata

__all__ = ["READERS", "RawFields", "Reader", "read_metadata"]

READERS: tuple[Reader, ...] = (
    InvokeAIReader(),
    NovelAIReader(),
    SwarmUIReader(),
    TensorArtReader(),
    RuinedFooocusReader(),
    FooocusReader(),
    CivitaiReader(),
    StabilityMatrixReader(),
    ComfyUIReader(),
    EasyDiffusionReader(),
    DrawThingsReader(),
    MidjourneyReader(),
    HuggingFaceReader(),
    A1111Reader(),
    CredentialsReader(),
)

_log = logging.getLogger(__name__)


def read_metadata(
    raw: Mapping[str, str], *, width: int | None = None, height: int | None = None
) -> EmbeddedMetadata | None:
    """What the first reader that knows these texts makes of them; None when none does. Never raises for content.

    `raw` is `Inspection.raw`, fresh or as the library kept it; `width` and `height` the picture's own size.
    """
    fields = RawFields(texts=raw, width=width, height=height)
    for reader in READERS:
        try:
            found = reader.read(fields)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
            # A reader's own fault must not cost the user the picture; the tests' fuzzing looks for this line.
            _log.exception("reader %s failed", reader.name)
            continue
        if found is not None:
            return finish(dataclasses.replace(found, raw=dict(raw)))
    return None
