"""Bits that flip on the disk: what is read is right or EIO, and what is damaged goes out of the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import png
from live import Live, living, needs_fuse, until

from mixfs.blobs.sums import BLOCK
from mixfs.ids import Digest
from mixfs.library.api import Library
from mixfs.library.fsck import check
from mixfs.library.healing import give_up

pytestmark = [pytest.mark.mount, needs_fuse]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path) as live:
        live.start()
        yield live


def bring_in(live: Live, name: str, data: bytes) -> Path:
    (live.point / "import" / "Trip").mkdir(exist_ok=True)
    (live.point / "import" / "Trip" / name).write_bytes(data)
    live.take_in()
    live.stop()
    text = hashlib.sha256(data).hexdigest()
    return live.library / "blobs" / text[:2] / text[2:]


def shown(live: Live, name: str) -> Path:
    return live.point / "sessions" / "Trip" / "files" / name


def spoil(blob: Path, offset: int) -> None:
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    blob.chmod(0o444)


def problems(live: Live) -> list[dict[str, object]]:
    lines = (live.point / ".mixfs" / "problems.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("block", [0, 3, 9])
def test_a_flipped_bit_is_never_served(live: Live, block: int) -> None:
    data = os.urandom(9 * BLOCK + 1000)
    blob = bring_in(live, "a.bin", data)
    spoil(blob, block * BLOCK + 77)
    live.start()
    fd = os.open(shown(live, "a.bin"), os.O_RDONLY)
    try:
        for at in range(0, len(data), BLOCK):
            if at // BLOCK == block:
                with pytest.raises(OSError) as error:
                    os.pread(fd, BLOCK, at)
                assert error.value.errno == errno.EIO
            else:
                # The kernel reads ahead: what it can't have makes no difference to what it was asked for.
                assert os.pread(fd, BLOCK, at) == data[at : at + BLOCK]
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 5, 3 * BLOCK])
def test_a_truncated_blob_is_an_error_and_no_short_file(live: Live, size: int) -> None:
    data = os.urandom(3 * BLOCK + 1)
    blob = bring_in(live, "a.bin", data)
    blob.chmod(0o600)
    os.truncate(blob, size)
    live.start()
    with pytest.raises(OSError) as error:
        shown(live, "a.bin").read_bytes()
    assert error.value.errno == errno.EIO


def test_damage_goes_to_quarantine_and_says_who_is_affected(live: Live) -> None:
    data = os.urandom(2 * BLOCK)
    blob = bring_in(live, "a.bin", data)
    spoil(blob, BLOCK)
    live.start()
    with pytest.raises(OSError):
        shown(live, "a.bin").read_bytes()
    until(lambda: not blob.exists(), "the blob is moved")
    until(lambda: problems(live), "it is reported")
    line = problems(live)[-1]
    assert line["kind"] == "blob-damaged" and line["affected"] == ["Trip/files/a.bin"]
    kept = live.library / "quarantine" / f"{hashlib.sha256(data).hexdigest()}.blob"
    assert kept.exists() and "Trip/files/a.bin" in kept.with_suffix(".txt").read_text()
    # Still listed, still EIO; the rest of the mount is as it was.
    with pytest.raises(OSError) as error:
        shown(live, "a.bin").read_bytes()
    assert error.value.errno == errno.EIO
    assert os.listdir(live.point / "sessions" / "Trip" / "files") == ["a.bin"]


def test_the_same_file_again_heals_it(live: Live) -> None:
    data = os.urandom(2 * BLOCK)
    blob = bring_in(live, "a.bin", data)
    spoil(blob, 5)
    live.start()
    (live.point / "import" / "Again").mkdir()
    (live.point / "import" / "Again" / "b.bin").write_bytes(data)
    live.take_in()
    assert blob.read_bytes() == data
    assert shown(live, "a.bin").read_bytes() == data


def test_damage_gets_no_digest_of_its_own(live: Live) -> None:
    """Appending to a damaged file, or linking it, would make a new original of wrong bytes."""
    data = os.urandom(2 * BLOCK)
    blob = bring_in(live, "a.bin", data)
    spoil(blob, 5)
    live.start()
    path = live.point / "import" / "Trip" / "a.bin"
    with pytest.raises(OSError) as error, path.open("ab") as file:
        file.write(b"more")
    assert error.value.errno == errno.EIO
    with pytest.raises(OSError) as error:
        os.link(path, path.with_name("b.bin"))
    assert error.value.errno == errno.EIO


def test_what_is_right_is_served_however_it_is_read(live: Live) -> None:
    data = os.urandom(5 * BLOCK + 321)
    bring_in(live, "a.bin", data)
    live.start()
    with shown(live, "a.bin").open("rb", buffering=0) as file:
        for offset, size in ((0, 1), (BLOCK - 1, 2), (len(data) - 1, 1), (len(data), 5), (3, 2 * BLOCK), (70000, 4096)):
            file.seek(offset)
            assert file.read(size) == data[offset : offset + size]
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == data


def test_a_blob_from_before_sums_were_kept_is_checked_too(live: Live) -> None:
    import dataclasses

    from mixfs.records import Blob

    data = os.urandom(3 * BLOCK)
    blob = bring_in(live, "a.bin", data)
    with Library.open(live.library) as library:
        def forget(txn):  # type: ignore[no-untyped-def]
            record = next(iter(txn.records(Blob)))
            txn.put(dataclasses.replace(record, sums=b""))

        library.commit(forget)
    live.start()
    assert shown(live, "a.bin").read_bytes() == data
    live.stop()
    spoil(blob, 2 * BLOCK)
    live.start()
    with pytest.raises(OSError), shown(live, "a.bin").open("rb") as file:
        file.read(10)


def test_a_damaged_picture_is_not_shown_in_views_either(live: Live) -> None:
    data = png(400, 300)
    blob = bring_in(live, "a.png", data)
    spoil(blob, len(data) // 2)
    live.start()
    name = f"{blob.parent.name}{blob.name}.png"
    with pytest.raises(OSError) as error:
        (live.point / "images" / name[:2] / name).read_bytes()
    assert error.value.errno == errno.EIO


def test_what_lies_in_lost_is_served_and_comes_back(live: Live) -> None:
    data = os.urandom(3 * BLOCK + 5)
    blob = bring_in(live, "a.bin", data)
    live.start()
    aside = live.library / "lost" / blob.parent.name / blob.name
    aside.parent.mkdir(parents=True)
    blob.rename(aside)
    assert shown(live, "a.bin").read_bytes() == data
    assert blob.exists() and not aside.exists()


def test_what_is_given_up_stays_listed_until_the_same_bytes_come(live: Live) -> None:
    data = os.urandom(BLOCK + 5)
    blob = bring_in(live, "a.bin", data)
    blob.unlink()
    with Library.open(live.library) as library:
        give_up(library, Digest(hashlib.sha256(data).digest()))
    live.start()
    assert shown(live, "a.bin").stat().st_size == len(data)
    with pytest.raises(OSError) as error:
        shown(live, "a.bin").read_bytes()
    assert error.value.errno == errno.EIO
    (live.point / "import" / "Trip" / "again.bin").write_bytes(data)
    live.take_in()
    assert shown(live, "a.bin").read_bytes() == data
    live.stop()
    assert check(live.library).notes == []


def test_a_library_that_is_replaced_under_a_mount_loses_nothing(live: Live) -> None:
    """A backup put at its path by mv and cp, while programs go on writing."""
    bring_in(live, "before.txt", b"made before the backup")
    live.start()
    old = live.library.with_name("old")
    live.library.rename(old)
    shutil.copytree(old, live.library)
    acknowledged = []
    for n in range(3):
        with contextlib.suppress(OSError):
            (live.point / "import" / "Trip" / f"after-{n}.txt").write_bytes(b"made after it %d" % n)
            acknowledged.append(n)
    with contextlib.suppress(OSError):
        os.mkdir(live.point / "sessions" / "Another")
    waited = live.mixfs("wait", live.point, check=False)
    assert waited.returncode and "is not what was opened here" in waited.stderr, waited
    health = json.loads((live.point / ".mixfs" / "health.json").read_text())
    assert health["status"] == "problems" and health["problems"][0]["kind"] == "library-replaced"
    assert shown(live, "before.txt").read_bytes() == b"made before the backup"
    live.kill()
    assert check(live.library).clean, "nothing was written to the backup"
    shutil.rmtree(live.library)
    old.rename(live.library)
    live.start()
    live.take_in()
    for n in acknowledged:
        assert shown(live, f"after-{n}.txt").read_bytes() == b"made after it %d" % n
    assert check(live.library).clean
