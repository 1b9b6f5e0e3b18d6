"""`mixfs.Library` as a Python user has it: what makes no sense is refused with a reason, and several may use it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixfs import Library
from mixfs.errors import InvalidValue, LibraryError, NameTooLong, NotALibrary, NotFoundError
from mixfs.media.samples import make_sample
from mixfs.records import Entry, Session

MAP = 1 << 22


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library", map_size=MAP) as library:
        yield library


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda lib, s: lib.import_bytes(b"x", "a/b.txt"), InvalidValue, "no file name"),
        (lambda lib, s: lib.import_bytes(b"x", ".."), InvalidValue, "no file name"),
        (lambda lib, s: lib.import_bytes(b"x", "a\0"), InvalidValue, "no file name"),
        (lambda lib, s: lib.import_bytes(b"x", "é" * 128), NameTooLong, "256 bytes"),
        (lambda lib, s: lib.import_bytes(b"x", "a", session_id="none"), NotFoundError, "none"),
        (lambda lib, s: lib.create_session(" "), InvalidValue, "title"),
        (lambda lib, s: lib.create_session(5), InvalidValue, "title"),
        (lambda lib, s: lib.retitle_session(s.id, ""), InvalidValue, "title"),
        (lambda lib, s: lib.retitle_session("none", "x"), NotFoundError, "none"),
        (lambda lib, s: lib.update_session(s.id, id="other"), InvalidValue, "user_id"),
        (lambda lib, s: lib.update_session(s.id, zoom="big"), InvalidValue, "Session.zoom"),
        (lambda lib, s: lib.put_entry(Entry(id="e", session_id="none")), NotFoundError, "none"),
        (lambda lib, s: lib.put_entry(Entry(id="e", session_id=s.id, data={"x": object()})), InvalidValue, "kept"),
        (lambda lib, s: lib.create_session("half \ud800"), InvalidValue, "kept"),
        (lambda lib, s: lib.delete_entry("e"), NotFoundError, "entry"),
        (lambda lib, s: lib.annotate("00" * 32, rating=3), NotFoundError, "no image"),
        (lambda lib, s: lib.read_image("zz"), NotFoundError, "64 hex"),
        (lambda lib, s: lib.read_image(b"zz"), NotFoundError, "32 bytes"),
        (lambda lib, s: lib.restore("none"), NotFoundError, "trash"),
        (lambda lib, s: Library.open("/etc/passwd"), NotALibrary, "is a file"),
    ],
)
def test_what_can_t_be_meant_is_refused_with_the_reason(
    library: Library, ask: Callable[[Library, Session], Any], error: type[Exception], words: str
) -> None:
    session = library.create_session("s")
    end = library.store.written_end()
    with pytest.raises(error, match=words):
        ask(library, session)
    assert library.store.written_end() == end


@pytest.mark.parametrize("fields", [{"rating": 11}, {"rating": -1}, {"rating": 2.5}, {"tags": "sea"}, {"stars": 3}])
def test_an_annotation_of_another_shape_is_refused(library: Library, fields: dict[str, Any]) -> None:
    name, data = make_sample("a1111")
    placement = library.import_bytes(data, name)
    with pytest.raises(InvalidValue):
        library.annotate(placement.digest, **fields)
    assert library.annotate(placement.digest, tags=["sea"], rating=10).rating == 10
    assert library.annotation(placement.digest.hex()).tags == ("sea",)


def test_one_path_is_one_path(library: Library, tmp_path: Path) -> None:
    (tmp_path / "Trip").mkdir()
    (tmp_path / "Trip" / "a.txt").write_text("a")
    for path in (str(tmp_path / "Trip"), tmp_path / "Trip"):
        assert library.import_paths(path).files == 1
    assert [session.title for session in library.sessions()] == ["Trip"]


def test_what_can_t_be_looked_at_fails_by_itself(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "Odd"
    folder.mkdir()
    (folder / "good.txt").write_text("good")
    (folder / "loop").symlink_to("loop")
    report = library.import_paths(folder)
    assert report.kept_as_files == 1
    assert [Path(failure.path).name for failure in report.failed] == ["loop"]


def test_a_closed_library_says_so(tmp_path: Path) -> None:
    library = Library.open(tmp_path / "library", map_size=MAP)
    library.close()
    library.close()
    for ask in (library.sessions, lambda: library.create_session("x")):
        with pytest.raises(LibraryError, match="closed"):
            ask()


_OTHER = """
import sys
from mixfs import Library
with Library.open(sys.argv[1], map_size=1 << 22) as library:
    session = library.create_session("other")
    for n in range(30):
        library.import_bytes(b"other %d" % n, "a.txt", session_id=session.id)
"""


def test_two_threads_and_another_process_at_once_and_one_that_follows(library: Library, tmp_path: Path) -> None:
    followed: list[str] = []
    enough = threading.Event()
    begun = library.store.written_end()

    def follow() -> None:
        for change in library.follow_changes(begun, stop=enough, poll_ms=100):
            if change.kind == "Placement" and not change.deleted:
                followed.append(change.entity_id)
                if len(followed) == 90:
                    enough.set()

    def work(n: int) -> None:
        session = library.create_session(f"thread {n}")
        for i in range(30):
            library.import_bytes(b"%d %d" % (n, i), "a.txt", session_id=session.id)

    threads = [threading.Thread(target=follow), *(threading.Thread(target=work, args=(n,)) for n in range(2))]
    for thread in threads:
        thread.start()
    subprocess.run([sys.executable, "-c", _OTHER, str(tmp_path / "library")], check=True, timeout=60)
    for thread in threads:
        thread.join(60)
    assert enough.is_set()
    assert {len(library.placements(session.id)) for session in library.sessions()} == {30}
    assert sorted(followed) == sorted(p.id for s in library.sessions() for p in library.placements(s.id))
