"""What a blob store does: content-addressed bytes, immutable once they are there.

`tests/conformance/test_blobs.py` runs on every store. A digest is never taken on trust: bytes come in only through
`mixfs.blobs.intake.Intake`, which computes it from what was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mixfs.blobs.intake import Intake
from mixfs.ids import Digest


class BlobStore(Protocol):
    """Raises BlobMissing for a digest that isn't there, OSError for what the disk says."""

    def receive(self, intake: Intake, *, durable: bool = True, anew: bool = False) -> tuple[Digest, bool]:
        """Take the bytes of a finished intake over; returns their digest and whether they are new here.

        With `durable` they survive power loss when this returns. The intake is used up either way. With `anew` these
        bytes take the place of those that are there already, of which an fsync had failed.
        """

    def make_durable(self, digest: Digest) -> None:
        """See to it that a blob survives power loss, whoever put it there and was killed before that."""

    def fetch(self, digest: Digest) -> bytes:
        """All bytes of a blob. Raises BlobDamaged when they are not what the digest names."""

    def open(self, digest: Digest) -> int:
        """A file descriptor to read a blob; the caller closes it."""

    def open_cached(self, digest: Digest) -> int | None:
        """As `open`, but None when that would have to wait for the disk."""

    def stat(self, digest: Digest) -> int | None:
        """The size in bytes, or None when the blob isn't there."""

    def enumerate(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size, in order of digests."""

    def check(self, digest: Digest) -> None:
        """Read a blob through. Raises BlobMissing or BlobDamaged."""

    def remove(self, digest: Digest) -> None:
        """Take a blob away. Nothing happens when it isn't there."""
