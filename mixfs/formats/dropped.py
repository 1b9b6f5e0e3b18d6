"""The process that imports what was dropped into import/ and is in a layout: `python -P -m mixfs.formats.dropped`.

A process of its own, so that whatever a foreign file does to its reader, the mount goes on. Its arguments are the
library's directory, the digest of the file, which is in the library already, and its name.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mixfs.formats.base import Options, Report
from mixfs.formats.layouts import detect
from mixfs.formats.taking import Taking
from mixfs.ids import digest_from_hex
from mixfs.library.api import Library


def import_dropped(library: Library, digest_hex: str, name: str) -> Report | None:
    """Import a blob as the layout that it is in; None when it is in none. What is not taken becomes problems."""
    path = library.blobs.path(digest_from_hex(digest_hex))
    layout = detect(path)
    if layout is None:
        return None
    report = Taking(library, layout, str(path), Options()).run()
    for problem in report.not_taken:
        words = ": ".join(filter(None, (problem.place, problem.reason)))
        library.store.problems.report("not-imported", f"{name}: {words}", name=name, digest=digest_hex)
    return report


def main() -> None:
    """Nothing is printed: what went wrong is in problems.jsonl."""
    root, digest_hex, name = sys.argv[1:]
    os.nice(5)
    with Library.open(Path(root), create=False) as library:
        import_dropped(library, digest_hex, name)


if __name__ == "__main__":
    main()
