"""Identifiers: digests, entity ids, replica ids, stamps.

* A `Digest` is the 32 bytes of a SHA-256.
* An entity id is a string. Ours are UUIDv7 (RFC 9562), so that they sort by time of making; foreign ids are kept as
  they were given. `key16` makes the fixed 16 bytes by which the index names either kind.
* A `Stamp` orders changes, and does no more: nanoseconds since the epoch or, where the clock went back, one more than
  the last. Never shown as a time: one commit with the clock ten years ahead puts all later stamps there.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import NewType

from mixfs import clock

Digest = NewType("Digest", bytes)
Stamp = NewType("Stamp", int)
ReplicaId = NewType("ReplicaId", bytes)

_lock = threading.Lock()
_last_ms = 0
_counter = 0


def new_id() -> str:
    """A new UUIDv7 in its canonical form; ids made in one process sort in the order of making."""
    global _last_ms, _counter
    with _lock:
        now = clock.now_ns() // 1_000_000
        if now > _last_ms:
            _last_ms, _counter = now, int.from_bytes(os.urandom(2), "big") & 0x7FF
        else:
            _counter += 1
            if _counter > 0xFFF:
                _last_ms, _counter = _last_ms + 1, 0
        value = (_last_ms << 80) | (0x7 << 76) | (_counter << 64) | (0b10 << 62)
    value |= int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def key16(entity_id: str) -> bytes:
    """The 16 bytes that name an entity in the index: a UUID's own bytes, else a digest of the foreign id."""
    if len(entity_id) == 36:
        try:
            raw = bytes.fromhex(entity_id.replace("-", ""))
        except ValueError:
            raw = b""
        # Only the canonical spelling stands for its bytes; any other spelling is a foreign id of its own.
        if len(raw) == 16 and id_of_key(raw) == entity_id:
            return raw
    return hash16(b"id", entity_id.encode("utf-8", "surrogateescape"))


def id_of_key(raw: bytes) -> str:
    """The canonical UUID of 16 bytes."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def hash16(*parts: bytes) -> bytes:
    """A 16-byte digest of length-prefixed parts: for keys made of names."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(4, "big"))
        h.update(part)
    return h.digest()


def derived_id(*parts: bytes) -> str:
    """An id that follows from its parts, so that two replicas make the same one for the same thing."""
    raw = bytearray(hash16(*parts))
    raw[6] = (raw[6] & 0x0F) | 0x80  # UUIDv8: "vendor's own"
    raw[8] = (raw[8] & 0x3F) | 0x80
    return id_of_key(bytes(raw))


def generation_id_for(digest: Digest, session_id: str) -> str:
    """The id of the derived generation of a picture in a session (`mixfs.library.derived_generations`)."""
    return derived_id(b"generation", digest, session_id.encode())


def new_replica_id() -> ReplicaId:
    """Eight random bytes; the name of a replica's journal directory is their hex."""
    return ReplicaId(os.urandom(8))


def digest_from_hex(text: str) -> Digest:
    """The digest that 64 hex digits name. Raises ValueError for anything else."""
    raw = bytes.fromhex(text)
    if len(raw) != 32:
        raise ValueError(f"{text!r} is no SHA-256 digest: it must have 64 hex digits")
    return Digest(raw)


def ino_of(node_key: bytes, salt: int = 0) -> int:
    """The inode number of a node: a 63-bit digest of its key, never 0 or 1 (1 is the mount's root)."""
    h = hashlib.blake2b(node_key, digest_size=8, salt=salt.to_bytes(2, "big") if salt else b"")
    return (int.from_bytes(h.digest(), "little") >> 1) | 2
