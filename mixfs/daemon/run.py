"""A mount's life: open the library, take up what a killed daemon left, mount, serve, and leave nothing undone.

One trio nursery holds the FUSE session, the intake, the invalidation and the signals. A background task that fails is
logged and begun again: the daemon does not die of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog
import trio

from mixfs import clock
from mixfs.daemon import memory
from mixfs.daemon.invalidation import Invalidation
from mixfs.daemon.notify import notify, watchdog_s
from mixfs.daemon.status import Status
from mixfs.daemon.upkeep import Upkeep
from mixfs.errors import LibraryBusy
from mixfs.fuse.mount import KernelCache, Mount
from mixfs.fuse.operations import Operations
from mixfs.ids import Digest
from mixfs.journal.files import write_durably
from mixfs.library import place
from mixfs.library.api import Library
from mixfs.library.staging import StagingArea
from mixfs.media.pool import WorkerStartError
from mixfs.modes import create_file
from mixfs.process import start_of, take_short_turns, use_one_arena
from mixfs.vfs.context import Context
from mixfs.vfs.inodes import Inodes
from mixfs.vfs.recovering import recover
from mixfs.vfs.staging import Staging
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import ROOT

log = structlog.get_logger("mixfs.daemon")

# How long a stopping daemon goes on taking in what was closed; the rest waits in staging for the next mount.
LAST_INTAKE_S = 20.0
# When a daemon looks for pictures without a thumbnail: how long it rests between two pages, some ten times what a page
# takes, so that whoever opens the new mount has the core; and how many it finds before it waits for the makers.
SEARCH_REST_S = 0.03
SEARCH_AHEAD = 5000
# Thumbnails that are asked for and recorded at once: whoever waits for the first of them waits for all.
ASKED_TOGETHER = 8
# Requests a second from which on somebody is looking at the mount, and how long each maker of thumbnails rests then
# before it makes one.
BUSY_RATE = 100.0
BUSY_REST_S, BUSY_RESTS = 0.25, 4
# How long thumbnails that were made may wait to be noted in the index, for many at once.
RECORD_S, BUSY_RECORD_S = 0.5, 5.0
# Between two beginnings of a background task that fails.
LONGEST_PAUSE_S = 60.0


class Daemon:
    """One mounted library."""

    def __init__(
        self, root: Path, mountpoint: Path, options: set[str], log_file: Path | None, trash_days: float
    ) -> None:
        self._mountpoint = mountpoint
        self._read_only = "ro" in options
        self.library = Library.open(root, read_only=self._read_only)
        self._lock_fd = -1
        self._answers = threading.Event()  # it is mounted, or goes again
        try:
            if not self._read_only:
                self._claim()
            self.status = Status(self.library, log_file)
            context = Context(self.library.root, clock.now_ns(), status=self.status.files())
            area = StagingArea(self.library.root / "staging")
            self.tree = Tree(self.library, context, Staging(area, read_only=self._read_only))
            if not self._read_only:
                recover(self.tree)
            self.operations = Operations(
                self.tree, Inodes(ROOT), read_only=self._read_only, has_other_users="allow_other" in options
            )
            self.mount = Mount(self.operations, mountpoint, options)
            self.cache = KernelCache(self.operations)
            self.taking_in = TakingIn(self.tree)
            self.upkeep = Upkeep(self.library, trash_days)
            self.tree.damaged = self.upkeep.damaged
            self.status.attach(self.tree, self.operations, self.cache, self.taking_in, self.upkeep)
        except BaseException:
            self.library.close()
            raise

    def _claim(self) -> None:
        """One writing mount a library. The kernel frees the claim when we die."""
        fd = create_file(self.library.root / "mount.lock", os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            where = self.library.mounted_at() or "another place"
            raise LibraryBusy(
                f"{self.library.root} is mounted at {where} already. Unmount it there, or mount it here with -o ro."
            ) from None
        self._lock_fd = fd
        data = {
            "pid": os.getpid(), "started": start_of(os.getpid()), "mountpoint": str(self._mountpoint),
            "library": str(self.library.root),
        }  # fmt: skip
        try:
            write_durably(self.library.root / "mounted", json.dumps(data).encode())
        except OSError as error:
            # A full disk must not keep anybody from reading, nor from making room.
            log.warning("mount_not_noted", error=str(error))

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until unmounted or told to stop."""
        invalidation = Invalidation(self.tree, self.cache)
        if not self._read_only:
            self.upkeep.start()
        thumbnails = []
        if not self._read_only:
            thumbnails += [threading.Thread(target=self._make_thumbnails, name=f"thumbnails-{n}") for n in range(2)]
            thumbnails.append(threading.Thread(target=self._find_missing_thumbnails, name="thumbnails-missing"))
            thumbnails += [threading.Thread(target=self._make_asked, name=f"thumbnails-asked-{n}") for n in range(2)]
        for thread in thumbnails:
            thread.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._signals)
                supervise = partial(_supervise, self._task_failed)
                nursery.start_soon(supervise, "invalidation", invalidation.run)
                if not self._read_only:
                    nursery.start_soon(supervise, "taking_in", self.taking_in.run)
                    self.taking_in.recognising.load()
                    nursery.start_soon(supervise, "recognising", self.taking_in.recognising.run)
                    nursery.start_soon(supervise, "deletions", self.tree.finish_deletions)
                nursery.start_soon(self._announce, ready)
                nursery.start_soon(_stay_alive)
                for kept in (self.tree.staging, self.operations.inodes):
                    nursery.start_soon(supervise, "memory", partial(memory.give_back, kept))
                requests = self.operations.counts.total
                give_back = partial(memory.give_back_when_idle, self.library.store, requests)
                nursery.start_soon(supervise, "idle memory", give_back)
                await self.mount.serve()
                nursery.cancel_scope.cancel()
        finally:
            log.info("stopping")
            notify("STOPPING=1")
            self.library.thumbnails.close()
            self._answers.set()
            for last in () if self._read_only else (self.taking_in.take_all, self.taking_in.keep_times):
                with trio.move_on_after(LAST_INTAKE_S, shield=True):
                    try:
                        await last()
                    except Exception as error:
                        # A full disk, say: what was closed waits in staging for the next mount.
                        log.exception("last_intake_failed", error=repr(error))
            await trio.to_thread.run_sync(self.upkeep.close)
            for thread in thumbnails:
                await trio.to_thread.run_sync(thread.join)

    def _task_failed(self, name: str, reason: str) -> None:
        self.status.task_failed(name, reason)
        self.library.store.problems.report(
            "task-failed", f"The background task {name} failed and is begun again: {reason}", task=name
        )

    async def _announce(self, ready: Callable[[], None]) -> None:
        await self.operations.answering.wait()
        log.info("mounted", mountpoint=str(self._mountpoint), library=str(self.library.root), pid=os.getpid())
        notify("READY=1", f"STATUS=mounted at {self._mountpoint}")
        ready()
        self._answers.set()

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                log.info("signal", number=number)
                self.mount.stop()
                return

    def _make_thumbnails(self) -> None:
        """A thread of its own: makes what is wished for, and notes it in the index for many at once."""
        thumbnails = self.library.thumbnails
        # Whoever waits for the mount to be back comes first.
        self._answers.wait()
        made: dict[Digest, tuple[int, int]] = {}
        since = time.monotonic()
        is_busy = self._rate()
        while True:
            was_busy = self._let_others_first(is_busy)
            digest = thumbnails.next_wish(0.2 if made else None)
            if digest is not None:
                try:
                    row = thumbnails.make_if_missing(digest)
                except WorkerStartError:
                    # Reported by the library. It is wished for again, and tried when the pool does.
                    thumbnails.wish(digest)
                    thumbnails.rest(max(1.0, self.library.pool.retry_in_s))
                    continue
                except Exception as error:
                    log.exception("thumbnail_failed", digest=digest.hex(), error=repr(error))
                    continue
                if row is not None:
                    made[digest] = row
            due_s = BUSY_RECORD_S if was_busy else RECORD_S
            if made and (digest is None or len(made) >= 64 or time.monotonic() - since > due_s):
                try:
                    thumbnails.record(made)
                except Exception as error:
                    log.exception("thumbnails_not_recorded", error=repr(error))
                made, since = {}, time.monotonic()
            if digest is None and not thumbnails.closed and not thumbnails.waiting:
                # Each takes 20 MiB.
                self.library.pool.rest()
            if digest is None and thumbnails.closed:
                return

    def _make_asked(self) -> None:
        """A thread of its own: makes what somebody waits for. What is asked for meanwhile is recorded together."""
        thumbnails = self.library.thumbnails
        made: dict[Digest, tuple[int, int]] = {}
        done: list[Digest] = []
        while True:
            digest = thumbnails.next_asked(wait=not done) if len(done) < ASKED_TOGETHER else None
            try:
                if digest is not None:
                    done.append(digest)
                    row = thumbnails.make(digest)
                    if row is not None:
                        made[digest] = row
                elif made:
                    thumbnails.record(made)
            except WorkerStartError:
                # Reported by the library. As when it takes too long: whoever waits for it asks again.
                pass
            except Exception as error:
                log.exception("thumbnail_failed", error=repr(error))
            if digest is None:
                thumbnails.tell(done)
                made, done = {}, []
                if thumbnails.closed:
                    return

    def _let_others_first(self, is_busy: Callable[[], bool]) -> bool:
        """Rest while the mount is asked for much, but not for ever; whether it was.

        Workers have an idle priority; what is done in this process has not.
        """
        for rests in range(BUSY_RESTS):
            if self.library.thumbnails.closed or not is_busy():
                return rests > 0
            self.library.thumbnails.rest(BUSY_REST_S)
        return True

    def _rate(self) -> Callable[[], bool]:
        """What tells whether the mount was asked for much since it was called last."""
        last = time.monotonic(), sum(self.operations.counts.values())

        def is_busy() -> bool:
            nonlocal last
            (then, before), last = last, (time.monotonic(), sum(self.operations.counts.values()))
            return last[1] - before > BUSY_RATE * (last[0] - then)

        return is_busy

    def _find_missing_thumbnails(self) -> None:
        """A thread of its own: wishes for what another daemon, or an import without one, left to be made."""
        thumbnails, after = self.library.thumbnails, b""
        self._answers.wait()
        is_busy = self._rate()
        while not thumbnails.closed:
            self._let_others_first(is_busy)
            try:
                after = thumbnails.wish_missing(after)
            except Exception as error:
                log.exception("missing_thumbnails_not_found", error=repr(error))
                return
            if not after:
                return
            while thumbnails.waiting > SEARCH_AHEAD and not thumbnails.closed:
                thumbnails.rest(1)
            thumbnails.rest(SEARCH_REST_S)

    def close(self) -> None:
        """After `run`, or instead of it."""
        self.tree.close()
        if self._lock_fd >= 0:
            with contextlib.suppress(OSError):
                (self.library.root / "mounted").unlink()
            os.close(self._lock_fd)
        self.library.close()


async def _stay_alive() -> None:
    """Tell systemd that the event loop turns; where it doesn't any more, systemd starts us anew."""
    interval_s = watchdog_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await trio.sleep(interval_s / 2)


async def _supervise(failed: Callable[[str, str], None], name: str, task: Callable[[], Awaitable[None]]) -> None:
    """Begin a background task again when it fails: what it was to do waits in the library.

    Later each time, up to a minute, or what fails at once would fill the log.
    """
    failures = 0
    while True:
        began = time.monotonic()
        try:
            await task()
            return
        except Exception as error:
            failures = failures + 1 if time.monotonic() - began < LONGEST_PAUSE_S else 1
            log.exception("task_failed", task=name, error=repr(error), failures=failures)
            failed(name, repr(error))
            await trio.sleep(min(LONGEST_PAUSE_S, 2.0 ** (failures - 1)))


def run(
    root: Path, mountpoint: Path, options: set[str], ready: Callable[[], None], log_file: Path | None, trash_days: float
) -> None:
    """Mount and serve until the end. Raises MixfsError when it can't be mounted."""
    use_one_arena()
    take_short_turns()
    place.say_waiting = partial(log.warning, "waiting_for_lock")
    daemon = Daemon(root, mountpoint, options, log_file, trash_days)
    mounted = False
    try:
        daemon.mount.open()
        mounted = True
        trio.run(daemon.run, ready)
    finally:
        if mounted:
            daemon.mount.close()
        daemon.close()
        log.info("stopped")
