"""What the views made from the library show: of pictures that can't be decoded, and by-* after changes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from box import Box, chunk, run
from live import needs_fuse, until

from mixfs.media.samples import make_sample

pytestmark = [pytest.mark.mount, needs_fuse]

# It takes a tenth of a second on a quiet machine. What is not told to the kernel is seen a day later.
SEEN_S = 20.0
WORDS = b"a lighthouse at dusk\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x512, Model: dreamshaper"


def damaged_png() -> bytes:
    """A PNG whose prompt can be read and whose pixels can't."""
    head = (64).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    text = chunk(b"tEXt", b"parameters\0" + WORDS)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", zlib.compress(b"\0" * 100)[:9])


@pytest.mark.parametrize("how", ["through the mount", "beside it"])
def test_a_damaged_picture_tells_its_prompt_and_the_reason(box: Box, how: str):
    data = damaged_png()
    if how == "through the mount":
        box.inbox.mkdir()
        box.imported("a.png", data)
    else:
        box.live.mixfs("import", box.put(f"{box.title}/a.png", data).parent)
    metadata, path = box.session / "metadata", box.session / "files" / "a.png"
    until(path.exists, "the file", SEEN_S)
    assert path.read_bytes() == data and os.listdir(box.images) == []
    known = json.loads((metadata / "a.png.json").read_bytes())
    assert known["problem"] and known["generation"]["prompt"] == "a lighthouse at dusk"
    assert (metadata / "a.png.txt").read_bytes().startswith(b"a lighthouse at dusk\n")
    assert "a.png.json" in os.listdir(metadata)
    assert os.getxattr(path, "user.mixfs.prompt") == b"a lighthouse at dusk"
    assert os.getxattr(path, "user.mixfs.problem").decode() == known["problem"]
    lines = [json.loads(line) for line in box.problems()]
    [line] = [line for line in lines if line.get("digest") == known["digest"]][:1]
    assert line["kind"] == "unreadable-image" and known["problem"] in line["reason"] and line["name"] == "a.png"


def test_a_damaged_picture_of_a_name_that_a_good_one_has(box: Box):
    box.inbox.mkdir()
    box.imported("a.png", damaged_png() + b"x")
    metadata = box.session / "metadata"
    before = set(os.listdir(metadata))
    assert {"a.png.json", "a.png.txt"} <= before
    assert not (metadata / "a.png.damaged.json").exists()
    os.unlink(box.inbox / "a.png")
    box.imported("a.png")
    until(lambda: "problem" not in json.loads((metadata / "a.png.json").read_bytes()), "the good one", SEEN_S)
    assert json.loads((metadata / "a.png.damaged.json").read_bytes())["problem"]
    assert (metadata / "a.png.damaged.txt").exists()
    names = os.listdir(metadata)
    assert len(names) == len(set(names)) and "a.png.damaged.json" in names
    os.unlink(box.images / "a.png")
    until(lambda: "problem" in json.loads((metadata / "a.png.json").read_bytes()), "the damaged one", SEEN_S)
    until(lambda: not (metadata / "a.png.damaged.json").exists(), "the name of the other", SEEN_S)


def test_what_stands_beside_a_picture_goes_and_comes_with_it(box: Box):
    """Also when it is the mount's own kernel that took the name away, and knows that."""
    box.session.mkdir()
    paths = [box.session / folder / name for folder, name in
             (("metadata", "a.png.json"), ("metadata", "a.png.xmp"), ("thumbnails", "a.png.png"))]  # fmt: skip
    for change in (lambda: box.put("a.png", where=box.images), (box.images / "a.png").unlink) * 2:
        before = [path.exists() for path in paths]
        change()
        box.take_in()
        for path, was in zip(paths, before, strict=True):
            until(lambda path=path, was=was: path.exists() != was, f"{path} {was}", 5)  # type: ignore[misc]
            assert (path.name in os.listdir(path.parent)) != was
    box.put("a.png", where=box.images)
    box.take_in()
    until(paths[2].exists, "the thumbnail", 5)
    os.rename(box.images / "a.png", box.images / "b.png")
    for path in paths:
        until(lambda path=path: not path.exists(), str(path), SEEN_S)  # type: ignore[misc]
        assert path.with_name(path.name.replace("a.png", "b.png")).exists()


def test_folders_of_files_however_deep(box: Box):
    deep = box.inbox.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (box.inbox / "empty").mkdir()
    (box.inbox / "pictures").mkdir()
    (box.inbox / "pictures" / "a.png").write_bytes(make_sample("a1111")[1])
    files = box.session / "files"
    box.take_in()
    assert os.listdir(files) == [] and not (files / "a").exists()
    (deep / "notes.txt").write_bytes(b"deep")
    box.take_in()
    until(lambda: (files.joinpath(*"abcdefgh") / "notes.txt").exists(), "the file", SEEN_S)
    assert os.listdir(files) == ["a"]
    # rm of what is read-only is refused, so the placement goes beside the mount.
    placement = box.placements()[b"notes.txt"]
    box.live.api("library.delete_placement(sys.argv[2])", placement.id)
    until(lambda: os.listdir(files) == [] and not (files / "a").exists(), "gone again", SEEN_S)


# -- by-date, by-model, by-lora, by-generator


def below(top: Path) -> list[str]:
    """What `find` lists, and what a look-up by name finds of it: the same."""
    listed = run("find", top, "-type", "f", "-printf", "%P\n").stdout.decode().splitlines()
    assert all((top / name).is_file() for name in listed)
    return sorted(listed)


def seen(view: Callable[[], list[str]], expected: list[str], *absent: Path) -> None:
    until(lambda: view() == sorted(expected) and not any(map(os.path.lexists, absent)), f"{view()}, {expected}", SEEN_S)


ADD_GENERATION = """
from mixfs.ids import digest_from_hex
from mixfs.records import Generation, ImageRef
session_id, model, digest, time_ns, name = sys.argv[2:]
ref = ImageRef(digest=digest_from_hex(digest), name=name)
library.put_generation(Generation(id="added", session_id=session_id, model=model, loras=(["a lora", 0.5],),
                                  generator="Somebody", time_ns=int(time_ns), outputs=(ref,)))
"""


def test_by_views_follow_what_is_known(box: Box):
    top = box.point
    name, data = make_sample("a1111")
    other = "a better name.png"
    box.inbox.mkdir()
    path = box.imported(name, data + b" ")
    digest = box.placements()[os.fsencode(name)].digest
    with box.library.read() as view:
        [generation] = view.generations_of(digest)
    assert generation.model and generation.loras
    day = f"{view_date(top, name)}"
    folders = {
        "model": top / "by-model" / generation.model,
        "generator": top / "by-generator" / str(generation.generator),
        "lora": top / "by-lora" / str(generation.loras[0][0]),
        "date": top / "by-date" / day[:4] / day,
    }
    for folder in folders.values():
        assert name in below(folder)
        assert not (folder / other).exists() and not (folder.parent / "none").exists()

    # Renamed in its session: each view shows the new name.
    os.rename(path, box.inbox / other)
    for folder in folders.values():
        seen(lambda folder=folder: [n for n in below(folder) if n in (name, other)], [other], folder / name)  # type: ignore[misc]

    # The session is retitled: nothing changes here.
    os.rename(box.session, box.session.with_name(f"{box.title} again"))
    for folder in folders.values():
        assert other in below(folder)
    os.rename(box.session.with_name(f"{box.title} again"), box.session)

    # A generation is added, with a model that nobody had, and goes again.
    model = f"model of {box.title}"
    assert not (top / "by-model" / model).exists()
    box.live.api(ADD_GENERATION, generation.session_id, model, digest.hex(), str(generation.time_ns), other)
    added = (top / "by-model" / model, top / "by-lora" / "a lora", top / "by-generator" / "Somebody")
    for folder in added:
        seen(lambda folder=folder: below(folder) if folder.exists() else [], [other])  # type: ignore[misc]
        assert folder.name in os.listdir(folder.parent)
    box.live.api("library.delete_generation('added')")
    for folder in added:
        until(lambda folder=folder: not folder.exists(), str(folder), SEEN_S)  # type: ignore[misc]
        assert folder.name not in os.listdir(folder.parent)

    # Deleted: it goes from all, and a folder with it that holds nothing else.
    (box.images / other).unlink()
    for folder in folders.values():
        seen(lambda folder=folder: [n for n in (below(folder) if folder.exists() else []) if n == other], [],  # type: ignore[misc]
             folder / other)  # fmt: skip
    # And comes back under its name when it is imported again.
    (box.inbox / other).unlink()
    box.imported(name, data + b" ")
    for folder in folders.values():
        seen(lambda folder=folder: [n for n in below(folder) if n in (name, other)] if folder.exists() else [], [name],  # type: ignore[misc]
             folder / other)  # fmt: skip


def test_what_was_read_from_a_picture_goes_where_real_programs_move_it(box: Box):
    name, data = make_sample("a1111")
    data += box.title.encode()
    box.inbox.mkdir()
    box.imported(name, data)
    other = box.session.with_name(f"{box.title} other")
    other.mkdir()
    [generation] = os.listdir(box.session / "generations")
    output = box.session / "generations" / generation / "outputs" / name
    assert output.read_bytes() == data and os.listdir(output.parent) == [name]

    def counted(session: Path) -> tuple[int, int, int]:
        said = json.loads((session / "session.json").read_bytes())
        return said["images"], said["generations"], len(os.listdir(session / "generations"))

    run("cp", box.images / name, other / "images" / "copy.png")
    until(lambda: counted(other) == (1, 1, 1), "the copy's generation", SEEN_S)
    assert counted(box.session) == (1, 1, 1)
    (other / "images" / "copy.png").unlink()
    assert counted(other) == (0, 0, 0)
    run("mv", box.images / name, other / "images" / "moved.png")
    assert counted(other) == (1, 1, 1) and counted(box.session) == (0, 0, 0)
    assert not output.exists()

    # An app's account stays where it is, and shows the picture only while its session has it.
    digest, session_id = box.placements(other.name)[b"moved.png"].digest, box.record(other.name)
    assert session_id is not None
    box.live.api(ADD_GENERATION, session_id.id, f"model of {box.title}", digest.hex(), "0", "out.png")
    [added] = [each for each in os.listdir(other / "generations") if each.startswith("1970")]
    output = other / "generations" / added / "outputs" / "out.png"
    box.take_in()
    folder = os.open(output.parent, os.O_RDONLY)
    try:
        # The kernel may remember the name, and must ask all the same.
        assert os.stat("out.png", dir_fd=folder).st_size == len(data)
        run("mv", other / "images" / "moved.png", box.images / "back.png")
        with pytest.raises(FileNotFoundError):
            os.stat("out.png", dir_fd=folder)
    finally:
        os.close(folder)
    assert not output.exists() and os.listdir(output.parent) == []
    assert json.loads((output.parent.parent / "generation.json").read_bytes())["outputs"][0]["digest"] == digest.hex()
    run("rm", "-r", other)
    assert counted(box.session) == (1, 1, 1)
    run("rm", box.images / "back.png")
    assert counted(box.session) == (0, 0, 0)
    run("mv", box.point / "trash" / box.title / "back.png", box.images)
    assert counted(box.session) == (1, 1, 1)
    assert os.getxattr(box.images / "back.png", "user.mixfs.prompt")


def view_date(top: Path, name: str) -> str:
    [path] = (top / "by-date").glob(f"*/*/{name}")
    return path.parent.name


def test_what_dot_mixfs_says_is_fresh_at_each_open_while_others_keep_it_open(box: Box):
    """`tail -f` and indexers keep such files open; a program that opens one sees what it says now."""
    status = box.point / ".mixfs"
    before = {}
    box.inbox.mkdir()
    # Bytes of their own: of a picture that another test brought in, nothing is reported any more.
    box.imported("first.png", damaged_png() + b"first")
    with (
        (status / "stats.json").open("rb") as kept, (status / "problems.jsonl").open("rb") as log,
        (status / "imported").open("rb") as waiting,
    ):  # fmt: skip
        for file in (kept, log, waiting):
            before[file] = file.read()
        box.imported("a.png", damaged_png() + b"second")
        # And by another process.
        for name, file in (("stats.json", kept), ("imported", waiting), ("problems.jsonl", log)):
            assert run("cat", status / name).stdout != before[file], name
            assert (status / name).read_bytes() != before[file], name
        log.seek(len(before[log]))
        assert log.read()
        box.library.store.problems.path.rename(box.library.root / "problems.jsonl.old")
        assert (status / "problems.jsonl").read_bytes() == b""


def test_an_export_into_the_mount_is_refused(box: Box, tmp_path: Path):
    box.inbox.mkdir()
    box.imported("a.png")
    (tmp_path / "link").symlink_to(box.point / "import")
    for place in (box.point / "import" / "out", tmp_path / "link" / "out"):
        for layout in ("folder", "workflow-package"):
            done = box.live.mixfs("export", box.title, place, "--format", layout, check=False)
            assert done.returncode == 4 and "inside the MixFS mount" in done.stderr
            assert not place.exists()
