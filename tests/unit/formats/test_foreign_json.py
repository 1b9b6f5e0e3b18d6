"""Any JSON that other programs write, by every way into the library: it comes back equal after the index was made again
from the journal, or is refused by its place, and takes nothing with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from format_home import package, picture, take, write_package
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from odd_json import Odd, odd_json, same
from PIL import Image, PngImagePlugin

from mixfs import StorageService, jsontext
from mixfs.errors import InvalidValue
from mixfs.formats import outputs
from mixfs.formats.workflow_package import write as write_workflow_package
from mixfs.library import canvas_json, documents, fsck
from mixfs.library import storage_v2 as layout
from mixfs.library.api import Library
from mixfs.library.transaction import Txn
from mixfs.records import Entry, Generation, Placement, Session

# A word in documents that stands for the odd JSON.
ODD = "@odd@"


def with_odd(value: Any, text: str) -> bytes:
    return json.dumps(value).replace(f'"{ODD}"', text).encode()


def canvas(title: str) -> dict[str, Any]:
    return {
        "session_id": title, "title": title, "zoom": 1, "xtop": ODD,
        "canvas_images": [
            {"canvasId": "a", "type": "text", "x": 0, "y": 0, "width": 1, "height": 1, "text": "kept"},
            {"canvasId": "b", "type": "node", "x": 0, "y": 0, "width": 1, "height": 1, "meta": ODD},
        ],
    }  # fmt: skip


def one_session(library: Library, title: str) -> Session:
    [found] = [session for session in library.sessions() if session.title == title]
    return found


def document(library: Library, title: str, name: str) -> Any:
    session = one_session(library, title)
    with library.read() as view:
        return jsontext.loads(view.render_session_document(session, name), whole=True)


# Each puts the odd JSON in, and returns what gives it back.
Way = Callable[[Library, Path, str], Callable[[Library], list[Any]]]


def by_canvas_json(library: Library, place: Path, text: str) -> Callable[[Library], list[Any]]:
    session = library.create_session("canvas.json")
    data = with_odd(canvas("canvas.json"), text)
    canvas_json.check("canvas.json", data)
    library.commit(lambda txn: canvas_json.save(txn, session.id, "canvas.json", data))

    def back(library: Library) -> list[Any]:
        items = document(library, "canvas.json", "canvas.json")["canvas_images"]
        assert items[0]["text"] == "kept"
        return [items[1]["meta"]]

    return back


def by_python(library: Library, place: Path, text: str) -> Callable[[Library], list[Any]]:
    value = jsontext.loads(with_odd(canvas("python"), text), whole=True)
    StorageService(library).save_session("python", canvas=value)

    def back(library: Library) -> list[Any]:
        said = StorageService(library).load_session("python")["canvas"]
        assert said["canvas_images"][0]["text"] == "kept"
        return [said["canvas_images"][1]["meta"], said["xtop"]]

    return back


def by_storage_v2(library: Library, place: Path, text: str) -> Callable[[Library], list[Any]]:
    history = {"session_id": "v2", "generations": [
        {"generation_id": "g", "prompt": "kept", "input_images": [], "output_images": [], "parameters": {"odd": ODD}},
    ]}  # fmt: skip
    (place / "app" / "sessions").mkdir(parents=True)
    (place / "app" / "image_registry.json").write_bytes(with_odd({"images": {}, "xtop": ODD}, text))
    (place / "app" / "sessions" / "v2_canvas.json").write_bytes(with_odd(canvas("v2"), text))
    (place / "app" / "sessions" / "v2_generations.json").write_bytes(with_odd(history, text))
    assert take(library, place / "app").not_taken == []

    def back(library: Library) -> list[Any]:
        session = one_session(library, "v2")
        with library.read() as view:
            shown = [layout.render(view, session, suffix) for suffix in layout.ROW_NAMES]
            row = view.session_row(session.id).documents
            assert [row[name][0] for name in layout.ROW_NAMES.values()] == list(map(len, shown))
            registry = layout.render_registry(view)
            assert layout.registry_size(view)[0] == len(registry)
        first, second, third = (jsontext.loads(data, whole=True) for data in (*shown, registry))
        assert first["canvas_images"][0]["text"] == second["generations"][0]["prompt"] == "kept"
        [generation] = library.generations(session.id)
        for shows in (documents.parameters_json, documents.generation_json):
            json.loads(shows(generation), parse_int=str)
        return [
            first["canvas_images"][1]["meta"], first["xtop"], second["generations"][0]["parameters"]["odd"],
            third["xtop"],
        ]  # fmt: skip

    return back


def by_package(library: Library, place: Path, text: str) -> Callable[[Library], list[Any]]:
    members = package()
    members["workflow.json"]["nodes"][0]["config"] = ODD
    members["workflow.json"]["xfuture"] = ODD
    members = {
        name: value if isinstance(value, bytes) else with_odd(value, text) for name, value in members.items()
    }
    assert take(library, write_package(place / "p.zip", members)).not_taken == []

    def back(library: Library) -> list[Any]:
        target = place / "out.zip"
        target.unlink(missing_ok=True)
        write_workflow_package(library, one_session(library, "My Workflow").id, target)
        with zipfile.ZipFile(target) as archive:
            workflow = jsontext.loads(archive.read("workflow.json"), whole=True)
        assert workflow["nodes"][1]["result"] == {"kind": "embedded", "id": "as-1"}
        return [workflow["nodes"][0]["config"], workflow["xfuture"]]

    return back


def by_outputs(library: Library, place: Path, text: str) -> Callable[[Library], list[Any]]:
    folder = place / "outputs"
    folder.mkdir()
    for at in range(2):
        said = {"prompt": "kept", "model": "m", "timestamp": "2025-12-08T10:15:00Z", "parameters": {"n": at}}
        (folder / f"{at}.png").write_bytes(picture(70 + at))
        data = with_odd(said | {"parameters": {"cfg": ODD, "other": ODD}} if at else said, text)
        (folder / f"{at}.json").write_bytes(data)
    assert take(library, folder).not_taken == []

    def back(library: Library) -> list[Any]:
        target = place / "outputs-again"
        shutil.rmtree(target, ignore_errors=True)
        outputs.write(library, [one_session(library, "outputs").id], target)
        found = [jsontext.loads(path.read_bytes(), whole=True) for path in target.rglob("*.json")]
        assert [each["prompt"] for each in found] == ["kept", "kept"]
        [parameters] = [each["parameters"] for each in found if "other" in each["parameters"]]
        return [parameters["cfg"], parameters["other"]]

    return back


def by_gallery(library: Library, place: Path, text: str) -> Callable[[Library], list[Any]]:
    pictures = place / "gallery" / "images" / "sessions" / "s"
    pictures.mkdir(parents=True)
    images: list[Any] = []
    for at in range(3):
        (pictures / f"{at}.png").write_bytes(picture(80 + at))
        images.append({"id": f"i{at}", "url": f"/api/images/sessions/s/{at}.png"} | ({"odd": ODD} if at == 1 else {}))
    said = {"sessions": [{"id": "s", "name": "gallery", "odd": ODD, "images": images}], "xtop": ODD}
    (place / "gallery" / "gallery_data.json").write_bytes(with_odd(said, text))
    assert take(library, place / "gallery").not_taken == []

    def back(library: Library) -> list[Any]:
        session = one_session(library, "gallery")
        kept = session.foreign["gallery"]
        images = [placement.foreign["gallery"] for placement in library.placements(session.id)]
        assert len(images) == 3
        [image] = [image for image in images if "odd" in image]
        return [
            jsontext.loads(documents.to_json(value), whole=True)
            for value in (kept["odd"], kept["document"]["xtop"], image["odd"])
        ]  # fmt: skip

    return back


WAYS: list[Way] = [by_canvas_json, by_python, by_storage_v2, by_package, by_outputs, by_gallery]


@given(odds=st.lists(odd_json(), min_size=len(WAYS), max_size=len(WAYS)))
@settings(
    max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
)
def test_it_comes_back_equal_from_the_journal(
    odds: list[Odd], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("odd")
    backs: list[tuple[Any, Callable[[Library], list[Any]]]] = []
    with Library.open(place / "library") as library:
        for way, (text, value) in zip(WAYS, odds, strict=True):
            backs.append((value, way(library, place, text)))
    for again in (False, True):
        if again:
            shutil.rmtree(place / "library" / "index")
        with Library.open(place / "library") as library:
            for value, back in backs:
                for found in back(library):
                    assert same(found, value), (back, jsontext.dumps(found)[:500], jsontext.dumps(value)[:500])
        assert not fsck.check(place / "library").problems
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("text", "words"),
    [("NaN", "canvas_images[1].x must be a number"), ("1" + 400 * "0", "canvas_images[1].x is 1000"),
     ("1e999", "canvas_images[1].x must be a number"), ("[" * 70 + "]" * 70, "canvas_images[1].x must be")],
)  # fmt: skip
def test_a_field_that_can_t_hold_it_is_refused_by_its_place(library: Library, text: str, words: str) -> None:
    said = canvas("s")
    said["canvas_images"][1]["x"] = ODD
    with pytest.raises(InvalidValue) as caught:
        canvas_json.check("canvas.json", with_odd(said, text))
    assert words in str(caught.value)


def test_metadata_of_pictures(library: Library, tmp_path: Path) -> None:
    """ComfyUI writes NaN; nothing bounds how deep a graph is. What follows from it is strict JSON."""
    deep = "[" * 10_000 + "]" * 10_000
    seven = "7" * 400
    graph = f'{{"nodes": [], "n": [NaN, -Infinity, 1e999, {seven}], "half": "\\ud83d", "deep": {deep}}}'
    sampler = {"seed": 5, "cfg": float("nan"), "positive": ["6", 0], "steps": float("inf")}
    prompt = json.dumps({
        "3": {"class_type": "KSampler", "inputs": sampler},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    })  # fmt: skip
    fooocus = f'{{"prompt": "a dog", "seed": {seven}, "cfg_scale": NaN, "extra": {deep}, "big": {seven}}}'
    for name, texts in (("a.png", {"workflow": graph, "prompt": prompt}), ("b.png", {"workflow": '{"nodes": [cut'}),
                        ("c.png", {"parameters": fooocus, "fooocus_scheme": "fooocus"}), ("d.png", {})):  # fmt: skip
        info = PngImagePlugin.PngInfo()
        for key, value in texts.items():
            info.add_text(key, value)
        Image.frombytes("RGB", (4, 4), bytes([ord(name[0])] * 48)).save(tmp_path / name, pnginfo=info)
    library.import_paths(sorted(tmp_path.glob("*.png")))
    shown = {}
    with library.read() as view:
        for placement in view.records(Placement):
            about = view.about(placement)
            assert about is not None
            shown[placement.name[:1]] = {kind: make(about) for kind, make in documents.IMAGE_DOCUMENTS.items()}
    assert len(shown) == 4
    workflow = json.loads(shown[b"a"]["workflow"])
    # As `loads` keeps it: deep containers as marked texts.
    kept = jsontext.loads(deep, nan_as_null=True)
    assert workflow["n"] == [None, None, float("inf"), int(seven)] and workflow["half"] == "\ufffd"
    assert str(kept)[63:-63].startswith("[{'mixfs:json': '[[[[") and str(workflow["deep"]).startswith("[" * 62)
    assert json.loads(shown[b"a"]["json"])["raw"]["workflow"] == graph
    assert b"NaN" not in shown[b"a"]["workflow"] and shown[b"b"]["workflow"] == b""
    for made in shown.values():
        json.loads(made["json"], parse_constant=pytest.fail)
    about_dog = json.loads(shown[b"c"]["json"])["generation"]
    assert about_dog["prompt"] == "a dog" and about_dog["parameters"]["big"] == seven


def test_a_library_of_before_shows_strict_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions kept NaN, and values nested as deep as cbor2 reads."""
    deep: Any = float("nan")
    for _ in range(380):
        deep = [deep]
    nan = float("nan")
    with monkeypatch.context() as before:
        before.setattr(jsontext, "keepable", lambda value, path, room: value)
        with Library.open(tmp_path / "library") as library:
            session = library.create_session("S")
            library.put_generation(
                Generation(id="g", session_id=session.id, prompt="p", cfg=nan, parameters={"t": nan, "d": deep})
            )
            library.put_entry(Entry(id="e", session_id=session.id, type="node", x=float("inf"), data={"m": deep}))
    shutil.rmtree(tmp_path / "library" / "index")

    def check(library: Library) -> None:
        with library.read() as view:
            row = view.session_row(session.id).documents
            for name in ("canvas.json", "generations.json", "session.json"):
                data = view.render_session_document(library.session(session.id), name)
                assert len(data) == row[name][0]
                json.loads(data, parse_constant=pytest.fail)
            assert b'"NaN"' in view.render_session_document(library.session(session.id), "generations.json")

    with Library.open(tmp_path / "library") as library:
        check(library)
        # It can be moved to the trash, which nests it deeper still, and comes back.
        library.delete_session(session.id)
        library.restore_session(session.title)
        check(library)
    assert not fsck.check(tmp_path / "library").problems
    shutil.rmtree(tmp_path / "library" / "index")
    with Library.open(tmp_path / "library") as library:
        check(library)


def test_no_commit_is_acknowledged_that_can_t_be_read_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    session = library.create_session("S")
    end = library.store.written_end()
    deep: Any = 1
    for _ in range(398):
        deep = [deep]

    def both(txn: Txn) -> None:
        txn.put(Entry(id="good", session_id=session.id, type="text"))
        txn.put(Entry(id="deep", session_id=session.id, type="text", data={"m": deep}))

    with monkeypatch.context() as without:
        # As if the check of single records had a gap.
        without.setattr(jsontext, "keepable", lambda value, path, room: value)
        with pytest.raises(InvalidValue, match="read again"):
            library.commit(both)
    assert library.store.written_end() == end and library.entries(session.id) == []
    monkeypatch.setattr("mixfs.library.store.MAX_PAYLOAD", 10_000)
    entry = Entry(id="e", session_id=session.id, type="text", text="x" * 20_000)
    with pytest.raises(InvalidValue, match=r"takes \d+ bytes .* 10000 are allowed"):
        library.put_entry(entry)
    assert library.store.written_end() == end
    library.commit(both)
    library.put_entry(dataclasses.replace(entry, text="x"))
    shutil.rmtree(library.root / "index")
    library.store.refresh()
    assert {each.id for each in library.entries(session.id)} == {"good", "deep", "e"}
