"""The tree without a mount: listing a name, looking it up, and its attributes and bytes agree, for every route."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixfs.errors import LibraryBusy, NameTooLong, NotFoundError
from mixfs.ids import new_id
from mixfs.index.dentries import Dentry
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.transaction import Txn
from mixfs.media.samples import make_sample
from mixfs.records import Placement
from mixfs.vfs import files, naming
from mixfs.vfs.content import BlobContent, BytesContent, FileContent
from mixfs.vfs.context import Context
from mixfs.vfs.routes import ROUTES, directory_view, file_view, view_of
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import IMPORT, ROOT
from mixfs.vfs.views.mirrors import mirrored_names


def walk(tree: Tree) -> Iterator[tuple[bytes, Dentry]]:
    """Every (directory key, dentry) of the mount."""
    todo = [ROOT]
    while todo:
        directory = todo.pop()
        for dentry in listing(tree, directory):
            yield directory, dentry
            if dentry.is_directory:
                todo.append(dentry.key)


def listing(tree: Tree, directory: bytes) -> list[Dentry]:
    with tree.library.read() as view:
        return [dentry for dentry, _ in tree.entries(view, directory, b"")]


def shown(dentry: Dentry) -> tuple[object, ...]:
    """What the kernel is told."""
    return dentry[:7]


def tag_of(key: bytes) -> bytes:
    return key if key[:1] == b"/" else key[:2] if key[:1] == b"D" else key[:1]


def test_every_route_is_met(full: Tree):
    met = {tag_of(dentry.key) for _, dentry in walk(full)} | {ROOT}
    assert {route.tag: route.path for route in ROUTES if route.tag not in met} == {}


def test_a_listed_name_is_looked_up_as_it_was_listed(full: Tree):
    with full.library.read() as view:
        for directory, dentry in walk(full):
            found = full.lookup(view, directory, dentry.name)
            assert found is not None, dentry
            assert shown(found) == shown(dentry)


def test_no_name_is_listed_twice(full: Tree):
    for directory in {directory for directory, _ in walk(full)}:
        names = [dentry.name for dentry in listing(full, directory)]
        assert len(names) == len(set(names)), names


def test_attributes_by_node_are_those_that_were_listed(full: Tree):
    with full.library.read() as view:
        for _, dentry in walk(full):
            attr = full.attr(view, dentry.key)
            assert (attr.key, attr.ino, attr.mode, attr.size) == (dentry.key, dentry.ino, dentry.mode, dentry.size)
            assert attr.mtime_ns == dentry.mtime_ns, dentry


def test_a_listing_goes_on_from_every_place(full: Tree):
    for directory in {directory for directory, _ in walk(full)} | {ROOT}:
        with full.library.read() as view:
            whole = list(full.entries(view, directory, b""))
            for at, (_, place) in enumerate(whole):
                rest = [dentry for dentry, _ in full.entries(view, directory, place)]
                assert rest == [dentry for dentry, _ in whole[at + 1 :]], (directory, place)


def test_a_file_has_the_size_that_is_told(full: Tree):
    with full.library.read() as view:
        for _, dentry in walk(full):
            if dentry.is_directory:
                continue
            content = file_view(dentry.key).content(full.context, view, dentry.key)
            if isinstance(content, BytesContent):
                size = len(content.data)
            elif isinstance(content, BlobContent):
                size = full.library.blobs.path(content.digest).stat().st_size
            else:
                assert isinstance(content, FileContent)
                size = content.path.stat().st_size
            assert size == dentry.size, dentry


def test_what_is_not_listed_is_not_there(full: Tree):
    with full.library.read() as view:
        for directory in {directory for directory, _ in walk(full)} | {ROOT}:
            names = {dentry.name for dentry, _ in full.entries(view, directory, b"")}
            for name in (b"none", b"\xff", b"a.workflow.json", b"x" * 255, b".json", b".png", b"0", b"\x01"):
                if name not in names:
                    assert full.lookup(view, directory, name) is None, (directory, name)
            with pytest.raises(NameTooLong):
                full.lookup(view, directory, b"x" * 256)


def test_a_key_of_no_route_and_of_nothing_is_not_found(full: Tree):
    with full.library.read() as view:
        with pytest.raises(NotFoundError):
            view_of(b"?" + bytes(16))
        for tag in (b"S", b"p", b"m", b"t", b"f", b"G", b"P", b"R", b"b", b"v"):
            with pytest.raises(NotFoundError):
                full.attr(view, tag + b"\x07" * 16)


def test_a_library_that_is_opened_twice_in_one_process_keeps_its_index(library: Library):
    before = (library.root / "index" / "data.mdb").stat().st_ino
    with pytest.raises(LibraryBusy):
        Library.open(library.root)
    assert (library.root / "index" / "data.mdb").stat().st_ino == before
    assert not library.store.problems.path.exists()


# -- the names beside images/

NASTY = [b"a", b"a.workflow", b"a.json", b"a.png", b"a.png.png", b"a.workflow.json", b"\xff\xfe", b"\xc3\xa9.png"]
NAMES = st.one_of(
    st.sampled_from(NASTY),
    st.integers(236, 255).map(lambda size: b"n" * size),
    st.integers(236, 255).map(lambda size: b"n" * (size - 4) + b".png"),
    st.integers(110, 127).map(lambda count: "é".encode() * count),
    st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name),
).filter(lambda name: name not in (b".", b".."))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, Placement]]:
    with Library.open(tmp_path_factory.mktemp("mirrors") / "library") as library:
        session = library.create_session("First")
        placement = library.import_bytes(make_sample("comfyui")[1], "first.png", session_id=session.id)
        library.thumbnails.record({placement.digest: (library.thumbnails.make(placement.digest) or (0, 0))})
        yield library, placement


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=8, unique=True), damaged=st.lists(NAMES, max_size=4, unique=True))
@example(names=[b"a.png"], damaged=[b"a.png", b"b.png"])
@example(names=[b"a.png", b"b.png.damaged"], damaged=[b"a.png.damaged", b"a.png", b"b.png"])
def test_names_beside_images_are_listed_once_found_and_foretold(
    shared: tuple[Library, Placement], names: list[bytes], damaged: list[bytes]
) -> None:
    """`mirrored_names` must name all that a picture's coming or going changes: the kernel is told to forget those."""
    library, first = shared
    session = library.create_session("Names")

    def put(txn: Txn) -> None:
        for area, given_names in (("images", names), ("files", damaged)):
            for name in given_names:
                placement = Placement(
                    id=new_id(), session_id=session.id, digest=first.digest, size=first.size, name=name, area=area
                )
                editing.place(txn, placement)

    library.commit(put)
    raw = editing.folder_directory(session.id, None)[1:]
    context = Context(library.root, 1)
    with library.read() as view:
        pictures = [dentry.name for tag in (b"p", b"f") for dentry in view.dentries(tag + raw)]
        assert len(pictures) == len(names) + len(damaged)
        foretold = {place for name in pictures for place in mirrored_names(name)}
        for tag in (b"m", b"t"):
            key = tag + raw
            mirror = directory_view(key)
            whole = list(mirror.entries(context, view, key, b""))
            assert len(whole) >= (len(pictures) if tag == b"m" else len(names))
            listed = [dentry.name for dentry, _ in whole]
            assert all(len(name) <= 255 for name in listed)
            assert {(tag, name) for name in listed} <= foretold
            assert len(listed) == len(set(listed)), listed
            for at, (dentry, place) in enumerate(whole):
                assert mirror.lookup(context, view, key, dentry.name) == dentry
                assert list(mirror.entries(context, view, key, place)) == whole[at + 1 :]
    library.delete_session(session.id)


# -- files that are being written


async def test_a_staged_file_is_listed_looked_up_and_read_like_any_other(tree: Tree):
    dentry, handle = await naming.create(tree, IMPORT, b"m.bin", 0o640, os.O_RDWR)
    await files.write(tree, handle, 0, b"some bytes")
    for name in (b"a.bin", b"z.bin"):
        _, other = await naming.create(tree, IMPORT, name, 0o600, os.O_WRONLY)
        await files.release(tree, other)
    with tree.library.read() as view:
        assert [found.name for found, _ in tree.entries(view, IMPORT, b"")] == [b"a.bin", b"m.bin", b"z.bin"]
        assert [found.name for found, _ in tree.entries(view, IMPORT, b"a.bin")] == [b"m.bin", b"z.bin"]
        found = tree.lookup(view, IMPORT, b"m.bin")
        assert found is not None and (found.key, found.size, found.mode & 0o777) == (dentry.key, 10, 0o640)
        assert tree.attr(view, dentry.key) == found
    assert bytes(await files.read(tree, handle, 5, 100)) == b"bytes"
    assert bytes(await files.read(tree, handle, 10, 100)) == b""
    await files.release(tree, handle)
    assert Path(tree.staging.path).is_dir()
