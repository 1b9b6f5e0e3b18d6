"""The storage service of a canvas app, over a library: pictures, sessions and the log."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from format_home import picture

from mixfs.errors import ExistsError, InvalidValue, NotFoundError
from mixfs.formats import storage_v2
from mixfs.formats.storage_service import StorageService
from mixfs.library.api import Library
from mixfs.records import Entry, Generation, ImageRef


@pytest.fixture
def storage(library: Library) -> StorageService:
    return StorageService(library)


def test_a_picture_is_registered_once(library: Library, storage: StorageService) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture(1)).decode()
    digest = storage.register_image(picture(1), role="reference", name="photo.jpg")
    assert storage.register_image(uri, role="reference") == storage.register_image(uri, role="control") == digest
    assert storage.load_image(digest) == picture(1) == library.read_image(digest)
    assert library.stats().placements == 1
    [session] = library.sessions()
    [placement] = library.placements(session.id)
    assert (placement.role, placement.name[:6]) == ("reference", b"input_")
    others = [storage.register_image(picture(at), role=role) for at, role in ((2, "output"), (3, "control"))]
    assert len({digest, *others}) == 3 == library.stats().placements
    # A picture that came another way gets a name of the app's too.
    library.import_bytes(picture(4), "cat.png")
    storage.register_image(picture(4))
    assert library.stats().placements == 5


@pytest.mark.parametrize("image, role", [
    (b"no picture", "output"), (picture(1), "mask"), ("data:image/png;base64,@@", "output"), ("nonsense", "output"),
    (b"", "output"),
])  # fmt: skip
def test_what_can_t_be_registered_says_why(
    library: Library, storage: StorageService, image: bytes | str, role: str
) -> None:
    with pytest.raises(InvalidValue):
        storage.register_image(image, role=role)
    assert library.sessions() == [] and library.stats().blobs == 0


def test_sessions_are_made_saved_loaded_and_listed(library: Library, storage: StorageService) -> None:
    digest = storage.register_image(picture(1))
    first = storage.create_session("Trip", user_id="u", user_name="Ada")
    second = storage.create_session("Trip", session_id="mixboard-2")
    assert first.startswith("mixboard-") and first != second == "mixboard-2"
    with pytest.raises(ExistsError):
        storage.create_session("Again", session_id="mixboard-2")
    canvas = storage.load_session(first)["canvas"]
    assert (canvas["title"], canvas["user"]) == ("Trip", {"displayName": "Ada", "id": "u"})
    canvas["canvas_images"] = [{"canvasId": "c1", "type": "image", "imageHash": digest, "x": 1, "y": 2}]
    run = {"generation_id": "g1", "timestamp": "2025-12-09T10:00:00.000Z", "status": "completed", "prompt": "a cat",
           "input_images": [], "parameters": {"model": "flux"}, "output_images": [
               {"id": "x", "filename": "x.png", "hash": digest, "size_bytes": 1}]}  # fmt: skip
    generations = {"version": "2.0", "session_id": first, "generations": [run], "xfuture": [None]}
    with library.read() as view:
        before = view.sequence()
    storage.save_session(first, canvas=canvas, generations=generations)
    with library.read() as view:
        assert view.sequence() == before + 1
    assert storage.load_session(first) == {"canvas": canvas, "generations": generations}
    [entry], [made], [placement] = library.entries(first), library.generations(first), library.placements(first)
    assert entry.digest == made.outputs[0].digest == placement.digest == bytes.fromhex(digest)
    # One that is not there yet.
    storage.save_session("mixboard-3", canvas={"title": "", "canvas_images": []})
    assert library.session("mixboard-3").title == "Untitled"
    assert storage.load_session("mixboard-3")["canvas"]["title"] == ""
    # Nothing of a picture is needed to list them.
    shutil.rmtree(library.root / "blobs")
    listed = {each.session_id: each for each in storage.list_sessions()}
    assert list(listed) == ["mixboard-3", first, second]
    assert listed[first][1:2] + listed[first][4:] == ("Trip", 1, 1, 1)
    with pytest.raises(NotFoundError):
        storage.load_session("mixboard-4")


def test_what_was_made_here_and_is_saved_as_it_was_stays_what_it_is(library: Library, storage: StorageService) -> None:
    session = library.create_session("Trip").id
    placement = library.import_bytes(picture(1), "cat.png", session_id=session)
    output = ImageRef(digest=placement.digest, name="cat.png", role="output", size=placement.size)
    entry = library.put_entry(Entry(id="e", session_id=session, digest=placement.digest))
    run = library.put_generation(
        Generation(id="g", session_id=session, time_ns=10**18, prompt="a cat", seed=7, negative_prompt="dogs",
                   outputs=(output,)))  # fmt: skip
    documents = storage.load_session(session)
    documents["canvas"]["canvas_images"].append({"canvasId": "new", "type": "text", "text": "x", "x": 0, "y": 0})
    storage.save_session(session, **documents)
    assert [each for each in library.entries(session) if each.shown_id == "e"] == [entry]
    assert library.generations(session) == [run]
    # One that the app has changed keeps what the app does not know.
    documents["generations"]["generations"][0]["prompt"] = "two cats"
    storage.save_session(session, **documents)
    [changed] = library.generations(session)
    assert (changed.prompt, changed.seed, changed.negative_prompt) == ("two cats", 7, "dogs")
    assert changed.outputs[0].digest == placement.digest
    assert storage.load_session(session) == documents


@pytest.mark.parametrize("wrong, where", [
    ({"canvas_images": {}}, "canvas_images must be a list"),
    ({"canvas_images": [{"canvasId": "a"}, {"canvasId": "a"}]}, "canvas_images[1].canvasId 'a' stands there twice"),
    ({"canvas_images": [{"canvasId": "a", "width": "wide"}]}, "canvas_images[0]: width must be a number"),
])  # fmt: skip
def test_a_wrong_document_changes_nothing(
    library: Library, storage: StorageService, wrong: dict[str, object], where: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        storage.save_session("mixboard-1", canvas=wrong)
    assert where in str(caught.value) and library.sessions() == []


def test_an_image_goes_by_the_app_s_hash_too(library: Library, storage: StorageService, tmp_path: Path) -> None:
    digest = storage.register_image(picture(1))
    storage.save_session("mixboard-1", canvas={"title": "A", "canvas_images": []})
    storage_v2.write(library, [session.id for session in library.sessions()], tmp_path / "out")
    registry = json.loads((tmp_path / "out" / "image_registry.json").read_text())
    about = registry["images"].pop(digest)
    registry["images"]["md5-of-it"] = about | {"hash": "md5-of-it"}
    (tmp_path / "out" / "image_registry.json").write_text(json.dumps(registry))
    with Library.open(tmp_path / "other") as other:
        from mixfs.formats.layouts import import_layout

        assert import_layout(other, storage_v2, tmp_path / "out").not_taken == []
        theirs = StorageService(other)
        assert theirs.load_image("md5-of-it") == theirs.load_image(digest) == picture(1)
        for unknown in ("md5-of-another", "0" * 64):
            with pytest.raises(NotFoundError):
                theirs.load_image(unknown)


def test_the_log_is_read_from_its_end(library: Library, storage: StorageService) -> None:
    assert storage.last_logs(3) == []
    storage.append_log("info", "ünï", user="Ada", user_id="u", context={"sessionId": "s", "n": [1, None]})
    [line] = storage.last_logs()
    assert (line["level"], line["message"], line["user"], line["userId"], line["context"]) == (
        "info", "ünï", "Ada", "u", {"sessionId": "s", "n": [1, None]},
    )  # fmt: skip
    # More than one reads at a time, a line that was cut short, and one that is none.
    for at in range(300):
        storage.append_log("info", "x" * 500, context={"n": at})
    with library.app_files.log.open("ab") as file:
        file.write(b"\n[1]\n" + b'{"cut')
    storage.append_log("error", "last")
    assert [line["context"].get("n") for line in storage.last_logs(6)] == [297, 298, 299, None]
    assert len(storage.last_logs(1000)) == 302 and storage.last_logs(0) == []
    storage.append_log("info", "m", context={"nan": float("nan")})
    assert storage.last_logs(1)[0]["context"] == {"nan": "NaN"}
    with pytest.raises(InvalidValue):
        storage.append_log("info", "m", context={"bytes": b"x"})


def test_processes_append_to_one_log(library: Library) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom mixfs.library.app_files import AppFiles\n"
        "for at in range(50): AppFiles(Path(sys.argv[1])).append([b'%s %d' % (sys.argv[2].encode(), at)])\n"
    )
    env = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    both = [
        subprocess.Popen([sys.executable, "-c", program, str(library.root), name], env=env) for name in ("a", "b")
    ]  # fmt: skip
    assert [process.wait(60) for process in both] == [0, 0]
    lines = list(library.app_files.lines())
    assert sorted(lines) == sorted(b"%s %d" % (name, at) for name in (b"a", b"b") for at in range(50))
    # A log that comes in again adds only what is new.
    library.app_files.take([b"a 0", b"a 0", b"new"])
    assert list(library.app_files.lines())[100:] == [b"a 0", b"new"]
