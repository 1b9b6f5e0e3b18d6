"""What is in another program's layout and is dropped into import/: files, and folders as other programs keep them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from box import Box, chunk, png, run
from live import Live, living, until

from mixfs.formats import koda, outputs, storage_v2
from mixfs.formats.layouts import detect, import_layout, import_paths
from mixfs.library.api import Library
from mixfs.library.fsck import check
from mixfs.library.gc import collect
from mixfs.records import Edge, Entry, Generation, Image, ImageRef, ImportFolder, Placement, Receipt, Session

SEEN_S = 10.0


def package(session_id: str, title: str, data: bytes, claimed: str | None = None) -> bytes:
    digest = claimed or hashlib.sha256(data).hexdigest()
    manifest = {
        "packageVersion": 1, "workflow": {"id": session_id, "file": "workflow.json", "name": title},
        "assets": [{"id": "a", "origin": "embedded", "file": "assets/a.png", "hash": f"sha256-{digest}"}],
    }  # fmt: skip
    node = {"id": "n1", "type": "image", "title": "Out", "position": {"x": 1, "y": 2},
            "result": {"kind": "embedded", "id": "a"}}  # fmt: skip
    edge = {"id": "e1", "source": "n1", "target": "n1"}
    workflow = {"id": session_id, "name": title, "nodes": [node], "edges": [edge]}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("workflow.json", json.dumps(workflow))
        archive.writestr("assets/a.png", data)
    return out.getvalue()


def test_a_package_is_imported_as_what_it_is(box: Box) -> None:
    title, data = f"{box.title} flow", png()
    box.inbox.mkdir()
    whole = package(f"wf {box.title}", title, data)
    dropped = box.imported("flow.genaiw.zip", whole)
    # Whoever waits for the intake waits for this too.
    session = box.point / "sessions" / title
    assert (session / "images" / "a.png").read_bytes() == data
    assert dropped.read_bytes() == whole
    canvas = json.loads((session / "canvas.json").read_text())
    assert [entry["canvasId"] for entry in canvas["canvas_images"]] == ["n1"]
    assert [(edge["source"], edge["target"]) for edge in canvas["edges"]] == [("n1", "n1")]
    until(lambda: any(path.read_bytes() == data for path in (session / "canvas").iterdir()), "the node", SEEN_S)


def test_a_broken_package_is_kept_and_reported(box: Box) -> None:
    title = f"{box.title} flow"
    box.inbox.mkdir()
    whole = package(f"wf {box.title}", title, png(), "0" * 64)
    assert box.imported("broken.genaiw.zip", whole).read_bytes() == whole
    assert not (box.point / "sessions" / title).exists()
    lines = [json.loads(line) for line in box.problems()]
    name = f"{box.title}/broken.genaiw.zip"
    assert [line["reason"] for line in lines if line.get("name") == name and "SHA-256" in line["reason"]]


# -- folders


def _filled(path: Path, title: str) -> tuple[Library, list[str]]:
    """A library with a canvas, generations and pictures, to write folders from."""
    library = Library.open(path)
    ids = []
    for number in (1, 2):
        session = library.create_session(f"{title} {number}", user_id="u")
        ids.append(session.id)
        one, two = (library.import_bytes(png(), f"{n}.png", session_id=session.id) for n in (1, 2))
        library.put_entry(Entry(id=f"n{number}", session_id=session.id, digest=one.digest, x=1.0, y=2.0))
        library.put_entry(Entry(id=f"m{number}", session_id=session.id, digest=two.digest))
        library.put_entry(Entry(id=f"t{number}", session_id=session.id, type="text", text="Hello"))
        library.put_edge(Edge(id=f"e{number}", session_id=session.id, source=f"n{number}", target=f"t{number}"))
        refs = [ImageRef(digest=p.digest, name="x.png", role="output", placement_id=p.id, size=p.size)
                for p in (one, two)]  # fmt: skip
        for at, ref in enumerate(refs):
            library.put_generation(
                Generation(id=f"g{number}{at}", session_id=session.id, prompt=f"p{at}", model="flux", outputs=(ref,),
                           time_ns=1_765_274_400_000_000_000 + at)
            )  # fmt: skip
    return library, ids


def _storage_v2(folder: Path, library: Library, ids: list[str]) -> None:
    # No image that none names: all folders' go to one session, and these tests share a library.
    storage_v2.write(library, ids, folder)
    for session_id in ids:
        thumbnails = folder / "thumbnails" / session_id
        thumbnails.mkdir(parents=True)
        for at in range(2):
            (thumbnails / f"{at}.png").write_bytes(png(4, 4))
    # Two with the same bytes, and one that a generator is known of.
    (thumbnails / "2.png").write_bytes((thumbnails / "1.png").read_bytes())
    (thumbnails / "3.png").write_bytes(_generated())


def _generated() -> bytes:
    """A PNG that says how it was made."""
    text = chunk(b"tEXt", b"parameters\0a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 4x4")
    whole = png(4, 4)
    return whole[:33] + text + whole[33:]


def _outputs(folder: Path, library: Library, ids: list[str]) -> None:
    outputs.write(library, ids, folder)
    (folder / "notes.txt").write_text("remember")


def _koda(folder: Path, library: Library, ids: list[str]) -> None:
    koda.write(library, ids, str(folder))


def _gallery(folder: Path, library: Library, ids: list[str]) -> None:
    migrated = folder / "images" / "sessions" / ids[0]
    migrated.mkdir(parents=True)
    (migrated / "bath-1.png").write_bytes(png())
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    images = [
        {"id": "11111111-a", "roomType": {"id": "bath"}, "url": f"/api/images/sessions/{ids[0]}/bath-1.png"},
        {"id": "22222222-b", "roomType": {"id": "hall"}, "url": uri},
    ]
    document = {"sessions": [{"id": ids[0], "name": library.session(ids[0]).title, "images": images}]}
    (folder / "gallery_data.json").write_text(json.dumps(document))


FOLDERS = {"storage-v2": _storage_v2, "outputs": _outputs, "koda": _koda, "gallery": _gallery}
Write = Callable[[Path, Library, list[str]], None]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, box: Box, tmp_path: Path) -> Path:
    """A folder of a layout, called like the test."""
    made = tmp_path / "made" / box.title
    made.parent.mkdir()
    _make(made, tmp_path / "elsewhere", FOLDERS[request.param])
    return made


def _make(folder: Path, beside: Path, write: Write) -> None:
    library, ids = _filled(beside, folder.name)
    with library:
        write(folder, library, ids)


def _contents(library: Library, ids: set[str]) -> Any:
    """What sessions hold: all that a user would see of them."""
    with library.read() as view:
        return {
            session.id: (
                session.title, session.name,
                sorted((p.id, p.name, p.digest, p.area) for p in view.members(Placement, session.id)
                       if p.area == "images"),
                sorted((e.shown_id, e.digest or b"", e.text or "") for e in view.members(Entry, session.id)),
                sorted((e.shown_id, e.source, e.target) for e in view.members(Edge, session.id)),
                sorted((g.shown_id, g.prompt or "", [ref.digest for ref in g.outputs])
                       for g in view.members(Generation, session.id)),
            )
            for session in view.records(Session) if session.id in ids
        }  # fmt: skip


def _imported(path: Path, folder: Path) -> tuple[Any, list[bytes]]:
    """What `mixfs import` makes of a folder in an empty library: its sessions, and all pictures."""
    with Library.open(path) as library:
        layout = detect(folder)
        assert layout is not None
        assert import_layout(library, layout, folder).not_taken == []
        return _contents(library, {session.id for session in library.sessions()}), _pictures(library)


def _pictures(library: Library, title: str = "") -> list[bytes]:
    with library.read() as view:
        sessions = {session.id for session in view.records(Session) if session.title.startswith(title)}
        return sorted(p.digest for p in view.records(Placement) if p.area == "images" and p.session_id in sessions)


def _files(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_a_folder_is_imported_as_what_it_is(box: Box, folder: Path, tmp_path: Path) -> None:
    wanted, pictures = _imported(tmp_path / "imported", folder)
    run("cp", "-a", folder, box.point / "import")
    box.take_in()
    # The same sessions as those of `mixfs import`, each picture as often, and the files as they were copied.
    assert _contents(box.library, set(wanted)) == wanted
    assert _pictures(box.library, box.title) == pictures
    assert _files(box.inbox) == _files(folder)
    itemized = run("rsync", "-ai", f"{folder}/", f"{box.inbox}/").stdout
    assert itemized == b"", itemized
    for session in box.library.sessions():
        if session.id in wanted:
            assert os.fsdecode(session.name) in os.listdir(box.point / "sessions")
    # The same again changes nothing, as a second copy over it or after the receipts were removed.
    before = _everything(box)
    run("cp", "-a", folder, box.point / "import")
    box.take_in()
    assert _everything(box) == before
    shutil.rmtree(box.inbox)
    run("cp", "-a", folder, box.point / "import")
    box.take_in()
    assert _everything(box) == before
    # Nor does it leave folders that nothing is in.
    if (folder / outputs.BELOW).exists():
        images = box.point / "sessions" / box.title / "images"
        assert all(path.is_file() or any(path.iterdir()) for path in images.rglob("*"))
    assert not [line for line in box.problems() if box.title in line]
    assert not box.trash()


def _everything(box: Box) -> Any:
    ids = {session.id for session in box.library.sessions() if session.title.startswith(box.title)}
    with box.library.read() as view:
        files = sorted((p.session_id, p.name, p.digest) for p in view.records(Placement) if p.session_id in ids)
    return _contents(box.library, ids), files


def test_thumbnails_of_an_app_are_no_pictures(tmp_path: Path) -> None:
    made = tmp_path / "Studio"
    _make(made, tmp_path / "elsewhere", _storage_v2)
    thumbnails = sorted(made.glob("thumbnails/*/*.png"))
    assert len(thumbnails) == 6
    data = {path.read_bytes() for path in thumbnails}
    digests = {hashlib.sha256(each).digest() for each in data}
    with living(tmp_path) as live, Library.open(live.library) as library:
        live.start()
        copied, app = live.point / "import" / "Studio", live.point / "storage-v2"
        # Once, over what is there, and when all receipts are gone.
        for fresh in (False, False, True):
            if fresh:
                shutil.rmtree(copied)
            run("cp", "-a", made, live.point / "import")
            live.take_in()
            with library.read() as view:
                assert not [image for image in view.records(Image) if image.digest in digests]
                assert not [ref for run in view.records(Generation) for ref in run.outputs if ref.digest in digests]
                held = [each for each in view.records(Placement) if each.digest in digests]
            assert [each.area for each in held] == ["files"] * 6
            registry = json.loads((app / "image_registry.json").read_text())["images"]
            assert not {digest.hex() for digest in digests} & {*registry}
            shown = [*(live.point / "images").rglob("*.png"), *(app / "images").iterdir()]
            shown += (live.point / "sessions").glob("*/images/**/*.png")
            assert len(shown) > 8 and not [path for path in shown if path.read_bytes() in data]
            # gc takes none of them, nor their receipts: rsync has nothing to copy.
            collect(library, grace_hours=0.0)
            assert run("rsync", "-ai", f"{made}/", f"{copied}/").stdout == b""
            for path in thumbnails:
                # As the app wrote them, where it looks for them, and where they were copied to.
                assert (app / path.relative_to(made)).read_bytes() == path.read_bytes()
                assert (copied / path.relative_to(made)).read_bytes() == path.read_bytes()
        live.stop()
    assert check(live.library).problems == []


def test_a_session_that_was_there_keeps_what_it_has(box: Box, tmp_path: Path) -> None:
    (box.point / "sessions" / box.title).mkdir()
    (box.images / "mine.png").write_bytes(png())
    box.take_in()
    made = tmp_path / "made" / box.title
    made.parent.mkdir()
    _make(made, tmp_path / "elsewhere", _outputs)
    _, pictures = _imported(tmp_path / "imported", made)
    run("cp", "-a", made, box.point / "import")
    box.take_in()
    sessions = {session.name: session.id for session in box.library.sessions() if session.title == box.title}
    own, layouts = (sessions[os.fsencode(name)] for name in (box.title, f"{box.title} (2)"))
    found = box.library.placements(own)
    assert sorted(p.name for p in found if p.area == "images") == [b"mine.png"]
    assert sorted(p.digest for p in box.library.placements(layouts) if p.area == "images") == pictures
    # The documents went where the folder stands for.
    assert any(p.name.endswith(b".json") for p in found)


@pytest.mark.parametrize("write", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_whose_name_is_no_text(box: Box, tmp_path: Path, write: Write) -> None:
    whole = tmp_path / box.title
    _make(whole, tmp_path / "elsewhere", write)
    made = whole.rename(tmp_path / os.fsdecode(os.fsencode(box.title) + b" \xff"))
    wanted, pictures = _imported(tmp_path / "imported", made)
    run("cp", "-a", made, box.point / "import")
    box.take_in()
    assert _contents(box.library, set(wanted)) == wanted
    assert _pictures(box.library, box.title) == pictures
    assert _files(box.point / "import" / made.name) == _files(made)


def test_what_is_reported_has_its_place_in_import(box: Box, tmp_path: Path) -> None:
    made = tmp_path / os.fsdecode(os.fsencode(box.title) + b" \xff")
    _make(tmp_path / "whole", tmp_path / "elsewhere", _koda)
    (tmp_path / "whole").rename(made)
    for missing in made.rglob("*.png"):
        missing.unlink()
    run("cp", "-a", made, box.point / "import")
    box.take_in()
    lines = [json.loads(line) for line in box.problems()]
    assert len([line for line in lines if line.get("name") == f"{box.title} \ufffd/koda.db"]) == 4


def test_what_lies_deeper_is_found_and_the_rest_is_kept(box: Box, tmp_path: Path) -> None:
    made = tmp_path / "made" / box.title
    made.mkdir(parents=True)
    (made / "plain.png").write_bytes(png())
    (made / "settings.json").write_text("{}")
    (made / "flow.genaiw.zip").write_bytes(package(f"wf {box.title}", f"{box.title} flow", png()))
    (made / "apps").mkdir()
    _make(made / "apps" / f"{box.title} app", tmp_path / "elsewhere", _koda)
    run("cp", "-r", made, box.point / "import")
    box.take_in()
    titles = {session.title: session.id for session in box.library.sessions() if session.title.startswith(box.title)}
    assert sorted(titles) == sorted([box.title, f"{box.title} flow", f"{box.title} app 1", f"{box.title} app 2"])
    assert len(box.library.entries(titles[f"{box.title} app 1"])) == 3
    # What no layout took is in the session of the folder, the packages and documents too.
    names = ["plain.png", "settings.json", "flow.genaiw.zip", "koda.db"]
    assert sorted(box.placements()) == sorted(name.encode() for name in names)
    assert [path.name for path in (box.session / "images").rglob("*") if path.is_file()] == ["plain.png"]


@pytest.mark.parametrize("around", [False, True], ids=["plain", "outputs"])
def test_the_command_line_makes_the_same_of_a_folder(tmp_path: Path, around: bool) -> None:
    made = tmp_path / "All"
    (made / "trip").mkdir(parents=True)
    (made / "trip" / "a.png").write_bytes(png())
    (made / "notes.txt").write_text("remember")
    (made / "trip" / "flow.genaiw.zip").write_bytes(package("wf", "Flow", png()))
    (made / "trip" / "broken.genaiw.zip").write_bytes(package("wf 2", "Broken", png(), "0" * 64))
    for name, write in FOLDERS.items():
        if around or write is not _outputs:
            folder = made / "apps" / name
            folder.parent.mkdir(exist_ok=True)
            _make(folder, tmp_path / f"beside {name}", write)
    # An empty file is not taken in from import/: its program may write to it yet.
    (made / "apps" / "storage-v2" / "logs.jsonl").write_text('{"message": "hello"}\n')
    with Library.open(tmp_path / "imported") as library:
        by_command = import_paths(library, [made])
        wanted = _tree(library)
    with living(tmp_path) as live, Library.open(live.library) as library:
        live.start()
        run("cp", "-a", made, live.point / "import")
        live.take_in()
        found = _tree(library)
        assert _files(live.point / "import" / "All") == _files(made)
    assert len([each for each in by_command.layouts if each.not_taken]) == 1
    # Thumbnails and, of an outputs folder, the JSON beside a picture are kept for their receipts.
    sidecars = {path.with_suffix(".json").name.encode() for path in made.rglob("2025*.png")}
    assert bool(sidecars) == around
    rest = found.pop("All")
    assert [
        each for each in rest if each[1] not in sidecars and each not in wanted["All"]
    ] == [(b"files", f"{at}.png".encode(), each) for at, each in _thumbnails(made)]
    assert not [each for each in wanted.pop("All") if each not in rest]
    assert found == wanted


def _thumbnails(made: Path) -> list[tuple[int, bytes]]:
    found = ((int(path.stem), hashlib.sha256(path.read_bytes()).digest()) for path in made.glob("**/thumbnails/*/*"))
    return sorted(found)


def _tree(library: Library) -> dict[str, Any]:
    """What the sessions hold, by their titles."""
    with library.read() as view:
        return {
            session.title: sorted((p.area.encode(), p.name, p.digest) for p in view.members(Placement, session.id))
            + sorted((e.shown_id.encode(), e.digest or b"") for e in view.members(Entry, session.id))
            + sorted((g.shown_id.encode(), (g.prompt or "").encode()) for g in view.members(Generation, session.id))
            for session in view.records(Session)
        }  # fmt: skip


def test_a_plain_folder_stays_one(box: Box) -> None:
    box.put("a.png", where=box.inbox)
    box.put("a.json", b'{"made by": "hand"}', where=box.inbox)
    box.take_in()
    assert sorted(box.placements()) == [b"a.json", b"a.png"]
    # It is looked at once: nothing is noted any more.
    with box.library.read() as view:
        [folder] = [each for each in view.records(ImportFolder) if each.name == box.title.encode()]
    assert (folder.unlooked, folder.layout) == ((), None)


@pytest.mark.parametrize("write", [_storage_v2, _koda, _gallery, _outputs])
def test_what_comes_later_comes_in_too(box: Box, tmp_path: Path, write: Write) -> None:
    made = tmp_path / "made" / box.title
    made.parent.mkdir()
    _make(made, tmp_path / "elsewhere", write)
    wanted, pictures = _imported(tmp_path / "imported", made)
    late = min(made.rglob("*.png"))
    hidden = late.rename(tmp_path / late.name)
    run("cp", "-a", made, box.point / "import")
    box.take_in()
    assert len(_pictures(box.library, box.title)) < len(pictures)
    hidden.rename(late)
    run("cp", "-a", late, box.inbox / late.relative_to(made))
    box.take_in()
    # Also on the canvases, and in the generations that name it.
    assert _contents(box.library, set(wanted)) == wanted
    assert _pictures(box.library, box.title) == pictures


def test_a_picture_that_an_app_overwrites_there(box: Box, tmp_path: Path) -> None:
    made = tmp_path / "made" / box.title
    made.parent.mkdir()
    _make(made, tmp_path / "elsewhere", _outputs)
    run("cp", "-a", made, box.point / "import")
    box.take_in()
    before = {(p.name, p.area) for p in box.placements().values()}
    written = next(box.inbox.rglob("*.png"))
    written.write_bytes(data := png())
    box.take_in()
    assert {(p.name, p.area) for p in box.placements().values()} == before
    name = os.fsencode(written.name)
    assert box.library.read_image(box.placements()[name].digest) == data
    assert [trash.name for trash in box.trash()] == [name]


def test_a_copy_that_is_at_work_is_waited_for(box: Box, folder: Path) -> None:
    """The folder is looked at when it is whole, not when there is something in it for the first time."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    documents = [path for path in files if path.suffix in (".json", ".db")]
    for path in documents:
        box.put(str(path.relative_to(folder)), path.read_bytes(), where=box.inbox)
    held = box.inbox / "being written"
    with held.open("wb") as writing:
        writing.write(b"x")
        writing.flush()
        until(lambda: box.record() is not None and len(box.placements()) == len(documents), "the documents", SEEN_S)
        # Nobody looks at them yet, though somebody waits.
        waiting = threading.Thread(target=box.take_in)
        waiting.start()
        waiting.join(timeout=3)
        assert waiting.is_alive()
        for path in files:
            if path not in documents:
                box.put(str(path.relative_to(folder)), path.read_bytes(), where=box.inbox)
    held.unlink()
    waiting.join()
    box.take_in()
    entries = [e for s in box.library.sessions() if s.title.startswith(box.title) for e in box.library.entries(s.id)]
    assert all(entry.digest is not None for entry in entries if entry.type == "image")
    assert not [line for line in box.problems() if box.title in line]


# -- the daemon


def _children(live: Live) -> list[int]:
    """The processes of the daemon that look at what was dropped."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                status, command = (process / "stat").read_text(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status.rpartition(")")[2].split()[1]) == live.pid and b"mixfs.formats.dropped" in command:
                found.append(int(process.name))
    return found


def test_who_is_looked_at_keeps_nobody_waiting(tmp_path: Path) -> None:
    source = tmp_path / "Whole"
    _make(source, tmp_path / "elsewhere", _koda)
    with living(tmp_path) as live, Library.open(live.library) as library:
        live.start()
        run("cp", "-r", source, live.point / "import")
        until(lambda: _children(live), "a look")
        [child] = _children(live)
        os.kill(child, signal.SIGSTOP)
        try:
            (live.point / "import" / "b.png").write_bytes(png())
            until(lambda: any(s.title == "Inbox" for s in library.sessions()), "the other file")
            # And the mount answers.
            assert (live.point / "import" / "b.png").stat().st_size
        finally:
            os.kill(child, signal.SIGCONT)
        live.take_in()
        assert {session.title for session in library.sessions()} >= {"Whole 1", "Whole 2"}


@pytest.mark.parametrize("write", FOLDERS.values(), ids=FOLDERS)
def test_a_daemon_that_is_killed_forgets_no_folder(write: Write, tmp_path: Path) -> None:
    source = tmp_path / "Whole"
    _make(source, tmp_path / "elsewhere", write)
    wanted, pictures = _imported(tmp_path / "imported", source)
    package_file = package("wf", "Flow", png())
    with living(tmp_path) as live, Library.open(live.library) as library:
        live.start()
        run("cp", "-a", source, live.point / "import")
        files = [path for path in source.rglob("*") if path.is_file() and path.stat().st_size]
        until(lambda: _taken_in(library) >= len(files), "the plain files")
        (live.point / "import" / "flow.genaiw.zip").write_bytes(package_file)
        # While it is looked at, or before.
        until(lambda: _children(live), "a look")
        child = _children(live)[0]
        live.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        live.start()
        live.take_in()
        assert _contents(library, set(wanted)) == wanted
        assert "Flow" in {session.title for session in library.sessions()}
        assert len(_pictures(library)) == len(pictures) + 1
        assert _files(live.point / "import" / "Whole") == _files(source)
        health = json.loads((live.point / ".mixfs" / "health.json").read_text())
        assert health["held"]["to_look_at"] == 0


def _taken_in(library: Library) -> int:
    with library.read() as view:
        return sum(1 for _ in view.records(Receipt))
