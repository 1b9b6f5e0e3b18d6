"""When thumbnails are made that are wished for."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mixfs.ids import Digest
from mixfs.library import thumbnails
from mixfs.library.api import Library

FIRST, SECOND, URGENT = (Digest(bytes([n]) * 32) for n in (1, 2, 3))


def test_wishes_wait_while_more_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library.open(tmp_path / "library") as library:
        wishes = library.thumbnails
        monkeypatch.setattr(thumbnails, "QUIET_S", 3600)
        monkeypatch.setattr(thumbnails, "HELD_S", 3600)
        for digest in (FIRST, SECOND, FIRST):
            wishes.wish(digest)
        wishes.wish(URGENT, first=True)
        assert wishes.next_wish(0) is None
        assert wishes.waiting == 3
        # However many come, they do not wait for ever.
        monkeypatch.setattr(thumbnails, "HELD_S", 0)
        assert [wishes.next_wish(0) for _ in range(4)] == [URGENT, FIRST, SECOND, None]
        # Nor for long once no more come.
        monkeypatch.setattr(thumbnails, "HELD_S", 3600)
        monkeypatch.setattr(thumbnails, "QUIET_S", 0)
        wishes.wish(FIRST)
        assert wishes.next_wish() == FIRST
        wishes.wish(SECOND)
        wishes.close()
        assert wishes.next_wish() is None


def test_what_has_no_thumbnail_is_found_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "Trip"
    source.mkdir()
    for number in range(7):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(source / f"{number}.png")
    (source / "cut.png").write_bytes((source / "0.png").read_bytes()[:45])
    with Library.open(tmp_path / "library") as library:
        assert not library.import_paths([source]).failed
        all_of_it = sorted(
            placement.digest
            for placement in library.placements(library.sessions()[0].id)
            if placement.name != b"cut.png"
        )
        wishes = library.thumbnails
        while wishes.waiting:
            wishes._wishes.popitem()
        assert wishes.missing() == (all_of_it, b"")
        for digest in all_of_it[1:4]:
            row = wishes.make(digest)
            assert row is not None
            wishes.record({digest: row})
        left = [all_of_it[0], *all_of_it[4:]]
        assert wishes.missing() == (left, b"")
        for count in range(1, 9):
            found: list[Digest] = []
            after = b""
            while True:
                page, after = wishes.missing(after, count)
                found += page
                if not after:
                    break
            assert found == left, count
    # A daemon that starts, into which nothing has come yet: to have found some is no reason to wait for more.
    monkeypatch.setattr(thumbnails, "QUIET_S", 5)
    with Library.open(tmp_path / "library") as library:
        assert library.thumbnails.wish_missing() == b""
        assert [library.thumbnails.next_wish(0) for _ in range(5)] == [*left, None]
