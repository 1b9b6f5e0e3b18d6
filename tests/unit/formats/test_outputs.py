"""Outputs folders in and out, and what `mixfs list` and `mixfs stats --by` say of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from format_home import picture, take

from mixfs.cli.list_ import parse_size
from mixfs.errors import UsageError
from mixfs.formats.layouts import detect
from mixfs.formats.outputs import check_template, not_carried, write
from mixfs.library.api import Library
from mixfs.media.samples import make_sample
from mixfs.records import Entry, Generation, ImageRef

SDXL = {
    "prompt": "夜の東京\nneon", "model": "stable-diffusion-xl", "timestamp": "2025-10-25T10:00:00.000Z",
    "category": "room", "parameters": {"steps": 4, "seed": 1311937593, "cfg_scale": 7.5, "odd": [1]}, "xfuture": None,
}  # fmt: skip
FLUX = {"prompt": "a cat", "model": "Flux 1.1 Pro", "timestamp": "2025-12-09T23:30:00+02:00", "provider": "bfl"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    dated = root / "images" / "generations"
    _put(dated / "2025-10-25/stable-diffusion-xl/20251025_100000_stable-diffusion-xl_0e8e0b.png", picture(1), SDXL)
    _put(dated / "2025-12-09/flux-1.1-pro/20251209_233000_flux-1.1-pro_2e96b4.jpg", picture(2, "JPEG"), FLUX)
    _put(dated / "2025-12-09/20251209_120000_x_aaaa.png", make_sample("a1111")[1], None)
    (root / "notes.txt").write_text("remember")
    (root / "settings.json").write_text("{}")
    return root


def _put(path: Path, data: bytes, said: dict[str, Any] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(1_700_000_000_000_000_000,) * 2)
    if said is not None:
        path.with_suffix(".json").write_text(json.dumps(said))


def files(root: Path) -> dict[str, Any]:
    """What lies below a folder: JSON as values."""
    return {
        str(path.relative_to(root)): json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()
        for path in root.rglob("*") if path.is_file()
    }  # fmt: skip


def test_pictures_come_in_with_what_lies_beside_them(library: Library, source: Path) -> None:
    before = files(source)
    would = take(library, source, dry_run=True)
    assert library.sessions() == []
    report = take(library, source)
    assert report.taken == {"sessions": 1, "pictures": 3, "files": 2, "generations": 2}
    assert (would.taken, report.not_taken) == (report.taken, [])
    session = library.find_session("outputs")
    by_model = {generation.model: generation for generation in library.generations(session.id)}
    sdxl = by_model["stable-diffusion-xl"]
    assert (sdxl.prompt, sdxl.seed, sdxl.steps, sdxl.cfg) == (SDXL["prompt"], 1311937593, 4, 7.5)
    assert sdxl.parameters == {"odd": [1]} and sdxl.time_ns == 1_761_386_400_000_000_000
    assert (by_model["Flux 1.1 Pro"].generator, by_model["Flux 1.1 Pro"].utc_offset_s) == ("bfl", 7200)
    # A picture with metadata of its own and nothing beside it.
    assert any(generation.reader == "a1111" for generation in by_model.values())
    placement = next(p for p in library.placements(session.id) if p.digest == sdxl.outputs[0].digest)
    assert placement.id == sdxl.outputs[0].placement_id and placement.mtime_ns == 1_700_000_000_000_000_000
    with library.read() as view:
        state = view.state()
    again = take(library, source)
    assert (again.taken, again.known, again.differs) == ({}, report.taken, 0)
    with library.read() as view:
        assert view.state()[0] == state[0]
    assert files(source) == before


def test_a_changed_picture_comes_in_too(library: Library, source: Path) -> None:
    take(library, source)
    path = next(source.rglob("*_2e96b4.jpg"))
    path.write_bytes(picture(9, "JPEG"))
    assert take(library, source).taken == {"pictures": 1, "generations": 1}


def test_the_same_picture_with_another_prompt_is_another_generation(library: Library, source: Path) -> None:
    _put(source / "images/generations/2025-10-26/20251026_100000_x_bbbb.png", picture(1), SDXL | {"prompt": "again"})
    take(library, source)
    prompts = [generation.prompt for generation in library.generations(library.find_session("outputs").id)]
    assert "again" in prompts and SDXL["prompt"] in prompts


def test_what_can_not_be_read_is_reported(library: Library, source: Path) -> None:
    bad = source / "images" / "generations" / "2025-12-09" / "20251209_120000_x_aaaa.json"
    bad.write_text("{broken")
    (source / "link.png").symlink_to(bad)
    report = take(library, source)
    assert [(problem.file, "Line 1" in problem.reason) for problem in report.not_taken] == [(str(bad), True)]
    assert [item.file for item in report.skipped] == [str(source / "link.png")]
    # The picture is there, and what was broken beside it too.
    assert report.taken["pictures"] == 3 and report.taken["files"] == 3


def test_it_goes_out_as_it_came_in(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    session = library.find_session("outputs")
    write(library, [session.id], tmp_path / "out")
    was, now = files(source), files(tmp_path / "out")
    for name in (
        "images/generations/2025-10-25/stable-diffusion-xl/20251025_100000_stable-diffusion-xl_0e8e0b",
        "images/generations/2025-12-09/Flux 1.1 Pro/20251209_233000_flux-1.1-pro_2e96b4",
    ):  # fmt: skip
        old = name.replace("Flux 1.1 Pro", "flux-1.1-pro")
        picture_name = next(path for path in was if path.startswith(old) and not path.endswith(".json"))
        assert now[name + Path(picture_name).suffix] == was[picture_name]
        assert now[f"{name}.json"] == was[f"{old}.json"]
    assert len(now) == 6 and not list(tmp_path.glob(".*"))
    assert not_carried(library, [session.id]) == (
        "titles, users and views of sessions: all pictures go into one folder (1)", "files that are no picture (2)",
        "loras, model hashes and versions of generators (1)", "names of files (1)", "folders (4)",
    )  # fmt: skip
    # What went out comes in again as what it was.
    with Library.open(tmp_path / "other") as other:
        assert take(other, tmp_path / "out", session="outputs").taken["generations"] == 3
        for generation in library.generations(session.id):
            if generation.reader is None:
                [same] = [g for g in other.generations(other.sessions()[0].id) if g.model == generation.model]
                assert (same.id, same.prompt, same.seed, same.parameters, same.time_ns, same.foreign) == (
                    generation.id, generation.prompt, generation.seed, generation.parameters, generation.time_ns,
                    generation.foreign,
                )  # fmt: skip


def test_a_name_template(library: Library, tmp_path: Path) -> None:
    session = library.create_session("A/B")
    for seed in (1, 2):
        placement = library.import_bytes(picture(seed), f"{seed}.png", session_id=session.id)
        library.put_generation(
            Generation(id=f"g{seed}", session_id=session.id, model="m/../x", seed=7, prompt="p", time_ns=1,
                       outputs=(ImageRef(digest=placement.digest),)),
        )  # fmt: skip
    library.put_entry(Entry(id="e", session_id=session.id, type="text", text="x"))
    library.put_generation(Generation(id="alone", session_id=session.id))
    write(library, [session.id], tmp_path / "out", "{session}/{year}/{model}_{seed}.{ext}")
    written = files(tmp_path / "out" / "images" / "generations")
    assert sorted(written) == [
        "A-B/1970/m-..-x_7 (2).json", "A-B/1970/m-..-x_7 (2).png", "A-B/1970/m-..-x_7.json", "A-B/1970/m-..-x_7.png",
    ]  # fmt: skip
    assert written["A-B/1970/m-..-x_7.json"]["parameters"] == {"seed": 7}
    # A template that keeps the names leaves nothing to say about those.
    alone = ("canvases (1)", "generations without a picture of their own (1)")
    assert not_carried(library, [session.id])[1:] == (*alone, "names of files (2)")
    assert not_carried(library, [session.id], "{name}.{ext}")[1:] == alone


@pytest.mark.parametrize(
    "template", ["{nothing}.{ext}", "../{name}.{ext}", "/{name}.{ext}", "{name}", "{name", "a//{name}.{ext}"]
)
def test_templates_that_name_no_file(template: str) -> None:
    with pytest.raises(UsageError):
        check_template(template)


def test_detection_goes_by_content(source: Path, tmp_path: Path) -> None:
    assert detect(source) is not None and detect(source / "images" / "generations" / "2025-10-25") is not None
    for said in ("{}", "[]", "{", '{"prompt": "x"}'):
        folder = tmp_path / "plain"
        _put(folder / "a.png", picture(1), None)
        (folder / "a.json").write_text(said)
        assert detect(folder) is None
    (folder / "a.json").write_text(json.dumps(SDXL))
    assert detect(folder) is not None
    (folder / "a.png").write_text("no picture")
    assert detect(folder) is None


# -- list and stats


@pytest.fixture
def moved_in(home: Home, source: Path) -> Home:
    home.run("import", source)
    return home


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ([], {"stable-diffusion-xl", "Flux 1.1 Pro", "realisticVisionV51_v51VAE", None}),
        (["--model", "FLUX*"], {"Flux 1.1 Pro"}), (["--model", "flux"], set()),
        (["--provider", "bfl"], {"Flux 1.1 Pro"}), (["--category", "room"], {"stable-diffusion-xl"}),
        (["--since", "2025-11", "--until", "2025-12-09", "--provider", "bfl"], {"Flux 1.1 Pro"}),
        (["--until", "2025-10-25", "--category", "room"], {"stable-diffusion-xl"}),
        (["--until", "2025-10-24", "--category", "room"], set()),
        (["--since", "2025-10-26", "--category", "room"], set()),
        (["--size", "<100x100"], {"stable-diffusion-xl", "Flux 1.1 Pro"}),
        (["--size", "16x12", "--model", "stable*"], {"stable-diffusion-xl"}), (["--size", ">1GB"], set()),
    ],
)  # fmt: skip
def test_list_and_its_filters(moved_in: Home, words: list[str], models: set[str | None]) -> None:
    found = {item["model"] for item in moved_in.run("list", *words, "--json").json}
    assert found == models
    assert moved_in.run("list", "--session", "outputs", *words).out


def test_list_refuses_what_it_does_not_understand(moved_in: Home) -> None:
    for words in (["--since", "yesterday"], ["--size", "big"]):
        moved_in.run("list", *words, code=2)
    moved_in.run("list", "--session", "none", code=3)


@pytest.mark.parametrize(("by", "name"), [("model", "Flux 1.1 Pro"), ("day", "2025-10-25"), ("type", "image/jpeg"),
                                          ("session", "outputs"), ("size", "16x12")])  # fmt: skip
def test_stats_by(moved_in: Home, by: str, name: str) -> None:
    groups = {group[by]: group for group in moved_in.run("stats", "--by", by, "--json").json}
    assert groups[name]["files"] >= 1
    assert sum(group["files"] for group in groups.values()) == 5
    assert name in moved_in.run("stats", "--by", by).out
    assert "Nothing is counted by" in moved_in.run("stats", "--by", "colour", code=2).err


@pytest.mark.parametrize("text", ["", "big", ">=", "1x", "x1", "-1MB", "1TBs"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_the_samples_that_others_made(home: Home, samples: Path, tmp_path: Path) -> None:
    expected = json.loads((samples / "EXPECTED.json").read_text())["outputs"]
    report = home.run("import", samples / "outputs", "--json").json
    assert report["imported"] == expected["images"] and report["layouts"][0]["taken"]["generations"] == 6
    assert {item["digest"] for item in home.run("list", "--json").json} == set(expected["digests"])
    home.run("export", "--all", tmp_path / "out", "--format", "outputs")
    was, now = (sorted(files(root).items(), key=lambda item: Path(item[0]).name) for root in
                (samples / "outputs", tmp_path / "out"))  # fmt: skip
    assert [(Path(name).name, value) for name, value in was] == [(Path(name).name, value) for name, value in now]
