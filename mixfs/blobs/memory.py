"""Blobs in memory, for tests. Stricter than the directory: it tells durable blobs from those that are not yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mixfs.blobs.intake import Intake
from mixfs.errors import BlobDamaged, BlobMissing
from mixfs.ids import Digest


class MemoryBlobs:
    """A `BlobStore` over a dictionary. `durable` holds the digests that would survive power loss."""

    def __init__(self) -> None:
        self.data: dict[Digest, bytes] = {}
        self.durable: set[Digest] = set()
        self.quarantined: dict[Digest, str] = {}

    def receive_all(
        self, intakes: Sequence[Intake], *, durable: bool = True, anew: bool = False
    ) -> list[tuple[Digest, bool] | OSError]:
        return [self.receive(intake, durable=durable, anew=anew) for intake in intakes]

    def receive(self, intake: Intake, *, durable: bool = True, anew: bool = False) -> tuple[Digest, bool]:
        digest, size = intake.digest(), intake.size
        data = os.pread(intake.fd, size, 0)
        if hashlib.sha256(data).digest() != digest:
            raise AssertionError("an intake's digest is not that of its bytes")
        new = self.data.get(digest) != data
        self.data[digest] = data
        if durable:
            self.durable.add(digest)
        return digest, new

    def fetch(self, digest: Digest) -> bytes:
        self.check(digest)
        return self.data[digest]

    def open(self, digest: Digest) -> int:
        self._require(digest)
        fd = os.memfd_create(digest.hex(), os.MFD_CLOEXEC)
        os.write(fd, self.data[digest])
        return fd

    def open_cached(self, digest: Digest) -> int | None:
        return self.open(digest) if digest in self.data else None

    def stat(self, digest: Digest) -> int | None:
        return len(self.data[digest]) if digest in self.data else None

    def enumerate(self) -> Iterator[tuple[Digest, int]]:
        for digest in sorted(self.data):
            yield digest, len(self.data[digest])

    def check(self, digest: Digest) -> None:
        self._require(digest)
        if hashlib.sha256(self.data[digest]).digest() != digest:
            raise BlobDamaged(f"blob {digest.hex()} is not what was put")

    def quarantine(self, digest: Digest, reason: str) -> Path | None:
        if digest not in self.data:
            return None
        self.quarantined[digest] = reason
        del self.data[digest]
        self.durable.discard(digest)
        return Path(digest.hex())

    def _require(self, digest: Digest) -> None:
        if digest not in self.data:
            raise BlobMissing(f"blob {digest.hex()} is missing")
