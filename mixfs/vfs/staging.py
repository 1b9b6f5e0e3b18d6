"""Files that are being written through the mount, until they are taken in.

Concurrency: event loop only, but for what says that it blocks; no method awaits, so each is atomic. The bytes are
written in threads (see `mixfs/vfs/files.py`), one at a time for each file.

What survives a killed daemon: each file lies in the staging directory under its node's id, and `log` beside it holds
framed CBOR items, the newest of an id saying what it is: directory, name, mode, attributes, whether it was closed since
its last write. The times of folders of import/ are such items too, and the receipts that were removed: a commit for
each would be an fsync for each, which unlink(2) doesn't promise; the next commit takes them away. All is written
before the request is answered; the page cache outlives the process. Power loss is `sync`'s business, which
fsync(2) asks for.

A file that is taken in becomes a blob first and is committed then. Its name in staging stays until it is, as a second
name of the same bytes: so nothing is lost by a kill or a failed commit, and nothing may be written to it any more,
until `copy_back` and `come_back` give it bytes of its own again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cbor2
import structlog
import trio
from sortedcontainers import SortedDict

from mixfs.blobs import Intake
from mixfs.errors import MixfsError
from mixfs.ids import Digest, ino_of, key16, new_id
from mixfs.index.dentries import Dentry, atime_extra
from mixfs.journal import frames
from mixfs.journal.files import fsync_directory
from mixfs.library.staging import LOCK, LOG, StagingArea, abandoned, is_of_mount
from mixfs.media.sniff import HEAD_SIZE, extension, sniff
from mixfs.modes import create_file

_COMPACT_AT = 8 << 20
# How many versions of a name, and how many bytes, are kept in a day when they are overwritten before they are taken in.
MAX_VERSIONS, MAX_VERSION_BYTES, BUDGET_S = 100, 1 << 30, 86_400

log = structlog.get_logger("mixfs.staging")


class Staged:
    """One file being written. `key` is the node key that it keeps after it was taken in."""

    def __init__(self, staged_id: str, key: bytes, directory: bytes, name: bytes, mode: int) -> None:
        self.id, self.key, self.directory, self.name, self.mode = staged_id, key, directory, name, mode
        # Changed by `Staging.set_xattr`, or given before it is noted first.
        self.xattrs: dict[str, bytes] = {}
        self.xattrs_noted = False
        # The placement whose bytes these are a new version of.
        self.replaces: str | None = None
        # Renamed since: the placement moves along when these are taken in.
        self.moved = False
        self.intake: Intake | None = None
        # Of a version that was closed and is no longer what its name shows.
        self.aside: Aside | None = None
        # It was published in vain, and gets bytes of its own: the intake leaves it alone.
        self.comes_back = False
        # Its bytes are those of such a version too, so nothing may be written to them.
        self.shared = False
        # Set while the bytes are becoming a blob, and after that until they are committed.
        self.digest: Digest | None = None
        self.linked = True
        self.closed = False
        self.synced = False
        # The errno with which taking it in failed last, and why.
        self.failed = 0
        self.reason = ""
        # A failed fsync says nothing when it is tried again, so the next try is made with a copy.
        self.needs_copy = False
        # Where a write was refused (a full disk) that nobody has written again since.
        self.broken_at: int | None = None
        # Raised by every change, so that whoever works on the file sees that it changed meanwhile.
        self.version = 0
        # At which version a document of storage-v2/ was committed last.
        self.saved = -1
        self.touched = time.monotonic()
        self.retry_at = 0.0
        self.io = trio.Lock()
        # How many programs wait for `io`: the intake lets them go first.
        self.wanted = 0

    @contextlib.asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Hold `io` for a program: a long digest is broken off for it."""
        self.wanted += 1
        try:
            await self.io.acquire()
        finally:
            self.wanted -= 1
        try:
            yield
        finally:
            self.io.release()

    def changed(self) -> None:
        self.version += 1
        self.touched = time.monotonic()

    def park(self) -> None:
        """Nobody has it open: its descriptor is given back, unless the intake is at work with it."""
        kept = self.linked or self.aside is not None
        if self.intake is not None and kept and self.digest is None and not self.io.locked():
            self.intake.park()

    def cut(self, size: int) -> None:
        """It was truncated: what could not be written may be of no matter any more."""
        if self.broken_at is not None and size <= self.broken_at:
            self.broken_at = None

    def set_times(self, atime_ns: int | None = None, mtime_ns: int | None = None) -> None:
        """Set what is given; its ctime becomes now in any case."""
        assert self.intake is not None
        status = self.intake.status()
        self.intake.set_times(
            status.st_atime_ns if atime_ns is None else atime_ns,
            status.st_mtime_ns if mtime_ns is None else mtime_ns,
        )

    def dentry(self) -> Dentry:
        """Its attributes as they are now."""
        assert self.intake is not None
        status = self.intake.status()
        return Dentry(
            self.name, self.key, ino_of(self.key), stat.S_IFREG | self.mode, status.st_size, status.st_mtime_ns,
            status.st_ctime_ns, extra=atime_extra(status.st_atime_ns) if self.key[:1] == b"R" else b"",
            links=int(self.linked),
        )  # fmt: skip

    def state(self, *, whole: bool = True) -> dict[str, Any]:
        """What the log keeps of it; its attributes only when it is `whole`."""
        return ({"xattrs": self.xattrs} if whole else {}) | {
            "id": self.id, "key": self.key, "directory": self.directory, "name": self.name, "mode": self.mode,
            "replaces": self.replaces, "moved": self.moved, "closed": self.closed,
        } | ({"aside": list(self.aside)} if self.aside is not None else {})  # fmt: skip


class Aside(NamedTuple):
    """Where a version belongs that was overwritten or removed before it was taken in, and why it is no longer there."""

    session_id: str | None
    session_title: str
    folder_id: str | None
    reason: str


class Budget:
    """How much of the versions of one name is kept: so many, and so many bytes, in a day."""

    __slots__ = ("bytes", "count", "since", "told")

    def __init__(self) -> None:
        self.count, self.bytes, self.since, self.told = 0, 0, time.monotonic(), False

    def allows(self, size: int) -> bool:
        return self.count < MAX_VERSIONS and self.bytes + size <= MAX_VERSION_BYTES

    def spend(self, size: int) -> None:
        self.count, self.bytes = self.count + 1, self.bytes + size


class KeptDocument(NamedTuple):
    """A document of a session that a program has written and closed, and that is not committed yet."""

    session: bytes
    name: str
    data: bytes

    @property
    def file_name(self) -> str:
        return f"{self.session.hex()}.{self.name}"


class Remains(Protocol):
    """What a library has that was not in staging: asked for by a recovery."""

    def exists(self, directory: bytes) -> bool:
        """Whether a directory is still there."""

    def place(self, key: bytes) -> tuple[bytes, bytes] | None:
        """(directory, name) of a node that is a receipt or placement already."""

    def nameless_directory(self) -> bytes:
        """The folder of import/ for files whose names are lost, made if need be. Raises OSError, MixfsError."""


class RecoveryProblem(NamedTuple):
    """What could not be recovered as it was, for problems.jsonl."""

    kind: str
    reason: str
    fields: dict[str, Any]


class Recovered(NamedTuple):
    """What came back from mounts that are gone."""

    files: list[Staged]
    documents: list[KeptDocument]
    problems: list[RecoveryProblem]


class Staging:
    """All files of this mount that are being written, by directory and name, and by node key."""

    def __init__(self, area: StagingArea, *, read_only: bool = False) -> None:
        """With `read_only` nothing is made on the disk: nothing is ever written."""
        self._area = area
        self.path = area.directory if read_only else area.open()
        if not read_only:
            area.mark_as_mount()
        log = Path(os.devnull) if read_only else self.path / LOG
        self._log = create_file(log, os.O_WRONLY | os.O_APPEND)
        # Sorted: a listing of a hundred thousand goes on from any name.
        self._names: dict[bytes, SortedDict] = {}
        self._keys: dict[bytes, Staged] = {}
        self._kept: dict[str, KeptDocument] = {}
        # What was closed and overwritten or removed before it was taken in, by id; and what is left for each name.
        self._versions: dict[str, Staged] = {}
        self._budgets: dict[tuple[bytes, bytes], Budget] = {}
        # How long the log was when it was written anew.
        self._compacted = 0
        # Files that are gone, of which the log could not be told yet.
        self._owed: list[str] = []
        # The times of folders of import/ that are not in their records yet.
        self.folder_times: dict[bytes, int] = {}
        # Receipts that programs removed and that no commit has taken away yet: node key -> (directory, name).
        self.removed: dict[bytes, tuple[bytes, bytes]] = {}
        self.removed_at = 0.0

    def __iter__(self) -> Iterator[Staged]:
        return iter(list(self._keys.values()))

    def __len__(self) -> int:
        return len(self._keys)

    # -- finding

    def at(self, directory: bytes, name: bytes) -> Staged | None:
        names = self._names.get(directory)
        found: Staged | None = None if names is None else names.get(name)
        return found

    def by_key(self, key: bytes) -> Staged | None:
        return self._keys.get(key)

    def has_names(self, directory: bytes) -> bool:
        return directory in self._names

    def names(self, directory: bytes, after: bytes = b"") -> Iterator[bytes]:
        """The names in a directory behind `after`, sorted. Used up before anything changes."""
        names = self._names.get(directory)
        return iter(()) if names is None else names.irange(after, inclusive=(False, True))

    # -- changing

    def copy_of(self, source: int) -> Intake:
        """A copy of an open file, for `create` to take. Blocks: any thread may call it."""
        copy = Intake(self.path / f"{new_id()}.copy")
        try:
            copy.take_copy(source)
        except BaseException:
            copy.discard()
            raise
        return copy

    def _placed(self, staged_id: str, copy: Intake | None) -> Intake:
        self._area.require_in_place()
        path = self.path / staged_id
        if copy is None:
            return Intake(path)
        os.rename(copy.path, path)
        copy.path = path
        return copy

    def create(
        self, directory: bytes, name: bytes, tag: bytes, mode: int, key: bytes | None = None,
        intake: Intake | None = None,
    ) -> Staged:  # fmt: skip
        """A new file, empty or with the bytes of `intake`; `key` is that of a file that was taken in already."""
        staged_id = new_id()
        staged = Staged(staged_id, key or tag + key16(staged_id), directory, name, mode)
        staged.intake = self._placed(staged_id, intake)
        self._enter(staged)
        self.note(staged)
        return staged

    def create_nameless(self, key: bytes, mode: int, intake: Intake | None = None) -> Staged:
        """As `create`, without a name: for one that was deleted and is written to by who has it open."""
        staged = Staged(new_id(), key, b"", b"", mode)
        staged.linked = False
        staged.intake = self._placed(staged.id, intake)
        self._keys[key] = staged
        # A recovery takes a file that the log doesn't mention for one whose record was damaged.
        self._append_gone(staged)
        return staged

    def _enter(self, staged: Staged) -> None:
        self._names.setdefault(staged.directory, SortedDict())[staged.name] = staged
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
        self._names.setdefault(directory, SortedDict())[name] = staged
        staged.set_times()
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

    def copy_back(self, staged: Staged) -> None:
        """Give a file that is a blob already bytes of its own. Blocks: call it in a thread."""
        _make_own(self.path / staged.id)

    def come_back(self, staged: Staged) -> None:
        """After `copy_back`: it is a file in staging like any other, and may be written to."""
        old = staged.intake
        staged.intake, staged.digest = self._reopen(staged.id), None
        if old is not None:
            old.close()

    # -- versions

    @property
    def versions(self) -> list[Staged]:
        return list(self._versions.values())

    def may_keep(self, staged: Staged, size: int) -> bool:
        """Whether one more version of its name may be kept; what was kept a day ago counts no more."""
        now = time.monotonic()
        while self._budgets:
            oldest = next(iter(self._budgets))
            if now - self._budgets[oldest].since < BUDGET_S:
                break
            del self._budgets[oldest]
        return self._budgets.setdefault((staged.directory, staged.name), Budget()).allows(size)

    def tell_once(self, staged: Staged) -> bool:
        """Whether nobody was told yet that no more of its versions are kept."""
        budget = self._budgets[staged.directory, staged.name]
        told, budget.told = budget.told, True
        return not told

    def second_name(self, staged: Staged, *, goes: bool) -> tuple[Path, bool]:
        """Give a file's bytes a second name; returns it, and whether both are one file still. Blocks: in a thread.

        `goes`: nobody uses the first name any more.
        """
        path = self.path / new_id()
        assert staged.intake is not None
        try:
            os.link(staged.intake.path, path)
            return path, True
        except OSError:
            # exFAT and its like have no second names for a file.
            if goes:
                os.rename(staged.intake.path, path)
                return path, False
        self._copy(staged, path).close()
        return path, False

    def _copy(self, staged: Staged, path: Path) -> Intake:
        self._area.require_in_place()
        path.unlink(missing_ok=True)
        source, copy = staged.intake, Intake(path)
        assert source is not None
        try:
            status = source.status()
            copy.take_copy(source.fd)
            os.utime(copy.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        except BaseException:
            copy.discard()
            raise
        return copy

    def set_aside(self, staged: Staged, path: Path, aside: Aside) -> Staged:
        """What `second_name` gave a name is a version from now on, and is taken in. Written down where that can be."""
        version = Staged(path.name, b"v" + key16(path.name), staged.directory, staged.name, staged.mode)
        version.xattrs, version.aside, version.linked, version.closed = dict(staged.xattrs), aside, False, True
        version.intake = self._reopen(version.id)
        version.park()
        self._versions[version.id] = version
        self._budgets[staged.directory, staged.name].spend(version.intake.size)
        with contextlib.suppress(OSError):
            self._append(version.state())
        return version

    def forget_version(self, version: Staged) -> None:
        """It is in the library, or is not worth keeping."""
        if self._versions.pop(version.id, None) is not None:
            self._owed.append(version.id)
            with contextlib.suppress(OSError):
                self._pay()
        if version.intake is not None:
            version.intake.discard()
            version.intake = None
        self.compact_if_possible()

    def unshare(self, staged: Staged, *, empty: bool) -> None:
        """Before a file is written to whose bytes are a version's too: it gets its own. Blocks: call it in a thread."""
        old, beside = staged.intake, self.path / f"{staged.id}.own"
        assert old is not None
        if empty:
            beside.unlink(missing_ok=True)
            fresh = Intake(beside)
        else:
            fresh = self._copy(staged, beside)
        os.rename(beside, old.path)
        fresh.path = old.path
        staged.intake, staged.shared = fresh, False
        old.close()

    # -- folders of import/

    def set_folder_time(self, directory: bytes, mtime_ns: int) -> None:
        """Note the time of a folder."""
        self.folder_times[directory] = mtime_ns
        self._append(_folder_item(directory, mtime_ns))

    def forget_folder_time(self, directory: bytes, mtime_ns: int | None = None) -> None:
        """Its record has the time now (`mtime_ns`, unless it has changed since), or the folder is gone."""
        held = self.folder_times.get(directory)
        if held is not None and mtime_ns in (None, held):
            del self.folder_times[directory]
            self._append({"id": directory.hex(), "gone": True})

    # -- receipts

    def remove(self, key: bytes, directory: bytes, name: bytes) -> None:
        """Note that a receipt was removed. Raises OSError when that can't be written down: nothing is removed then."""
        self._append(_removed_item(key, (directory, name)))
        self.removed[key] = directory, name
        self.removed_at = time.monotonic()

    def forget_removed(self, keys: Iterable[bytes]) -> None:
        """They are taken away. Where that can't be written down, a next mount finds nothing to take away."""
        gone = [key for key in keys if self.removed.pop(key, None) is not None]
        with contextlib.suppress(OSError):
            self._write(*({"id": key.hex(), "gone": True} for key in gone))
            self._compact()

    # -- documents

    def keep(self, kept: KeptDocument) -> None:
        """Keep a document until `forget_kept`; a newer one takes its place. Blocks: any thread may call it."""
        self._area.require_in_place()
        beside = self.path / f".{new_id()}"
        beside.write_bytes(kept.data)
        os.rename(beside, self.path / kept.file_name)
        self._kept[kept.file_name] = kept

    def forget_kept(self, kept: KeptDocument) -> None:
        """It is committed; a newer one stays. Any thread may call it."""
        if self._kept.get(kept.file_name) is kept:
            del self._kept[kept.file_name]
            (self.path / kept.file_name).unlink(missing_ok=True)

    # -- the log

    def note(self, staged: Staged) -> None:
        """Write down what it is now; attributes that were written down already are not written again."""
        if staged.linked:
            self._append(staged.state(whole=not staged.xattrs_noted))
            staged.xattrs_noted = True
            self.compact_if_possible()

    def set_xattr(self, staged: Staged, name: str, value: bytes | None) -> None:
        """Set or remove (None) one attribute, and write down just that."""
        if staged.xattrs.get(name) != value:
            if staged.linked and staged.xattrs_noted:
                self._append({"id": staged.id, "xattr": name, "value": value})
            staged.xattrs.pop(name, None)
            if value is not None:
                staged.xattrs[name] = value
            self.compact_if_possible()
        staged.set_times()
        staged.changed()

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

    def _write(self, *items: dict[str, Any]) -> None:
        data = memoryview(_framed(items, os.fstat(self._log).st_size))
        frame = data
        try:
            while frame:
                frame = frame[os.write(self._log, frame) :]
        except OSError:
            # Half an item would hide what is written behind it.
            os.ftruncate(self._log, os.fstat(self._log).st_size - (len(data) - len(frame)))
            raise

    def sync(self) -> None:
        """Make the log and the names in the directory durable. Blocks: call it in a thread."""
        os.fdatasync(self._log)
        fsync_directory(self.path)

    def compact_if_possible(self) -> None:
        """Once what is in memory is what the log says."""
        with contextlib.suppress(OSError):
            self._compact()

    def _compact(self) -> None:
        """Write the log anew once it mostly tells of files that are gone."""
        if os.fstat(self._log).st_size < _COMPACT_AT + 1024 * len(self._keys) + 2 * self._compacted:
            return
        fresh = self.path / f"{LOG}.new"
        items = [staged.state() for staged in self if staged.linked] + [each.state() for each in self.versions]
        items += [_folder_item(*item) for item in self.folder_times.items()]
        items += [_removed_item(*item) for item in self.removed.items()]
        # Files that are gone and still open. Without a word about them a recovery would bring them back.
        gone = [*self._owed, *(staged.id for staged in self if not staged.linked)]
        items += [{"id": staged_id, "gone": True} for staged_id in gone]
        data = _framed(items, 0)
        fd = create_file(fresh, os.O_RDWR | os.O_TRUNC | os.O_APPEND)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        # What an fsync made durable in the old log must be so in the new one before it takes its place.
        os.fdatasync(fd)
        os.rename(fresh, self.path / LOG)
        os.close(self._log)
        self._log, self._compacted = fd, len(data)
        for staged in self:
            staged.xattrs_noted |= staged.linked

    def close(self) -> None:
        """Close everything; what waits stays for the next mount."""
        kept = self.folder_times or self.removed or self._kept or self._versions
        waiting = kept or any(staged.linked for staged in self)
        for staged in (*self, *self.versions):
            if staged.intake is not None:
                staged.intake.close()
        os.close(self._log)
        self._area.close(keep=bool(waiting))

    # -- recovery

    def recover(self, root: Path, remains: Remains) -> Recovered:
        """Take over what mounts that are gone left behind; what lay in a directory that is gone comes to import/."""
        found = Recovered([], [], [])
        for path, lock_fd in abandoned(root):
            try:
                if path != self.path and is_of_mount(path) and self._take_over(path, remains, found):
                    # What an fsync made durable there must be so here before it goes.
                    self.sync()
                    shutil.rmtree(path, ignore_errors=True)
            except (OSError, MixfsError) as error:
                # A full disk, say: what was not taken over stays where it is for the next mount.
                found.problems.append(_not_recovered(path, error))
            finally:
                os.close(lock_fd)
        return found

    def _take_over(self, path: Path, remains: Remains, found: Recovered) -> bool:
        """Take over a directory; returns whether nothing that counts is left in it. Raises OSError, MixfsError."""
        old = _read_log(path)
        files = (state for state in old.states.values() if "key" in state)
        there = {state["key"]: state for state in files if (path / state["id"]).exists()}
        taken: list[Staged] = []
        names: set[tuple[bytes, bytes]] = set()
        for state in old.states.values():
            if "folder" in state:
                if remains.exists(state["folder"]):
                    self.set_folder_time(state["folder"], state["mtime_ns"])
                continue
            if "removed" in state:
                self.remove(state["removed"], state["directory"], state["name"])
                continue
            if state["key"] in self._keys or there.get(state["key"]) is not state:
                # Here already, under the same key: two mounts may have left different bytes. See `_unaccounted`.
                continue
            staged = Staged(state["id"], state["key"], state["directory"], state["name"], state["mode"])
            # The item that had the attributes may be damaged.
            staged.xattrs, staged.replaces = dict(state.get("xattrs", {})), state["replaces"]
            # A damaged item may have said that it was closed.
            staged.closed, staged.moved = state["closed"] or old.is_damaged, state.get("moved", False)
            if "aside" in state:
                staged.aside, staged.linked = Aside(*state["aside"]), False
            else:
                self._find_place(staged, remains, names)
            taken.append(staged)
        nameless = self._unaccounted(path, old, taken, remains)
        for staged in (*taken, *nameless):
            # It may have been fsynced: nobody can say any more.
            staged.synced = staged.xattrs_noted = True
            self._append(staged.state())
        # The log first: killed or without power in between, a file is found again in the old directory, or here.
        os.fdatasync(self._log)
        is_whole = True
        for staged in (*taken, *nameless):
            try:
                self._move_here(path, staged)
            except OSError as error:
                name = staged.name.decode("utf-8", "replace")
                found.problems.append(_not_recovered(path / staged.id, error, name=name))
                is_whole = False
                continue
            if staged.aside is not None:
                self._versions[staged.id] = staged
            else:
                self._enter(staged)
                found.files.append(staged)
        if old.is_damaged or nameless:
            found.problems.append(_nameless(path, old, nameless))
        for name in sorted(os.listdir(path)):
            session, dot, document = name.partition(".")
            if dot and session and document.endswith(".json"):
                kept = KeptDocument(bytes.fromhex(session), document, (path / name).read_bytes())
                self.keep(kept)
                found.documents.append(kept)
        return is_whole

    def _unaccounted(self, path: Path, old: _OldLog, taken: list[Staged], remains: Remains) -> list[Staged]:
        """Files that no readable item of the log tells of: they come into a folder of import/, named by their ids.

        In a sound log that is what a program was not told of yet, if anything, so empty ones are of no use.
        """
        accounted = {staged.id for staged in taken} | old.gone
        # Second names of files that come back anyway: the log tells of those a moment later.
        same = {(status.st_dev, status.st_ino) for status in (os.stat(path / staged.id) for staged in taken)}
        out: list[Staged] = []
        for name in sorted(os.listdir(path)):
            if "." in name or name in (LOG, LOCK) or name in accounted:
                continue
            status = os.lstat(path / name)
            one = status.st_dev, status.st_ino
            if not stat.S_ISREG(status.st_mode) or one in same or not (status.st_size or old.is_damaged or old.is_torn):
                continue
            same.add(one)
            with (path / name).open("rb") as file:
                shown = name + extension(sniff(file.read(HEAD_SIZE)))
            # A key of its own: the one that its id makes may be that of a version that comes back, or of a receipt.
            key = b"R" + key16(new_id())
            staged = Staged(name, key, remains.nameless_directory(), os.fsencode(shown), 0o600)
            staged.closed = True
            out.append(staged)
        return out

    def _move_here(self, path: Path, staged: Staged) -> None:
        """Move a file from an old directory here. When that fails, it is in the old one still."""
        old, here = path / staged.id, self.path / staged.id
        _make_own(old)
        os.rename(old, here)
        try:
            staged.intake = self._reopen(staged.id)
        except OSError:
            os.rename(here, old)
            raise
        staged.park()

    def _find_place(self, staged: Staged, remains: Remains, names: set[tuple[bytes, bytes]]) -> None:
        """Where a file that comes back is listed: its name may have gone, or be another's by now; added to `names`."""
        place = remains.place(staged.key)
        if place is not None:
            # A new version of a file that was taken in: a rename moves that one first.
            staged.directory, staged.name = place
        if not remains.exists(staged.directory):
            staged.directory = b"d" + bytes(16)
        while (staged.directory, staged.name) in names or self.at(staged.directory, staged.name) is not None:
            staged.name += b" (recovered)"
        names.add((staged.directory, staged.name))

    def _reopen(self, staged_id: str) -> Intake:
        path = self.path / staged_id
        # Whoever publishes it makes it read-only first.
        path.chmod(0o600)
        return Intake(path, exists=True)


def _make_own(path: Path) -> None:
    """Where a file is a blob too (killed, or failed, between the two), make it another file of the same bytes."""
    beside = path.with_name(f"{path.name}.copy")
    with path.open("rb") as source:
        status = os.fstat(source.fileno())
        if status.st_nlink == 1:
            return
        beside.unlink(missing_ok=True)
        copy = Intake(beside)
        try:
            copy.take_copy(source.fileno())
            os.utime(copy.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            # At once whole: what lies there under its id is believed after a kill.
            os.rename(beside, path)
        except BaseException:
            copy.discard()
            raise
        copy.close()


class _OldLog(NamedTuple):
    """What the log of a mount that is gone says, by id, and of which ids it says that they are gone."""

    states: dict[str, dict[str, Any]]
    gone: set[str]
    # Items are missing in the middle, or all of them; a torn end is what a loss of power leaves.
    is_damaged: bool
    is_torn: bool


def _read_log(path: Path) -> _OldLog:
    try:
        data = (path / LOG).read_bytes()
    except FileNotFoundError:
        data = b""
    found = list(frames.scan(memoryview(data)))
    if not any(item.payload is not None for item in found):
        # A mount of an older release wrote plain frames.
        found = list(frames.scan(memoryview(data), 0, None))
    states: dict[str, dict[str, Any]] = {}
    gone: set[str] = set()
    for item in found:
        if item.payload is not None:
            _apply(states, gone, cbor2.loads(item.payload))
    bad = [item for item in found if item.payload is None]
    return _OldLog(states, gone, any(not item.torn for item in bad), any(item.torn for item in bad) or not data)


def _not_recovered(path: Path, error: BaseException, **fields: Any) -> RecoveryProblem:
    reason = f"An ended mount left {path}, which was not recovered: {error}. It stays there for the next mount."
    return RecoveryProblem("not-recovered", reason, {"path": str(path)} | fields)


def _nameless(path: Path, old: _OldLog, nameless: list[Staged]) -> RecoveryProblem:
    cause = "is damaged" if old.is_damaged or old.is_torn else "does not mention all files"
    names = [staged.name.decode("utf-8", "replace") for staged in nameless]
    outcome = (
        f"{len(names)} files without a readable entry are in import/Recovered, named by their ids."
        if names else "Every file was recovered; some may have an earlier name, mode or attributes."
    )  # fmt: skip
    reason = f"The log {path / LOG} of an ended mount {cause}. {outcome}"
    return RecoveryProblem("staging-log-damaged", reason, {"path": str(path / LOG), "names": names[:100]})


def _framed(items: Iterable[dict[str, Any]], offset: int) -> bytes:
    """Items of the log as frames that begin at `offset` of it."""
    data = bytearray()
    for item in items:
        data += frames.encode_at(cbor2.dumps(item), offset + len(data))
    return bytes(data)


def _apply(states: dict[str, dict[str, Any]], gone: set[str], item: dict[str, Any]) -> None:
    """What an item of the log changes in what is known of all files."""
    known = states.get(item["id"])
    if item.get("gone"):
        states.pop(item["id"], None)
        gone.add(item["id"])
    elif "xattr" not in item:
        # The newest last, as they were written.
        states.pop(item["id"], None)
        states[item["id"]] = (known or {}) | item
        gone.discard(item["id"])
    elif known is not None:
        others = {name: value for name, value in known.get("xattrs", {}).items() if name != item["xattr"]}
        known["xattrs"] = others if item["value"] is None else others | {item["xattr"]: item["value"]}


def _folder_item(directory: bytes, mtime_ns: int) -> dict[str, Any]:
    """What the log keeps of a folder."""
    return {"id": directory.hex(), "folder": directory, "mtime_ns": mtime_ns}


def _removed_item(key: bytes, place: tuple[bytes, bytes]) -> dict[str, Any]:
    """What the log keeps of a receipt that was removed."""
    return {"id": key.hex(), "removed": key, "directory": place[0], "name": place[1]}
