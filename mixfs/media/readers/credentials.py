"""Who a picture's Content Credentials or XMP claim to have made it. A claim, never verified: no prompt, only a name."""

from __future__ import annotations

from mixfs.media.readers.base import RawFields
from mixfs.media.types import EmbeddedMetadata, Scalar

_MARK = "rainedAlgorithmicMedia"  # also `compositeWithTrainedAlgorithmicMedia`
# The last three are what the same makers' libraries call themselves; an agent's own name is better and comes first.
_NAMES = (
    ("firefly", "Adobe Firefly"), ("chatgpt", "OpenAI"), ("gpt-4o", "OpenAI"), ("dall", "OpenAI"), ("openai", "OpenAI"),
    ("sora", "OpenAI"), ("gemini", "Gemini"), ("imagen", "Gemini"), ("google", "Gemini"), ("bing", "Microsoft"),
    ("designer", "Microsoft"), ("microsoft", "Microsoft"), ("midjourney", "Midjourney"), ("stability", "Stability AI"),
    ("grok", "xAI"), ("ideogram", "Ideogram"), ("leonardo", "Leonardo"), ("canva", "Canva"),
    ("flux", "Black Forest Labs"),
)  # fmt: skip


class CredentialsReader:
    name = "credentials"
    version = 2

    def read(self, fields: RawFields) -> EmbeddedMetadata | None:
        claims, xmp = fields.get("c2pa"), fields.get("xmp")
        source = claims if _MARK in claims else xmp if _MARK in xmp else ""
        if not source:
            return None
        pairs = [line.partition(": ")[::2] for line in claims.split("\n")] if source is claims else []
        agents = [value for key, value in pairs if key == "softwareAgent"]
        others = [value for key, value in pairs if key in ("description", "name", "claim_generator")]
        whole = [*agents, *others] if pairs else [xmp[:200_000]]
        generator = next((known for text in whole for mark, known in _NAMES if mark in text.lower()), None)
        parameters: dict[str, Scalar] = {"Source": "C2PA, not verified" if pairs else "XMP, not verified"}
        for key, value in pairs:
            if key != "title":
                parameters.setdefault(key, value)
        return EmbeddedMetadata(
            generator=generator or (agents[0] if agents else "unknown AI"),
            reader=self.name,
            reader_version=self.version,
            parameters=parameters,
        )
