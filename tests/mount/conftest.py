"""One real mount for each module of tests, and what its tests do to it with programs.

The tests run as whoever runs pytest. When that is root, `test_users.py` has an ordinary user run them as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box
from live import Live, living
from strict_json import check_mount

from mixfs.library.api import Library


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A mount for all tests of a module. Unmounted at the end, whatever happened; its process must be gone by then."""
    with living(tmp_path_factory.mktemp("shared")) as live:
        live.start()
        pid = live.pid
        yield live
        check_mount(live.point)
        live.stop()
    assert not os.path.ismount(live.point)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.fixture(scope="module")
def beside_shared(shared: Live) -> Iterator[Library]:
    """The mounted library, looked into from this process."""
    with Library.open(shared.library, read_only=True) as library:
        yield library


@pytest.fixture
def box(shared: Live, beside_shared: Library, request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    title = re.sub(r"\W+", " ", request.node.name).strip()
    source = tmp_path / "source"
    source.mkdir()
    return Box(shared, beside_shared, title, source)
