"""lost/: where gc moves originals that nothing references, and the one module that takes originals away."""

from __future__ import annotations

import ast
import base64
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

import mixfs
from mixfs import Library
from mixfs.errors import BlobMissing, IndexDamaged, InvalidValue, LibraryIncomplete, NotFoundError
from mixfs.ids import Digest, generation_id_for
from mixfs.index import keys
from mixfs.library import editing, fsck, gc, healing, lost
from mixfs.library.fsck_report import Report
from mixfs.library.repairing import repair
from mixfs.library.store import Store
from mixfs.media.samples import make_sample
from mixfs.records import Annotation, Entry, Generation, ImageRef, Placement

DAY_NS = 86400 * 10**9


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        yield opened


def collect(library: Library, trash_days: float = -1) -> gc.Freed:
    """With no grace period; what is deleted expires at once, and so does what was in lost/ before."""
    return gc.collect(library, trash_days=trash_days, grace_hours=-1)


def files(library: Library, folder: str) -> set[str]:
    """The originals in blobs/ or lost/, by digest."""
    found = [path for path in (library.root / folder).rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.parent.name + path.name for path in found}


def checked(library: Library) -> Report:
    """What fsck says, which opens the library itself."""
    root = library.root
    library.close()
    try:
        return fsck.check(root)
    finally:
        library.__init__(root)  # type: ignore[misc]


def lose(library: Library, data: bytes, name: str, title: str = "Trip") -> Digest:
    """Import, delete and collect; returns the digest of what is in lost/ now."""
    session = library.create_session(title)
    placement = library.import_bytes(data, name, session_id=session.id)
    library.delete_session(session.id)
    gc.expire_trash(library, [trash.id for trash in library.trash()])
    gc.collect(library, grace_hours=-1)
    assert placement.digest.hex() in files(library, "lost")
    assert not library.has_blob(placement.digest)
    return placement.digest


def test_what_nothing_references_moves_to_lost_with_a_note(library: Library) -> None:
    session = library.create_session("Trip")
    name, data = make_sample("a1111")
    placement = library.import_bytes(data, name, session_id=session.id)
    library.annotate(placement.digest, tags=["sea"], rating=7)
    library.delete_session(session.id)
    inode = library.blobs.path(placement.digest).stat().st_ino
    began = time.time_ns()
    freed = collect(library)
    assert (freed.blobs, freed.bytes, freed.deleted) == (1, len(data), 0)
    path = library.root / "lost" / placement.digest.hex()[:2] / placement.digest.hex()[2:]
    assert path.read_bytes() == data and path.stat().st_ino == inode
    note = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert note["digest"] == placement.digest.hex() and note["size"] == len(data)
    assert note["media_type"] == "image/png" and note["width"] == 768
    assert note["tags"] == ["sea"] and note["rating"] == 7
    assert began <= note["moved_ns"] <= time.time_ns()
    assert [(each["session"], each["name"]) for each in note["names"]] == [("Trip", name)]
    kinds = {each["kind"] for each in note["records"]}
    assert kinds >= {"Placement", "Generation", "Trash", "Blob", "Image", "Metadata", "Annotation"}
    assert all(cbor2.loads(base64.b64decode(each["cbor"])) for each in note["records"])
    assert checked(library).clean


def test_it_is_deleted_when_it_has_been_there_as_long_as_in_the_trash(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = lose(library, b"original", "a.txt")
    assert gc.collect(library, grace_hours=-1) == gc.Freed()
    monkeypatch.setattr(time, "time_ns", lambda: time.clock_gettime_ns(time.CLOCK_REALTIME) + 29 * DAY_NS)
    library.store.steadiness.trust()
    assert gc.collect(library, grace_hours=-1) == gc.Freed()
    monkeypatch.setattr(time, "time_ns", lambda: time.clock_gettime_ns(time.CLOCK_REALTIME) + 31 * DAY_NS)
    library.store.steadiness.trust()
    assert gc.collect(library, grace_hours=-1, dry_run=True) == gc.Freed(deleted=1, deleted_bytes=8)
    assert digest.hex() in files(library, "lost")
    assert gc.collect(library, grace_hours=-1) == gc.Freed(deleted=1, deleted_bytes=8)
    assert not [path for path in (library.root / "lost").rglob("*") if path.is_file()]


def test_what_a_canvas_still_names_is_not_deleted_from_lost(library: Library) -> None:
    digest = lose(library, b"on a canvas", "a.txt")
    session = library.create_session("Canvas")
    library.put_entry(Entry(id="e", session_id=session.id, digest=digest))
    for _ in range(3):
        assert collect(library).deleted == 0
    assert files(library, "lost")
    library.delete_entry("e")
    for _ in range(3):
        collect(library)
    assert not files(library, "lost")


def test_without_a_note_it_counts_from_when_the_file_came_there(library: Library) -> None:
    digest = lose(library, b"original", "a.txt")
    note = library.blobs.removal.note_path(digest)
    for text in ("", "{", '{"moved_ns": "x", "names": 3}', '{"moved_ns": 5, "names": []}', None):
        if text is None:
            note.unlink()
        else:
            note.write_text(text)
        assert gc.collect(library, grace_hours=-1) == gc.Freed()
    assert digest.hex() in files(library, "lost")


@pytest.mark.parametrize("way", ["read", "import", "repair", "gc", "adopt"])
def test_an_original_that_is_referenced_comes_back(library: Library, way: str) -> None:
    """As if gc had been wrong, or somebody had put a journal from a backup in place."""
    session = library.create_session("Trip")
    placement = library.import_bytes(b"original", "a.txt", session_id=session.id)
    removal = library.blobs.removal
    assert removal.set_aside([placement.digest]) == [placement.digest]
    (problem,) = checked(library).problems
    assert problem.kind == "blob-missing" and "lost/" in problem.reason and "--repair" in problem.remedy
    if way == "read":
        assert library.read_image(placement.digest) == b"original"
    elif way == "import":
        assert library.import_bytes(b"original", "a.txt", session_id=session.id) == placement
    elif way == "gc":
        assert collect(library) == gc.Freed(returned=1)
    elif way == "adopt":
        assert lost.adopt(library) == lost.Adoption(returned=[placement.digest.hex()])
    else:
        root = library.root
        library.close()
        done, report = repair(root)
        assert report.clean and done.restored == [placement.digest.hex()] and not done.quarantined
        library.__init__(root)  # type: ignore[misc]
    assert library.has_blob(placement.digest) and not files(library, "lost")
    assert checked(library).clean


def test_a_library_that_may_only_be_read_serves_it_from_lost(library: Library) -> None:
    placement = library.import_bytes(b"original", "a.txt")
    library.blobs.removal.set_aside([placement.digest])
    with Library.open(library.root, read_only=True) as reading:
        reading.blobs.check(placement.digest)
    assert files(library, "lost") == {placement.digest.hex()}


def test_the_same_bytes_imported_again_are_simply_there(library: Library) -> None:
    digest = lose(library, make_sample("comfyui")[1], "a.png")
    placement = library.import_bytes(make_sample("comfyui")[1], "b.png")
    assert placement.digest == digest and not files(library, "lost")
    assert library.image(digest).problem is None and library.generations(placement.session_id)
    collect(library)
    assert not [path for path in (library.root / "lost").rglob("*") if path.is_file()], "a note that nobody needs"


def test_two_files_of_one_original_become_one_and_never_none(library: Library) -> None:
    digest = lose(library, b"original", "a.txt")
    removal = library.blobs.removal
    data = removal.lost_path(digest).read_bytes()
    placement = library.import_bytes(b"original", "a.txt")
    # As a power cut may leave it.
    removal.lost_path(digest).write_bytes(data)
    assert collect(library).returned == 1
    assert not files(library, "lost") and library.read_image(placement.digest) == b"original"
    # The one in blobs/ is damaged: the other one is not a duplicate.
    removal.lost_path(digest).write_bytes(data)
    library.blobs.path(digest).chmod(0o600)
    library.blobs.path(digest).write_bytes(b"Original")
    collect(library)
    assert files(library, "lost") == {digest.hex()}
    healing.quarantine_if_damaged(library, digest)
    assert library.read_image(digest) == b"original"


def test_other_bytes_in_the_place_in_lost_cost_neither_file(library: Library) -> None:
    placement = library.import_bytes(b"original", "a.txt")
    removal = library.blobs.removal
    there = removal.lost_path(placement.digest)
    there.parent.mkdir(parents=True)
    there.write_bytes(b"Original")
    assert removal.set_aside([placement.digest]) == []
    assert library.blobs.path(placement.digest).read_bytes() == b"original" and there.read_bytes() == b"Original"


@pytest.mark.parametrize("wrong", ["note", "file"])
def test_what_came_to_lost_in_days_to_come_counts_from_now(library: Library, wrong: str) -> None:
    digest = lose(library, b"original", "a.txt")
    removal = library.blobs.removal
    status = removal.lost_path(digest).stat()
    later_ns = time.time_ns() + 900 * DAY_NS
    if wrong == "note":
        note = json.loads(removal.note_path(digest).read_bytes())
        removal.write_notes({digest: json.dumps(note | {"moved_ns": later_ns}).encode()})
        lost.redate(removal, time.time_ns() + DAY_NS)
        assert lost.read_note(removal, digest).moved_ns < later_ns
    else:
        # No call sets a file's ctime: it is too late for a clock that was set back.
        def changed() -> bool:
            lost.redate(removal, status.st_ctime_ns - 1)
            return removal.lost_path(digest).stat().st_ctime_ns > status.st_ctime_ns

        # Within one tick of the kernel's clock it is the same.
        assert any(changed() for _ in range(1000))


def mentioned_in_a_canvas(library: Library, digest: Digest) -> None:
    session = library.create_session("Canvas")
    library.put_entry(Entry(id="e", session_id=session.id, digest=digest))


def mentioned_by_a_newer_version(library: Library, digest: Digest) -> None:
    library.commit(lambda txn: txn._change(77, "of a newer version", {1: "x", 2: [digest]}, 0))


@pytest.mark.parametrize("mention", [mentioned_in_a_canvas, mentioned_by_a_newer_version])
def test_what_a_record_mentions_is_not_deleted_from_lost(
    library: Library, monkeypatch: pytest.MonkeyPatch, mention: Callable[[Library, Digest], None]
) -> None:
    """Not even what was mentioned after gc had looked; of what only a newer version understands, until then."""
    digest = lose(library, b"original", "a.txt")
    if mention is mentioned_in_a_canvas:
        looked = gc._mentioned

        def late(*arguments: Any) -> set[Digest]:
            found = looked(*arguments)
            mention(library, digest)
            return found

        monkeypatch.setattr(gc, "_mentioned", late)
    else:
        mention(library, digest)
    assert collect(library).deleted == 0 and files(library, "lost") == {digest.hex()}


@pytest.mark.parametrize("step", ["_empty_lost", "_move"])
def test_a_gap_that_is_found_while_gc_works_stops_it(
    library: Library, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    lose(library, b"lost", "lost.txt")
    library.delete_placement(library.import_bytes(b"original", "a.txt").id)
    gc.expire_trash(library, [trash.id for trash in library.trash()])
    before = files(library, "blobs"), files(library, "lost")
    found: list[str] = []
    monkeypatch.setattr(Store, "gaps", lambda store: found)
    at = "lost" if step == "_empty_lost" else "_receipts_of"
    looked = getattr(gc, at)

    def late(*arguments: Any) -> Any:
        found.append("Segment 1 is missing.")
        return looked(*arguments)

    monkeypatch.setattr(gc, at, late)
    with pytest.raises(LibraryIncomplete):
        gc.collect(library, trash_days=30 if step == "_move" else -1, grace_hours=-1)
    assert (files(library, "blobs"), files(library, "lost")) == before


def test_a_reference_that_the_index_lacks_stops_gc(library: Library) -> None:
    kept = library.import_bytes(b"kept", "kept.txt")
    unnamed = library.import_bytes(b"unnamed", "unnamed.txt")
    library.delete_placement(unnamed.id)
    before = library.store.written_end()
    with library.store._engine.write() as txn:
        txn.delete(keys.refers(kept.digest, Placement.KIND, kept.id))
    with pytest.raises(IndexDamaged, match="rebuild-index"):
        collect(library, 30)
    assert library.store.written_end() == before and len(files(library, "blobs")) == 2
    library.store.rebuild_index()
    assert collect(library).blobs == 1 and files(library, "blobs") == {kept.digest.hex()}


def test_what_a_newer_version_references_stays(library: Library) -> None:
    placement = library.import_bytes(b"original", "a.txt")

    def write(txn: object) -> None:
        txn._change(77, "of a newer version", {1: "x", 2: [placement.digest]}, 0)  # type: ignore[attr-defined]

    library.commit(write)
    library.delete_placement(placement.id)
    for _ in range(2):
        assert collect(library).blobs == 0
    assert files(library, "blobs") == {placement.digest.hex()}


def test_an_incomplete_library_is_left_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(library, b"lost", "lost.txt")
    placement = library.import_bytes(b"original", "a.txt")
    library.delete_placement(placement.id)
    before = library.store.written_end(), files(library, "blobs"), files(library, "lost")
    monkeypatch.setattr(Store, "gaps", lambda store: ["Segment 1 is missing."], raising=False)
    for dry_run in (True, False):
        with pytest.raises(LibraryIncomplete, match="Segment 1 is missing"):
            gc.collect(library, trash_days=-1, grace_hours=-1, dry_run=dry_run)
    assert (library.store.written_end(), files(library, "blobs"), files(library, "lost")) == before


def test_adopting_gives_names_and_what_was_read_from_pictures(library: Library) -> None:
    name, data = make_sample("a1111")
    picture = lose(library, data, name)
    text, other = lose(library, b"one", "note.txt"), lose(library, b"two", "note.txt", "Other")
    unknown = lose(library, make_sample("comfyui")[1], "x.png")
    library.blobs.removal.note_path(unknown).write_text("{")
    done = lost.adopt(library)
    assert not done.failed and {each.digest for each in done.adopted} == {
        digest.hex() for digest in (picture, text, other, unknown)
    }
    session = library.find_session("Recovered")
    shown = {placement.digest: placement for placement in library.placements(session.id)}
    assert [shown[digest].name for digest in (picture, text, other, unknown)] == [
        name.encode(), b"note.txt", b"note.txt", f"{unknown.hex()[:16]}.png".encode()
    ]  # fmt: skip
    assert shown[picture].area == "images" and shown[text].area == "files"
    assert library.read_image(picture) == data
    assert any(each.prompt for each in library.generations(session.id))
    assert not [path for path in (library.root / "lost").rglob("*") if path.is_file()]
    assert lost.adopt(library) == lost.Adoption() and checked(library).clean


@pytest.mark.parametrize("way", ["adopt", "import"])
def test_what_no_file_says_comes_back_from_the_note(library: Library, way: str) -> None:
    """What a file beside the picture said, what an app made of it, and tags that the journal lost."""
    session = library.create_session("Trip")
    data = b"as good as a picture"
    placement = library.import_bytes(data, "a.png", session_id=session.id)
    digest = placement.digest
    output = ImageRef(digest=digest, name="a.png", role="output", placement_id=placement.id)
    beside = Generation(
        id=generation_id_for(digest, session.id), session_id=session.id, prompt="beside", outputs=(output,),
        foreign={"outputs": {"seed": 1}},
    )  # fmt: skip
    app = Generation(id="of an app", session_id=session.id, prompt="by an app", outputs=(output,), derived=False)
    library.commit(lambda txn: [txn.put(beside), txn.put(app)])
    library.commit(lambda txn: editing.annotate(txn, digest, tags=("sea",)))
    library.delete_session(session.id)
    gc.expire_trash(library, [trash.id for trash in library.trash()])
    gc.collect(library, grace_hours=-1)
    library.commit(lambda txn: txn.delete(Annotation, digest.hex()))
    note = library.blobs.removal.note_path(digest)
    if way == "adopt":
        lost.adopt(library)
    else:
        library.import_bytes(data, "b.png")
        gc.collect(library)
    (session,) = library.sessions()
    assert {each.prompt for each in library.generations(session.id)} == {"beside", "by an app"}
    with library.read() as view:
        annotation = view.annotation(digest)
    assert annotation is not None and annotation.tags == ("sea",)
    assert not note.exists() and checked(library).clean


def test_a_note_stays_while_the_bytes_are_nowhere(library: Library) -> None:
    digest = lose(library, b"original", "a.txt")
    removal = library.blobs.removal
    removal.lost_path(digest).unlink()
    gc.collect(library)
    lost.adopt(library)
    assert [each["name"] for each in lost.read_note(removal, digest).names] == ["a.txt"]
    library.import_bytes(b"original", "a.txt")
    gc.collect(library)
    assert not removal.note_path(digest).exists()


def test_names_outlive_a_compacted_journal(library: Library) -> None:
    digest = lose(library, b"original", "a.txt")
    removal = library.blobs.removal
    removal.bring_back(digest)
    # As after a compaction that keeps nothing.
    mentions = lost.Notes(library, [])
    mentions._known[digest] = lost._Known()
    with library.read() as view:
        note = json.loads(mentions.note(view, digest, 8, time.time_ns(), "again"))
    assert [each["name"] for each in note["names"]] == ["a.txt"]


# -- given up


def test_what_is_given_up_is_no_problem_until_it_comes_back(library: Library, tmp_path: Path) -> None:
    placement = library.import_bytes(b"original", "a.txt")
    digest = placement.digest
    with pytest.raises(InvalidValue, match="nothing to give up"):
        healing.give_up(library, digest)
    with pytest.raises(NotFoundError):
        healing.give_up(library, Digest(bytes(32)))
    library.blobs.path(digest).chmod(0o600)
    library.blobs.path(digest).write_bytes(b"Original")
    assert healing.give_up(library, digest) == ["Inbox/files/a.txt"]
    assert (library.root / "quarantine" / f"{digest.hex()}.blob").read_bytes() == b"Original"
    report = checked(library)
    assert report.clean and any("given up" in note for note in report.notes)
    with pytest.raises(BlobMissing, match="given up on 20"):
        library.read_image(digest)
    library.store.rebuild_index()
    assert checked(library).clean, "the journal has it"
    collect(library)
    assert library.placement(placement.id) == placement
    library.import_bytes(b"original", "again.txt")
    with library.read() as view:
        blob = view.blob(digest)
    assert blob is not None and not blob.given_up_ns and checked(library).notes == []
    # And a copy that fsck finds does the same.
    library.blobs.path(digest).unlink()
    healing.give_up(library, digest)
    (tmp_path / "copy").write_bytes(b"original")
    library.close()
    done, report = repair(library.root, [tmp_path / "copy"])
    assert done.restored == [digest.hex()] and report.clean and report.notes == []


# -- the one module


# What else is taken away by functions that know where originals are.
HARMLESS = {
    ("formats/dropped.py", "shutil.rmtree(area, ignore_errors=True)"): "a directory in staging/ of second names",
    ("library/exporting.py", "path.unlink()"): "the beginning of a file that an export could not write whole",
    ("library/repairing.py", "path.unlink(missing_ok=True)"): "a damaged thumbnail",
    ("library/thumbnails.py", "temporary.unlink()"): "a thumbnail in the making",
    ("library/thumbnails.py", "os.rename(temporary, target)"): "a thumbnail",
}
DESTRUCTIVE = {"unlink", "rename", "replace", "remove", "rmtree", "rmdir", "truncate", "ftruncate", "move", "renames"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls that may take a file away, by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DESTRUCTIVE:
            yield node.func.attr, node


def test_no_other_module_takes_an_original_away() -> None:
    """A function that can name an original's file, and takes a file away, is in mixfs/blobs/removal.py or nowhere."""
    package = Path(mixfs.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        if name == "blobs/removal.py":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.unparse(function)
            if not any(word in text for word in (".blobs.", "'blobs'", "blobs/", "LocalBlobs", "'lost'", "lost_path")):
                continue
            for what, call in calls(function):
                target = ast.unparse(call)
                if what in ("replace", "remove") and not target.startswith(("os.", "shutil.")):
                    continue  # of a text, a list, a listing
                if "thumbnails.path(" in target or ".removal." in target or (name, target) in HARMLESS:
                    continue
                found.append(f"mixfs/{name}:{call.lineno}: {target}")
    assert not found, "only mixfs/blobs/removal.py may take a file of blobs/ or lost/ away"


def test_whatever_is_done_originals_are_taken_away_by_that_module_alone(library: Library, tmp_path: Path) -> None:
    """Every call that takes a file of blobs/ or lost/ away is seen as it is made, with who makes it."""
    seen: list[tuple[str, str]] = []
    active = True
    ours = str(Path(mixfs.__file__).parent)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if not active or event not in ("os.remove", "os.rename", "os.truncate", "shutil.rmtree", "shutil.move"):
            return
        for argument in arguments[:2]:
            if isinstance(argument, str | bytes | os.PathLike):
                parts = Path(os.fsdecode(os.fspath(argument))).parts
                if {"blobs", "lost"} & {*parts} and str(library.root) in os.fsdecode(os.fspath(argument)):
                    frame = sys._getframe(1)
                    while frame.f_back and not frame.f_code.co_filename.startswith((ours, __file__)):
                        frame = frame.f_back
                    seen.append((event, os.path.relpath(frame.f_code.co_filename, ours)))

    sys.addaudithook(hook)
    try:
        digest = lose(library, b"original", "a.txt")
        lost.adopt(library)
        placement = library.import_bytes(b"damaged", "d.txt")
        library.blobs.path(placement.digest).chmod(0o600)
        library.blobs.path(placement.digest).write_bytes(b"Damaged")
        library.import_bytes(b"damaged", "d.txt")
        library.blobs.path(placement.digest).chmod(0o600)
        library.blobs.path(placement.digest).write_bytes(b"Damaged")
        healing.quarantine_if_damaged(library, placement.digest)
        healing.give_up(library, placement.digest)
        library.delete_session(library.find_session("Recovered").id)
        intake = library.staging.intake()
        intake.write(b"fsync failed", 0)
        library.blobs.receive(intake)
        library.blobs.receive(intake, anew=True)
        intake.discard()
        collect(library)
        assert collect(library).deleted >= 1 and not library.has_blob(digest)
    finally:
        active = False
    assert seen and {name for _, name in seen} == {"blobs/removal.py"}, seen
