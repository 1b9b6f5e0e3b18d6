"""A folder that is in no layout itself and holds some: each is imported as what it is, and the rest as files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from format_home import package, picture, write_package
from test_gallery import gallery

from mixfs.errors import UnsuitablePlace
from mixfs.formats import koda, layouts
from mixfs.formats.base import Options
from mixfs.formats.layouts import Imported, import_paths
from mixfs.library.api import Library
from mixfs.records import KINDS, Entry, Folder, Placement, Session


def studio(root: Path) -> Path:
    """A Storage V2 folder with one session, of one picture, and its thumbnail."""
    for name in ("sessions", "images", "thumbnails/mixboard-1"):
        (root / name).mkdir(parents=True)
    (root / "images/output_1_abcdef.png").write_bytes(picture(40))
    (root / "thumbnails/mixboard-1/0.png").write_bytes(picture(41))
    info = {"id": "i", "hash": "abcdef", "file_path": "images/output_1_abcdef.png"}
    (root / "image_registry.json").write_text(json.dumps({"version": "2.0", "images": {"abcdef": info}}))
    entry = {"canvasId": "c", "type": "image", "imageHash": "abcdef", "x": 0, "y": 0, "thumbnailPath": "0.png"}
    canvas = {"version": "2.0", "session_id": "mixboard-1", "title": "Board", "canvas_images": [entry]}
    (root / "sessions/mixboard-1_canvas.json").write_text(json.dumps(canvas))
    return root


def database(root: Path, beside: Path) -> Path:
    """A Koda database of one canvas, with its picture beside it."""
    with Library.open(beside) as library:
        session = library.create_session("Kitchen")
        placement = library.import_bytes(picture(50), "sink.png", session_id=session.id)
        library.put_entry(Entry(id="n", session_id=session.id, digest=placement.digest))
        koda.write(library, [session.id], str(root))
    return root


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder `All` with a bit of everything."""
    root = tmp_path / "All"
    (root / "trip" / "day 1").mkdir(parents=True)
    (root / "trip" / "a.png").write_bytes(picture(60))
    (root / "trip" / "day 1" / "b.png").write_bytes(picture(61))
    (root / "notes.txt").write_text("remember")
    (root / "settings.json").write_text("{}")
    write_package(root / "trip" / "flow.genaiw.zip", package())
    studio(root / "apps" / "studio")
    write_package(root / "apps" / "studio" / "within.zip", {**package(), **renamed("wf-2", "Within")})
    (root / "apps" / "gallery").mkdir()
    (root / "apps" / "gallery" / "gallery_data.json").write_text(json.dumps(gallery()))
    database(root / "apps" / "koda", tmp_path / "beside")
    # None of these is to be looked at.
    write_package(root / ".hidden.genaiw.zip", {**package(), **renamed("wf-3", "Hidden")})
    (tmp_path / "elsewhere").mkdir()
    write_package(tmp_path / "elsewhere" / "x.genaiw.zip", {**package(), **renamed("wf-4", "Elsewhere")})
    (root / "link").symlink_to(tmp_path / "elsewhere")
    return root


def renamed(workflow_id: str, name: str) -> dict[str, Any]:
    """The documents of a package of another id and name."""
    members = package()
    manifest, workflow = members["manifest.json"], members["workflow.json"]
    return {
        "manifest.json": manifest | {"workflow": {"id": workflow_id, "file": "workflow.json", "name": name}},
        "workflow.json": workflow | {"id": workflow_id, "name": name},
    }


def titles(library: Library) -> dict[str, str]:
    return {session.title: session.id for session in library.sessions()}


def paths_of(library: Library, title: str) -> list[str]:
    """What is in a session, by area and path."""
    with library.read() as view:
        [session] = [each for each in view.records(Session) if each.title == title]
        out = []
        for placement in view.members(Placement, session.id):
            names, folder_id = [os.fsdecode(placement.name)], placement.folder_id
            while folder_id is not None and (folder := view.get(Folder, folder_id)) is not None:
                names, folder_id = [os.fsdecode(folder.name), *names], folder.parent_id
            out.append("/".join([placement.area, *names]))
    return sorted(out)


def everything(library: Library) -> list[Any]:
    with library.read() as view:
        return [sorted((record.entity_id, repr(record)) for record in view.records(cls)) for cls in KINDS.values()]


REST = [
    "files/apps/gallery/gallery_data.json", "files/apps/koda/koda.db", "files/apps/studio/image_registry.json",
    "files/apps/studio/sessions/mixboard-1_canvas.json", "files/apps/studio/within.zip", "files/notes.txt",
    "files/settings.json", "files/trip/flow.genaiw.zip", "images/trip/a.png", "images/trip/day 1/b.png",
]  # fmt: skip


def test_each_layout_comes_in_as_what_it_is_and_the_rest_as_files(library: Library, mixed: Path) -> None:
    would = import_paths(library, [mixed], dry_run=True)
    assert everything(library) == everything_of_nothing()
    done = import_paths(library, [mixed])
    assert {*titles(library)} >= {"All", "Board", "My Workflow", "Within", "Kitchen"}
    assert not {"Hidden", "Elsewhere"} & {*titles(library)}
    assert paths_of(library, "All") == REST
    assert not any("--format files" in item.reason for each in done.layouts for item in each.skipped)
    assert [each.layout for each in done.layouts] == [
        "gallery", "koda", "workflow-package", "storage-v2", "workflow-package",
    ]  # fmt: skip
    # A thumbnail of the app's is that, and no picture.
    assert [name for _, name, _ in library.app_files.all_thumbnails()] == ["0.png"]
    assert library.entries(titles(library)["Kitchen"])[0].digest is not None
    # The dry run said so.
    assert [each.taken for each in would.layouts] == [each.taken for each in done.layouts]
    assert would.files is not None and done.files is not None
    assert would.files.files == done.files.files == len(REST)
    assert [each.path for each in done.files.skipped] == [str(mixed / ".hidden.genaiw.zip"), str(mixed / "link")]
    # Again, nothing is changed.
    before = everything(library)
    again = import_paths(library, [mixed])
    assert everything(library) == before
    assert [each.taken for each in again.layouts] == [{}] * 5
    assert again.files is not None and (again.files.deduplicated, again.files.imported) == (len(REST), 0)


def everything_of_nothing() -> list[Any]:
    return [[] for _ in KINDS]


def test_an_outputs_folder_around_other_layouts(library: Library, mixed: Path) -> None:
    said = {"prompt": "sea", "model": "flux", "timestamp": "2025-12-09T10:00:00Z"}
    (mixed / "trip" / "a.json").write_text(json.dumps(said))
    done = import_paths(library, [mixed])
    assert [each.layout for each in done.layouts][-1] == "outputs"
    assert done.files is None
    # The same as without: the JSON file is what is known of its picture.
    assert paths_of(library, "All") == REST
    with library.read() as view:
        assert [run.prompt for run in view.generations_of(view_digest(library, b"a.png"))] == ["sea"]
    before = everything(library)
    import_paths(library, [mixed])
    assert everything(library) == before


def view_digest(library: Library, name: bytes) -> Any:
    with library.read() as view:
        return next(each.digest for each in view.records(Placement) if each.name == name)


def test_a_folder_above_several_apps_is_none_of_them(library: Library, tmp_path: Path) -> None:
    studio(tmp_path / "All" / "studio")
    assert layouts.detect(tmp_path / "All") is not None
    (tmp_path / "All" / "a.png").write_bytes(picture(1))
    assert layouts.detect(tmp_path / "All") is None
    import_paths(library, [tmp_path / "All"])
    assert paths_of(library, "Board") == ["images/output_1_abcdef.png"]
    assert "images/a.png" in paths_of(library, "All")


def test_the_library_in_such_a_folder_is_left_out(mixed: Path) -> None:
    with Library.open(mixed / "library") as library:
        # It would be found, as a file without a name.
        write_package(mixed / "library" / "x.genaiw.zip", {**package(), **renamed("wf-5", "Own")})
        done = import_paths(library, [mixed])
        assert "Own" not in titles(library) and paths_of(library, "All") == REST
        assert done.files is not None and str(mixed / "library") in [each.path for each in done.files.skipped]
        would = import_paths(library, [mixed], dry_run=True).files
        assert would is not None and would.files == len(REST)
        with pytest.raises(UnsuitablePlace):
            import_paths(library, [mixed / "library"])


def test_the_library_in_an_outputs_folder_is_left_out(tmp_path: Path) -> None:
    said = json.dumps({"prompt": "sea", "timestamp": "2025-12-09T10:00:00Z"})
    root = tmp_path / "Runs"
    with Library.open(root / "library") as library:
        for where in (root, root / "library"):
            (where / "a.png").write_bytes(picture(1))
            (where / "a.json").write_text(said)
        [report] = import_paths(library, [root]).layouts
        assert paths_of(library, "Runs") == ["images/a.png"]
        assert str(root / "library") in [each.file for each in report.skipped]
        # Nor does what is in it make the folder one.
        (root / "a.json").unlink()
        assert import_paths(library, [root]).layouts == []


def test_files_only(library: Library, mixed: Path) -> None:
    done = import_paths(library, [mixed], formats=())
    assert done.layouts == [] and [*titles(library)] == ["All"]
    assert "images/apps/studio/thumbnails/mixboard-1/0.png" in paths_of(library, "All")


def test_all_that_is_plain_goes_to_one_session(library: Library, mixed: Path) -> None:
    import_paths(library, [mixed], Options(session="Mine"))
    assert "All" not in titles(library) and "Board" in titles(library)
    assert paths_of(library, "Mine") == REST


_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else "")


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """What this process opens."""
    global _opened
    sys.addaudithook(_hook)
    _opened = []
    yield _opened
    _opened = None


def test_who_looks_for_layouts_opens_no_picture(library: Library, tmp_path: Path, opened: list[str]) -> None:
    for at in range(30):
        folder = tmp_path / "Plain" / f"{at % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.PNG").write_bytes(picture(at))
        (folder / f"{at}.txt").write_text("{} of no layout")
    opened.clear()
    done = import_paths(library, [tmp_path / "Plain"])
    assert done.layouts == [] and done.files is not None and done.files.files == 60
    counts = [opened.count(str(path)) for path in (tmp_path / "Plain").rglob("*.PNG")]
    assert counts == [1] * 30


# -- the command line


def test_the_command_line(home: Home, mixed: Path) -> None:
    broken = {**package(), "workflow.json": b"["}
    write_package(mixed / "trip" / "broken.genaiw.zip", broken)
    dry = home.run("import", "--dry-run", mixed, code=1)
    assert not home.library.exists()
    assert "(koda): would take in 1 session, 1 picture, 1 entry" in dry.out
    assert f"would import {len(REST) + 1} files" in dry.out
    ran = home.run("import", mixed, "--json", code=1)
    failed = {each["path"]: each["reason"] for each in ran.json["failed"]}
    assert "workflow.json" in failed[str(mixed / "trip" / "broken.genaiw.zip")]
    assert [each["format"] for each in ran.json["layouts"]].count("workflow-package") == 3
    again = home.run("import", mixed, code=1)
    assert "workflow.json" in again.err and "took in nothing; 1 session, 1 picture, 1 entry known already" in again.out
    with Library.open(home.library) as library:
        # It is kept as the file that it is.
        assert paths_of(library, "All") == sorted([*REST, "files/trip/broken.genaiw.zip"])
    plain = home.run("import", mixed, "--format", "files", "--session", "Plain")
    assert "koda" not in plain.out


def _found(imported: Imported) -> list[str]:
    return [each.layout for each in imported.layouts]


def test_a_place_that_is_in_a_layout_is_that_alone(library: Library, mixed: Path) -> None:
    (mixed / "apps" / "studio" / "notes.txt").write_text("beside")
    (mixed / "apps" / "studio" / "images" / "unnamed.png").write_bytes(picture(70))
    done = import_paths(library, [mixed / "apps" / "studio", mixed / "trip" / "flow.genaiw.zip"])
    # Nobody shall think that this one came in.
    [left] = done.layouts[1].skipped
    assert left.file == str(mixed / "apps" / "studio" / "images" / "unnamed.png")
    assert _found(done) == ["workflow-package", "storage-v2", "workflow-package"] and done.files is None
    assert sorted(titles(library)) == ["Board", "My Workflow", "Within"]


def test_samples_that_others_made(library: Library, samples: Path) -> None:
    expected = json.loads((samples / "EXPECTED.json").read_text())
    import_paths(library, [samples])
    with library.read() as view:
        there = {each.digest.hex() for each in view.records(Placement) if each.area == "images"}
        wanted = [set(each["digests"]) for each in expected.values() if isinstance(each, dict)]
        assert there == set().union(*wanted)
        for session_id, said in expected["storage-v2"]["sessions"].items():
            assert len(list(view.members(Entry, session_id))) == said["entries"]
