"""Blobs as files: `blobs/ab/cdef…`, mode 0444, each named by its SHA-256, so that `sha256sum` checks them.

Durable order: bytes fsynced under a temporary name in staging, rename, fsync of the bucket and of blobs/. Only then may
a journal item name the blob.

Concurrency: any thread of any process may call anything; two that receive the same bytes at once both rename them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mixfs.blobs.intake import CHUNK, Intake
from mixfs.errors import BlobDamaged, BlobMissing
from mixfs.ids import Digest


class LocalBlobs:
    """A `BlobStore` in a directory on the same file system as the staging area."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: Digest) -> Path:
        text = digest.hex()
        return self.root / text[:2] / text[2:]

    def receive(self, intake: Intake, *, durable: bool = True) -> tuple[Digest, bool]:
        digest = intake.digest()
        target = self.path(digest)
        try:
            size = target.stat().st_size
        except FileNotFoundError:
            size = -1
        if size == intake.size:
            if durable:
                # Another process may have renamed it without having come to its fsyncs.
                _sync(target, target.parent, self.root)
            intake.discard()
            return digest, False
        os.fchmod(intake.fd, 0o444)
        if durable:
            os.fsync(intake.fd)
        bucket = target.parent
        with contextlib.suppress(FileExistsError):
            os.mkdir(bucket, 0o700)
        os.rename(intake.path, target)
        intake.close()
        if durable:
            # The bucket's own name too, whoever made it: another process may not have come to that.
            _sync(bucket, self.root)
        return digest, True

    def open(self, digest: Digest) -> int:
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._missing(digest) from None

    def fetch(self, digest: Digest) -> bytes:
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise self._missing(digest) from None
        if hashlib.sha256(data).digest() != digest:
            raise self._damaged(digest)
        return data

    def stat(self, digest: Digest) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def enumerate(self) -> Iterator[tuple[Digest, int]]:
        for bucket in sorted(os.listdir(self.root)):
            if len(bucket) != 2:
                continue
            for name in sorted(os.listdir(self.root / bucket)):
                with contextlib.suppress(ValueError, FileNotFoundError):
                    digest = bytes.fromhex(bucket + name)
                    if len(digest) == 32:
                        yield Digest(digest), (self.root / bucket / name).stat().st_size

    def check(self, digest: Digest) -> None:
        fd = self.open(digest)
        try:
            found = hashlib.sha256()
            while chunk := os.read(fd, CHUNK):
                found.update(chunk)
        finally:
            os.close(fd)
        if found.digest() != digest:
            raise self._damaged(digest)

    def remove(self, digest: Digest) -> None:
        self.path(digest).unlink(missing_ok=True)

    def _missing(self, digest: Digest) -> BlobMissing:
        return BlobMissing(f"{self.path(digest)} is missing. Restore it from a back-up, or import the same file again.")

    def _damaged(self, digest: Digest) -> BlobDamaged:
        return BlobDamaged(
            f"{self.path(digest)} is not what was imported: its SHA-256 differs from its name. Restore it from a "
            "back-up, or move it away and import the same file again."
        )


def _sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
