"""The processes that read foreign layouts, from the side that has the library (`reader.py` is the other side).

A reader that dies, or says nothing for `SILENCE_S`, costs what it was reading: that is reported and stays a plain file,
and the next thing gets a new process. What comes from a reader is checked, and never trusted: its descriptors must be
regular files, and the bytes that it names must be those that it was given a digest for.

Concurrency: a `ReaderProcess` belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mixfs.errors import MixfsError, UsageError, os_words
from mixfs.formats import storage_v2_names
from mixfs.formats.base import Asset, Format, FoundFile, Piece, Problem, Refused, Skipped, Source
from mixfs.formats.channel import Channel, Closed, TimedOut, unpacked
from mixfs.formats.fetching import NotFetched
from mixfs.formats.source_urls import is_url
from mixfs.process import environment
from mixfs.records import SENSELESS, Edge, Entry, Generation, Record, Session, from_map

SILENCE_S = 60.0
"""How long a reader may work without a word."""
FIND_S = 300.0
"""How long one place may be looked at for layouts; what was found until then counts."""
START_S = 60.0
MAX_DEATHS = 10
"""Readers that may die while one place is looked at."""
TOO_LONG = (
    "Looking for layouts took more than {:g} s and was ended here; the rest is imported as plain files. "
    "Import a folder of it by itself, or all with --format files."
)
_KINDS: tuple[tuple[str, type[Any]], ...] = (("entries", Entry), ("edges", Edge), ("generations", Generation))


class ReaderFailed(Refused):
    """A reader died, took too long, or said what makes no sense."""


class ReaderProcess:
    """Reads layouts in a process with limits, which is started when it is needed, and again after it died."""

    def __init__(self, readable: Iterable[Path], temporary: Callable[[], Path]) -> None:
        """It may read below the folders in `readable`, and whatever lies beside the files in it: journals and pictures.

        `temporary` makes a directory in which it may have a folder.
        """
        folders = [path if path.is_dir() else path.parent for path in readable]
        self._readable = [os.path.realpath(folder) for folder in folders]
        self._temporary = temporary
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._network = False
        self._folder: Path | None = None
        self.free = ""
        """Why it is not restricted as it should be; empty when it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the process

    @property
    def pid(self) -> int | None:
        """The process id, while one runs."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process and what it made."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._channel = self._folder = None

    def _ready(self, network: bool) -> Channel:
        """The channel to a running process. Raises ReaderFailed, OSError."""
        if self._channel is not None and self._network == network:
            return self._channel
        self.close()
        self._network = network
        self._folder = self._temporary() / f"reader-{os.urandom(6).hex()}"
        self._folder.mkdir(0o700)
        ours, theirs = socket.socketpair()
        with open(os.memfd_create("reader-errors"), "w+b") as errors:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "mixfs.formats.reader", str(theirs.fileno())], stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=errors, pass_fds=[theirs.fileno()], cwd="/", env=environment(),
                    process_group=0,
                )  # fmt: skip
            self._channel = Channel(ours)
            setup = {
                "readable": [os.fsencode(path) for path in self._readable], "temporary": os.fsencode(self._folder),
                "network": network,
            }  # fmt: skip
            try:
                self._channel.send(setup, timeout_s=START_S)
                answer, _ = self._channel.receive(START_S)
                self.free = str(answer.get("free") or "")
            except (Closed, TimedOut, ValueError) as error:
                words = self._last_words()
                errors.seek(0)
                said = errors.read(65536).decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise ReaderFailed(f"The process that reads layouts did not start ({words}): {said}") from error
        return self._channel

    def _last_words(self) -> str:
        """End a process that failed; how it ended."""
        process = self._process
        code: int | None = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # One that closed its end is about to be gone by itself.
                code = process.wait(0.5)
        self.close()
        if code is None:
            return "it was ended"
        with contextlib.suppress(ValueError):
            if code < 0:
                return f"killed by signal {-code}, {signal.Signals(-code).name}"
        return f"exit status {code}"

    def _heard(self, channel: Channel, ended: str) -> tuple[dict[str, Any], int | None]:
        """The next message. Raises ReaderFailed, OSError, UsageError, Refused: what the reader met with."""
        try:
            message, fd = channel.receive(SILENCE_S)
        except TimedOut as error:
            self.close()
            raise ReaderFailed(f"{ended} made no progress for {SILENCE_S:g} s and was ended.") from error
        except Closed as error:
            raise ReaderFailed(f"{ended} broke off: the process was lost ({self._last_words()}).") from error
        if "errno" in message:
            name = os.fsdecode(message["name"]) or None
            raise OSError(int(message["errno"]), str(message["text"]), name)
        if "error" in message:
            raise (UsageError if message["error"] == "UsageError" else Refused)(str(message["text"]))
        return message, fd

    # -- looking

    def find(
        self, path: Path, own: frozenset[str], formats: Iterable[Format]
    ) -> tuple[list[tuple[Path, str]], list[Problem]]:
        """What `layouts.within` finds below a path, by the names of layouts, and what could not be looked at.

        After `FIND_S`, what is found by then.
        """
        problems: list[Problem] = []
        skip: list[bytes] = []
        until = time.monotonic() + FIND_S
        while True:
            found: list[tuple[Path, str]] = []
            at = os.fsencode(path)
            try:
                channel = self._ready(network=False)
                channel.send(
                    {"find": os.fsencode(path), "own": list(map(os.fsencode, own)), "skip": skip,
                     "formats": [layout.NAME for layout in formats]}, timeout_s=SILENCE_S,
                )  # fmt: skip
                while "end" not in (message := self._heard(channel, "Looking at it")[0]):
                    if time.monotonic() > until:
                        self.close()
                        problems.append(Problem("", TOO_LONG.format(FIND_S), os.fsdecode(at)))
                        break
                    if "at" in message:
                        at = bytes(message["at"])
                    elif "tick" not in message:
                        name, layout = message["found"]
                        found.append((Path(os.fsdecode(name)), str(layout)))
                return found, problems
            except (OSError, MixfsError, Closed, TimedOut, ValueError) as error:
                self.close()
                problems.append(Problem("", _words(error), os.fsdecode(at)))
                if at in skip or len(problems) >= MAX_DEATHS or time.monotonic() > until:
                    return [], problems
                skip.append(at)

    # -- reading

    def read(self, layout: Format, source: Source) -> Iterator[Piece | Problem]:
        """As `layout.read`. Raises Refused, UsageError, OSError."""
        options = source.options
        job = {
            "read": layout.NAME, "path": os.fsencode(source.location), "dry_run": source.dry_run,
            "left_out": list(map(os.fsencode, source.left_out)), "own": list(map(os.fsencode, source.own)),
            "options": {
                "fetch": options.fetch, "fetch_private": options.fetch_private,
                "rewrite": os.fsencode(options.rewrite) if options.rewrite is not None else None,
                "session": options.session.encode("utf-8", "surrogatepass") if options.session is not None else None,
            },
        }  # fmt: skip
        channel = self._ready(network=is_url(source.location))
        finished = False
        try:
            channel.send(job, timeout_s=SILENCE_S)
            yield from _Reading(self, channel, source).run()
            finished = True
        except SENSELESS as error:
            raise ReaderFailed("Its reader's answer made no sense.") from error
        except (OSError, MixfsError) as error:
            # It is ready for the next job, unless it is gone.
            finished = not isinstance(error, ReaderFailed)
            raise
        except (Closed, TimedOut) as error:
            raise ReaderFailed(f"Its reader was lost ({self._last_words()}).") from error
        finally:
            if not finished:
                self.close()


def _words(error: Exception) -> str:
    return os_words(error) if isinstance(error, OSError) else str(error) or "The process that reads layouts was lost."


class _Reading:
    """What one reader says of one source, and what it is answered."""

    def __init__(self, process: ReaderProcess, channel: Channel, source: Source) -> None:
        self._process, self._channel, self._source = process, channel, source
        self._assets: dict[bytes, Asset] = {}
        self._parts: Iterator[dict[str, Any]] = iter(())

    def run(self) -> Iterator[Piece | Problem]:
        while True:
            message, fd = self._next()
            try:
                if "end" in message:
                    return
                if "piece" in message:
                    yield self._piece(message["piece"])
                elif "problem" in message:
                    yield _problem(message["problem"])
                elif "tick" not in message:
                    self._answer(message, fd)
            finally:
                if fd is not None:
                    os.close(fd)

    def _next(self) -> tuple[dict[str, Any], int | None]:
        message, fd = self._process._heard(self._channel, "Reading it")
        total, done, file = message["at"]
        self._source.total, self._source.done, self._source.file = int(total), int(done), os.fsdecode(file)
        return message, fd

    def _answer(self, message: dict[str, Any], fd: int | None) -> None:
        """Do what the reader asks for. What goes wrong is the reader's to deal with."""
        passed: int | None = None
        try:
            answer: dict[str, Any] = {}
            if "file" in message:
                answer = self._file(Path(os.fsdecode(message["file"])), fd)
            elif "fetch" in message and self._source.options.fetch and not self._source.dry_run:
                answer = self._given(self._source.fetch(str(message["fetch"])))
            elif "part" in message or "parts" in message:
                answer = self._given(self._source.take_stream(_Parts(self, message)))
            elif message.get("rewrite") == "begin" and not self._source.dry_run:
                passed = self._source.begin_rewrite()
            elif message.get("rewrite") == "end":
                self._source.end_rewrite()
            else:
                raise ValueError("a request")
        except OSError as error:
            name = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
            answer = {"errno": error.errno or 5, "text": error.strerror or str(error), "name": name}
        except ReaderFailed:
            raise
        except MixfsError as error:
            answer = {"error": "NotFetched" if isinstance(error, NotFetched) else "MixfsError", "text": str(error)}
        try:
            self._channel.send(answer, passed, timeout_s=SILENCE_S)
        finally:
            if passed is not None:
                os.close(passed)

    def _file(self, path: Path, fd: int | None) -> dict[str, Any]:
        known = self._source.known(path)
        if known is not None:
            self._source.taken.add(str(path))
            return self._given(known.asset) | {"mtime_ns": known.mtime_ns}
        if fd is None:
            raise ValueError("a file without a descriptor")
        asset = self._source.take_opened(path, fd)
        return self._given(asset) | {"mtime_ns": os.fstat(fd).st_mtime_ns}

    def _given(self, asset: Asset) -> dict[str, Any]:
        self._assets[asset.digest] = asset
        return {"asset": list(asset)}

    def _piece(self, out: dict[str, Any]) -> Piece:
        thumbnails = [
            (name.decode("utf-8", "surrogatepass"), Path(os.fsdecode(path))) for name, path in out["thumbnails"]
        ]
        below = os.path.realpath(self._source.path if self._source.path.is_dir() else self._source.path.parent)
        return Piece(
            place=out["place"].decode("utf-8", "surrogatepass"), session=_record(Session, out["session"]),
            files=tuple(map(self._found_file, out["files"])), log=tuple(bytes(line) for line in out["log"]),
            thumbnails=tuple(pair for pair in thumbnails if os.path.realpath(pair[1]).startswith(f"{below}/")),
            settled=storage_v2_names.settled if out["settled"] else None, whole=bool(out["whole"]),
            **{name: tuple(_record(cls, data) for data in out[name]) for name, cls in _KINDS},
        )  # fmt: skip

    def _found_file(self, data: bytes) -> FoundFile:
        out = unpacked(data)
        return FoundFile(
            id=str(out["id"]), place=out["place"].decode("utf-8", "surrogatepass"),
            asset=self._assets[bytes(out["asset"][0])], name=bytes(out["name"]),
            folders=tuple(map(bytes, out["folders"])), role=str(out["role"]), mtime_ns=int(out["mtime_ns"]),
            foreign=dict(out["foreign"]),
        )  # fmt: skip


class _Parts:
    """The bytes that a reader sends, as a stream."""

    def __init__(self, reading: _Reading, first: dict[str, Any]) -> None:
        self._reading, self._first = reading, first

    def read(self, size: int = -1) -> bytes:
        message = self._first or self._reading._next()[0]
        self._first = {}
        return bytes(message["part"]) if "part" in message else b""


def _record(cls: type[Any], data: bytes) -> Any:
    record: Record = from_map(cls, unpacked(data))
    return record


def _problem(out: list[Any]) -> Problem:
    skipped, *words, file = out
    place, reason = (word.decode("utf-8", "surrogatepass") for word in words)
    return (Skipped if skipped else Problem)(place, reason, os.fsdecode(file))


