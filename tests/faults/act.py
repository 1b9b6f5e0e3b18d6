"""What a user does, in a process that gets killed: `act.py ROOT import FOLDER | delete | retitle | restore | rebuild |
compact`.

Prints `done` once it was acknowledged. `fsck` and the rest of the command line run as they are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mixfs import Library
from mixfs.library.compaction import compact

MAP = 1 << 20


def main(root: Path, act: str) -> None:
    with Library.open(root, map_size=MAP) as library:
        if act == "rebuild":
            library.store.rebuild_index()
        elif act == "compact":
            compact(library, keep_days=-1)
        elif act == "restore":
            library.restore(library.trash()[0].id)
        else:
            session = library.find_session("Trip")
            if act == "delete":
                library.delete_session(session.id)
            elif act == "retitle":
                library.retitle_session(session.id, "Journey")
        os.write(1, b"done\n")


main(Path(sys.argv[1]), sys.argv[2])
