"""What was read from a picture follows it, however it goes; what is deleted is shown nowhere and frees its space."""

from __future__ import annotations

import dataclasses
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mixfs import Library
from mixfs.formats import koda, outputs, storage_v2, workflow_package
from mixfs.ids import digest_from_hex, key16
from mixfs.index import keys
from mixfs.index.engine import prefix_end
from mixfs.library import derived_generations, editing, gc, restoring
from mixfs.library import view as view_module
from mixfs.library.catalogue import groups
from mixfs.library.derived_generations import is_derived
from mixfs.library.view import View
from mixfs.media.samples import png_bytes
from mixfs.records import Entry, Generation, ImageRef, Metadata, Placement, Session
from mixfs.vfs.export import export_session


def picture(n: int) -> bytes:
    """A picture of a model, prompt and seed of its own."""
    words = f"picture {n}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: {n}, Size: 8x8, Model: model {n}"
    return png_bytes(Image.new("RGB", (8, 8), (n % 256, n // 256, 99)), {"parameters": words})


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        yield opened


class Two:
    """Two sessions, A and B; a picture in A."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.a, self.b = (library.create_session(title).id for title in ("A", "B"))
        self.placed = library.import_bytes(picture(1), "one.png", session_id=self.a)

    def copy(self, title: str, name: str = "copy.png") -> Placement:
        return self.library.import_bytes(picture(1), name, session_id=getattr(self, title.lower()))

    def trash(self, **wanted: Any) -> str:
        (found,) = [each.id for each in self.library.trash() if all(getattr(each, k) == v for k, v in wanted.items())]
        return found

    def restore_to(self, session_id: str) -> None:
        trash_id = self.trash()
        self.library.commit(lambda txn: restoring.restore_to(txn, trash_id, 0, session_id, None, b"back.png"))


def moved_to_a_folder(two: Two) -> None:
    def write(txn: Any) -> None:
        folder = editing.ensure_folder(txn, two.a, None, b"deeper")
        editing.move_placement(txn, two.placed.id, two.a, folder, b"two.png")

    two.library.commit(write)


def overwritten(two: Two) -> None:
    other = two.library.import_bytes(picture(2), "two.png", session_id=two.b)
    two.library.delete_placement(other.id)
    fields = {"digest": other.digest, "size": other.size}
    two.library.commit(lambda txn: editing.overwrite_placement(txn, two.placed.id, **fields))


def exchanged(two: Two) -> None:
    other = two.library.import_bytes(picture(2), "two.png", session_id=two.b)

    def write(txn: Any) -> None:
        editing.move_placement(txn, two.placed.id, two.b, None, b"one.png")
        editing.move_placement(txn, other.id, two.a, None, b"two.png")

    two.library.commit(write)


def restored(two: Two, *ids: str) -> None:
    for trash_id in ids or [two.trash()]:
        two.library.restore(trash_id)


# What is done, and which pictures each session has then.
WAYS: dict[str, tuple[Callable[[Two], object], tuple[set[int], set[int]]]] = {
    "nothing": (lambda two: None, ({1}, set())),
    "a copy in another session": (lambda two: two.copy("B"), ({1}, {1})),
    "a copy in the same session": (lambda two: two.copy("A"), ({1}, set())),
    "moved": (lambda two: two.library.move_placement(two.placed.id, two.b), (set(), {1})),
    "moved to a folder": (moved_to_a_folder, ({1}, set())),
    "moved, and the first session deleted": (
        lambda two: (two.library.move_placement(two.placed.id, two.b), two.library.delete_session(two.a)),
        (set(), {1}),
    ),
    "moved to where a copy is": (
        lambda two: (two.copy("B"), two.library.move_placement(two.placed.id, two.b)), (set(), {1}),
    ),
    "exchanged": (exchanged, ({2}, {1})),
    "deleted": (lambda two: two.library.delete_placement(two.placed.id), (set(), set())),
    "one of two files deleted": (
        lambda two: (two.copy("A"), two.library.delete_placement(two.placed.id)), ({1}, set()),
    ),
    "a copy, then the first deleted": (
        lambda two: (two.copy("B"), two.library.delete_placement(two.placed.id)), (set(), {1}),
    ),
    "overwritten": (overwritten, ({2}, set())),
    "overwritten and brought back": (
        lambda two: (overwritten(two), restored(two, two.trash(reason="overwritten"))), ({1}, set()),
    ),
    "session deleted": (lambda two: two.library.delete_session(two.a), (set(), set())),
    "session deleted with a copy elsewhere": (
        lambda two: (two.copy("B"), two.library.delete_session(two.a)), (set(), {1}),
    ),
    "deleted and restored": (
        lambda two: (two.library.delete_placement(two.placed.id), restored(two)), ({1}, set()),
    ),
    "deleted and put elsewhere": (
        lambda two: (two.library.delete_placement(two.placed.id), two.restore_to(two.b)), (set(), {1}),
    ),
    "session deleted and restored": (
        lambda two: two.library.restore(two.library.delete_session(two.a).group), ({1}, set()),
    ),
    "deleted and imported again": (
        lambda two: (two.library.delete_placement(two.placed.id), two.copy("B")), (set(), {1}),
    ),
    "deleted, expired and imported again": (
        lambda two: (two.library.delete_placement(two.placed.id), collected(two.library), two.copy("B")),
        (set(), {1}),
    ),
}  # fmt: skip


def collected(library: Library) -> gc.Freed:
    return gc.collect(library, trash_days=-1, grace_hours=-1)


def known(library: Library, session_id: str) -> set[int]:
    """The pictures of a session, told by the seeds of what is known of them; as every way to look at it has it."""
    with library.read() as view:
        if view.get(Session, session_id) is None:
            assert list(view.members(Generation, session_id)) == []
            return set()
        generations = list(view.members(Generation, session_id))
        placements = list(view.members(Placement, session_id))
        seeds = {each.seed or 0 for each in generations}
        assert len(generations) == len(seeds) and len(seeds) == len({each.digest for each in placements})
        for placement in placements:
            about = view.about(placement)
            assert about is not None and about.generation in generations
            assert about.generation is not None and about.generation.prompt == f"picture {about.generation.seed}"
            assert about.generation.outputs[0].digest == placement.digest
        session = view.get(Session, session_id)
        assert session is not None
        said = json.loads(view.render_session_document(session, "session.json"))
        assert said["generations"] == len(generations)
        listed = json.loads(view.render_session_document(session, "generations.json"))["generations"]
        assert len(listed) == len(list(view.dentries(b"g" + key16(session_id)))) == len(generations)
        return seeds


def by_model(library: Library) -> set[str]:
    with library.read() as view:
        assert {group.name for group in groups(view, "model")} - {""} == models(view)
        return models(view)


def models(view: View) -> set[str]:
    from mixfs.library.wanted import view_key

    return {dentry.name.decode() for dentry in view.dentries(view_key(("by-model",)))}


def rows(library: Library) -> dict[bytes, bytes]:
    with library.read() as view:
        return {
            key: value
            for prefix in (b"r", b"d", b"s", b"i", b"w", b"c", b"n", b"x", b"y", b"z", b"l", b"a", b"o")
            for key, value in view.txn.scan(prefix, prefix_end(prefix))
        }


@pytest.mark.parametrize("way", WAYS)
def test_what_was_read_from_a_picture_follows_it(library: Library, way: str) -> None:
    do, (in_a, in_b) = WAYS[way]
    two = Two(library)
    do(two)
    assert (known(library, two.a), known(library, two.b)) == (in_a, in_b)
    assert by_model(library) == {f"model {n}" for n in in_a | in_b}
    collected(library)
    assert (known(library, two.a), known(library, two.b)) == (in_a, in_b)
    kept = {digest for digest, _ in library.blobs.enumerate()}
    with library.read() as view:
        assert kept == {each.digest for each in view.records(Placement)}
    before = rows(library)
    library.store.rebuild_index()
    assert rows(library) == before


ACTS = ("import", "import", "move", "move", "delete", "delete", "restore", "session", "gc", "back")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_in_whatever_order(library: Library, seed: int) -> None:
    """Against a model that knows only which picture lies where."""
    chance = random.Random(seed)
    sessions = [library.create_session(f"S{n}").id for n in range(3)]
    for _ in range(40):
        placements = [p for each in library.sessions() for p in library.placements(each.id)]
        trash = library.trash()
        living = [each.id for each in library.sessions()]
        act = chance.choice(ACTS)
        if act == "import" and living:
            n = chance.randrange(1, 6)
            library.import_bytes(picture(n), f"{chance.randrange(3)}.png", session_id=chance.choice(living))
        elif act == "move" and placements:
            library.move_placement(chance.choice(placements).id, chance.choice(living))
        elif act == "delete" and placements:
            library.delete_placement(chance.choice(placements).id)
        elif act == "restore" and trash:
            library.restore(chance.choice(trash).id)
        elif act == "session" and living and chance.random() < 0.5:
            library.delete_session(chance.choice(living))
        elif act == "back" and living and trash:
            each = chance.choice(trash)
            at = [n for n, kept in enumerate(each.records) if kept[0] == Placement.KIND]
            if at:
                target, name = chance.choice(living), b"%d.png" % chance.randrange(9)
                library.commit(lambda txn: restoring.restore_to(txn, each.id, at[0], target, None, name))  # noqa: B023
        elif act == "gc" and chance.random() < 0.3:
            collected(library)
        shown = {each for session_id in sessions for each in known(library, session_id)}
        assert by_model(library) == {f"model {n}" for n in shown}
    before = rows(library)
    library.store.rebuild_index()
    assert rows(library) == before


# -- two thousand generated, fifty kept


def bytes_below(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield data
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from (archive.read(name) for name in archive.namelist())


def test_forty_generated_and_two_kept(library: Library, tmp_path: Path) -> None:
    session = library.create_session("Trip")
    placed = [library.import_bytes(picture(n), f"{n}.png", session_id=session.id) for n in range(40)]
    run = Generation(
        id="an app's", session_id=session.id, prompt="of the app",
        inputs=(ImageRef(digest=placed[3].digest, name="in.png"),),
        outputs=tuple(ImageRef(digest=each.digest, name="out.png", placement_id=each.id) for each in placed[:4]),
    )  # fmt: skip
    library.put_generation(run)
    for n in (0, 3):
        library.put_entry(Entry(id=f"e{n}", session_id=session.id, digest=placed[n].digest, z=n))
    for each in placed[2:]:
        library.delete_placement(each.id)
    gone = {each.digest for each in placed[2:]}
    targets = {name: tmp_path / name for name in ("folder", "outputs", "koda", "storage-v2", "package")}
    targets["package"].mkdir()
    export_session(library, session.id, targets["folder"])
    outputs.write(library, [session.id], targets["outputs"])
    koda.write(library, [session.id], str(targets["koda"]))
    storage_v2.write(library, [session.id], targets["storage-v2"])
    workflow_package.write(library, session.id, targets["package"] / "a.zip")
    deleted = {picture(n) for n in range(2, 40)}
    for name, target in targets.items():
        found = set(bytes_below(target))
        assert not found & deleted, name
        assert {picture(0), picture(1)} <= found, name
    assert sorted(path.name for path in (targets["folder"] / "canvas").iterdir())[0].endswith(".json")
    said = json.loads((targets["folder"] / "session.json").read_bytes())
    assert (said["images"], said["generations"]) == (2, 3)
    # The app's own account stays, and says by their digests which pictures it was.
    (folder,) = [each for each in (targets["folder"] / "generations").iterdir() if "of the app" in each.name]
    assert sorted(path.name for path in (folder / "outputs").iterdir()) == ["out (2).png", "out.png"]
    assert list((folder / "inputs").iterdir()) == []
    told = json.loads((folder / "generation.json").read_bytes())
    assert {digest_from_hex(ref["digest"]) for ref in told["outputs"]} == {each.digest for each in placed[:4]}
    with library.read() as view:
        assert not any(is_derived(g) for digest in gone for g in view.generations_of(digest))
    size = sum(library.blobs.stat(digest) or 0 for digest in gone)
    assert gc.collect(library, grace_hours=-1) == gc.Freed()
    assert collected(library) == gc.Freed(trash=38, blobs=38, bytes=size)
    library.import_bytes(picture(3), "again.png", session_id=session.id)
    with library.read() as view:
        shown = {dentry.name: dentry.size for dentry in view.dentries(b"c" + key16(session.id))}
    assert shown == {f"image-{each.digest.hex()[:8]}.png".encode(): each.size for each in (placed[0], placed[3])}


def test_a_generation_that_somebody_changed_stays_and_shows_no_deleted_picture(library: Library) -> None:
    two = Two(library)
    (read,) = library.generations(two.a)
    assert is_derived(read)
    library.put_generation(read)
    assert is_derived(library.generations(two.a)[0])
    changed = library.put_generation(dataclasses.replace(read, prompt="better"))
    assert not is_derived(changed)
    moved = library.move_placement(two.placed.id, two.b)
    assert [each.prompt for each in library.generations(two.a)] == ["better"]
    assert [each.prompt for each in library.generations(two.b)] == ["better"]
    library.delete_placement(moved.id)
    assert collected(library).blobs == 1
    assert [each.id for each in library.generations(two.a)] == [read.id]
    assert library.generations(two.b) == []


def test_what_an_app_knew_of_a_picture_outlives_its_session(library: Library) -> None:
    two = Two(library)
    bare = png_bytes(Image.new("RGB", (8, 8), "teal"), {})
    here = library.import_bytes(bare, "bare.png", session_id=two.a)
    there = library.import_bytes(bare, "bare.png", session_id=two.b)
    library.put_generation(
        Generation(id="run", session_id=two.a, prompt="of the app", outputs=(ImageRef(digest=here.digest),))
    )
    library.delete_session(two.a)
    (kept,) = library.generations(two.b)
    assert kept.prompt == "of the app" and kept.outputs[0].placement_id == there.id
    collected(library)
    library.delete_placement(there.id)
    assert library.generations(two.b) == []
    restored(two)
    assert [each.prompt for each in library.generations(two.b)] == ["of the app"]


@pytest.mark.parametrize("piece", [200, 1])
def test_a_restored_session_has_what_its_app_knew_once(
    library: Library, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    two = Two(library)
    bare = png_bytes(Image.new("RGB", (8, 8), "teal"), {})
    here = library.import_bytes(bare, "bare.png", session_id=two.a)
    library.import_bytes(bare, "bare.png", session_id=two.b)
    library.put_generation(
        Generation(id="run", session_id=two.a, prompt="of the app", outputs=(ImageRef(digest=here.digest),))
    )
    before = library.generations(two.a)
    monkeypatch.setattr(editing, "PIECE", piece)
    library.restore(library.delete_session(two.a).group)
    assert library.generations(two.a) == before
    assert [each.prompt for each in library.generations(two.b)] == ["of the app"]


def test_what_an_app_knew_comes_out_of_the_trash_with_its_picture(library: Library) -> None:
    two = Two(library)
    bare = png_bytes(Image.new("RGB", (8, 8), "teal"), {})
    here = library.import_bytes(bare, "bare.png", session_id=two.a)
    library.put_generation(
        Generation(id="run", session_id=two.a, prompt="of the app", outputs=(ImageRef(digest=here.digest),))
    )
    library.delete_session(two.a)
    # Who imports it anew gets what the file says.
    other = library.import_bytes(bare, "bare.png", session_id=two.b)
    assert library.generations(two.b) == []
    library.delete_placement(other.id)
    trash_id = two.trash(reason="deleted")
    library.commit(lambda txn: restoring.restore_to(txn, trash_id, 0, two.b, None, b"back.png"))
    assert [each.prompt for each in library.generations(two.b)] == ["of the app"]


@pytest.mark.parametrize("way", ["expires", "is taken out"])
def test_what_leaves_the_trash_for_good_is_kept_by_other_sessions(library: Library, way: str) -> None:
    two = Two(library)
    bare = png_bytes(Image.new("RGB", (8, 8), "teal"), {})
    here = library.import_bytes(bare, "bare.png", session_id=two.a)
    library.import_bytes(bare, "bare.png", session_id=two.b)
    run = Generation(id="run", session_id=two.a, prompt="of the app", outputs=(ImageRef(digest=here.digest),))
    library.put_generation(run)

    def throw_away(txn: Any) -> str:
        return editing.trash(txn, [run], name=b"run", reason="deleted").id

    trash_id = library.commit(throw_away)
    if way == "expires":
        gc.expire_trash(library, [trash_id])
    else:
        library.commit(lambda txn: restoring.expunge(txn, trash_id, None))
    assert library.trash() == []
    assert [each.prompt for each in library.generations(two.b)] == ["of the app"]


def test_a_generation_that_lives_again_is_replaced_as_by_any_restore(library: Library) -> None:
    """As earlier versions have it: a picture and its generation in one record."""
    two = Two(library)
    run = Generation(
        id="run", session_id=two.a, prompt="older", outputs=(ImageRef(digest=two.placed.digest),), derived=False
    )
    library.put_generation(run)
    library.commit(lambda txn: editing.trash(txn, [two.placed, run], name=b"one.png", reason="deleted"))
    library.put_generation(dataclasses.replace(run, prompt="newer"))
    two.restore_to(two.a)
    with library.read() as view:
        living = view.get(Generation, "run")
    assert living is not None and living.prompt == "older"
    (kept,) = library.trash()
    assert kept.reason == "replaced by what was restored"
    assert [each.prompt for each in derived_generations.generations_in(kept)] == ["newer"]


def test_what_an_earlier_version_left_behind_is_put_right(library: Library) -> None:
    """It left the generation where the picture had been, and so kept the bytes of what was deleted."""
    two = Two(library)
    other = library.import_bytes(picture(2), "two.png", session_id=two.a)

    def as_before(txn: Any) -> None:
        txn.put(dataclasses.replace(two.placed, session_id=two.b))
        txn.delete(Placement, other.id)
        txn.settle = lambda: None

    library.commit(as_before)
    assert len(library.generations(two.a)) == 2
    collected(library)
    assert (known(library, two.a), known(library, two.b)) == (set(), {1})
    with library.read() as view:
        assert not view.is_placed(other.digest) and view.blob(other.digest) is None
        assert view.get(Metadata, other.digest.hex()) is None


@pytest.mark.parametrize("way", ["inputs", "outputs"])
def test_what_a_commit_costs_does_not_grow_with_the_generations_of_a_picture(
    library: Library, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    two = Two(library)
    read = 0
    decode = View._decode

    def counted(*args: Any) -> Any:
        nonlocal read
        read += 1
        return decode(*args)

    monkeypatch.setattr(View, "_decode", counted)

    def put(n: int) -> int:
        nonlocal read
        ref = ImageRef(digest=two.placed.digest, name="in.png")
        refs: dict[str, Any] = {way: (ref,)}
        library.put_generation(Generation(id=f"run {n}", session_id=two.b, prompt=f"run {n}", **refs))
        done, read = read, 0
        return done

    monkeypatch.setattr(view_module, "MOST_TOLD", 4)
    counts = [put(n) for n in range(40)]
    assert max(counts) < 40
    library.annotate(two.placed.digest, rating=5)
    annotated, read = read, 0
    assert annotated < 40
    with library.read() as view:
        kind = {"inputs": keys.TAKES, "outputs": keys.GIVES}[way]
        assert sum(1 for _ in view.named_in(two.placed.digest, kind)) == 40 + (way == "outputs")
        # Its own is told nevertheless.
        about = view.about(two.placed)
        assert about is not None and about.generation is not None and about.generation.session_id == two.a
