"""Fixtures of the layouts' tests; what they are made of is in format_home.py."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mixfs.formats.base import Format, Problem
from mixfs.formats.layouts import within
from mixfs.formats.reader_process import ReaderProcess
from mixfs.library.api import Library

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "cli")]

from cli_home import home  # noqa: E402

__all__ = ["home", "library"]


@pytest.fixture(autouse=True)
def _reads_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts are read in the test's own process, which takes a tenth of the time, but in tests of the process."""
    if request.node.get_closest_marker("reader_process") is not None:
        return

    def found(
        self: ReaderProcess, path: Path, own: frozenset[str], formats: Iterable[Format]
    ) -> tuple[list[tuple[Path, str]], list[Problem]]:
        return [(where, layout.NAME) for where, layout in within(path, own, tuple(formats))], []

    monkeypatch.setattr(ReaderProcess, "find", found)
    monkeypatch.setattr(ReaderProcess, "read", lambda self, layout, source: layout.read(source))

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples" / "foreign"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as library:
        yield library


@pytest.fixture(scope="session")
def samples() -> Path:
    """Samples that others made."""
    if not SAMPLES.is_dir():
        pytest.skip("the collection of foreign layouts (../shared/samples/foreign) is not here")
    return SAMPLES


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, Library, Path]]:
    """Two libraries, and a folder beside them."""
    path = tmp_path_factory.mktemp("two")
    with Library.open(path / "one") as one, Library.open(path / "other") as other:
        yield one, other, path
