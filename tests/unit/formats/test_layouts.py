"""What is looked at when a single file is dropped into import/, and what happens to it there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from format_home import package, picture, write_package
from test_gallery import gallery

from mixfs.errors import UnsuitablePlace, UsageError
from mixfs.formats.dropped import import_file, import_folder
from mixfs.formats.layouts import FORMATS, import_layout, named, within
from mixfs.formats.quick import may_be_layout
from mixfs.ids import new_id
from mixfs.library.api import Library
from mixfs.media.sniff import HEAD_SIZE
from mixfs.records import Placement, Receipt


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


def test_layouts_by_name(library: Library) -> None:
    assert [named(layout.NAME) for layout in FORMATS] == list(FORMATS)
    with pytest.raises(UsageError):
        named("none")
    with pytest.raises(UnsuitablePlace):
        import_layout(library, FORMATS[0], library.root / "format")
