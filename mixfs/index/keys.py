"""The key space of the index: every key is made here, and this comment is its map.

    prefix  key                               value
    m       name                              meta: `derivation`, `library`, `stamp`, `position:REPLICA`, `sequence`
    r       kind(1) id(16)                    CBOR [stamp, replica, record map | nil]; nil is a tombstone
    d       directory(17) name                a dentry: `dentries.Dentry` packed, in name order under its directory
    n       directory(17)                     sealed `dentries.DirectoryRow`: number of children, mtime
    x       directory(17) base                CBOR `dentries.Family`, where somebody lost the wanted name
    y       directory(17) base 0 node key     the name given to one that lost its wanted name
    s       session(16) kind(1) id(16)        empty: what belongs to a session
    i       digest(32) kind(1) id(16)         what refers to a blob: of a placement its session(16), else empty
    t       title(16) made(8) session(16)     empty: the sessions of one title, oldest first
    z       session(16)                       sealed CBOR: counts, sizes and revisions of the session's documents
    w       digest(32)                        CBOR: the dentries that an image has in the views over everything
    h       digest(32)                        CBOR [size, mtime_ns] of the thumbnail, [0, 0] when none can be made
    e       sequence(8)                       sealed CBOR: what a commit changed for a kernel that remembers it
    c       name                              CBOR counters of the library
    l       digest(32)                        CBOR: the files that a blob is in storage-v2/: alias, name, node key, item
    l                                         CBOR `documents.Sum` of these items: image_registry.json
    a       alias(16) digest(32)              empty: what an app calls a blob
    o       alias(16) kind(1) id(16)          empty: what names a picture by an alias that stands for nothing yet
    g       group(16) rank(1) trash id(16)    CBOR: how many records an item of the trash holds, by its deletion
    k       kind(1) id(16) trash id(16)       empty: the items of the trash that hold a record
    u       trash id(16)                      empty: deletions and restorations that are not finished

A directory is one tag byte and 16 bytes (`directory`), so that no directory's key is a prefix of another's.
Node keys are defined in `mixfs/index/dentries.py`; what is sealed has a checksum behind it (`mixfs/index/seal.py`).
"""

from __future__ import annotations

from mixfs.ids import Digest, hash16, key16

# What stands for the kind of a generation in `i`: what it has to do with the picture, and whether it calls it by its
# digest (what came from a Storage V2 folder has a name of its own for it).
TAKES, GIVES = 0x40, 0x42
BY_ALIAS = 1

META_POSITION = b"mposition:"
META_STAMP = b"mstamp"
META_DERIVATION = b"mderivation"
META_SEQUENCE = b"msequence"
META_LIBRARY = b"mlibrary"


def position(replica: bytes) -> bytes:
    return META_POSITION + replica.hex().encode()


def record(kind: int, entity_id: str) -> bytes:
    return b"r" + bytes([kind]) + key16(entity_id)


def record_raw(kind: int, raw: bytes) -> bytes:
    """As `record`, from the 16 bytes that `key16` gives."""
    return b"r" + bytes([kind]) + raw


def records_of_kind(kind: int) -> bytes:
    return b"r" + bytes([kind])


def dentry(directory: bytes, name: bytes) -> bytes:
    return b"d" + directory + name


def directory_row(directory: bytes) -> bytes:
    return b"n" + directory


def family(directory: bytes, base: bytes) -> bytes:
    return b"x" + directory + base


def displaced(directory: bytes, base: bytes, node_key: bytes) -> bytes:
    return b"y" + directory + base + b"\0" + node_key


def in_session(session_id: str, kind: int, entity_id: str) -> bytes:
    return b"s" + key16(session_id) + bytes([kind]) + key16(entity_id)


def session_members(session_id: str, kind: int | None = None) -> bytes:
    return b"s" + key16(session_id) + (bytes([kind]) if kind is not None else b"")


def refers(digest: Digest, kind: int, entity_id: str) -> bytes:
    return b"i" + digest + bytes([kind]) + key16(entity_id)


def referrers(digest: Digest, kind: int | None = None) -> bytes:
    return b"i" + digest + (bytes([kind]) if kind is not None else b"")


def by_title(title: str, made_ns: int, session_id: str) -> bytes:
    return titled(title) + max(0, min(made_ns, 2**64 - 1)).to_bytes(8, "big") + key16(session_id)


def titled(title: str) -> bytes:
    return b"t" + hash16(title.encode("utf-8", "surrogateescape"))


def session_row(session_id: str) -> bytes:
    return b"z" + key16(session_id)


def view_rows(digest: Digest) -> bytes:
    return b"w" + digest


def thumbnail(digest: Digest) -> bytes:
    return b"h" + digest


def event(sequence: int) -> bytes:
    return b"e" + sequence.to_bytes(8, "big")


def counter(name: str) -> bytes:
    return b"c" + name.encode()


REGISTRY_SUM = b"l"


def registry_row(digest: Digest) -> bytes:
    return b"l" + digest


def alias(alias: str, digest: Digest) -> bytes:
    return aliases(alias) + digest


def aliases(alias: str) -> bytes:
    return b"a" + hash16(alias.encode("utf-8", "surrogateescape"))


def waits_for(alias: str, kind: int, entity_id: str) -> bytes:
    return waiting_for(alias) + bytes([kind]) + key16(entity_id)


def waiting_for(alias: str) -> bytes:
    return b"o" + hash16(alias.encode("utf-8", "surrogateescape"))


def grouped(group_id: str, rank: int, trash_id: str) -> bytes:
    return group(group_id) + bytes([rank]) + key16(trash_id)


def group(group_id: str) -> bytes:
    return GROUPS + key16(group_id)


GROUPS = b"g"


def kept(kind: int, entity_id: str, trash_id: str) -> bytes:
    return keeping(kind, entity_id) + key16(trash_id)


def keeping(kind: int, entity_id: str | None = None) -> bytes:
    return b"k" + bytes([kind]) + (key16(entity_id) if entity_id is not None else b"")


UNFINISHED = b"u"


def unfinished(trash_id: str) -> bytes:
    return UNFINISHED + key16(trash_id)
