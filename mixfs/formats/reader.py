"""The process that reads foreign layouts: `python -P -m mixfs.formats.reader SOCKET`, a descriptor.

It looks for layouts below a path, and reads what it is told to into pieces, which go to the process that started it
(`reader_process.py`) together with whatever bytes belong into the library. It has no library, writes nothing but
SQLite's private copies in a folder of its own, and may open only what it is there to read: limits, system calls and
Landlock are set before the first foreign byte. Its input is a lifeline: when that ends, so does the process, in the
middle of a query too. A process that reads from a server has the limits alone, since it needs the network.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixfs.errors import MixfsError, UsageError
from mixfs.formats.base import Asset, FoundFile, Options, Piece, Problem, Refused, Skipped, Source
from mixfs.formats.channel import Channel, Closed, packed
from mixfs.formats.fetching import NotFetched
from mixfs.formats.layouts import FORMATS, named, within
from mixfs.formats.sqlite_files import MAX_DATABASE
from mixfs.ids import Digest
from mixfs.media import sandbox
from mixfs.records import Edge, Entry, Generation, Record, problem_of, to_map

MEMORY_LIMIT = 4 << 30
CPU_S = 1800
"""CPU seconds for each thing that it is told to do."""
OPEN_FILES = 64
NICENESS = 5
_TICK_S = 1.0
_CHUNK = 1 << 20


class RemoteSource(Source):
    """What a reader reads from here: bytes that it takes go to the other process."""

    def __init__(self, channel: Channel, path: str, options: Options, job: dict[str, Any]) -> None:
        left_out = frozenset(map(os.fsdecode, job["left_out"]))
        own = frozenset(map(os.fsdecode, job["own"]))
        self._channel, self._done, self._told = channel, 0, time.monotonic()
        super().__init__(path, options, None, left_out=left_out, own=own)
        self._dry_run = bool(job["dry_run"])
        self._mtimes: dict[str, int] = {}

    @property
    def dry_run(self) -> bool:
        return self._dry_run

    @property
    def done(self) -> int:
        return self._done

    @done.setter
    def done(self, value: int) -> None:
        self._done = value
        self.tick()

    def tick(self) -> None:
        if time.monotonic() > self._told + _TICK_S:
            self.tell({"tick": True})

    def tell(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Send a message, with how far the reader is."""
        self._told = time.monotonic()
        self._channel.send(message | {"at": [self.total, self._done, os.fsencode(self.file)]}, fd)

    def ask(self, message: dict[str, Any], fd: int | None = None) -> tuple[dict[str, Any], int | None]:
        """Send a request and wait for the answer. Raises what the other process met with."""
        self.tell(message, fd)
        answer, received = self._channel.receive()
        if "errno" in answer:
            name = answer["name"]
            raise OSError(answer["errno"], answer["text"], os.fsdecode(name) if name else None)
        if "error" in answer:
            raise (NotFetched if answer["error"] == "NotFetched" else MixfsError)(answer["text"])
        return answer, received

    def _asked(self, message: dict[str, Any], fd: int | None = None) -> Asset:
        answer, _ = self.ask(message, fd)
        digest, size, media_type = answer["asset"]
        self.bytes += size
        return Asset(Digest(digest), size, media_type)

    def take_opened(self, path: Path, fd: int) -> Asset:
        answer, _ = self.ask({"file": os.fsencode(path)}, fd)
        self._mtimes[str(path)] = answer["mtime_ns"]
        digest, size, media_type = answer["asset"]
        return Asset(Digest(digest), size, media_type)

    def mtime_ns(self, path: Path) -> int:
        return self._mtimes[str(path)] if str(path) in self._mtimes else path.stat().st_mtime_ns

    def fetch(self, url: str) -> Asset:
        return self._asked({"fetch": url})

    def _take(self, parts: Any) -> Asset:
        for part in parts:
            for start in range(0, len(part), _CHUNK):
                self.tell({"part": bytes(part[start : start + _CHUNK])})
        return self._asked({"parts": "end"})

    def begin_rewrite(self) -> int:
        _, fd = self.ask({"rewrite": "begin"})
        if fd is None:
            raise Closed
        return fd

    def end_rewrite(self) -> None:
        self.ask({"rewrite": "end"})


def _piece(piece: Piece) -> Iterator[dict[str, Any]]:
    """A piece as a message. Records that can't be kept become messages of their own, unless it is to be taken whole."""
    out: dict[str, Any] = {
        "place": piece.place.encode("utf-8", "surrogatepass"), "whole": piece.whole, "log": list(piece.log),
        "thumbnails": [[name.encode("utf-8", "surrogatepass"), os.fsencode(path)] for name, path in piece.thumbnails],
        "settled": piece.settled is not None, "files": [], "entries": [], "edges": [], "generations": [],
    }  # fmt: skip
    try:
        out["session"] = _record(piece.session)
    except ValueError as error:
        yield _problem(Problem(piece.place, str(error)))
        return
    records: tuple[Entry | Edge | Generation, ...] = (*piece.entries, *piece.edges, *piece.generations)
    for record in records:
        kind = type(record).__name__.lower()
        try:
            out[{"entry": "entries"}.get(kind, f"{kind}s")].append(_record(record))
        except ValueError as error:
            if piece.whole:
                raise Refused(str(error)) from error
            yield _problem(Problem(f"{piece.place}: {kind} {record.id}", str(error)))
    for file in piece.files:
        try:
            out["files"].append(packed(_file(file)))
        except ValueError as error:
            if piece.whole:
                raise Refused(str(error)) from error
            yield _problem(Problem(file.place, str(error)))
    yield {"piece": out}


def _record(record: Record) -> bytes:
    """A record as CBOR. Raises ValueError for one that could not be kept."""
    data = to_map(record)
    problem = problem_of(type(record), data)
    if problem is not None:
        raise ValueError(f"{problem}, which is not of the field's type.")
    return packed(data)


def _file(file: FoundFile) -> dict[str, Any]:
    return {
        "id": file.id, "place": file.place.encode("utf-8", "surrogatepass"), "asset": list(file.asset),
        "name": file.name, "folders": list(file.folders), "role": file.role, "mtime_ns": file.mtime_ns,
        "foreign": dict(file.foreign),
    }  # fmt: skip


def _problem(problem: Problem) -> dict[str, Any]:
    words = [each.encode("utf-8", "surrogatepass") for each in (problem.place, problem.reason)]
    return {"problem": [isinstance(problem, Skipped), *words, os.fsencode(problem.file)]}


def _read(channel: Channel, job: dict[str, Any]) -> None:
    given = job["options"]
    rewrite = Path(os.fsdecode(given["rewrite"])) if given["rewrite"] is not None else None
    session = given["session"].decode("utf-8", "surrogatepass") if given["session"] is not None else None
    options = Options(
        fetch=given["fetch"], fetch_private=given["fetch_private"], rewrite=rewrite, session=session
    )  # fmt: skip
    source = RemoteSource(channel, os.fsdecode(job["path"]), options, job)
    for item in named(job["read"]).read(source):
        messages = _piece(item) if isinstance(item, Piece) else iter([_problem(item)])
        for message in messages:
            try:
                source.tell(message)
            except ValueError as error:
                raise Refused(f"What {source.file or source.location} holds is too much at once: {error}.") from error
    source.tell({"end": True})


def _find(channel: Channel, job: dict[str, Any]) -> None:
    own, skip = (frozenset(map(os.fsdecode, job[name])) for name in ("own", "skip"))
    formats = tuple(layout for layout in FORMATS if layout.NAME in job["formats"])

    def look_at(path: Path) -> bool:
        channel.send({"at": os.fsencode(path)})
        return str(path) not in skip

    told = time.monotonic()

    def tick() -> None:
        nonlocal told
        if time.monotonic() > told + _TICK_S:
            told = time.monotonic()
            channel.send({"tick": True})

    for path, layout in within(Path(os.fsdecode(job["find"])), own, formats, look_at, tick):
        channel.send({"found": [os.fsencode(path), layout.NAME]})
    channel.send({"end": True})


def _limit() -> None:
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY_LIMIT), (resource.RLIMIT_FSIZE, MAX_DATABASE),
        (resource.RLIMIT_NOFILE, OPEN_FILES), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _limit_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _serve(channel: Channel) -> None:
    while True:
        job, _ = channel.receive()
        _limit_cpu()
        try:
            (_read if "read" in job else _find)(channel, job)
        except OSError as error:
            name = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
            words = "It needs a system call that a reader may not make" if error.errno == sandbox.REFUSED else ""
            channel.send({"errno": error.errno or 5, "text": words or error.strerror or str(error), "name": name})
        except MemoryError:
            words = f"Reading it takes more than {MEMORY_LIMIT >> 30} GiB of memory."
            channel.send({"error": "Refused", "text": words})
        except UsageError as error:
            channel.send({"error": "UsageError", "text": _words(error)})
        except MixfsError as error:
            channel.send({"error": "Refused", "text": _words(error)})
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of a reader costs what it was reading, and is reported
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__}: {_words(error)} ({os.path.basename(last[0])}:{last.lineno})"
            channel.send({"error": "Refused", "text": f"MixFS can't read it, which is a bug in MixFS: {where:.400}."})


def _words(error: Exception) -> str:
    return str(error).encode("utf-8", "backslashreplace").decode()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    os.nice(NICENESS)
    try:
        setup, _ = channel.receive()
        os.environ["TMPDIR"] = os.fsdecode(setup["temporary"])
        _limit()
        free = ""
        if not setup["network"]:
            free = sandbox.restrict_paths([os.fsdecode(path) for path in setup["readable"]], os.environ["TMPDIR"])
            free = "; ".join(filter(None, (free, sandbox.restrict(sandbox.READER))))
        threading.Thread(target=_end_with_input, daemon=True).start()
        channel.send({"ready": os.getpid(), "free": free})
        _serve(channel)
    except Closed:
        os._exit(0)


if __name__ == "__main__":
    main()
