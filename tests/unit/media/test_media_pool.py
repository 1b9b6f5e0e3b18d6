"""The pool of worker processes: that nothing a file can do reaches the caller, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mixfs.media import pool as pool_module
from mixfs.media.inspect import inspect_file
from mixfs.media.pool import PoolClosed, ThumbnailFailed, WorkerPool, WorkerStartError
from mixfs.media.samples import KINDS, make_sample
from mixfs.media.worker import MEMORY_LIMIT, TEST_JOBS

ROOT = str(Path(__file__).resolve().parents[3])


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setenv(TEST_JOBS, "1")
    with WorkerPool(2) as made:
        yield made
    assert made.pids == []


@pytest.fixture
def sample(tmp_path: Path) -> str:
    path = tmp_path / "sample.png"
    path.write_bytes(make_sample("a1111")[1])
    return str(path)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def misbehave(pool: WorkerPool, kind: str, timeout_s: float = 60) -> dict[str, Any]:
    return pool._job({"kind": kind}, timeout_s)


def test_the_same_as_in_process(pool: WorkerPool, tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / kind
        path.write_bytes(make_sample(kind)[1])
        assert pool.inspect(str(path)) == inspect_file(str(path))


def test_workers_start_when_needed_and_are_kept(pool: WorkerPool, sample: str) -> None:
    assert pool.pids == []
    pool.inspect(sample)
    first = pool.pids
    assert len(first) == 1
    pool.inspect(sample)
    assert pool.pids == first


def test_thumbnail(pool: WorkerPool, sample: str, tmp_path: Path) -> None:
    target = tmp_path / "small.png"
    assert pool.thumbnail(sample, str(target)) == target.stat().st_size
    words = tmp_path / "words"
    words.write_text("no picture")
    with pytest.raises(ThumbnailFailed, match="no picture"):
        pool.thumbnail(str(words), str(target))
    with pytest.raises(FileNotFoundError):
        pool.thumbnail(str(tmp_path / "absent"), str(target))
    with pytest.raises(FileNotFoundError):
        pool.inspect(str(tmp_path / "absent"))
    with pytest.raises(OSError, match="No such file"):
        pool.thumbnail(sample, str(tmp_path / "no" / "folder.png"))


def test_many_threads(pool: WorkerPool, sample: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(pool.inspect, [sample] * 40))
    assert {f.width for f in found} == {768}
    assert len(pool.pids) <= 2


def test_a_killed_idle_worker_is_replaced(pool: WorkerPool, sample: str) -> None:
    pool.inspect(sample)
    (old,) = pool.pids
    os.kill(old, signal.SIGKILL)
    assert pool.inspect(sample).problem is None
    assert pool.pids != [old]


def test_a_worker_killed_in_the_middle_is_tried_once_more(pool: WorkerPool, sample: str) -> None:
    kills: list[int] = []
    original = pool_module._Worker.run

    def run(worker: Any, job: dict[str, Any], timeout_s: float) -> Any:
        if len(kills) < limit:
            kills.append(worker.process.pid)
            threading.Timer(0.05, worker.process.kill).start()
            return original(worker, {"kind": "hang"}, timeout_s)
        return original(worker, job, timeout_s)

    pool_module._Worker.run = run  # type: ignore[method-assign]
    try:
        limit = 1
        assert pool.inspect(sample).problem is None
        kills.clear()
        limit = 2
        found = pool.inspect(sample)
    finally:
        pool_module._Worker.run = original  # type: ignore[method-assign]
    assert found.problem is not None
    assert "killed by signal 9" in found.problem
    assert found.media_type == "image/png"
    assert all(gone(pid) for pid in kills)
    assert pool.inspect(sample).problem is None


def test_a_crash_a_hang_and_hunger_are_answers(pool: WorkerPool, sample: str) -> None:
    assert "signal 11" in pool_module._reason(misbehave(pool, "crash"))
    assert pool_module._reason(misbehave(pool, "hang", 0.3)) == "the decoder took longer than 0.3 s"
    assert pool_module._reason(misbehave(pool, "memory")) == "the decoder needed too much memory"
    assert pool.pids == []
    assert pool.inspect(sample).problem is None


def test_a_worker_that_lies(pool: WorkerPool, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pool_module._Worker.run
    monkeypatch.setattr(pool_module._Worker, "run", lambda w, job, t: original(w, {"kind": "lie"}, t))
    found = pool.inspect(sample)
    assert found.problem is not None
    assert found.media_type == "image/png"


def test_limits_are_set(pool: WorkerPool) -> None:
    limits = misbehave(pool, "limits")["ok"]
    assert limits["RLIMIT_AS"] <= MEMORY_LIMIT
    assert limits["RLIMIT_CORE"] == 0
    assert limits["RLIMIT_NOFILE"] <= 64
    assert 0 < limits["RLIMIT_FSIZE"] <= 64 << 20
    assert 0 < limits["RLIMIT_CPU"] < 600


def test_test_jobs_need_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TEST_JOBS, raising=False)
    with WorkerPool(1) as pool:
        assert misbehave(pool, "crash")["error"] == "failed"


def test_a_worker_is_replaced_after_some_jobs(pool: WorkerPool, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "JOBS_PER_WORKER", 2)
    seen = set()
    for _ in range(5):
        pool.inspect(sample)
        seen.update(pool.pids)
    assert len(seen) == 3
    assert len(pool.pids) == 1


def test_close_ends_a_busy_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_JOBS, "1")
    pool, busy = WorkerPool(1), threading.Event()
    original = pool_module._Worker.run

    def run(worker: Any, job: dict[str, Any], timeout_s: float) -> Any:
        busy.set()
        return original(worker, job, timeout_s)

    monkeypatch.setattr(pool_module._Worker, "run", run)
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(misbehave, pool, "hang")
        assert busy.wait(30)
        pids = pool.pids
        pool.close()
        with pytest.raises(PoolClosed):
            job.result(30)
    assert all(gone(pid) for pid in pids)
    with pytest.raises(PoolClosed):
        misbehave(pool, "hang")
    pool.close()


def test_no_orphan_when_the_parent_is_killed() -> None:
    code = (
        "import threading\n"
        "from mixfs.media.pool import WorkerPool\n"
        "pool = WorkerPool(2)\n"
        "for _ in range(2): threading.Thread(target=pool._job, args=({'kind': 'hang'}, 600)).start()\n"
        "while len(pool.pids) < 2: threading.Event().wait(0.02)\n"
        "print(*pool.pids, flush=True)\n"
    )
    environment = dict(os.environ, PYTHONPATH=ROOT, **{TEST_JOBS: "1"})
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        descriptors = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
    try:
        import select

        for descriptor in descriptors:
            # A pidfd becomes readable when its process ends.
            assert select.select([descriptor], [], [], 20)[0], "a worker outlived its parent"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert len(pids) == 2


def test_a_broken_installation_is_no_broken_picture(monkeypatch: pytest.MonkeyPatch, sample: str) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with WorkerPool(1) as pool, pytest.raises(WorkerStartError, match="nonexistent"):
        pool.inspect(sample)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with WorkerPool(1) as pool, pytest.raises(WorkerStartError, match="exit status"):
        pool.inspect(sample)


def test_the_pool_does_not_import_a_decoder() -> None:
    code = "import sys, mixfs.media.pool, mixfs.media.worker; print([m for m in sys.modules if m.startswith('PIL')])"
    environment = dict(os.environ, PYTHONPATH=ROOT)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.strip() == "[]"
