"""Half a minute of tools/soak: everything is back where it was, and nothing was lost or wrong on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from live import ROOT, needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]


def test_half_a_minute_of_soak(tmp_path: Path) -> None:
    # Which is long enough for each kind of work to be done several times; `tools/soak --minutes 60` is for people.
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "soak", "--minutes", "0.5", "--dir", tmp_path],
        env=os.environ, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything is back where it was" in done.stdout
