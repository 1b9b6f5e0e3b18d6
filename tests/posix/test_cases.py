"""Each case in import/ and in a directory of the native file system: the same results, but for the list of exceptions.

The cases run as whoever runs pytest; `test_users.py` has an ordinary user run them as well, since to root nothing is
forbidden.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import CASES, Side, settings
from expected_failures import EXPECTED, EXPECTED_OF_ROOT
from live import Live, living, needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with living(tmp_path_factory.mktemp("cases")) as live:
        live.start()
        yield live
        live.stop()


def finish(steps: Generator[None, None, Any]) -> Any:
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    raise AssertionError("a case yields once")


def reason(name: str) -> str | None:
    return EXPECTED.get(name) or (EXPECTED_OF_ROOT.get(name) if os.geteuid() == 0 else None)


def clear(root: Path) -> None:
    # Top down: what an ordinary user may not search is opened before it is walked.
    os.chmod(root, 0o755)
    for folder, folders, _ in os.walk(root):
        for name in folders:
            os.chmod(os.path.join(folder, name), 0o755)
    shutil.rmtree(root)


@pytest.mark.parametrize(("name", "taken_in"), list(settings()), ids=str)
def test_case(shared: Live, tmp_path: Path, name: str, taken_in: bool) -> None:
    here, there = shared.point / "import" / "cases" / name, tmp_path / "native"
    here.mkdir(parents=True)
    there.mkdir()
    try:
        steps = [CASES[name](Side(root, tmp_path / "clock")) for root in (here, there)]
        for one in steps:
            next(one)
        if taken_in:
            shared.take_in()
        on_mount, native = map(finish, steps)
        why = reason(name)
        if why is None:
            assert on_mount == native
        else:
            assert on_mount != native, f"no longer another result; take it from the list: {why}"
    finally:
        clear(here)
