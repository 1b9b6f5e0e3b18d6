"""Fixtures of the layouts' tests; what they are made of is in packages.py and its like."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixfs.formats.base import Options, Report
from mixfs.formats.layouts import detect, import_layout
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


def take(library: Library, path: Path, *, dry_run: bool = False, **options: object) -> Report:
    """Import a path as the layout that it is found to be."""
    layout = detect(path)
    assert layout is not None, f"{path} is in no layout"
    return import_layout(library, layout, path, Options(**options), dry_run=dry_run)  # type: ignore[arg-type]
