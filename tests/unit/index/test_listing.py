"""Names given in a directory: always the pure function of who wants what, whatever came before."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixfs.index import keys
from mixfs.index.dentries import Changes, Dentry, Listing, get_directory_row, pack, scan_dentries, unpack
from mixfs.index.engine import WriteTxn
from mixfs.index.memory import MemoryEngine
from mixfs.names import family_base, with_counter

DIRECTORY = b"p" + b"\1" * 16
OTHER = b"p" + b"\2" * 16


class Wish(NamedTuple):
    """What one node wants."""

    wanted: bytes
    order: int
    size: int


def given_names(wishes: dict[bytes, Wish]) -> dict[bytes, bytes]:
    """The model: node key → name. Who came first takes what it wants; then the others take free numbers."""
    in_order = sorted(wishes, key=lambda key: (wishes[key].order, key))
    taken: dict[bytes, bytes] = {}
    for key in in_order:
        taken.setdefault(wishes[key].wanted, key)
    last: dict[bytes, int] = {}
    for key in in_order:
        if taken[wishes[key].wanted] == key:
            continue
        base = family_base(wishes[key].wanted)
        number = last.get(base, 1) + 1
        while with_counter(base, number) in taken:
            number += 1
        last[base] = number
        taken[with_counter(base, number)] = key
    return {key: name for name, key in taken.items()}


LONG = b"n" * 251 + b".png"
wanted_names = st.sampled_from(
    [b"a.png", b"a (2).png", b"a (3).png", b"a (4).png", b"a (2) (2).png", b"a (2) (3).png", b"a .png", b"a  (2).png",
     LONG, b"n" * 250 + b"m.png", b"n" * 239 + b".png", b"n" * 239 + b" (2).png", b"n" * 238 + b" (2).png",
     b"\x80" * 255, b"\x80" * 254 + b"\x81", b"b", b"b ", b"b  (2)", b"b\n"]
)  # fmt: skip
node_keys = st.integers(0, 5).map(lambda n: b"P" + bytes([n]) * 16)
operations = st.tuples(node_keys, st.none() | st.builds(Wish, wanted_names, st.integers(0, 4), st.integers(0, 1)))
commits = st.lists(st.lists(operations, max_size=5), max_size=8)


def apply(listing: Listing, wishes: dict[bytes, Wish], key: bytes, wish: Wish | None) -> None:
    held = wishes.get(key)
    if held is not None and (wish is None or wish.wanted != held.wanted):
        assert listing.remove(DIRECTORY, held.wanted, key)
        del wishes[key]
    if wish is not None:
        wishes[key] = wish
        listing.put(DIRECTORY, wish.wanted, key, mode=0o100644, size=wish.size, order=wish.order)


def rows(txn: WriteTxn) -> dict[bytes, bytes]:
    return dict(txn.scan(b"\0", b"\xff" * 9))


def from_scratch(wishes: dict[bytes, Wish]) -> dict[bytes, bytes]:
    with MemoryEngine().write() as txn:
        listing = Listing(txn, Changes())
        if wishes:
            listing.touch(DIRECTORY, 0)
        for key in sorted(wishes, key=lambda key: (wishes[key].order, key)):
            apply(listing, {}, key, wishes[key])
        return rows(txn)


A, B, C = (b"P" + bytes([n]) * 16 for n in range(3))


@settings(deadline=None, database=None, max_examples=400)
@given(commits)
@example([[(A, Wish(LONG, 0, 0)), (B, Wish(LONG, 1, 0))], [(A, None), (B, None)]])
@example([[(A, Wish(b"a.png", 0, 0))], [(B, Wish(b"a.png", 1, 0))], [(C, Wish(b"a.png", 2, 0))], [(B, None)],
          [(B, Wish(b"a.png", 3, 0))]])  # fmt: skip
@example([[(A, Wish(b"a.png", 0, 0)), (B, Wish(b"a.png", 1, 0)), (C, Wish(b"a.png", 2, 0))],
          [(A, None), (A, Wish(b"a.png", 3, 0)), (B, None)]])  # fmt: skip
@example([[(A, Wish(b"a.png", 0, 0)), (B, Wish(b"a.png", 1, 0)), (C, Wish(b"a (2) (2).png", 2, 0))],
          [(C, Wish(b"a (2) (2).png", 2, 1))]])  # fmt: skip
def test_names_are_a_pure_function_of_who_wants_what(commits: list[list[tuple[bytes, Wish | None]]]) -> None:
    wishes: dict[bytes, Wish] = {}
    with MemoryEngine().write() as txn:
        for operations in commits:
            # What a kernel remembers is compared below with what it was told to forget.
            before = {dentry.name: dentry.key for dentry in scan_dentries(txn, DIRECTORY)}
            changes = Changes()
            listing = Listing(txn, changes)
            for key, wish in operations:
                apply(listing, wishes, key, wish)
            listing.settle()
            model = given_names(wishes)
            listed = list(scan_dentries(txn, DIRECTORY))
            assert {dentry.key: dentry.name for dentry in listed} == model
            for dentry in listed:
                assert (dentry.wanted, dentry.order, dentry.size) == wishes[dentry.key]
            after = {dentry.name: dentry.key for dentry in listed}
            changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
            assert changed <= {name for _, name in changes.entries}
            row = get_directory_row(txn, DIRECTORY)
            assert (row.children if row else 0) == len(wishes)
        found = rows(txn)
        expected = from_scratch(wishes)
    if not wishes:
        found.pop(keys.directory_row(DIRECTORY), None)
    assert found == expected


def test_directories_don_t_share_names() -> None:
    with MemoryEngine().write() as txn:
        listing = Listing(txn, Changes())
        for directory, key in ((DIRECTORY, A), (OTHER, B)):
            assert listing.put(directory, b"a.png", key, mode=0o100644) == b"a.png"
        assert listing.remove(OTHER, b"a.png", A) is False
        assert [d.name for d in scan_dentries(txn, DIRECTORY)] == [b"a.png"]


@settings(deadline=None, database=None)
@given(
    st.builds(
        Dentry, wanted_names, st.binary(min_size=1, max_size=41), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1),
        st.integers(0, 2**63), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**63), 2**63 - 1), wanted_names, st.binary(max_size=60), st.just(1),
    )
)  # fmt: skip
def test_dentries_come_back_from_their_rows(dentry: Dentry) -> None:
    assert unpack(dentry.name, pack(dentry)) == dentry


def test_a_listing_is_in_name_order_and_goes_on_behind_a_name() -> None:
    names = [b"a", b"a\x01b", b"ab", b"b", b"\xff"]
    with MemoryEngine().write() as txn:
        listing = Listing(txn, Changes())
        for n, name in enumerate(reversed(names)):
            listing.put(DIRECTORY, name, b"P" + bytes([n]) * 16, mode=0)
        listing.put(OTHER, b"c", A, mode=0)
        assert [d.name for d in scan_dentries(txn, DIRECTORY)] == names
        for i, name in enumerate(names):
            assert [d.name for d in scan_dentries(txn, DIRECTORY, after=name)] == names[i + 1 :]
        assert [d.name for d in scan_dentries(txn, DIRECTORY, prefix=b"a")] == names[:3]
