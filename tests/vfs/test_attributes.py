"""Extended attributes: those that arrive with a file, how many there may be, and what they cost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_staging import after_kill, put  # noqa: F401 - a fixture

from mixfs.errors import NoRoomForAttributes
from mixfs.library.api import Library
from mixfs.media.samples import make_sample
from mixfs.records import Annotation, Trash
from mixfs.vfs import attributes
from mixfs.vfs.staging import _COMPACT_AT
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree

DATA = make_sample("a1111")[1]
OLD = {"user.xdg.tags": b"old", "user.xdg.comment": b"old words", "user.baloo.rating": b"2", "user.mine": b"kept"}


def said(library: Library) -> tuple[tuple[str, ...], int | None, str | None]:
    [session] = library.sessions()
    [placement] = library.placements(session.id)
    annotation = library.annotation(placement.digest)
    return annotation.tags, annotation.rating, annotation.comment


async def arrive(tree: Tree, name: bytes, xattrs: dict[str, bytes]) -> bytes:
    key = await put(tree, name, DATA)
    for attribute, value in xattrs.items():
        await attributes.set_one(tree, key, attribute, value)
    await TakingIn(tree).take_all()
    return key


@pytest.mark.parametrize("way", ["copied into import", "imported"])
async def test_attributes_that_arrive_with_a_file_set_what_is_empty(
    tree: Tree, library: Library, tmp_path: Path, way: str
):
    async def again(xattrs: dict[str, bytes]) -> None:
        if way == "imported":
            source = tmp_path / "a.png"
            source.write_bytes(DATA)
            for attribute, value in xattrs.items():
                os.setxattr(source, attribute, value)
            assert not library.import_paths([source]).failed
        else:
            await arrive(tree, b"a.png", xattrs)

    await again(OLD)
    assert said(library) == (("old",), 2, "old words")
    [session] = library.sessions()
    [placement] = library.placements(session.id)
    assert placement.xattrs == {"user.mine": b"kept"}
    library.annotate(placement.digest, tags=["new"], rating=9, comment=None)
    with library.read() as view:
        before = len(list(view.records(Trash)))
    await again(OLD | {"user.xdg.tags": b"older"})
    assert said(library) == (("new",), 9, "old words")
    with library.read() as view:
        assert len(list(view.records(Trash))) == before


@pytest.mark.parametrize("rating", [b"11", b"-1", b"five", b"7.5", b"9" * 5000, "٣".encode(), b"\xff"])
async def test_a_rating_that_makes_no_sense_keeps_no_file_out(tree: Tree, library: Library, rating: bytes):
    key = await arrive(tree, b"a.png", {"user.baloo.rating": rating, "user.xdg.tags": b"sea"})
    assert said(library) == (("sea",), None, None)
    with library.read() as view:
        # It is kept like any other attribute.
        assert attributes.get(tree, view, key, "user.baloo.rating") == rating


async def test_what_a_person_replaces_is_in_the_trash(tree: Tree, library: Library):
    key = await arrive(tree, b"a.png", OLD)

    def trashed() -> list[Trash]:
        with library.read() as view:
            return list(view.records(Trash))

    await attributes.set_one(tree, key, "user.xdg.tags", b"old,more")
    assert not trashed()
    await attributes.set_one(tree, key, "user.baloo.rating", b"8")
    await attributes.remove(tree, key, "user.xdg.comment")
    assert said(library) == (("old", "more"), 8, None)
    first, second = sorted(trashed(), key=lambda trash: trash.id)
    assert (first.name, first.reason, first.session_title) == (b"a.png", "annotation replaced", "Inbox")
    library.restore(second.id)
    assert said(library) == (("old", "more"), 8, "old words")
    with library.read() as view:
        assert all(record[0] == Annotation.KIND for trash in view.records(Trash) for record in trash.records)


@pytest.mark.parametrize("placed", [False, True], ids=["staged", "placed"])
async def test_attributes_have_limits(tree: Tree, placed: bool):
    key = await put(tree, b"a.png", DATA)
    if placed:
        await TakingIn(tree).take_all()
    await attributes.set_one(tree, key, "user.a", b"x" * 60_000)
    await attributes.set_one(tree, key, "user.b", b"x" * 60_000)
    with pytest.raises(NoRoomForAttributes) as caught:
        await attributes.set_one(tree, key, "user.c", b"x" * 60_000)
    assert caught.value.errno == errno.ENOSPC
    # Another value in the room of the old one, and room that was made.
    await attributes.set_one(tree, key, "user.a", b"y" * 60_000)
    await attributes.remove(tree, key, "user.b")
    await attributes.set_one(tree, key, "user.c", b"x" * 60_000)
    if not placed:
        for number in range(254):
            await attributes.set_one(tree, key, f"user.{number}", b"")
        with pytest.raises(NoRoomForAttributes):
            await attributes.set_one(tree, key, "user.one too many", b"")
    with tree.library.read() as view:
        assert len(attributes.names(tree, view, key)) >= (2 if placed else 256)


async def test_the_log_has_each_attribute_once(
    tree: Tree, library: Library, after_kill: Callable[[], Tree]  # noqa: F811
):
    key = await put(tree, b"a.png", DATA)
    log = tree.staging.path / "log"
    for number in range(200):
        await attributes.set_one(tree, key, f"user.{number}", b"x" * 500)
    assert log.stat().st_size < 200 * 700
    before = log.stat().st_size
    for number in range(100):
        await attributes.set_attributes(tree, key, mode=0o600 + number % 2)
        await attributes.set_one(tree, key, "user.7", b"x" * 500)
    assert log.stat().st_size < before + 100 * 300
    # Written again and again, it is written anew.
    for number in range(1000):
        await attributes.set_one(tree, key, "user.long", b"%05d" % number * 4000)
        assert log.stat().st_size < _COMPACT_AT + 500_000
    await attributes.remove(tree, key, "user.9")
    await attributes.set_one(tree, key, "user.8", b"last")
    after = after_kill()
    with library.read() as view:
        assert len(attributes.names(after, view, key)) == 200
        assert attributes.get(after, view, key, "user.8") == b"last"
        assert attributes.get(after, view, key, "user.long") == b"00999" * 4000
