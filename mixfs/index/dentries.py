"""Dentries: the stored listings, packed so that a listing decodes one small struct an entry.

A **node key** names an object of the mount; its first byte is the tag, its ino a digest of it. Keys of directories that
have a stored listing are 17 bytes. What each tag shows is in `mixfs/vfs/routes.py`.

    directories                          files
    /  fixed directory (digest of path)  P  placement (id)             its own file, in sessions/
    S  session                           R  receipt (id)               its own file, in import/
    p  images/ or a folder below it      J  image (digest)             shared by the views over everything
    m  metadata/ of the same folder      D  document (type, id, revision)
    t  thumbnails/ of the same folder    T  thumbnail (digest)
    f  files/ of the same folder         .  fixed file (digest of path)
    g  generations/   c  canvas/
    G  one generation  <  inputs/  >  outputs/
    d  folder of import/
    b  images/ab      v  folder of a view over everything
    u  folder of trash/                  U  what is in it (id of the trash record, place in it)
    k  storage-v2/thumbnails/ and below  K  file of it, or the log (path)
                                         V  document of storage-v2/ (type, id, revision)
                                         Q  what an app writes beside its documents

`Listing` is the one place that gives names. A record has a *wanted* name; the name it gets is a pure function of the
records that want names of one family (`a.png`, `a (2).png`, …): in the order of (when the name was claimed, node key)
each takes its wanted name if it is free, else the next free number. Nearly always nobody is displaced, and then a put
is one get and one put.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

import cbor2

from mixfs.ids import hash16, ino_of
from mixfs.index import keys
from mixfs.index.engine import ReadTxn, WriteTxn, prefix_end
from mixfs.index.seal import seal, unseal
from mixfs.names import family_base, family_prefix, listable, with_counter

_HEAD = struct.Struct("<QIQqqqBH")
_HEAD_SIZE, _unpack_head, _new = _HEAD.size, _HEAD.unpack_from, tuple.__new__
_ROW = struct.Struct("<QqQ")
_ATIME = struct.Struct("<q")
DIRECTORY_SIZE = 17
# In `Changes.entries`, of a directory whose own name came or went with what is in it.
ITSELF = b""

DIR_MODE = stat.S_IFDIR | 0o755
READ_ONLY_DIR_MODE = stat.S_IFDIR | 0o555
READ_ONLY_FILE_MODE = stat.S_IFREG | 0o444


class Dentry(NamedTuple):
    """A name in a directory and the attributes of what it names. `mode` holds the file type bits too."""

    name: bytes
    key: bytes
    ino: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    order: int = 0
    wanted: bytes = b""
    extra: bytes = b""
    # Not stored: 0 for what has no name any more and is still open.
    links: int = 1

    @property
    def atime_ns(self) -> int:
        """Receipts (and folders of import/) have it as their extra; what else there is shows its mtime."""
        return _ATIME.unpack(self.extra)[0] if self.extra and self.key[:1] in (b"R", b"d") else self.mtime_ns

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


def pack(dentry: Dentry) -> bytes:
    """The stored value: head, node key, the wanted name where it differs from the given one, extra."""
    wanted = b"" if dentry.wanted == dentry.name else dentry.wanted
    return (
        _HEAD.pack(
            dentry.ino, dentry.mode, dentry.size, dentry.mtime_ns, dentry.ctime_ns, dentry.order,
            len(dentry.key), len(wanted),
        )
        + dentry.key
        + wanted
        + dentry.extra
    )  # fmt: skip


def unpack(name: bytes, value: bytes) -> Dentry:
    ino, mode, size, mtime_ns, ctime_ns, order, key_size, wanted_size = _unpack_head(value)
    end = _HEAD_SIZE + key_size
    wanted_end = end + wanted_size
    wanted = value[end:wanted_end] if wanted_size else name
    # Of tuple itself: a listing does this for each entry, and the class's own `__new__` takes twice as long.
    return _new(
        Dentry,
        (name, value[_HEAD_SIZE:end], ino, mode, size, mtime_ns, ctime_ns, order, wanted, value[wanted_end:], 1),
    )


def _storable(ns: int) -> int:
    """A time that fits the row: programs set years beyond 2262 too."""
    return max(-(2**63), min(ns, 2**63 - 1))


def atime_extra(atime_ns: int) -> bytes:
    """The extra of a dentry of import/."""
    return _ATIME.pack(_storable(atime_ns))


class DirectoryRow(NamedTuple):
    """How many children a stored listing has, and when it last changed: the time, and the stamp of that change."""

    children: int
    mtime_ns: int
    stamp: int

    @classmethod
    def load(cls, value: bytes) -> DirectoryRow:
        return cls(*_ROW.unpack_from(value))


def fixed(path: str) -> bytes:
    """The key of a directory that every mount has."""
    return b"/" + hash16(path.encode())


def fixed_file(path: str) -> bytes:
    return b"." + hash16(path.encode())


def view_directory(*path: str) -> bytes:
    """The key of a folder of a view over everything, by the values that it stands for (not by its safe name)."""
    return b"v" + hash16(*(part.encode("utf-8", "surrogateescape") for part in path))


def bucket_directory(two_hex: str) -> bytes:
    return b"b" + hash16(two_hex.encode())


def get_dentry(txn: ReadTxn, directory: bytes, name: bytes) -> Dentry | None:
    value = txn.get(keys.dentry(directory, name))
    return None if value is None else unpack(name, value)


def scan_dentries(txn: ReadTxn, directory: bytes, after: bytes = b"", prefix: bytes = b"") -> Iterator[Dentry]:
    """The dentries of a directory in name order, those behind the name `after`, whose names begin with `prefix`."""
    base = keys.dentry(directory, b"")
    start = base + (after + b"\0" if after else prefix)
    skip = len(base)
    for key, value in txn.scan(start, prefix_end(base + prefix)):
        yield unpack(key[skip:], value)


def get_directory_row(txn: ReadTxn, directory: bytes) -> DirectoryRow | None:
    value = txn.get(keys.directory_row(directory))
    return None if value is None else DirectoryRow.load(value)


class Family(NamedTuple):
    """Of a family in which somebody was displaced: its last member in order, and the last number given."""

    last_order: int
    last_key: bytes
    last_number: int


def displaced_name(txn: ReadTxn, directory: bytes, wanted: bytes, key: bytes) -> bytes | None:
    """The name given to a node that lost the one it wanted, or None."""
    base = family_base(wanted)
    if txn.get(keys.family(directory, base)) is None:
        return None
    return txn.get(keys.displaced(directory, base, key))


class Changes:
    """What a commit changed for a kernel that remembers it: names whose node changed, nodes whose attributes did."""

    def __init__(self) -> None:
        self.entries: dict[tuple[bytes, bytes], None] = {}
        self.nodes: dict[bytes, None] = {}
        # Whose kernel made the change itself, and which names it therefore knows.
        self.origin = b""
        self.known: dict[tuple[bytes, bytes], None] = {}

    def dump(self) -> bytes:
        entries, known = [list(entry) for entry in self.entries], [list(entry) for entry in self.known]
        return seal(cbor2.dumps([entries, list(self.nodes), self.origin, known]))

    @classmethod
    def load(cls, data: bytes) -> Changes:
        entries, nodes, changes_origin, known = cbor2.loads(unseal(data))
        changes = cls()
        changes.entries = dict.fromkeys((directory, name) for directory, name in entries)
        changes.nodes = dict.fromkeys(nodes)
        changes.origin = changes_origin
        changes.known = dict.fromkeys((directory, name) for directory, name in known)
        return changes

    def news_for(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        """The names that a kernel must forget: all but those that it changed itself."""
        if origin != self.origin:
            return list(self.entries)
        return [entry for entry in self.entries if entry not in self.known]


class Listing:
    """Puts and removes dentries inside one write transaction, and notes in `changes` what a kernel must forget.

    Names are what they should be after `settle`, the last call of a commit.
    """

    def __init__(self, txn: WriteTxn, changes: Changes, now_ns: int = 0) -> None:
        """`now_ns` is the time of the changes, by the clock; 0: their stamps are taken for it."""
        self._now_ns = now_ns
        self._txn = txn
        self._changes = changes
        self.emptied: dict[bytes, None] = {}  # directories that lost their last child in this commit
        self._unsettled: dict[tuple[bytes, bytes], None] = {}  # families that lost somebody: (directory, base)

    def touch(self, directory: bytes, stamp: int, add: int = 0, mtime_ns: int = 0) -> int:
        """Count children and note the time of a change, unless a newer one was noted; returns how many children.

        `mtime_ns` is a time that a program set.
        """
        row = get_directory_row(self._txn, directory) or DirectoryRow(0, 0, 0)
        new = row._replace(children=row.children + add)
        if stamp > row.stamp:
            new = DirectoryRow(new.children, _storable(mtime_ns or self._now_ns or stamp), stamp)
        if new != row:
            self._txn.put(keys.directory_row(directory), seal(_ROW.pack(*new)))
            self._changes.nodes[directory] = None
        if directory[:1] == b"f" and bool(row.children) != bool(new.children):
            # A folder of files/ is shown while there is something in it.
            self._changes.entries[directory, ITSELF] = None
        if add < 0 and not new.children:
            self.emptied[directory] = None
        return new.children

    def set_time(self, directory: bytes, mtime_ns: int, stamp: int) -> None:
        """Set the time of a directory, be it earlier than the one it has."""
        row = get_directory_row(self._txn, directory) or DirectoryRow(0, 0, 0)
        self._txn.put(keys.directory_row(directory), seal(_ROW.pack(row.children, mtime_ns, stamp)))
        self._changes.nodes[directory] = None

    def drop(self, directory: bytes) -> None:
        """Forget the row of a directory that is gone, once it is empty: children may outlive it (another replica's)."""
        row = get_directory_row(self._txn, directory)
        if row is not None and not row.children:
            self._txn.delete(keys.directory_row(directory))

    def given_name(self, directory: bytes, wanted: bytes, key: bytes) -> bytes:
        """The name that the node has, which wanted `wanted`."""
        wanted = listable(wanted)
        return displaced_name(self._txn, directory, wanted, key) or wanted

    def put(
        self, directory: bytes, wanted: bytes, key: bytes, *, mode: int, size: int = 0, mtime_ns: int = 0,
        ctime_ns: int = 0, order: int = 0, extra: bytes = b"", stamp: int = 0,
    ) -> bytes:  # fmt: skip
        """List a node under the name it wants, or update its row; returns the name given, until `settle`."""
        wanted = listable(wanted)
        base = family_base(wanted)
        name = self.given_name(directory, wanted, key)
        held = get_dentry(self._txn, directory, name)
        mtime_ns, ctime_ns, order = _storable(mtime_ns), _storable(ctime_ns), _storable(order)
        new = Dentry(name, key, ino_of(key), mode, size, mtime_ns, ctime_ns, order, wanted, extra)
        family = self._family(directory, base)
        if held is not None and held.key == key:
            if held._replace(order=order) != new:
                self._changes.nodes[key] = None
            if held != new:
                self._store(directory, new)
            if held.order != order and family is not None:
                self._settle(directory, base)
            return self.given_name(directory, wanted, key)
        self.touch(directory, stamp, add=1)
        if held is None and family is None:
            self._store(directory, new)
            self._changes.entries[directory, name] = None
            return name
        if family is None or (order, key) <= (family.last_order, family.last_key):
            self._settle(directory, base, add=new)
            return self.given_name(directory, wanted, key)
        # The newest of its family moves nobody: what `_settle` would find, without looking at the whole family.
        number = family.last_number
        if held is not None:
            if held.wanted != held.name:
                # A displaced one sits on the name that is wanted here: it must move on.
                self._settle(directory, base, add=new)
                return self.given_name(directory, wanted, key)
            number += 1
            while get_dentry(self._txn, directory, name := with_counter(base, number)) is not None:
                number += 1
            self._txn.put(keys.displaced(directory, base, key), name)
        self._put_family(directory, base, Family(order, key, number))
        self._store(directory, new._replace(name=name))
        self._changes.entries[directory, name] = None
        return name

    def remove(self, directory: bytes, wanted: bytes, key: bytes, *, stamp: int = 0) -> bool:
        """Take a node's dentry away; True when it was there."""
        wanted = listable(wanted)
        base = family_base(wanted)
        name = self.given_name(directory, wanted, key)
        held = get_dentry(self._txn, directory, name)
        if held is None or held.key != key:
            return False
        self._txn.delete(keys.dentry(directory, name))
        self._txn.delete(keys.displaced(directory, base, key))
        self._changes.entries[directory, name] = None
        self.touch(directory, stamp, add=-1)
        if self._family(directory, base) is not None:
            self._unsettled[directory, base] = None
        return True

    def settle(self) -> None:
        """Let those move up whose name became free: once for each family, which many may leave in one commit."""
        for directory, base in list(self._unsettled):
            self._settle(directory, base)

    def _family(self, directory: bytes, base: bytes) -> Family | None:
        value = self._txn.get(keys.family(directory, base))
        return None if value is None else Family(*cbor2.loads(value))

    def _put_family(self, directory: bytes, base: bytes, family: Family) -> None:
        self._txn.put(keys.family(directory, base), cbor2.dumps(list(family)))

    def _store(self, directory: bytes, dentry: Dentry) -> None:
        self._txn.put(keys.dentry(directory, dentry.name), pack(dentry))

    def _settle(self, directory: bytes, base: bytes, add: Dentry | None = None) -> None:
        """Give the names of one family anew: the pure function of who wants what."""
        self._unsettled.pop((directory, base), None)
        members = [
            dentry
            for dentry in scan_dentries(self._txn, directory, prefix=family_prefix(base))
            if family_base(dentry.wanted) == base and dentry.name != base
        ]
        first = get_dentry(self._txn, directory, base)
        # `base` itself may be of another family: "a (2)" is the base of "a (2) (3)" and a member of "a".
        if first is not None and family_base(first.wanted) == base:
            members.append(first)
        before = {dentry.name: dentry for dentry in members}
        if add is not None:
            members.append(add)
        after: dict[bytes, Dentry] = {}
        displaced: dict[bytes, bytes] = {}
        # In two rounds, so that nobody who wants a free name loses it to a displaced earlier one.
        waiting = []
        for dentry in sorted(members, key=lambda d: (d.order, d.key)):
            if dentry.wanted in after:
                waiting.append(dentry)
            else:
                after[dentry.wanted] = dentry
        number = 1
        for dentry in waiting:
            number += 1
            while (name := with_counter(base, number)) in after:
                number += 1
            after[name] = dentry
            displaced[dentry.key] = name
        for name, old in before.items():
            if name not in after or after[name].key != old.key:
                self._changes.entries[directory, name] = None
                if name not in after:
                    self._txn.delete(keys.dentry(directory, name))
        for name, dentry in after.items():
            if name in before and before[name].key == dentry.key and before[name] == dentry:
                continue
            self._changes.entries[directory, name] = None
            self._store(directory, dentry._replace(name=name))
        for dentry in members:
            if dentry.key in displaced:
                self._txn.put(keys.displaced(directory, base, dentry.key), displaced[dentry.key])
            else:
                self._txn.delete(keys.displaced(directory, base, dentry.key))
        if displaced:
            last = max(members, key=lambda d: (d.order, d.key))
            self._put_family(directory, base, Family(last.order, last.key, number))
        else:
            self._txn.delete(keys.family(directory, base))
            self._forget_displaced(directory, base)

    def _forget_displaced(self, directory: bytes, base: bytes) -> None:
        prefix = keys.displaced(directory, base, b"")
        for key, _ in self._txn.scan(prefix, prefix_end(prefix)):
            self._txn.delete(key)
