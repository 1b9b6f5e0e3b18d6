"""What a layout is to MixFS: the pieces that its reader yields, and the report of what became of them.

A module of this room describes one layout. It has `NAME`, `detect(path)`, which looks at content and never at names
alone, and `read(source)`, an iterator of pieces and problems; where the layout goes out too, functions that write it.
Readers never change what they read, and put nothing into the library: `taking.py` does, for all of them.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import re
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from mixfs.blobs import Intake
from mixfs.blobs.intake import CHUNK, MAX_SIZE
from mixfs.errors import ExistsError, InvalidValue, MixfsError
from mixfs.formats.fetching import fetch
from mixfs.ids import Digest
from mixfs.library.exporting import publish_file
from mixfs.library.view import View
from mixfs.media.sniff import HEAD_SIZE, sniff
from mixfs.records import Edge, Entry, Generation, Session
from mixfs.regular_files import CHANGED, READINGS, check_regular, is_unchanged, open_regular


class Refused(MixfsError):
    """A source that can't be taken as a whole; nothing of it was taken. The text says where, and why."""


class TooLarge(MixfsError):
    """Bytes that are more than a layout allows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not taken: where it stands in the source, and why. `file` is the source unless it is named."""

    place: str
    reason: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Skipped(Problem):
    """Something that is left where it is by design, like a placeholder on the web: nothing went wrong."""


class Asset(NamedTuple):
    """Bytes that a reader took: staged for the library, or on a dry run only looked at."""

    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file for a session. `id` names it within the session, so that a second import finds it."""

    id: str
    place: str
    asset: Asset
    name: bytes
    folders: tuple[bytes, ...] = ()
    role: str = "output"
    mtime_ns: int = 0
    foreign: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is committed together: a session, or some of what is in it.

    All ids are the layout's own, also the `placement_id` of what generations name; `editing.member_id` says under which
    they are kept. With `whole` nothing is taken if one record can't be.
    """

    place: str
    session: Session
    files: tuple[FoundFile, ...] = ()
    entries: tuple[Entry, ...] = ()
    edges: tuple[Edge, ...] = ()
    generations: tuple[Generation, ...] = ()
    # Of Storage V2: lines of its log, and thumbnails (folder, file), for `Library.app_files`.
    log: tuple[bytes, ...] = ()
    thumbnails: tuple[tuple[str, Path], ...] = ()
    # Of Storage V2: the piece under names that are free in the library; asked in the transaction that takes it.
    settled: Callable[[View, Piece], Piece] | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user asked for. Limits of `fetch` are in fetching.py."""

    fetch: bool = False
    fetch_private: bool = False
    rewrite: Path | None = None
    session: str | None = None


class Known(NamedTuple):
    """A file that the library has already: its bytes need not be taken again. The time is the one a program gave it."""

    asset: Asset
    mtime_ns: int


class Source:
    """What a reader reads from: the path, the options, and `take_*`, through which all bytes go to the library.

    `total` and `done` say how far a reader is, in a unit of its choice; total 0 is unknown. `taken` are the files that
    were taken, by their paths. Of what a reader finds by itself it leaves the files `left_out`, which other layouts
    within took, and the folders `own` (real paths), which are the library's.
    """

    def __init__(
        self, path: str, options: Options, stage: Callable[[], Intake] | None,
        known: Mapping[str, Known] | None = None, left_out: Set[str] = frozenset(),
        own: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`stage` makes an empty file in the library's staging area; None for a dry run. `known` goes by paths."""
        self.location = path
        self.options = options
        self.left_out, self.own = left_out, own
        # Which file of a folder is read: what problems are in that name no other.
        self.file = ""
        self.taken: set[str] = set()
        self._known = known or {}
        self.total = 0
        self.done = 0
        self.bytes = 0
        self.staged: dict[Digest, Intake] = {}
        self._stage = stage
        self._rewritten: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def dry_run(self) -> bool:
        return self._stage is None

    def take_bytes(self, data: bytes) -> Asset:
        """Take bytes that are in memory."""
        return self._take([data])

    def take_file(self, path: Path) -> Asset:
        """Take a regular file; symbolic links in its last part are not followed. Raises OSError."""
        known = self._known.get(str(path))
        if known is not None:
            self.taken.add(str(path))
            return known.asset
        fd = open_regular(path, follow=False)
        try:
            return self.take_opened(path, fd)
        finally:
            os.close(fd)

    def take_opened(self, path: Path, fd: int) -> Asset:
        """Take a file that is open already. Raises OSError, also when somebody changes it all the while."""
        for _ in range(READINGS):
            before = os.fstat(fd)
            check_regular(before, path, MAX_SIZE)
            asset = self._take_copy(fd)
            if is_unchanged(before, os.fstat(fd)):
                self.taken.add(str(path))
                return asset
            self._forget(asset)
        raise OSError(errno.EBUSY, CHANGED, str(path))

    def _take_copy(self, fd: int) -> Asset:
        if self._stage is None:
            with open(os.dup(fd), "rb", buffering=0) as file:
                file.seek(0)
                return self.take_stream(file)
        intake = self._stage()
        try:
            intake.copy_whole(fd)
            return self._keep(intake, os.pread(intake.fd, HEAD_SIZE, 0))
        except BaseException:
            intake.discard()
            raise

    def known(self, path: Path) -> Known | None:
        """The file of a path, where the library has it already."""
        return self._known.get(str(path))

    def fetch(self, url: str) -> Asset:
        """Take what a URL names. Raises NotFetched."""
        with fetch(url, private=self.options.fetch_private) as download:
            return self.take_stream(download)

    def begin_rewrite(self) -> int:
        """A descriptor for what --rewrite asks for; `end_rewrite` names the file. Raises ExistsError, OSError."""
        target = self.options.rewrite
        assert target is not None
        if os.path.lexists(target):
            raise ExistsError(f"{target} exists: choose another name.")
        folder = os.path.dirname(os.path.abspath(target))
        fd, self._rewritten = tempfile.mkstemp(prefix=".mixfs-", suffix=".part", dir=folder)
        return fd

    def end_rewrite(self) -> None:
        """Everything is written: give the file its name, unless that is taken by now. Raises OSError."""
        target, written = self.options.rewrite, self._rewritten
        assert target is not None and written is not None
        fd = os.open(written, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            umask = os.umask(0)
            os.umask(umask)
            with contextlib.suppress(PermissionError):  # of file systems without modes
                os.fchmod(fd, 0o666 & ~umask)
        finally:
            os.close(fd)
        publish_file(Path(written), Path(os.path.abspath(target)))

    def tick(self) -> None:
        """A reader calls it where it works for long without yielding anything."""

    def _forget(self, asset: Asset) -> None:
        """Let go of bytes that were read while somebody changed them."""
        self.bytes -= asset.size
        if (intake := self.staged.pop(asset.digest, None)) is not None:
            intake.discard()

    def mtime_ns(self, path: Path) -> int:
        """When a file was changed. Raises OSError."""
        known = self._known.get(str(path))
        return known.mtime_ns if known is not None else path.stat().st_mtime_ns

    def take_stream(self, stream: BinaryIO | Any, limit: int | None = None) -> Asset:
        """Take what a stream gives until its end. Raises TooLarge beyond `limit` bytes."""

        def parts() -> Iterator[bytes]:
            size = 0
            while part := stream.read(CHUNK):
                size += len(part)
                if limit is not None and size > limit:
                    raise TooLarge(f"It has more than {limit} bytes.")
                yield part

        return self._take(parts())

    def _take(self, parts: Iterable[bytes]) -> Asset:
        head, size = b"", 0
        if self._stage is None:
            found = hashlib.sha256()
            for part in parts:
                found.update(part)
                head, size = head or part[:HEAD_SIZE], size + len(part)
            self.bytes += size
            return Asset(Digest(found.digest()), size, sniff(head))
        intake = self._stage()
        try:
            for part in parts:
                size += intake.write(part, size)
                head = head or part[:HEAD_SIZE]
            return self._keep(intake, head)
        except BaseException:
            intake.discard()
            raise

    def _keep(self, intake: Intake, head: bytes) -> Asset:
        digest, size = intake.digest(), intake.size
        if digest in self.staged:
            intake.discard()
        else:
            intake.park()
            self.staged[digest] = intake
        self.bytes += size
        return Asset(digest, size, sniff(head))

    def discard(self) -> None:
        """Let go of what was staged and not committed."""
        for intake in self.staged.values():
            intake.discard()
        self.staged.clear()

    def close(self) -> None:
        """Let go of everything."""
        self.discard()
        if self._rewritten is not None:
            Path(self._rewritten).unlink(missing_ok=True)


@dataclass(slots=True)
class Report:
    """What became of one source. `taken` and `known` count sessions, pictures, files, entries, edges, generations.

    `differs` counts what the library has with other content: that stays as it is. `total` and `done` are the reader's.
    """

    path: str
    layout: str
    dry_run: bool = False
    taken: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    differs: int = 0
    bytes: int = 0
    not_taken: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    total: int = 0
    done: int = 0

    def count(self, kind: str, known: bool) -> None:
        counts = self.known if known else self.taken
        counts[kind] = counts.get(kind, 0) + 1


class Format(Protocol):
    """A module of this room."""

    NAME: str
    TITLE: str

    def detect(self, path: Path, /) -> bool:
        """Whether the file or folder is of this layout, by its content. Raises OSError."""

    def read(self, source: Source, /) -> Iterator[Piece | Problem]:
        """What is in it, piece by piece. Raises Refused, OSError."""


def data_uri(uri: str, *, may_be_empty: bool = False) -> bytes:
    """The bytes of a data URI. Raises InvalidValue."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise InvalidValue(f"The data URI {uri!r:.40} has no data.")
    if head.lower().rpartition(";")[2].strip() != "base64":
        data = urllib.parse.unquote_to_bytes(body)
    else:
        # As browsers do: percent-encoded, with spaces, and without padding too.
        plain = b"".join(urllib.parse.unquote_to_bytes(body).split()).rstrip(b"=")
        try:
            data = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except ValueError as error:
            raise InvalidValue(f"The data URI {uri!r:.40} is no valid base64: {error}.") from None
    if not data and not may_be_empty:
        raise InvalidValue(f"The data URI {uri!r:.40} has no data.")
    return data


def beside(root: Path, relative: str) -> Path:
    """A file below a folder, by a path that a layout says. Raises InvalidValue when it leads out, also by a link."""
    # A folder that was written on Windows has backslashes, unless there is a file of such a name here.
    separators = r"/" if "\\" in relative and os.path.lexists(root / relative) else r"[/\\]"
    parts = [part for part in re.split(separators, relative) if part not in ("", ".")]
    if "\0" in relative or relative.startswith(("/", "\\")) or ".." in parts or not parts:
        raise InvalidValue(f"The path {relative!r:.120} leads out of {root}.")
    path = root.joinpath(*parts)
    if not os.path.realpath(path).startswith(os.path.realpath(root) + "/"):
        raise InvalidValue(f"The path {relative!r:.120} leads out of {root} by a link.")
    return path


def head_of(path: Path, size: int = HEAD_SIZE) -> bytes:
    """The first bytes of a regular file; none of anything else."""
    if not path.is_file():
        return b""
    with open(open_regular(path), "rb") as file:
        return file.read(size)


def number(value: Any) -> float | None:
    """A number that JSON said and a float holds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -sys.float_info.max <= value <= sys.float_info.max else None


def text(value: Any) -> str | None:
    """A text that JSON said; None for anything else."""
    return value if isinstance(value, str) else None


def split_off(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What is left of an object without the fields that are read: kept as it came."""
    return {key: value for key, value in data.items() if key not in names}
