"""The process that gets killed: `child.py ROOT TAG COMMITS [SEGMENT_LIMIT]`.

Makes the library where there is none, commits a session and its placement COMMITS times, and prints a line for each:
`ok ID` once it was acknowledged, `failed ID ERRNO` when the commit raised.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mixfs.errors import IndexFailed
from mixfs.ids import Digest
from mixfs.library import place
from mixfs.library.store import Store
from mixfs.library.transaction import Txn
from mixfs.records import Placement, Session


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def opened(root: Path) -> Store:
    for _ in range(3):
        try:
            place.create(root)
            return Store(root, map_size=1 << 20)
        except (OSError, IndexFailed) as error:
            say("unopened", type(error).__name__)
    raise SystemExit("the library could not be opened")


def main(root: Path, tag: str, commits: int, segment_limit: int = 1 << 20) -> None:
    store = opened(root)
    store.journal.segment_limit = segment_limit
    for n in range(commits):
        name = f"{tag}-{n}"

        def put(txn: Txn, name: str = name, n: int = n) -> None:
            txn.put(Session(id=name, title=name, name=name.encode()))
            digest = Digest(bytes([n % 251]) * 32)
            txn.put(Placement(id=f"placed {name}", session_id=name, digest=digest, name=b"a.png", size=7))

        try:
            store.commit(put)
        except (OSError, IndexFailed) as error:
            say("failed", name, error.errno)
        else:
            say("ok", name)
    store.close()
    say("end")


main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
