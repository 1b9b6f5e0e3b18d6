"""Content-addressed bytes: the originals, each kept once."""

from mixfs.blobs.intake import Intake
from mixfs.blobs.local import LocalBlobs
from mixfs.blobs.memory import MemoryBlobs
from mixfs.blobs.protocol import BlobStore

__all__ = ["BlobStore", "Intake", "LocalBlobs", "MemoryBlobs"]
