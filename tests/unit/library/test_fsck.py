"""fsck finds every flipped bit, wherever it is, and never cries wolf."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import lmdb
import pytest

from mixfs import Library
from mixfs.blobs.removal import Removal
from mixfs.ids import Digest
from mixfs.index.engine import ReadTxn
from mixfs.library import fsck, gc
from mixfs.library.fsck_report import Report
from mixfs.library.repairing import repair
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.media.samples import make_sample
from mixfs.records import Blob, Edge, Entry, Generation, Placement

MAP = 1 << 22
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in which every kind of row occurs. Not to be changed."""
    root = tmp_path_factory.mktemp("fsck") / "library"
    with Library.open(root, map_size=MAP) as library:
        session = library.create_session("Trip")
        for kind in ("a1111", "comfyui", "invokeai"):
            name, data = make_sample(kind)
            placement = library.import_bytes(data, name, session_id=session.id)
        library.import_bytes(b"remember the light", "notes.txt", session_id=session.id)
        library.annotate(placement.digest, tags=["sea"], rating=8)
        library.put_entry(Entry(id="e", session_id=session.id, type="text", text="x"))
        library.put_edge(Edge(id="x", session_id=session.id, source="e", target="e"))
        # Two that claim one name, as two replicas would.
        for n in range(3):
            library.commit(
                lambda txn, n=n: txn.put(
                    Placement(id=f"p{n}", session_id=session.id, digest=placement.digest, name=b"same.png", size=9)
                )
            )
        for n in range(4):
            library.retitle_session(session.id, f"Trip {n}")
        library.delete_placement("p1")
        made = library.thumbnails.make(placement.digest)
        assert made is not None
        library.thumbnails.record({placement.digest: made})
    return root


@pytest.fixture
def root(tmp_path: Path, sample: Path) -> Path:
    shutil.copytree(sample, tmp_path / "library")
    return rebound(tmp_path / "library")


def rebound(root: Path) -> Path:
    """The copy as if it were the same replica, moved."""
    text = (root / "format").read_text().splitlines()
    text[-1] = f'bound_to = "{text[-1].split(chr(34))[1].rsplit(":", 1)[0]}:{root.stat().st_ino}"'
    (root / "format").write_text("\n".join(text) + "\n")
    return root


def rows(root: Path) -> dict[bytes, bytes]:
    environment = lmdb.open(str(root / "index"), map_size=MAP, lib_version=0, readonly=True, lock=False)
    with environment.begin() as txn:
        found = dict(txn.cursor())
    environment.close()
    return found


def flipped(data: bytes, chance: random.Random) -> bytes:
    bit = chance.randrange(len(data) * 8)
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def copied(root: Path) -> Path:
    """A copy that went on as a replica of its own: two journals."""
    with Library.open(root, map_size=MAP) as library:
        library.create_session("elsewhere")
        session = library.find_session("Trip 3")
        library.put_generation(Generation(id="g", session_id=session.id, prompt="a cat"))
    return root


@pytest.fixture(params=["alone", "two replicas"])
def either(request: pytest.FixtureRequest, tmp_path: Path, sample: Path) -> Iterator[Path]:
    shutil.copytree(sample, tmp_path / "library")
    yield rebound(tmp_path / "library") if request.param == "alone" else copied(tmp_path / "library")


def problems(report: Report) -> list[str]:
    return [f"{problem.kind}: {problem.where}: {problem.reason}" for problem in report.problems]


def test_a_healthy_library_is_clean(either: Path) -> None:
    report = fsck.check(either)
    assert problems(report) == [] and report.notes == []
    assert {key[:1] for key in rows(either)} == {bytes([tag]) for tag in b"mrdnxysitzwheclagk"}


def test_a_flipped_bit_in_any_kind_of_row(either: Path) -> None:
    chance = random.Random(7)
    found = rows(either)
    whole = (either / "index" / "data.mdb").read_bytes()
    for tag in sorted({key[:1] for key, value in found.items() if value}):
        for _ in range(4):
            key = chance.choice([key for key, value in found.items() if key[:1] == tag and value])
            environment = lmdb.open(str(either / "index"), map_size=MAP, lib_version=0)
            with environment.begin(write=True) as txn:
                txn.put(key, flipped(found[key], chance))
            environment.close()
            report = fsck.check(either)
            # An index of another version is no damage: it is told, and made again.
            told = report.problems or any("another version" in note for note in report.notes)
            assert told, (key, found[key])
            (either / "index" / "data.mdb").write_bytes(whole)
    assert fsck.check(either).clean


def test_a_flipped_bit_in_any_original(root: Path) -> None:
    chance = random.Random(8)
    for path in sorted(path for path in (root / "blobs").rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(flipped(data, chance))
        assert [problem.kind for problem in fsck.check(root).problems] == ["blob-damaged"]
        path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_the_journal(either: Path) -> None:
    chance = random.Random(9)
    for path in (either / "journal").rglob("*.seg"):
        data = path.read_bytes()
        for _ in range(12):
            path.write_bytes(flipped(data, chance))
            assert "journal-damaged" in {problem.kind for problem in fsck.check(either).problems}
        path.write_bytes(data)
    assert fsck.check(either).clean


_CHECK = """
import sys
from pathlib import Path
from mixfs.library import fsck
root = Path(sys.argv[1])
for path in sys.argv[2:]:
    (root / "index" / "data.mdb").write_bytes(Path(path).read_bytes())
    print("clean" if fsck.check(root).clean else "damaged")
"""


def test_flipped_bits_anywhere_in_the_index_s_file_are_found_and_end_no_process(root: Path, tmp_path: Path) -> None:
    """What isn't found is in no row: free pages, old pages, the older meta page."""
    chance = random.Random(10)
    whole, before = (root / "index" / "data.mdb").read_bytes(), rows(root)
    paths = []
    for n in range(80):
        paths.append(tmp_path / f"flipped-{n}")
        data = bytearray(whole)
        at = chance.randrange(len(data) // 4096) * 4096 + chance.choice((chance.randrange(160), chance.randrange(4096)))
        data[at] ^= 1 << chance.randrange(8)
        paths[-1].write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", _CHECK, str(root), *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    said = ran.stdout.split()
    assert len(said) == len(paths) and "damaged" in said
    for path, word in zip(paths, said, strict=True):
        if word == "clean":
            (root / "index" / "data.mdb").write_bytes(path.read_bytes())
            assert rows(root) == before, path


_WRITE = """
import sys
from mixfs import Library
from mixfs.records import Entry
with Library.open(sys.argv[1], map_size=1 << 22) as library:
    print("ready", flush=True)
    n = 0
    while True:
        session = library.create_session(f"s{n % 5}")
        library.import_bytes(b"%d" % n, "a.txt", session_id=session.id)
        library.put_entry(Entry(id=f"e{n}", session_id=session.id, type="text", text="x"))
        library.retitle_session(session.id, f"other {n % 3}")
        if n % 2:
            library.delete_session(session.id)
        if n % 11 == 0:
            library.store.rebuild_index()
        n += 1
"""


def test_no_false_alarm_while_another_process_writes(root: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITE, str(root)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            for _ in range(12):
                assert problems(fsck.check(root)) == []
                assert writer.poll() is None
        finally:
            writer.kill()
    # Killed somewhere in a commit.
    assert problems(fsck.check(root)) == []


# -- items that make no sense


def journalled(root: Path, *changes: object) -> None:
    with Library.open(root, map_size=MAP) as library, library.store._lock:
        library.store.journal.append(cbor2.dumps({1: list(changes)}))


NONSENSE: list[object] = [
    [1, "s", 10**18, 0, {1: "s", 2: 7}],
    [1, "s", 10**18, 0, {2: "no id"}],
    [1, "s", 10**18, 0, {1: "s", 15: {3: ["later", b""]}}],
    [3, "p", 10**18, 0, {1: "p", 2: "s"}],
    [3, "p", 10**18, 0, {1: "p", 2: "s", 3: b"short", 4: b"a"}],
    [3, "p", 10**18, 0, {1: "other", 2: "s", 3: b"1" * 32, 4: b"a"}],
    [6, "g", 10**18, 0, {1: "g", 2: "s", 19: ["lora"]}],
    [6, "g", 10**18, 0, {1: "g", 2: "s", 22: [7]}],
    [3, "p", 10**18, 0, {1: "p", 2: "s", 3: b"1" * 32, 4: b"a", 9: 2**80}],
    [10, "t", 10**18, 0, {1: "t", 8: [[1, "x"]]}],
    ["one", "s", 10**18, 0, None],
    [1, 5, 10**18, 0, None],
    [1, "s", -1, 0, None],
    [1, "s"],
    "change",
    [4, "e", 10**18, 0, "record"],
]


@pytest.mark.parametrize("change", NONSENSE, ids=str)
def test_a_change_that_makes_no_sense_is_reported_and_stops_nothing(root: Path, change: object) -> None:
    (path,) = (root / "journal").rglob("*.seg")
    offset = path.stat().st_size
    journalled(root, change)
    size = path.stat().st_size
    for _ in range(2):
        with Library.open(root, map_size=MAP) as library:
            told = library.store.problems.read().decode().splitlines()
            assert f'"segment": 1, "offset": {offset}, "end": {size}' in told[-1] and "makes no sense" in told[-1]
            assert library.find_session("Trip 3")
            library.create_session("goes on")
            list(library.changes())
        report = fsck.check(root)
        assert [problem.kind for problem in report.problems] == ["journal-damaged"]
        assert f"bytes {offset} to {size}" in report.problems[0].reason
        shutil.rmtree(root / "index")
    assert path.read_bytes()[offset:size]


@pytest.mark.parametrize("payload", [b"", b"\xff", cbor2.dumps(7), cbor2.dumps({2: 3}), cbor2.dumps({1: {"a": 1}})])
def test_an_item_that_holds_no_changes(root: Path, payload: bytes) -> None:
    with Library.open(root, map_size=MAP) as library, library.store._lock:
        library.store.journal.append(payload)
    with Library.open(root, map_size=MAP) as library:
        assert "makes no sense" in library.store.problems.read().decode()
        library.create_session("goes on")
    assert [problem.kind for problem in fsck.check(root).problems] == ["journal-damaged"]


def test_what_makes_sense_in_the_same_item_is_kept(root: Path) -> None:
    journalled(root, [1, "bad", 10**18, 0, {1: 7}], [1, "good", 10**18, 0, {1: "good", 2: "good", 3: b"good"}])
    with Library.open(root, map_size=MAP) as library:
        assert library.session("good").title == "good"


def test_a_header_that_is_none_is_damage(root: Path) -> None:
    from mixfs.journal import frames

    (path,) = (root / "journal").rglob("*.seg")
    data = path.read_bytes()
    first = frames.decode_at(memoryview(data), 0, None)
    assert first is not None
    path.write_bytes(frames.encode(b"\x07" * len(first)) + data[frames.HEAD_SIZE + len(first) :])
    assert [problem.kind for problem in fsck.check(root).problems] == ["journal-damaged"]
    with Library.open(root, map_size=MAP) as library:
        library.store.rebuild_index()
        assert library.find_session("Trip 3")


def test_a_position_that_no_item_ends_at_is_found(root: Path) -> None:
    key = next(key for key in rows(root) if key.startswith(b"mposition"))
    segment, offset = cbor2.loads(rows(root)[key])
    environment = lmdb.open(str(root / "index"), map_size=MAP, lib_version=0)
    for wrong in ([segment, offset - 3], [segment, offset + 3], [segment + 1, 40], [segment, 0], "x"):
        with environment.begin(write=True) as txn:
            txn.put(key, cbor2.dumps(wrong))
        environment.close()
        assert not fsck.check(root).clean, wrong
        environment = lmdb.open(str(root / "index"), map_size=MAP, lib_version=0)
    environment.close()
    with Library.open(root, map_size=MAP) as library:
        assert library.find_session("Trip 3")


# -- right in both directions


def test_random_libraries_are_clean_and_one_change_in_each_is_found() -> None:
    """A short run of tools/fuzz_fsck; MIXFS_FSCK_LIBRARIES makes it a longer one."""
    count = os.environ.get("MIXFS_FSCK_LIBRARIES", "60")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "fuzz_fsck", "--json", "--count", count], capture_output=True, text=True,
        timeout=3600, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert (told["wrong"], told["libraries"]) == ([], int(count))
    assert sum(told["found"].values()) > int(count) // 2


def test_a_session_that_was_deleted_and_restored_leaves_a_healthy_index(root: Path) -> None:
    """Rows that get shorter within a transaction keep the pages of the longer ones."""
    with Library.open(root, map_size=MAP) as library:
        session = library.create_session("Many")
        for n in range(150):
            library.import_bytes(b"%d" % n, f"{n}.txt", session_id=session.id)
        library.restore(library.delete_session(session.id).id)
        library.store.rebuild_index()
    assert problems(fsck.check(root)) == []


def test_thumbnails_may_be_deleted_and_damaged_ones_are_found_and_removed(root: Path) -> None:
    (thumbnail,) = (root / "thumbnails").rglob("*.png")
    status, data = thumbnail.stat(), thumbnail.read_bytes()
    thumbnail.write_bytes(flipped(data, random.Random(3)))
    os.utime(thumbnail, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [problem.kind for problem in fsck.check(root).problems] == ["thumbnail-damaged"]
    done, report = repair(root)
    assert (done.thumbnails, report.clean, thumbnail.exists()) == (1, True, False)
    shutil.rmtree(root / "thumbnails")
    report = fsck.check(root)
    assert report.clean and any("made again" in note for note in report.notes)


@pytest.mark.parametrize("fields", [{"sums": b"x" * 8}, {"size": 7}, {"sums": b""}], ids=str)
def test_a_record_that_says_otherwise_than_its_original_is_found_and_put_right(
    root: Path, fields: dict[str, Any]
) -> None:
    with Library.open(root, map_size=MAP) as library, library.read() as view:
        blob = next(view.records(Blob))
    with Library.open(root, map_size=MAP) as library:
        library.commit(lambda txn: txn.put(dataclasses.replace(blob, **fields)))
    report = fsck.check(root)
    if fields == {"sums": b""}:
        # Those of old libraries have none.
        assert report.clean
        return
    assert [problem.kind for problem in report.problems] == ["record-differs"]
    done, report = repair(root)
    assert (done.recorded, report.clean) == ([blob.digest.hex()], True)
    with Library.open(root, map_size=MAP) as library, library.read() as view:
        assert view.blob(blob.digest) == blob


def test_what_only_the_trash_names_is_named_as_gc_has_it(root: Path) -> None:
    """By a canvas entry that was deleted; its blob's record is lost."""
    with Library.open(root, create=False) as library:
        session = library.create_session("Canvas")
        kept = library.import_bytes(b"on a canvas", "canvas.txt", session_id=session.id)
        library.put_entry(Entry(id="e", session_id=session.id, digest=kept.digest))
        library.put_entry(Entry(id="never", session_id=session.id, digest=Digest(bytes(32))))
        library.delete_entry("e")
        library.delete_entry("never")

        def forget(txn: Txn) -> None:
            txn.delete(Placement, kept.id)
            txn.delete(Blob, kept.digest.hex())

        library.commit(forget)
        with library.read() as view:
            assert view.is_referenced(kept.digest)
    report = fsck.check(root)
    assert report.clean and not [note for note in report.notes if "named by nothing" in note]
    Removal(root).set_aside([kept.digest])
    (problem,) = fsck.check(root).problems
    assert problem.kind == "blob-missing" and "--repair" in problem.remedy


def test_what_gc_takes_away_meanwhile_is_not_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = fsck._named_digests

    def and_then_gc(view: View) -> object:
        out = named(view)
        monkeypatch.undo()
        with Library.open(root, map_size=MAP) as library:
            session = library.find_session("Trip 3")
            (placement,) = (each for each in library.placements(session.id) if each.name == b"notes.txt")
            library.delete_placement(placement.id)
            assert gc.collect(library, trash_days=-1, grace_hours=-1).blobs == 1
        return out

    monkeypatch.setattr(fsck, "_named_digests", and_then_gc)
    assert problems(fsck.check(root)) == []


@pytest.mark.parametrize("act", ["rebuild", "compact"])
def test_files_that_are_replaced_meanwhile_are_looked_at_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    script = (
        "import sys; from mixfs import Library; from mixfs.library.compaction import compact\n"
        "with Library.open(sys.argv[1]) as library:\n"
        "    library.create_session('new')\n"
        "    compact(library, keep_days=-1) if sys.argv[2] == 'compact' else library.store.rebuild_index()\n"
    )
    noted = fsck._noted

    def then_replaced(txn: ReadTxn, ground: Any) -> object:
        out = noted(txn, ground)
        monkeypatch.undo()
        subprocess.run([sys.executable, "-c", script, str(root), act], check=True)
        return out

    monkeypatch.setattr(fsck, "_noted", then_replaced)
    assert problems(fsck.check(root)) == []
