"""What is looked at when a single file is dropped into import/, and what happens to it there."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from format_home import package, picture, write_package
from test_gallery import gallery

from mixfs.errors import UnsuitablePlace, UsageError
from mixfs.formats.dropped import import_file, import_folder
from mixfs.formats.layouts import FORMATS, import_layout, import_paths, named, within
from mixfs.formats.quick import may_be_layout
from mixfs.ids import new_id
from mixfs.library.api import Library
from mixfs.library.transaction import Txn
from mixfs.media.sniff import HEAD_SIZE
from mixfs.records import Folder, ImportFolder, Placement, Receipt


def test_a_quick_look_sees_every_single_file_layout(tmp_path: Path) -> None:
    path = write_package(tmp_path / "x.bin", package())
    v1 = json.dumps({"session_id": "s", "canvas_images": [{"id": "c", "dataUri": "data:"}]}).encode()
    for data in (path.read_bytes(), json.dumps(gallery()).encode(), v1, b"SQLite format 3\0"):
        assert may_be_layout(data[:HEAD_SIZE])
    for data in (picture(1), b"{}", b"[]", b"", b'x "sessions"', b'{"canvas_images": []}'):
        assert not may_be_layout(data[:HEAD_SIZE])


def receipt_of(library: Library, placement: Placement, name: bytes) -> str:
    """A file as it lies in import/ after it was taken in there."""
    receipt = Receipt(id=new_id(), name=name, digest=placement.digest, size=placement.size, placement_id=placement.id,
                      session_id=placement.session_id)  # fmt: skip
    return library.commit(lambda txn: txn.put(receipt)).id


def test_the_process_that_imports_what_was_dropped(library: Library, tmp_path: Path) -> None:
    placement = library.import_bytes(
        write_package(tmp_path / "a.genaiw.zip", package()).read_bytes(), "a.genaiw.zip"
    )
    receipt_id = receipt_of(library, placement, b"a.genaiw.zip")
    command = [sys.executable, "-P", "-m", "mixfs.formats.dropped", str(library.root), "file", receipt_id]
    told = subprocess.run(command, check=True, cwd="/", stdout=subprocess.PIPE).stdout
    assert json.loads(told) == ["workflow-package"]
    assert library.session("wf-1").title == "My Workflow"
    # The file itself stays where it is.
    assert library.placement(placement.id) == placement
    # What is in no layout stays what it is, what is gone is gone, and what is broken is told of.
    plain = library.import_bytes(b"PK\3\4 manifest.json", "b.zip")
    assert import_file(library, receipt_of(library, plain, b"b.zip")).layouts == []
    assert import_file(library, new_id()).layouts == import_folder(library, new_id()).layouts == []
    members = package() | {"workflow.json": b"["}
    broken = library.import_bytes(write_package(tmp_path / "b.genaiw.zip", members).read_bytes(), "b.genaiw.zip")
    [report] = import_file(library, receipt_of(library, broken, b"b.genaiw.zip")).reports
    assert report.taken == {}
    assert b"b.genaiw.zip: workflow.json: Line 1" in library.store.problems.read()


def test_what_lies_within_a_folder(tmp_path: Path) -> None:
    deep = tmp_path / "plain" / "deep"
    deep.mkdir(parents=True)
    flow = write_package(deep / "flow.zip", package())
    (deep / "gallery_data.json").write_text(json.dumps(gallery()))
    (tmp_path / "plain" / "a.png").write_bytes(picture(1))
    # A package is found within another layout too.
    assert [(path, layout.NAME) for path, layout in within(tmp_path)] == [
        (flow, "workflow-package"), (deep, "gallery"),
    ]  # fmt: skip


Nested = Callable[..., Path]
RUN = b'{"prompt": "sea", "timestamp": "2025-12-09T10:00:00Z"}'


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Nested]:
    """Makes a folder within a folder, and so on, with files at some levels."""
    top = tmp_path / "Deep"

    def made(levels: int, name: str, files: dict[int, dict[str, bytes]]) -> Path:
        top.mkdir()
        folder = os.open(top, os.O_RDONLY)
        for level in range(levels + 1):
            for file, data in files.get(level, {}).items():
                with open(os.open(file, os.O_CREAT | os.O_WRONLY, dir_fd=folder), "wb") as out:
                    out.write(data)
            if level < levels:
                os.mkdir(name, dir_fd=folder)
                inner = os.open(name, os.O_RDONLY, dir_fd=folder)
                os.close(folder)
                folder = inner
        os.close(folder)
        return top

    yield made
    # shutil.rmtree needs a descriptor and a call for each level.
    subprocess.run(["rm", "-rf", "--", str(top)], check=True)


@pytest.mark.parametrize("levels", [400, 1100])
def test_deep_folders_are_looked_at_once_and_come_in(
    library: Library, nested: Nested, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = nested(levels, "d", {at: {"a.png": picture(at), "x.json": b"{}"} for at in (0, 150, levels)})
    listed: Counter[str] = Counter()
    resolved: list[str] = []
    scandir, realpath = os.scandir, os.path.realpath
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path=".": listed.update([os.fspath(path)]) or scandir(path))
        patch.setattr(os.path, "realpath", lambda path, **how: resolved.append(str(path)) or realpath(path, **how))
        assert list(within(top, frozenset({str(top / "own")}))) == []
    # To walk it, for outputs, for a Storage V2 folder and for Koda; however deep it is.
    assert len(listed) == levels + 1 and max(listed.values()) <= 5 and len(resolved) <= 5
    done = import_paths(library, [top])
    assert done.layouts == [] and done.files is not None
    assert (done.files.imported, done.files.kept_as_files, done.files.failed) == (3, 1, [])
    with library.read() as view:
        assert sum(1 for _ in view.records(Folder)) == levels


def test_a_deep_outputs_folder_comes_in_as_one(library: Library, nested: Nested) -> None:
    done = import_paths(library, [nested(1100, "d", {1100: {"a.png": picture(1), "a.json": RUN}})])
    assert [(each.layout, each.taken["generations"], each.not_taken) for each in done.layouts] == [("outputs", 1, [])]


def test_what_has_too_long_a_path_is_named_and_the_rest_comes_in(library: Library, nested: Nested) -> None:
    top = nested(600, "folder-8", {at: {"a.png": picture(at), "x.json": b"{}"} for at in (0, 300, 600)})
    done = import_paths(library, [top])
    assert done.layouts == [] and done.files is not None and done.files.imported == 2
    [failed] = done.files.failed
    assert "can't be listed" in failed.reason and len(failed.path) >= 4095


def test_what_lies_too_deep_in_import_is_named_and_stays_plain(library: Library, tmp_path: Path) -> None:
    """A process lays out what was dropped, and clears that away: neither goes deeper than any program does."""
    flow = library.import_bytes(write_package(tmp_path / "x", package()).read_bytes(), "flow.zip")
    deep = library.import_bytes(b"{}", "deep.json")

    def put(txn: Txn) -> str:
        parent: str | None = None
        tops = []
        for _ in range(1100):
            folder = txn.put(ImportFolder(id=new_id(), parent_id=parent, name=b"d"))
            tops.append(folder.id)
            parent = folder.id
        for placement, at in ((flow, tops[0]), (deep, tops[-1])):
            receipt = Receipt(id=new_id(), name=placement.name, parent_id=at, digest=placement.digest)
            txn.put(dataclasses.replace(receipt, size=placement.size, placement_id=placement.id))
        return tops[0]

    assert import_folder(library, library.commit(put)).layouts == ["workflow-package"]
    assert b"1 files, this one first, lie in more than" in library.store.problems.read()
    assert not list((library.root / "staging").glob("*/dropped"))


def test_layouts_by_name(library: Library) -> None:
    assert [named(layout.NAME) for layout in FORMATS] == list(FORMATS)
    with pytest.raises(UsageError):
        named("none")
    with pytest.raises(UnsuitablePlace):
        import_layout(library, FORMATS[0], library.root / "format")
