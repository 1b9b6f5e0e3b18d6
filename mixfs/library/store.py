"""The store: journal and index under one lock, and the commit that keeps them in step.

Concurrency contract
--------------------
* Writers of every process are serialised by `flock` on LIBRARY/lock, those of one process by a thread lock before it.
* In every write transaction the journal's end is compared with the position noted in the index; what is beyond is
  replayed, and a torn tail cut, first. So whoever writes next repairs what a killed writer left.
* The order of a commit: apply to the index's open write transaction, append to the journal, fdatasync, commit the
  index. An error before the append undoes everything; after the append the commit stands whatever happens to the
  index, which is then reopened and catches up from the journal.
* Before anything is written under the lock, the directories that paths lead to are compared with those that were
  opened, and the journal's segment likewise: a library that was replaced under our feet is refused.
* Readers never lock. A reader that finds the index replaced (rebuild-index, or somebody deleted index/) goes on with
  the state it has until `refresh` reopens it; writers check at every commit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import cbor2

from mixfs import clock
from mixfs.errors import (
    IndexDamaged,
    IndexFailed,
    IndexFull,
    InvalidValue,
    JournalDamaged,
    JournalReplaced,
    LibraryBusy,
    LibraryError,
    LibraryIncomplete,
    LibraryReplaced,
    os_words,
)
from mixfs.ids import ReplicaId, Stamp
from mixfs.index import keys
from mixfs.index.engine import Engine, ReadTxn, prefix_end
from mixfs.index.lmdb_engine import INITIAL_MAP, LmdbEngine
from mixfs.index.memory import MemoryEngine
from mixfs.index.reading import open_for_reading
from mixfs.journal import START, HighWater, Item, Journal, Position, replicas_in
from mixfs.journal.compaction import Compacted
from mixfs.journal.files import fsync_directory
from mixfs.journal.frames import HEAD_SIZE, MAX_PAYLOAD
from mixfs.library import place
from mixfs.library.gaps import Gap, Gaps, bad_items, gap_of, missing_end
from mixfs.library.problems import Problems
from mixfs.library.projections import DERIVATION, Projector
from mixfs.library.replay import (
    Bad,
    note_commit,
    note_position,
    noted_position,
    pack_changes,
    read_changes,
    read_time,
    replay,
)
from mixfs.library.steadiness import Steadiness
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.modes import create_file
from mixfs.records import SENSELESS

T = TypeVar("T")

# Bytes that must be free on the disk for a commit: what a commit of few records makes the index grow by, and more.
ROOM = 1 << 20
# In index/: the start of the machine in which it was last looked through.
_BOOT = "boot"


def _require_readable(payload: bytes, changes: int) -> None:
    """Raise InvalidValue for an item that a replay would not apply whole: what is acknowledged can be read again."""
    if len(payload) > MAX_PAYLOAD:
        raise InvalidValue(
            f"This change takes {len(payload)} bytes in the journal; {MAX_PAYLOAD} are allowed. Nothing was changed: "
            "make it in smaller parts."
        )
    found, problem = read_changes(payload)
    if problem or len(found) != changes:
        reason = problem or "a part of it is missing"
        raise InvalidValue(f"This change could not be read again, and nothing was changed: {reason}.")


class _Read:
    """`Store.read`. No generator, as contextlib would have it: every request of a mount begins with one."""

    __slots__ = ("_read", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> View:
        self._read, txn = self._store.begin_read()
        return View(txn)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            answer = self._read.__exit__(kind, error, trace)
        except IndexFailed:
            self._store.fell_behind()
            raise
        if isinstance(error, IndexFailed):
            self._store.fell_behind()
        return answer


class Store:
    """An open library directory. `commit` changes it, `read` reads it."""

    def __init__(self, root: Path, *, read_only: bool = False, map_size: int = INITIAL_MAP) -> None:
        self.root = root
        self.read_only = read_only
        self.problems = Problems(root, read_only=read_only)
        self._mark_failed = False
        self._displaced = ""  # why the journal's files are not those that were opened
        self._gaps = Gaps(root)
        self._map_size = map_size
        self._lock = place.FileLock(root / "lock")
        self._closed = False
        self._pid = os.getpid()
        self._swap = threading.Lock()  # held while there is no engine
        self._replayed_to: Position | None = None  # the journal's end when it was replayed into memory, to read only
        self._behind = False  # the index failed: it lacks what the journal has, or can't be read
        self._listeners: list[Callable[[], None]] = []
        self._engine: Engine
        self.steadiness = Steadiness(root, self.problems, self._last_commit_ns, read_only=read_only)
        if read_only:
            self.format = place.read_format(root)
            self.journal = Journal(root / "journal", self.format.replica)
            self._engine = self._open_read_only()
            return
        place.check_suitable(root)
        with self._lock:
            self.format = place.bind(root)
            self.journal = Journal(root / "journal", self.format.replica)
            self._identity = place.Identity(root, self.format)
            self._high_water = HighWater(root, self.journal.replica)
            self._sweep()
            for journal in self._journals():
                self._report_damage(journal, [Bad(item) for item in journal.broken_links()])
            self._engine = self._open_engine()
            try:
                try:
                    self._catch_up_with_others()
                    self._catch_up()
                except IndexDamaged as error:
                    self._make_anew(error)
            except BaseException:
                # LMDB opens an index once in a process, and whoever repairs this one opens it again.
                self._engine.close()
                raise
        self.steadiness.wait_s()

    def _last_commit_ns(self) -> int:
        """When this replica committed last, by its clock; 0 where that is not known. Reads a segment of the journal."""
        for number in reversed(self.journal.segments()):
            items = (item.payload for item in self.journal.read(Position(number, 0)) if item.payload is not None)
            times = [time_ns for payload in items if (time_ns := read_time(payload))]
            if times:
                return times[-1]
        return 0

    def _sweep(self) -> None:
        """Remove what killed writers left: such files are only made under the lock, which we hold."""
        self.journal.sweep()
        for pattern in (".format.*.new", "quarantine/.*.new"):
            for leftover in self.root.glob(pattern):
                leftover.unlink(missing_ok=True)
        for leftover in (*self.root.glob("index.new-*"), *self.root.glob("index.old-*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        self._closed = True
        if self.is_inherited():
            # LMDB, the journal and the lock are the parent's.
            return
        self._engine.close()
        self.journal.close()
        self._lock.close()

    # -- reading

    def read(self) -> AbstractContextManager[View]:
        """The library at one state. Keep it for one bounded page of work.

        Raises IndexFailed when the index can't be read; `refresh`, and the next commit that meets the damage, make it
        anew.
        """
        return _Read(self)

    def fell_behind(self) -> None:
        """The index can't be read: `refresh` is to reopen it. For `read`."""
        self._behind = True

    def begin_read(self) -> tuple[AbstractContextManager[ReadTxn], ReadTxn]:
        """A read transaction that has begun, and what ends it. For `read`."""
        if os.getpid() != self._pid:
            self.check_open()
        while True:
            engine = self._engine
            try:
                read = engine.read()
                return read, read.__enter__()
            except IndexFailed:
                # Perhaps a writer closed it a moment ago, to reopen it.
                self.check_open()
                with self._swap:
                    if self._engine is engine:
                        self.fell_behind()
                        raise

    def is_inherited(self) -> bool:
        """Whether this process is a forked child of the one that opened the library."""
        return os.getpid() != self._pid

    def check_open(self) -> None:
        """Raise LibraryError in a forked child, and after `close`."""
        if self.is_inherited():
            raise LibraryError(
                f"{self.root} was opened by process {self._pid}, of which this is a forked child: what is open there "
                "can't be used here. Open the library in the child."
            )
        if self._closed:
            raise LibraryError(f"{self.root} was closed here: open it again.")

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every commit of this process, from the thread that committed."""
        self._listeners.append(listener)

    def readers(self) -> int:
        """How many places for readers of the index are taken, by all processes."""
        return self._engine.readers()

    def release_pages(self) -> None:
        """Give back memory that the index's map takes up. For a process that lives long, when it has nothing to do."""
        self._engine.release_pages()

    def is_current(self) -> bool:
        """False when the index was replaced or deleted under our feet, or failed: `refresh` then reopens it.

        In memory, when the journal has gone on.
        """
        if self._replayed_to is not None and self._replayed_to != self.written_end():
            return False
        return self._engine.is_current() and not self._behind

    def refresh(self) -> bool:
        """Reopen an index that was replaced or deleted under our feet, or failed; True when it was."""
        self.check_open()
        if self.is_current():
            return False
        if self.read_only:
            self._reopen()
            self._behind = False
            return True
        with self._lock:
            self._verify_place()
            try:
                self._reopen()
                try:
                    self._catch_up()
                    if self._behind:
                        # LMDB sees damage only where it comes by.
                        self._engine.check()
                except IndexDamaged as error:
                    self._make_anew(error)
            except (IndexFailed, OSError):
                # As on a full disk: it was reported, and is tried again by the next commit and the next `refresh`.
                if not self._behind:
                    raise
                return False
            self._behind = False
        return True

    # -- writing

    def commit(self, function: Callable[[Txn], T], *, then: Callable[[T], None] = lambda result: None) -> T:
        """Run `function` in a write transaction and make what it put durable; returns what it returned.

        Blocks on the lock and on the disk. `function` may run more than once and must only use its `Txn`; `then` runs
        once, with what it returned, when the commit stands and before anybody else may write.
        Raises whatever `function` raises (nothing is changed then), OSError when the journal can't be written (as
        well), LibraryError when the library was opened read-only.
        """
        self.check_open()
        if self.read_only:
            raise LibraryError(f"{self.root} was opened read-only: nothing can be changed.")
        with self._lock:
            result = self._commit_locked(function)
            then(result)
        for listener in self._listeners:
            listener()
        return result

    def _verify_place(self) -> None:
        """Raise LibraryReplaced when the library's directories are not those that were opened."""
        self._identity.check()

    def displacement(self) -> str:
        """Why nothing is written any more: the library's files are not those that were opened. Else empty."""
        try:
            if not self.read_only:
                self._verify_place()
        except LibraryReplaced as error:
            return str(error)
        return self._displaced

    def _commit_locked(self, function: Callable[[Txn], T]) -> T:
        self._verify_place()
        if not self._engine.is_current():
            self._reopen()
        damages = 0
        for _ in range(64):
            durable = False
            try:
                self._catch_up()
                with self._engine.write() as raw:
                    now_ns = clock.now_ns()
                    txn = Txn(raw, self.journal.replica, self._stamp(raw, now_ns), now_ns)
                    result = function(txn)
                    if txn.changes:
                        txn.settle()
                        payload = pack_changes(txn.changes, now_ns)
                        _require_readable(payload, len(txn.changes))
                        self._check_room(len(payload))
                        end = self.journal.end()
                        note_commit(raw, txn.finish(), txn.last_stamp)
                        after = Position(end.segment, end.offset + HEAD_SIZE + len(payload))
                        note_position(raw, self.journal.replica, after)
                        self.journal.append(payload)
                        durable = True
                        self._raise_mark(after)
                return result
            except IndexFull:
                try:
                    self._engine.grow()
                except LibraryError:
                    if not durable:
                        raise
                    self._behind = True
                    return result
                if durable:
                    self._catch_up_later()
                    return result
            except IndexFailed as error:
                if durable:
                    self._catch_up_later(reopen=True)
                    return result
                damages += 1
                if damages == 1:
                    # What LMDB has of it in memory may be at fault.
                    self._reopen()
                elif damages == 2:
                    self._make_anew(error)
                else:
                    raise
        raise IndexFull(f"{self.root / 'index'}: the map still was full after growing it 64 times.")

    def _raise_mark(self, position: Position) -> None:
        failure = self._high_water.note(position)
        if failure is not None and not self._mark_failed:
            self.problems.report(
                "high-water", f"How far commits were acknowledged can't be noted: {os_words(failure)}",
                path=str(self.root / "high-water"),
            )  # fmt: skip
        self._mark_failed = failure is not None

    def _check_room(self, size: int) -> None:
        """Raise ENOSPC before anything is written where the index could not follow the journal."""
        found = os.statvfs(self.root)
        if found.f_bavail * found.f_frsize < ROOM + 4 * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root))

    def annotate_index(self, derive: Callable[[View], tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]]) -> None:
        """Put derived rows that the journal doesn't hold (thumbnails), and note which dentries they change.

        `derive` gives both, of the state under the lock.
        """
        if self.read_only:
            return
        self.check_open()
        with self._lock:
            self._verify_place()
            if not self._engine.is_current():
                self._reopen()
            self._catch_up()
            while True:
                try:
                    with self._engine.write() as txn:
                        projector = Projector(txn)
                        rows, changed = derive(projector.view)
                        for key, value in rows.items():
                            txn.put(key, value)
                        projector.changes.entries.update(dict.fromkeys(changed))
                        note_commit(txn, projector, 0)
                    break
                except IndexFull:
                    self._engine.grow()
                except IndexFailed:
                    self._behind = True
                    raise
        for listener in self._listeners:
            listener()

    @contextmanager
    def locked(self) -> Iterator[Position]:
        """Hold every writer off; gives the journal's end, up to which the index has seen it."""
        self.check_open()
        with self._lock:
            self._verify_place()
            if not self._engine.is_current():
                self._reopen()
            self._catch_up()
            yield self.journal.end()

    def alone(self) -> bool:
        """Whether this library's journal is all there is, and no other replica's lies beside it."""
        return sum(1 for _ in self._journals()) == 1

    def replace_journal(self, compacted: Compacted) -> None:
        """Put compacted segments in the place of this replica's journal, which they tell the same as. Within `locked`.

        Killed at any instant, the index catches up with the new segments, and nothing comes of it.
        """
        last = self.journal.end()
        with self._engine.write() as txn:
            # Where the last segment is full, a new one was begun just now.
            note_position(txn, self.journal.replica, last)
        end = compacted.publish(last)
        try:
            with self._engine.write() as txn:
                note_position(txn, self.journal.replica, end)
        except IndexDamaged:
            # The journal is compacted, whatever becomes of the index.
            self._catch_up_later(reopen=True)
        self._high_water.note(end)
        # It was read from its beginning, and what is in it now was just written.
        self._gaps.review([], [self.journal.replica.hex()])

    @staticmethod
    def _stamp(txn: ReadTxn, now_ns: int) -> Stamp:
        value = txn.get(keys.META_STAMP)
        last = 0 if value is None else cbor2.loads(value)
        return Stamp(max(now_ns, last + 1))

    # -- recovery (all under the lock)

    def _journals(self) -> Iterator[Journal]:
        """Our own journal and those of other replicas, which nobody appends to here."""
        yield self.journal
        for replica in sorted(replicas_in(self.root) - {self.journal.replica}):
            yield Journal(self.root / "journal", replica)

    def journals_by_age(self) -> list[Journal]:
        """Every journal that lies here, the one that was begun first before the others."""
        return by_age(self._journals())

    def _catch_up_later(self, reopen: bool = False) -> None:
        """As `_catch_up`, when the index failed though the journal has the commit: that is no failure any more.

        Where the index can't be written now (a full disk), the next commit or `refresh` tries again.
        """
        failure: Exception | None = None
        for attempt in range(3):
            try:
                if reopen:
                    self._reopen()
                try:
                    self._catch_up()
                except IndexFailed as error:
                    if not attempt:
                        raise
                    self._make_anew(error)
                return
            except (IndexFailed, OSError) as error:
                failure, reopen = error, True
        self._behind = True
        if failure is not None:
            self.problems.report(
                "index-behind", f"A commit is in the journal, but not yet in the index: {failure}",
                path=str(self._index_path),
            )  # fmt: skip

    def _catch_up_with_others(self) -> None:
        """Replay what the index has not seen of other replicas: a copied index may be older than the copied journal."""
        for journal in self._journals():
            if journal is self.journal:
                continue
            noted = self._seen(journal)
            high_water = HighWater(self.root, journal.replica)
            known, written = high_water.read(), journal.written_end()
            if noted < written:
                self._report_damage(journal, self._replay_into(self._engine, journal, noted), known)
            if known > written:
                self._report_damage(journal, [Bad(missing_end(known, written))])
            else:
                with self._engine.read() as txn:
                    high_water.note(noted_position(txn, journal.replica))

    def _seen(self, journal: Journal) -> Position:
        """Up to where the index has seen a journal; raises IndexDamaged when a compaction replaced what it has not."""
        with self._engine.read() as txn:
            noted = noted_position(txn, journal.replica)
        seen = journal.resume(noted)
        if seen is None:
            raise IndexDamaged(f"{self._index_path} is older than the last compaction of the journal.")
        if seen != noted:
            with self._engine.write() as txn:
                note_position(txn, journal.replica, seen)
        return seen

    def _catch_up(self) -> None:
        """Replay what the index has not seen, and cut a torn tail."""
        written = self._written()
        with self._engine.read() as txn:
            noted = noted_position(txn, self.journal.replica)
        if noted == written and self._high_water.known <= written:
            return
        noted = self._seen(self.journal)
        known = max(noted, self._high_water.read())
        if known > written:
            raise JournalDamaged(
                f"{self.journal.directory} ends at segment {written.segment}, byte {written.offset}, but commits were "
                f"acknowledged up to segment {known.segment}, byte {known.offset}: they are missing. Restore the "
                "journal from a backup, or run `mixfs rebuild-index` to continue with what is there; then nothing is "
                "deleted until the loss is accepted (`mixfs fsck --accept-loss`)."
            )
        # Its writer may have been killed before the fdatasync: the index must not know of what a power cut takes back.
        self.journal.sync()
        bad = self._replay_into(self._engine, self.journal, noted)
        self._report_damage(self.journal, bad, known)
        for item, _ in bad:
            if item.torn:
                self._end_tail(item, known)
        with self._engine.read() as txn:
            self._high_water.note(noted_position(txn, self.journal.replica))

    def _written(self) -> Position:
        """Where the journal ends. Raises JournalReplaced."""
        try:
            written = self.journal.written()
        except JournalReplaced as error:
            self._displaced = str(error)
            raise
        self._displaced = ""
        return written

    def _end_tail(self, item: Item, known: Position) -> None:
        """Cut a torn tail; one that had been acknowledged is damage: it stays, and a new segment begins behind it."""
        if item.start < known:
            self.journal.begin_after(known)
            with self._engine.write() as txn:
                note_position(txn, self.journal.replica, self.journal.written())
            return
        kept = self.journal.cut_tail(item, self.root / "quarantine")
        self.problems.report(
            "journal-tail-cut",
            "A write to the journal was cut short and never acknowledged; its bytes are kept.",
            kept=str(kept), segment=item.start.segment, offset=item.start.offset,
        )  # fmt: skip

    def _report_damage(self, journal: Journal, bad: list[Bad], known: Position = START) -> list[Gap]:
        """Report what is bad in a journal, and remember it as gaps; returns them. `known`: see `Item.is_damage`."""
        # A torn tail of ours is cut by the catch-up; another replica's may still be under way to us.
        gaps = [gap_of(journal, item, clock.now_ns(), reason) for item, reason in bad if item.is_damage(known)]
        if self.read_only or not gaps:
            return gaps
        for gap in self._gaps.add(gaps):
            self.problems.report(
                "journal-damaged",
                f"{gap}. What stands there is left as it is, and nothing is deleted from the library; restore the "
                "segment from a backup and run `mixfs rebuild-index`, or accept the loss with `mixfs fsck "
                "--accept-loss`.",
                segment=gap.segment, offset=gap.offset, end=gap.end_offset,
            )  # fmt: skip
        return gaps

    # -- gaps

    def gaps(self) -> list[Gap]:
        """What is missing from the journals, or can't be read in them, and no person has accepted as lost."""
        return self._gaps.open()

    def accepted_gaps(self) -> list[Gap]:
        """What is missing from the journals, and a person has accepted as lost."""
        return [gap for gap in self._gaps.all() if gap.accepted]

    def require_whole(self, *, thorough: bool = True) -> None:
        """Raise LibraryIncomplete while a journal has gaps: what they said may name any original.

        `thorough` reads all journals first and compares checksums and links. Takes seconds for gigabytes, no lock.
        """
        if thorough:
            with self._lock:
                # Everything that lies in the journals must be in the index, by which references are judged.
                self._commit_locked(lambda txn: None)
                self._catch_up_with_others()
            for journal in self._journals():
                # Looked up first: what is appended meanwhile is no damage.
                known = HighWater(self.root, journal.replica).read()
                bad = [Bad(item) for item in bad_items(journal, known)]
                if bad:
                    with self._lock:
                        self._verify_place()
                        self._report_damage(journal, bad, known)
        gaps = self.gaps()
        if gaps:
            more = f", and {len(gaps) - 1} more" if len(gaps) > 1 else ""
            raise LibraryIncomplete(
                f"{self.root} is incomplete, so nothing is deleted: {gaps[0]}{more}. What stood there may name any "
                "original. Put a backup of the segment back and run `mixfs rebuild-index`, or accept the loss with "
                "`mixfs fsck --accept-loss`."
            )

    def accept_gaps(self, gaps: Iterable[Gap]) -> list[Gap]:
        """Accept the loss of these gaps, and of none that was met since; returns those that were still open."""
        with self._lock:
            self._verify_place()
            return self._gaps.accept(gaps, clock.now_ns())

    def _replay_into(self, engine: Engine, journal: Journal, start: Position) -> list[Bad]:
        """Apply a journal from `start` on, and note how far; returns what was bad."""
        position, bad = replay(engine, journal, start)
        if position == start and not bad and journal is self.journal:
            # Nothing but a segment's header was beyond.
            with engine.write() as txn:
                note_position(txn, journal.replica, journal.written())
        return bad

    # -- the index

    @property
    def _index_path(self) -> Path:
        return self.root / "index"

    def _open_engine(self) -> Engine:
        """Open the index, or make it from the journal when it is missing, damaged or of another derivation."""
        try:
            if (self._index_path / "data.mdb").exists():
                engine = LmdbEngine(self._index_path, map_size=self._map_size)
                if self._is_of_use(engine):
                    if not self._is_of_this_boot():
                        self._note_boot(self._index_path)
                    return engine
                engine.close()
        except IndexDamaged as error:
            self.problems.report("index-damaged", str(error), path=str(self._index_path))
        self._build_index()
        return LmdbEngine(self._index_path, map_size=self._map_size)

    @staticmethod
    def _boot() -> bytes:
        """Which start of the machine this is; empty where the kernel doesn't tell."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_bytes()
        except OSError:
            return b""

    def _note_boot(self, index: Path) -> None:
        with contextlib.suppress(OSError), open(create_file(index / _BOOT, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(self._boot())

    def _is_of_this_boot(self) -> bool:
        try:
            return (self._index_path / _BOOT).read_bytes() == self._boot()
        except OSError:
            return False

    def _is_of_use(self, engine: Engine) -> bool:
        """Whether the index is of this derivation; closes it and raises IndexDamaged when it can't be read.

        Once after each start of the machine all of it is looked through: where a file system did not keep its word
        when the power went, LMDB may end the process that comes by.
        """
        try:
            if not self._is_of_this_boot():
                engine.check()
            with engine.read() as txn:
                if txn.get(keys.META_LIBRARY) not in (None, self.format.library_id.encode()):
                    raise IndexDamaged(f"{self._index_path} is the index of another library.")
                for key, _ in txn.scan(keys.META_POSITION, prefix_end(keys.META_POSITION)):
                    replica = ReplicaId(bytes.fromhex(key[len(keys.META_POSITION) :].decode()))
                    noted = noted_position(txn, replica)
                    if not self.read_only:
                        # What this index has seen is still known when another one has taken its place.
                        HighWater(self.root, replica).note(noted)
                self._stamp(txn, 0)
                return txn.get(keys.META_DERIVATION) == cbor2.dumps(DERIVATION)
        except SENSELESS as error:
            engine.close()
            raise IndexDamaged(f"{self._index_path}: its notes can't be read ({error}).") from error
        except BaseException:
            engine.close()
            raise

    def _reopen(self) -> None:
        if self._engine.is_replaced():
            # Those who read keep the old one until the new one stands.
            old, self._engine = self._engine, self._open()
            old.retire()
            return
        with self._swap:
            self._engine.close()
            self._engine = self._open()

    def _open(self) -> Engine:
        return self._open_read_only() if self.read_only else self._open_engine()

    def _make_anew(self, damage: IndexFailed) -> None:
        """Make an index that can't be read anew from the journal, which has all of it. Raises what is no damage."""
        if not isinstance(damage, IndexDamaged):
            raise damage
        self.problems.report("index-damaged", str(damage), path=str(self._index_path))
        self._build_index()
        self._reopen()
        self._catch_up()

    def rebuild_index(self) -> None:
        """Make the index again from journal and blobs, beside whoever reads the old one, and put it in place."""
        self.check_open()
        with self._lock:
            self._verify_place()
            self._build_index()
            self._reopen()
            self._catch_up()
        for listener in self._listeners:
            listener()

    def _build_index(self) -> None:
        # A killed rebuild's: a process with our number may have been it.
        self._sweep()
        self.journal.sync()
        fresh = self.root / f"index.new-{os.getpid()}"
        engine = LmdbEngine(fresh, map_size=self._map_size)
        try:
            self._fill(engine)
        finally:
            engine.close()
        self._note_boot(fresh)
        fsync_directory(fresh)
        old = self.root / f"index.old-{os.getpid()}"
        kept = self.root / "quarantine" / "index"
        if self._gaps.open() and not kept.exists():
            # It may be all that still knows what the journal has lost.
            old = kept
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._index_path, old)
        # Between the two renames there is no index/: whoever opens the library then waits for our lock first.
        os.rename(fresh, self._index_path)
        fsync_directory(self.root)
        self._sweep()

    def fill_from_others(self, engine: Engine) -> None:
        """Put what other replicas' journals say into an index in the making."""
        for journal in self._journals():
            if journal is not self.journal:
                self._replay_into(engine, journal, START)

    def _fill(self, engine: Engine) -> None:
        with engine.write() as txn:
            txn.put(keys.META_DERIVATION, cbor2.dumps(DERIVATION))
            txn.put(keys.META_LIBRARY, self.format.library_id.encode())
        gaps: list[Gap] = []
        for journal in self.journals_by_age():
            known, written = HighWater(self.root, journal.replica).read(), journal.written_end()
            bad = self._replay_into(engine, journal, START)
            torn = bad[-1].item if bad and bad[-1].item.torn else None
            if known == START and torn and not self.read_only and next(journal.read()).start < torn.start:
                # Index and high-water mark are gone, so nothing tells whether the last item had been acknowledged. Had
                # it been the first one, it would not: the mark is written with that.
                known = written
                HighWater(self.root, journal.replica).note(known)
            if known > written:
                bad.append(Bad(missing_end(known, written)))
            gaps += self._report_damage(journal, bad, known)
        if not self.read_only:
            # All journals were read: what was wrong once and is whole now is no gap any more.
            self._gaps.review(gaps, [journal.replica.hex() for journal in self._journals()])
        self._index_thumbnails(engine)

    def _index_thumbnails(self, engine: Engine) -> None:
        """Thumbnails are derived data outside the journal: take over those that lie there."""
        with engine.write() as txn:
            for bucket in sorted((self.root / "thumbnails").glob("??")):
                for path in sorted(bucket.glob("*.png")):
                    with contextlib.suppress(ValueError, OSError):
                        digest = bytes.fromhex(bucket.name + path.stem)
                        status = path.stat()
                        txn.put(b"h" + digest, cbor2.dumps([status.st_size, status.st_mtime_ns]))

    def _open_read_only(self) -> Engine:
        """The index as it lies there when it is in step with the journal, else one in memory.

        While somebody writes it may be behind by the commit that is under way: its last state is the last commit.
        """
        self._replayed_to = None
        if (self._index_path / "data.mdb").exists():
            with contextlib.suppress(IndexFailed, LibraryBusy, OSError):
                engine = open_for_reading(self._index_path)
                if self._is_of_use(engine) and (self._is_in_step(engine) or self._lock.is_held()):
                    return engine
                engine.close()
        memory = MemoryEngine()
        self._replayed_to = self.written_end()
        self._fill(memory)
        return memory

    def _is_in_step(self, engine: Engine) -> bool:
        for _ in range(3):
            end = self.written_end()
            with engine.read() as txn:
                noted = noted_position(txn, self.journal.replica)
            # Beyond it: a commit came between the two looks.
            if noted >= end:
                return True
        return False

    def written_end(self) -> Position:
        """Where the journal ends now, without the lock: for those who only read."""
        return self.journal.written_end()


def by_age(journals: Iterable[Journal]) -> list[Journal]:
    """In the order in which they were begun: so a copied library's new journal follows the one it was copied with."""
    return sorted(journals, key=_first_stamp)


def _first_stamp(journal: Journal) -> float:
    for item in journal.read():
        changes = read_changes(item.payload)[0] if item.payload is not None else []
        if changes:
            return changes[0].stamp
    return float("inf")
