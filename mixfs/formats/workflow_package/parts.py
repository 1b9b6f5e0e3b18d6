"""What the reader and the writer of workflow packages both know: names of fields, and how an asset is checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from mixfs.formats.base import Asset, Refused

NAME = "workflow-package"
VERSION = 1
OURS = "x-mixfs"
"""The field in which MixFS keeps what a package has no field for."""

NODE_FIELDS = frozenset({"id", "type", "position", "size"})
# What canvas.json says of an entry itself: a node's field of such a name is kept beside, in `node`.
COLUMNS = frozenset({"canvasId", "imageHash", "x", "y", "width", "height", "text", "generationId", "node", OURS})
EDGE_FIELDS = ("source", "target", "sourceHandle", "targetHandle")


def check_asset(where: str, asset: Mapping[str, Any], taken: Asset) -> None:
    """The bytes against what the manifest says of them."""
    if isinstance(asset.get("bytes"), int) and asset["bytes"] != taken.size:
        raise Refused(f"{where} has {taken.size} bytes, not {asset['bytes']}.")
    said = asset.get("hash")
    if said is None:
        return
    if digest_of(said) != taken.digest:
        raise Refused(f"{where}: its SHA-256 is {taken.digest.hex()}, not {said!s:.80}.")


def digest_of(said: Any) -> bytes | None:
    """The digest of `sha256-<hex>`, or of `sha256-<base64>` as web pages write it."""
    if not isinstance(said, str) or not said.lower().startswith("sha256-"):
        return None
    value = said[7:]
    try:
        return bytes.fromhex(value) if len(value) == 64 else base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return None
