"""Blobs as files: `blobs/ab/cdef…`, mode 0444, each named by its SHA-256, so that `sha256sum` checks them.

Durable order: bytes fsynced under a temporary name in staging, linked to their own name, fsync of the bucket (and of
blobs/ when the bucket is new). Only then may a journal item name the blob. The name in staging stays until the caller
discards it, so that bytes whose commit fails are still where they were.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mixfs.blobs.cached import open_cached
from mixfs.blobs.intake import CHUNK, Intake
from mixfs.blobs.removal import Removal, fsync_path
from mixfs.blobs.sums import sums_of
from mixfs.errors import BlobDamaged, BlobMissing, is_damage
from mixfs.ids import Digest
from mixfs.modes import make_directory

_DIFFERS = "is not what was imported: its SHA-256 differs from its name"
# As many files as are synced side by side.
_TOGETHER = 8
# How many comparisons are remembered until they are made use of.
_REMEMBERED = 1024


class _Arrival:
    """An intake on its way to being a blob: `new` here, to be looked at `again`, or stopped by an `error`."""

    __slots__ = ("again", "digest", "error", "intake", "new", "target")

    digest: Digest
    target: Path

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.new = self.again = False
        self.error: OSError | None = None

    @property
    def is_on_its_way(self) -> bool:
        return self.error is None and not self.again


def _each(step: Callable[[_Arrival], None], arrivals: Iterable[_Arrival]) -> None:
    """Take a step with all that came this far; one that fails stops none of the others."""
    for arrival in arrivals:
        if arrival.is_on_its_way:
            try:
                step(arrival)
            except OSError as error:
                arrival.error = error


class LocalBlobs:
    """A `BlobStore` in a directory on the same file system as the staging area."""

    def __init__(
        self, root: Path, *, read_only: bool = False, explain: Callable[[Digest], str] = lambda digest: ""
    ) -> None:
        """`root` is blobs/ of a library. `explain` says more about a blob that is missing, where more is known."""
        self.root = root
        self.removal = Removal(root.parent)
        self._root = str(root)
        self._read_only = read_only
        self._explain = explain
        # Buckets whose own name this process knows to be durable: another's may have been made a moment ago.
        self._buckets: set[str] = set()
        # What `prepare` has compared: the file, by its inode, size and time.
        self._compared: dict[Digest, tuple[int, int, int]] = {}

    def path(self, digest: Digest) -> Path:
        return Path(self._place(digest))

    def _place(self, digest: Digest) -> str:
        # A text: making a Path takes longer than opening the file.
        text = digest.hex()
        return f"{self._root}/{text[:2]}/{text[2:]}"

    def prepare(self, intake: Intake) -> None:
        """Do beforehand what takes longer the longer a file is, so that `receive` has little left to do.

        Its bytes are made durable, or compared with those that lie there.
        """
        digest = intake.digest()
        target = self.path(digest)
        try:
            status = os.stat(target)
        except FileNotFoundError:
            os.fdatasync(intake.fd)
            return
        if self._is_there(target, intake):
            while len(self._compared) >= _REMEMBERED:
                del self._compared[next(iter(self._compared))]
            self._compared[digest] = status.st_ino, status.st_size, status.st_mtime_ns

    def receive(self, intake: Intake, *, durable: bool = True, anew: bool = False) -> tuple[Digest, bool]:
        (received,) = self.receive_all([intake], durable=durable, anew=anew)
        if isinstance(received, OSError):
            raise received
        return received

    def receive_all(
        self, intakes: Sequence[Intake], *, durable: bool = True, anew: bool = False
    ) -> list[tuple[Digest, bool] | OSError]:
        arrivals = [_Arrival(intake) for intake in intakes]
        left = arrivals
        while left:
            self._receive(left, durable, anew)
            left = [arrival for arrival in left if arrival.again]
            for arrival in left:
                arrival.again = False
        return [arrival.error or (arrival.digest, arrival.new) for arrival in arrivals]

    def _receive(self, arrivals: list[_Arrival], durable: bool, anew: bool) -> None:
        """Bytes first, then names, then the fsync of each bucket once: many share what the disk does for one."""

        def look(arrival: _Arrival) -> None:
            arrival.digest = arrival.intake.digest()
            arrival.target = self.path(arrival.digest)
            arrival.new = anew or not self._is_there(arrival.target, arrival.intake)
            if arrival.new:
                os.fchmod(arrival.intake.fd, 0o444)

        def sync(arrival: _Arrival) -> None:
            if arrival.new:
                os.fsync(arrival.intake.fd)
                return
            try:
                # Another process may have linked it without having come to its fsyncs.
                fsync_path(arrival.target)
            except FileNotFoundError:
                # gc took it away: nothing names it yet.
                arrival.again = True

        def name(arrival: _Arrival) -> None:
            if not arrival.new:
                return
            with contextlib.suppress(FileExistsError):
                make_directory(arrival.target.parent)
            try:
                self._link(arrival.intake, arrival.digest, anew)
            except FileExistsError:
                # Another was first, and may not have come to its fsyncs.
                arrival.again = True

        _each(look, arrivals)
        if durable:
            if len(arrivals) < _TOGETHER:
                _each(sync, arrivals)
            else:
                # Side by side, they share a commit of the file system's journal.
                with ThreadPoolExecutor(_TOGETHER) as threads:
                    list(threads.map(lambda arrival: _each(sync, [arrival]), arrivals))
        _each(name, arrivals)
        if durable:
            self._sync_buckets(arrivals)

    def _sync_buckets(self, arrivals: list[_Arrival]) -> None:
        by_bucket: dict[Path, list[_Arrival]] = {}
        for arrival in arrivals:
            if arrival.is_on_its_way:
                by_bucket.setdefault(arrival.target.parent, []).append(arrival)
        fresh = {bucket.name for bucket in by_bucket} - self._buckets
        root_error: OSError | None = None
        try:
            if fresh:
                fsync_path(self.root)
                self._buckets |= fresh
        except OSError as error:
            root_error = error
        for bucket, within in by_bucket.items():
            try:
                if root_error is not None and bucket.name in fresh:
                    raise root_error
                fsync_path(bucket)
            except OSError as error:
                for arrival in within:
                    arrival.error = error

    def _link(self, intake: Intake, digest: Digest, replace: bool) -> None:
        """Give the file its name in blobs/. Raises FileExistsError, unless it is to `replace` what is there."""
        target = self._place(digest)
        try:
            if not replace:
                os.link(intake.path, target)
                return
            other = intake.path.with_name(f"{intake.path.name}.link")
            os.link(intake.path, other)
            self.removal.replace(other, digest)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            # exFAT and its like have no second names for a file.
            copy = Intake(intake.path.with_name(f"{intake.path.name}.copy"))
            try:
                copy.copy_whole(intake.fd)
                os.fsync(copy.fd)
                self.removal.replace(copy.path, digest)
            finally:
                copy.discard()

    def _is_there(self, target: Path, intake: Intake) -> bool:
        """Whether the same bytes lie there. What is not what was imported goes to quarantine: here is a good copy."""
        digest = intake.digest()
        if not target.exists() and not self.removal.bring_back(digest):
            return False
        try:
            fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            status = os.fstat(fd)
            compared = self._compared.pop(digest, None)
            if os.path.samestat(status, os.fstat(intake.fd)):
                return True
            if compared == (status.st_ino, status.st_size, status.st_mtime_ns):
                return True
            if sums_of(fd) == intake.sums():
                return True
        except OSError as error:
            # A disk that can't read it back: as good as gone.
            if not is_damage(error):
                raise
        finally:
            os.close(fd)
        try:
            if not self._wrong(digest, cold=True):
                return True
        except BlobMissing:
            return False
        self.quarantine(digest, "It was not what was imported when the same file came again.")
        return False

    def quarantine(self, digest: Digest, reason: str) -> Path | None:
        return self.removal.quarantine(digest, reason)

    def open(self, digest: Digest) -> int:
        place = self._place(digest)
        try:
            return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        if not self._read_only:
            # A library on a full or failing disk can still be read.
            with contextlib.suppress(OSError):
                self.removal.bring_back(digest)
        for path in (place, self.removal.lost_path(digest)):
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        raise self._missing(digest)

    def open_cached(self, digest: Digest) -> int | None:
        try:
            return open_cached(self._place(digest))
        except FileNotFoundError:
            # `open` looks in lost/ as well.
            return None

    def fetch(self, digest: Digest) -> bytes:
        return b"".join(self.chunks(digest))

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """The bytes of a blob, piece by piece. Raises BlobMissing, and BlobDamaged behind the last when they differ."""
        fd = self.open(digest)
        try:
            found = hashlib.sha256()
            while chunk := os.read(fd, CHUNK):
                found.update(chunk)
                yield chunk
        finally:
            os.close(fd)
        if found.digest() != digest:
            raise self._damaged(digest, _DIFFERS)

    def stat(self, digest: Digest) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def enumerate(self) -> Iterator[tuple[Digest, int]]:
        for bucket in sorted(os.listdir(self.root)):
            if len(bucket) != 2:
                continue
            for name in sorted(os.listdir(self.root / bucket)):
                with contextlib.suppress(ValueError, FileNotFoundError):
                    digest = bytes.fromhex(bucket + name)
                    if len(digest) == 32:
                        yield Digest(digest), (self.root / bucket / name).stat().st_size

    def check(self, digest: Digest) -> None:
        if self._wrong(digest) and (reason := self._wrong(digest, cold=True)):
            raise self._damaged(digest, reason)

    def _wrong(self, digest: Digest, *, cold: bool = False) -> str:
        """What is wrong with a blob's bytes; `cold`: as the disk has them, not the page cache. Raises OSError."""
        found = hashlib.sha256()
        try:
            fd = self.open(digest)
            try:
                if cold:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                while chunk := os.read(fd, CHUNK):
                    found.update(chunk)
            finally:
                os.close(fd)
        except OSError as error:
            if not is_damage(error):
                raise
            return f"can't be read: {error.strerror}"
        return "" if found.digest() == digest else _DIFFERS

    def _missing(self, digest: Digest) -> BlobMissing:
        words = self._explain(digest) or "Restore it from a backup, or import the same file again."
        return BlobMissing(f"{self.path(digest)} is missing. {words}")

    def _damaged(self, digest: Digest, reason: str) -> BlobDamaged:
        return BlobDamaged(
            f"{self.path(digest)} {reason}. Restore it from a backup, or move it away and import the same file again.",
            reason,
        )
