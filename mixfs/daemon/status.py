"""What .mixfs/ tells: version, counters, health, problems, the log, and what waits in import/."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from mixfs import __version__
from mixfs.daemon.upkeep import Upkeep
from mixfs.errors import MixfsError
from mixfs.fuse.mount import KernelCache
from mixfs.fuse.operations import Operations
from mixfs.library.api import Library
from mixfs.library.health import Trouble, troubles
from mixfs.library.problems import shown_json
from mixfs.library.staging import left_by_mounts
from mixfs.vfs.content import BytesContent, Content, FileContent
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree

# How long a background task that failed counts as failing: the longest pause before it is begun again, and some more.
_FAILING_S = 90.0


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
        self._failing: dict[str, tuple[float, str]] = {}

    def attach(
        self, tree: Tree, operations: Operations, cache: KernelCache, taking_in: TakingIn, upkeep: Upkeep
    ) -> None:
        self._tree, self._operations, self._cache = tree, operations, cache
        self._taking_in, self._upkeep = taking_in, upkeep

    def task_failed(self, name: str, reason: str) -> None:
        """A background task failed, and is begun again."""
        self._failing[name] = time.monotonic(), reason

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
        troubles = self._troubles()
        return _json(
            {
                # For programs: `problems` unless everything is well.
                "status": "problems" if troubles else "ok",
                "problems": [asdict(trouble) for trouble in troubles],
                "pid": os.getpid(),
                "version": __version__,
                "uptime_s": round(time.monotonic() - self._started, 1),
                "library": str(self._library.root),
                "library_id": self._library.store.format.library_id,
                "free_bytes": free.f_bavail * free.f_frsize,
                # Long files that are being taken in: name, bytes so far, size.
                "taking_in": self._taking_in.under_way() if self._taking_in is not None else [],
                "held": self._held(),
                "clock": self._library.store.steadiness.words() or "steady",
                "upkeep": self._upkeep.status() if self._upkeep is not None else {},
            }
        )

    def _troubles(self) -> list[Trouble]:
        """What is wrong now, with the library and with this mount."""
        try:
            found = troubles(self._library)
        except (OSError, MixfsError) as error:
            found = [Trouble("library", f"The library can't be looked at: {error}", "`mixfs fsck` says more.")]
        now = time.monotonic()
        for name, (failed_at, reason) in list(self._failing.items()):
            # One that has run for longer is well again.
            if now - failed_at < _FAILING_S:
                words = f"The background task {name} failed: {reason}."
                found.append(Trouble("task-failed", words, "It is begun again by itself; log.jsonl says more."))
        if self._upkeep is not None and (refused := self._upkeep.refusal()):
            words = f"gc frees nothing: {refused}"
            found.append(Trouble("gc-refused", words, "It is tried again once a day; `mixfs gc` tries it now."))
        failed = self._taking_in.failed() if self._taking_in is not None else {}
        if failed:
            name, reason = next(iter(failed.items()))
            words = f"{len(failed):,} files could not be taken in, {name!r} first: {reason}."
            found.append(Trouble("not-taken-in", words, "They stay in import/ and are tried again by themselves."))
        return found

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
        under_way = self._taking_in.under_way() if self._taking_in is not None else []
        out: dict[str, object] = {"taken_in": taken, "waiting": waiting, "under_way": under_way}
        if self._library.store.read_only:
            # What is written to the library comes in through another mount.
            writable = self._library.mounted_at()
            left = 0 if writable is not None else left_by_mounts(self._library.root / "staging")
            out |= {"read_only": True, "writable_at": writable, "left_by_mounts": left}
        return _json(out)
