"""What lies where a layout expects a file may be anything: a FIFO, a device, a sparse file, a file being written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_home import Home
from format_home import package, picture, take, write_package

from mixfs import regular_files
from mixfs.errors import InvalidValue
from mixfs.formats import outputs, storage_v2
from mixfs.formats.base import data_uri
from mixfs.ids import Digest
from mixfs.library.api import Library

HUGE = 1_500_000_000


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(HUGE)


def a_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    at = Path.cwd()
    os.chdir(path.parent)  # The name of a socket may be short only.
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(at)


def zero(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def storage(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "sessions").mkdir()
    (folder / "thumbnails" / "s1").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(picture(1))
    (folder / "thumbnails" / "s1" / "t.png").write_bytes(picture(2))
    (folder / "logs.jsonl").write_text('{"message": "x"}\n')
    registry = {"version": "2.0", "images": {"a": {"file_path": "images/a.png"}}}
    (folder / "image_registry.json").write_text(json.dumps(registry))
    canvas = {"session_id": "s1", "title": "Trip", "canvas_images": [
        {"canvasId": "c", "imageHash": "a", "type": "image", "x": 0, "y": 0}]}  # fmt: skip
    (folder / "sessions" / "s1_canvas.json").write_text(json.dumps(canvas))
    (folder / "sessions" / "s1_generations.json").write_text('{"session_id": "s1", "generations": []}')
    return folder


PARTS = (
    "images/a.png", "thumbnails/s1/t.png", "logs.jsonl", "image_registry.json", "sessions/s1_canvas.json",
    "sessions/s1_generations.json",
)  # fmt: skip


@pytest.mark.parametrize("kind", [fifo, zero, a_socket])
def test_no_part_of_a_source_is_waited_for(home: Home, kind: Callable[[Path], None]) -> None:
    """One import of everything, with something in the place of each file that a layout names."""
    top = home.path / "all"
    for at, part in enumerate(PARTS):
        kind(storage(top / f"storage{at}") / part)
    dated = top / "outputs" / "images" / "generations" / "2025-01-01"
    dated.mkdir(parents=True)
    for name in ("one", "two"):
        (dated / f"{name}.png").write_bytes(picture(ord(name[0])))
        said = {"prompt": "p", "model": "m", "timestamp": "2025-12-08T10:15:00Z"}
        (dated / f"{name}.json").write_text(json.dumps(said))
    kind(dated / "two.json")
    (top / "gallery").mkdir()
    kind(top / "gallery" / "gallery_data.json")
    kind(top / "x.genaiw.zip")
    kind(top / "plain.png")
    write_package(top / "good.genaiw.zip", package())
    done = home.run("import", top, "--json", code=None)
    titles = {each["title"] for each in home.run("sessions", "--json").json}
    assert done.code in (0, 1) and {"Trip", "My Workflow", "all"} <= titles
    by_itself = home.path / "by itself"
    kind(by_itself)
    done = home.run("import", by_itself, code=1)
    assert "regular file" in done.err


def test_a_sparse_file_is_no_document(library: Library, tmp_path: Path) -> None:
    for at, part in enumerate(PARTS[2:]):
        source = storage(tmp_path / f"storage{at}")
        sparse(source / part)
        report = take(library, source)
        assert any(problem.file.endswith(part) and str(HUGE) in problem.reason for problem in report.not_taken), part
    assert outputs._is_sidecar(tmp_path / "storage0" / "logs.jsonl") is False
    sparse(tmp_path / "x.json")
    assert not storage_v2.detect(tmp_path / "x.json")


@pytest.mark.parametrize("layout", [False, True])
def test_holes_stay_holes_and_what_is_too_long_is_named(library: Library, tmp_path: Path, layout: bool) -> None:
    source = storage(tmp_path / "storage")
    images = source / "images"
    listed = {Path(name).stem: {"file_path": f"images/{name}"} for name in ("a.png", "holes", "endless")}
    (source / "image_registry.json").write_text(json.dumps({"version": "2.0", "images": listed}))
    with (images / "holes").open("wb") as file:
        file.write(picture(3))
        file.truncate(256 << 20)
        file.seek(128 << 20)
        file.write(b"x")
    with (images / "endless").open("wb") as file:
        file.truncate(300 << 30)
    if layout:
        refused = [(problem.place, problem.reason) for problem in take(library, source).not_taken]
    else:
        refused = [(Path(each.path).name, each.reason) for each in library.import_paths([images]).failed]
    assert [("endless" in place, "allowed" in reason or "GiB" in reason) for place, reason in refused] == [(True, True)]
    with (images / "holes").open("rb") as file:
        path = library.blobs.path(Digest(hashlib.file_digest(file, "sha256").digest()))
    status = path.stat()
    assert status.st_size == 256 << 20 and status.st_blocks * 512 < 1 << 20
    assert library.has_blob(Digest(hashlib.sha256(picture(1)).digest()))


def test_what_there_is_no_room_for_is_named_before_it_is_copied(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Trip").mkdir()
    (tmp_path / "Trip" / "long").write_bytes(os.urandom(2 << 20))
    (tmp_path / "Trip" / "short").write_bytes(b"short")
    real = os.fstatvfs

    def nearly_full(fd: int) -> os.statvfs_result:
        found = list(real(fd))
        found[4] = (1 << 20) // found[1]
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "fstatvfs", nearly_full)
    report = library.import_paths([tmp_path / "Trip"])
    assert [(Path(each.path).name, each.reason) for each in report.failed] == [("long", os.strerror(errno.ENOSPC))]
    assert report.kept_as_files == 1


@pytest.mark.parametrize("layout", [False, True])
def test_a_file_that_changes_while_it_is_read_is_read_again_or_named(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: bool
) -> None:
    path = (storage(tmp_path / "storage") / "images" / "a.png") if layout else tmp_path / "a.png"
    path.write_bytes(picture(1))
    changes = iter(range(2, 100))

    def changed(before: os.stat_result, after: os.stat_result) -> bool:
        """Somebody saves the file whenever it was read."""
        if (seed := next(changes, None)) is not None:
            path.write_bytes(picture(seed) + bytes(seed))
        return regular_files.is_unchanged(before, os.stat(path))

    def run() -> tuple[int, str]:
        if layout:
            report = take(library, tmp_path / "storage")
            return report.taken.get("pictures", 0), " ".join(each.reason for each in report.not_taken)
        imported = library.import_paths([path])
        return imported.imported, " ".join(each.reason for each in imported.failed)

    for module in ("mixfs.library.importing", "mixfs.formats.base"):
        monkeypatch.setattr(f"{module}.is_unchanged", changed)
    taken, reasons = run()
    assert taken == 0 and "changed while it was read" in reasons
    changes = iter([7])
    taken, reasons = run()
    assert (taken, reasons) == (1, "")
    [placement] = [each for session in library.sessions() for each in library.placements(session.id)]
    assert library.read_image(placement.digest) == picture(7) + bytes(7)


@pytest.mark.parametrize("said", ["images\\a.png", "./images/a.png", "images//a.png"])
def test_paths_as_other_systems_write_them(library: Library, tmp_path: Path, said: str) -> None:
    source = storage(tmp_path / "storage")
    (source / "image_registry.json").write_text(json.dumps({"version": "2.0", "images": {"a": {"file_path": said}}}))
    report = take(library, source)
    assert (report.taken["pictures"], report.not_taken) == (1, [])
    [placement] = library.placements(library.find_session("Trip").id)
    assert placement.name == b"a.png"


def test_data_uris_as_browsers_take_them() -> None:
    data = b"\xff\xfe\xfd\xfc>"
    for uri in ("//79/D4=", "//79/D4", "%2F%2F79%2FD4%3D", "//79\n /D4="):
        assert data_uri(f"data:image/png; base64,{uri}") == data_uri(f"data:;BASE64,{uri}") == data
    assert data_uri("data:text/plain,a%20b") == b"a b"
    for uri in ("@@@", "A", "//79/D4=x", ""):
        with pytest.raises(InvalidValue):
            data_uri(f"data:image/png;base64,{uri}")
