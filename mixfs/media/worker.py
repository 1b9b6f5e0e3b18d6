"""The process that touches foreign bytes. Runs `python -P -m mixfs.media.worker`, one job at a time over its pipes.

A message is a 4-byte big-endian length and a CBOR map. CBOR, not pickle: whatever takes over a worker can send data to
the parent, and nothing that runs. A thread reads the input, so that the end of it (the parent is gone, however it
went) ends the process at once, in the middle of a job too. PR_SET_PDEATHSIG would not do: it fires when the *thread*
that started the worker ends, and the pool's callers are threads that come and go.

A worker writes nothing but answers: no file, not even a thumbnail, which is an answer too. Its limits are set, and the
system calls it does not need are taken from it (`sandbox.py`), once it has imported what it needs.
"""

from __future__ import annotations

import logging
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

import cbor2

from mixfs.media import sandbox
from mixfs.process import give_way, keep_freed_memory

MEMORY_LIMIT = 2 * 1024**3
"""Bytes of address space."""
FILE_LIMIT = 0
"""Bytes of a file that a worker may write; a pipe is no file."""
OPEN_FILES = 32
CPU_PER_JOB_S = 120
"""CPU seconds of one job: the soft limit, moved along before each. SIGXCPU ends the worker."""
NICENESS = 5
"""A decoder waits for who serves the mount, and not the other way round."""
MAX_MESSAGE = 128 * 1024**2


def write_message(stream: BinaryIO, message: Any) -> None:
    body = cbor2.dumps(message)
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def read_message(stream: BinaryIO) -> Any:
    """The next message; None at the end of the stream, or when what comes is no message."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > MAX_MESSAGE:
        return None
    body = stream.read(size)
    return cbor2.loads(body) if len(body) == size else None


def limit_process() -> None:
    """Limits on memory, files written, open files; no core dumps of other people's pictures."""
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY_LIMIT),
        (resource.RLIMIT_FSIZE, FILE_LIMIT),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def limit_cpu() -> None:
    """Give the next job its CPU seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + CPU_PER_JOB_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


class _Faults(logging.Handler):
    """What readers log of themselves: it goes along with the answer, into the log of who asked."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        where = ""
        if error is not None and (last := traceback.extract_tb(error.__traceback__)[-1:]):
            where = f": {type(error).__name__}: {error} ({os.path.basename(last[0].filename)}:{last[0].lineno})"
        self.lines.append(f"{record.getMessage()}{where}"[:300])


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; the answer has `ok`, or `error` (`memory`, `os`, `bad`, `refused`, `failed`) with its words.

    `faults` are those of our own code that did not keep it from answering.
    """
    faults = _Faults()
    logger = logging.getLogger("mixfs.media")
    logger.addHandler(faults)
    try:
        return _answer(job) | ({"faults": faults.lines} if faults.lines else {})
    finally:
        logger.removeHandler(faults)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": _do(job)}
    except MemoryError:
        return {"error": "memory", "text": ""}
    except OSError as error:
        if error.errno == sandbox.REFUSED:
            return {"error": "refused", "text": f"{error}"[:300]}
        return {"error": "os", "errno": error.errno or 5, "text": error.strerror or str(error)}
    except Exception as error:  # noqa: BLE001 - a fault in a reader is an answer, not the end of the worker
        kind = "bad" if type(error).__name__ == "BadPicture" else "failed"
        return {"error": kind, "text": f"{error}" if kind == "bad" else f"{type(error).__name__}: {error}"[:300]}


def _do(job: dict[str, Any]) -> Any:
    kind = job["kind"]
    if kind == "inspect":
        from mixfs.media.inspect import inspect_file
        from mixfs.media.types import inspection_to_dict

        return inspection_to_dict(inspect_file(os.fsdecode(job["path"]), pixels=job["pixels"]))
    if kind == "thumbnail":
        from mixfs.media.thumbnails import make_thumbnail

        return make_thumbnail(job["source"], job["size"])
    raise ValueError(f"unknown job {kind!r}")


def _read_jobs(stream: BinaryIO, jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    while True:
        try:
            job = read_message(stream)
        except (cbor2.CBORDecodeError, OSError):
            job = None
        if job is None:
            os._exit(0)
        jobs.put(job)


def _import_all() -> None:
    """What jobs need, the plugins of Pillow apart, which need no more than to be read: afterwards no bytecode could be
    kept, and each worker of a checkout would compile anew."""
    import mixfs.media.inspect
    import mixfs.media.thumbnails  # noqa: F401


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C in the parent's terminal is the parent's to handle.
    os.nice(NICENESS)
    keep_freed_memory()
    _import_all()
    limit_process()
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)
    if sys.argv[1:] == ["--idle"]:
        # Only now: on a busy machine it would hardly come to its start.
        give_way()
    free = sandbox.restrict()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(sys.stdin.buffer, jobs), daemon=True).start()
    write_message(answers, {"ready": os.getpid(), "free": free})
    os.dup2(silent, 2)  # Up to here errors are for the parent to report; libtiff's warnings are not.
    try:
        while True:
            job = jobs.get()
            limit_cpu()
            write_message(answers, run_job(job))
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
