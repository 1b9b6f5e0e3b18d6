"""A pool of worker processes for everything that parses foreign bytes. Never imports a decoder itself.

Work that nobody waits for has workers of its own, which get the processor and the disk when nobody else wants them
(SCHED_IDLE, and the idle class of ioprio_set(2)). A process without privileges can't leave SCHED_IDLE again
(sched_setscheduler(2) asks for RLIMIT_NICE), so one worker can't do both kinds of work.

A worker that can't be started is no fault of any file: callers get WorkerStartError at once until the next try is due,
and that comes later each time, up to a minute.

**Concurrency.** Every method may be called from any thread. A worker is owned by one caller from the moment it is taken
from `_free` until it is put back, so a worker does one job at a time and its pipes need no lock. `_lock` guards
`_live`, `_closed` and what is known of failed starts, and is never held while waiting. A caller waits for a free worker
without a limit; a job's own time begins when its worker has it. `close()` kills what runs: its callers get PoolClosed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import cbor2

from mixfs.errors import MixfsError
from mixfs.media.sniff import HEAD_SIZE, IMAGE_TYPES, sniff
from mixfs.media.types import Inspection, inspection_from_dict
from mixfs.media.worker import MAX_MESSAGE
from mixfs.modes import create_file
from mixfs.process import environment

COMMAND = ("-P", "-m", "mixfs.media.worker")
"""What Python runs. -P keeps the working directory off the import path, where a picture folder could hold a `PIL`."""
JOBS_PER_WORKER = 2000
"""Jobs after which a worker is replaced, so that a leak in a decoder stays small."""
IDLE = "--idle"
START_TIMEOUT_S = 60.0
LONGEST_PAUSE_S = 60.0
"""Between two tries to start a worker."""
KILLS_FORGIVEN = 3
"""Jobs over one file that end with SIGKILL, each twice, before that is the file's fault."""
TEXTS_TIMEOUT_S = 10.0
"""For the texts of a picture over which a decoder died or took too long."""

_log = logging.getLogger(__name__)


class ThumbnailFailed(Exception):
    """No thumbnail can be made of this file, now or later. The text is the reason, for a human."""


class WorkerStartError(MixfsError):
    """A worker process did not start: the machine or the installation is at fault, not a picture. The text has its last
    words. Its errno is EIO: EAGAIN from .mixfs/imported means that files are still being taken in."""


class PoolClosed(RuntimeError):
    """The pool was closed while, or before, the job was done."""


class _Died(Exception):
    """A worker went away in the middle of a job."""


class _TimedOut(Exception):
    pass


class _Worker:
    """One process and its pipes. Owned by one thread at a time."""

    def __init__(self, idle: bool) -> None:
        # Spawned, never forked: the caller may have an LMDB environment open.
        self.jobs = 0
        self.free = ""
        """Why it is not kept from system calls that it doesn't need; empty when it is."""
        # In memory: Python's temporary files begin with one in /tmp that stays there when we are killed just then.
        try:
            fd = os.memfd_create("worker-errors")
        except OSError as error:
            raise WorkerStartError(f"can't start a worker: {error.strerror}") from error
        with open(fd, "w+b") as errors:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, *COMMAND, *([IDLE] if idle else [])], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=errors, close_fds=True, cwd="/", env=environment(), bufsize=0,
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError, MemoryError) as error:
                raise WorkerStartError(f"can't start a worker with {sys.executable!r}: {error}") from error
            try:
                answer = self._receive(time.monotonic() + (20 * START_TIMEOUT_S if idle else START_TIMEOUT_S))
                if not isinstance(answer, dict) or "ready" not in answer:
                    raise _Died
                self.free = str(answer.get("free") or "")
            except (_Died, _TimedOut) as error:
                self.kill()
                errors.seek(0)
                words = errors.read(65536).decode("utf-8", "replace").strip()[-1000:]
                _log.info("a worker that did not start said: %s", words)
                last = words.splitlines()[-1] if words else "it said nothing"
                raise WorkerStartError(f"a worker did not start ({self.epitaph()}): {last}") from error

    def run(self, job: dict[str, Any], timeout_s: float) -> Any:
        """The worker's answer. Raises _Died or _TimedOut; the worker is of no more use then."""
        deadline = time.monotonic() + timeout_s
        body = cbor2.dumps(job)
        assert self.process.stdin is not None
        try:
            # A job is a path or two: it fits into the pipe, so this can't block on a worker that doesn't read.
            self.process.stdin.write(len(body).to_bytes(4, "big") + body)
        except OSError as error:
            raise _Died from error
        self.jobs += 1
        return self._receive(deadline)

    def _receive(self, deadline: float) -> Any:
        head = self._exactly(4, deadline)
        size = int.from_bytes(head, "big")
        if size > MAX_MESSAGE:
            raise _Died
        try:
            return _loads(self._exactly(size, deadline))
        except (cbor2.CBORDecodeError, RecursionError, ValueError) as error:
            raise _Died from error

    def _exactly(self, size: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        data, answers = bytearray(), select.poll()
        answers.register(fd, select.POLLIN)
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not answers.poll(left * 1e3):
                raise _TimedOut
            part = os.read(fd, min(size - len(data), 1 << 20))
            if not part:
                raise _Died
            data += part
        return bytes(data)

    def kill(self) -> None:
        """End the process and reap it. Safe to call again."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def epitaph(self) -> str:
        code = self.process.poll()
        if code is None:
            return "still running"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by signal {-code}, {signal.Signals(-code).name}"
            return f"killed by signal {-code}"
        return f"exit status {code}"


# Last in, first out: one busy caller keeps one worker warm instead of two.
_Slots = queue.LifoQueue[_Worker | None]


class WorkerPool:
    """Inspects files and makes thumbnails in worker processes with limits on memory, time and files.

    Bad content never raises: it is what `Inspection.problem` and `ThumbnailFailed` are for. Workers start when they are
    first needed and are replaced after a crash, a time-out, or `JOBS_PER_WORKER` jobs.
    """

    def __init__(self, processes: int = 2, failed: Callable[[str], None] = lambda reason: None) -> None:
        """`processes` for each kind of work. `failed` is told the reason when workers can't be started, once until one
        can be."""
        if processes < 1:
            raise ValueError("a pool needs a process")
        self._lock = threading.Lock()
        self._closed = False
        self._live: set[_Worker] = set()
        self._killed: dict[str, int] = {}  # by path: how often both workers of a job were killed
        # For what somebody waits for, and for what nobody does.
        self._free = {False: _Slots(), True: _Slots()}
        self._processes = processes
        self._failed = failed
        self._problem = ""
        self._failures, self._retry_at = 0, 0.0
        for slots in self._free.values():
            for _ in range(processes):
                slots.put(None)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that run now."""
        with self._lock:
            return sorted(worker.process.pid for worker in self._live)

    @property
    def problem(self) -> str:
        """Why no worker could be started the last time; empty when one could."""
        return self._problem

    @property
    def retry_in_s(self) -> float:
        """How long no worker is started, after that failed."""
        return max(0.0, self._retry_at - time.monotonic())

    def rest(self) -> None:
        """End the workers for what nobody waits for, as far as they have nothing to do."""
        slots = self._free[True]
        for _ in range(self._processes):
            try:
                worker = slots.get_nowait()
            except queue.Empty:
                return
            try:
                if worker is not None:
                    self._drop(worker)
            finally:
                slots.put(None)

    def start(self) -> None:
        """Start the workers that don't run: who knows that there will be jobs spares the first of them the wait."""

        def start_one() -> None:
            slots = self._free[False]
            slot = slots.get()
            try:
                slot = self._ready(slot, False)
            except (WorkerStartError, PoolClosed) as error:
                # The first job says so to who can do something about it.
                _log.warning("a worker was not started before it was needed: %s", error)
            finally:
                slots.put(slot)

        threads = []
        for _ in range(self._processes):
            thread = threading.Thread(target=start_one)
            try:
                thread.start()
            except RuntimeError as error:
                _log.warning("a worker was not started before it was needed: %s", error)
                break
            threads.append(thread)
        for thread in threads:
            thread.join()

    def inspect(self, path: str, timeout_s: float = 60) -> Inspection:
        """What a file is and holds. Raises OSError when it can't be read, WorkerStartError, PoolClosed."""
        path = os.path.abspath(path)
        media_type = _sniff_file(path)
        if media_type not in IMAGE_TYPES:
            # Nothing beyond its first bytes is looked at.
            return Inspection(media_type=media_type)
        problem: str | None = None
        for pixels in (True, False):
            limit_s = timeout_s if pixels else min(timeout_s, TEXTS_TIMEOUT_S)
            answer = self._job({"kind": "inspect", "path": os.fsencode(path), "pixels": pixels}, limit_s)
            if "ok" in answer:
                try:
                    found = inspection_from_dict(answer["ok"])
                except (TypeError, ValueError, KeyError, AttributeError):
                    answer = {"error": "failed", "text": "the worker's answer made no sense"}
                else:
                    return found if problem is None else dataclasses.replace(found, problem=problem)
            _raise_os(answer, path)
            problem = problem or _reason(answer)
            # What the decoder could not bear may have texts that can be read: the prompt is kept with the damage.
        return Inspection(media_type=media_type, problem=problem)

    def thumbnail(
        self, source: str, target: str, timeout_s: float = 60, *, size: int = 256, idle: bool = False
    ) -> int:
        """Write a PNG thumbnail to `target`; returns its size in bytes. `idle` when nobody waits for it.

        Raises ThumbnailFailed when none can be made, OSError when a file can't be read or written, WorkerStartError,
        PoolClosed. `target` may be left behind half-written: give a temporary name.
        """
        source, target = os.path.abspath(source), os.path.abspath(target)
        job = {"kind": "thumbnail", "source": source, "size": size}
        # Work of the idle class may stand still for as long as others want the processor.
        answer = self._job(job, 20 * timeout_s if idle else timeout_s, idle)
        data = answer.get("ok")
        # Who has taken over a worker must not fill the disk either.
        if type(data) is bytes and len(data) <= 4 * size * size + 65536:
            with os.fdopen(create_file(target, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                return file.write(data)
        _raise_os(answer, source)
        raise ThumbnailFailed(_reason(answer))

    def sandbox_problem(self) -> str:
        """Why workers may make every system call; empty when they may not. Starts a worker. Raises WorkerStartError."""
        slots = self._free[False]
        worker: _Worker | None = slots.get()
        try:
            worker = self._ready(worker, False)
            return worker.free
        finally:
            slots.put(worker)

    def close(self) -> None:
        """End all workers, busy ones too, and wait until they are gone. Safe to call again."""
        with self._lock:
            self._closed = True
            live = list(self._live)
            self._live.clear()
        for worker in live:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
        # Each slot comes back when its caller has seen the end of its worker; then nothing of ours is left.
        for slots in self._free.values():
            for _ in range(self._processes):
                with contextlib.suppress(queue.Empty):
                    slot = slots.get(timeout=15)
                    if slot is not None:
                        slot.kill()
            for _ in range(self._processes):
                slots.put(None)

    def _job(self, job: dict[str, Any], timeout_s: float, idle: bool = False) -> dict[str, Any]:
        """An answer of the worker, or one made up of how it ended: `killed`, `slow`."""
        slots = self._free[idle]
        slot = slots.get()
        worker: _Worker | None = slot
        try:
            # A worker that dies may have been killed by someone who wanted memory back: only a second
            # death in the same job is the file's fault, since a picture is marked as bad for good.
            for attempt in (1, 2):
                worker = self._ready(worker, idle)
                try:
                    answer = worker.run(job, timeout_s)
                    if not isinstance(answer, dict):
                        raise _Died
                except _TimedOut:
                    self._drop(worker)
                    worker = None
                    self._check_open()
                    return {"error": "slow", "text": f"took longer than {timeout_s:g} s"}
                except _Died:
                    self._drop(worker)
                    epitaph, killed = worker.epitaph(), worker.process.poll() == -signal.SIGKILL
                    worker = None
                    self._check_open()
                    if attempt == 2:
                        if killed:
                            self._forgive(os.fsdecode(job.get("path") or job.get("source") or b""))
                        return {"error": "killed", "text": epitaph}
                    _log.warning("a media worker ended in the middle of a job (%s); trying once more", epitaph)
                    continue
                for line in answer.get("faults", ()):
                    # No fault of the file's, which has its answer: one to be mended here.
                    _log.warning("a fault of MixFS while it read a file: %s", line)
                if answer.get("error") == "memory":
                    self._drop(worker)
                    worker = None
                return answer
            raise AssertionError("not reached")
        finally:
            slots.put(worker)

    def _forgive(self, path: str) -> None:
        """Raise OSError (ENOMEM) for a file whose workers were killed: the kernel kills what it likes when memory is
        short, whatever the file is. A file that keeps being there when it happens is at fault after all."""
        with self._lock:
            times = self._killed.pop(path, 0) + 1
            if times >= KILLS_FORGIVEN:
                return
            self._killed[path] = times
            if len(self._killed) > 1000:
                del self._killed[next(iter(self._killed))]
        raise OSError(errno.ENOMEM, "The processes that read it were killed; memory may be short", path)

    def _ready(self, worker: _Worker | None, idle: bool) -> _Worker:
        self._check_open()
        if worker is not None:
            if worker.jobs < JOBS_PER_WORKER and worker.process.poll() is None:
                return worker
            self._drop(worker)
        worker = self._started(idle)
        with self._lock:
            if not self._closed:
                self._live.add(worker)
                return worker
        worker.kill()
        raise PoolClosed("the pool of media workers was closed")

    def _started(self, idle: bool) -> _Worker:
        with self._lock:
            if time.monotonic() < self._retry_at:
                raise WorkerStartError(self._problem)
        try:
            worker = _Worker(idle)
        except WorkerStartError as error:
            with self._lock:
                is_news = not self._problem
                self._problem = str(error)
                self._failures += 1
                self._retry_at = time.monotonic() + min(LONGEST_PAUSE_S, 0.5 * 2**self._failures)
            if is_news and not self._closed:
                _log.error("workers can't be started, and are tried again: %s", error)
                self._failed(str(error))
            raise
        with self._lock:
            had_problem, self._problem = self._problem, ""
            self._failures, self._retry_at = 0, 0.0
        if had_problem:
            _log.warning("workers can be started again")
        return worker

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._live.discard(worker)

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed("the pool of media workers was closed")


def _refuse(decoder: Any) -> Any:
    raise ValueError("a tag in a worker's answer")


_NO_TAGS = dict.fromkeys((0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799),
                         _refuse)  # fmt: skip
"""CBOR's tags make regular expressions, fractions, dates and references out of data: a worker has no use for them, and
whoever has taken it over would have the daemon compute."""


def _loads(data: bytes) -> Any:
    """A worker's message: maps, lists, texts, bytes and numbers."""
    return cbor2.loads(data, semantic_decoders=_NO_TAGS, max_depth=8, allow_indefinite=False,
                       strict_hashable_types=True)  # fmt: skip


def _sniff_file(path: str) -> str:
    with open(path, "rb") as file:
        return sniff(file.read(HEAD_SIZE))


def _raise_os(answer: dict[str, Any], path: str) -> None:
    number = answer.get("errno")
    if answer.get("error") == "os" and isinstance(number, int):
        if number == errno.ENOMEM:
            answer["error"] = "memory"
            return
        raise OSError(number, os.strerror(number), path)


def _reason(answer: dict[str, Any]) -> str:
    """Words for a human of why there is no good answer."""
    text = answer.get("text")
    words = " ".join(text.split())[:500] if isinstance(text, str) else ""
    match answer.get("error"):
        case "memory":
            return "the decoder needed too much memory"
        case "slow":
            return f"the decoder {words}"
        case "killed":
            return f"the decoder was ended ({words})"
        case "bad":
            return words
        case "refused":
            return f"the decoder tried what it may not ({words})"
        case _:
            return f"the decoder failed ({words or 'no reason given'})"
