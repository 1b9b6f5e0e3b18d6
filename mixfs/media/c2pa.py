"""Content Credentials (C2PA): who *claims* to have made a picture. Presence only: no signature is checked.

A manifest store is JUMBF boxes around CBOR. A few keys are searched as bytes, under limits, and the CBOR text that
follows each is taken: the whole structure need not be understood, and a broken one does no harm.
"""

from __future__ import annotations

_KEYS = ("claim_generator", "softwareAgent", "digitalSourceType", "description", "name", "title")
_MAX_HITS = 40
_MAX_VALUE = 300


def summarise(jumbf: bytes) -> str:
    """Lines of `key: text`, in the store's order: what the keys above are set to. Empty when there is no store."""
    if b"c2pa" not in jumbf[:4096]:
        return ""
    hits: list[tuple[int, str]] = []
    for key in _KEYS:
        # CBOR: a text string's header is 0x60 + its length.
        needle = bytes([0x60 + len(key)]) + key.encode()
        at = jumbf.find(needle)
        while at >= 0 and len(hits) < _MAX_HITS:
            value = _text_at(jumbf, at + len(needle))
            if value:
                hits.append((at, f"{key}: {value}"))
            at = jumbf.find(needle, at + 1)
    lines = list(dict.fromkeys(line for _, line in sorted(hits)))
    return "\n".join(lines) or "claim: present"


def _text_at(data: bytes, at: int) -> str:
    head = data[at : at + 3]
    if len(head) < 3:
        return ""
    if 0x60 <= head[0] <= 0x77:
        start, size = at + 1, head[0] - 0x60
    elif head[0] == 0x78:
        start, size = at + 2, head[1]
    elif head[0] == 0x79:
        start, size = at + 3, int.from_bytes(head[1:3], "big")
    else:
        return ""
    if size > _MAX_VALUE:
        return ""
    try:
        text = data[start : start + size].decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""
