"""What can be read of a file node: where its bytes are. Opening never renders more than one document."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixfs.ids import Digest


@dataclass(frozen=True, slots=True)
class BlobContent:
    """The bytes of a blob."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file outside the blob store: a thumbnail, the log. `growing`: read past the page cache."""

    path: Path
    growing: bool = False


@dataclass(frozen=True, slots=True)
class BytesContent:
    """A document as it is now. `live`: it may differ at the next open, so it is read past the page cache."""

    data: bytes
    live: bool = False


Content = BlobContent | FileContent | BytesContent
