"""What views need besides one read of the library: who mounted, when, and what the daemon tells of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixfs.vfs.content import Content


@dataclass(slots=True)
class Context:
    """One mount's surroundings."""

    root: Path
    mounted_ns: int
    # When the library was made: the time of what never changes, the same at every mount.
    made_ns: int = field(init=False)
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    # What .mixfs/ shows: name -> a function that gives its content now.
    status: Mapping[str, Callable[[], Content]] = field(default_factory=dict)
    # Sessions whose images/ was just removed: `rm -r` is at work on them, and what is generated steps out of its way.
    going: dict[bytes, float] = field(default_factory=dict)
    # Folders of trash/ that were just emptied here: name, and when (ns). `rm -r` is about to remove them.
    emptied: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.made_ns = os.stat(self.root / "format").st_mtime_ns
        except FileNotFoundError:
            self.made_ns = self.mounted_ns

    def thumbnail_path(self, digest: bytes) -> Path:
        text = digest.hex()
        return self.root / "thumbnails" / text[:2] / f"{text[2:]}.png"
