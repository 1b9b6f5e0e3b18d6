"""Garbage collection: what it takes, what it leaves, and that it never takes what is being named."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mixfs import Library
from mixfs.blobs import local
from mixfs.library import gc
from mixfs.library.store import Store
from mixfs.media.samples import make_sample
from mixfs.records import Image as ImageRecord
from mixfs.records import Receipt, Trash


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        yield opened


def plain() -> bytes:
    """A picture without metadata."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def now(library: Library, **options: object) -> gc.Freed:
    """Everything that is deleted goes at once."""
    return gc.collect(library, trash_days=-1, grace_hours=-1, **options)  # type: ignore[arg-type]


def test_what_is_named_stays(library: Library) -> None:
    kept = library.import_bytes(make_sample("a1111")[1], "a.png")
    assert now(library) == gc.Freed()
    assert library.read_image(kept.digest)


def test_the_trash_keeps_blobs_until_it_expires(library: Library) -> None:
    placement = library.import_bytes(make_sample("a1111")[1], "a.png")
    library.delete_session(placement.session_id)
    assert gc.collect(library, grace_hours=-1) == gc.Freed()
    assert library.read_image(placement.digest)
    size = library.blobs.stat(placement.digest)
    assert now(library) == gc.Freed(trash=1, blobs=1, bytes=size or 0)
    assert library.blobs.stat(placement.digest) is None
    with library.read() as view:
        assert view.image(placement.digest) is None
        assert list(view.records(Trash)) == []


def test_a_dry_run_counts_and_changes_nothing(library: Library) -> None:
    placement = library.import_bytes(make_sample("a1111")[1], "a.png")
    library.delete_placement(placement.id)
    before = library.store.written_end()
    would = now(library, dry_run=True)
    assert (would.trash, would.blobs) == (1, 1) and would.bytes > 0
    assert library.store.written_end() == before
    assert now(library) == would


def test_a_blob_of_a_killed_import_goes_after_the_grace(library: Library) -> None:
    intake = library.staging.intake()
    intake.write(b"never named", 0)
    digest, _ = library.blobs.receive(intake)
    intake.discard()
    assert gc.collect(library) == gc.Freed()
    assert library.blobs.stat(digest) is not None
    assert gc.collect(library, grace_hours=-1) == gc.Freed(blobs=1, bytes=len(b"never named"))


def test_a_receipt_goes_with_its_blob(library: Library) -> None:
    placement = library.import_bytes(b"some text", "note.txt")
    library.commit(
        lambda txn: txn.put(Receipt(id="r", name=b"note.txt", digest=placement.digest, placement_id=placement.id))
    )
    library.delete_placement(placement.id)
    assert now(library) == gc.Freed(trash=1, blobs=1, bytes=9, receipts=1)
    with library.read() as view:
        assert list(view.records(Receipt)) == []


def test_annotations_outlive_the_blob(library: Library) -> None:
    placement = library.import_bytes(plain(), "a.png")
    library.annotate(placement.digest, tags=["sea"])
    library.delete_session(placement.session_id)
    assert now(library).blobs == 1
    again = library.import_bytes(plain(), "a.png")
    assert library.annotation(again.digest).tags == ("sea",)


def test_what_comes_back_between_the_look_and_the_lock_stays(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc has decided; before it has the lock, the same bytes are imported again."""
    data = plain()
    placement = library.import_bytes(data, "a.png")
    library.delete_session(placement.session_id)
    commit = Store.commit
    came = threading.Event()

    def late(self: Store, function: object, **options: object) -> object:
        if options and not came.is_set():
            came.set()
            library.import_bytes(data, "again.png")
        return commit(self, function, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "commit", late)
    assert now(library) == gc.Freed(trash=1)
    assert came.is_set() and library.read_image(placement.digest) == data


def test_what_goes_between_the_blob_and_its_name_is_published_again(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An import has found the blob there; before it has the lock, gc takes the blob away."""
    data = plain()
    placement = library.import_bytes(data, "a.png")
    library.delete_session(placement.session_id)
    source = tmp_path / "again.png"
    source.write_bytes(data)
    commit = Store.commit
    taken: list[gc.Freed] = []

    def late(self: Store, function: object, **options: object) -> object:
        if not taken:
            taken.append(gc.Freed())
            taken.append(now(library))
        return commit(self, function, **options)  # type: ignore[arg-type]

    for bring in (lambda: library.import_bytes(data, "again.png"), lambda: library.import_paths([source])):
        taken.clear()
        monkeypatch.setattr(Store, "commit", late)
        bring()
        monkeypatch.undo()
        assert taken[1].blobs == 1
        (session,) = library.sessions()
        (found,) = library.placements(session.id)
        assert library.read_image(found.digest) == data
        with library.read() as view:
            assert view.get(ImageRecord, found.digest.hex()) is not None
        library.delete_session(session.id)


def test_a_file_that_is_not_a_blob_is_left_alone(library: Library) -> None:
    placement = library.import_bytes(b"x", "x")
    bucket = library.blobs.path(placement.digest).parent
    stray = bucket / "notes"
    stray.write_text("mine")
    os.utime(stray, (0, 0))
    now(library)
    assert stray.read_text() == "mine"


@pytest.mark.parametrize("known", [False, True])
def test_what_goes_while_it_is_published_is_published_again(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool
) -> None:
    """gc takes a blob at the moment when an import has given it its name, or has found it there."""
    data = plain()
    source = tmp_path / "a.png"
    source.write_bytes(data)
    if known:
        library.delete_session(library.import_bytes(data, "a.png").session_id)
    sync = local.fsync_path
    taken: list[gc.Freed] = []

    def late(path: Path) -> None:
        # Of the blob that is there already, or of the bucket in which it was linked.
        if not taken and path != library.blobs.root and os.listdir(path if path.is_dir() else path.parent):
            taken.append(gc.Freed())
            taken.append(now(library))
        sync(path)

    monkeypatch.setattr(local, "fsync_path", late)
    report = library.import_paths([source])
    assert not report.failed and taken[1].blobs == 1
    (session,) = library.sessions()
    (found,) = library.placements(session.id)
    assert library.read_image(found.digest) == data


def test_a_thumbnail_made_before_and_recorded_after_is_not_there(library: Library) -> None:
    placement = library.import_bytes(make_sample("a1111")[1], "a.png")
    row = library.thumbnails.make(placement.digest)
    assert row is not None and row != (0, 0)
    thumbnail = library.thumbnails.path(placement.digest)
    made = thumbnail.read_bytes()
    library.delete_session(placement.session_id)
    assert now(library).blobs == 1
    # As if it had got its name a moment later.
    thumbnail.write_bytes(made)
    library.thumbnails.record({placement.digest: row})
    assert not thumbnail.exists()
    with library.read() as view:
        assert view.thumbnail(placement.digest) is None
