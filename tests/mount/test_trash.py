"""trash/: what was deleted in sessions/ lies there; real programs move it back, or take it away for good."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from box import Box, run
from live import needs_fuse, sha256, until

from mixfs.media.samples import make_sample
from mixfs.records import Entry, Trash

pytestmark = [pytest.mark.mount, needs_fuse]


@pytest.fixture
def trash(box: Box) -> Path:
    """The folder of trash/ of the test's session, in which something was made."""
    box.inbox.mkdir()
    return box.point / "trash" / box.title


def write_on_canvas(box: Box, *texts: str) -> None:
    """Save canvas.json with these texts on it and nothing else."""
    path = box.session / "canvas.json"
    document = json.loads(path.read_bytes())
    document["canvas_images"] = [
        {"canvasId": "note", "type": "text", "x": 10, "y": 20, "width": 100, "height": 50, "text": text}
        for text in texts
    ]
    path.write_text(json.dumps(document))
    # The commit comes at the last release, which close(2) doesn't wait for.
    until(lambda: len(os.listdir(box.session / "canvas")) == len(texts), "the entries", 10)


def test_a_deleted_picture_lies_in_the_trash_and_mv_brings_it_back(box: Box, trash: Path) -> None:
    name, data = make_sample("a1111")
    box.imported(name, data)
    os.setxattr(box.images / name, "user.xdg.tags", b"sea")
    before = (box.placements()[name.encode()].id, sha256(box.images / name))
    (box.images / name).unlink()
    assert os.listdir(trash) == [name] and sha256(trash / name) == before[1]
    status = (trash / name).stat()
    assert status.st_size == len(data) and status.st_mode & 0o777 == 0o444
    assert os.getxattr(trash / name, "user.mixfs.digest").decode() == before[1]
    run("mv", trash / name, box.images)
    assert os.listdir(box.images) == [name] and not trash.exists()
    assert box.placements()[name.encode()].id == before[0]
    assert os.getxattr(box.images / name, "user.xdg.tags") == b"sea"
    assert os.getxattr(box.images / name, "user.mixfs.prompt")
    assert (box.session / "metadata" / f"{name}.json").exists()


def test_it_comes_back_under_another_name_and_into_another_folder(box: Box, trash: Path) -> None:
    first, second = box.imported("a.png").read_bytes(), box.imported("b.png").read_bytes()
    (box.images / "a.png").unlink()
    (box.images / "b.png").unlink()
    (box.images / "deeper").mkdir()
    run("mv", trash / "a.png", box.images / "deeper" / "c.png")
    other = box.point / "sessions" / f"{box.title} other"
    other.mkdir()
    run("mv", trash / "b.png", other / "images")
    assert (box.images / "deeper" / "c.png").read_bytes() == first
    assert (other / "images" / "b.png").read_bytes() == second
    assert os.listdir(box.images) == ["deeper"] and not trash.exists()


def test_older_bytes_come_back_and_the_newer_go_to_the_trash(box: Box, trash: Path) -> None:
    old = box.imported("a.png").read_bytes()
    new = box.imported("a.png").read_bytes()
    assert old != new and (trash / "a.png").read_bytes() == old
    run("mv", trash / "a.png", box.images / "a.png")
    assert (box.images / "a.png").read_bytes() == old
    assert (trash / "a.png").read_bytes() == new
    run("mv", trash / "a.png", box.images / "beside.png")
    assert (box.images / "a.png").read_bytes() == old and (box.images / "beside.png").read_bytes() == new
    assert len(box.placements()) == 2 and not trash.exists()


def test_what_was_no_picture_is_listed_where_it_is_moved_to(box: Box, trash: Path) -> None:
    box.imported("notes.txt", b"the light")
    run("rm", "-r", box.session)
    box.session.mkdir()
    run("mv", trash / "notes.txt", box.images)
    assert (box.images / "notes.txt").read_bytes() == b"the light" and os.listdir(box.session / "files") == []


def test_what_has_the_name_goes_to_the_trash(box: Box, trash: Path) -> None:
    gone = box.imported("a.png").read_bytes()
    (box.inbox / "a.png").unlink()
    (box.images / "a.png").unlink()
    other = box.imported("a.png").read_bytes()
    run("mv", trash / "a.png", box.images / "a.png")
    assert (box.images / "a.png").read_bytes() == gone and (trash / "a.png").read_bytes() == other
    assert run("mv", "-n", trash / "a.png", box.images / "a.png", check=False) and (trash / "a.png").exists()


def test_a_session_that_rm_removed_comes_back_whole(box: Box, trash: Path) -> None:
    for kind in ("a1111", "comfyui"):
        box.imported(*make_sample(kind))
    box.put("notes.txt", b"the light", box.inbox)
    box.put("deeper/x.txt", b"below", box.images)
    box.take_in()
    session_id = box.record().id
    write_on_canvas(box, "on the canvas")

    def shown() -> dict[str, object]:
        return {
            str(path.relative_to(box.session)): sha256(path) if path.is_file() else ""
            for path in sorted(box.session.rglob("*")) if path.parent.name != "thumbnails" and path.suffix != ".json"
        }  # fmt: skip

    before = shown()
    for folder in ("images/deeper/", "generations/", "canvas/"):
        assert any(name.startswith(folder) for name in before)
    run("rm", "-r", box.session)
    assert not box.session.exists() and len(os.listdir(trash)) >= 4
    run("mv", trash, box.point / "sessions")
    assert shown() == before and box.record().id == session_id
    assert not trash.exists(), [(path.name, path.read_bytes()) for path in trash.iterdir()]


def test_a_session_comes_back_under_another_name(box: Box, trash: Path) -> None:
    data = box.imported("a.png").read_bytes()
    run("rm", "-r", box.session)
    back = box.point / "sessions" / f"{box.title} back"
    run("mv", trash, back)
    assert (back / "images" / "a.png").read_bytes() == data
    assert json.loads((back / "session.json").read_bytes())["title"] == back.name
    assert not box.session.exists()


def test_of_a_session_that_lives_only_single_things_move(box: Box, trash: Path) -> None:
    box.imported("a.png")
    (box.images / "a.png").unlink()
    done = run("mv", trash, box.point / "sessions" / f"{box.title} back", check=False)
    assert done.returncode and os.listdir(trash) == ["a.png"]
    run("mv", trash / "a.png", box.images)
    assert os.listdir(box.images) == ["a.png"]


def test_rm_takes_away_for_good(box: Box, trash: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        box.imported(name)
    run("rm", "-r", box.session)
    (trash / "b.png").unlink()
    assert "b.png" not in os.listdir(trash)
    run("rm", "-rf", trash)
    assert not trash.exists() and box.trash() == []
    assert box.title not in os.listdir(box.point / "trash")


def test_canvas_entries_that_a_saved_document_left_out_come_back(box: Box, trash: Path) -> None:
    box.imported("a.png")
    write_on_canvas(box, "on the canvas")
    write_on_canvas(box)
    [name] = os.listdir(trash)
    told = json.loads((trash / name).read_bytes())
    assert name == "canvas.json.trash.json" and told["holds"] == [{"kind": "Entry", "id": "note"}]
    run("mv", trash / name, box.session)
    assert len(os.listdir(box.session / "canvas")) == 1 and not trash.exists()
    assert name not in os.listdir(box.session)


def test_nothing_is_made_or_written_in_the_trash(box: Box, trash: Path) -> None:
    box.imported("a.png")
    box.imported("b.png")
    (box.images / "a.png").unlink()
    for act in (
        lambda: (trash / "new").write_bytes(b"x"), lambda: (trash / "new").mkdir(),
        lambda: (box.point / "trash" / "new").mkdir(), lambda: os.open(trash / "a.png", os.O_WRONLY),
        lambda: os.rename(box.images / "b.png", trash / "b.png"), lambda: os.rename(trash / "a.png", trash / "z.png"),
        lambda: os.rename(trash / "a.png", box.session / "thumbnails" / "z.png"),
    ):  # fmt: skip
        with pytest.raises(PermissionError):
            act()
    assert os.listdir(trash) == ["a.png"] and os.listdir(box.images) == ["b.png"]


def test_out_of_the_mount_it_is_a_plain_move(box: Box, trash: Path) -> None:
    data = box.imported("a.png").read_bytes()
    (box.images / "a.png").unlink()
    run("mv", trash / "a.png", box.source / "kept.png")
    assert (box.source / "kept.png").read_bytes() == data and box.trash() == []
    # Kept for a moment, for whoever removes folders from below.
    assert os.listdir(trash) == []


def test_the_command_line_lists_and_restores(box: Box, trash: Path) -> None:
    box.imported("a.png")
    box.imported("b.png")
    box.imported("c.png")
    for name in ("a.png", "b.png"):
        (box.images / name).unlink()
    listed = json.loads(box.live.mixfs("trash", "--json").stdout)
    [mine] = [item for item in listed if item["session"] == box.title]
    assert mine["name"] == "a.png" and mine["items"] == 2
    box.live.mixfs("restore", trash / "b.png")
    assert sorted(os.listdir(box.images)) == ["b.png", "c.png"]
    box.live.mixfs("restore", mine["id"])
    assert sorted(os.listdir(box.images)) == ["a.png", "b.png", "c.png"]
    run("rm", "-r", box.session)
    box.live.mixfs("restore", box.title)
    assert sorted(os.listdir(box.images)) == ["a.png", "b.png", "c.png"]
    done = box.live.mixfs("restore", "never there", check=False)
    assert done.returncode and "mixfs trash" in done.stderr


def test_a_session_that_the_api_deleted_is_taken_apart_piece_by_piece(box: Box, trash: Path) -> None:
    for number in range(4):
        box.put(f"{number}.png", where=box.inbox)
    box.take_in()
    box.live.api("library.delete_session(sys.argv[2])", box.record().id)
    until(trash.exists, "the session in the trash", 2)
    document = f"{box.title}.trash.json"
    assert sorted(os.listdir(trash)) == [*(f"{number}.png" for number in range(4)), document]
    (trash / "0.png").unlink()
    other = box.point / "sessions" / f"{box.title} other"
    other.mkdir()
    run("mv", trash / "1.png", other / "images")
    assert sorted(os.listdir(trash)) == ["2.png", "3.png", document]
    run("mv", trash, box.point / "sessions")
    assert sorted(os.listdir(box.images)) == ["2.png", "3.png"] and os.listdir(other / "images") == ["1.png"]
    with box.library.read() as view:
        assert not [kept for kept in view.records(Trash) if kept.session_title == box.title]


def fill_canvas(box: Box, entries: int) -> None:
    """More on a session's canvas than one commit moves."""
    box.live.api(
        "from mixfs.records import Entry\n"
        "library.commit(lambda txn: [txn.put(Entry(id=f'{sys.argv[2]} {n}', session_id=sys.argv[2], type='text', "
        f"text=str(n))) for n in range({entries})])",
        box.record().id,
    )


def unfinished(box: Box) -> list[str]:
    with box.library.read() as view:
        return view.unfinished_deletions()


def test_a_large_session_is_gone_and_back_at_once_and_the_rest_follows(box: Box, trash: Path) -> None:
    data = box.imported("a.png").read_bytes()
    session = box.record()
    fill_canvas(box, 450)
    run("rm", "-r", box.session)
    assert not box.session.exists()
    until(lambda: not unfinished(box), "all of it is in the trash", 20)
    with box.library.read() as view:
        assert next(view.members(Entry, session.id), None) is None
        [head] = [head for head, *_ in view.deletions() if head.session_id == session.id]
    assert all(len(item.records) <= 64 for item in box.trash())
    run("mv", trash, box.point / "sessions")
    assert (box.images / "a.png").read_bytes() == data and box.record().id == session.id == head.session_id
    until(lambda: not unfinished(box), "all of it is back", 20)
    assert len(os.listdir(box.session / "canvas")) == 450 and not trash.exists()


def test_a_deletion_that_was_killed_is_finished_by_whoever_opens_the_library(box: Box, trash: Path) -> None:
    box.imported("a.png")
    session_id = box.record().id
    fill_canvas(box, 450)
    box.live.api(
        "import os\nfrom mixfs.library import editing\n"
        "library.store.commit(lambda txn: editing.delete_session(txn, sys.argv[2]))\nos._exit(0)",
        session_id,
    )
    until(lambda: not box.session.exists(), "the session is gone", 20)
    assert unfinished(box)
    with box.library.read() as view:
        assert next(view.members(Entry, session_id), None) is not None
    box.live.api("pass")
    assert not unfinished(box)
    box.live.mixfs("restore", box.title)
    until(lambda: box.session.exists(), "the session is back", 20)
    assert len(os.listdir(box.session / "canvas")) == 450 and os.listdir(box.images) == ["a.png"]
