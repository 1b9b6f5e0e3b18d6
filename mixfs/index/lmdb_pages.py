"""LMDB's file looked at with plain reads, before LMDB maps it.

LMDB trusts what it maps: a file that was cut short ends the process with a bus error, a page size of nothing with a
division by zero, a wild offset with a segmentation fault. So the meta pages and the length are checked whenever the
index is opened, and the whole tree where that is asked for (fsck) or where the length is in doubt.

The values' bytes are not looked at here: `mixfs.library.fsck_rows` compares them. Nor are bytes that LMDB never reads:
those of free pages, gaps within pages, counts of pages that it only shows, and the older meta page.

The layout is that of LMDB 0.9 (`lib_version=0`) on a 64-bit little-endian machine, as in its mdb.c:

    page    pgno u64, pad u16, flags u16, lower u16, upper u16 (an overflow page: its number of pages u32), offsets u16…
    meta    a page; magic u32, version u32, address u64, map size u64, two trees, last page u64, transaction u64
    tree    pad u32 (of the first: the page size), flags u16, depth u16, three counts u64, entries u64, root u64
    node    lo u16, hi u16, flags u16, key size u16, key; lo and hi are the value's size, in a branch page (with the
            flags) the child's number

Concurrency: pages of a snapshot don't change while a read transaction of it is open; `check_tree` is called inside one
or under the library's lock.
"""

from __future__ import annotations

import operator
import os
import struct
from pathlib import Path
from typing import NamedTuple

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE = struct.Struct("<QHHHH")
_META = struct.Struct("<II8xQ")
_TREE = struct.Struct("<IHH24xQQ")
_TAIL = struct.Struct("<QQ")
_NODE = struct.Struct("<HHHH")
_META_SIZE = 16 + _META.size + 2 * _TREE.size + _TAIL.size
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_BIG = 1
_INTEGER_KEY = 8
_NO_PAGE = 2**64 - 1
_MAX_DEPTH = 32
_MAX_MAP = 1 << 46  # more than a process can map


class PagesDamaged(Exception):
    """The file is not what LMDB wrote; the text says where."""


class _Tree(NamedTuple):
    flags: int
    depth: int
    entries: int
    root: int


class Meta(NamedTuple):
    """One of the two meta pages. The newer one counts."""

    page_size: int
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int


def _read_meta(fd: int, offset: int) -> Meta:
    data = os.pread(fd, _META_SIZE, offset)
    if len(data) < _META_SIZE:
        raise PagesDamaged(f"it ends at byte {offset + len(data)}, within its first pages")
    _, _, flags, _, _ = _PAGE.unpack_from(data)
    magic, version, map_size = _META.unpack_from(data, 16)
    if (magic, version) != (_MAGIC, _VERSION) or not flags & _IS_META:
        raise PagesDamaged(f"byte {offset}: no meta page")
    at = 16 + _META.size
    page_size, *free = _TREE.unpack_from(data, at)
    _, *main = _TREE.unpack_from(data, at + _TREE.size)
    last_page, transaction = _TAIL.unpack_from(data, at + 2 * _TREE.size)
    if page_size not in (1 << n for n in range(9, 17)):
        raise PagesDamaged(f"byte {offset}: a page size of {page_size}")
    if max(map_size, last_page * page_size) > _MAX_MAP:
        raise PagesDamaged(f"byte {offset}: a map of {map_size} bytes, with {last_page} pages")
    meta = Meta(page_size, _Tree(*free), _Tree(*main), last_page, transaction)
    for tree, flags in ((meta.free, _INTEGER_KEY), (meta.main, 0)):
        if tree.flags != flags:
            raise PagesDamaged(f"byte {offset}: a tree with flags {tree.flags:#x}")
        if tree.depth > _MAX_DEPTH or (tree.root != _NO_PAGE and not 2 <= tree.root <= last_page):
            raise PagesDamaged(f"byte {offset}: a tree whose root is page {tree.root} of {last_page}")
    return meta


def read_metas(fd: int) -> tuple[Meta, Meta]:
    """Both meta pages. Raises PagesDamaged."""
    first = _read_meta(fd, 0)
    second = _read_meta(fd, first.page_size)
    if second.page_size != first.page_size:
        raise PagesDamaged(f"pages of {first.page_size} and of {second.page_size} bytes")
    return first, second


def check_openable(path: Path) -> None:
    """Raise PagesDamaged unless LMDB can map the file without harm. Reads two pages; more when the length is in doubt.

    An empty file is fine: LMDB writes a new one.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size == 0:
            return
        meta = max(read_metas(fd), key=lambda meta: meta.transaction)
        # Looked at afterwards: another process that writes makes the file longer first.
        if os.fstat(fd).st_size < (meta.last_page + 1) * meta.page_size:
            # The last pages may never have been written, when nothing stands in them.
            _Walk(fd, meta).run()
    finally:
        os.close(fd)


def check_tree(path: Path, transaction: int) -> bool:
    """Check every page of the snapshot of a transaction; raises PagesDamaged.

    False when the snapshot's meta page was overwritten meanwhile: two commits came since.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        meta = next((meta for meta in read_metas(fd) if meta.transaction == transaction), None)
        if meta is None:
            return False
        _Walk(fd, meta).run()
        return True
    finally:
        os.close(fd)


class _Walk:
    """Every page that a meta page leads to: its number, kind, offsets, and keys in order between its parent's.

    Each page belongs to one place: a page that is also on the free list would be overwritten by the next commit.
    """

    def __init__(self, fd: int, meta: Meta) -> None:
        self._fd = fd
        self._meta = meta
        self._entries = 0
        self._used = bytearray(meta.last_page + 1)
        self._free: list[bytes] = []

    def run(self) -> None:
        for tree, is_main in ((self._meta.free, False), (self._meta.main, True)):
            if tree.root == _NO_PAGE:
                continue
            self._entries = 0
            self._page(tree.root, tree.depth, None, None, is_main)
            if self._entries != tree.entries:
                raise PagesDamaged(f"{self._entries} entries where {tree.entries} should be")
        # Only when all that is in use is known.
        for value in self._free:
            self._free_pages(value)

    def _read(self, number: int) -> bytes:
        if not 2 <= number <= self._meta.last_page:
            raise PagesDamaged(f"a reference to page {number}; the last is {self._meta.last_page}")
        data = os.pread(self._fd, self._meta.page_size, number * self._meta.page_size)
        if len(data) < self._meta.page_size:
            raise PagesDamaged(f"page {number} is missing: the file was cut short")
        self._use(number)
        return data

    def _use(self, number: int, words: str = "leads to it") -> None:
        if self._used[number]:
            raise PagesDamaged(f"page {number} is in use already, and a second reference {words}")
        self._used[number] = 1

    def _page(self, number: int, depth: int, low: bytes | None, high: bytes | None, is_main: bool) -> None:
        data = self._read(number)
        own, _, flags, lower, upper = _PAGE.unpack_from(data)
        kind = _LEAF if depth == 1 else _BRANCH
        # Exactly: a page that says that it is dirty would be written to where LMDB has mapped it for reading.
        if own != number or flags != kind:
            raise PagesDamaged(f"page {number} is not the page that should stand there")
        if not _PAGE.size <= lower <= upper <= len(data) or lower % 2:
            raise PagesDamaged(f"page {number}: bounds {lower} and {upper}")
        if kind == _BRANCH and lower == _PAGE.size:
            raise PagesDamaged(f"page {number}: a branch without children")
        nodes = [self._node(data, number, offset, upper) for (offset,) in struct.iter_unpack("<H", data[16:lower])]
        keys = [key if is_main else key[::-1] for _, _, key, _ in nodes]
        if kind == _BRANCH:
            # The first key of a branch page stands for everything that is smaller, whatever its bytes.
            self._check_order(number, keys[1:], low, high)
            stops = [*keys[1:], high]
            for (child, _, _, _), start, stop in zip(nodes, [low, *keys[1:]], stops, strict=True):
                self._page(child, depth - 1, start, stop, is_main)
            return
        self._check_order(number, keys, low, high)
        if not is_main and any(
            len(key) != 8 or int.from_bytes(key, "big") > self._meta.transaction for key in keys
        ):
            raise PagesDamaged(f"page {number}: a list of free pages of no transaction that was")
        self._entries += len(nodes)
        for size, node_flags, _, rest in nodes:
            if node_flags & ~_BIG:
                raise PagesDamaged(f"page {number}: a node with flags {node_flags:#x}")
            if node_flags & _BIG:
                value = self._overflow(rest, size, whole=not is_main)
            elif size > len(rest):
                raise PagesDamaged(f"page {number}: a value of {size} bytes reaches beyond it")
            else:
                value = rest[:size]
            if not is_main:
                self._free.append(value)

    def _node(self, data: bytes, number: int, offset: int, upper: int) -> tuple[int, int, bytes, bytes]:
        """(child or size of the value, flags, key, what follows the key)."""
        if not upper <= offset <= len(data) - _NODE.size:
            raise PagesDamaged(f"page {number}: a node at {offset}")
        lo, hi, flags, key_size = _NODE.unpack_from(data, offset)
        end = offset + _NODE.size + key_size
        if end > len(data):
            raise PagesDamaged(f"page {number}: a key of {key_size} bytes")
        is_branch = _PAGE.unpack_from(data)[2] & _BRANCH
        value = lo | hi << 16 | (flags << 32 if is_branch else 0)
        return value, flags, data[offset + _NODE.size : end], data[end:]

    def _check_order(self, number: int, keys: list[bytes], low: bytes | None, high: bytes | None) -> None:
        rising = all(map(operator.lt, keys, keys[1:]))
        if not rising or (keys and ((low is not None and keys[0] < low) or (high is not None and keys[-1] >= high))):
            raise PagesDamaged(f"page {number}: keys out of order")

    def _overflow(self, rest: bytes, size: int, *, whole: bool) -> bytes:
        """The value on pages of its own; only the free list needs it `whole`."""
        if len(rest) < 8:
            raise PagesDamaged("a reference that reaches beyond its page")
        number = int.from_bytes(rest[:8], "little")
        head = self._read(number)
        own, _, flags, _, _ = _PAGE.unpack_from(head)
        # A value that became shorter keeps the run of pages of the longer one.
        pages = int.from_bytes(head[12:16], "little")
        needed = (_PAGE.size + size - 1) // self._meta.page_size + 1
        if own != number or flags != _OVERFLOW or pages < needed:
            raise PagesDamaged(f"page {number} is not the page that should stand there")
        if number + pages - 1 > self._meta.last_page:
            raise PagesDamaged(f"page {number}: {pages} pages; the last is {self._meta.last_page}")
        for following in range(number + 1, number + pages):
            self._use(following)
        start, length = number * self._meta.page_size, pages * self._meta.page_size
        if not whole:
            # The values themselves are what the rows' own check is for.
            if os.fstat(self._fd).st_size < start + length:
                raise PagesDamaged(f"page {number} is missing: the file was cut short")
            return b""
        data = os.pread(self._fd, length, start)
        if len(data) < length:
            raise PagesDamaged(f"page {number} is missing: the file was cut short")
        return data[_PAGE.size : _PAGE.size + size]

    def _free_pages(self, value: bytes) -> None:
        """A list of free pages: their count, then their numbers."""
        numbers = [number for (number,) in struct.iter_unpack("<Q", value[: len(value) // 8 * 8])]
        if len(value) % 8 or not numbers or numbers[0] > len(numbers) - 1:
            raise PagesDamaged("a list of free pages that is none")
        for number in numbers[1 : numbers[0] + 1]:
            if not 2 <= number <= self._meta.last_page:
                raise PagesDamaged(f"page {number} is listed as free; the last is {self._meta.last_page}")
            self._use(number, "lists it as free")
