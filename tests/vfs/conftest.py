"""A tree over a real library, without a mount."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs.ids import Digest, new_id
from mixfs.library.api import Library
from mixfs.library.staging import StagingArea
from mixfs.library.transaction import Txn
from mixfs.media.samples import make_sample
from mixfs.records import Entry, ImportFolder, Receipt
from mixfs.vfs.content import BytesContent
from mixfs.vfs.context import Context
from mixfs.vfs.staging import Staging
from mixfs.vfs.tree import Tree

MOUNTED_NS = 1_700_000_000_000_000_000


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as library:
        yield library


@pytest.fixture
def tree(library: Library) -> Iterator[Tree]:
    status = {"version": lambda: BytesContent(b"1\n"), "stats.json": lambda: BytesContent(b"{}\n", live=True)}
    context = Context(library.root, MOUNTED_NS, status=status)
    tree = Tree(library, context, Staging(StagingArea(library.root / "staging")))
    yield tree
    tree.close()


@pytest.fixture
def full(library: Library, tree: Tree, tmp_path: Path) -> Tree:
    """A tree in which every route has something to show."""
    source = tmp_path / "Trip"
    deeper = source / "deeper" / "still"
    deeper.mkdir(parents=True)
    for kind in ("a1111", "comfyui", "invokeai", "novelai"):
        name, data = make_sample(kind)
        (source / name).write_bytes(data)
        (deeper / name).write_bytes(data + b"-")
    (source / "notes.txt").write_bytes(b"the light\n")
    (deeper / "notes.txt").write_bytes(b"the sea\n")
    report = library.import_paths([source])
    assert not report.failed
    session = library.find_session("Trip")
    # In the order in which they came in, and text needs no look.
    picture = next(placement for placement in library.placements(session.id) if placement.area == "images")
    library.annotate(picture.digest, tags=["sea"], rating=7, comment="fine")
    put_entries(library, session.id, picture.digest)
    for digest in library.thumbnails.missing()[0]:
        row = library.thumbnails.make(digest)
        if row is not None:
            library.thumbnails.record({digest: row})
    put_receipts(tree, library, session.id)
    gone = library.create_session("Gone")
    for name in ("a.txt", "b.txt", "a.txt"):
        library.import_bytes(b"deleted " + name.encode(), name, session_id=gone.id)
    library.delete_placement(library.placements(gone.id)[0].id)
    library.delete_session(gone.id)
    library.delete_session(library.create_session("Empty").id)
    return tree


def put_entries(library: Library, session_id: str, digest: Digest) -> None:
    for entry in (
        Entry(id="text-1", session_id=session_id, type="text", text="words on the canvas"),
        Entry(id="image-1", session_id=session_id, type="image", digest=digest),
    ):
        library.put_entry(entry)


def put_receipts(tree: Tree, library: Library, session_id: str) -> None:
    """What import/ shows: a folder, receipts in it and beside it."""
    placement = library.placements(session_id)[0]
    folder = ImportFolder(id=new_id(), name=b"Trip", session_id=session_id)

    def put(txn: Txn) -> None:
        txn.put(folder)
        for parent in (None, folder.id):
            for name in (b"a.png", b"b\xff.png"):
                txn.put(
                    Receipt(
                        id=new_id(), parent_id=parent, name=name, digest=placement.digest, size=placement.size,
                        mode=0o644, mtime_ns=1, placement_id=placement.id, session_id=session_id, named_ns=txn.now_ns,
                    )
                )  # fmt: skip

    library.commit(put)
