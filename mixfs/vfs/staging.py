"""Files that are being written through the mount, until they are taken in.

Concurrency: event loop only, and no method awaits, so each is atomic. The bytes are written in threads (see
`Tree.write`), one at a time for each file.

What survives a killed daemon: each file lies in the staging directory under its node's id, and `log` beside it holds
framed CBOR items, the newest of an id saying what it is: directory, name, mode, attributes, whether it was closed since
its last write. Items are written before the request is answered; the page cache outlives the process. Power loss is
`sync`'s business, which fsync(2) asks for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import trio

from mixfs.blobs import Intake
from mixfs.ids import Digest, ino_of, key16, new_id
from mixfs.index.dentries import Dentry
from mixfs.journal import frames
from mixfs.journal.files import fsync_directory
from mixfs.library.staging import LOG, StagingArea, abandoned

_COMPACT_AT = 8 << 20


class Staged:
    """One file being written. `key` is the node key that it keeps after it was taken in."""

    def __init__(self, staged_id: str, key: bytes, directory: bytes, name: bytes, mode: int) -> None:
        self.id, self.key, self.directory, self.name, self.mode = staged_id, key, directory, name, mode
        self.xattrs: dict[str, bytes] = {}
        # The placement whose bytes these are a new version of.
        self.replaces: str | None = None
        self.intake: Intake | None = None
        # Set once the bytes are a blob already, and only their commit is missing.
        self.digest: Digest | None = None
        self.linked = True
        self.closed = False
        self.synced = False
        # The errno with which taking it in failed last. A failed fsync says nothing when it is tried again, so the
        # next try is made with a copy.
        self.failed = 0
        # Where a write was refused (a full disk) that nobody has written again since.
        self.broken_at: int | None = None
        # Raised by every change, so that whoever works on the file sees that it changed meanwhile.
        self.version = 0
        self.touched = time.monotonic()
        self.retry_at = 0.0
        self.io = trio.Lock()

    def changed(self) -> None:
        self.version += 1
        self.touched = time.monotonic()

    def cut(self, size: int) -> None:
        """It was truncated: what could not be written may be of no matter any more."""
        if self.broken_at is not None and size <= self.broken_at:
            self.broken_at = None

    def dentry(self) -> Dentry:
        """Its attributes as they are now."""
        assert self.intake is not None
        status = os.fstat(self.intake.fd)
        return Dentry(
            self.name, self.key, ino_of(self.key), stat.S_IFREG | self.mode, status.st_size, status.st_mtime_ns,
            status.st_ctime_ns,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What the log keeps of it."""
        return {
            "id": self.id, "key": self.key, "directory": self.directory, "name": self.name, "mode": self.mode,
            "xattrs": self.xattrs, "replaces": self.replaces, "closed": self.closed, "digest": self.digest,
        }  # fmt: skip


class Staging:
    """All files of this mount that are being written, by directory and name, and by node key."""

    def __init__(self, area: StagingArea) -> None:
        self._area = area
        self.path = area.open()
        self._log = os.open(self.path / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._names: dict[bytes, dict[bytes, Staged]] = {}
        self._keys: dict[bytes, Staged] = {}
        self._owed: list[str] = []

    def __iter__(self) -> Iterator[Staged]:
        return iter(list(self._keys.values()))

    def __len__(self) -> int:
        return len(self._keys)

    # -- finding

    def at(self, directory: bytes, name: bytes) -> Staged | None:
        names = self._names.get(directory)
        return None if names is None else names.get(name)

    def by_key(self, key: bytes) -> Staged | None:
        return self._keys.get(key)

    def names(self, directory: bytes) -> dict[bytes, Staged]:
        return self._names.get(directory, {})

    # -- changing

    def create(self, directory: bytes, name: bytes, tag: bytes, mode: int, key: bytes | None = None) -> Staged:
        """A new empty file; `key` is given for a new version of a file that was taken in already."""
        staged_id = new_id()
        staged = Staged(staged_id, key or tag + key16(staged_id), directory, name, mode)
        staged.intake = Intake(self.path / staged_id)
        self.enter(staged)
        self.note(staged)
        return staged

    def enter(self, staged: Staged) -> None:
        """Have it found by its name and its key, in place of what was."""
        self._names.setdefault(staged.directory, {})[staged.name] = staged
        self._keys[staged.key] = staged

    def _leave_name(self, staged: Staged) -> None:
        names = self._names.get(staged.directory)
        if names is not None and names.get(staged.name) is staged:
            del names[staged.name]
            if not names:
                del self._names[staged.directory]

    def rename(self, staged: Staged, directory: bytes, name: bytes) -> None:
        """Give it another name; what had that name must be gone already."""
        self._leave_name(staged)
        staged.directory, staged.name = directory, name
        self._names.setdefault(directory, {})[name] = staged
        staged.changed()
        self.note(staged)

    def unlink(self, staged: Staged) -> None:
        """Take its name away; the bytes stay until the last handle is closed (`discard`)."""
        staged.linked = False
        staged.changed()
        self._leave_name(staged)
        self._append_gone(staged)

    def discard(self, staged: Staged) -> None:
        """Forget it, bytes and all."""
        if staged.linked:
            self.unlink(staged)
        if self._keys.get(staged.key) is staged:
            del self._keys[staged.key]
        if staged.intake is not None:
            staged.intake.discard()
            staged.intake = None

    def taken_in(self, staged: Staged) -> None:
        """Its bytes are a blob and its name a record: nothing is left to do for it."""
        staged.linked = False
        self._leave_name(staged)
        if self._keys.get(staged.key) is staged:
            del self._keys[staged.key]
        self._append_gone(staged)
        with contextlib.suppress(OSError):
            self._compact()

    # -- the log

    def note(self, staged: Staged) -> None:
        """Write down what it is now."""
        if staged.linked:
            self._append(staged.state())

    def _append_gone(self, staged: Staged) -> None:
        """Write down that it is gone. On a full disk too: what is owed is written with the next item."""
        self._owed.append(staged.id)
        with contextlib.suppress(OSError):
            self._pay()
        if self._owed and staged.digest is None and staged.intake is not None:
            # Without its bytes a file isn't taken up again, whatever the log says of it. Who has it open keeps them.
            staged.intake.path.unlink(missing_ok=True)

    def _pay(self) -> None:
        while self._owed:
            self._write({"id": self._owed[0], "gone": True})
            del self._owed[0]

    def _append(self, item: dict[str, Any]) -> None:
        self._pay()
        self._write(item)

    def _write(self, item: dict[str, Any]) -> None:
        frame = memoryview(frames.encode(cbor2.dumps(item)))
        while frame:
            frame = frame[os.write(self._log, frame) :]

    def sync(self) -> None:
        """Make the log and the names in the directory durable. Blocks: call it in a thread."""
        os.fdatasync(self._log)
        fsync_directory(self.path)

    def _compact(self) -> None:
        """Write the log anew once it mostly tells of files that are gone."""
        if os.fstat(self._log).st_size < _COMPACT_AT + 1024 * len(self._keys):
            return
        fresh = self.path / f"{LOG}.new"
        data = b"".join(frames.encode(cbor2.dumps(staged.state())) for staged in self if staged.linked)
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        # What an fsync made durable in the old log must be so in the new one before it takes its place.
        os.fdatasync(fd)
        os.rename(fresh, self.path / LOG)
        os.close(self._log)
        self._log = fd

    def close(self) -> None:
        """Close everything; files that wait stay for the next mount."""
        waiting = [staged for staged in self if staged.linked]
        for staged in self:
            if staged.intake is not None:
                staged.intake.close()
        os.close(self._log)
        self._area.close(keep=bool(waiting))

    # -- recovery

    def recover(self, root: Path, exists: Any) -> list[Staged]:
        """Take over what mounts that are gone left behind; returns the files that came back.

        `exists(directory)` says whether a directory is still there; what lay in one that is gone comes to import/.
        """
        found: list[Staged] = []
        for path, lock_fd in abandoned(root):
            try:
                if path != self.path and (path / LOG).exists():
                    found += self._take_over(path, exists)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock_fd)
        return found

    def _take_over(self, path: Path, exists: Any) -> list[Staged]:
        states: dict[str, dict[str, Any]] = {}
        for item in frames.scan(memoryview((path / LOG).read_bytes())):
            if item.payload is not None:
                state = cbor2.loads(item.payload)
                states.pop(state["id"], None)
                if not state.get("gone"):
                    states[state["id"]] = state
        found: list[Staged] = []
        for state in states.values():
            staged = Staged(state["id"], state["key"], state["directory"], state["name"], state["mode"])
            staged.xattrs, staged.replaces = dict(state["xattrs"]), state["replaces"]
            staged.closed = state["closed"]
            # It may have been fsynced: nobody can say any more.
            staged.synced = True
            if (path / staged.id).exists():
                if not exists(staged.directory):
                    staged.directory = b"d" + bytes(16)
                while self.at(staged.directory, staged.name) is not None:
                    staged.name += b" (recovered)"
            elif state["digest"] is not None:
                # Killed between the blob's rename and its commit.
                staged.digest = Digest(state["digest"])
            else:
                continue
            self._append(staged.state())
            self.enter(staged)
            found.append(staged)
        if not found:
            return []
        # The log first: killed or without power in between, the file is found again in the old directory, or here.
        os.fdatasync(self._log)
        for staged in found:
            if staged.digest is None:
                os.rename(path / staged.id, self.path / staged.id)
                staged.intake = Intake(self.path / staged.id, exists=True)
        fsync_directory(self.path)
        return found
