"""What .mixfs/ tells: version, counters, health, problems, the log, and what waits in import/."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mixfs import __version__
from mixfs.daemon.upkeep import Upkeep
from mixfs.fuse.mount import KernelCache
from mixfs.fuse.operations import Operations
from mixfs.library.api import Library
from mixfs.library.problems import shown_json
from mixfs.vfs.content import BytesContent, Content, FileContent
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree


def _json(value: object) -> Content:
    return BytesContent(shown_json(value, indent=2), live=True)


class Status:
    """The files of .mixfs/, made when they are read. `attach` comes once everything that they tell of exists."""

    def __init__(self, library: Library, log_file: Path | None) -> None:
        self._library = library
        self._log_file = log_file
        self._started = time.monotonic()
        self._tree: Tree | None = None
        self._operations: Operations | None = None
        self._cache: KernelCache | None = None
        self._taking_in: TakingIn | None = None
        self._upkeep: Upkeep | None = None

    def attach(
        self, tree: Tree, operations: Operations, cache: KernelCache, taking_in: TakingIn, upkeep: Upkeep
    ) -> None:
        self._tree, self._operations, self._cache = tree, operations, cache
        self._taking_in, self._upkeep = taking_in, upkeep

    def files(self) -> Mapping[str, Callable[[], Content]]:
        return {
            "version": lambda: BytesContent(f"{__version__}\n".encode()),
            "stats.json": self._stats,
            "health.json": self._health,
            "problems.jsonl": lambda: FileContent(self._library.store.problems.path, growing=True),
            "log.jsonl": lambda: FileContent(self._log_file or Path(os.devnull), growing=True),
            "imported": self._imported,
        }

    def _stats(self) -> Content:
        out: dict[str, object] = {"library": self._library.stats()._asdict()}
        operations = self._operations
        if operations is not None:
            out["operations"] = dict(operations.counts)
            out["errors"] = dict(operations.errors)
            out["served_bytes"] = operations.served_bytes
            out["nodes_remembered"] = len(operations.inodes)
        if self._cache is not None:
            out["invalidations"] = self._cache.invalidated
        if self._taking_in is not None:
            out["taken_in"] = self._taking_in.taken
        out["thumbnails_waiting"] = self._library.thumbnails.waiting
        return _json(out)

    def _health(self) -> Content:
        free = os.statvfs(self._library.root)
        return _json(
            {
                "status": "ok",
                "pid": os.getpid(),
                "version": __version__,
                "uptime_s": round(time.monotonic() - self._started, 1),
                "library": str(self._library.root),
                "library_id": self._library.store.format.library_id,
                "free_bytes": free.f_bavail * free.f_frsize,
                "held": self._held(),
                "clock": self._library.store.steadiness.words() or "steady",
                "upkeep": self._upkeep.status() if self._upkeep is not None else {},
            }
        )

    def _held(self) -> dict[str, int]:
        """What is held now. `tools/soak` looks whether all of it is back after load."""
        out = {
            "descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
            "workers": len(self._library.pool.pids), "readers": self._library.store.readers(),
            "thumbnails_waiting": self._library.thumbnails.waiting,
        }  # fmt: skip
        if self._tree is not None:
            out |= self._tree.held()
        if self._operations is not None:
            out |= self._operations.held()
        if self._taking_in is not None:
            out |= self._taking_in.held()
        return out

    def _imported(self) -> Content:
        waiting = self._taking_in.waiting() if self._taking_in is not None else []
        taken = self._taking_in.taken if self._taking_in is not None else 0
        return _json({"taken_in": taken, "waiting": waiting})
