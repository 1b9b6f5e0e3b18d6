"""The store: opening, committing, catching up, rebuilding."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_records import by_kind, records, uuid

from mixfs.errors import (
    FormatTooNew,
    IndexDiskFull,
    InvalidValue,
    JournalDamaged,
    LibraryError,
    NotALibrary,
    UnsuitablePlace,
)
from mixfs.ids import Digest, ReplicaId, key16
from mixfs.index import keys
from mixfs.index.dentries import fixed, scan_dentries, unpack
from mixfs.journal import Journal
from mixfs.library import documents, place, storage_v2
from mixfs.library.projections import DOCUMENT_SIZES, GENERATION_SIZES
from mixfs.library.replay import EVENTS_KEPT, events_since
from mixfs.library.store import Store
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import entry_file, generation_name, placement_place
from mixfs.names import listable
from mixfs.records import (
    KINDS,
    Annotation,
    Blob,
    Edge,
    Entry,
    Folder,
    Generation,
    Image,
    ImageRef,
    Metadata,
    Placement,
    Record,
    Session,
    Trash,
)

MAP = 1 << 22
TINY = 1 << 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place.create(tmp_path / "library")
    return tmp_path / "library"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    store = Store(root, map_size=MAP)
    yield store
    store.close()


def session(n: int, **fields: Any) -> Session:
    fields = {"title": f"Session {n}", "name": b"Session %d" % n, "created_ns": n} | fields
    return Session(id=uuid(1, n), **fields)


def put(store: Store, *records: Record) -> None:
    def run(txn: Txn) -> None:
        for record in records:
            txn.put(record)

    store.commit(run)


def rows(store: Store, skip: bytes = b"e") -> dict[bytes, bytes]:
    """All rows but events and how many there were: those count commits as this index saw them."""
    with store.read() as view:
        return {
            key: value
            for key, value in view.txn.scan(b"\0", b"\xff" * 512)
            if key[:1] not in skip and key != keys.META_SEQUENCE
        }


def problems(store: Store) -> list[str]:
    return [line for line in store.problems.read().decode().splitlines() if line]


def run_python(code: str, *arguments: object) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# -- making and opening


def test_a_new_library_is_private_and_says_its_format(root: Path) -> None:
    assert root.stat().st_mode & 0o777 == 0o700
    form = place.read_format(root)
    assert form.version == place.FORMAT_VERSION and len(form.replica) == 8
    place.create(root)
    assert place.read_format(root) == form


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "letter.txt").write_text("mine")
    with pytest.raises(NotALibrary, match="not empty"):
        place.create(tmp_path)
    with pytest.raises(NotALibrary, match="no file named format"):
        Store(tmp_path)


def test_what_a_killed_create_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in ("blobs", "journal"):
        (tmp_path / name).mkdir()
    (tmp_path / ".format.77.new").write_bytes(b"version = ")
    place.create(tmp_path)
    assert place.read_format(tmp_path).version == 1


def test_a_newer_format_is_refused(root: Path) -> None:
    text = (root / "format").read_text()
    (root / "format").write_text(text.replace("version = 1", "version = 2"))
    for read_only in (False, True):
        with pytest.raises(FormatTooNew, match="newer MixFS"):
            Store(root, read_only=read_only)
    assert (root / "format").read_text() == text.replace("version = 1", "version = 2")


@pytest.mark.parametrize("text", ["", "version = 1", "not toml", 'version = 1\nlibrary = "x"\n[replica]\nid = "zz"'])
def test_a_damaged_format_file_is_refused(root: Path, text: str) -> None:
    (root / "format").write_text(text)
    with pytest.raises(NotALibrary, match="can't be understood"):
        Store(root)


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /home rw - nfs4 server:/home rw
31 30 0:31 / /home/me/local\\040disk rw master:1 - xfs /dev/vdb rw
32 22 0:32 / /mnt rw shared:7 - ext4 /dev/vdc rw
33 22 0:33 / /mnt rw - fuse.sshfs me@host: rw
34 22 0:34 / /homework rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/srv/x", "ext4"), ("/home/you", "nfs4"), ("/home", "nfs4"), ("/home/me/local disk/lib", "xfs"),
     ("/home/me/local diskette", "nfs4"), ("/mnt/lib", "fuse.sshfs"), ("/homework", "tmpfs"), ("/homer", "ext4")],
)  # fmt: skip
def test_the_file_system_of_a_path(monkeypatch: pytest.MonkeyPatch, path: str, kind: str) -> None:
    monkeypatch.setattr(place.Path, "read_bytes", lambda self: MOUNTS.encode())
    assert place.filesystem_type(Path(path)) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "fuse.mixfs"])
def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(place, "filesystem_type", lambda path: kind)
    with pytest.raises(UnsuitablePlace, match=kind):
        place.create(tmp_path / "deep" / "library")
    assert not (tmp_path / "deep").exists()


# -- committing


def test_what_was_committed_is_there_after_reopening(root: Path) -> None:
    store = Store(root, map_size=MAP)
    assert store.commit(lambda txn: txn.put(session(1)).id) == uuid(1, 1)
    store.close()
    store = Store(root, map_size=MAP)
    with store.read() as view:
        held = view.get(Session, uuid(1, 1))
    assert held is not None and held.title == "Session 1"
    store.close()


def test_an_exception_undoes_everything(store: Store) -> None:
    put(store, session(1))
    before, end = rows(store), store.journal.end()

    def failing(txn: Txn) -> None:
        txn.put(session(2))
        assert txn.get(Session, uuid(1, 2)) is not None
        txn.delete(Session, uuid(1, 1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.commit(failing)
    assert rows(store) == before and store.journal.end() == end


def test_a_transaction_that_changes_nothing_writes_nothing(store: Store) -> None:
    put(store, session(1))
    before, end = rows(store, b""), store.journal.end()
    assert store.commit(lambda txn: txn.delete(Session, "none")) is False
    assert rows(store, b"") == before and store.journal.end() == end


def test_stamps_never_go_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, session(1))
    monkeypatch.setattr("mixfs.clock.now_ns", lambda: 5)
    put(store, session(2))
    with store.read() as view:
        first, second = (view.stamp_of(1, uuid(1, n)) for n in (1, 2))
    assert first is not None and second is not None and second[0] == first[0] + 1


def test_listeners_are_told_of_each_commit(store: Store) -> None:
    told: list[int] = []
    store.on_commit(lambda: told.append(1))
    put(store, session(1))
    store.rebuild_index()
    assert len(told) == 2


def test_only_fields_that_changed_get_stamps(store: Store) -> None:
    put(store, session(1))
    with store.read() as view:
        before = view.get(Session, uuid(1, 1))
    assert before is not None
    put(store, dataclasses.replace(before, zoom=2.0))
    with store.read() as view:
        after = view.get(Session, uuid(1, 1))
    assert after is not None
    assert {key for key in after.stamps if after.stamps[key] != before.stamps[key]} == {7, 11}


def test_events_are_kept_for_a_while(store: Store) -> None:
    for n in range(EVENTS_KEPT + 5):
        put(store, session(n % 3, zoom=float(n)))
    with store.read() as view:
        sequence = view.sequence()
        kept = [number for number, _ in events_since(view.txn, 0)]
    assert kept == list(range(sequence - EVENTS_KEPT + 1, sequence + 1))


def test_read_only_changes_nothing_and_sees_everything(root: Path, store: Store) -> None:
    put(store, session(1))
    expected = rows(store)
    store.close()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    reader = Store(root, read_only=True)
    assert rows(reader) == expected
    with pytest.raises(LibraryError, match="read-only"):
        put(reader, session(2))
    reader.close()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    shutil.rmtree(root / "index")
    reader = Store(root, read_only=True)
    assert rows(reader) == expected
    assert not (root / "index").exists()
    reader.close()


def test_the_index_grows_unseen(root: Path) -> None:
    store = Store(root, map_size=TINY)
    ran = []

    def many(txn: Txn) -> int:
        ran.append(1)
        for n in range(300):
            txn.put(session(n, title="x" * 300))
        return 300

    assert store.commit(many) == 300
    assert len(ran) > 1
    for n in range(300, 360):
        put(store, session(n, title="y" * 300))
    with store.read() as view:
        assert view.counter("sessions") == 360
    assert len(list(store.journal.read())) == 61
    # Rebuilding begins with a tiny map again.
    before = rows(store)
    store.rebuild_index()
    assert rows(store) == before
    store.close()


# -- two processes


_PUT = """
import sys
from pathlib import Path
from mixfs.library.store import Store
from mixfs.records import Session
store = Store(Path(sys.argv[1]), map_size=int(sys.argv[2]))
for n in sys.argv[3:]:
    store.commit(lambda txn: txn.put(Session(id=n, title=n * 300, name=n.encode())))
store.close()
"""
_REBUILD = """
import sys
from pathlib import Path
from mixfs.library.store import Store
from mixfs.records import Session
store = Store(Path(sys.argv[1]), map_size=1 << 22)
store.rebuild_index()
store.commit(lambda txn: txn.put(Session(id="theirs", name=b"theirs")))
store.close()
"""


def test_another_process_s_commits_are_seen(root: Path, store: Store) -> None:
    put(store, session(1))
    run_python(_PUT, root, MAP, "theirs")
    with store.read() as view:
        assert view.get(Session, "theirs") is not None
    put(store, session(2))
    with store.read() as view:
        assert view.counter("sessions") == 3


def test_a_map_grown_by_another_process_is_no_failure(root: Path) -> None:
    store = Store(root, map_size=TINY)
    put(store, session(1))
    run_python(_PUT, root, TINY, *(f"s{n}" for n in range(100)))
    with store.read() as view:
        assert view.counter("sessions") == 101
    run_python(_PUT, root, TINY, *(f"t{n}" for n in range(200)))
    put(store, session(2))
    with store.read() as view:
        assert view.counter("sessions") == 302
    store.close()


def test_an_index_rebuilt_by_another_process_is_found_at_the_next_commit_or_refresh(root: Path, store: Store) -> None:
    put(store, session(1))
    run_python(_REBUILD, root)
    # Reading goes on with the old one until then.
    with store.read() as view:
        assert view.get(Session, uuid(1, 1)) is not None and view.get(Session, "theirs") is None
    assert store.refresh() is True
    assert store.refresh() is False
    with store.read() as view:
        assert view.get(Session, "theirs") is not None
    run_python(_REBUILD, root)
    put(store, session(2))
    assert store.refresh() is False
    with store.read() as view:
        assert view.counter("sessions") == 3
    before = rows(store)
    store.rebuild_index()
    assert rows(store) == before


@pytest.mark.parametrize("act", [lambda store: put(store, session(2)), lambda store: store.refresh()])
def test_an_index_deleted_under_an_open_store_comes_back(root: Path, store: Store, act: Callable[[Store], Any]) -> None:
    put(store, session(1))
    expected = rows(store)
    shutil.rmtree(root / "index")
    assert rows(store) == expected
    act(store)
    assert (root / "index" / "data.mdb").exists() and store.refresh() is False
    found = rows(store)
    assert found.keys() >= expected.keys()
    with store.read() as view:
        assert view.get(Session, uuid(1, 1)) is not None
    store.rebuild_index()
    assert rows(store) == found


def test_readers_never_fail_while_the_index_is_rebuilt_and_reopened(root: Path, store: Store) -> None:
    put(store, session(1))
    stop, failures, reads = threading.Event(), [], [0, 0]
    # Readers that never leave a gap must not starve a writer that waits for one.
    starved = threading.Timer(20, lambda: (failures.append("a writer was starved"), stop.set()))
    starved.start()

    def read(which: int) -> None:
        while not stop.is_set():
            try:
                with store.read() as view:
                    assert view.get(Session, uuid(1, 1)) is not None
                reads[which] += 1
            except BaseException as error:  # noqa: BLE001
                failures.append(error)
                return

    readers = [threading.Thread(target=read, args=(n,)) for n in range(2)]
    for reader in readers:
        reader.start()
    try:
        for n in range(8):
            if n % 2:
                shutil.rmtree(root / "index")
                put(store, session(n))
            else:
                store.rebuild_index()
                with store._lock:
                    store._reopen()
    finally:
        starved.cancel()
        starved.join()
        stop.set()
        for reader in readers:
            reader.join(10)
    assert failures == []
    assert all(reads)


def test_what_a_killed_rebuild_left_is_no_obstacle(root: Path, store: Store) -> None:
    put(store, session(1))
    for name in (f"index.old-{os.getpid()}", f"index.new-{os.getpid()}", "index.new-1"):
        (root / name).mkdir()
        (root / name / "data.mdb").write_bytes(b"half of it")
    before = rows(store)
    store.rebuild_index()
    assert rows(store) == before
    assert not list(root.glob("index.*"))


def test_a_damaged_index_is_made_again_and_reported(root: Path) -> None:
    store = Store(root, map_size=MAP)
    put(store, session(1))
    before = rows(store)
    store.close()
    (root / "index" / "data.mdb").write_bytes(b"\x5a" * 30000)
    store = Store(root, map_size=MAP)
    assert rows(store) == before
    assert any("index-damaged" in line for line in problems(store))
    store.close()


@pytest.mark.parametrize("keep", [0, 1, 77, 4095, 4096, 8192, 8193, 20_001, -4096, -1])
def test_an_index_that_was_cut_short_is_made_again(root: Path, keep: int) -> None:
    store = Store(root, map_size=MAP)
    for n in range(60):
        put(store, session(n, title="x" * 200))
    before = rows(store)
    data = root / "index" / "data.mdb"
    os.truncate(data, keep if keep >= 0 else data.stat().st_size + keep)
    # Under the feet of one that has it open, too: a commit or a look (`refresh`) comes before the next read.
    if keep % 2:
        store.close()
        store = Store(root, map_size=MAP)
    else:
        assert not store.is_current() and store.refresh()
    assert rows(store) == before
    put(store, session(99))
    store.close()


def test_temporaries_of_killed_writers_are_swept(root: Path) -> None:
    store = Store(root, map_size=MAP)
    put(store, session(1))
    store.close()
    (segment,) = (root / "journal").rglob("*.seg")
    left = [segment.with_name(".00000002.seg.77.new"), root / ".format.77.new", root / "quarantine" / ".x.torn.77.new"]
    for path in left:
        path.write_bytes(b"half of it")
    Store(root, map_size=MAP).close()
    assert not any(path.exists() for path in left) and segment.exists()


def test_a_record_with_a_field_of_another_type_is_refused(store: Store) -> None:
    short = Placement(id="p", session_id="s", digest=Digest(b"x"), name=b"a")
    for bad in (session(1, title=7), session(1, name="text"), short):
        with pytest.raises(InvalidValue, match="which is not of the field's type"):
            put(store, bad)  # type: ignore[arg-type]
    assert list(store.journal.read()) == []


def test_an_index_of_another_derivation_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root, map_size=MAP)
    put(store, session(1))
    store.close()
    with monkeypatch.context() as later:
        later.setattr("mixfs.library.store.DERIVATION", 999)
        newer = Store(root, map_size=MAP)
        with newer.read() as view:
            assert view.txn.get(keys.META_DERIVATION) == cbor2.dumps(999)
            assert view.get(Session, uuid(1, 1)) is not None
        newer.close()


# -- the journal and the index out of step


def test_an_index_that_missed_commits_catches_up(root: Path, tmp_path: Path) -> None:
    store = Store(root, map_size=MAP)
    put(store, session(1))
    store.close()
    shutil.copytree(root / "index", tmp_path / "old")
    store = Store(root, map_size=MAP)
    put(store, session(2))
    store.commit(lambda txn: txn.delete(Session, uuid(1, 1)))
    expected = rows(store)
    store.close()
    shutil.rmtree(root / "index")
    shutil.copytree(tmp_path / "old", root / "index")
    store = Store(root, map_size=MAP)
    assert rows(store) == expected
    store.close()


def test_a_journal_that_lost_acknowledged_commits_is_not_gone_on_with(root: Path) -> None:
    store = Store(root, map_size=MAP)
    put(store, session(1))
    end = store.journal.end()
    put(store, session(2))
    store.close()
    (path,) = (root / "journal").rglob("*.seg")
    os.truncate(path, end.offset)
    with pytest.raises(JournalDamaged, match="rebuild-index"):
        Store(root, map_size=MAP)


def test_a_torn_tail_is_cut_kept_and_reported(root: Path, store: Store) -> None:
    put(store, session(1))
    (path,) = (root / "journal").rglob("*.seg")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[-20:-3])
    put(store, session(2))
    assert path.read_bytes().startswith(whole)
    (kept,) = (root / "quarantine").iterdir()
    assert kept.read_bytes() == whole[-20:-3]
    assert sum("journal-tail-cut" in line for line in problems(store)) == 1
    with store.read() as view:
        assert view.counter("sessions") == 2
    before = rows(store)
    store.rebuild_index()
    assert rows(store) == before


def test_damage_in_the_middle_is_reported_and_everything_else_is_there(root: Path, store: Store) -> None:
    for n in range(3):
        put(store, session(n))
    ends = [item.end.offset for item in store.journal.read()]
    store.close()
    (path,) = (root / "journal").rglob("*.seg")
    raw = bytearray(path.read_bytes())
    raw[ends[1] - 2] ^= 1
    path.write_bytes(raw)
    shutil.rmtree(root / "index")
    store = Store(root, map_size=MAP)
    assert path.read_bytes() == bytes(raw)
    with store.read() as view:
        assert [view.get(Session, uuid(1, n)) is not None for n in range(3)] == [True, False, True]
    assert sum("journal-damaged" in line for line in problems(store)) == 1
    put(store, session(5))
    before = rows(store)
    store.rebuild_index()
    assert rows(store) == before
    store.close()


def test_a_failed_append_undoes_the_commit_and_the_next_one_works(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, session(1))
    before = rows(store)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(OSError):
            put(store, session(2))
    assert rows(store) == before
    put(store, session(3))
    found = rows(store)
    store.rebuild_index()
    assert rows(store) == found
    with store.read() as view:
        assert [view.get(Session, uuid(1, n)) is not None for n in (1, 2, 3)] == [True, False, True]


def test_an_index_that_fails_after_the_append_is_no_failure_of_the_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB has no room though the journal had: nothing may be reported that will reappear."""
    put(store, session(1))
    kind = type(store._engine.write())
    real = kind.__exit__
    left = [6]

    def failing(self: Any, error_kind: Any, error: Any, trace: Any) -> Any:
        if error_kind is None and self._write and left[0]:
            left[0] -= 1
            real(self, ZeroDivisionError, None, None)
            raise IndexDiskFull("no space left on device")
        return real(self, error_kind, error, trace)

    monkeypatch.setattr(kind, "__exit__", failing)
    put(store, session(2))
    assert left[0] == 2
    assert any("index-behind" in line for line in problems(store))
    left[0] = 0
    put(store, session(3))
    with store.read() as view:
        assert view.counter("sessions") == 3
    assert len(list(store.journal.read())) == 3


# -- copies and replicas


def test_a_copied_library_is_a_new_replica_and_keeps_everything(root: Path, tmp_path: Path, store: Store) -> None:
    placed = Placement(id="p", session_id=uuid(1, 1), digest=Digest(b"\1" * 32), name=b"a.png", size=3)
    put(store, session(1), placed)
    store.close()
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    copied = Store(copy, map_size=MAP)
    assert copied.format.replica != store.format.replica
    assert copied.format.library_id == store.format.library_id
    # A move touches the session that was left: only a rebuild in the order of the journals finds that again.
    put(copied, session(2), dataclasses.replace(placed, session_id=uuid(1, 2)))
    found = rows(copied)
    with copied.read() as view:
        assert view.counter("sessions") == 2
    copied.rebuild_index()
    assert rows(copied) == found
    # Each writes its own journal only.
    assert len(list(Journal(copy / "journal", store.format.replica).read())) == 1
    copied.close()
    again = Store(copy, map_size=MAP)
    assert again.format.replica == copied.format.replica
    again.close()
    original = Store(root, map_size=MAP)
    assert original.format.replica == store.format.replica
    original.close()


def test_a_copy_whose_index_is_older_than_its_journal_still_keeps_everything(
    root: Path, tmp_path: Path, store: Store
) -> None:
    """A copy of a library in use: index/ was copied before the journal was."""
    put(store, session(1))
    copy = tmp_path / "copy"
    store.close()
    shutil.copytree(root, copy)
    store = Store(root, map_size=MAP)
    put(store, session(2))
    store.close()
    shutil.rmtree(copy / "journal")
    shutil.copytree(root / "journal", copy / "journal")
    copied = Store(copy, map_size=MAP)
    with copied.read() as view:
        assert view.counter("sessions") == 2
    found = rows(copied)
    copied.rebuild_index()
    assert rows(copied) == found
    copied.close()


def test_a_copy_may_end_in_a_torn_item(root: Path, tmp_path: Path, store: Store) -> None:
    put(store, session(1))
    store.close()
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (path,) = (copy / "journal").rglob("*.seg")
    with open(path, "ab") as file:
        file.write(b"\xf5MXJ\5")
    copied = Store(copy, map_size=MAP)
    put(copied, session(2))
    found = rows(copied)
    copied.close()
    copied = Store(copy, map_size=MAP)
    copied.rebuild_index()
    assert rows(copied) == found
    assert problems(copied) == []
    copied.close()


def test_unknown_kinds_and_fields_survive_a_rebuild(store: Store) -> None:
    put(store, session(1, unknown={99: ["later"], "x": {"y": 1}}))
    kind = max(KINDS) + 1
    payload = cbor2.dumps({1: [[kind, "x", 10**18, 0, {1: "x", 5: b"later"}]]})
    store.journal.append(payload)
    put(store, session(2))
    for _ in range(2):
        with store.read() as view:
            held = view.get(Session, uuid(1, 1))
            assert held is not None and dict(held.unknown) == {99: ["later"], "x": {"y": 1}}
            value = view.txn.get(keys.record(kind, "x"))
        assert value is not None
        assert cbor2.loads(value) == [10**18, store.format.replica, {1: "x", 5: b"later"}]
        store.rebuild_index()
    # And an edit keeps what it doesn't know.
    put(store, dataclasses.replace(held, title="edited"))
    with store.read() as view:
        held = view.get(Session, uuid(1, 1))
    assert held is not None and held.title == "edited" and dict(held.unknown) == {99: ["later"], "x": {"y": 1}}


# -- anything at all


deletes = st.one_of(*(
    strategy.map(lambda record: (type(record), record.entity_id)) for strategy in by_kind.values()
))  # fmt: skip
# Sessions and pictures first, nearly always: the rest is about them.
made = st.tuples(by_kind[Session], by_kind[Session], by_kind[Image], by_kind[Image]).map(list)
changes = st.lists(st.one_of(records, records, deletes), min_size=4, max_size=10)
commits = st.tuples(made, changes, changes, st.lists(st.one_of(made, changes), max_size=2)).map(
    lambda parts: [*parts[:3], *parts[3]]
)


def commit(store: Store, changes: list[Any]) -> None:
    def run(txn: Txn) -> None:
        for change in changes:
            if isinstance(change, Record):
                txn.put(change)
            else:
                txn.delete(*change)

    store.commit(run)


def check(view: View, times: bool = True) -> None:
    """All that the index says of itself, found again by going through the records."""
    for record in view.records(Session):
        row = view.session_row(record.id)
        placements = list(view.members(Placement, record.id))
        assert row.counts == documents.Counts(
            sum(p.area == "images" for p in placements), sum(p.area != "images" for p in placements),
            sum(p.size for p in placements),
        )  # fmt: skip
        assert row.entries.items == len(list(view.members(Entry, record.id)))
        for name, (size, _) in row.documents.items():
            rendered = view.render_session_document(record, name)
            assert len(rendered) == size, name
            json.loads(rendered)
    registry = storage_v2.render_registry(view)
    assert len(registry) == storage_v2.registry_size(view)[0]
    assert isinstance(json.loads(registry)["images"], dict)
    listed = {dentry.key[1:]: dentry.wanted for dentry in scan_dentries(view.txn, storage_v2.IMAGES)}
    files: dict[tuple[Digest, bytes], bytes] = {}
    for digest in {placement.digest for placement in view.records(Placement)}:
        for each in storage_v2.shown_of(view, digest):
            files.setdefault((digest, each.file), key16(each.placement.id) if each.placement is not None else digest)
            assert digest in storage_v2.digests_of(view, each.alias)
    assert listed == {key: listable(file) for (_, file), key in files.items()}
    for placement in view.records(Placement):
        directory, wanted = placement_place(placement)
        (dentry,) = (d for d in scan_dentries(view.txn, directory) if d.key[1:] == key16(placement.id))
        assert (dentry.wanted, dentry.size) == (wanted, placement.size)
        assert not times or dentry.mtime_ns == placement.mtime_ns
        about = view.about(placement)
        assert bool(dentry.extra) == (about is not None)
        if dentry.extra and about is not None:
            sizes = DOCUMENT_SIZES.unpack_from(dentry.extra)[:4]
            assert sizes == tuple(len(render(about)) for render in documents.IMAGE_DOCUMENTS.values())
    for generation in view.records(Generation):
        listed = scan_dentries(view.txn, b"g" + key16(generation.session_id))
        (dentry,) = (d for d in listed if d.key[1:] == key16(generation.id))
        assert dentry.wanted == generation_name(generation)
        sizes = GENERATION_SIZES.unpack(dentry.extra)[:3]
        assert sizes == tuple(len(render(generation)) for render in documents.GENERATION_DOCUMENTS.values())
    for entry in view.records(Entry):
        listed = scan_dentries(view.txn, b"c" + key16(entry.session_id))
        (dentry,) = (d for d in listed if d.key[2:18] == key16(entry.id))
        placed = entry.digest is not None and view.is_placed(entry.digest)
        wanted, content = entry_file(entry, placed=placed)
        blob = view.blob(entry.digest) if placed and entry.type == "image" and entry.digest else None
        size = (blob.size if blob else 0) if placed and entry.type == "image" else len(content)
        assert (dentry.wanted, dentry.size) == (wanted, size)
    check_counters(view)
    check_directories(view)


def check_counters(view: View) -> None:
    placements = list(view.records(Placement))
    blobs = list(view.records(Blob))
    expected = {
        "sessions": len(list(view.records(Session))),
        "placements": len(placements),
        "entries": len(list(view.records(Entry))),
        "generations": len(list(view.records(Generation))),
        "images": len(list(view.records(Image))),
        "trash": len(list(view.records(Trash))),
        "blobs": len(blobs),
        "blob_bytes": sum(blob.size for blob in blobs),
        "placed_bytes": sum(p.size for p in placements),
        "distinct_placed_bytes": sum({p.digest: p.size for p in placements}.values()),
    }
    assert {name: view.counter(name) for name in expected} == expected


def check_directories(view: View) -> None:
    """Each directory's row counts its dentries; each folder of a view that is listed has children."""
    listed = Counter(key[1:18] for key, _ in view.txn.scan(b"d", b"e"))
    counted = {key[1:]: int.from_bytes(value[:8], "little") for key, value in view.txn.scan(b"n", b"o")}
    assert {key: n for key, n in counted.items() if n} == listed
    for key, value in view.txn.scan(b"d", b"e"):
        if key[1:2] in (b"/", b"v"):
            dentry = unpack(key[18:], value)
            if dentry.key[:1] in (b"v", b"b"):
                assert listed[dentry.key]


@settings(
    deadline=None, database=None, max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(commits)
def test_after_anything_the_index_is_right_and_a_rebuild_makes_the_same(tmp_path: Path, commits: list[Any]) -> None:
    root = tmp_path / "any"
    shutil.rmtree(root, ignore_errors=True)
    place.create(root)
    store = Store(root, map_size=1 << 20)
    try:
        for changes in commits:
            commit(store, changes)
            with store.read() as view:
                check(view)
        before = rows(store)
        store.rebuild_index()
        after = rows(store)
        differing = {key: (before.get(key), after.get(key)) for key in before.keys() | after.keys()
                     if before.get(key) != after.get(key)}  # fmt: skip
        assert not differing
        reader = Store(root, read_only=True)
        assert rows(reader).keys() >= after.keys() - {key for key in after if key[:1] == b"m"}
        reader.close()
    finally:
        store.close()


def test_the_documents_follow_what_is_known_of_a_picture(store: Store) -> None:
    """Each record that a document is made of changes its size and revision, in whichever commit it comes."""
    digest = Digest(b"\7" * 32)
    put(store, session(1), Placement(id=uuid(3, 1), session_id=uuid(1, 1), digest=digest, name=b"a.png", size=5))

    def listed() -> bytes:
        with store.read() as view:
            return next(scan_dentries(view.txn, b"p" + key16(uuid(1, 1)))).extra

    seen = [listed()]
    assert seen == [b""]
    for record in (
        Image(digest=digest, media_type="image/png", size=5),
        Annotation(digest=digest, tags=("cat",)),
        Generation(id=uuid(6, 1), session_id=uuid(1, 1), prompt="a cat", outputs=(ImageRef(digest=digest),)),
        Metadata(digest=digest, raw=documents.pack_raw({"workflow": "{}"})),
        Annotation(digest=digest, tags=("dog",)),
    ):
        put(store, record)
        assert listed() not in seen
        seen.append(listed())
    store.commit(lambda txn: txn.delete(Image, digest.hex()))
    assert listed() == b""


def test_a_folder_moves_between_sessions(store: Store) -> None:
    folder = Folder(id=uuid(2, 1), session_id=uuid(1, 1), name=b"inner")
    put(store, session(1), session(2), folder)
    put(store, dataclasses.replace(folder, session_id=uuid(1, 2)))
    with store.read() as view:
        listed = [[d.name for d in scan_dentries(view.txn, b"p" + key16(uuid(1, n)))] for n in (1, 2)]
        assert listed == [[], [b"inner"]]


def test_a_replica_s_journal_that_arrives_is_replayed_when_the_library_is_opened(root: Path, store: Store) -> None:
    put(store, session(1))
    store.close()
    foreign = Journal(root / "journal", ReplicaId(b"elsewher"))
    foreign.append(cbor2.dumps({1: [[1, "theirs", 10**18, 0, {1: "theirs", 3: b"theirs"}]]}))
    foreign.close()
    store = Store(root, map_size=MAP)
    with store.read() as view:
        assert view.get(Session, "theirs") is not None
        assert [d.name for d in scan_dentries(view.txn, fixed("/sessions"))] == [b"Session 1", b"theirs"]
    store.close()


HUGE = [2**63, -(2**63) - 1, 2**70, -(2**70), -5]


@pytest.mark.parametrize("number", HUGE)
def test_numbers_beyond_reason_make_no_commit_fail(store: Store, number: int) -> None:
    """Foreign documents and `touch -d` say what they like; nothing is refused for it (promise 3)."""
    digest = Digest(b"\1" * 32)
    ids = {"session_id": uuid(1, 1)}
    put(
        store,
        session(1, created_ns=number),
        Placement(id="p", digest=digest, name=b"a", mtime_ns=number, added_ns=number, named_ns=number, **ids),
        Image(digest=digest, taken_ns=number, utc_offset_s=number, added_ns=number, media_type="image/png"),
        Generation(id="g", time_ns=number, utc_offset_s=number, seed=number, outputs=(ImageRef(digest=digest),), **ids),
        Entry(id="e", type="text", z=number, named_ns=number, **ids),
    )
    with store.read() as view:
        check(view, times=False)
    put(store, session(1, created_ns=0))
    store.commit(lambda txn: [txn.delete(*key) for key in ((Session, uuid(1, 1)), (Entry, "e"), (Generation, "g"))])
    before = rows(store)
    store.rebuild_index()
    assert rows(store) == before


@pytest.mark.parametrize("items", range(4))
def test_long_documents_are_as_long_as_they_say_with_any_number_of_items(store: Store, items: int) -> None:
    ids = {"session_id": uuid(1, 1)}
    put(store, session(1))
    for n in range(items):
        put(
            store,
            Entry(id=f"e{n}", type="text", text="é" * n, z=-n, **ids),
            Edge(id=f"x{n}", source="a", target="b", **ids),
            Generation(id=f"g{n}", time_ns=n, prompt="ü\n" * n, **ids),
        )
    with store.read() as view:
        check(view)
        assert view.session_row(uuid(1, 1)).entries.items == items
    if items:
        store.commit(lambda txn: [txn.delete(cls, name) for cls, name in ((Entry, "e0"), (Edge, "x0"))])
        put(store, Generation(id="g0", time_ns=9, prompt="other", **ids))
        with store.read() as view:
            check(view)


def test_an_image_entry_is_as_long_as_its_blob_whichever_came_first(store: Store) -> None:
    digest = Digest(b"\1" * 32)
    put(store, session(1), Entry(id="e", session_id=uuid(1, 1), digest=digest))
    put(store, Placement(id="p", session_id=uuid(1, 1), digest=digest, name=b"a.png"))
    put(store, Blob(digest=digest, size=77))
    with store.read() as view:
        check(view)
        assert [d.size for d in scan_dentries(view.txn, b"c" + key16(uuid(1, 1)))] == [77]
