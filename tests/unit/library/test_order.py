"""Last writer wins: the index depends on which changes there are, not on the order in which they come.

What does depend on it, and is left out of the comparison: `e` and `m` rows, the times of directories (`n`), the times
of sessions (`z`: a record that was moved away touches the session that it left only where that was seen) and with them
the revisions, not the sizes, of the sessions' documents.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import MOMENT, by_kind, uuid

from mixfs.ids import Digest, ReplicaId, Stamp
from mixfs.index import keys
from mixfs.index.dentries import scan_dentries
from mixfs.index.engine import WriteTxn
from mixfs.index.memory import MemoryEngine
from mixfs.index.seal import unseal
from mixfs.library.projections import Projector
from mixfs.library.view import View
from mixfs.library.wanted import import_directory, placement_place
from mixfs.records import KINDS, Annotation, Entry, Placement, Record, Session, field_keys, to_map

A, B = ReplicaId(b"replicaA"), ReplicaId(b"replicaB")


class Change(NamedTuple):
    kind: int
    entity_id: str
    stamp: Stamp
    replica: ReplicaId
    data: Any


def stamped(record: Any, base: Any, stamp: int, replica: bytes) -> Any:
    """What `Txn.put` makes of a record with stamps when `base` is what the replica holds."""
    stamps = dict(base.stamps) if base is not None else {}
    for name, key in field_keys(type(record)).items():
        if base is None or getattr(base, name) != getattr(record, name):
            stamps[key] = [stamp, replica]
    return dataclasses.replace(record, stamps=stamps)


@st.composite
def histories(draw: st.DrawFn, kinds: Any = None, size: int = 7) -> list[Change]:
    """Changes of two replicas; a change to a session or annotation starts from some version that there was before."""
    out: list[Change] = []
    versions: dict[tuple[int, str], list[Record]] = {}
    for n in range(draw(st.integers(2, size))):
        cls = draw(st.sampled_from(kinds or list(by_kind)))
        record = draw(by_kind[cls])
        stamp, replica = MOMENT + n // draw(st.sampled_from([1, 2])), draw(st.sampled_from([A, B]))
        if any((change.stamp, change.replica) == (stamp, replica) for change in out):
            stamp = MOMENT + 100 + n
        earlier = versions.setdefault((cls.KIND, record.entity_id), [])
        if draw(st.integers(0, 3)) == 0:
            out.append(Change(cls.KIND, record.entity_id, Stamp(stamp), replica, None))
            continue
        if cls.FIELD_STAMPS:
            base = draw(st.sampled_from([None, *(r for r in earlier if last_stamp(r) < (stamp, replica))]))
            if base is not None:
                changed = draw(st.sets(st.sampled_from(sorted(field_keys(cls)))))
                record = dataclasses.replace(base, **{name: getattr(record, name) for name in changed})
            record = stamped(record, base, stamp, replica)
            earlier.append(record)
        out.append(Change(cls.KIND, record.entity_id, Stamp(stamp), replica, to_map(record)))
    return out


def last_stamp(record: Any) -> tuple[int, bytes]:
    return max(tuple(stamp) for stamp in record.stamps.values())


def apply_each(txn: WriteTxn, changes: list[Change]) -> None:
    for change in changes:
        projector = Projector(txn)
        projector.apply(*change)
        projector.finish()


def rows(txn: WriteTxn) -> dict[bytes, bytes]:
    return dict(txn.scan(b"\0", b"\xff" * 9))


def comparable(found: dict[bytes, bytes]) -> dict[bytes, Any]:
    out: dict[bytes, Any] = {}
    for key, value in found.items():
        tag = key[:1]
        if tag in (b"e", b"m"):
            continue
        if tag == b"n":
            children = int.from_bytes(value[:8], "little")
            # The directories that every mount has keep a row once they had a child.
            if children or (key[1:2] != b"/" and key[1:] != import_directory(None)):
                out[key] = children
        elif tag == b"z":
            row = cbor2.loads(unseal(value))
            out[key] = [row[1:5], {name: size for name, (size, _) in row[5].items()}]
        else:
            out[key] = value
    return out


def replayed(changes: list[Change]) -> dict[bytes, bytes]:
    with MemoryEngine().write() as txn:
        apply_each(txn, changes)
        return rows(txn)


def assert_equal(one: dict[bytes, Any], two: dict[bytes, Any]) -> None:
    differing = {key: (one.get(key), two.get(key)) for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
    assert not differing


@settings(deadline=None, database=None, max_examples=250)
@given(st.data())
def test_changes_of_two_replicas_in_any_order_make_the_same_rows(data: st.DataObject) -> None:
    changes = data.draw(histories())
    first = comparable(replayed(changes))
    for _ in range(3):
        assert_equal(comparable(replayed(data.draw(st.permutations(changes)))), first)


@settings(deadline=None, database=None, max_examples=150)
@given(st.data())
def test_sessions_and_annotations_are_merged_field_by_field_in_any_order(data: st.DataObject) -> None:
    changes = data.draw(histories([Session, Annotation], 6))
    first = comparable(replayed(changes))
    for _ in range(3):
        assert_equal(comparable(replayed(data.draw(st.permutations(changes)))), first)


@settings(deadline=None, database=None, max_examples=100)
@given(histories([Placement, Entry, Session], 8), st.data())
def test_names_in_folders_don_t_depend_on_the_order(changes: list[Change], data: st.DataObject) -> None:
    first = comparable(replayed(changes))
    assert_equal(comparable(replayed(data.draw(st.permutations(changes)))), first)


@settings(deadline=None, database=None, max_examples=100)
@given(histories(), st.data())
def test_replaying_twice_changes_nothing(changes: list[Change], data: st.DataObject) -> None:
    with MemoryEngine().write() as txn:
        apply_each(txn, changes)
        before = rows(txn)
        apply_each(txn, changes[data.draw(st.integers(0, len(changes))) :])
        assert_equal(rows(txn), before)


@settings(deadline=None, database=None, max_examples=100)
@given(histories())
def test_many_changes_in_one_commit_make_the_same_rows(changes: list[Change]) -> None:
    with MemoryEngine().write() as txn:
        projector = Projector(txn)
        for change in changes:
            projector.apply(*change)
        projector.finish()
        assert_equal(comparable(rows(txn)), comparable(replayed(changes)))


def test_two_replicas_edits_of_different_fields_both_stay() -> None:
    made = stamped(Session(id="s", title="made", name=b"made", zoom=1.0), None, 10, A)
    titled = stamped(dataclasses.replace(made, title="A's", name=b"A"), made, 20, A)
    zoomed = stamped(dataclasses.replace(made, zoom=2.5), made, 21, B)
    for order in ((made, titled, zoomed), (made, zoomed, titled), (zoomed, titled, made)):
        with MemoryEngine().write() as txn:
            stamps = {id(made): (10, A), id(titled): (20, A), id(zoomed): (21, B)}
            apply_each(txn, [Change(1, "s", Stamp(stamps[id(r)][0]), stamps[id(r)][1], to_map(r)) for r in order])
            held = View(txn).get(Session, "s")
            assert held is not None and (held.title, held.zoom) == ("A's", 2.5)


def test_a_delete_in_between_does_not_make_the_merge_depend_on_the_order() -> None:
    made = stamped(Session(id="s", title="made", name=b"made", zoom=1.0), None, 10, A)
    titled = stamped(dataclasses.replace(made, title="A's"), made, 20, A)
    zoomed = stamped(dataclasses.replace(made, zoom=2.5), made, 40, B)
    changes = [Change(1, "s", Stamp(n), r, to_map(s)) for n, r, s in ((10, A, made), (20, A, titled), (40, B, zoomed))]
    changes.append(Change(1, "s", Stamp(30), A, None))
    for order in itertools.permutations(changes):
        with MemoryEngine().write() as txn:
            apply_each(txn, list(order))
            held = View(txn).get(Session, "s")
            assert held is not None and (held.title, held.zoom) == ("A's", 2.5)
            apply_each(txn, [Change(1, "s", Stamp(50), B, None)])
            assert View(txn).get(Session, "s") is None
            assert View(txn).stamp_of(1, "s") == (50, B)


def test_an_entry_s_time_is_its_own_whatever_else_its_commit_brought() -> None:
    """The commit's first change is merged into a newer version; that one's stamp is none of the entry's business."""
    made = stamped(Session(id="s", title="made", name=b"s"), None, 5, A)
    older = stamped(dataclasses.replace(made, user_id="someone"), made, 10, A)
    newer = stamped(dataclasses.replace(made, title="newer"), made, 90, B)
    entry = Change(Entry.KIND, "e", Stamp(11), A, to_map(Entry(id="e", session_id="s", type="text", text="x")))
    with MemoryEngine().write() as txn:
        apply_each(txn, [Change(1, "s", Stamp(90), B, to_map(newer))])
        projector = Projector(txn)
        assert projector.apply(1, "s", Stamp(10), A, to_map(older))
        projector.apply(*entry)
        projector.finish()
        (dentry,) = scan_dentries(txn, b"c" + keys.key16("s"))
        assert (dentry.mtime_ns, dentry.ctime_ns) == (11, 11)


def test_an_annotation_s_tags_and_rating_are_apart() -> None:
    digest = Digest(b"\1" * 32)
    made = stamped(Annotation(digest=digest), None, 10, A)
    tagged = stamped(dataclasses.replace(made, tags=("x",)), made, 20, A)
    rated = stamped(dataclasses.replace(made, rating=8), made, 15, B)
    with MemoryEngine().write() as txn:
        apply_each(txn, [
            Change(9, digest.hex(), Stamp(stamp), replica, to_map(annotation))
            for stamp, replica, annotation in ((10, A, made), (20, A, tagged), (15, B, rated))
        ])  # fmt: skip
        held = View(txn).annotation(digest)
        assert held is not None and (held.tags, held.rating) == (("x",), 8)


def test_a_session_deleted_before_its_members_leaves_no_rows_of_directories() -> None:
    """A delete of the session came in first; those of its placements later, or in the same commit."""
    session = Change(1, "s", Stamp(1), A, to_map(stamped(Session(id="s", name=b"s"), None, 1, A)))
    placed = Change(3, uuid(3, 0), Stamp(2), A, to_map(
        Placement(id=uuid(3, 0), session_id="s", digest=Digest(b"\1" * 32), name=b"a.png")
    ))  # fmt: skip
    gone, unplaced = Change(1, "s", Stamp(3), B, None), Change(3, uuid(3, 0), Stamp(4), B, None)
    with MemoryEngine().write() as txn:
        apply_each(txn, [session, placed, gone, unplaced])
        left = rows(txn)
    assert not [key for key in left if key[:1] in b"dzs" or key[:2] in (b"np", b"nS", b"nf", b"ng", b"nc")]
    assert not [key for key in left if key[:1] == b"c"]


def test_a_deleted_session_whose_placement_was_made_elsewhere_still_counts_it() -> None:
    session = Change(1, "s", Stamp(1), A, to_map(stamped(Session(id="s", name=b"s"), None, 1, A)))
    gone = Change(1, "s", Stamp(2), A, None)
    placed = Change(3, uuid(3, 0), Stamp(3), B, to_map(
        Placement(id=uuid(3, 0), session_id="s", digest=Digest(b"\1" * 32), name=b"a.png")
    ))  # fmt: skip
    one, two = replayed([session, gone, placed]), replayed([placed, gone, session])
    assert_equal(comparable(one), comparable(two))
    with MemoryEngine().write() as txn:
        apply_each(txn, [session, placed, gone])
        directory, _ = placement_place(Placement(id="", session_id="s", digest=Digest(b""), name=b""))
        assert [d.name for d in scan_dentries(txn, directory)] == [b"a.png"]
        assert cbor2.loads(txn.get(keys.counter("placements")) or b"\0") == 1


def test_a_kind_unknown_to_this_version_is_kept_and_the_newest_wins() -> None:
    kind = max(KINDS) + 7
    old, new = Change(kind, "x", Stamp(1), A, {1: "x", 2: "old"}), Change(kind, "x", Stamp(2), B, {1: "x", 2: [b"new"]})
    for order in ((old, new), (new, old)):
        found = replayed(list(order))
        assert cbor2.loads(found[keys.record(kind, "x")]) == [2, B, {1: "x", 2: [b"new"]}]


def test_what_two_replicas_did_at_the_same_instant_is_settled_by_their_ids() -> None:
    """The higher replica's version wins, put or delete, in any order; names go by the node's key."""

    def entry(replica: ReplicaId, text: str | None) -> Change:
        data = to_map(Entry(id="e", session_id="s", type="text", text=text)) if text is not None else None
        return Change(Entry.KIND, "e", Stamp(7), replica, data)

    made = stamped(Session(id="s", title="made", name=b"s"), None, 1, A)
    session = Change(1, "s", Stamp(1), A, to_map(made))
    back = Change(1, "s", Stamp(9), A, to_map(stamped(dataclasses.replace(made, title="back"), made, 9, A)))
    placed = [
        Change(3, uuid(3, n), Stamp(5), replica, to_map(
            Placement(id=uuid(3, n), session_id="s", digest=Digest(b"\1" * 32), name=b"a.png", named_ns=3)
        ))
        for n, replica in ((0, A), (1, B), (2, A))
    ]  # fmt: skip
    for changes in (
        [entry(A, "A's"), entry(B, "B's")],
        [entry(A, "A's"), entry(B, None)],
        [entry(A, None), entry(B, "B's")],
        [session, Change(1, "s", Stamp(9), A, None), Change(1, "s", Stamp(9), B, None), back],
        placed,
    ):
        first = comparable(replayed(changes))
        for order in itertools.permutations(changes):
            assert_equal(comparable(replayed(list(order))), first)
    with MemoryEngine().write() as txn:
        apply_each(txn, [entry(B, "B's"), entry(A, "A's")])
        held = View(txn).get(Entry, "e")
        assert held is not None and held.text == "B's"
        apply_each(txn, list(reversed(placed)))
        names = {d.name: d.key for d in scan_dentries(txn, b"p" + keys.key16("s"))}
        assert [names[name] for name in (b"a.png", b"a (2).png", b"a (3).png")] == [
            b"P" + keys.key16(uuid(3, n)) for n in range(3)
        ]
