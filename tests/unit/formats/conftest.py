"""Fixtures of the layouts' tests; what they are made of is in format_home.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs.library.api import Library

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "cli")]

from cli_home import home  # noqa: E402

__all__ = ["home", "library"]

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
