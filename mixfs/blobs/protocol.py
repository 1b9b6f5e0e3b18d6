"""What a blob store does: content-addressed bytes, immutable once they are there.

`tests/conformance/test_blobs.py` runs on every store. A digest is never taken on trust: bytes come in only through
`mixfs.blobs.intake.Intake`, which computes it from what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from mixfs.blobs.intake import Intake
from mixfs.ids import Digest


class BlobStore(Protocol):
    """Raises BlobMissing for a digest that isn't there, OSError for what the disk says."""

    def receive(self, intake: Intake, *, durable: bool = True, anew: bool = False) -> tuple[Digest, bool]:
        """Take the bytes of a finished intake over; returns their digest and whether they are new here.

        With `durable` they survive power loss when this returns. The intake stays as it is: `discard` it when what
        names the blob is committed, for until then gc may take the blob away. A damaged blob of the same digest is
        replaced. With `anew` these bytes take the place of those that are there already, of which an fsync had failed.
        """

    def receive_all(
        self, intakes: Sequence[Intake], *, durable: bool = True, anew: bool = False
    ) -> list[tuple[Digest, bool] | OSError]:
        """As `receive`, of many at once, which is much faster where durability costs: each one's result, or its error.

        One that fails stops none of the others.
        """

    def fetch(self, digest: Digest) -> bytes:
        """All bytes of a blob. Raises BlobDamaged when they are not what the digest names."""

    def open(self, digest: Digest) -> int:
        """A file descriptor to read a blob; the caller closes it."""

    def open_cached(self, digest: Digest) -> int | None:
        """As `open`, but None when that would have to wait for the disk, or the blob isn't there."""

    def stat(self, digest: Digest) -> int | None:
        """The size in bytes, or None when the blob isn't there."""

    def enumerate(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size, in order of digests."""

    def check(self, digest: Digest) -> None:
        """Read a blob through. Raises BlobMissing, or BlobDamaged when its bytes are wrong twice in a row.

        An OSError says that it could not be read just now: nothing about its bytes.
        """

    def quarantine(self, digest: Digest, reason: str) -> Path | None:
        """Move a blob that isn't what it should be out of the way; returns where to, None when there was none."""
