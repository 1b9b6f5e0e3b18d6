"""What open(2) made: one `OpenNode` for all handles of a file, and a `Handle` for each.

Where an open node's bytes are may change under its handles (from staging to a blob); what the bytes are may not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from mixfs.index.dentries import Dentry
from mixfs.vfs.staging import KeptDocument, Staged


@dataclass(slots=True, eq=False)
class OpenNode:
    """An open file, however many handles it has. Its bytes are in `data`, in `staged`, or behind `fd`."""

    key: bytes
    fd: int = -1
    data: bytes | None = None
    staged: Staged | None = None
    # A document as programs are writing it, whether it was written to since the last flush, and what that flush kept.
    edit: bytearray | None = None
    edited: bool = False
    kept: KeptDocument | None = None
    # One flush at a time: what was kept last is what is committed.
    saving: trio.Lock = field(default_factory=trio.Lock)
    handles: int = 0
    writers: int = 0
    live: bool = False
    attr: Dentry | None = None

    def source(self) -> int:
        """The file descriptor to read from."""
        if self.staged is not None and self.staged.intake is not None:
            return self.staged.intake.fd
        return self.fd


@dataclass(slots=True, eq=False)
class Handle:
    """One open(2)."""

    node: OpenNode
    writable: bool
