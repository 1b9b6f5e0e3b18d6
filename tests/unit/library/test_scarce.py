"""A process without descriptors or permissions takes nothing for damaged: it says so, and changes nothing.

Each test runs a process of its own, whose limits are lowered for real.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixfs import Library
from mixfs.library import fsck, healing
from mixfs.media.samples import make_sample

BEGINNING = """
import errno, os, resource, sys
from pathlib import Path
from mixfs import Library
from mixfs.errors import IndexDamaged, MixfsError
from mixfs.library import fsck, gc, healing, repairing
from mixfs.media.pool import WorkerStartError
from mixfs.media.samples import make_sample

root, extra = Path(sys.argv[1]), Path(sys.argv[2])
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

def scarce(more):
    "Leave this process so many descriptors more than it has."
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(name) for name in os.listdir("/proc/self/fd")) + more, HARD))

def plenty():
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, HARD))

def tried(function, *arguments):
    "What it returned, or the error when it is one of scarcity. Everything else is a failure."
    try:
        return function(*arguments)
    except (MixfsError, OSError, WorkerStartError) as error:
        assert not isinstance(error, IndexDamaged), error
        return error
"""

JOURNAL = """
# A frame at the end that was acknowledged, and is not what was written: damage, and no torn tail that may be cut.
from mixfs.journal import HighWater, Journal, START
from mixfs.library import place
replica = place.read_format(root).replica
for more in range(6):
    scarce(more)
    mark = tried(HighWater(root, replica).read)
    items = tried(lambda: list(Journal(root / "journal", replica).read()))
    plenty()
    assert isinstance(mark, OSError) or mark != START, more
    if isinstance(items, list):
        assert items and all(item.payload is not None for item in items), more
"""

CHECKS = """
for more in range(20):
    scarce(more)
    report = tried(fsck.check, root)
    plenty()
    if isinstance(report, fsck.Report):
        kinds = {problem.kind for problem in report.problems}
        assert kinds <= {"blob-unchecked", "index-unchecked"}, (more, report.problems)
"""

REPAIRS = """
for more in range(20):
    scarce(more)
    tried(repairing.repair, root)
    plenty()
"""

OPENS = """
def use():
    with Library.open(root) as library:
        library.create_session("New")
for more in range(16):
    scarce(more)
    tried(use)
    plenty()
"""

READS = """
with Library.open(root) as library:
    digests = [digest for digest, _ in library.blobs.enumerate()]
    pictures = [digest for digest, _ in library.blobs.enumerate() if library.thumbnails.missing()[0].count(digest)]
    assert pictures
    for more in range(4):
        for digest in digests:
            scarce(more)
            assert not isinstance(tried(healing.quarantine_if_damaged, library, digest), Path)
            plenty()
    failed = 0
    for more in range(12):
        scarce(more)
        row = tried(library.thumbnails.make, pictures[0])
        plenty()
        assert row != (0, 0), "noted for good that none can be made"
        failed += isinstance(row, Exception)
    assert failed
    scarce(1)
    tried(library.import_bytes, (extra / "new.png").read_bytes(), "new.png")
    plenty()
    library.pool._retry_at = 0.0
    assert library.import_bytes((extra / "new.png").read_bytes(), "new.png")
    for session in library.sessions():
        for placement in library.placements(session.id):
            assert placement.name != b"new.png" or library.image(placement.digest).problem is None
"""

IMPORTS = """
with Library.open(root) as library:
    for more in range(3, 14):
        (extra / f"{more}").mkdir()
        scarce(more)
        report = tried(library.import_paths, [extra / "new.png"])
        plenty()
    library.pool._retry_at = 0.0
    report = library.import_paths([extra / "new.png"])
    assert not report.failed, report.failed
    for session in library.sessions():
        for placement in library.placements(session.id):
            assert placement.name != b"new.png" or library.image(placement.digest).problem is None
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Library.open(tmp_path / "library") as library:
        library.import_bytes(make_sample("a1111")[1], "a.png")
        for number in range(3):
            library.import_bytes(b"file %d" % number * 1000, f"{number}.txt")
    return tmp_path / "library"


def state(root: Path) -> tuple[dict[str, str], int, list[str]]:
    """The originals, which file the index is, and what lies in quarantine/ and lost/."""
    blobs = {
        path.parent.name + path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (root / "blobs").rglob("*") if path.is_file()
    }  # fmt: skip
    aside = [str(path) for name in ("quarantine", "lost") for path in (root / name).rglob("*") if path.is_file()]
    return blobs, (root / "index" / "data.mdb").stat().st_ino, aside


@pytest.mark.parametrize("what", ["JOURNAL", "CHECKS", "REPAIRS", "OPENS", "READS", "IMPORTS"])
def test_without_descriptors_nothing_is_damaged(root: Path, tmp_path: Path, what: str) -> None:
    before = state(root)
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "new.png").write_bytes(make_sample("comfyui")[1])
    script = tmp_path / "script.py"
    script.write_text(BEGINNING + globals()[what])
    done = subprocess.run(
        [sys.executable, script, root, tmp_path / "extra"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = state(root)
    assert before[0].items() <= after[0].items() and all(name == digest for name, digest in after[0].items())
    assert after[1:] == before[1:]
    assert fsck.check(root).clean
    problems = root / "problems.jsonl"
    told = problems.read_text() if problems.exists() else ""
    assert "damaged" not in told and "no-thumbnail" not in told, told


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give up root's permission to read everything")
def test_what_may_not_be_read_is_not_damaged(root: Path) -> None:
    blobs = [path for path in (root / "blobs").rglob("*") if path.is_file()]
    blobs[0].chmod(0)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom mixfs.library import fsck, repairing\n"
        "for path in [Path(sys.argv[1]), *Path(sys.argv[1]).rglob('*')]: os.chown(path, 65534, 65534)\n"
        "for path in Path(sys.argv[1]).parents:\n"
        "    if os.stat(path).st_uid == 0 and str(path).startswith('/tmp/'): os.chmod(path, 0o755)\n"
        # Loads all it needs, which another user may not read either.
        "fsck.check(Path(sys.argv[1]))\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "kinds = [p.kind for p in fsck.check(Path(sys.argv[1])).problems]\nassert kinds == ['blob-unchecked'], kinds\n"
        "done, report = repairing.repair(Path(sys.argv[1]))\nassert len(done.unchecked) == 1 and not done.quarantined\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not list((root / "quarantine").iterdir())
    blobs[0].chmod(0o444)
    assert fsck.check(root).clean


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EINTR, errno.ESTALE, errno.ENOMEM, 0])
@pytest.mark.parametrize("times", [1, 2])
def test_only_what_fails_twice_as_a_disk_does_is_damaged(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    """`number` 0: the bytes differ. Memory, a cable or a page cache may be wrong once."""
    with Library.open(root) as library:
        digest = next(digest for digest, _ in library.blobs.enumerate())
        path, read, left = str(library.blobs.path(digest)), os.read, times

        def failing(fd: int, size: int) -> bytes:
            nonlocal left
            data = read(fd, size)
            if left and data and str(Path(f"/proc/self/fd/{fd}").readlink()) == path:
                left -= 1
                if number:
                    raise OSError(number, os.strerror(number))
                return b"x" + data[1:]
            return data

        monkeypatch.setattr(os, "read", failing)
        if number in (0, errno.EIO, errno.EUCLEAN):
            assert (healing.quarantine_if_damaged(library, digest) is None) == (times == 1)
        else:
            with pytest.raises(OSError, match=os.strerror(number)):
                healing.quarantine_if_damaged(library, digest)
        assert library.has_blob(digest) == (number not in (0, errno.EIO, errno.EUCLEAN) or times == 1)
