"""A short run of tools/fuzz; and that it sees what it is for. A long run's figures are in docs/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def fuzz(*options: str, patch: Path | None = None) -> tuple[int, dict[str, Any]]:
    env = dict(os.environ)
    if patch is not None:
        env["PYTHONPATH"] = str(patch)
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "fuzz", "--json", *options], capture_output=True, text=True, timeout=120,
        check=False, env=env,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_few_hundred_files() -> None:
    code, told = fuzz("--count", "300", "--seed", "7")
    assert told["findings"] == []
    assert (code, told["files"], told["left_over"]) == (0, 300, 0)
    assert set(told["results"]) <= {"good", "damaged", "no picture", "too large", "too much memory"}
    assert told["results"]["good"] > 100 and told["results"]["damaged"] > 30
    assert len(told["generators"]) > 8


PATCHES = {
    "a reader that raises": "mixfs.media.readers.a1111.A1111Reader.read = lambda *_: {}['x']",
    "a scanner that raises": "mixfs.media.inspect.scan_png = lambda *_: {}['x']",
    "a worker that dies": "mixfs.media.inspect.scan_png = lambda *_: os.abort()",
    "a time that is none": "mixfs.media.inspect._taken_ns = lambda *_: 2**63",
    "a call that is refused": "mixfs.media.inspect.scan_jpeg = lambda *_: os.mkdir('/tmp/x')",
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_it_sees_what_it_is_for(tmp_path: Path, patch: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, mixfs.media.inspect, mixfs.media.readers.a1111\n{patch}\n"
    )
    code, told = fuzz("--count", "15", "--jobs", "1", patch=tmp_path)
    assert code == 1
    assert told["findings"]
