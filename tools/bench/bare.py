#!/usr/bin/env python3
"""A pyfuse3 file system of a few lines: a folder shown read-only, with everything that the kernel may cache.

    tools/bench/bare.py FOLDER MOUNTPOINT

It stays in the foreground. What it takes for a request is what pyfuse3 and trio take.
"""

from __future__ import annotations

import errno
import os
import sys

import pyfuse3
import trio

FOREVER_S = 86400.0


class Bare(pyfuse3.Operations):
    """Nodes are paths, kept for ever."""

    supports_dot_lookup = False

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._paths = {pyfuse3.ROOT_INODE: os.fsencode(folder)}
        self._listings: dict[int, tuple[int, list[bytes]]] = {}

    def _entry(self, path: bytes, ino: int = 0) -> pyfuse3.EntryAttributes:
        try:
            found = os.lstat(path)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = ino or found.st_ino
        entry.st_mode, entry.st_size = found.st_mode, found.st_size
        entry.st_nlink, entry.st_blocks = found.st_nlink, found.st_blocks
        entry.st_mtime_ns = found.st_mtime_ns
        entry.entry_timeout = entry.attr_timeout = FOREVER_S
        self._paths.setdefault(entry.st_ino, path)
        return entry

    async def lookup(self, parent_inode, name, ctx):
        return self._entry(self._paths[parent_inode] + b"/" + name)

    async def getattr(self, inode, ctx):
        return self._entry(self._paths[inode], inode)

    async def opendir(self, inode, ctx):
        fh = len(self._listings) + 1
        self._listings[fh] = (inode, os.listdir(self._paths[inode]))
        return fh

    async def readdir(self, fh, start_id, token):
        inode, names = self._listings[fh]
        for place in range(start_id, len(names)):
            entry = self._entry(self._paths[inode] + b"/" + names[place])
            if not pyfuse3.readdir_reply(token, names[place], entry, place + 1):
                return

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=os.open(self._paths[inode], os.O_RDONLY), keep_cache=True)

    async def read(self, fh, off, size):
        return os.pread(fh, size, off)

    async def release(self, fh):
        os.close(fh)


def main() -> None:
    folder, point = sys.argv[1:]
    pyfuse3.init(Bare(folder), point, {*pyfuse3.default_options, "fsname=bare"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
