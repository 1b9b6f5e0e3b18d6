"""Every error that MixFS raises on purpose: its message, its exit code and its errno.

The domain raises these and knows nothing of errno or exit codes; the FUSE adapter reads `errno`, the command line
reads `exit_code`. A message names the object, the place and the remedy.
"""

from __future__ import annotations

import errno as _errno
import os as _os

INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it

# What to do about an error of the system, where its own words don't say.
_REMEDIES = {
    _errno.EACCES: "Change the owner or the permissions (chown, chmod), or choose another place.",
    _errno.EROFS: "The file system is mounted read-only: have it mounted writable, or choose another place.",
    _errno.ENOSPC: "Make room there, and try again.",
    _errno.EDQUOT: "Make room there, and try again.",
    _errno.ENOENT: "Check the path.",
    _errno.ENOTDIR: "Something that is named as a folder there is a file: check the path.",
    _errno.EISDIR: "A file is meant: check the path.",
    _errno.ENAMETOOLONG: "Choose a shorter one.",
    _errno.ELOOP: "Symbolic links go round in a circle there.",
    _errno.EIO: "The disk, or a mount, fails: `dmesg` may say more.",
    _errno.ENOTCONN: "The daemon of that mount is gone: `mixfs mount MOUNTPOINT` heals it.",
}
_REMEDIES[_errno.EPERM] = _REMEDIES[_errno.EACCES]


def os_words(error: OSError) -> str:
    """`FILE: what is wrong. What to do`, without Python's error number."""
    words = error.strerror or str(error) or type(error).__name__
    names = [_os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    remedy = _REMEDIES.get(error.errno or 0, "")
    return ": ".join(filter(None, (" → ".join(names), words))) + (f". {remedy}" if remedy else "")


# What a disk or file system says when bytes can't be had from it, now or later. Every other error (too many open files,
# no memory, no permission, an interrupted call, a server that doesn't answer) says nothing about the bytes.
_DAMAGE = frozenset(
    (_errno.EIO, _errno.EUCLEAN, _errno.EBADMSG, _errno.ENODATA, _errno.EILSEQ, _errno.EREMOTEIO)
)  # fmt: skip


def is_damage(error: OSError) -> bool:
    """Whether an error of a read means that the bytes are damaged, and not that they could not be read just now."""
    return error.errno in _DAMAGE


class MixfsError(Exception):
    """Something went wrong that a user can understand and act on."""

    exit_code = 1
    errno = _errno.EIO


class UsageError(MixfsError):
    """The command was called with arguments that don't fit together."""

    exit_code = 2
    errno = _errno.EINVAL


class NotFoundError(MixfsError):
    """What was named is not in the library."""

    exit_code = 3
    errno = _errno.ENOENT


class ExistsError(MixfsError):
    """The name is taken."""

    errno = _errno.EEXIST


class ReadOnlyError(MixfsError):
    """This part of the library is generated and can't be changed by hand."""

    errno = _errno.EACCES


class NotADirectory(MixfsError):
    errno = _errno.ENOTDIR


class IsADirectory(MixfsError):
    errno = _errno.EISDIR


class NotEmptyError(MixfsError):
    errno = _errno.ENOTEMPTY


class NameTooLong(MixfsError):
    """A name is longer than 255 bytes."""

    errno = _errno.ENAMETOOLONG


class NotPermitted(MixfsError):
    """The operation makes no sense here, whoever asks."""

    errno = _errno.EPERM


class InvalidValue(MixfsError):
    errno = _errno.EINVAL


class NotSupported(MixfsError):
    errno = _errno.ENOTSUP


class NoRoomForAttributes(MixfsError):
    """More extended attributes than a file may have."""

    errno = _errno.ENOSPC


class StillWaiting(MixfsError):
    """What is asked for takes longer than the asking program waits at once."""

    errno = _errno.EAGAIN


class TooLong(MixfsError):
    """A file that is longer than a library keeps."""

    errno = _errno.EFBIG


class NoAttribute(MixfsError):
    errno = _errno.ENODATA


class BadHandle(MixfsError):
    errno = _errno.EBADF


class LibraryError(MixfsError):
    """The library can't be opened or used as it is."""

    exit_code = 4


class NotALibrary(LibraryError):
    """The directory is no MixFS library."""


class FormatTooNew(LibraryError):
    """The library was written by a newer MixFS."""


class LibraryBusy(LibraryError):
    """Another process holds what only one may hold."""

    errno = _errno.EBUSY


class UnsuitablePlace(LibraryError):
    """The library or the mount point lies where it can't work (network file system, inside each other)."""


class BlobMissing(MixfsError):
    """A blob that the library names is not in the blob store."""

    exit_code = 5


class BlobDamaged(MixfsError):
    """The bytes of a blob are not the ones that its digest names. `reason` says only that, in a few words."""

    exit_code = 5

    def __init__(self, text: str = "", reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class JournalDamaged(MixfsError):
    """Bytes in the middle of the journal are not what was written."""

    exit_code = 5


class JournalReplaced(JournalDamaged):
    """The journal's files are not those that were opened."""


class LibraryReplaced(LibraryError):
    """The library's directory is not the one that was opened: it was moved, replaced or restored under our feet."""

    errno = _errno.ESTALE


class LibraryIncomplete(LibraryError):
    """Part of the journal is missing or can't be read: what nothing seems to name may be named there."""

    exit_code = 5


class IndexFailed(MixfsError):
    """The index engine failed, for whichever reason; it is reopened."""


class IndexDamaged(IndexFailed):
    """The index is not what was written: it is reopened, and if that does not help made again from the journal."""

    exit_code = 5


class IndexFull(IndexFailed):
    """The index's memory map is full: grow it and run the transaction again."""


class IndexDiskFull(IndexFailed):
    """There is no room on the disk for the index."""

    errno = _errno.ENOSPC


class IndexUnavailable(IndexFailed):
    """The index can't be used just now (too many open files, no memory, no permission): nothing is wrong with it."""

    def __init__(self, text: str, errno: int = _errno.EIO) -> None:
        super().__init__(text)
        self.errno = errno


class ClockJumped(MixfsError):
    """The clock was set by more than a day: nothing expires by its age for a while."""


class MountError(MixfsError):
    """The mount point can't be mounted or unmounted."""

    exit_code = 6


class Outdated(MixfsError):
    """A document has other content by now: look its name up again (the kernel does so by itself)."""

    errno = _errno.ESTALE


class CrossesViews(MixfsError):
    """A rename between parts of the mount that don't share files: programs copy instead."""

    errno = _errno.EXDEV
