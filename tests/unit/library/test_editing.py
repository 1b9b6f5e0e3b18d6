"""What can be done to a library: names, trash and restoring."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixfs import Library
from mixfs.errors import NotFoundError
from mixfs.ids import generation_id_for
from mixfs.index import keys
from mixfs.index.dentries import scan_dentries
from mixfs.index.engine import prefix_end
from mixfs.library import documents, editing, fsck, pieces, restoring, trashed
from mixfs.library.derived_generations import is_derived
from mixfs.library.ingest import Incoming, admit
from mixfs.library.transaction import Txn
from mixfs.media.samples import make_sample
from mixfs.names import with_counter
from mixfs.records import Edge, Entry, Folder, Generation, ImageRef, Placement, Record, Session, Trash

MAP = 1 << 22


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library", map_size=MAP) as library:
        yield library


def names(library: Library, session_id: str) -> list[bytes]:
    return sorted(placement.name for placement in library.placements(session_id))


def test_other_bytes_under_a_taken_name_take_the_next_number_of_its_family(library: Library) -> None:
    session = library.create_session("s")
    wanted = ["a (2).txt", "a (2).txt", "a.txt", "a.txt", "a (2).txt", "b (1).txt", "b (1).txt", ".txt (2)", ".txt (2)"]
    for n, name in enumerate(wanted):
        library.import_bytes(b"%d" % n, name, session_id=session.id)
    assert names(library, session.id) == sorted(
        [b"a (2).txt", b"a (3).txt", b"a.txt", b"a (4).txt", b"a (5).txt", b"b (1).txt", b"b (1) (2).txt",
         b".txt (2)", b".txt (3)"]
    )  # fmt: skip
    long = "n" * 251 + ".txt"
    for n in range(12):
        library.import_bytes(b"long %d" % n, long, session_id=session.id)
    found = {name for name in names(library, session.id) if name.startswith(b"nn")}
    assert len(found) == 12 and all(len(name) <= 255 for name in found)


def test_sessions_of_one_title_are_numbered_in_one_row(library: Library) -> None:
    made = [library.create_session(title).name for title in ("Trip (2)", "Trip (2)", "Trip", "Trip")]
    assert made == [b"Trip (2)", b"Trip (3)", b"Trip", b"Trip (4)"]


def test_generations_of_one_prompt_and_second_are_numbered_as_they_came(library: Library) -> None:
    """Also those of one commit, which a folder copied in makes: their ids follow from the digests, in no order."""
    session = library.create_session("s")
    image = make_sample("a1111")[1]
    blobs = [library.import_bytes(image + bytes([n]), f"{n}.png", mtime_ns=10**18).digest for n in range(12)]

    def write(txn: Txn) -> None:
        for n, digest in enumerate(blobs):
            incoming = Incoming(digest=digest, size=len(image) + 1, name=b"%d.png" % n, mtime_ns=10**18)
            admit(txn, incoming, session.id, None, library.has_blob)

    library.commit(write)
    with library.read() as view:
        found = {dentry.name: dentry.key[1:] for dentry in view.dentries(b"g" + keys.key16(session.id))}
    in_order = [keys.key16(generation_id_for(digest, session.id)) for digest in blobs]
    (first,) = [name for name in found if not name.endswith(b")")]
    assert [found[with_counter(first, n + 1)] for n in range(12)] == in_order


# -- the trash


def filled(library: Library) -> Session:
    """A session with all that a session can have, two of one name among it."""
    session = library.create_session("Trip", user_name="Ada", user_id="u1")
    library.update_session(session.id, zoom=1.5, pan_x=3.0, pan_y=-4.0)
    placements = []
    for kind in ("a1111", "comfyui"):
        name, data = make_sample(kind)
        placements.append(library.import_bytes(data, name, session_id=session.id, mtime_ns=1_600_000_000 * 10**9))
    library.import_bytes(b"remember the light", "notes.txt", session_id=session.id, role="reference")

    def deeper(txn: Txn) -> None:
        inner = editing.ensure_path(txn, session.id, [b"outer", b"inner"])
        editing.move_placement(txn, placements[1].id, session.id, inner, b"moved.png")
        for n in range(2):
            # As two replicas would: both claim the name.
            txn.put(dataclasses.replace(placements[0], id=f"twin {n}", name=b"twin.png", named_ns=n + 1))

    library.commit(deeper)
    library.annotate(placements[0].digest, tags=["sea", "night"], rating=8, comment="the best")
    for n in range(3):
        digest = placements[0].digest if n == 0 else None
        library.put_entry(
            Entry(id=f"e{n}", session_id=session.id, type="text" if n else "image", text=f"t{n}", x=n, z=-n,
                  digest=digest, data={"color": ["red", n]}, unknown={99: "later"})
        )  # fmt: skip
    library.put_edge(Edge(id="edge", session_id=session.id, source="e0", target="e1", data={"label": "to"}))
    library.put_generation(
        Generation(id="g", session_id=session.id, time_ns=5 * 10**18 // 4, prompt="a cat", seed=2**63,
                   outputs=(ImageRef(digest=placements[0].digest, name="a.png"),), loras=(["detail", 0.5],))
    )  # fmt: skip
    return library.session(session.id)


def state(library: Library, session_id: str) -> dict[str, Any]:
    """All that is shown of a session: records, listings, documents."""
    with library.read() as view:
        session = view.get(Session, session_id)
        assert session is not None
        out: dict[str, Any] = {"session": dataclasses.replace(session, stamps={})}
        for cls in (Placement, Entry, Edge, Generation):
            out[cls.__name__] = list(view.members(cls, session_id))
        directories = {key[1:18] for key, _ in view.txn.scan(b"d", prefix_end(b"d"))}
        out["listed"] = sorted(
            (dentry.name, dentry.key, dentry.ino, dentry.mode, dentry.size, dentry.mtime_ns, dentry.extra)
            for directory in directories if directory[:1] in (b"p", b"f", b"g", b"J")
            for dentry in scan_dentries(view.txn, directory)
        )  # fmt: skip
        out["annotations"] = [view.annotation(placement.digest) for placement in out["Placement"]]
        row = view.session_row(session_id)
        out["sums"] = (row.counts, row.entries, row.edges, row.generations)
        for name in ("session.json", "canvas.json", "generations.json"):
            text = view.render_session_document(session, name).decode()
            out[name] = [line for line in text.splitlines() if "updated_at" not in line]
    return out


def test_a_whole_session_comes_back_as_it_was(library: Library) -> None:
    session = filled(library)
    before = state(library, session.id)
    deleted = library.delete_session(session.id)
    with pytest.raises(NotFoundError):
        library.session(session.id)
    (deletion,) = library.deletions()
    assert deletion.head == deleted and deleted.session_title == "Trip" and deletion.items == len(library.trash())
    assert max(len(item.records) for item in library.trash() if item.digest is not None) <= 2
    library.restore(deleted.id)
    assert state(library, session.id) == before
    assert library.trash() == library.deletions() == []
    with pytest.raises(NotFoundError):
        library.restore(deleted.id)
    # And once more, from the journal alone.
    library.store.rebuild_index()
    assert state(library, session.id) == before


def test_a_session_whose_name_was_taken_meanwhile_takes_another(library: Library) -> None:
    session = filled(library)
    before = state(library, session.id)
    deleted = library.delete_session(session.id)
    other = library.create_session("Trip")
    library.restore(deleted.id)
    after = state(library, session.id)
    assert after["session"] == dataclasses.replace(before["session"], name=b"Trip (2)")
    assert {key: after[key] for key in ("Placement", "Entry", "Edge", "Generation", "listed", "sums")} == {
        key: before[key] for key in ("Placement", "Entry", "Edge", "Generation", "listed", "sums")
    }
    assert library.session(other.id).name == b"Trip"


def test_a_placement_comes_back_under_its_name_or_the_next(library: Library) -> None:
    session = filled(library)
    before = state(library, session.id)
    # When one twin goes, the other takes its name: that is then taken.
    for placement in (placement for placement in library.placements(session.id) if placement.name != b"twin.png"):
        library.restore(library.delete_placement(placement.id).id)
        assert state(library, session.id) == before, placement.name
    (notes,) = (placement for placement in library.placements(session.id) if placement.name == b"notes.txt")
    deleted = library.delete_placement(notes.id)
    library.import_bytes(b"others", "notes.txt", session_id=session.id)
    (restored,) = library.restore(deleted.id)
    assert isinstance(restored, Placement)
    assert restored == dataclasses.replace(notes, name=b"notes (2).txt", named_ns=restored.named_ns)


def test_a_placement_whose_folder_and_session_are_gone_brings_them_back(library: Library) -> None:
    session = filled(library)
    before = state(library, session.id)
    (moved,) = (placement for placement in library.placements(session.id) if placement.name == b"moved.png")
    deleted = library.delete_placement(moved.id)
    assert moved.folder_id is not None

    def remove_folders(txn: Txn) -> None:
        folder_id = moved.folder_id
        while folder_id is not None:
            folder = txn.get(editing.Folder, folder_id)
            assert folder is not None
            editing.delete_folder(txn, folder)
            folder_id = folder.parent_id

    library.commit(remove_folders)
    whole = library.delete_session(session.id)
    library.restore(deleted.id)
    assert library.placements(session.id) == [moved]
    assert dataclasses.replace(library.session(session.id), stamps={}) == before["session"]
    library.restore(whole.id)
    after = state(library, session.id)
    assert {key: after[key] for key in after if key != "listed"} == {
        key: before[key] for key in before if key != "listed"
    }
    assert [row[:2] for row in after["listed"]] == [row[:2] for row in before["listed"]]


def test_older_bytes_of_an_overwritten_placement_come_back_and_the_newer_go_to_the_trash(library: Library) -> None:
    session = library.create_session("s")
    first = library.import_bytes(b"first", "a.txt", session_id=session.id, mtime_ns=5)
    other = library.import_bytes(b"second", "b.txt", session_id=session.id)

    def overwrite(txn: Txn) -> Placement:
        incoming = Incoming(digest=other.digest, size=6, name=b"a.txt", mtime_ns=7)
        return admit(txn, incoming, session.id, None, library.has_blob, replaces=first.id)[0]

    second = library.commit(overwrite)
    (kept,) = library.trash()
    assert kept.reason == "overwritten" and library.placement(first.id) == second
    assert library.restore(kept.id) == [first]
    assert library.read_image(library.placement(first.id).digest) == b"first"
    (newer,) = library.trash()
    assert library.restore(newer.id) == [second]
    assert library.placement(first.id) == second and library.read_image(second.digest) == b"second"


@pytest.mark.parametrize("what", ["entry", "edge", "generation"])
def test_entries_edges_and_generations_come_back(library: Library, what: str) -> None:
    session = filled(library)
    before = state(library, session.id)
    {"entry": lambda: library.delete_entry("e0"), "edge": lambda: library.delete_edge("edge"),
     "generation": lambda: library.delete_generation("g")}[what]()  # fmt: skip
    assert state(library, session.id) != before
    (kept,) = library.trash()
    library.restore(kept.id)
    assert state(library, session.id) == before


def test_canvas_entries_that_a_saved_document_left_out_come_back(library: Library) -> None:
    session = filled(library)
    before = state(library, session.id)
    library.commit(lambda txn: editing.replace_canvas(txn, session.id, {}, {}))
    assert library.entries(session.id) == [] and library.edges(session.id) == []
    (kept,) = library.trash()
    library.restore(kept.id)
    assert state(library, session.id) == before


def test_what_lives_under_the_same_id_by_now_goes_to_the_trash_in_turn(library: Library) -> None:
    session = library.create_session("s")
    old = library.put_entry(Entry(id="e", session_id=session.id, type="text", text="old"))
    library.delete_entry("e")
    library.put_entry(Entry(id="e", session_id=session.id, type="text", text="new"))
    (kept,) = library.trash()
    assert library.restore(kept.id) == [old]
    (replaced,) = library.trash()
    library.restore(replaced.id)
    assert [entry.text for entry in library.entries(session.id)] == ["new"]


def test_a_session_of_which_only_the_title_is_known_is_made_again(library: Library) -> None:
    session = library.create_session("Trip")
    placement = library.import_bytes(b"x", "a.txt", session_id=session.id)
    deleted = library.delete_placement(placement.id)
    gone = library.delete_session(session.id)
    library.commit(lambda txn: txn.delete(Trash, gone.id))
    restored: list[Record] = library.restore(deleted.id)
    assert restored == [placement] and library.session(session.id).title == "Trip"
    assert documents.text_of(library.session(session.id).name) == "Trip"


# -- deletions in pieces


def crowded(library: Library, pictures: int) -> Session:
    """A session with more in it than one commit moves."""
    session = filled(library)
    (first, *_) = library.placements(session.id)

    def write(txn: Txn) -> None:
        for n in range(pictures):
            txn.put(dataclasses.replace(first, id=f"copy {n}", name=b"%d.png" % n, named_ns=txn.now_ns))
            txn.put(Entry(id=f"more {n}", session_id=session.id, type="text", text=f"more {n}"))

    library.commit(write)
    return session


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "PIECE", 7)
    monkeypatch.setattr(pieces, "LARGEST", 7)
    monkeypatch.setattr(pieces, "SMALLEST", 7)
    monkeypatch.setattr(editing, "PAGE_RECORDS", 4)


def held_back(library: Library, function: Any) -> Any:
    """The first piece of a change only, as a kill leaves it."""
    return library.store.commit(function)


@pytest.mark.usefixtures("small_pieces")
def test_a_large_session_goes_and_comes_back_in_pieces_and_others_write_between_them(library: Library) -> None:
    session = crowded(library, 20)
    before = state(library, session.id)
    kept = library.create_session("Others")
    commits: list[int] = []

    def others() -> None:
        """After each piece, as from another thread."""
        if len(commits) % 2 == 0:
            commits.append(0)
            assert "Trip" not in [each.title for each in library.sessions()] or restoring_now
            library.commit(lambda txn: editing.retitle_session(txn, kept.id, f"Others {len(commits)}"))
        commits.append(1)

    restoring_now = False
    library.store.on_commit(others)
    head = library.delete_session(session.id)
    assert len(commits) > 10
    with library.read() as view:
        assert view.unfinished_deletions() == [] and next(view.members(Placement, session.id), None) is None
    assert [each.id for each in library.deletions()] == [head.group]
    assert all(len(item.records) <= 4 for item in library.trash())
    restoring_now = True
    assert len(library.restore(head.group)) == library_records(before)
    assert state(library, session.id) == before and library.trash() == []


def library_records(before: dict[str, Any]) -> int:
    """How many records the trash holds of a session of `filled`: two folders and itself besides what is listed.

    What was read from pictures comes and goes with them.
    """
    read = sum(1 for each in before["Generation"] if is_derived(each))
    return 3 - read + sum(len(before[cls.__name__]) for cls in (Placement, Entry, Edge, Generation))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("stopped", ["deleting", "restoring"])
def test_what_a_kill_left_half_done_is_finished_at_the_next_opening(library: Library, stopped: str) -> None:
    session = crowded(library, 20)
    before = state(library, session.id)
    if stopped == "restoring":
        head = library.delete_session(session.id)
        held_back(library, lambda txn: restoring.restore_deletion(txn, head.group, set(), 7))
        assert library.session(session.id).title == "Trip"
    else:
        head = held_back(library, lambda txn: editing.delete_session(txn, session.id))
        with pytest.raises(NotFoundError):
            library.session(session.id)
    (deletion,) = library.deletions()
    assert deletion.head.pending and deletion.id == head.group
    root = library.root
    library.close()
    found = fsck.check(root)
    assert not found.problems, found.problems
    with Library.open(root, map_size=MAP) as again:
        if stopped == "deleting":
            (deletion,) = again.deletions()
            assert not deletion.head.pending
            with again.read() as view:
                assert next(view.members(Placement, session.id), None) is None
            again.restore(head.group)
        assert state(again, session.id) == before and again.deletions() == []
        again.store.rebuild_index()
        assert state(again, session.id) == before


@pytest.mark.usefixtures("small_pieces")
def test_a_deletion_that_is_half_done_can_be_taken_back(library: Library) -> None:
    session = crowded(library, 20)
    before = state(library, session.id)
    held_back(library, lambda txn: editing.delete_session(txn, session.id))
    restored = library.restore_session("Trip")
    assert restored.id == session.id
    assert state(library, session.id) == before and library.trash() == []
    with library.read() as view:
        assert view.unfinished_deletions() == []


@pytest.mark.usefixtures("small_pieces")
def test_what_comes_back_while_its_session_is_being_deleted_stays(library: Library) -> None:
    session = crowded(library, 20)
    held_back(library, lambda txn: editing.delete_session(txn, session.id))
    (item, *_) = (item for item in library.trash() if item.digest is not None)
    (placement,) = library.restore(item.id)
    assert library.placements(session.id) != [placement]
    pieces.finish_all(library)
    assert library.placements(session.id) == [placement]


def test_a_session_comes_back_with_what_its_deletion_took_and_no_more(library: Library) -> None:
    session = filled(library)
    (notes,) = (placement for placement in library.placements(session.id) if placement.name == b"notes.txt")
    library.delete_placement(notes.id)
    before = state(library, session.id)
    library.delete_session(session.id)
    assert len(library.deletions()) == 2
    library.restore_session("Trip")
    assert state(library, session.id) == before
    assert [deletion.head.name for deletion in library.deletions()] == [b"notes.txt"]


def test_a_session_in_one_trash_record_comes_back_whole_or_by_the_piece(library: Library) -> None:
    """As older libraries have it: all records of a session in one, with no group."""
    session = filled(library)
    before = state(library, session.id)

    def as_before(txn: Txn) -> Trash:
        members: list[Record] = [txn.get(Session, session.id)]  # type: ignore[list-item]
        for cls in (Folder, Placement, Entry, Edge, Generation):
            members += txn.members(cls, session.id)
        old = editing.trash(txn, members, session=session, name=session.name, reason="session deleted")
        return txn.put(dataclasses.replace(old, group_id=None))

    old = library.commit(as_before)
    assert [deletion.records for deletion in library.deletions()] == [len(old.records)]
    library.restore(old.id)
    assert state(library, session.id) == before
    old = library.commit(as_before)
    library.restore_session("Trip")
    assert state(library, session.id) == before and library.trash() == []
    old = library.commit(as_before)
    with library.read() as view:
        folder, title = trashed.trash_folder(old)
        (shown,) = (dentry for dentry in view.dentries(folder) if dentry.name == b"notes.txt")
    library.restore_shown(documents.text_of(title), "notes.txt")
    assert names(library, session.id) == [b"notes.txt"]
    library.delete_session(session.id)
    library.restore_session(session.id)
    assert names(library, session.id) == [b"notes.txt"] and shown.size == 18
