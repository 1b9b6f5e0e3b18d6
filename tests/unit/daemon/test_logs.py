"""The daemon's log starts again when it is long, and what is printed moves along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, sys
from pathlib import Path
from mixfs.daemon import logs
logs.LIMIT = 20_000
logs.configure(Path(sys.argv[1]), stderr=False)
for number in range(1000):
    logging.getLogger("a").warning("line %d", number)
print("printed last")
"""


def test_the_log_is_bounded_and_has_what_came_last(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    # As the daemon is started: what it prints goes into its log.
    with open(log, "ab") as printed:
        subprocess.run([sys.executable, "-c", SCRIPT, log], stdout=printed, stderr=printed, check=True, timeout=60)
    lines = log.read_text().splitlines()
    assert lines[-1] == "printed last" and json.loads(lines[-2])["event"] == "line 999"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 60_000
    assert sorted(os.listdir(tmp_path)) == ["log.jsonl", "log.jsonl.1"]
