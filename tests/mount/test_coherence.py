"""What any process changes in the library is seen in the mount within a second, whatever the kernel had cached."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import Live, environment, living, needs_fuse, python, sha256, until

from mixfs.ids import Digest, new_id
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.gc import collect
from mixfs.library.transaction import Txn
from mixfs.media.samples import make_sample
from mixfs.records import Placement

pytestmark = [pytest.mark.mount, needs_fuse]

# It takes a tenth of a second on a quiet machine. What is not told to the kernel is seen a day later.
SEEN_S = 20.0


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path) as live:
        live.start()
        yield live


@pytest.fixture
def beside(live: Live) -> Iterator[Library]:
    """The mounted library, open in another process than the daemon: this one."""
    with Library.open(live.library) as library:
        yield library


def warm(top: Path, *absent: Path) -> None:
    """Have the kernel cache every name and attribute below a folder, and that some names are not there."""
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            os.lstat(os.path.join(folder, name))
    for path in absent:
        assert not os.path.lexists(path)


def seen_soon(condition: Callable[[], object], what: str) -> None:
    until(condition, what, SEEN_S)


def gone(path: Path) -> Callable[[], bool]:
    return lambda: not os.path.lexists(path) and path.name not in os.listdir(path.parent)


def there(path: Path) -> Callable[[], bool]:
    return lambda: os.path.lexists(path) and path.name in os.listdir(path.parent)


def test_what_is_imported_beside_the_mount_appears_wherever_it_is_shown(live: Live, tmp_path: Path):
    point, source = live.point, tmp_path / "Trip"
    source.mkdir()
    first, data = make_sample("a1111")
    second, other = make_sample("comfyui")
    (source / first).write_bytes(data)
    session = point / "sessions" / "Trip"
    warm(point, session)
    live.mixfs("import", source)
    seen_soon(there(session), "the session")
    seen_soon(there(session / "images" / first), "the picture")
    generations = session / "generations"
    absent = [
        session / "images" / second,
        session / "metadata" / f"{second}.json",
        session / "metadata" / f"{second}.xmp",
        session / "metadata" / f"{second}.workflow.json",
        session / "files" / "notes.txt",
        point / "images" / sha256_of(other)[:2],
    ]
    warm(point, *absent)
    before = {
        "models": set(os.listdir(point / "by-model")),
        "generators": set(os.listdir(point / "by-generator")),
        "generations": set(os.listdir(generations)),
    }
    (source / second).write_bytes(other)
    (source / "notes.txt").write_bytes(b"the light\n")
    live.mixfs("import", source)
    for path in absent:
        seen_soon(there(path), str(path))
    assert sha256(session / "images" / second) == sha256_of(other)
    seen_soon(lambda: set(os.listdir(point / "by-model")) > before["models"], "by-model")
    seen_soon(lambda: set(os.listdir(point / "by-generator")) > before["generators"], "by-generator")
    seen_soon(lambda: len(os.listdir(generations)) == len(before["generations"]) + 1, "the generation")
    # Made by the daemon, for what another process brought in.
    until(there(session / "thumbnails" / f"{second}.png"), "the thumbnail", 20)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_deleted_and_retitled_beside_the_mount_goes_and_comes(live: Live):
    name, data = make_sample("a1111")
    live.api("session = library.create_session('Old')\nlibrary.create_session('Doomed')")
    with Library.open(live.library) as library:
        old = library.find_session("Old")
        placement = library.import_bytes(data, name, session_id=old.id)
    sessions = live.point / "sessions"
    seen_soon(there(sessions / "Old" / "images" / name), "the picture")
    warm(live.point, sessions / "New")
    reader = open(sessions / "Old" / "images" / name, "rb")
    metadata = sessions / "Old" / "metadata" / f"{name}.json"
    document = open(metadata, "rb")
    whole = metadata.read_bytes()

    live.api("library.delete_placement(sys.argv[2])", placement.id)
    seen_soon(gone(sessions / "Old" / "images" / name), "the deleted picture")
    seen_soon(gone(metadata), "its metadata")
    with reader, document:
        assert reader.read() == data, "an open file keeps its bytes"
        assert document.read() == whole
        assert os.fstat(document.fileno()).st_size == len(whole)

    live.api("library.retitle_session(sys.argv[2], 'New')", old.id)
    seen_soon(gone(sessions / "Old"), "the old title")
    seen_soon(there(sessions / "New"), "the new title")
    live.api("library.delete_session(library.find_session('Doomed').id)")
    seen_soon(gone(sessions / "Doomed"), "the deleted session")


def test_a_changed_document_is_another_file_and_who_has_it_open_goes_on_reading_it(live: Live, beside: Library):
    session = beside.create_session("A title")
    path = live.point / "sessions" / "A title" / "session.json"
    seen_soon(path.exists, "the session")
    before, whole = os.stat(path), path.read_bytes()
    half = open(path, "rb", buffering=0)
    read = half.read(10)
    beside.update_session(session.id, user_name="somebody whose name is long enough to make the document longer")
    seen_soon(lambda: os.stat(path).st_ino != before.st_ino, "another ino")
    after = path.read_bytes()
    assert after != whole and os.stat(path).st_size == len(after)
    assert json.loads(after)
    with half:
        assert read + half.read() == whole
        assert os.fstat(half.fileno()).st_size == len(whole)


def test_the_mount_goes_on_while_its_index_is_made_again(live: Live, beside: Library):
    name, data = make_sample("a1111")
    session = beside.create_session("Trip")
    beside.import_bytes(data, name, session_id=session.id)
    images = live.point / "sessions" / "Trip" / "images"
    seen_soon(there(images / name), "the picture")
    warm(live.point, images / "b.bin")
    live.mixfs("rebuild-index")
    assert sha256(images / name) == sha256_of(data)
    beside.import_bytes(b"later", "later.bin", session_id=session.id)
    until(there(live.point / "sessions" / "Trip" / "files" / "later.bin"), "what came after the rebuild", 2)
    live.api("library.retitle_session(sys.argv[2], 'Journey')", session.id)
    until(there(live.point / "sessions" / "Journey"), "the new title", 2)
    until(gone(live.point / "sessions" / "Trip"), "the old title", 2)


def test_the_mount_goes_on_when_its_index_is_deleted(live: Live, beside: Library):
    session = beside.create_session("Trip")
    placement = beside.import_bytes(b"early", "early.bin", session_id=session.id)
    files = live.point / "sessions" / "Trip" / "files"
    seen_soon(there(files / "early.bin"), "the file")
    warm(live.point, files / "late.bin")
    shutil.rmtree(live.library / "index")
    assert (files / "early.bin").read_bytes() == b"early"
    beside.import_bytes(b"late", "late.bin", session_id=session.id)
    until(there(files / "late.bin"), "what came afterwards", 2)
    live.api("library.delete_placement(sys.argv[2])", placement.id)
    until(gone(files / "early.bin"), "what was deleted afterwards", 2)
    (live.point / "import" / "Trip").mkdir()
    (live.point / "import" / "Trip" / "through.bin").write_bytes(b"through the mount")
    live.take_in()
    assert (files / "through.bin").read_bytes() == b"through the mount"


# Adds and removes names of one folder in commits of a few, as fast as it can, and says what is left.
CHURN = """
import random, sys
from mixfs.ids import Digest, new_id
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.library.gc import collect
from mixfs.records import Placement
root, session_id, seed, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
with Library.open(root) as library:
    held = {p.name: p for p in library.placements(session_id)}
    removed = set()
    for n in range(rounds):
        going = rng.sample(sorted(held), 12)
        coming = [b"%05d-%d" % (rng.randrange(100_000), n) for _ in range(12)]
        coming += rng.sample(sorted(removed), min(4, len(removed)))
        def change(txn):
            for name in going:
                editing.delete_placement(txn, held[name].id)
            return [
                editing.place(txn, Placement(id=new_id(), session_id=session_id, digest=Digest(rng.randbytes(32)),
                                             size=7, name=name, area="images"))
                for name in dict.fromkeys(coming)
            ]
        made = library.commit(change)
        for name in going:
            del held[name]
        removed |= set(going)
        for placement in made:
            held[placement.name] = placement
            removed.discard(placement.name)
sys.stdout.buffer.write(b"".join(b"+" + name + b"\\n" for name in held) + b"".join(b"-" + n + b"\\n" for n in removed))
"""
NAMES = 3000


def placed(library: Library, count: int) -> str:
    """A session with many names in images/, of bytes that nobody is going to read."""
    session = library.create_session("Many")

    def put(txn: Txn) -> None:
        for n in range(count):
            digest, name = Digest(n.to_bytes(32, "big")), b"%05d" % (n * 100_000 // count)
            editing.place(
                txn,
                Placement(id=new_id(), session_id=session.id, digest=digest, size=7, name=name, area="images"),
            )

    library.commit(put)
    return session.id


@pytest.mark.parametrize("seed", range(4))
def test_a_listing_amid_changes_brings_no_removed_name_back_and_hides_no_new_one(
    live: Live, beside: Library, seed: int
) -> None:
    """A page of a listing tells the kernel of names for a day: none that was removed before may be among them."""
    session_id = placed(beside, NAMES)
    images = live.point / "sessions" / "Many" / "images"
    until(lambda: images.exists() and len(os.listdir(images)) == NAMES, "the names", 5)
    stop, rng = threading.Event(), random.Random(seed)
    listings: list[int] = []

    def list_on() -> None:
        pause = threading.Event()
        while not stop.is_set():
            seen = 0
            with os.scandir(images) as scan:
                for entry in scan:
                    seen += 1
                    # A page of getdents(2) holds some hundred names: stand still in the middle of some.
                    if rng.random() < 0.003:
                        pause.wait(rng.uniform(0, 0.01))
                    if rng.random() < 0.02:
                        try:
                            os.stat(entry.path)
                        except FileNotFoundError:
                            pass
            listings.append(seen)

    threads = [threading.Thread(target=list_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        done = subprocess.run(
            python("-c", CHURN, live.library, session_id, str(seed), "60"), env=environment(), capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert done.returncode == 0, done.stderr.decode()
    assert listings, "no listing came to its end meanwhile"
    lines = done.stdout.splitlines()
    held = {line[1:] for line in lines if line[:1] == b"+"}
    removed = {line[1:] for line in lines if line[:1] == b"-"}
    assert len(removed) > 300 and not held & removed

    def wrong() -> list[bytes]:
        top = os.fsencode(images)
        bad = [name for name in removed if os.path.lexists(top + b"/" + name)]
        bad += [name for name in held if not os.path.lexists(top + b"/" + name)]
        return bad

    until(lambda: not wrong(), "the kernel has forgotten", SEEN_S)
    assert set(os.listdir(os.fsencode(images))) == held
    assert not wrong()


def test_who_stands_in_a_folder_keeps_its_path_while_files_are_copied_there(live: Live, tmp_path: Path):
    trip = live.point / "import" / "Trip"
    trip.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    for n in range(60):
        (source / f"{n}.bin").write_bytes(b"%d" % n)
    # Prints its path whenever it is asked.
    program = "import os, sys\nfor line in sys.stdin:\n    print(os.getcwd(), flush=True)\n"
    standing = subprocess.Popen(
        python("-c", program), cwd=trip, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert standing.stdin is not None and standing.stdout is not None

    def where() -> str:
        assert standing.stdin is not None and standing.stdout is not None
        standing.stdin.write("?\n")
        standing.stdin.flush()
        return standing.stdout.readline().rstrip("\n")

    try:
        assert where() == str(trip)
        copier = subprocess.Popen(["cp", "-r", f"{source}/.", str(trip)])
        while copier.poll() is None:
            assert where() == str(trip)
        assert copier.returncode == 0
        live.take_in()
        assert where() == str(trip)
        live.api("library.create_session('Another')\nlibrary.import_bytes(b'x', 'beside.bin')")
        until(lambda: (live.point / "sessions" / "Inbox").exists(), "what came beside", SEEN_S)
        assert where() == str(trip)
    finally:
        standing.stdin.close()
        standing.wait(timeout=10)
        standing.stdout.close()


def test_a_failed_lookup_is_an_enoent_and_not_an_empty_name(live: Live):
    for path in (live.point / "sessions" / "none", live.point / "import" / "none", live.point / "none"):
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                os.stat(path)
            assert caught.value.errno == errno.ENOENT


def test_what_is_open_and_was_never_read_outlives_its_blob(live: Live, beside: Library):
    # Opening asks the index alone: the blob is opened by the first read, which here comes when its name is gone.
    _, data = make_sample("a1111")
    session = beside.create_session("Trip")
    placement = beside.import_bytes(data, "a.png", session_id=session.id)
    shown = live.point / "sessions" / "Trip" / "images" / "a.png"
    seen_soon(there(shown), "the picture")
    with shown.open("rb", buffering=0) as opened:
        beside.delete_session(session.id)
        seen_soon(lambda: not shown.exists(), "that it was deleted")
        collect(beside, trash_days=0, grace_hours=0)
        assert not beside.blobs.path(placement.digest).exists()
        assert opened.read() == data
