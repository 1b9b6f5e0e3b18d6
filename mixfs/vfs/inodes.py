"""Inode numbers: which nodes the kernel remembers, and under which number.

An ino is a digest of the node key, so it is the same after a remount. Two keys with one ino are told apart by another
salt, and which key got which is kept (in the index) for as long as both may come back.

Concurrency: event loop only; no method awaits. Memory follows what the kernel remembers: one dictionary item a node,
and a count only for those that it looked up more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mixfs.ids import ino_of

ROOT_INO = 1
# A dictionary keeps the room of the most that it ever held; one that held more than this many is made anew.
_ROOMY = 4096


class Inodes:
    """The nodes that the kernel remembers. `keep` stores an ino that isn't its key's plain digest."""

    def __init__(
        self, root_key: bytes, collided: dict[bytes, int] | None = None,
        keep: Callable[[bytes, int], None] = lambda key, ino: None,
    ) -> None:  # fmt: skip
        self._keys: dict[int, bytes] = {ROOT_INO: root_key}
        self._more: dict[int, int] = {}
        self._most = 0
        self._root_key = root_key
        self._collided = dict(collided or {})
        self._keep = keep

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._keys.values()))

    def lookups(self) -> int:
        """How many lookups the kernel has not taken back."""
        return len(self._keys) - 1 + sum(self._more.values())

    def key(self, ino: int) -> bytes:
        """The node key of an ino that the kernel remembers. Raises KeyError for one that it should not know."""
        return self._keys[ino]

    def ino(self, key: bytes, ino: int = 0) -> int:
        """The ino of a node; `ino` is its plain digest, where the caller has it at hand."""
        if key == self._root_key:
            return ROOT_INO
        if self._collided and key in self._collided:
            return self._collided[key]
        ino = ino or ino_of(key)
        holder = self._keys.get(ino)
        if holder is None or holder == key:
            return ino
        salt = 1
        while self._keys.get(ino := ino_of(key, salt), key) != key:
            salt += 1
        self._collided[key] = ino
        self._keep(key, ino)
        return ino

    def remembered(self, key: bytes) -> int | None:
        """The ino of a node if the kernel remembers it, else None."""
        ino = self.ino(key)
        return ino if self._keys.get(ino) == key else None

    def remember(self, ino: int, key: bytes) -> None:
        """Count one lookup that the kernel was answered."""
        if ino in self._keys:
            self._more[ino] = self._more.get(ino, 0) + 1
        else:
            self._keys[ino] = key
            self._most = max(self._most, len(self._keys))

    def forget(self, ino: int, lookups: int) -> None:
        """Take lookups off; the node goes with its last one."""
        if ino == ROOT_INO or ino not in self._keys:
            return
        more = self._more.get(ino, 0) - lookups
        if more >= 0:
            if more:
                self._more[ino] = more
            else:
                self._more.pop(ino, None)
            return
        self._more.pop(ino, None)
        del self._keys[ino]
        if self._most > _ROOMY and len(self._keys) < self._most // 8:
            self._keys, self._more, self._most = dict(self._keys), dict(self._more), len(self._keys)
