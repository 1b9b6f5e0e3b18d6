"""What can be done to a library: names, trash and restoring."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixfs import Library
from mixfs.errors import NotFoundError
from mixfs.index import keys
from mixfs.index.dentries import scan_dentries
from mixfs.index.engine import prefix_end
from mixfs.library import documents, editing
from mixfs.library.ingest import Incoming, admit
from mixfs.library.transaction import Txn
from mixfs.media.samples import make_sample
from mixfs.names import with_counter
from mixfs.records import Edge, Entry, Generation, ImageRef, Placement, Record, Session, Trash

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
    in_order = [keys.key16(editing.generation_id_for(digest, session.id)) for digest in blobs]
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
    assert library.trash() == [deleted] and deleted.session_title == "Trip"
    library.restore(deleted.id)
    assert state(library, session.id) == before
    assert library.trash() == []
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
