"""File names: safe, short enough, told apart, and their inverses."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixfs.names import (
    MAX_NAME,
    cut,
    derived_name,
    family_base,
    family_prefix,
    is_temporary,
    safe_name,
    split_counter,
    split_extension,
    underived_prefix,
    with_counter,
)

relaxed = settings(deadline=None, database=None, max_examples=300)

# Names as they come: short ones of the characters that matter, long ones, ones that are no UTF-8.
_parts = st.sampled_from(
    [b"a", b"B.", b".png", b".tar", b".gz", b" ", b" (2)", b" (3)", b" (10)", b"(", b")", b"(2)", b" (1)", b" (02)",
     b"\n", b"~", b"-", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xe2\x80\x94", b"\x80\x80\x80\x80", b"x" * 60, b"\xff" * 40,
     "é".encode() * 40, b" (999999999)", b"y" * 238, b"\x80" * 243]
)  # fmt: skip
names = (st.lists(_parts, min_size=1, max_size=6).map(b"".join) | st.binary(min_size=1, max_size=300)).map(
    lambda name: name.replace(b"/", b"").replace(b"\0", b"")[:MAX_NAME] or b"a"
)


@relaxed
@given(names, st.integers(0, 300))
def test_cut_is_the_longest_prefix_at_a_character_s_end(name: bytes, limit: int) -> None:
    short = cut(name, limit)
    assert name.startswith(short) and len(short) <= limit
    assert len(short) >= min(len(name), limit) - 3
    if len(name) <= limit:
        assert short == name


@relaxed
@given(st.text(max_size=150), st.integers(0, 260))
def test_cut_leaves_utf_8(text: str, limit: int) -> None:
    name = text.encode("utf-8", "ignore")
    short = cut(name, limit)
    text_cut = short.decode()
    assert len(short) + len(name.decode()[len(text_cut) :][:1].encode()) > limit or short == name


BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u180e"
nasty = st.text(
    st.sampled_from("/\\.\0\n\t\r\x1b\x7f \u3000\xa0\x85\ud800\udc80\ue000\u0378e\u0301é😀ab" + BIDI + ZERO_WIDTH)
)


@relaxed
@given(st.text(max_size=400) | nasty, st.sampled_from([255, 80, 60, 10]))
@example("a" * 254 + "é", 255)
@example("..", 255)
@example(". .hidden", 255)
@example("e\u0301" * 200, 255)
def test_safe_names_are_safe(text: str, limit: int) -> None:
    name = safe_name(text, "untitled", limit)
    shown = name.decode("utf-8")
    assert 0 < len(name) <= limit
    assert name not in (b".", b"..")
    assert "/" not in shown and not shown.startswith(".") and shown == shown.strip()
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in shown)
    assert not set(shown) & set(BIDI + ZERO_WIDTH)
    assert safe_name(shown, "untitled", limit) == name


def test_ordinary_titles_stay_as_they_are() -> None:
    for title in ("My Creative Project", "Größe – 2", "猫の写真", "a (2).png", "50% & more; \"quoted\""):
        assert safe_name(title) == title.encode()
    assert safe_name("a/b\\c") == b"a-b-c"
    assert safe_name("\u200b \n") == b"untitled"


@relaxed
@given(names)
def test_split_counter_is_undone_by_with_counter(name: bytes) -> None:
    base, n = split_counter(name)
    assert with_counter(base, n) == name


@relaxed
@given(names, st.integers(2, 999_999_999))
def test_counted_names_of_a_family_come_back_to_it(name: bytes, n: int) -> None:
    base = family_base(name)
    counted = with_counter(base, n)
    assert len(counted) <= MAX_NAME and counted != base
    assert split_counter(counted) == (base, n)
    assert family_base(counted) == base
    assert counted.startswith(family_prefix(base))


@relaxed
@given(names)
def test_every_name_of_a_family_is_found_by_its_prefix(name: bytes) -> None:
    base = family_base(name)
    assert name == base or name.startswith(family_prefix(base))


@relaxed
@given(names, st.integers(2, 99))
def test_counting_keeps_the_extension(name: bytes, n: int) -> None:
    stem, extension = split_extension(name)
    assert stem + extension == name and stem
    assert with_counter(name, n).endswith(b" (%d)" % n + extension)
    assert len(with_counter(name, n)) <= MAX_NAME


@pytest.mark.parametrize(
    ("name", "base", "n"),
    [
        (b"a.png", b"a.png", 1), (b"a (2).png", b"a.png", 2), (b"a (12)", b"a", 12), (b"a (1).png", b"a (1).png", 1),
        (b"a (02).png", b"a (02).png", 1), (b"a(2).png", b"a(2).png", 1), (b"a (2) (3)", b"a (2)", 3),
        (b" (2)", b" (2)", 1), (b"a (2)\n", b"a (2)\n", 1),
    ],
)  # fmt: skip
def test_counters(name: bytes, base: bytes, n: int) -> None:
    assert split_counter(name) == (base, n)


suffixes = st.sampled_from([b".json", b".txt", b".workflow.json", b".xmp", b".png"])


@relaxed
@given(names, suffixes)
def test_derived_names_fit_and_lead_back(name: bytes, suffix: bytes) -> None:
    derived = derived_name(name, suffix)
    assert len(derived) <= MAX_NAME and derived.endswith(suffix)
    prefix, whole = underived_prefix(derived, suffix)
    if whole:
        assert prefix == name
    else:
        assert name.startswith(prefix)


@relaxed
@given(names, names, suffixes)
def test_derived_names_of_different_names_differ(one: bytes, two: bytes, suffix: bytes) -> None:
    one, two = (name.ljust(250, b"x")[:MAX_NAME] for name in (one, two))
    assert (derived_name(one, suffix) == derived_name(two, suffix)) == (one == two)


# MOUNT.md §2, "Temporary names wait", and what else saves that way.
@pytest.mark.parametrize(
    "name",
    [b".hidden", b".a.png.Xy12Zq", b"a.png~", b"a.part", b"a.PART", b"a.crdownload", b"a.tmp", b".a.swp", b"a.swp",
     b"a.png.kate-swp", b".goutputstream-ABC123", b"sedAbC123", b"a.jpg_exiftool_tmp", b".", b".~lock.a#"],
)  # fmt: skip
def test_temporary_names_wait(name: bytes) -> None:
    assert is_temporary(name)


@pytest.mark.parametrize(
    "name",
    [b"a.png", b"part", b"a.part.png", b"tmp", b"sed.png", b"sedate-file", b"sedAbC1234", b"goutputstream-ABC123",
     b"a.b.Xy12Zq", b"~a.png", "über.png".encode(), b"\xff.png", b"sedAbC123\n"],
)  # fmt: skip
def test_real_names_don_t(name: bytes) -> None:
    assert not is_temporary(name)
