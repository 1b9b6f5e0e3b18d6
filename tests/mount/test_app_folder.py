"""storage-v2/ of a mount with an app on it that knows plain files only, and what everybody else sees of that."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from box import png
from canvas_app import CanvasApp, canvas, generation, image_entry
from live import Live, living, needs_fuse, until

from mixfs.library.api import Library

pytestmark = [pytest.mark.mount, needs_fuse]


@functools.cache
def picture(number: int) -> bytes:
    """A small picture, the same for the same number."""
    return png(24 + number)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "live") as live:
        live.start()
        yield live


def app_on(live: Live) -> CanvasApp:
    return CanvasApp(live.point / "storage-v2")


def work(app: CanvasApp) -> list[Any]:
    """An afternoon with the app; returns all that it reads on the way."""
    seen: list[Any] = []
    app.log("info", "started")
    first = app.create("My Creative Project", xfuture={"deep": [1, None, "ü"]})
    reference = app.register(picture(1), "reference", x_note="kept?")
    output = app.register(picture(2))
    seen.append(app.register(picture(1)) == reference)
    document = app.canvas(first)
    document["canvas_images"] = [
        image_entry(0, output, generationId="gen-1", thumbnailPath=app.thumbnail(first, 0, picture(7))),
        {"canvasId": "canvas-text-001", "type": "text", "text": "Hello\nworld ✨", "fontSize": 24, "x": 1, "y": 2},
        {"canvasId": "canvas-board-001", "type": "board", "x": -1.5, "y": 1e3, "width": 9, "height": 7, "label": "B"},
        {"canvasId": "canvas-sticker-001", "type": "sticker", "x": 1, "y": 2, "future": {"deep": [None, True]}},
    ]
    app.save_canvas(first, document)
    app.save_generations(first, [generation(1, [reference], [output])])
    seen += [app.canvas(first), app.generations(first), app.image(output)]
    app.log("action", "generated", sessionId=first)
    second = app.create("Küche / Bad")
    seen += [app.canvas(second), (app.root / "sessions" / f"{second}_generations.json").exists()]
    # The newest first, and one that failed.
    app.save_generations(second, [generation(3) | {"status": "failed", "error": "quota"}, generation(2, [output])])
    seen.append(app.generations(second))
    # Again and again, as an autosave does.
    for x in range(5):
        document["canvas_images"][0]["x"] = x + 0.25
        document["zoom"] = 1 + x / 8
        app.save_canvas(first, document)
        seen.append(app.canvas(first))
    del document["canvas_images"][2]
    document["title"] = "Renamed"
    app.save_canvas(first, document)
    third = app.create("Short-lived")
    app.save_canvas(third, canvas(third, "Short-lived") | {"canvas_images": [image_entry(0, reference)]})
    app.delete(third)
    app.log("error", "deleted", sessionId=third)
    seen += [app.canvas(first), app.logs(), app.read("image_registry.json")]
    seen.append(sorted(os.listdir(app.root / "sessions")))
    return [*seen, app.everything()]


def test_the_app_reads_back_what_it_reads_from_a_disk(live: Live, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    disk = CanvasApp(tmp_path / "disk")
    expected, app = work(disk), app_on(live)
    found = work(app)
    for at, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == theirs, at
    # The same after all was taken in, after a kill, and out again.
    live.take_in()
    assert app.everything() == disk.everything()
    live.kill()
    live.start()
    assert app.everything() == disk.everything()
    live.mixfs("export", "--all", tmp_path / "out", "--format", "storage-v2")
    assert CanvasApp(tmp_path / "out").everything() == disk.everything()
    assert live.mixfs("fsck", check=False).returncode == 0
    live.stop()
    # And in again.
    with living(tmp_path / "second") as second:
        second.mixfs("import", disk.root)
        second.start()
        assert app_on(second).everything() == disk.everything()
        second.stop()


def test_what_the_app_saves_shows_in_sessions(live: Live) -> None:
    app = app_on(live)
    output = app.register(picture(1))
    session = app.create("Trip")
    folder = live.point / "sessions" / "Trip"
    assert folder.is_dir()
    document = canvas(session, "Trip") | {"canvas_images": [image_entry(0, output), image_entry(1, output)]}
    app.save_canvas(session, document)
    until(lambda: len(os.listdir(folder / "images")) == 1, "the picture is in the session", 1.0)
    assert next((folder / "images").iterdir()).read_bytes() == picture(1)
    assert len(json.loads((folder / "canvas.json").read_text())["canvas_images"]) == 2
    with Library.open(live.library, read_only=True) as library:
        before = {entry.shown_id: entry for entry in library.entries(session)}
        commits = _sequence(library)
        last = max(change.stamp_ns for change in library.changes())
    document["canvas_images"][0]["x"] = 99
    app.save_canvas(session, document)
    until(lambda: _xs(folder) == [99, 10], "the diff is in sessions/", 1.0)
    with Library.open(live.library, read_only=True) as library:
        after = {entry.shown_id: entry for entry in library.entries(session)}
        assert _sequence(library) == commits + 1
        changed = [change for change in library.changes() if change.stamp_ns > last]
    assert before["canvas-img-001"] == after["canvas-img-001"] and after["canvas-img-000"].x == 99
    assert [(change.kind, change.deleted) for change in changed] == [("Entry", False)]
    # What is left out goes to the trash, and comes back from there.
    app.save_canvas(session, document | {"canvas_images": []})
    [trashed] = [line for line in live.mixfs("trash").stdout.splitlines() if "canvas.json" in line]
    live.mixfs("restore", trashed.split()[0])
    assert len(app.canvas(session)["canvas_images"]) == 2


def _sequence(library: Library) -> int:
    with library.read() as view:
        return view.sequence()


def _xs(folder: Path) -> list[float]:
    return [item["x"] for item in json.loads((folder / "canvas.json").read_text())["canvas_images"]]


def test_the_four_commands(live: Live) -> None:
    app = app_on(live)
    output = app.register(picture(1))
    for at in range(3):
        app.create(f"S{at}", user={"displayName": "Ada", "id": "user-123" if at else "user-4"})
    for at in range(30):
        app.log("info", f"line {at}")

    if shutil.which("jq") is None:
        pytest.skip("NOT RUN: there is no program jq here")

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=app.root, capture_output=True,
                              text=True, timeout=30, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(run(f"jq '.images[\"{output}\"]' image_registry.json"))
    assert found == app.read("image_registry.json")["images"][output]
    assert run("ls sessions/*_canvas.json | wc -l") == "3\n"
    lines = run("tail -n 20 logs.jsonl | jq -c .message").split("\n")
    assert lines == [f'"line {at}"' for at in range(10, 30)] + [""]
    assert len(run("grep -l user-123 sessions/*_canvas.json").splitlines()) == 2


def test_changes_by_others_show_at_once_with_their_size(live: Live) -> None:
    app = app_on(live)
    session = app.create("Trip")
    path = app.root / "sessions" / f"{session}_canvas.json"
    held = path.open("rb")
    before = held.read()
    live.api(f"library.retitle_session({session!r}, 'A much longer title than that')")
    until(lambda: app.canvas(session)["title"] == "A much longer title than that", "the title", 1.0)
    # Who has it open keeps the bytes that it had.
    held.seek(0)
    assert held.read() == before
    held.close()
    ours = app.root / "sessions" / "0198c000-0000-7000-8000-000000000001_canvas.json"
    assert not ours.exists()
    live.api("library.create_session('Ours', session_id='0198c000-0000-7000-8000-000000000001')")
    assert ours.exists()
    names = until_listed(app, "0198c000-0000-7000-8000-000000000001_canvas.json")
    assert len(names) == 3
    live.api("library.import_bytes(open(sys.argv[2], 'rb').read(), 'cat.png')", str(_file(live, picture(5))))
    until(lambda: len(app.read("image_registry.json")["images"]) == 1, "the picture is registered", 1.0)
    [(text, about)] = app.read("image_registry.json")["images"].items()
    assert len(text) == 64 and about["original_name"] == "cat.png" and app.image(text) == picture(5)
    live.api(f"library.delete_session({session!r})")
    until(lambda: not path.exists(), "the session is gone", 1.0)
    inbox = next(name for name in os.listdir(app.root / "sessions") if name not in names)
    assert app.read(f"sessions/{inbox}")["version"] == "2.0"


def until_listed(app: CanvasApp, name: str) -> list[str]:
    until(lambda: name in os.listdir(app.root / "sessions"), name, 1.0)
    return os.listdir(app.root / "sessions")


def _file(live: Live, data: bytes) -> Path:
    path = live.library.parent / "cat.png"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("order", list(itertools.permutations(("image", "registry", "canvas"))), ids=" ".join)
def test_in_whichever_order_it_comes(live: Live, order: tuple[str, ...]) -> None:
    app = app_on(live)
    session = "mixboard-1"
    about = {"hash": "h1", "file_path": "images/output_1_h1.png", "size_bytes": 3}
    entry, run = image_entry(0, "h1"), generation(1, [], ["h1"])

    def canvases() -> None:
        app.save_canvas(session, canvas(session, "Order") | {"canvas_images": [entry]})
        app.save_generations(session, [run])

    steps = {
        "image": lambda: (app.root / "images" / "output_1_h1.png").write_bytes(picture(1)),
        "registry": lambda: app._write("image_registry.json", {"version": "2.0", "images": {"h1": about}}),
        "canvas": canvases,
    }
    for step in order:
        steps[step]()
        # Each step by itself: as when the app is slow.
        live.take_in()
    assert app.read("image_registry.json")["images"] == {"h1": about}
    assert app.canvas(session)["canvas_images"] == [entry] and app.generations(session) == [run]
    assert app.image("h1") == picture(1)
    with Library.open(live.library, read_only=True) as library:
        [placement], [held], [made] = (
            library.placements(session), library.entries(session), library.generations(session),
        )  # fmt: skip
        assert held.digest == placement.digest == made.outputs[0].digest
        assert made.outputs[0].placement_id == placement.id
        assert library.read_image(placement.digest) == picture(1)


def test_a_file_is_renamed_to_what_is_waited_for(live: Live) -> None:
    app = app_on(live)
    about = {"hash": "h1", "file_path": "images/b.png"}
    app._write("image_registry.json", {"version": "2.0", "images": {"h1": about}})
    app.save_canvas("mixboard-1", canvas("mixboard-1", "Trip") | {"canvas_images": [image_entry(0, "h1")]})
    (app.root / "images" / "a.png").write_bytes(picture(1))
    live.take_in()
    os.rename(app.root / "images" / "a.png", app.root / "images" / "b.png")
    assert app.read("image_registry.json")["images"] == {"h1": about} and app.image("h1") == picture(1)
    with Library.open(live.library, read_only=True) as library:
        [entry], [placement] = library.entries("mixboard-1"), library.placements("mixboard-1")
        assert entry.digest == placement.digest and library.read_image(placement.digest) == picture(1)


def test_ways_to_save(live: Live) -> None:
    app = app_on(live)
    session = app.create("Trip")
    path = app.root / "sessions" / f"{session}_canvas.json"

    def titled(title: str) -> bytes:
        return json.dumps(canvas(session, title)).encode()

    for temporary in (path.with_suffix(".json.tmp"), path.parent / "tmpa1b2c3", app.root / ".saving"):
        temporary.write_bytes(titled(temporary.name))
        assert temporary.read_bytes() == titled(temporary.name) and temporary.name in os.listdir(temporary.parent)
        os.replace(temporary, path)
        assert not temporary.exists() and app.canvas(session)["title"] == temporary.name
    # Over a name that is not there yet.
    other = path.parent / "mixboard-7_canvas.json"
    (path.parent / "x.tmp").write_bytes(json.dumps(canvas("mixboard-7", "Seven")).encode())
    os.rename(path.parent / "x.tmp", other)
    assert app.canvas("mixboard-7") == canvas("mixboard-7", "Seven")
    # Keeping the old one aside.
    os.rename(path, path.parent / "old.bak")
    path.write_bytes(titled("New"))
    assert json.loads((path.parent / "old.bak").read_bytes())["title"] == ".saving"
    (path.parent / "old.bak").unlink()
    # In parts, seeking, through two handles.
    with path.open("r+b") as one, path.open("r+b") as two:
        data = titled("In parts")
        one.truncate(0)
        one.write(data[:50])
        one.flush()
        two.seek(50)
        two.write(data[50:])
        two.flush()
        one.seek(0)
        assert one.read() == data
        assert path.stat().st_size == len(data)
    assert app.canvas(session)["title"] == "In parts"
    # fsync before close, and an empty new file that is filled later.
    with path.open("wb") as file:
        file.write(titled("Synced"))
        file.flush()
        os.fsync(file.fileno())
        assert app.canvas(session)["title"] == "Synced"
    fresh = path.parent / "mixboard-8_canvas.json"
    fresh.touch()
    assert fresh.read_bytes() == b"" and fresh.name in os.listdir(path.parent)
    fresh.write_bytes(json.dumps(canvas("mixboard-8", "Eight")).encode())
    assert app.canvas("mixboard-8")["title"] == "Eight"
    # Emptied and closed: what it was. An empty file is no document either.
    path.open("wb").close()
    (path.parent / "empty.tmp").touch()
    with pytest.raises(OSError):
        os.replace(path.parent / "empty.tmp", path)
    (path.parent / "empty.tmp").unlink()
    assert app.canvas(session)["title"] == "Synced"
    # Renamed before it is closed.
    with (path.parent / "open.tmp").open("wb") as file:
        file.write(titled("Renamed"))
        file.flush()
        os.replace(path.parent / "open.tmp", path)
        assert app.canvas(session)["title"] == "Renamed"
        file.seek(0)
        file.truncate()
        file.write(titled("And written"))
    assert app.canvas(session)["title"] == "And written" and len(os.listdir(path.parent)) == 3
    shell = f"cat > '{path}' <<< '{titled('Shell').decode()}'"
    subprocess.run(["bash", "-c", shell], check=True, timeout=30)
    assert app.canvas(session)["title"] == "Shell"


def test_what_is_wrong_is_refused_and_the_reason_told(live: Live) -> None:
    app = app_on(live)
    session = app.create("Trip")
    path = app.root / "sessions" / f"{session}_canvas.json"
    good = app.canvas(session)
    wrong = [
        (path, b"{", "Line 1, column 2"), (path, b"[]", "must be a JSON object"),
        (path, b'{"canvas_images": [{"type": "text"}]}', "canvas_images[0].canvasId"),
        (path, b'{"canvas_images": [{"canvasId": "a", "x": "left"}]}', "canvas_images[0]: x must be a number"),
        (app.root / "image_registry.json", b'{"images": {"h": 1}}', "images.'h' must be an object"),
        (app.root / "sessions" / "mixboard-9_generations.json", b'{"generations": [{}]}', "generation_id"),
    ]  # fmt: skip
    for target, data, reason in wrong:
        file = target.open("wb", buffering=0)
        file.write(data)
        # Whoever looks while it is written sees what is written.
        assert target.read_bytes() == data
        with pytest.raises(OSError) as caught:
            file.close()
        assert caught.value.errno == errno.EINVAL
        last = (live.point / ".mixfs" / "problems.jsonl").read_text().splitlines()[-1]
        assert reason in last and target.name in last, last
        with pytest.raises(OSError) as caught:
            (target.parent / "new.tmp").write_bytes(data)
            os.replace(target.parent / "new.tmp", target)
        assert caught.value.errno == errno.EINVAL
        (target.parent / "new.tmp").unlink()
    assert app.canvas(session) == good and app.read("image_registry.json")["images"] == {}
    for refused in (
        lambda: os.unlink(app.root / "image_registry.json"), lambda: os.unlink(app.root / "logs.jsonl"),
        lambda: os.rmdir(app.root / "sessions"), lambda: os.mkdir(app.root / "sessions" / "x"),
        lambda: os.rename(app.root / "logs.jsonl", app.root / "logs.1.jsonl"),
        lambda: os.rename(path, live.point / "import" / "x.json"),
    ):  # fmt: skip
        with pytest.raises(OSError):
            refused()


def test_the_log_only_grows(live: Live) -> None:
    app = app_on(live)
    log = app.root / "logs.jsonl"
    assert log.read_bytes() == b"" and log.stat().st_size == 0
    with log.open("rb") as reader:
        assert reader.read() == b""
        app.log("info", "the first line")
        assert reader.read() == log.read_bytes() != b""
    with log.open("a") as one, log.open("a") as two:
        for at in range(20):
            print(f'{{"n": {at}}}', file=(one, two)[at % 2], flush=True)
    assert [line["n"] for line in app.logs()[1:]] == list(range(20))
    live.api("library.app_files.append([b'{\"n\": 20}'])")
    app.log("info", "ünï")
    assert [line.get("n") for line in app.logs()] == [None, *range(21), None]
    for wrong in (lambda: log.open("wb"), lambda: os.truncate(log, 3), lambda: _overwrite(log)):
        with pytest.raises(PermissionError):
            wrong()
    before = log.read_bytes()
    live.kill()
    live.start()
    assert log.read_bytes() == before == (live.library / "storage-v2" / "logs.jsonl").read_bytes()
    live.mixfs("rebuild-index")
    assert log.read_bytes() == before


def _overwrite(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"x")


def test_a_kill_takes_nothing_that_was_closed(live: Live) -> None:
    app = app_on(live)
    output = app.register(picture(1))
    session = app.create("Trip")
    document = canvas(session, "Trip") | {"canvas_images": [image_entry(0, output)]}
    app.save_canvas(session, document)
    expected = app.everything()
    unclosed = os.open(app.root / "sessions" / "mixboard-5_canvas.json", os.O_WRONLY | os.O_CREAT)
    os.write(unclosed, b"{")
    live.kill()
    with contextlib.suppress(OSError):
        os.close(unclosed)
    live.start()
    assert app.everything() == expected
    until(lambda: (live.point / "sessions" / "Trip" / "images").exists(), "the session", 1.0)
    live.take_in()
    assert len(os.listdir(live.point / "sessions" / "Trip" / "images")) == 1


@pytest.mark.parametrize("in_place", [True, False], ids=["rewritten", "renamed over"])
def test_a_kill_in_the_middle_of_saving(live: Live, in_place: bool) -> None:
    app = app_on(live)
    session = app.create("0")
    path = app.root / "sessions" / f"{session}_canvas.json"
    begun, acknowledged, enough = 0, 0, threading.Event()

    def save() -> None:
        nonlocal begun, acknowledged
        with contextlib.suppress(OSError):
            for at in range(1, 10_000):
                begun = at
                target = path if in_place else path.with_suffix(".tmp")
                target.write_text(json.dumps(canvas(session, str(at))))
                if not in_place:
                    os.replace(target, path)
                app.log("info", str(at))
                acknowledged = at
                if at == 25:
                    enough.set()

    saving = threading.Thread(target=save)
    saving.start()
    assert enough.wait(30)
    live.kill()
    saving.join(30)
    assert not saving.is_alive()
    live.start()
    assert acknowledged <= int(app.canvas(session)["title"]) <= begun
    said = [int(line["message"]) for line in app.logs()]
    assert said == list(range(1, len(said) + 1)) and acknowledged <= len(said) <= begun


def test_a_deleted_session_is_in_the_trash_and_its_pictures_stay(live: Live) -> None:
    app = app_on(live)
    output = app.register(picture(1))
    session = app.create("Trip")
    app.save_canvas(session, canvas(session, "Trip") | {"canvas_images": [image_entry(0, output)]})
    app.save_generations(session, [generation(1, [], [output])])
    live.take_in()
    expected = app.everything()
    app.delete(session)
    assert os.listdir(app.root / "sessions") == []
    until(lambda: not (live.point / "sessions" / "Trip").exists(), "it is in the trash", 1.0)
    assert app.image(output) == picture(1)
    live.mixfs("restore", session)
    until(lambda: app.everything() == expected, "all is back", 1.0)
    until(lambda: list(live.point.glob("sessions/Trip/images/*.png")), "in sessions/ too", 1.0)


def test_pictures_as_files(live: Live) -> None:
    app = app_on(live)
    images = app.root / "images"
    output = app.register(picture(1))
    name = app.read("image_registry.json")["images"][output]["file_path"]
    path = app.root / name
    for session in ("mixboard-1", "mixboard-2"):
        app.save_canvas(session, canvas(session, session) | {"canvas_images": [image_entry(0, output)]})
    live.take_in()
    ino = path.stat().st_ino
    # Other bytes: at once for who reads, and in both sessions.
    path.write_bytes(picture(2))
    assert path.read_bytes() == picture(2) and path.stat().st_size == len(picture(2))
    [shown] = (live.point / "sessions" / "mixboard-1" / "images").iterdir()
    assert shown.stat().st_size == len(picture(2)) and shown.read_bytes() == picture(2)
    live.take_in()
    assert path.read_bytes() == picture(2) and path.stat().st_ino == ino
    for session in ("mixboard-1", "mixboard-2"):
        [shown] = (live.point / "sessions" / session / "images").iterdir()
        assert shown.read_bytes() == picture(2)
        assert app.canvas(session)["canvas_images"] == [image_entry(0, output)]
    assert app.image(output) == picture(2)
    # A temporary file over it, another name, and what is no picture.
    (images / "x.tmp").write_bytes(picture(3))
    os.replace(images / "x.tmp", path)
    assert path.read_bytes() == picture(3)
    live.take_in()
    assert path.read_bytes() == picture(3) and os.listdir(images) == [path.name]
    os.rename(path, images / "other.png")
    assert os.listdir(images) == ["other.png"] and (images / "other.png").read_bytes() == picture(3)
    (images / "broken.png").write_bytes(b"no picture")
    live.take_in()
    assert (images / "broken.png").read_bytes() == b"no picture"
    (images / "broken.png").write_bytes(b"still none")
    live.take_in()
    assert (images / "broken.png").read_bytes() == b"still none"
    for file in os.listdir(images):
        (images / file).unlink()
    assert os.listdir(images) == []
    # A picture that the app did not bring is there to be read.
    (live.point / "import" / "cat.png").write_bytes(picture(9))
    live.take_in()
    [cat] = images.iterdir()
    assert cat.read_bytes() == picture(9)
    for refused in (lambda: cat.unlink(), lambda: cat.write_bytes(b"x")):
        with pytest.raises(OSError):
            refused()


def test_a_session_of_mixfs_is_the_app_s_too(live: Live) -> None:
    (live.point / "import" / "Trip").mkdir()
    (live.point / "import" / "Trip" / "cat.png").write_bytes(picture(1))
    live.take_in()
    app = app_on(live)
    [name] = [name for name in os.listdir(app.root / "sessions") if name.endswith("_canvas.json")]
    session = name.removesuffix("_canvas.json")
    document = app.canvas(session)
    assert (document["title"], document["zoom"], document["panOffset"]) == ("Trip", 1.0, {"x": 0, "y": 0})
    [text] = app.read("image_registry.json")["images"]
    document["canvas_images"].append(image_entry(0, text))
    document["title"] = "Trip 2"
    app.save_canvas(session, document)
    assert app.canvas(session) == document
    saved = json.loads((live.point / "sessions" / "Trip 2" / "canvas.json").read_text())
    assert saved["canvas_images"][0]["imageHash"] == text
    # The app writes its registry again, and says something of the picture.
    registry = app.read("image_registry.json")
    registry["images"][text]["x_note"] = "mine"
    app._write("image_registry.json", registry)
    assert app.read("image_registry.json") == registry and app.image(text) == picture(1)


def registry_work(app: CanvasApp, pause: Callable[[], object]) -> list[Any]:
    """What an app may do to its registry, with a pause between two steps; returns what it reads after each."""
    seen: list[Any] = []
    app.log("info", "started")
    one, two = app.register(picture(1)), app.register(picture(2))
    registry = app.read("image_registry.json")

    def saved() -> None:
        pause()
        app._write("image_registry.json", registry)
        seen.append((app.read("image_registry.json"), sorted(os.listdir(app.root / "images"))))

    registry["xregistry"] = [1, None]
    registry["images"][one]["original_name"] = "photo.jpg"
    saved()
    # Two names of one file; a name of a file that never comes; one that stands for another file now.
    registry["images"]["again"] = registry["images"][one] | {"hash": "again"}
    registry["images"]["later"] = {"hash": "later", "file_path": "images/later.png"}
    saved()
    seen += [app.image("again") == app.image(one)]
    registry["images"][two]["file_path"] = registry["images"][one]["file_path"]
    saved()
    seen += [app.image(two) == app.image(one)]
    # Left out: the file stays.
    for gone in (two, "later", "xregistry"):
        registry.pop(gone, None) or registry["images"].pop(gone)
    saved()
    # A file moves to where a line expects it.
    registry["images"]["moved"] = {"hash": "moved", "file_path": "images/moved.png"}
    saved()
    (app.root / "images" / "new.png").write_bytes(picture(3))
    pause()
    os.rename(app.root / "images" / "new.png", app.root / "images" / "moved.png")
    saved()
    seen += [app.image("moved") == picture(3)]
    registry["images"] = {}
    saved()
    return [*seen, app.everything()]


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "taken in between two steps"])
def test_the_registry_is_the_app_s(live: Live, tmp_path: Path, slow: bool) -> None:
    (tmp_path / "disk").mkdir()
    expected = registry_work(CanvasApp(tmp_path / "disk"), lambda: None)
    found = registry_work(app_on(live), live.take_in if slow else lambda: None)
    for at, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == theirs, at
    live.take_in()
    app = app_on(live)
    assert app.everything() == expected[-1]
    assert live.mixfs("fsck", check=False).returncode == 0


def test_a_long_document(live: Live) -> None:
    app = app_on(live)
    session = app.create("Long")
    entries = [image_entry(at, f"{at:032}", note="x" * 200) for at in range(2000)]
    app.save_canvas(session, canvas(session, "Long") | {"canvas_images": entries})
    assert app.canvas(session)["canvas_images"] == entries
    path = live.point / "sessions" / "Long" / "canvas.json"
    assert len(json.loads(path.read_bytes())["canvas_images"]) == 2000
    health = json.loads((live.point / ".mixfs" / "health.json").read_text())
    assert "rendered" not in json.dumps(health) or '"rendered": 0' in json.dumps(health)
