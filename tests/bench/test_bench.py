"""tools/bench/all on a handful of files: each figure comes out. How fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from live import ROOT, needs_fuse

from mixfs.mountinfo import mounts

pytestmark = [pytest.mark.mount, needs_fuse]

# One of each part, and the first and last of those that have many.
FIGURES = {
    ("browse", "find with sizes, cold"), ("browse", "large file, sequential, warm"),
    ("import", "files brought in, first"), ("import", "files brought in, again"),
    ("thumbnails", "PNG"), ("thumbnails", "JPEG"),
    ("scale", "mount ready"), ("scale", "lookup"), ("scale", "view by date, an entry"),
    ("scale", "rebuild-index, a million images"),
    ("coherence", "invalidations"), ("latency", "lstat, p99"),
    ("large", "commit (mkdir, rmdir), longest"), ("background", "listing with sizes"),
}  # fmt: skip


def test_every_figure_comes_out(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    # Few peers: the others are theirs who measure. Of nothing but MixFS all parts are run.
    done = subprocess.run(
        [
            sys.executable, ROOT / "tools/bench/all", "--quick", "--peers", "ext4,bare pyfuse3", "--dir", tmp_path,
            "--json", out,
        ],
        env=os.environ, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    figures = {(figure["part"], figure["figure"]): figure for figure in found["figures"]}
    assert figures.keys() >= FIGURES
    for (part, _), figure in figures.items():
        assert all(value >= 0 for rounds in figure["rounds"].values() for value in rounds), figure
        if part in ("browse", "import", "thumbnails", "coherence", "latency"):
            assert "mixfs" in figure["rounds"], figure
    assert set(figures["browse", "find with sizes, cold"]["rounds"]) == {"ext4", "mixfs", "bare pyfuse3"}
    assert figures["browse", "find with sizes, cold"]["medians"]["mixfs"] > 0
    assert os.listdir(tmp_path) == ["figures.json"]
    assert not [mount.mountpoint for mount in mounts() if mount.mountpoint.startswith(str(tmp_path))]
