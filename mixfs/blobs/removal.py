"""Taking originals away: the only module that unlinks, renames or replaces a file of blobs/ or lost/.

Belongs here: each step that could cost the only copy of an original. When a step is taken is decided elsewhere
(`mixfs.library.gc`, `mixfs.library.healing`); nothing else in MixFS may take such a step, and
`tests/unit/library/test_lost.py` looks through the source for it.

    lost/ab/cdef…        an original that nothing referenced, as it was in blobs/
    lost/ab/cdef….json   the note: what was last known of it (`mixfs.library.lost` writes and reads it)
    quarantine/          bytes that differ from their digest, each with its reason. Nothing deletes them.

Order: a file gets its new name, durably, before it loses the old one, and the note of an original is durable before
either. Killed in between, the file has both names, and the next run takes the old one away.

Concurrency: any thread, any process. Moves hold a lock on the blobs/ directory, so that an original that is moved to
lost/ by one process and brought back by another never loses both names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mixfs.ids import Digest
from mixfs.modes import create_file, make_directory

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)  # exFAT and its like
_CHUNK = 1 << 20


def fsync_path(path: str | os.PathLike[str]) -> None:
    """Make a file's bytes, or the names in a directory, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Removal:
    """Moves originals between blobs/, lost/ and quarantine/ of the library in `root`."""

    def __init__(self, root: Path) -> None:
        self.blobs, self.lost, self.quarantined = root / "blobs", root / "lost", root / "quarantine"

    def _blob(self, digest: Digest) -> Path:
        text = digest.hex()
        return self.blobs / text[:2] / text[2:]

    def lost_path(self, digest: Digest) -> Path:
        """Where an original lies in lost/, or would."""
        text = digest.hex()
        return self.lost / text[:2] / text[2:]

    def note_path(self, digest: Digest) -> Path:
        path = self.lost_path(digest)
        return path.with_name(f"{path.name}.json")

    # -- to lost/

    def write_notes(self, notes: Mapping[Digest, bytes]) -> None:
        """Write notes in lost/, durably. `set_aside` comes afterwards."""
        buckets: dict[Path, None] = {}
        for digest, data in notes.items():
            path = self.note_path(digest)
            self._make_bucket(path.parent)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
            fd = create_file(temporary, os.O_WRONLY | os.O_TRUNC)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            finally:
                os.close(fd)
            buckets[path.parent] = None
        for bucket in buckets:
            fsync_path(bucket)

    def set_aside(self, digests: Iterable[Digest]) -> list[Digest]:
        """Move originals from blobs/ to lost/; returns those that moved.

        An original that is in lost/ already is only taken out of blobs/; both files stay where their bytes differ.
        """
        with self._alone():
            moves = {digest: (self._blob(digest), self.lost_path(digest)) for digest in digests}
            moves = {digest: move for digest, move in moves.items() if _may_move(*move)}
            self._move(list(moves.values()))
        return list(moves)

    def bring_back(self, digest: Digest) -> bool:
        """Move an original from lost/ back to blobs/; False when it is not in lost/. Its note stays."""
        source, target = self.lost_path(digest), self._blob(digest)
        # The usual answer costs no lock.
        if not source.exists():
            return target.exists()
        with self._alone():
            if source.exists() and not target.exists():
                self._move([(source, target)])
            return target.exists()

    # -- for good

    def delete(self, digests: Iterable[Digest]) -> None:
        """Delete originals in lost/ and their notes, for good."""
        with self._alone():
            buckets: dict[Path, None] = {}
            for digest in digests:
                path = self.lost_path(digest)
                path.unlink(missing_ok=True)
                self.note_path(digest).unlink(missing_ok=True)
                buckets[path.parent] = None
            for bucket in buckets:
                with contextlib.suppress(FileNotFoundError):
                    fsync_path(bucket)

    def delete_duplicate(self, digest: Digest) -> bool:
        """Delete the file in lost/ of an original that is in blobs/ with the right bytes; False when it is not."""
        with self._alone():
            path, blob = self.lost_path(digest), self._blob(digest)
            if not path.exists():
                return True
            if not blob.exists() or (not path.samefile(blob) and not _is_whole(blob, digest)):
                return False
            path.unlink()
            fsync_path(path.parent)
            return True

    def forget_note(self, digest: Digest) -> None:
        """Delete the note of an original that is not in lost/ (any more)."""
        with self._alone():
            if not self.lost_path(digest).exists():
                self.note_path(digest).unlink(missing_ok=True)

    # -- damaged

    def quarantine(self, digest: Digest, reason: str) -> Path | None:
        """Move a blob whose bytes are wrong to quarantine/, with the reason; None when there is no such file."""
        with self._alone():
            source = self._blob(digest)
            if not source.exists():
                return None
            make_directory(self.quarantined, exist_ok=True)
            target, number = self.quarantined / f"{digest.hex()}.blob", 1
            while target.exists() or target.with_suffix(".txt").exists():
                number += 1
                target = self.quarantined / f"{digest.hex()}-{number}.blob"
            words = target.with_suffix(".txt")
            with open(create_file(words, os.O_WRONLY | os.O_TRUNC), "w") as file:
                file.write(f"{reason}\n")
            fsync_path(words)
            self._move([(source, target)])
            return target

    def replace(self, staged: str | os.PathLike[str], digest: Digest) -> None:
        """Rename a file with the right bytes to its place in blobs/, over one whose bytes may not be on the disk."""
        with self._alone():
            os.rename(staged, self._blob(digest))

    # -- what lies in lost/

    def enumerate(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Every original in lost/, in order of digests, with its status."""
        for digest, name in self._names(""):
            with contextlib.suppress(FileNotFoundError):
                yield digest, os.stat(self.lost / name)

    def notes(self) -> Iterator[Digest]:
        """Every original of which lost/ has a note, whether or not it lies there."""
        return (digest for digest, _ in self._names(".json"))

    def _names(self, suffix: str) -> Iterator[tuple[Digest, str]]:
        for bucket in _listed(self.lost):
            if len(bucket) != 2:
                continue
            for name in _listed(self.lost / bucket):
                with contextlib.suppress(ValueError):
                    if name.endswith(suffix):
                        digest = bytes.fromhex(bucket + name.removesuffix(suffix))
                        if len(digest) == 32:
                            yield Digest(digest), f"{bucket}/{name}"

    # -- how a file moves

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off every other move, of all threads and processes."""
        fd = os.open(self.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @staticmethod
    def _make_bucket(bucket: Path) -> None:
        for folder in (bucket.parent, bucket):
            with contextlib.suppress(FileExistsError):
                make_directory(folder)
                fsync_path(folder.parent)

    def _move(self, moves: list[tuple[Path, Path]]) -> None:
        """Give each file its new name and then take the old one; all fsyncs of a bucket are one."""
        for source, target in moves:
            self._make_bucket(target.parent)
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    os.rename(source, target)
                elif error.errno != errno.EEXIST:
                    raise
        for bucket in dict.fromkeys(target.parent for _, target in moves):
            fsync_path(bucket)
        for source, _ in moves:
            source.unlink(missing_ok=True)
        for bucket in dict.fromkeys(source.parent for source, _ in moves):
            fsync_path(bucket)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_whole(path: Path, digest: Digest) -> bool:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == digest


def _may_move(source: Path, target: Path) -> bool:
    """Whether there is something to move, and nothing else at the target."""
    if not source.exists():
        return False
    return not target.exists() or source.samefile(target) or _same_bytes(source, target)


def _same_bytes(one: Path, other: Path) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while True:
            chunk = first.read(_CHUNK)
            if chunk != second.read(_CHUNK):
                return False
            if not chunk:
                return True
