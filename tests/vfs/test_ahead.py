"""The next pictures of a folder are read ahead of who goes through it, and of nobody else."""

from __future__ import annotations

import ctypes
import io
import mmap
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from PIL import Image

from mixfs.ids import key16
from mixfs.library.api import Library
from mixfs.records import Placement
from mixfs.vfs import files
from mixfs.vfs.ahead import PICTURES
from mixfs.vfs.tree import Tree

COUNT = 40


class Picture(NamedTuple):
    key: bytes
    blob: Path


def in_cache(path: Path) -> bool:
    """Whether a file's first page is in the page cache. By mincore(2): any read would have the kernel fetch it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_COPY) as mapped:
        place = (ctypes.c_char * mmap.PAGESIZE).from_buffer(mapped)
        found = ctypes.c_ubyte()
        size = ctypes.c_size_t(mmap.PAGESIZE)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(place)), size, ctypes.byref(found))
        # Before it is unmapped.
        del place
    assert not failed
    return bool(found.value & 1)


@pytest.fixture
def pictures(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The pictures of a folder in the order of its listing; none is in the page cache.

    Whoever reads what is not there waits for the disk. A disk may be so fast that a read with RWF_NOWAIT, which begins
    the kernel's read-ahead, finds the page there already: here it always asks a thread, as it does with most disks.
    """
    at_once = files._open_cached
    monkeypatch.setattr(
        files, "_open_cached",
        lambda tree, content: (
            at_once(tree, content) if in_cache(tree.library.blobs.path(content.digest)) else None
        ),
    )  # fmt: skip
    source = tmp_path / "Trip"
    source.mkdir()
    for number in range(COUNT):
        out = io.BytesIO()
        Image.effect_noise((120, 120), number + 1).save(out, "PNG")
        (source / f"{number:02}.png").write_bytes(out.getvalue())
    assert not library.import_paths([source]).failed
    os.sync()
    session = library.find_session("Trip")
    found = []
    with library.read() as view:
        for dentry in view.dentries(b"p" + key16(session.id)):
            placement = view.get_raw(Placement, dentry.key[1:])
            assert placement is not None
            found.append(Picture(dentry.key, library.blobs.path(placement.digest)))
    for picture in found:
        fd = os.open(picture.blob, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        if in_cache(picture.blob):
            pytest.skip("the file system of the temporary folder keeps all in memory")
    assert len(found) == COUNT
    return found


async def look_at(tree: Tree, picture: Picture) -> None:
    handle = await files.opened(tree, picture.key, os.O_RDONLY)
    assert bytes(await files.read(tree, handle, 0, 4096)) == picture.blob.read_bytes()[:4096]
    await files.release(tree, handle)


async def until_read(pictures: list[Picture]) -> None:
    with trio.fail_after(20):
        while not all(in_cache(picture.blob) for picture in pictures):
            await trio.sleep(0.01)


async def test_two_neighbours_bring_the_next(tree: Tree, pictures: list[Picture]) -> None:
    await look_at(tree, pictures[5])
    assert len(tree.ahead) == 0
    await look_at(tree, pictures[6])
    assert len(tree.ahead) == PICTURES
    await until_read(pictures[7 : 7 + PICTURES])
    assert not in_cache(pictures[7 + PICTURES].blob) and not in_cache(pictures[4].blob)
    # Goes on with who goes on, before they have come to the end of what is there.
    for picture in pictures[7 : 7 + PICTURES - 1]:
        await look_at(tree, picture)
    await until_read(pictures[7 + PICTURES : 7 + PICTURES + PICTURES // 2])


async def test_the_end_of_a_folder_is_no_matter(tree: Tree, pictures: list[Picture]) -> None:
    for picture in pictures[-3:]:
        await look_at(tree, picture)
    assert len(tree.ahead) == 0


async def test_nothing_for_who_jumps_about(tree: Tree, pictures: list[Picture]) -> None:
    for number in (0, 20, 3, 35, 12, 1):
        await look_at(tree, pictures[number])
    assert len(tree.ahead) == 0
    assert not in_cache(pictures[2].blob)


async def test_nothing_for_what_is_in_the_page_cache(tree: Tree, pictures: list[Picture]) -> None:
    for picture in pictures:
        picture.blob.read_bytes()
    for picture in pictures:
        await look_at(tree, picture)
    assert len(tree.ahead) == 0


async def test_who_reads_what_is_cached_begins_nothing_while_another_goes_on(
    tree: Tree, pictures: list[Picture]
) -> None:
    for number in (5, 6):
        await look_at(tree, pictures[number])
    for number in (7 + PICTURES, 8 + PICTURES):
        pictures[number].blob.read_bytes()
        await look_at(tree, pictures[number])
    assert len(tree.ahead) == PICTURES


async def test_what_is_gone_by_then_hurts_nobody(tree: Tree, pictures: list[Picture]) -> None:
    pictures[9].blob.unlink()
    for number in (5, 6, 7, 8):
        await look_at(tree, pictures[number])
    await until_read(pictures[10:13])
