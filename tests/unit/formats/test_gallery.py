"""Gallery JSON: what comes in, the slim JSON, and what is reported."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from format_home import picture, take

from mixfs.errors import InvalidValue
from mixfs.formats.base import beside, data_uri
from mixfs.formats.layouts import detect
from mixfs.library.api import Library
from mixfs.records import Placement

ID = "0c607fe9-a4d5-4af8-9127-bd471e7ce857"


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(image_id: str, url: str, room: str = "hall", **fields: Any) -> dict[str, Any]:
    return {"id": image_id, "roomType": {"id": room, "name": room.title()}, "url": url, "selected": True} | fields


def gallery() -> dict[str, Any]:
    return {
        "sessions": [
            {
                "id": ID, "createdAt": "2025-12-09T10:00:00.000Z", "style": "japandi",
                "images": [
                    image("98ceb485-1", uri(picture(1)), "living-room", xfuture=1.5),
                    # The claimed type is wrong, as is the one behind it.
                    image("98ceb485-2", uri(picture(2, "JPEG")), "living-room"),
                    image("0000abcd-1", f"/api/images/sessions/{ID}/hall-0000abcd.png"),
                ],
                "behind": "the pictures",
            },
            {
                "images": [
                    image("ph", "https://placehold.co/1024?text=Failed"),
                    image("broken", "data:image/png;base64,@@@"),
                    image("escape", "/api/images/sessions/../../secret", "../../x"),
                    image("odd", "ftp://x"),
                    image("gone", "/api/images/sessions/s2/none.png"),
                    3,
                    image("good", uri(picture(4)), "../../x"),
                    image("good", uri(picture(5)), "../../x"),
                ],
                "name": "Named", "id": "s2",
            },
            {"images": [image("x", uri(picture(6)))]},
            7,
            {"id": "empty"},
        ],
        "prefs": {"theme": "dark"},
    }  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "images" / "sessions" / ID).mkdir(parents=True)
    (folder / "images" / "sessions" / ID / "hall-0000abcd.png").write_bytes(picture(3))
    (folder / "secret").write_bytes(b"secret")
    (folder / "gallery_data.json").write_text(json.dumps(gallery()))
    return folder


def names(library: Library, session_id: str) -> dict[bytes, bytes]:
    return {item.name: library.read_image(item.digest) for item in library.placements(session_id)}


def test_sessions_and_pictures_come_in(library: Library, source: Path) -> None:
    before = (source / "gallery_data.json").read_bytes()
    report = take(library, source)
    assert report.taken == {"sessions": 3, "pictures": 5}
    assert [problem.place for problem in report.not_taken] == [
        "sessions[2]", "sessions[3]", "sessions[1].images[1]", "sessions[1].images[2]", "sessions[1].images[3]",
        "sessions[1].images[4]", "sessions[1].images[5]",
    ]  # fmt: skip
    assert [item.place for item in report.skipped] == ["sessions[1].images[0]"]
    # By the file, not by the folder that it lies in.
    assert {item.file for item in (*report.not_taken, *report.skipped)} == {str(source / "gallery_data.json")}
    assert names(library, ID) == {
        b"living-room-98ceb485.png": picture(1), b"living-room-98ceb485.jpg": picture(2, "JPEG"),
        b"hall-0000abcd.png": picture(3),
    }  # fmt: skip
    assert names(library, "s2") == {b"-..-x-good.png": picture(4), b"-..-x-good#7.png": picture(5)}
    session = library.session(ID)
    assert session.title == "Gallery 0c607fe9" and library.session("s2").title == "Named"
    assert session.created_ns == 1_765_274_400_000_000_000
    assert session.foreign["gallery"] == {
        "createdAt": "2025-12-09T10:00:00.000Z", "style": "japandi", "behind": "the pictures",
        "document": {"prefs": {"theme": "dark"}},
    }  # fmt: skip
    kept = next(item for item in library.placements(ID) if item.name == b"living-room-98ceb485.png").foreign["gallery"]
    assert kept["xfuture"] == 1.5 and kept["selected"] is True and "url" not in kept
    assert (source / "gallery_data.json").read_bytes() == before


def test_a_second_import_changes_nothing(library: Library, source: Path) -> None:
    would = take(library, source, dry_run=True)
    assert library.sessions() == []
    first = take(library, source)
    assert (would.taken, would.not_taken) == (first.taken, first.not_taken)
    with library.read() as view:
        state = view.state()
    again = take(library, source / "gallery_data.json")
    assert (again.taken, again.known, again.differs) == ({}, first.taken, 0)
    with library.read() as view:
        assert view.state()[0] == state[0]


def test_rewrite_is_the_same_without_what_was_taken(library: Library, source: Path, tmp_path: Path) -> None:
    slim = tmp_path / "slim.json"
    take(library, source, rewrite=slim)
    written, expected = json.loads(slim.read_text()), gallery()
    urls = [image.get("url") for image in written["sessions"][0]["images"]]
    for index in (0, 1, 2):
        expected["sessions"][0]["images"][index]["url"] = urls[index]
    for index in (6, 7):
        expected["sessions"][1]["images"][index]["url"] = written["sessions"][1]["images"][index]["url"]
    assert written == expected
    assert urls[0] == f"/api/images/sessions/{ID}/living-room-98ceb485.png"
    assert urls[2] == gallery()["sessions"][0]["images"][2]["url"]
    # With the files beside it, the slim one is as good as the other.
    for session_id in (ID, "s2"):
        folder = tmp_path / "images" / "sessions" / session_id
        folder.mkdir(parents=True)
        for name, data in names(library, session_id).items():
            (folder / name.decode()).write_bytes(data)
    again = take(library, slim)
    assert again.taken == {} and again.known["pictures"] == 5
    refused = take(library, source, rewrite=slim)
    assert "exists" in refused.not_taken[0].reason and json.loads(slim.read_text()) == written
    assert not list(tmp_path.glob(".mixfs-*"))


def test_what_stands_before_a_broken_place_is_taken(library: Library, source: Path, tmp_path: Path) -> None:
    path = source / "gallery_data.json"
    text = path.read_text()
    path.write_text(text[: text.index('"selected": true, "xfuture"') + 200])
    report = take(library, path, rewrite=tmp_path / "slim.json")
    assert report.taken == {"sessions": 1, "pictures": 1}
    assert "no valid JSON" in report.not_taken[0].reason and "is not written" in report.not_taken[1].reason
    assert not (tmp_path / "slim.json").exists() and not list(tmp_path.glob(".mixfs-*"))
    path.write_text('{"sessions": [{"images": [' + "[" * 100_000)
    assert "Line 1, column 100027" in take(library, path).not_taken[0].reason


def test_a_link_that_leads_out_is_not_followed(library: Library, source: Path) -> None:
    path = source / "images" / "sessions" / ID / "hall-0000abcd.png"
    path.unlink()
    path.symlink_to(source / "secret")
    assert "sessions[0].images[2]" in [problem.place for problem in take(library, source).not_taken]
    # Neither is one on the way.
    path.unlink()
    (source / "images" / "sessions" / ID).rename(source.parent / "elsewhere")
    (source.parent / "elsewhere" / path.name).write_bytes(picture(3))
    (source / "images" / "sessions" / ID).symlink_to(source.parent / "elsewhere")
    assert "sessions[0].images[2]" in [problem.place for problem in take(library, source).not_taken]


def test_a_session_comes_in_several_commits(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for files, commits in ((32, 5), (1, 8)):
        monkeypatch.setattr("mixfs.formats.gallery._BATCH_FILES", files)
        with Library.open(tmp_path / f"library{files}") as library:
            with library.read() as view:
                before = view.sequence()
            assert take(library, source).taken == {"sessions": 3, "pictures": 5}
            with library.read() as view:
                assert view.sequence() - before <= commits and (files > 1 or view.sequence() - before > 5)


def test_detection_goes_by_content(source: Path, tmp_path: Path) -> None:
    for text, found in (
        (json.dumps(gallery()), True), ("\ufeff" + json.dumps(gallery()), True), ('{"sessions": []}', False),
        ('{"sessions": [{"x": {"images": []}}]}', False), ('{"a": {"sessions": [{"images": []}]}}', False),
        ("[]", False), ("{", False), ("", False),
    ):  # fmt: skip
        path = tmp_path / "any.json"
        path.write_text(text)
        assert (detect(path) is not None) is found, text[:80]
    assert detect(source) is not None and detect(tmp_path) is None


@pytest.mark.parametrize("text", ["data:", "data:,", "data:image/png;base64,", "data:;base64,a", "data:;base64,\u00e9"])
def test_data_uris_that_are_none(text: str) -> None:
    with pytest.raises(InvalidValue):
        data_uri(text)


def test_data_uris() -> None:
    assert data_uri("data:text/plain,a%20b") == b"a b"
    assert data_uri("data:image/png;x=y;BASE64,YWJj\r\n ZGVm") == b"abcdef"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "..\\a", "/etc/passwd", "\\etc", "a\0b", "", "."])
def test_paths_that_lead_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidValue):
        beside(tmp_path, path)


_MEASURED = """
import sys
from pathlib import Path
from mixfs.formats.layouts import detect, import_layout
from mixfs.library.api import Library
with Library.open(sys.argv[1]) as library:
    path = Path(sys.argv[2])
    report = import_layout(library, detect(path), path)
assert not report.not_taken, report.not_taken
assert report.taken == {"sessions": 4, "pictures": 32}, report.taken
# Not ru_maxrss, which a process takes over from the one that started it.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A file of 64 MB, most of it in 32 pictures; a whole read of it would show."""
    path = tmp_path / "gallery_data.json"
    with path.open("w") as file:
        file.write('{"sessions": [')
        for session in range(4):
            file.write(f'{"," if session else ""}{{"id": "s{session}", "images": [')
            for at in range(8):
                data = picture(8 * session + at) + bytes(1_500_000)
                file.write(("," if at else "") + json.dumps(image(f"{at}", uri(data))))
            file.write("]}")
        file.write("]}")
    size = path.stat().st_size
    assert size > 60 << 20
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURED, tmp_path / "library", path], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 128 << 10, f"{int(ran.stdout) >> 10} MiB were used"


def test_the_command_line_and_the_samples_that_others_made(home: Home, samples: Path, tmp_path: Path) -> None:
    expected = json.loads((samples / "EXPECTED.json").read_text())["gallery"]
    ran = home.run("import", samples / "gallery", "--rewrite", tmp_path / "slim.json", "--json", code=1)
    [report] = ran.json["layouts"]
    assert report["taken"] == {"sessions": expected["sessions"], "pictures": expected["images"]}
    assert (len(report["not_taken"]), len(report["skipped"])) == (expected["not_taken"], expected["placeholder"])
    with Library.open(home.library) as library, library.read() as view:
        assert {item.digest.hex() for item in view.records(Placement)} == set(expected["digests"])
    assert len((tmp_path / "slim.json").read_text()) < 5000
