"""Storage V2 folders in and out, V1 sessions in."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from format_home import picture, take

from mixfs.formats import storage_v2
from mixfs.formats.layouts import detect
from mixfs.library import storage_v2 as documents_v2
from mixfs.library.api import Library
from mixfs.library.canvas_json import save
from mixfs.records import Entry, Generation, ImageRef, Placement, Session

ONE, TWO, ALONE = "1" * 32, "2" * 32, "3" * 32


def info(alias: str, name: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"id-{alias[:4]}", "hash": alias, "original_name": None, "imported_at": "2025-12-09T10:00:00.000Z",
        "size_bytes": 1, "width": 16, "height": 12, "mime_type": "image/png", "file_path": f"images/{name}",
    } | fields  # fmt: skip


def ref(alias: str, name: str) -> dict[str, Any]:
    return {"id": alias, "filename": name, "hash": alias, "size_bytes": 1}


def canvas(session_id: str, title: str) -> dict[str, Any]:
    return {
        "version": "2.0", "session_id": session_id, "title": title, "created_at": "2025-12-09T10:00:00.000Z",
        "updated_at": "2025-12-09T10:50:00.000Z", "xcanvas": [1],
        "canvas_images": [
            {"canvasId": "canvas-img-000", "imageHash": TWO, "type": "image", "x": 0, "y": 200.5, "width": 300,
             "height": 400, "selected": False, "generationId": "gen-1", "text": None},
            {"canvasId": "canvas-text-001", "type": "text", "text": "Hello\nworld", "fontSize": 24, "x": 1, "y": 2},
            {"canvasId": "canvas-sticker-001", "type": "sticker", "x": 1, "y": 2, "future": {"deep": [None, True]}},
        ],
        "zoom": 1.2, "panOffset": {"x": -50, "y": 100, "xpan": 1},
        "user": {"displayName": "Ada", "id": "u", "xuser": 0},
    }  # fmt: skip


def history(session_id: str) -> dict[str, Any]:
    return {
        "version": "2.0", "session_id": session_id, "xhistory": True,
        "generations": [
            {"generation_id": "gen-1", "timestamp": "2025-12-09T10:01:00.000Z", "status": "completed",
             "prompt": "a cat",
             "input_images": [ref(ONE, "input_1_111111.png")], "output_images": [ref(TWO, "output_1_222222.png")],
             "parameters": {"model": "flux", "top_p": 0.95}, "generation_time_ms": 12, "xgen": None,
             "canvas_state": {"images": [], "zoom": 1.0, "panOffset": {"x": 0, "y": 0}}},
            {"generation_id": "gen-2", "timestamp": "2025-12-09T10:02:00.000Z", "status": "failed", "prompt": "b",
             "input_images": [], "output_images": [], "parameters": {}, "error": "quota"},
        ],
    }  # fmt: skip


LOGS = [
    {"timestamp": "t", "level": "info", "message": "one", "context": {"sessionId": "mixboard-2"}},
    {"timestamp": "t", "level": "error", "message": "two", "context": {}},
    {"timestamp": "t", "level": "info", "message": "three", "context": {"sessionId": "mixboard-1"}},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "app" / "APP"
    (root / "sessions").mkdir(parents=True)
    (root / "images").mkdir()
    images = {}
    for seed, (alias, name) in enumerate(
        ((ONE, "input_1_111111.png"), (TWO, "output_1_222222.png"), (ALONE, "output_1_333333.png"))
    ):
        (root / "images" / name).write_bytes(picture(seed))
        images[alias] = info(alias, name, x_note="kept")
    registry = {"version": "2.0", "images": images, "xregistry": 1}
    (root / "image_registry.json").write_text(json.dumps(registry))
    (root / "thumbnails" / "mixboard-1").mkdir(parents=True)
    (root / "thumbnails" / "mixboard-1" / "img-000.png").write_bytes(picture(8))
    (root / "logs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOGS))
    for session_id in ("mixboard-1", "mixboard-2"):
        (root / "sessions" / f"{session_id}_canvas.json").write_text(json.dumps(canvas(session_id, "..")))
        (root / "sessions" / f"{session_id}_generations.json").write_text(json.dumps(history(session_id)))
    return tmp_path / "app"


def files(root: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path in root.rglob("*"):
        if path.suffix == ".json":
            out[str(path.relative_to(root))] = json.loads(path.read_text())
        elif path.name == "logs.jsonl":
            out[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.is_file():
            out[str(path.relative_to(root))] = path.read_bytes()
    return out


TAKEN = {"sessions": 3, "pictures": 5, "entries": 6, "generations": 4}


def test_it_comes_in_and_goes_out_as_it_came(library: Library, source: Path, tmp_path: Path) -> None:
    before = files(source)
    would = take(library, source, dry_run=True)
    assert library.sessions() == []
    report = take(library, source)
    assert (report.taken, report.not_taken, would.taken) == (TAKEN, [], TAKEN)
    with library.read() as view:
        state = view.state()
    again = take(library, source / "APP")
    assert (again.taken, again.known, again.differs) == ({}, TAKEN, 0)
    with library.read() as view:
        assert view.state()[0] == state[0]
    for session_id in ("mixboard-1", "mixboard-2"):
        session = library.session(session_id)
        assert (session.title, session.user_name, session.zoom, session.pan_x) == ("..", "Ada", 1.2, -50)
        entries = {entry.shown_id: entry for entry in library.entries(session_id)}
        assert library.read_image(entries["canvas-img-000"].digest or "") == picture(1)
        assert entries["canvas-text-001"].text == "Hello\nworld"
        first, second = library.generations(session_id)
        assert (first.model, first.parameters, second.error) == ("flux", {"top_p": 0.95}, "quota")
        placements = {placement.id: placement for placement in library.placements(session_id)}
        assert placements[first.outputs[0].placement_id or ""].digest == entries["canvas-img-000"].digest
    assert storage_v2.not_carried(library, ["mixboard-1"]) == ()
    storage_v2.write(library, [session.id for session in library.sessions()], tmp_path / "out")
    assert files(tmp_path / "out") == files(source / "APP") and files(source) == before


def test_what_was_changed_here_goes_out_changed(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    # An editor saves canvas.json: what the app calls the picture stays.
    with library.read() as view:
        data = view.render_session_document(library.session("mixboard-1"), "canvas.json")
        state = view.state()
    library.commit(lambda txn: save(txn, "mixboard-1", "canvas.json", data))
    with library.read() as view:
        assert view.state()[0] == state[0]
    document = json.loads(data)
    document["canvas_images"][0]["x"] = 7
    document["title"] = "New"
    library.commit(lambda txn: save(txn, "mixboard-1", "canvas.json", json.dumps(document).encode()))
    storage_v2.write(library, ["mixboard-1"], tmp_path / "out")
    written = files(tmp_path / "out")["sessions/mixboard-1_canvas.json"]
    expected = canvas("mixboard-1", "New")
    expected["canvas_images"][0]["x"] = 7
    assert written == expected
    # What the log tells of a session that stays does not go along.
    assert files(tmp_path / "out")["logs.jsonl"] == LOGS[1:]


def test_a_session_of_mixfs_goes_out_and_comes_in(library: Library, tmp_path: Path) -> None:
    session = library.create_session("Trip", user_name="Ada")
    placement = library.import_bytes(picture(1), "a.png", session_id=session.id)
    library.put_entry(Entry(id="e", session_id=session.id, digest=placement.digest, x=1, data={"selected": True}))
    output = ImageRef(digest=placement.digest, name="a.png", role="output", size=placement.size)
    library.put_generation(Generation(id="g", session_id=session.id, prompt="p", model="m", time_ns=10**18,
                                      outputs=(output,)))  # fmt: skip
    storage_v2.write(library, [session.id], tmp_path / "out")
    with Library.open(tmp_path / "other") as other:
        assert take(other, tmp_path / "out").not_taken == []
        [entry] = other.entries(session.id)
        [generation] = other.generations(session.id)
        assert (entry.shown_id, entry.digest, entry.x, entry.data["selected"]) == ("e", placement.digest, 1, True)
        assert (generation.prompt, generation.model, generation.time_ns) == ("p", "m", 10**18)
        assert generation.outputs[0].digest == placement.digest
        assert (other.session(session.id).title, other.session(session.id).user_name) == ("Trip", "Ada")


def test_what_is_broken_is_reported_and_the_rest_goes_on(library: Library, source: Path) -> None:
    root = source / "APP"
    (root / "images" / "input_1_111111.png").unlink()
    (root / "sessions" / "mixboard-2_generations.json").write_text("{")
    document = canvas("mixboard-1", "..")
    document["canvas_images"] += [3, {"type": "text"}, {"canvasId": "x", "x": "left"}]
    (root / "sessions" / "mixboard-1_canvas.json").write_text(json.dumps(document))
    with (root / "logs.jsonl").open("a") as file:
        file.write("broken\n")
    registry = json.loads((root / "image_registry.json").read_text())
    registry["images"][ALONE]["file_path"] = "../../outside.png"
    (root / "image_registry.json").write_text(json.dumps(registry))
    (source.parent / "outside.png").write_bytes(picture(9))
    report = take(library, source)
    assert sorted((Path(problem.file).name, problem.place) for problem in report.not_taken) == [
        ("image_registry.json", f"images.{ONE}"), ("image_registry.json", f"images.{ALONE}"),
        ("logs.jsonl", "line 4"), ("mixboard-1_canvas.json", "canvas_images[3]"),
        ("mixboard-1_canvas.json", "canvas_images[4]"), ("mixboard-1_canvas.json", "canvas_images[5]"),
        ("mixboard-2_generations.json", ""),
    ]  # fmt: skip
    # The third session keeps what the registry says besides.
    assert report.taken == {"sessions": 3, "pictures": 2, "entries": 6, "generations": 2}


def test_a_picture_that_is_missing_is_told_of_once(library: Library, source: Path) -> None:
    """However many sessions name it."""
    (source / "APP" / "images" / "output_1_222222.png").unlink()
    [problem] = take(library, source).not_taken
    assert (problem.file, problem.place) == (str(source / "APP" / "image_registry.json"), f"images.{TWO}")


def test_thumbnails_are_looked_for_in_their_folder_only(library: Library, source: Path) -> None:
    root = source / "APP"
    for session_id in ("..", "."):
        (root / "sessions" / f"{session_id}_canvas.json").write_text(json.dumps(canvas(session_id, "x")))
    (root / "thumbnails" / "mixboard-2").symlink_to(root / "images")
    (root / "thumbnails" / "mixboard-1" / "link.png").symlink_to(root / "image_registry.json")
    take(library, root)
    kept = [path.relative_to(library.app_files.path) for path in library.app_files.path.rglob("*") if path.is_file()]
    assert sorted(map(str, kept)) == ["logs.jsonl", "thumbnails/mixboard-1/img-000.png"]
    # The app's own, written since, stays.
    (root / "thumbnails" / "mixboard-1" / "img-000.png").write_bytes(b"other")
    take(library, root)
    assert (library.app_files.thumbnails / "mixboard-1" / "img-000.png").read_bytes() == picture(8)


def test_version_1_comes_in(library: Library, tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture(1)).decode()
    old = {
        "session_id": "mixboard-91", "title": "Old one", "user": {"displayName": "Ada", "id": "u"}, "xold": 1,
        "canvas_images": [{"id": "c1", "dataUri": uri, "x": 0, "y": 0, "width": 10, "height": 10, "selected": False},
                          {"id": "c2", "dataUri": "data:image/png;base64,@", "x": 0, "y": 0}],
        "generations": [],
    }  # fmt: skip
    (tmp_path / "v1" / "sessions").mkdir(parents=True)
    path = tmp_path / "v1" / "sessions" / "mixboard-91.json"
    path.write_text(json.dumps(old))
    assert detect(tmp_path / "v1") is not None
    report = take(library, path)
    assert report.taken == {"sessions": 1, "pictures": 1, "entries": 1}
    assert [problem.place for problem in report.not_taken] == ["canvas_images[1]"]
    assert take(library, tmp_path / "v1").taken == {}
    [entry] = library.entries("mixboard-91")
    assert library.read_image(entry.digest or "") == picture(1) and "dataUri" not in entry.data
    assert library.session("mixboard-91").foreign["storage-v2"]["v1"] == {"xold": 1}


def test_the_samples_that_others_made(home: Home, samples: Path, tmp_path: Path) -> None:
    expected = json.loads((samples / "EXPECTED.json").read_text())
    home.run("import", samples / "storage-v2", samples / "storage-v1")
    with Library.open(home.library) as library, library.read() as view:
        for session_id, about in expected["storage-v2"]["sessions"].items():
            session = library.session(session_id)
            assert (session.title, len(library.entries(session_id)), len(library.generations(session_id))) == (
                about["title"], about["entries"], about["generations"],
            )  # fmt: skip
        assert library.find_session(expected["storage-v1"]["title"]).id == "mixboard-91"
        digests = {item.digest.hex() for item in view.records(Placement)}
    assert digests == {*expected["storage-v2"]["digests"], *expected["storage-v1"]["digests"]}
    ids = list(expected["storage-v2"]["sessions"])
    home.run("export", *ids, tmp_path / "out", "--format", "storage-v2")
    assert files(tmp_path / "out") == files(samples / "storage-v2" / "APP-for-NANO")


# -- two folders that call different pictures alike


def app_folder(root: Path, session_id: str, title: str, seed: int, alias: str = ONE, name: str = "a.png") -> Path:
    """A folder with one session that names one picture everywhere."""
    (root / "sessions").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "images" / name).write_bytes(picture(seed))
    registry = {"version": "2.0", "images": {alias: info(alias, name, x_note=title)}}
    (root / "image_registry.json").write_text(json.dumps(registry))
    (root / "logs.jsonl").write_text("")
    entry = {"canvasId": "c", "type": "image", "imageHash": alias, "x": 0, "y": 0, "future": {"imageHash": alias}}
    board = canvas(session_id, title) | {"canvas_images": [entry]}
    (root / "sessions" / f"{session_id}_canvas.json").write_text(json.dumps(board))
    run = history(session_id)["generations"][0] | {
        "input_images": [], "output_images": [ref(alias, name)],
        "canvas_state": {"images": [{"imageHash": alias, "x": 1}], "zoom": 1.0, "panOffset": {"x": 0, "y": 0}},
    }  # fmt: skip
    runs = {"version": "2.0", "session_id": session_id, "generations": [run]}
    (root / "sessions" / f"{session_id}_generations.json").write_text(json.dumps(runs))
    return root


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), [key for key, _ in pairs]
    return dict(pairs)


def shown_registry(library: Library) -> dict[str, Any]:
    """image_registry.json as the mount has it; its size is told right."""
    with library.read() as view:
        data = documents_v2.render_registry(view)
        assert len(data) == documents_v2.registry_size(view)[0]
    images: dict[str, Any] = json.loads(data, object_pairs_hook=no_key_twice)["images"]
    return images


def seen(library: Library, session_id: str) -> list[bytes]:
    """What the app shows for each place in a session that names a picture: by the registry, and by its file's name."""
    images = shown_registry(library)
    with library.read() as view:
        session = view.get(Session, session_id)
        assert session is not None
        board, runs = (
            json.loads(documents_v2.render(view, session, suffix), object_pairs_hook=no_key_twice)
            for suffix in (documents_v2.CANVAS, documents_v2.GENERATIONS)
        )
        [entry], [run] = board["canvas_images"], runs["generations"]
        [output], [state] = run["output_images"], run["canvas_state"]["images"]
        hashes = [entry["imageHash"], entry["future"]["imageHash"], output["hash"], state["imageHash"]]
        names = [images[each]["file_path"].removeprefix("images/") for each in hashes] + [output["filename"]]
        found = [documents_v2.file_at(view, name.encode()) for name in names]
    return [library.read_image(each.digest) for each in found if each is not None]


@pytest.mark.parametrize(
    ("alias", "name"), [(ONE, "a.png"), (ONE, "b.png"), (TWO, "a.png")], ids=["both", "hash", "file"]
)
def test_two_folders_that_call_different_pictures_alike(
    library: Library, tmp_path: Path, alias: str, name: str
) -> None:
    first = app_folder(tmp_path / "first", "mixboard-1", "One", 1)
    second = app_folder(tmp_path / "second", "mixboard-2", "Two", 2, alias, name)
    assert take(library, first).taken == take(library, second).taken
    # Each session shows its own picture, to the app too.
    assert seen(library, "mixboard-1") == [picture(1)] * 5
    assert seen(library, "mixboard-2") == [picture(2)] * 5
    assert len(shown_registry(library)) == 2
    # Each goes out as it came.
    for source, session_id in ((first, "mixboard-1"), (second, "mixboard-2")):
        assert storage_v2.not_carried(library, [session_id]) == ()
        storage_v2.write(library, [session_id], tmp_path / f"out {session_id}")
        assert files(tmp_path / f"out {session_id}") == files(source)
    # Together they can't: the export says so, and nothing is lost.
    both = ["mixboard-2", "mixboard-1"]
    assert storage_v2.not_carried(library, both) == ("hashes and file names that two pictures go by (1)",)
    storage_v2.write(library, both, tmp_path / "both")
    with Library.open(tmp_path / "other") as other:
        take(other, tmp_path / "both")
        assert seen(other, "mixboard-1") == [picture(1)] * 5 and seen(other, "mixboard-2") == [picture(2)] * 5
    # Nor does the same again change anything, in whichever order.
    for source in (second, first):
        report = take(library, source)
        assert (report.taken, report.differs) == ({}, 0)


def test_one_picture_that_two_folders_have_under_different_names(library: Library, tmp_path: Path) -> None:
    first = app_folder(tmp_path / "first", "mixboard-1", "One", 1)
    second = app_folder(tmp_path / "second", "mixboard-2", "Two", 1, ONE, "b.png")
    for source, session_id in ((first, "mixboard-1"), (second, "mixboard-2")):
        take(library, source)
        assert seen(library, session_id) == [picture(1)] * 5
    assert list(shown_registry(library)) == [ONE]
    for source, session_id in ((first, "mixboard-1"), (second, "mixboard-2")):
        storage_v2.write(library, [session_id], tmp_path / f"out {session_id}")
        assert files(tmp_path / f"out {session_id}") == files(source)


def test_a_name_that_comes_back_out_of_the_trash(library: Library, tmp_path: Path) -> None:
    first = app_folder(tmp_path / "first", "mixboard-1", "One", 1)
    second = app_folder(tmp_path / "second", "mixboard-2", "Two", 2, ONE, "b.png")
    take(library, first)
    library.delete_session("mixboard-1")
    take(library, second)
    assert seen(library, "mixboard-2") == [picture(2)] * 5
    [deletion] = library.deletions()
    library.restore(deletion.id)
    # The older has the line of that name, the other one is there under its digest.
    digest = hashlib.sha256(picture(2)).hexdigest()
    images = shown_registry(library)
    assert {key: each["file_path"] for key, each in images.items()} == {ONE: "images/a.png", digest: "images/b.png"}
    assert storage_v2.not_carried(library, ["mixboard-2"]) == ()
    assert storage_v2.not_carried(library, ["mixboard-1", "mixboard-2"]) != ()
    storage_v2.write(library, ["mixboard-1", "mixboard-2"], tmp_path / "both")
    written = files(tmp_path / "both")
    assert [picture(seed) in written.values() for seed in (1, 2)] == [True, True]
    # With the other gone the name is its own again.
    library.delete_session("mixboard-1")
    assert list(shown_registry(library)) == [ONE]
    assert seen(library, "mixboard-2") == [picture(2)] * 5


def test_pictures_that_no_session_names_of_two_folders(library: Library, tmp_path: Path) -> None:
    for number in (1, 2):
        root = app_folder(tmp_path / f"{number}", f"mixboard-{number}", "Board", number, f"{number}" * 32)
        (root / "images" / "alone.png").write_bytes(picture(10 + number))
        registry = json.loads((root / "image_registry.json").read_text())
        registry["images"][ALONE] = info(ALONE, "alone.png")
        (root / "image_registry.json").write_text(json.dumps(registry))
        assert take(library, root).taken["pictures"] == 2
    images = shown_registry(library)
    with library.read() as view:
        files_of = {key: documents_v2.file_at(view, each["file_path"][7:].encode()) for key, each in images.items()}
    assert {library.read_image(each.digest) for each in files_of.values() if each is not None} == {
        picture(seed) for seed in (1, 2, 11, 12)
    }
    for number in (1, 2):
        report = take(library, tmp_path / f"{number}")
        assert (report.taken, report.differs) == ({}, 0)


def any_folder(root: Path, session_id: str, rng: random.Random) -> dict[str, bytes]:
    """A folder of few pictures, hashes and file names; returns what its entries show."""
    (root / "sessions").mkdir(parents=True)
    (root / "images").mkdir()
    aliases = rng.sample([ONE, TWO, ALONE], rng.randint(1, 3))
    images = dict(zip(aliases, rng.sample(["a.png", "b.png", "c.png"], len(aliases)), strict=True))
    for name in images.values():
        (root / "images" / name).write_bytes(picture(rng.randint(1, 3)))
    registry = {"version": "2.0", "images": {alias: info(alias, name) for alias, name in images.items()}}
    (root / "image_registry.json").write_text(json.dumps(registry))
    named = [alias for alias in images if rng.random() < 0.8]
    entries = [{"canvasId": alias, "type": "image", "imageHash": alias, "x": 0, "y": 0} for alias in named]
    document = canvas(session_id, session_id) | {"canvas_images": entries}
    (root / "sessions" / f"{session_id}_canvas.json").write_text(json.dumps(document))
    return {alias: (root / "images" / images[alias]).read_bytes() for alias in named}


def shown(library: Library, session_id: str) -> dict[str, bytes]:
    """What the app shows for each entry."""
    images, found = shown_registry(library), {}
    with library.read() as view:
        session = view.get(Session, session_id)
        assert session is not None
        for entry in json.loads(documents_v2.render(view, session, documents_v2.CANVAS))["canvas_images"]:
            file = images[entry["imageHash"]]["file_path"].removeprefix("images/")
            held = documents_v2.file_at(view, file.encode())
            assert held is not None
            found[entry["canvasId"]] = library.read_image(held.digest)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_any_folders_that_call_pictures_alike(library: Library, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    wanted = {}
    for session_id in ("s0", "s1", "s2"):
        wanted[session_id] = any_folder(tmp_path / session_id, session_id, rng)
        assert take(library, tmp_path / session_id).not_taken == []
    for session_id, entries in wanted.items():
        assert shown(library, session_id) == entries
        report = take(library, tmp_path / session_id)
        assert (report.taken, report.differs) == ({}, 0)
        assert storage_v2.not_carried(library, [session_id]) == ()
        storage_v2.write(library, [session_id], tmp_path / f"out {session_id}")
        source, written = files(tmp_path / session_id), files(tmp_path / f"out {session_id}")
        # Pictures that the session doesn't name go out with the pool.
        registry = source.pop("image_registry.json")["images"]
        assert written.pop("image_registry.json")["images"] == {alias: registry[alias] for alias in entries}
        unnamed = {each["file_path"] for alias, each in registry.items() if alias not in entries}
        assert {name: data for name, data in source.items() if name not in unnamed} | {"logs.jsonl": []} == written
    # All together: every picture, and each session shows its own.
    storage_v2.write(library, [session.id for session in library.sessions()], tmp_path / "all")
    sources = [path.read_bytes() for path in tmp_path.glob("s?/images/*")]
    assert {path.read_bytes() for path in (tmp_path / "all" / "images").iterdir()} == set(sources)
    with Library.open(tmp_path / "other") as other:
        take(other, tmp_path / "all")
        assert {session_id: shown(other, session_id) for session_id in wanted} == wanted
