"""Mounting and serving: the life of one FUSE session, and telling the kernel what to forget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import structlog
import trio

from mixfs.errors import MountError
from mixfs.fuse import receiving
from mixfs.fuse.operations import FILE_TAGS, Operations
from mixfs.mountinfo import mount_at

log = structlog.get_logger("mixfs.fuse")

READ_AHEAD_KB = 1024
MAX_BACKGROUND = 256


class Mount:
    """One mounted file system. `open` mounts, `serve` answers until it is unmounted, `close` cleans up."""

    def __init__(self, operations: Operations, mountpoint: Path, options: set[str]) -> None:
        self._operations = operations
        self._mountpoint = mountpoint
        self._options = options

    def open(self) -> None:
        """Raises MountError when FUSE says no."""
        options = set(pyfuse3.default_options) | {"fsname=mixfs", "subtype=mixfs", "nosuid", "nodev"} | self._options
        try:
            pyfuse3.init(self._operations, str(self._mountpoint), options)
        except RuntimeError as error:
            # libfuse tells of an option that it doesn't know in a line of its own on stderr only.
            given = f" Check the options too: -o {','.join(sorted(self._options))}." if self._options else ""
            raise MountError(
                f"{self._mountpoint} could not be mounted ({error}). `mixfs doctor` says what is missing.{given}"
            ) from None

    async def _tune(self) -> None:
        """Set what the kernel has of this connection, where we may.

        Once it has our answer to INIT: by that it takes the read-ahead back to what it had offered.
        Cold sequential reads gain a factor of 2.3 by a longer read-ahead; only root may. The kernel has twelve reads
        ahead under way at once, of all files together: a disk that hangs would soon have them all.
        """
        await self._operations.answering.wait()
        # Found in mountinfo and not by a stat of the mount point: the daemon never touches its own mount.
        mount = mount_at(str(self._mountpoint))
        if mount is None:
            return
        for path, value in (
            (f"/sys/class/bdi/{mount.device}/read_ahead_kb", READ_AHEAD_KB),
            (f"/sys/fs/fuse/connections/{mount.minor}/max_background", MAX_BACKGROUND),
            (f"/sys/fs/fuse/connections/{mount.minor}/congestion_threshold", MAX_BACKGROUND),
        ):
            with contextlib.suppress(OSError):
                Path(path).write_text(str(value))

    async def serve(self) -> None:
        """Answer requests until the file system is unmounted."""
        # Tasks are made as they are needed. Many, because each request to a disk that hangs keeps one.
        receiving.install(lambda: self._operations.under_way > 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tune)
            await pyfuse3.main(min_tasks=4, max_tasks=512)
            nursery.cancel_scope.cancel()

    def close(self, *, unmount: bool = True) -> None:
        pyfuse3.close(unmount=unmount)

    def stop(self) -> None:
        """Make `serve` return."""
        pyfuse3.terminate()


class KernelCache:
    """What the kernel remembers, and how it is made to forget. Used by the invalidation task only."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._thread = trio.CapacityLimiter(1)
        self.invalidated = 0

    def forget_name(self, directory: bytes, name: bytes) -> None:
        """Forget a dentry, negative ones too. Queued: pyfuse3's own thread waits for the directory's lock."""
        ino = self._operations.inodes.remembered(directory)
        if ino is None or len(name) > 255:
            return
        self.invalidated += 1
        pyfuse3.invalidate_entry_async(ino, name, ignore_enoent=True)

    def remembered(self) -> Iterator[bytes]:
        """The keys of all nodes that the kernel remembers."""
        return iter(self._operations.inodes)

    @staticmethod
    def is_directory(key: bytes) -> bool:
        return key[:1] not in FILE_TAGS

    async def forget_attributes(self, key: bytes) -> None:
        """Forget a node's attributes, not its bytes."""
        ino = self._operations.inodes.remembered(key)
        if ino is None:
            return
        self.invalidated += 1
        with contextlib.suppress(OSError):
            await trio.to_thread.run_sync(_invalidate_attributes, ino, limiter=self._thread)


def _invalidate_attributes(ino: int) -> None:
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_inode(ino, attr_only=True)


