"""The background intake: takes files in after their last release and one quiet second.

For each batch: look (digest and inspection, while programs may still change the file), then, under the tree's lock and
only for what did not change meanwhile, publish (note the digest, move the bytes into the blob store) and commit once.
A kill at any instant leaves each file in staging, or as a blob whose digest the staging log names, or committed.

Concurrency: one task runs `run`; `take_all` may be called by any other and waits for its own round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from mixfs.blobs.intake import MAX_SIZE
from mixfs.errors import BlobMissing, MixfsError, NotFoundError, StillWaiting, TooLong, os_words
from mixfs.formats.quick import may_be_layout, may_be_part
from mixfs.formats.storage_v2_saving import file_came
from mixfs.ids import Digest, id_of_key
from mixfs.library import editing, xattrs
from mixfs.library.ingest import Incoming, admit
from mixfs.library.storage_v2 import IMAGES
from mixfs.library.transaction import Txn
from mixfs.media.pool import WorkerStartError
from mixfs.media.sniff import HEAD_SIZE, IMAGE_TYPES, sniff
from mixfs.media.types import Inspection
from mixfs.records import Placement, Receipt
from mixfs.vfs import versions
from mixfs.vfs.content import BlobContent
from mixfs.vfs.handles import Asked, Handle
from mixfs.vfs.recognising import Job, Recognising
from mixfs.vfs.records_of import bind, folder_record, image_folder, import_folder, taken_in_from, waits
from mixfs.vfs.staging import Staged, Staging
from mixfs.vfs.tree import Tree

T = TypeVar("T")

QUIET_S = 1.0
LONGEST_QUIET_S = 300.0
LONGEST_QUIET_OF_SHORT_S = 15.0
LONG_FILE = 1 << 20
# How long it is remembered that a name was written.
REMEMBERED_S = 2 * LONGEST_QUIET_S
RETRY_S = 30.0
LONGEST_PAUSE_S = 2.0
BATCH = 64
# How long the releases of files that were closed are waited for.
RELEASE_TRIES, RELEASE_PAUSE_S = 100, 0.02
_LOOKED_AT_ONCE = 100
# How often gc may take away what is about to be named.
GC_TRIES = 5
THREADS = 4
# Longer files are digested apart, so many at a time: they keep no other file waiting.
LONG_FILE_OF_ITS_OWN, LONG_FILES_AT_ONCE = 64 << 20, 2
# How long fsync of .mixfs/imported waits at once for a program that asked for that.
PATIENCE_S = 1.0

log = structlog.get_logger("mixfs.taking_in")


@dataclass(slots=True)
class Looked:
    """A staged file as it was looked at: valid while its version is the same."""

    staged: Staged
    version: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    inspection: Inspection | None
    digest: Digest
    sums: bytes
    is_picture: bool
    may_be_layout: bool
    may_be_part: bool


class TakingIn:
    """The intake of one mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._wake = trio.Event()
        self._round = trio.Lock()
        # Its own: many files that are looked at must not keep those waiting who write.
        self._threads = trio.CapacityLimiter(THREADS)
        self._publisher = trio.CapacityLimiter(1)
        # Long files that are being taken in, each by a task of its own.
        self._long: dict[str, Staged] = {}
        self._long_threads = trio.CapacityLimiter(LONG_FILES_AT_ONCE)
        self._long_done = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._rewrites: dict[tuple[bytes, bytes], tuple[int, float]] = {}
        self.taken = 0
        self.recognising = Recognising(tree, lambda staged: bool(self._writers(staged)) or self._candidate(staged))
        tree.wake = self._woken
        tree.take_all_in = self.asked

    def _woken(self) -> None:
        self._wake.set()

    async def _in_publisher(self, function: Callable[[], T]) -> T:
        """Not behind those that are looked at."""
        return await trio.to_thread.run_sync(function, limiter=self._publisher)

    # -- what is ready

    def _writers(self, staged: Staged) -> int:
        node = self._tree.open_nodes.get(staged.key)
        return node.writers if node is not None else 0

    def _candidate(self, staged: Staged) -> bool:
        """Closed, named, not empty, and in a place from which files are taken in."""
        return self._closed(staged) and not self._writers(staged) and not staged.comes_back

    def _closed(self, staged: Staged) -> bool:
        """As `_candidate`, but the release of a handle may still be on its way: close(2) doesn't wait for that."""
        if staged.aside is not None:
            return staged.intake is not None
        if not staged.linked or not taken_in_from(staged.directory) or not staged.closed:
            return False
        return staged.intake is not None and staged.intake.size > 0

    def _quiet_s(self, staged: Staged) -> float:
        """One second; for what is no picture (a log, say) and rewritten again and again twice as long each time.

        Every version of such a file is kept in the trash: a long one may wait for five minutes.
        """
        count, last = self._rewrites.get((staged.directory, staged.name), (0, 0.0))
        if not count or time.monotonic() - last > REMEMBERED_S:
            # An app names a picture as soon as it has written it.
            return 0.0 if staged.directory == IMAGES else QUIET_S
        is_long = staged.intake is not None and staged.intake.size > LONG_FILE
        longest = LONGEST_QUIET_S if is_long else LONGEST_QUIET_OF_SHORT_S
        return min(longest, QUIET_S * float(1 << min(10, max(0, count - 1))))

    def _due_at(self, staged: Staged) -> float:
        return max(staged.touched + self._quiet_s(staged), staged.retry_at)

    def waiting(self) -> list[str]:
        """The names that are not taken in now: temporary ones, empty ones, open ones, those that failed."""
        with self._tree.library.read() as view:
            out = []
            for staged in self._tree.staging:
                if staged.linked and taken_in_from(staged.directory):
                    temporary = waits(view, staged.directory, staged.name)
                    if temporary or staged.failed or not self._candidate(staged):
                        out.append(staged.name.decode("utf-8", "replace"))
        return sorted(out + self.recognising.waiting())

    def failed(self) -> dict[str, str]:
        """The names of files that could not be taken in, and why: each is tried again."""
        return {
            staged.name.decode("utf-8", "replace"): staged.reason
            for staged in self._tree.staging if staged.linked and staged.failed
        }  # fmt: skip

    def held(self) -> dict[str, int]:
        """As `Tree.held`."""
        return {"rewrites": len(self._rewrites)} | self.recognising.held()

    # -- the task

    async def run(self) -> None:
        """Take in whatever is due, for as long as the mount lives."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._run(nursery)
            finally:
                self._nursery = None

    async def _run(self, nursery: trio.Nursery) -> None:
        ready = False
        while True:
            self._wake = trio.Event()
            began = time.monotonic()
            pause = await self._take_due()
            took = time.monotonic() - began
            with trio.move_on_after(pause):
                await self._wake.wait()
                if not ready:
                    # While more files come: workers take a moment to start.
                    ready = True
                    nursery.start_soon(trio.to_thread.run_sync, self._tree.library.pool.start)
                # Let one quiet period pass before looking again, or a storm of releases would be a storm of looks:
                # a longer one where very many wait for a real name, and looking at them takes its time.
                await trio.sleep(min(LONGEST_PAUSE_S, max(0.05, 10 * took)))

    async def _settle(self) -> None:
        """Commit the receipts that were removed; on a full disk they stay hidden until the next commit."""
        if not self._tree.staging.removed:
            return
        try:
            async with self._tree.lock:
                await self._tree.settle()
        except (OSError, MixfsError) as error:
            log.warning("receipts_not_removed", receipts=len(self._tree.staging.removed), error=str(error))

    async def _take_due(self) -> float:
        now = time.monotonic()
        next_due = now + 3600
        if self._tree.staging.removed:
            # Once nobody removes any more: a commit keeps `rm -r` waiting.
            quiet_at = self._tree.staging.removed_at + QUIET_S
            if quiet_at <= now:
                await self._settle()
            else:
                next_due = quiet_at
        ready: list[Staged] = []
        there = list(self._tree.staging)
        for start in range(0, len(there), _LOOKED_AT_ONCE):
            with self._tree.library.read() as view:
                for staged in there[start : start + _LOOKED_AT_ONCE]:
                    due = self._due_at(staged)
                    if due > now:
                        next_due = min(next_due, due)
                    elif (
                        staged.id not in self._long
                        and not waits(view, staged.directory, staged.name)
                        and self._candidate(staged)
                    ):
                        ready.append(staged)
            # Where a hundred thousand wait, requests go on in between.
            await trio.lowlevel.checkpoint()
        for version in self._tree.staging.versions:
            if version.retry_at <= now:
                if version.id not in self._long:
                    ready.append(version)
            else:
                next_due = min(next_due, version.retry_at)
        for staged in ready:
            if self._is_long(staged):
                await self._begin_long(staged)
        short = [staged for staged in ready if staged.id not in self._long]
        if short:
            async with self._round:
                await self._take(short)
        return max(0.01, next_due - time.monotonic()) if not ready else 0.01

    async def take_all(self) -> list[str]:
        """Take in all that was closed before this call, without the quiet second; returns the names that wait.

        Raises OSError when one of them could not be taken in: it waits in staging, and is tried again.
        """
        async with self._round:
            await self._settle()
            closed = self._all_closed()
            long = [staged for staged in closed if self._is_long(staged)]
            short = [staged for staged in closed if not self._is_long(staged)]
            for _ in range(RELEASE_TRIES):
                ready = [staged for staged in short if self._candidate(staged)]
                await self._take(ready)
                # A release that comes while a file is looked at makes it be looked at again.
                if not any(self._closed(staged) and not staged.failed for staged in short):
                    break
                await trio.sleep(RELEASE_PAUSE_S)
        await self._take_all_long(long)
        # Beside the rounds: what is being recognised keeps no other file waiting.
        await self.recognising.settle()
        for staged in closed:
            if staged.failed and self._candidate(staged):
                raise OSError(staged.failed, os.strerror(staged.failed), os.fsdecode(staged.name))
        return self.waiting()

    def _all_closed(self) -> list[Staged]:
        with self._tree.library.read() as view:
            return [
                staged
                for staged in self._tree.staging
                if self._closed(staged) and not waits(view, staged.directory, staged.name)
            ] + self._tree.staging.versions

    async def asked(self, handle: Handle) -> None:
        """fsync(2) of .mixfs/imported: as `take_all`, but a handle that is impatient is told to ask again.

        A program that waits for an answer can't be interrupted. Raises StillWaiting.
        """
        if not handle.is_impatient or self._nursery is None:
            await self.take_all()
            return
        if handle.asked is None:
            handle.asked = Asked()
            self._nursery.start_soon(self._answer, handle.asked)
        asked = handle.asked
        with trio.move_on_after(PATIENCE_S):
            await asked.done.wait()
        if not asked.done.is_set():
            raise StillWaiting("Not everything is in the library yet.")
        handle.asked = None
        if asked.error is not None:
            raise asked.error

    async def _answer(self, asked: Asked) -> None:
        asked.error = StillWaiting("The intake was begun again.")
        try:
            await self.take_all()
            asked.error = None
        except (OSError, MixfsError) as error:
            asked.error = error
        finally:
            asked.done.set()

    # -- long files

    def _is_long(self, staged: Staged) -> bool:
        return staged.id in self._long or (staged.intake is not None and staged.intake.size > LONG_FILE_OF_ITS_OWN)

    def under_way(self) -> list[dict[str, object]]:
        """The long files that are being taken in, and how far each has come."""
        return [
            {
                "name": staged.name.decode("utf-8", "replace"), "bytes": staged.intake.hashed,
                "size": staged.intake.size,
            }
            for staged in self._long.values() if staged.intake is not None
        ]  # fmt: skip

    async def _begin_long(self, staged: Staged) -> None:
        """Take a long file in: beside everything else, where there is a task that lives as long as the mount."""
        self._long[staged.id] = staged
        if self._nursery is not None:
            self._nursery.start_soon(self._take_long, staged)
        else:
            await self._take_long(staged)

    async def _take_long(self, staged: Staged) -> None:
        try:
            item = await self._look(staged, self._long_threads)
            if item is not None:
                async with self._tree.lock:
                    if self._unchanged(item) and self._is_kept(item):
                        await self._publish_and_commit([item])
        except Exception as error:  # noqa: BLE001 - as in `_look`
            self._failed(staged, error)
        finally:
            self._long.pop(staged.id, None)
            self._long_done.set()
            self._long_done = trio.Event()
            self._woken()

    async def _take_all_long(self, long: list[Staged]) -> None:
        begun: set[str] = set()
        for _ in range(RELEASE_TRIES):
            while True:
                for staged in long:
                    is_due = staged.id not in begun or not staged.failed
                    if staged.id not in self._long and is_due and self._candidate(staged):
                        begun.add(staged.id)
                        await self._begin_long(staged)
                if not any(staged.id in self._long for staged in long):
                    break
                await self._long_done.wait()
            if not any(self._closed(staged) and not staged.failed for staged in long):
                return
            await trio.sleep(RELEASE_PAUSE_S)

    # -- by batches

    async def _take(self, ready: list[Staged]) -> None:
        """Take files in: while one batch is made durable the next is looked at."""
        send, receive = trio.open_memory_channel[list[Looked]](0)
        failed: Exception | None = None
        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(self._look_at, ready, send)
            try:
                async for looked in receive:
                    async with self._tree.lock:
                        unchanged = [item for item in looked if self._unchanged(item) and self._is_kept(item)]
                        if unchanged:
                            await self._publish_and_commit(unchanged)
            except Exception as error:  # noqa: BLE001 - raised below
                # Behind the nursery, which would make a group of it: whoever waits is to learn its errno.
                failed = error
                nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _look_at(self, ready: list[Staged], send: trio.MemorySendChannel[list[Looked]]) -> None:
        async with send:
            for start in range(0, len(ready), BATCH):
                looked: list[Looked] = []

                async def look(staged: Staged, looked: list[Looked] = looked) -> None:
                    found = await self._look(staged)
                    if found is not None:
                        looked.append(found)

                async with trio.open_nursery() as nursery:
                    for staged in ready[start : start + BATCH]:
                        nursery.start_soon(look, staged)
                await send.send(looked)

    def _is_kept(self, item: Looked) -> bool:
        """Of versions that nothing shows any more, complete pictures are kept; the others are forgotten here."""
        if item.staged.aside is None:
            return True
        with self._tree.library.read() as view:
            kept = versions.is_worth_keeping(view, item.digest, item.inspection, self._tree.library.has_blob)
        if not kept:
            self._tree.staging.forget_version(item.staged)
        return kept

    def _unchanged(self, item: Looked) -> bool:
        return item.staged.version == item.version and self._candidate(item.staged)

    async def _look(self, staged: Staged, limiter: trio.CapacityLimiter | None = None) -> Looked | None:
        """Digest and inspect a file that may still change; None when it did, or can't be read now."""
        threads = limiter or self._threads
        version = staged.version
        library = self._tree.library
        if staged.intake is None:
            # Taken in by an earlier round than the one that chose it.
            return None

        def go_on() -> None:
            trio.from_thread.check_cancelled()
            if staged.version != version or staged.wanted:
                raise StillWaiting("A program is at work with it.")

        def measure() -> tuple[Path, Digest, os.stat_result, bytes, bytes]:
            intake = staged.intake
            if intake is None:
                raise NotFoundError("It was removed meanwhile.")
            # Before it is read, which may change its access time, and linked, which changes its ctime.
            status = os.fstat(intake.fd)
            if status.st_size > MAX_SIZE:
                raise TooLong(f"A file may have {MAX_SIZE >> 30} GiB.")
            found = intake.path, intake.digest(go_on), status, intake.sums(), os.pread(intake.fd, HEAD_SIZE, 0)
            if status.st_size > LONG_FILE and not staged.needs_copy:
                # What grows with the file is done before the tree's lock is taken.
                library.blobs.prepare(intake)
            return found

        try:
            async with staged.io:
                path, digest, status, sums, head = await trio.to_thread.run_sync(measure, limiter=threads)
            if staged.key not in self._tree.open_nodes:
                staged.park()
            # Without `io`: a decoder may take its time, and who writes meanwhile must not wait for it.
            inspection = await trio.to_thread.run_sync(
                lambda: library.inspect_unknown(digest, path), limiter=threads
            )
        except StillWaiting:
            return None
        except Exception as error:  # noqa: BLE001 - whatever one file meets, the others are taken in
            if staged.version == version:
                self._failed(staged, error)
            return None
        if staged.version != version:
            return None
        times = status.st_mtime_ns, status.st_ctime_ns, status.st_atime_ns
        return Looked(
            staged, version, status.st_size, *times, inspection, digest, sums, sniff(head) in IMAGE_TYPES,
            may_be_layout(head), may_be_part(head),
        )  # fmt: skip

    def _failed(self, staged: Staged, error: BaseException) -> None:
        """Keep the file where it is, say why, and try again later: nothing is lost."""
        staged.failed = getattr(error, "errno", None) or errno.EIO
        staged.reason = os_words(error) if isinstance(error, OSError) else str(error) or repr(error)
        if isinstance(error, WorkerStartError):
            # The same for all pictures, and reported by the library when it began. One try a round is enough.
            staged.retry_at = time.monotonic() + max(1.0, self._tree.library.pool.retry_in_s)
            return
        staged.retry_at, staged.needs_copy = time.monotonic() + RETRY_S, True
        if not isinstance(error, OSError | MixfsError):
            log.exception("not_taken_in", name=staged.name.decode("utf-8", "replace"), error=repr(error))
        else:
            log.warning("not_taken_in", name=staged.name.decode("utf-8", "replace"), error=str(error))
        self._tree.library.store.problems.report(
            "not-taken-in",
            f"The file stays in {'import/' if staged.aside is None else 'staging/'} and is tried again: {error}",
            name=staged.name.decode("utf-8", "replace"),
        )

    async def _publish_and_commit(self, ready: list[Looked]) -> None:
        tree = self._tree
        for item in ready:
            item.staged.digest = item.digest
        sync_log = any(item.staged.synced for item in ready)

        def publish() -> list[BaseException | None]:
            if sync_log:
                # A file that was fsynced is found after power loss by its name in staging, until it is committed.
                tree.staging.sync()
            return self._publish(ready)

        published: list[Looked] = []
        for item, error in zip(ready, await self._in_publisher(publish), strict=True):
            if error is not None:
                self._failed(item.staged, error)
            else:
                published.append(item)
        if not published:
            return
        try:
            published = await self._commit_patiently(published)
        except Exception as error:  # noqa: BLE001 - as in `_look`
            if len(published) == 1:
                self._failed(published[0].staged, error)
                return
            # One of them spoils the batch: take them one by one.
            for item in published:
                try:
                    await self._commit([item])
                except Exception as single:  # noqa: BLE001
                    self._failed(item.staged, single)

    async def _commit_patiently(self, items: list[Looked]) -> list[Looked]:
        """Commit what was published; returns it as it was committed."""
        for _ in range(GC_TRIES):
            try:
                await self._commit(items)
                return items
            except BlobMissing:
                # A gc without patience took a blob before it was named. The name in staging has the bytes still.
                items = await self._in_publisher(lambda items=items: self._publish_again(items))  # type: ignore[misc]
        await self._commit(items)
        return items

    def _publish_again(self, items: list[Looked]) -> list[Looked]:
        """As `_publish`; what is no longer known of a blob that was known is found out. In a thread."""
        self._publish(items)
        with self._tree.library.read() as view:
            unknown = {item.digest for item in items if item.inspection is None and view.blob(item.digest) is None}
        inspect = self._tree.library.pool.inspect
        return [
            dataclasses.replace(item, inspection=inspect(str(item.staged.intake.path)))
            if item.digest in unknown and item.staged.intake is not None else item
            for item in items
        ]  # fmt: skip

    def _publish(self, items: list[Looked]) -> list[BaseException | None]:
        """Make the bytes of each a blob, durably; the error of each that can't be. In a thread."""
        errors: dict[str, BaseException] = {}
        anew = [item for item in items if item.staged.needs_copy]
        # Held: whoever removes the file meanwhile takes its intake away.
        intakes = {item.staged.id: item.staged.intake for item in items if not item.staged.needs_copy}
        there = {staged_id: intake for staged_id, intake in intakes.items() if intake is not None}
        for staged_id in intakes.keys() - there.keys():
            errors[staged_id] = NotFoundError("It was removed meanwhile.")
        for staged_id, result in zip(there, self._tree.library.blobs.receive_all([*there.values()]), strict=True):
            if isinstance(result, OSError):
                errors[staged_id] = result
        for item in anew:
            try:
                self._publish_copy(item)
            except (OSError, MixfsError) as error:
                errors[item.staged.id] = error
        return [errors.get(item.staged.id) for item in items]

    def _publish_copy(self, item: Looked) -> None:
        """A failed fsync says nothing when it is tried again: a copy is made durable instead."""
        library, intake = self._tree.library, item.staged.intake
        if intake is None:
            raise NotFoundError("It was removed meanwhile.")
        fresh = library.staging.intake()
        try:
            fresh.copy_whole(intake.fd)
            if fresh.digest() != item.digest:
                raise OSError(errno.EIO, "What was written can't be read back")
            library.blobs.receive(fresh, anew=True)
        finally:
            fresh.discard()

    async def _commit(self, items: list[Looked]) -> None:
        tree = self._tree

        times: dict[bytes, int] = {}
        came = [_incoming(item) for item in items]
        marked: list[Job | None] = []

        def write(txn: Txn) -> None:
            marked.clear()
            for item, incoming in zip(items, came, strict=True):
                self._admit(txn, item, incoming)
                keep_time(txn, tree.staging, item.staged.directory, times)
                if item.staged.directory[:1] == b"d" and item.staged.aside is None:
                    mark = self.recognising.mark
                    marked.append(mark(txn, item.staged, whole=item.may_be_layout, part=item.may_be_part))

        known = [
            (item.staged.directory, item.staged.name)
            for item in items
            if item.staged.directory != IMAGES and item.staged.aside is None
        ]
        await tree.commit(write, *known)
        self.recognising.marked(marked)
        for directory, mtime_ns in times.items():
            tree.staging.forget_folder_time(directory, mtime_ns)
        now = time.monotonic()
        for item in items:
            staged = item.staged
            if staged.aside is not None:
                tree.staging.forget_version(staged)
                continue
            # Taken out first, so that the oldest stand in front.
            count, last = self._rewrites.pop((staged.directory, staged.name), (0, 0.0))
            if not item.is_picture:
                self._rewrites[staged.directory, staged.name] = (count + 1 if now - last < REMEMBERED_S else 1, now)
            tree.staging.taken_in(staged)
            self._settle_open(staged, item.digest)
            if staged.intake is not None:
                staged.intake.discard()
                staged.intake = None
        tree.staging.compact_if_possible()
        shown = [incoming for item, incoming in zip(items, came, strict=True) if item.staged.aside is None]
        self.taken += len(shown)
        tree.library.came_in(shown)
        log.info("taken_in", files=len(shown), versions=len(items) - len(shown))
        while self._rewrites:
            oldest = next(iter(self._rewrites))
            if now - self._rewrites[oldest][1] < REMEMBERED_S:
                break
            del self._rewrites[oldest]

    def _settle_open(self, staged: Staged, digest: Digest) -> None:
        """Who holds the file open reads on from the blob: the same bytes."""
        node = self._tree.open_nodes.get(staged.key)
        if node is None or node.staged is not staged:
            return
        node.attr = staged.dentry()._replace(links=1)
        with self._tree.library.read() as view:
            node.show(BlobContent(digest))
            node.attr = self._tree.attr(view, staged.key)

    def _admit(self, txn: Txn, item: Looked, incoming: Incoming) -> None:
        staged, library = item.staged, self._tree.library
        if staged.aside is not None:
            versions.admit_version(txn, staged.aside, incoming, library.has_blob)
        elif staged.directory[:1] == b"p":
            self._admit_in_session(txn, staged, incoming)
        elif staged.directory == IMAGES:
            file_came(txn, staged.name, incoming, library.has_blob, id_of_key(staged.key[1:]))
        else:
            parent = import_folder(txn, staged.directory)
            session_id, folder_id = bind(txn, parent)
            held = txn.get_raw(Receipt, staged.key[1:])
            replaces = staged.replaces or (held.placement_id if held is not None else None)
            old = txn.get(Placement, replaces) if replaces is not None else None
            placement, _ = admit(
                txn, incoming, session_id, folder_id, library.has_blob, replaces=old.id if old is not None else None
            )
            if staged.moved and old is not None:
                editing.move_placement(txn, placement.id, session_id, folder_id, staged.name)
            receipt_id = held.id if held is not None else id_of_key(staged.key[1:])
            txn.put(
                Receipt(
                    id=receipt_id, parent_id=parent.id if parent is not None else None, name=staged.name,
                    digest=item.digest, size=item.size, mode=incoming.mode, mtime_ns=item.mtime_ns,
                    placement_id=placement.id, session_id=session_id, xattrs=incoming.xattrs, named_ns=txn.next_stamp,
                    ctime_ns=item.ctime_ns, atime_ns=item.atime_ns,
                )
            )  # fmt: skip

    def _admit_in_session(self, txn: Txn, staged: Staged, incoming: Incoming) -> None:
        session_id, folder_id = image_folder(txn, staged.directory)
        held = txn.get_raw(Placement, staged.key[1:])
        admit(
            txn, incoming, session_id, folder_id, self._tree.library.has_blob, area="images",
            replaces=held.id if held is not None else None,
            placement_id=None if held is not None else id_of_key(staged.key[1:]),
        )  # fmt: skip

    async def keep_times(self) -> None:
        """At the end of a mount: the times of folders of import/ go into their records."""
        tree = self._tree
        times: dict[bytes, int] = {}

        def write(txn: Txn) -> None:
            for directory in list(tree.staging.folder_times):
                keep_time(txn, tree.staging, directory, times)

        async with tree.lock:
            if tree.staging.folder_times:
                await tree.commit(write)
                for directory, mtime_ns in times.items():
                    tree.staging.forget_folder_time(directory, mtime_ns)


def _incoming(item: Looked) -> Incoming:
    """A file as what it is taken in as."""
    staged = item.staged
    kept, annotation = xattrs.split(staged.xattrs)
    return Incoming(
        digest=item.digest, size=item.size, name=staged.name, mtime_ns=item.mtime_ns, mode=stat.S_IMODE(staged.mode),
        xattrs=kept, inspection=item.inspection, sums=item.sums, annotation=annotation,
    )  # fmt: skip


def keep_time(txn: Txn, staging: Staging, directory: bytes, kept: dict[bytes, int]) -> None:
    """Write the time of a folder of import/ into its record, when something is committed anyway."""
    mtime_ns = staging.folder_times.get(directory)
    if mtime_ns is None:
        return
    with contextlib.suppress(NotFoundError):
        folder = folder_record(txn, directory)
        if folder.mtime_ns != mtime_ns:
            txn.put(dataclasses.replace(folder, mtime_ns=mtime_ns))
    kept[directory] = mtime_ns
