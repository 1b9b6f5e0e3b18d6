"""`mixfs fsck --repair`: what it mends, what it says of the rest, and that it may be killed anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mixfs.errors import BlobMissing
from mixfs.ids import Digest
from mixfs.library import fsck
from mixfs.library.api import Library
from mixfs.library.repairing import repair
from mixfs.media.samples import make_sample

FILES = {f"{n}.txt": b"file %d" % n * 1000 for n in range(4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = tmp_path / "Trip"
    (source / "deeper").mkdir(parents=True)
    for name, data in FILES.items():
        (source / name).write_bytes(data)
    name, picture = make_sample("a1111")
    (source / "deeper" / "a.png").write_bytes(picture)
    with Library.open(tmp_path / "library") as library:
        assert not library.import_paths([source]).failed
        for digest in library.thumbnails.missing()[0]:
            row = library.thumbnails.make(digest)
            if row is not None:
                library.thumbnails.record({digest: row})
    return tmp_path / "library"


def blob_of(root: Path, name: str) -> tuple[Path, Digest]:
    with Library.open(root) as library:
        [session] = library.sessions()
        digest = next(each.digest for each in library.placements(session.id) if each.name == name.encode())
        return library.blobs.path(digest), digest


def flip(path: Path, at: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_a_copy_takes_a_damaged_blob_s_place(root: Path, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path, digest = blob_of(root, "2.txt")
    harm(path)
    report = fsck.check(root)
    assert [problem.affected for problem in report.problems] == [("Trip/files/2.txt",)]
    done, report = repair(root, [tmp_path / "Trip"])
    assert report.clean, report.problems
    assert done.restored == [digest.hex()] and len(done.quarantined) == (harm is not Path.unlink)
    with Library.open(root) as library:
        assert library.blobs.fetch(digest) == FILES["2.txt"]


def test_without_a_copy_it_says_who_is_affected_and_reads_fail(root: Path) -> None:
    path, digest = blob_of(root, "a.png")
    flip(path)
    done, report = repair(root)
    assert not report.clean and done.restored == []
    [problem] = report.problems
    assert problem.kind == "blob-missing" and problem.affected == ("Trip/images/deeper/a.png",)
    assert "--from" in problem.remedy and "quarantine" in done.quarantined[0]
    reason = Path(done.quarantined[0]).with_suffix(".txt").read_text()
    assert "SHA-256" in reason and "Trip/images/deeper/a.png" in reason
    with Library.open(root) as library, pytest.raises(BlobMissing):
        library.blobs.fetch(digest)


def test_importing_the_same_file_again_brings_it_back(root: Path, tmp_path: Path) -> None:
    path, _ = blob_of(root, "1.txt")
    path.unlink()
    with Library.open(root) as library:
        library.import_paths([tmp_path / "Trip" / "1.txt"])
    assert fsck.check(root).clean


@pytest.mark.parametrize("harm", ["gone", "short", "row"])
def test_the_index_is_made_again(root: Path, harm: str) -> None:
    data = root / "index" / "data.mdb"
    if harm == "short":
        data.write_bytes(data.read_bytes()[:9000])
    elif harm == "row":
        data.write_bytes(data.read_bytes().replace(b"3.txt", b"4.txt"))
    else:
        shutil.rmtree(root / "index")
    done, report = repair(root)
    assert report.clean and done.index == (harm != "gone")
    assert fsck.check(root).clean


def test_a_library_that_is_well_is_left_as_it_is(root: Path) -> None:
    def state() -> dict[Path, int]:
        kept = [path for path in root.rglob("*") if path.is_file() and path.name not in ("lock", "lock.mdb")]
        return {path: path.stat().st_mtime_ns for path in kept}

    before = state()
    done, report = repair(root)
    assert report.clean and not (done.index or done.quarantined or done.restored)
    assert state() == before


def test_a_damaged_journal_is_left_and_told(root: Path) -> None:
    (segment,) = (root / "journal").rglob("*.seg")
    flip(segment, segment.stat().st_size // 2)
    before = segment.read_bytes()
    _, report = repair(root)
    assert {problem.kind for problem in report.problems} >= {"journal-damaged"}
    assert segment.read_bytes() == before
