"""The same cases, and the twin machine, for an ordinary user without capabilities: to root nothing is forbidden."""

from __future__ import annotations

from pathlib import Path

import pytest
from live import needs_fuse
from test_users import run_as_nobody

pytestmark = [pytest.mark.mount, needs_fuse]


def test_cases_and_the_twin_machine() -> None:
    run_as_nobody(Path(__file__).with_name("test_cases.py"), Path(__file__).parents[1] / "model" / "test_twin.py")
