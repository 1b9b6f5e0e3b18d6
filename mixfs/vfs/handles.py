"""What open(2) made: one `OpenNode` for all handles of a file, and a `Handle` for each.

Where an open node's bytes are may change under its handles (from staging to a blob); what the bytes are may not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import trio

from mixfs.index.dentries import Dentry
from mixfs.records import Blob
from mixfs.vfs.bases import NOBODY, Owner
from mixfs.vfs.content import BlobContent, FileContent
from mixfs.vfs.staging import Staged


@dataclass(slots=True, eq=False)
class OpenNode:
    """An open file, however many handles it has. Its bytes are in `data`, in `staged`, or in `content`.

    `content` is opened by the first read: most who open a picture again get its bytes from the kernel.
    """

    key: bytes
    content: BlobContent | FileContent | None = None
    # `content`, once it is open.
    fd: int = -1
    # What is read of a blob is checked against this.
    blob: Blob | None = None
    data: bytes | None = None
    staged: Staged | None = None
    # A document as programs are writing it, and whether it was written to since it was saved last.
    edit: bytearray | None = None
    edited: bool = False
    # It was saved, or refused: the next open(2) reads what the library has.
    settled: bool = False
    # One save at a time: what was closed last is what is committed last.
    saving: trio.Lock = field(default_factory=trio.Lock)
    handles: int = 0
    writers: int = 0
    live: bool = False
    attr: Dentry | None = None

    def show(self, content: BlobContent) -> None:
        """From now on the bytes are those of a blob."""
        self.close()
        self.content, self.staged = content, None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.blob, self.content = -1, None, None

    def take(self, fd: int, content: BlobContent | FileContent) -> None:
        """Somebody has opened `content`: kept for the next read, unless it is too late for that."""
        if self.fd < 0 and self.content is content and self.handles:
            self.fd = fd
        else:
            os.close(fd)

    def source(self) -> int:
        """The file descriptor to read from."""
        if self.staged is not None and self.staged.intake is not None:
            return self.staged.intake.fd
        return self.fd


class Asked:
    """A wait for all that is closed, on behalf of a handle."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Handle:
    """One open(2)."""

    node: OpenNode
    writable: bool
    # Of a file that is written where it lies: its descriptor, and whether each write goes to the end.
    fd: int = -1
    append: bool = False
    # The process that opened it, and whether a document was written to through this handle since it was saved.
    owner: Owner = NOBODY
    edited: bool = False
    # Opened with O_NONBLOCK: fsync of .mixfs/imported answers EAGAIN after a second; and what it asked for then.
    is_impatient: bool = False
    asked: Asked | None = None
