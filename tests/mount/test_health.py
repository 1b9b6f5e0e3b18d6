"""health.json, `mixfs wait` and `mixfs doctor` say what is wrong, and everything else goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Live, environment, needs_fuse, until

from mixfs.media.samples import make_sample

pytestmark = [pytest.mark.mount, needs_fuse]

# Workers alone load it: the daemon runs without site.
BROKEN = """
import os, sys
if "mixfs.media.worker" in sys.orig_argv and os.path.exists({flag!r}):
    sys.exit("out of luck")
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    yield live
    live.close()


def health(live: Live) -> Any:
    return json.loads((live.point / ".mixfs" / "health.json").read_bytes())


def test_workers_that_cannot_start_keep_only_pictures_waiting(live: Live, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    flag = tmp_path / "flag"
    flag.touch()
    (tmp_path / "site" / "sitecustomize.py").write_text(BROKEN.format(flag=str(flag)))
    live.start(env={"PYTHONPATH": f"{tmp_path / 'site'}:{environment()['PYTHONPATH']}"})
    assert health(live)["status"] == "ok"
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    for n in range(3):
        (trip / f"{n}.png").write_bytes(make_sample("a1111")[1] + b"%d" % n)
    (trip / "notes.txt").write_text("no picture")
    done = live.mixfs("wait", live.point, check=False)
    assert done.returncode == 1 and "can't be started" in done.stderr and "out of luck" in done.stderr
    # What needs no worker is in, and can be looked at.
    assert (live.point / "sessions" / "Trip" / "files" / "notes.txt").read_text() == "no picture"
    told = [json.loads(line) for line in (live.point / ".mixfs" / "problems.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in told] == ["workers-failed"]
    assert health(live)["status"] == "problems"
    assert {trouble["kind"] for trouble in health(live)["problems"]} == {"workers-failed", "not-taken-in"}
    found = json.loads(live.mixfs("doctor", "--json", check=False).stdout)
    assert not found["healthy"] and "workers-failed" in {each["name"] for each in found["findings"]}
    assert "task_failed" not in live.log.read_text()
    flag.unlink()
    until(lambda: len(list((live.point / "sessions" / "Trip").glob("images/*.png"))) == 3, "all are taken in")
    until(lambda: health(live)["status"] == "ok", "it is well again")
    live.mixfs("wait", live.point)


def test_a_damaged_original_is_in_health_until_it_is_back(live: Live) -> None:
    live.start()
    (live.point / "import" / "a.txt").write_bytes(data := b"the only copy" * 1000)
    live.take_in()
    (blob,) = (path for path in (live.library / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(b"T" + data[1:])
    with pytest.raises(OSError):
        (live.point / "sessions" / "Inbox" / "files" / "a.txt").read_bytes()
    until(lambda: health(live)["status"] == "problems", "the damage is known")
    assert [trouble["kind"] for trouble in health(live)["problems"]] == ["damaged"]
    (live.point / "import" / "again.txt").write_bytes(data)
    live.take_in()
    assert health(live)["status"] == "ok"
