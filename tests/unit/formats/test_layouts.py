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
from mixfs.formats.dropped import import_dropped
from mixfs.formats.layouts import FORMATS, import_layout, named
from mixfs.formats.quick import may_be_layout
from mixfs.library.api import Library
from mixfs.media.sniff import HEAD_SIZE


def test_a_quick_look_sees_every_single_file_layout(tmp_path: Path) -> None:
    path = write_package(tmp_path / "x.bin", package())
    v1 = json.dumps({"session_id": "s", "canvas_images": [{"id": "c", "dataUri": "data:"}]}).encode()
    for data in (path.read_bytes(), json.dumps(gallery()).encode(), v1, b"SQLite format 3\0"):
        assert may_be_layout(data[:HEAD_SIZE], b"x.bin")
    for data in (picture(1), b"{}", b"[]", b"", b"PK\3\4", b'x "sessions"', b'{"canvas_images": []}'):
        assert not may_be_layout(data[:HEAD_SIZE], b"x.json")


def test_the_process_that_imports_what_was_dropped(library: Library, tmp_path: Path) -> None:
    placement = library.import_bytes(
        write_package(tmp_path / "a.genaiw.zip", package()).read_bytes(), "a.genaiw.zip"
    )
    command = [sys.executable, "-P", "-m", "mixfs.formats.dropped", str(library.root), placement.digest.hex(), "a"]
    subprocess.run(command, check=True, cwd="/")
    assert library.session("wf-1").title == "My Workflow"
    # What is in no layout stays what it is, and what is broken is told of.
    plain = library.import_bytes(b"PK\3\4 manifest.json", "b.zip")
    assert import_dropped(library, plain.digest.hex(), "b.zip") is None
    members = package() | {"workflow.json": b"["}
    broken = library.import_bytes(write_package(tmp_path / "b.genaiw.zip", members).read_bytes(), "b.genaiw.zip")
    report = import_dropped(library, broken.digest.hex(), "b.genaiw.zip")
    assert report is not None and report.taken == {}
    assert b"b.genaiw.zip: workflow.json: Line 1" in library.store.problems.read()


def test_layouts_by_name(library: Library) -> None:
    assert [named(layout.NAME) for layout in FORMATS] == list(FORMATS)
    with pytest.raises(UsageError):
        named("none")
    with pytest.raises(UnsuitablePlace):
        import_layout(library, FORMATS[0], library.root / "format")
