"""When thumbnails are made that are wished for."""

from __future__ import annotations

from pathlib import Path

import pytest

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
