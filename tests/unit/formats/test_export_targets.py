"""Where an export may go: drives, links and full disks. It is there whole, or nothing of it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from format_home import picture

from mixfs.errors import ExistsError, MixfsError, UnsuitablePlace
from mixfs.formats import koda, outputs, storage_v2, workflow_package
from mixfs.library import exporting
from mixfs.library.api import Library
from mixfs.mountinfo import Mount
from mixfs.vfs.export import export_session

SIZE = 300_000
WAYS: dict[str, Callable[[Library, str, Path], object]] = {
    "folder": export_session,
    "outputs": lambda library, session_id, target: outputs.write(library, [session_id], target),
    "koda": lambda library, session_id, target: koda.write(library, [session_id], str(target)),
    "storage-v2": lambda library, session_id, target: storage_v2.write(library, [session_id], target),
    "workflow-package": workflow_package.write,
}


@pytest.fixture
def session(library: Library) -> str:
    """A session with a picture of `SIZE` bytes."""
    session = library.create_session("Trip")
    library.import_bytes(picture(1) + bytes(SIZE), "a:b.png", session_id=session.id)
    return session.id


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts file systems; gone afterwards."""
    mounted: list[Path] = []

    def mount(name: str, *words: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("NOT RUN: only root may mount")
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *words, path], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT RUN: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", "-l", path], check=True)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "workflow-package"])
def test_into_a_drive_a_link_and_an_empty_folder(
    library: Library, session: str, tmp_path: Path, drive: Callable[..., Path], way: str
) -> None:
    write = WAYS[way]
    write(library, session, tmp_path / "new")
    expected = files(tmp_path / "new")
    assert expected
    usb = drive("usb", "-t", "tmpfs", "-o", "size=4m,mode=0750", "tmpfs")
    (usb / "lost+found").mkdir()
    write(library, session, usb)
    assert files(usb) == expected and os.path.ismount(usb) and usb.stat().st_mode & 0o777 == 0o750
    real = tmp_path / "real"
    real.mkdir(0o711)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    write(library, session, tmp_path / "link")
    write(library, session, tmp_path / "dangling")
    assert files(real) == files(tmp_path / "made") == expected
    assert (tmp_path / "link").is_symlink() and real.stat().st_mode & 0o777 == 0o711
    with pytest.raises(ExistsError, match="not empty"):
        write(library, session, tmp_path / "link")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "workflow-package"])
def test_an_original_that_is_missing_or_damaged_keeps_back_no_other(
    library: Library, session: str, tmp_path: Path, way: str
) -> None:
    digests = [
        library.import_bytes(picture(seed), f"{seed}.png", session_id=session).digest for seed in (2, 3)
    ]
    WAYS[way](library, session, tmp_path / "whole")
    gone, damaged = (library.blobs.path(digest) for digest in digests)
    gone.unlink()
    damaged.chmod(0o600)
    damaged.write_bytes(b"other bytes")
    written: Any = WAYS[way](library, session, tmp_path / "out")
    assert len(written.missing) == 2
    left_out = files(tmp_path / "whole") - files(tmp_path / "out")
    assert left_out - {path for path in left_out if path.endswith(".json")} == set(written.missing)
    assert len(files(tmp_path / "out")) == written.files


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_without_room_is_refused_before_a_byte_is_copied(
    library: Library, session: str, drive: Callable[..., Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usb = drive("usb", "-t", "tmpfs", "-o", f"size={SIZE // 2}", "tmpfs")
    target = usb / "x.zip" if way == "workflow-package" else usb
    copied = []
    monkeypatch.setattr(type(library.blobs), "chunks", lambda *words: copied.append(words) or iter(()))
    with pytest.raises(OSError, match="needs") as error:
        WAYS[way](library, session, target)
    assert error.value.filename.startswith(str(usb)) and not copied and os.listdir(usb) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_fills_up_has_nothing_left_of_it(
    library: Library, session: str, drive: Callable[..., Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else takes the room while the export is written."""
    usb = drive("usb", "-t", "tmpfs", "-o", f"size={SIZE // 2}", "tmpfs")
    target = usb / "x.zip" if way == "workflow-package" else usb
    for module in ("library.exporting", "vfs.export", "formats.workflow_package.writing"):
        monkeypatch.setattr(f"mixfs.{module}.check_room", lambda *words: None)
    with pytest.raises(OSError):
        WAYS[way](library, session, target)
    assert os.listdir(usb) == []


@pytest.mark.parametrize("way", WAYS)
def test_not_into_the_library_by_any_path(
    library: Library, session: str, tmp_path: Path, drive: Callable[..., Path], way: str
) -> None:
    bound = drive("bound", "--bind", str(library.root / "blobs"))
    (tmp_path / "link").symlink_to(library.root)
    before = files(library.root)
    for place in (bound / "out", tmp_path / "link" / "out", library.root / "out"):
        with pytest.raises(UnsuitablePlace):
            WAYS[way](library, session, place)
    assert files(library.root) == before


def test_a_read_only_drive(library: Library, session: str, drive: Callable[..., Path]) -> None:
    usb = drive("usb", "-t", "tmpfs", "-o", "ro", "tmpfs")
    for way, write in WAYS.items():
        with pytest.raises(OSError, match="Read-only"):
            write(library, session, usb / "x" if way == "workflow-package" else usb)


def test_names_and_sizes_that_a_drive_has_no_room_for(
    library: Library, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "mount_of", lambda path: Mount(str(tmp_path), "vfat", "", frozenset()))
    with pytest.raises(MixfsError, match=r"a:b\.png: vfat has no such names"):
        export_session(library, session, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(MixfsError, match="big: it has 4294967296 bytes"):
        exporting.check_fits(tmp_path, [("big", 4 << 30), ("small", 1)])


def test_a_drive_without_hard_links_or_modes(
    library: Library, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("link", "chmod", "utime"):
        monkeypatch.setattr(exporting.os, name, refused)
    target = tmp_path / "x.zip"
    workflow_package.write(library, session, target)
    export_session(library, session, tmp_path / "out")
    assert target.stat().st_size > SIZE and files(tmp_path / "out")
    with pytest.raises(ExistsError):
        workflow_package.write(library, session, target)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
