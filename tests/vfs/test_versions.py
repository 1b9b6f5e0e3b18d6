"""Pictures that were closed, and overwritten or removed before they were taken in, are in the trash."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_staging import after_kill, content  # noqa: F401 - a fixture

from mixfs.ids import Digest
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.healing import give_up
from mixfs.library.storage_v2 import IMAGES
from mixfs.media.samples import make_sample
from mixfs.records import Placement, Trash
from mixfs.vfs import files, naming, renaming, staging
from mixfs.vfs.taking_in import TakingIn
from mixfs.vfs.tree import Tree
from mixfs.vfs.views.fixed import IMPORT

PICTURE = make_sample("a1111")[1]


def picture(number: int) -> bytes:
    return PICTURE + b"-%d" % number


async def put(tree: Tree, directory: bytes, name: bytes, data: bytes) -> bytes:
    """A program opens with O_TRUNC, writes and closes; returns the node key."""
    with tree.library.read() as view:
        held = tree.lookup(view, directory, name)
    if held is None:
        dentry, handle = await naming.create(tree, directory, name, 0o644, os.O_WRONLY)
        key = dentry.key
    else:
        key, handle = held.key, await files.opened(tree, held.key, os.O_WRONLY | os.O_TRUNC)
        await files.truncate_open(tree, handle)
    for at in range(0, len(data), 40_000):
        await files.write(tree, handle, at, data[at : at + 40_000])
    await files.flush(tree, handle)
    await files.release(tree, handle)
    return key


async def patch(tree: Tree, key: bytes, offset: int, data: bytes) -> None:
    """A program opens with r+b."""
    handle = await files.opened(tree, key, os.O_RDWR)
    await files.write(tree, handle, offset, data)
    await files.flush(tree, handle)
    await files.release(tree, handle)


def saved(library: Library) -> tuple[set[bytes], dict[bytes, bytes]]:
    """The bytes that sessions have, and what is in the trash: bytes and names."""
    with library.read() as view:
        live = {bytes(library.blobs.fetch(each.digest)) for each in view.records(Placement)}
        gone = {
            bytes(library.blobs.fetch(Digest(each.digest))): each.name for each in view.records(Trash) if each.digest
        }
    return live, gone


PLACES = ["import", "images", "app"]


@pytest.fixture(params=PLACES)
def directory(request: pytest.FixtureRequest, library: Library) -> bytes:
    if request.param == "images":
        session = library.create_session("Trip")
        return editing.folder_directory(session.id, None)
    return IMPORT if request.param == "import" else IMAGES


async def test_every_save_of_a_picture_is_kept(tree: Tree, library: Library, directory: bytes):
    for number in range(5):
        await put(tree, directory, b"latest.png", picture(number))
    await TakingIn(tree).take_all()
    live, gone = saved(library)
    assert live == {picture(4)}
    assert gone == {picture(number): b"latest.png" for number in range(4)}
    assert not tree.staging.versions


async def _removed(tree: Tree, directory: bytes, key: bytes) -> None:
    await naming.unlink(tree, directory, b"a.png")


async def _renamed_over(tree: Tree, directory: bytes, key: bytes) -> None:
    await put(tree, directory, b"b.png", picture(9))
    await renaming.rename(tree, directory, b"b.png", directory, b"a.png")


async def _truncated(tree: Tree, directory: bytes, key: bytes) -> None:
    await files.truncate(tree, key, 100)


async def _emptied(tree: Tree, directory: bytes, key: bytes) -> None:
    await files.truncate(tree, key, 0)


async def _patched(tree: Tree, directory: bytes, key: bytes) -> None:
    await patch(tree, key, 60, b"rewritten")


async def _appended(tree: Tree, directory: bytes, key: bytes) -> None:
    await patch(tree, key, len(picture(1)), b"more")


async def _removed_while_open(tree: Tree, directory: bytes, key: bytes) -> None:
    handle = await files.opened(tree, key, os.O_RDWR)
    await naming.unlink(tree, directory, b"a.png")
    assert bytes(await files.read(tree, handle, 0, 8)) == PICTURE[:8]
    await files.write(tree, handle, 0, b"other")
    assert bytes(await files.read(tree, handle, 0, 8)) == b"other" + PICTURE[5:8]
    await files.release(tree, handle)


WAYS = [_removed, _renamed_over, _truncated, _emptied, _patched, _appended, _removed_while_open]


@pytest.mark.parametrize("killed", [False, True], ids=["mounted on", "killed"])
@pytest.mark.parametrize("way", WAYS)
async def test_however_it_goes_a_picture_is_kept(
    tree: Tree, library: Library, after_kill: Callable[[], Tree], way: Callable[..., object], killed: bool  # noqa: F811
):
    key = await put(tree, IMPORT, b"a.png", picture(1))
    await way(tree, IMPORT, key)  # type: ignore[misc]
    after = after_kill() if killed else tree
    await TakingIn(after).take_all()
    _, gone = saved(library)
    assert gone[picture(1)] == b"a.png"
    if way is _patched:
        assert (await content(after, b"a.png"))[:69].endswith(b"rewritten")


async def test_the_folder_may_go_too(tree: Tree, library: Library):
    folder = await naming.make_directory(tree, IMPORT, b"Trip", 0o755)
    await put(tree, folder.key, b"a.png", picture(1))
    await naming.unlink(tree, folder.key, b"a.png")
    await naming.remove_directory(tree, IMPORT, b"Trip")
    await TakingIn(tree).take_all()
    with library.read() as view:
        [trash] = view.records(Trash)
    assert (trash.name, trash.session_title) == (b"a.png", "Trip")
    session = library.find_session("Trip")
    library.restore(trash.id)
    assert [each.name for each in library.placements(session.id)] == [b"a.png"]


async def test_a_session_may_go_too(tree: Tree, library: Library):
    session = library.create_session("Trip")
    images = editing.folder_directory(session.id, None)
    await put(tree, images, b"a.png", picture(1))
    await naming.unlink(tree, images, b"a.png")
    library.delete_session(session.id)
    await TakingIn(tree).take_all()
    assert saved(library)[1][picture(1)] == b"a.png"


@pytest.mark.parametrize(
    "data", [PICTURE[: len(PICTURE) // 2], b"no picture", b""], ids=["cut short", "no picture", "empty"]
)
async def test_what_is_no_complete_picture_is_not_kept(tree: Tree, library: Library, data: bytes):
    await put(tree, IMPORT, b"a.png", data)
    await naming.unlink(tree, IMPORT, b"a.png")
    handle = (await naming.create(tree, IMPORT, b"b.png", 0o644, os.O_WRONLY))[1]
    await files.write(tree, handle, 0, PICTURE)
    await naming.unlink(tree, IMPORT, b"b.png")
    await files.release(tree, handle)
    await TakingIn(tree).take_all()
    assert saved(library) == (set(), {})
    assert not [name for name in os.listdir(tree.staging.path) if name not in ("log", "lock")]


async def test_what_the_library_has_is_not_kept_twice(tree: Tree, library: Library):
    await put(tree, IMPORT, b"a.png", picture(1))
    await TakingIn(tree).take_all()
    for name in (b"b.png", b"c.png"):
        await put(tree, IMPORT, name, picture(1))
        await naming.unlink(tree, IMPORT, name)
    await TakingIn(tree).take_all()
    assert saved(library) == ({picture(1)}, {})


async def test_a_version_heals_an_original_that_is_missing(tree: Tree, library: Library):
    await put(tree, IMPORT, b"a.png", picture(1))
    await TakingIn(tree).take_all()
    [digest] = {placement.digest for placement in library.placements(library.find_session("Inbox").id)}
    library.blobs.path(digest).unlink()
    give_up(library, digest)
    await put(tree, IMPORT, b"b.png", picture(1))
    await naming.unlink(tree, IMPORT, b"b.png")
    await TakingIn(tree).take_all()
    assert saved(library) == ({picture(1)}, {}) and not tree.staging.versions
    with library.read() as view:
        blob = view.blob(digest)
    assert blob is not None and not blob.given_up_ns


async def test_so_many_versions_of_a_name_are_kept(tree: Tree, library: Library, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(staging, "MAX_VERSIONS", 3)
    for number in range(6):
        await put(tree, IMPORT, b"a.png", picture(number))
        await put(tree, IMPORT, b"b.png", picture(number + 10))
    await TakingIn(tree).take_all()
    _, gone = saved(library)
    assert sorted(gone.values()) == [b"a.png"] * 3 + [b"b.png"] * 3
    problems = library.store.problems.path.read_text().splitlines()
    assert len(problems) == 2 and all("version-not-kept" in line for line in problems)


async def test_a_version_is_kept_where_files_have_one_name_only(
    tree: Tree, library: Library, monkeypatch: pytest.MonkeyPatch
):
    def no_links(source: Path, target: Path) -> None:
        if Path(target).parent == tree.staging.path:
            raise PermissionError(1, "Operation not permitted")
        link(source, target)

    link = os.link
    monkeypatch.setattr(os, "link", no_links)
    key = await put(tree, IMPORT, b"a.png", picture(1))
    await patch(tree, key, 0, b"x")
    await put(tree, IMPORT, b"a.png", picture(2))
    await naming.unlink(tree, IMPORT, b"a.png")
    await TakingIn(tree).take_all()
    assert set(saved(library)[1]) == {picture(1), picture(2)}


async def test_pictures_that_change_often_wait_no_longer(tree: Tree):
    taking_in = TakingIn(tree)
    waits = {}
    for number in range(6):
        for name, data in ((b"a.png", picture(number)), (b"a.txt", b"%d" % number)):
            key = await put(tree, IMPORT, name, data)
            staged = tree.staging.by_key(key)
            assert staged is not None
            waits[name] = taking_in._due_at(staged) - staged.touched
        await taking_in.take_all()
    assert waits == {b"a.png": 1.0, b"a.txt": 15.0}
