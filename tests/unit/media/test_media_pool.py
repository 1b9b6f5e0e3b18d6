"""The pool of worker processes: that nothing a file can do reaches the caller, and that nothing is left running."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cbor2
import pytest

from mixfs.media import pool as pool_module
from mixfs.media.inspect import inspect_file
from mixfs.media.pool import PoolClosed, ThumbnailFailed, WorkerPool, WorkerStartError
from mixfs.media.samples import KINDS, draw_landscape, make_sample
from mixfs.media.sandbox import LIBRARY
from mixfs.media.worker import MEMORY_LIMIT

ROOT = str(Path(__file__).resolve().parents[3])
MISBEHAVING = ("-P", str(Path(__file__).with_name("misbehaving_worker.py")))


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setattr(pool_module, "COMMAND", MISBEHAVING)
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


def needs_seccomp() -> None:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        pytest.skip("NOT RUN: libseccomp2 is not installed, so workers may make every system call")


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
        for _ in range(pool_module.KILLS_FORGIVEN - 1):
            # Perhaps by a kernel that wanted memory back: not the picture's fault, at first.
            kills.clear()
            limit = 2
            with pytest.raises(OSError, match="memory may be short"):
                pool.inspect(sample)
        kills.clear()
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
    for name, highest in (
        ("RLIMIT_AS", MEMORY_LIMIT), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64), ("RLIMIT_FSIZE", 0),
    ):  # fmt: skip
        soft, hard = limits[name]
        assert 0 <= soft <= hard <= highest, name
    # The hard limit is the user's: SIGXCPU ends a worker, and the next job gets its seconds.
    assert 0 < limits["RLIMIT_CPU"][0] < 600


def test_a_worker_is_in_nobodys_way(pool: WorkerPool, sample: str) -> None:
    pool.inspect(sample)
    assert os.getpriority(os.PRIO_PROCESS, pool.pids[0]) > os.getpriority(os.PRIO_PROCESS, 0)


def test_a_worker_can_do_nothing_but_read(pool: WorkerPool, tmp_path: Path) -> None:
    needs_seccomp()
    target = tmp_path / "escaped"
    outcomes = pool._job({"kind": "escape", "target": str(target)}, 60)["ok"]
    assert len(outcomes) > 15
    assert outcomes == dict.fromkeys(outcomes, "ENOSYS")
    assert not target.exists()
    status = Path(f"/proc/{pool.pids[0]}/status").read_text()
    assert "NoNewPrivs:\t1\n" in status
    # Of the thread that reads jobs too: it was started later.
    for task in Path(f"/proc/{pool.pids[0]}/task").iterdir():
        assert "Seccomp:\t2\n" in (task / "status").read_text()


def test_without_libseccomp_a_worker_works_and_says_so(
    pool: WorkerPool, sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Found before the site's packages, and by workers only.
    (tmp_path / "sitecustomize.py").write_text(
        "import mixfs.media.sandbox\nmixfs.media.sandbox.LIBRARY = 'libnowhere.so.0'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert pool.sandbox_problem() == "libnowhere.so.0 can't be loaded"
    assert pool.inspect(sample).problem is None
    # The limits hold without it: a file may be made, and nothing written into it.
    outcomes = pool._job({"kind": "limits"}, 60)["ok"]
    assert outcomes["RLIMIT_FSIZE"] == [0, 0]


def test_what_tries_too_much_is_marked(pool: WorkerPool, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"error": "refused", "text": "[Errno 38] Function not implemented"}
    monkeypatch.setattr(pool_module._Worker, "run", lambda *_: answer)
    found = pool.inspect(sample)
    assert found.media_type == "image/png"
    assert "tried what it may not" in (found.problem or "")


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP"])
def test_every_format_in_the_sandbox(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    picture = draw_landscape("a1111", (300, 200))
    path, target = tmp_path / "picture", tmp_path / "small.png"
    options = {"compression": "tiff_deflate"} if name == "TIFF" else {}
    picture.save(path, format=name, **options)
    found = pool.inspect(str(path))
    assert (found.problem, found.width, found.height) == (None, 300, 200)
    assert pool.thumbnail(str(path), str(target)) == target.stat().st_size
    assert target.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "body",
    [
        b"\xc5\x82\x1b\x00\x00\x00\x00\xff\xff\xff\xff\x01",  # 2 ** 4294967295
        b"\xd8\x23\x64(a+)",  # a regular expression
        b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that holds itself
        b"\x81" * 100_000 + b"\x00",
        b"\x9f\x00\xff",
    ],
)
def test_an_answer_is_plain_data(body: bytes) -> None:
    with pytest.raises(cbor2.CBORDecodeError):
        pool_module._loads(body)


def test_a_worker_is_replaced_after_some_jobs(pool: WorkerPool, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "JOBS_PER_WORKER", 2)
    seen = set()
    for _ in range(5):
        pool.inspect(sample)
        seen.update(pool.pids)
    assert len(seen) == 3
    assert len(pool.pids) == 1


def test_close_ends_a_busy_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "COMMAND", MISBEHAVING)
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
        "from mixfs.media import pool as pool_module\n"
        f"pool_module.COMMAND = {MISBEHAVING!r}\n"
        "pool = pool_module.WorkerPool(2)\n"
        "for _ in range(2): threading.Thread(target=pool._job, args=({'kind': 'hang'}, 600)).start()\n"
        "while len(pool.pids) < 2: threading.Event().wait(0.02)\n"
        "print(*pool.pids, flush=True)\n"
    )
    environment = dict(os.environ, PYTHONPATH=ROOT)
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


def test_a_worker_that_cannot_start_is_told_once_and_tried_later(
    monkeypatch: pytest.MonkeyPatch, sample: str
) -> None:
    """Else each of a thousand pictures would start a process of its own, in vain."""
    told: list[str] = []
    with WorkerPool(2, told.append) as pool:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")
            for _ in range(3):
                with pytest.raises(WorkerStartError, match="exit status"):
                    pool.inspect(sample)
            assert len(told) == 1 and pool.problem in told and 0 < pool.retry_in_s <= 1
            broken.setattr(pool, "_retry_at", 0.0)
            with pytest.raises(WorkerStartError):
                pool.inspect(sample)
            assert len(told) == 1 and 1 < pool.retry_in_s <= 2
        monkeypatch.setattr(pool, "_retry_at", 0.0)
        assert pool.inspect(sample).problem is None
        assert (pool.problem, pool.retry_in_s) == ("", 0)


def test_out_of_descriptors_or_processes_is_no_broken_picture(monkeypatch: pytest.MonkeyPatch, sample: str) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    for owner, name in ((os, "memfd_create"), (subprocess, "Popen")):
        with WorkerPool(1) as pool, monkeypatch.context() as broken:
            broken.setattr(owner, name, refuse)
            with pytest.raises(WorkerStartError, match="temporarily unavailable"):
                pool.inspect(sample)


def test_what_nobody_waits_for_gives_way(pool: WorkerPool, sample: str, tmp_path: Path) -> None:
    pool.inspect(sample)
    (prompt,) = pool.pids
    pool.thumbnail(sample, str(tmp_path / "small.png"), idle=True)
    (idle,) = set(pool.pids) - {prompt}
    assert os.sched_getscheduler(idle) == os.SCHED_IDLE and os.sched_getscheduler(prompt) == os.SCHED_OTHER
    # ioprio_get(2): the class stands in the bits from 13 on, and 3 is idle.
    number = {"x86_64": 252, "aarch64": 31}.get(os.uname().machine)
    if number is not None:
        assert ctypes.CDLL(None).syscall(number, 1, idle) >> 13 == 3
    pool.rest()
    assert pool.pids == [prompt] and gone(idle)
    pool.thumbnail(sample, str(tmp_path / "small.png"), idle=True)
    assert len(pool.pids) == 2


def test_the_daemon_has_nothing_that_parses_foreign_bytes() -> None:
    """Neither Pillow nor our own readers and scanners: what isn't there can't be led astray."""
    code = (
        "import sys, mixfs.daemon.run, mixfs.library.api, mixfs.media.worker\n"
        "print(*sorted(m for m in sys.modules if m.startswith(('PIL', 'mixfs.media'))))"
    )
    environment = dict(os.environ, PYTHONPATH=ROOT)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.split() == [
        "mixfs.media", "mixfs.media.pool", "mixfs.media.sandbox", "mixfs.media.sniff", "mixfs.media.types",
        "mixfs.media.worker",
    ]  # fmt: skip
