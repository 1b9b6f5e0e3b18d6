"""What real programs put into a mount is in the library byte for byte, and names mean what they mean on a disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from box import Box, png, run, same
from live import environment, needs_fuse, python, sha256, until
from PIL import Image

pytestmark = [pytest.mark.mount, needs_fuse]

# Even seconds: a zip file keeps no others.
TIME_S = 1_600_000_000
NAMES = ("a.png", "b with space.png", "deeper/c.png", "deeper/still/ä.png")


def tree_of(box: Box) -> Path:
    """A folder of pictures with a time and modes of their own."""
    folder = box.source / box.title
    for n, name in enumerate(NAMES):
        path = box.put(name, where=folder)
        os.chmod(path, 0o640 if n % 2 else 0o644)
        os.utime(path, (TIME_S + 2 * n, TIME_S + 2 * n))
    return folder


def each(command: list[str]) -> Callable[[Path, Path], None]:
    """A program that copies file by file."""

    def copy(source: Path, target: Path) -> None:
        for name in NAMES:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            run(*command, source / name, target / name)

    return copy


def moved(source: Path, target: Path) -> None:
    kept = source.with_name("kept")
    shutil.copytree(source, kept)
    run("mv", source, target)
    assert not source.exists()
    os.rename(kept, source)


def tar(source: Path, target: Path) -> None:
    archive = source.with_suffix(".tar")
    run("tar", "cf", archive, "-C", source, ".")
    target.mkdir()
    run("tar", "xpf", archive, "-C", target)


def unzip(source: Path, target: Path) -> None:
    archive = source.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as packed:
        for name in NAMES:
            packed.write(source / name, name)
    run("unzip", "-q", archive, "-d", target)


def rsync(source: Path, target: Path) -> None:
    run("rsync", "-a", f"{source}/", f"{target}/")


def copytree(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


PROGRAMS: dict[str, tuple[Callable[[Path, Path], None], bool]] = {
    # Whether it keeps times and modes.
    "cp": (each(["cp"]), False),
    "cp -p": (each(["cp", "-p"]), True),
    "cp -r": (lambda source, target: run("cp", "-r", source, target) and None, False),
    "cp -a": (lambda source, target: run("cp", "-a", source, target) and None, True),
    "mv": (moved, True),
    "install": (each(["install", "-m", "644"]), False),
    "rsync -a": (rsync, True),
    "tar": (tar, True),
    "unzip": (unzip, True),
    "gio copy": (each(["gio", "copy"]), False),
    "copytree": (copytree, True),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_copies_in_is_taken_in_whole(box: Box, program: str):
    copy, keeps = PROGRAMS[program]
    source = tree_of(box)
    copy(source, box.inbox)
    before = {name: os.stat(box.inbox / name) for name in NAMES}
    box.take_in()
    for name in NAMES:
        receipt, placement, original = box.inbox / name, box.images / name, source / name
        same(original, receipt)
        same(original, placement)
        now, was = os.stat(receipt), os.stat(original)
        assert now.st_ino == before[name].st_ino
        assert now.st_mtime_ns == before[name].st_mtime_ns
        assert now.st_mode == before[name].st_mode
        if keeps:
            assert now.st_mtime == was.st_mtime
            assert now.st_mode == was.st_mode
            assert os.stat(placement).st_mtime == was.st_mtime
    found = {path.relative_to(box.images).as_posix() for path in box.images.rglob("*") if path.is_file()}
    assert found == set(NAMES)
    assert len(box.placements()) == len(NAMES)


def test_a_second_rsync_transfers_nothing(box: Box):
    source = tree_of(box)
    rsync(source, box.inbox)
    again = run("rsync", "-a", "--itemize-changes", f"{source}/", f"{box.inbox}/")
    assert again.stdout == b""
    box.take_in()
    again = run("rsync", "-a", "--itemize-changes", "--stats", f"{source}/", f"{box.inbox}/")
    assert b"Number of regular files transferred: 0" in again.stdout, again.stdout
    assert not [line for line in again.stdout.splitlines() if line.startswith((b"<", b">", b"c", b"."))], again.stdout


def test_rsync_with_attributes(box: Box):
    source = tree_of(box)
    try:
        os.setxattr(source / NAMES[0], "user.kept", b"yes")
    except OSError as error:
        pytest.skip(f"NOT RUN: {source} has no user attributes ({error})")
    run("rsync", "-aX", f"{source}/", f"{box.inbox}/")
    box.take_in()
    assert os.getxattr(box.inbox / NAMES[0], "user.kept") == b"yes"


def test_mixfs_wait_returns_when_all_is_in_the_library(box: Box):
    source = tree_of(box)
    run("cp", "-r", source, box.inbox)
    box.put("waiting.png.part", where=box.inbox)
    done = subprocess.run(
        python("-m", "mixfs.cli.main", "wait", box.point), env=environment(), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert "waiting.png.part" in done.stdout
    assert len(box.placements()) == len(NAMES)
    os.unlink(box.inbox / "waiting.png.part")


def test_mixfs_wait_names_what_takes_long_and_can_be_interrupted(box: Box):
    huge = box.put("huge.bin", b"begins", where=box.inbox)
    os.truncate(huge, 200 << 30)
    words = python("-m", "mixfs.cli.main", "wait", box.point)
    env = environment() | {"MIXFS_LIBRARY": str(box.live.library)}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("Taking in huge.bin (")
        # The others don't wait for it.
        small = box.put("a.png", where=box.inbox)
        until(lambda: (box.images / "a.png").exists(), "the small file")
        same(small, box.images / "a.png")
        health = json.loads((box.point / ".mixfs" / "health.json").read_bytes())
        assert [each["name"] for each in health["taking_in"]] == ["huge.bin"]
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate(timeout=30)
    assert waiting.returncode == 130 and "Not in the library yet: huge.bin" in told
    huge.unlink()
    box.take_in()


def test_sync_on_imported_waits_as_well(box: Box):
    box.put("a.png", where=box.inbox)
    run("sync", box.point / ".mixfs" / "imported")
    assert set(box.placements()) == {b"a.png"}


def test_imagemagick_saves_into_import(box: Box):
    box.inbox.mkdir()
    # Here `convert` may be a stand-in that can't make pictures.
    program = next((name for name in ("/usr/bin/magick", "/usr/bin/convert") if os.path.exists(name)), None)
    if program is None:
        pytest.skip("NOT RUN: there is no ImageMagick here")
    for name in ("rose.png", "rose.jpg", "rose.webp"):
        run(program, "rose:", "-resize", "300x200", box.inbox / name)
    box.take_in()
    for name in ("rose.png", "rose.jpg", "rose.webp"):
        same(box.inbox / name, box.images / name)
        with Image.open(box.images / name) as image:
            image.load()
    # Saving over it is a new version of the same placement.
    first = box.placements()[b"rose.png"]
    run(program, "rose:", "-rotate", "90", box.inbox / "rose.png")
    box.take_in()
    assert box.placements()[b"rose.png"].id == first.id
    assert box.placements()[b"rose.png"].digest != first.digest


def test_pillow_saves_into_import(box: Box):
    box.inbox.mkdir()
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.tif"):
        Image.effect_noise((120, 80), 50).convert("RGB").save(box.inbox / name)
    box.take_in()
    for name in ("a.png", "a.jpg", "a.webp", "a.gif"):
        same(box.inbox / name, box.images / name)
        with Image.open(box.images / name) as image:
            image.load()


def test_a_download_is_taken_in_under_its_real_name_only(box: Box):
    box.inbox.mkdir()
    data = png()
    for part in (box.inbox / "chromium.png.crdownload", box.inbox / "firefox.png.part"):
        real = part.with_suffix("")
        if "firefox" in part.name:
            real.touch()
        part.write_bytes(data[:100])
        box.take_in()
        with open(part, "ab") as file:
            file.write(data[100:])
        box.take_in()
        ino = os.stat(part).st_ino
        assert real.name.encode() not in box.placements()
        assert not box.images.joinpath(part.name).exists()
        os.rename(part, real)
        box.take_in()
        assert os.stat(real).st_ino == ino
        assert real.read_bytes() == data == (box.images / real.name).read_bytes()
    assert set(os.listdir(box.inbox)) == {"chromium.png", "firefox.png"} == set(os.listdir(box.images))


def test_exiftool_and_sed_and_vim_edit_in_place(box: Box):
    picture = box.imported("a.png")
    placement = box.placements()[b"a.png"]
    run("exiftool", "-overwrite_original", "-Comment=hello", picture)
    box.take_in()
    assert set(os.listdir(box.inbox)) == {"a.png"}
    assert b"hello" in picture.read_bytes()
    changed = box.placements()[b"a.png"]
    assert changed.digest != placement.digest
    assert changed.id == placement.id
    text = box.imported("notes.txt", b"one\n")
    run("sed", "-i", "s/one/two/", text)
    box.take_in()
    assert text.read_bytes() == (box.session / "files" / "notes.txt").read_bytes() == b"two\n"


def test_the_same_bytes_are_stored_once(box: Box):
    data = png()
    box.put("a.png", data, box.inbox)
    box.put("b.png", data, box.inbox)
    box.put("deeper/a.png", data, box.inbox)
    box.take_in()
    session = box.record()
    assert session is not None
    placements = box.library.placements(session.id)
    assert len(placements) == 3
    assert len({placement.digest for placement in placements}) == 1
    digest = sha256(box.inbox / "a.png")
    blobs = [path for path in (box.live.library / "blobs").rglob("*") if path.is_file()]
    assert sum(digest in path.as_posix().replace("/", "") for path in blobs) == 1
    assert os.stat(box.images / "a.png").st_ino != os.stat(box.images / "b.png").st_ino


def test_copying_a_folder_again_changes_nothing(box: Box):
    source = tree_of(box)
    run("cp", "-r", source, box.inbox)
    box.take_in()
    before = box.placements()
    run("rm", "-r", box.inbox)
    assert not box.inbox.exists()
    assert {path.name for path in box.images.rglob("*.png")} == {Path(name).name for name in NAMES}
    run("cp", "-r", source, box.inbox)
    box.take_in()
    assert box.placements() == before
    assert not box.trash()


def test_other_bytes_under_a_name_without_receipt_are_another_picture(box: Box):
    first = box.imported("name.png").read_bytes()
    os.unlink(box.inbox / "name.png")
    second = box.imported("name.png").read_bytes()
    assert (box.images / "name.png").read_bytes() == first
    assert (box.images / "name (2).png").read_bytes() == second
    assert sorted(os.listdir(box.images)) == ["name (2).png", "name.png"]


def test_removing_a_receipt_leaves_the_picture(box: Box):
    receipt = box.imported()
    data = receipt.read_bytes()
    run("rm", receipt)
    assert os.listdir(box.inbox) == []
    assert (box.images / "a.png").read_bytes() == data


def test_renaming_a_receipt_renames_the_picture(box: Box):
    receipt = box.imported()
    ino, data = receipt.stat().st_ino, receipt.read_bytes()
    os.listdir(box.images)
    run("mv", receipt, box.inbox / "better.png")
    assert os.listdir(box.images) == ["better.png"]
    assert (box.images / "better.png").read_bytes() == data == (box.inbox / "better.png").read_bytes()
    assert (box.inbox / "better.png").stat().st_ino == ino
    run("mkdir", box.inbox / "sub")
    run("mv", box.inbox / "better.png", box.inbox / "sub")
    assert (box.images / "sub" / "better.png").read_bytes() == data


def test_renaming_a_folder_of_import_retitles_its_session(box: Box):
    receipt = box.imported()
    ino = receipt.stat().st_ino
    session = box.record()
    renamed = box.inbox.with_name(f"{box.title} in Rome")
    run("mv", box.inbox, renamed)
    assert not box.session.exists()
    assert (box.session.with_name(renamed.name) / "images" / "a.png").exists()
    assert (renamed / "a.png").stat().st_ino == ino
    after = box.record(renamed.name)
    assert after is not None
    assert session is not None
    assert after.id == session.id


def test_overwriting_a_receipt_makes_a_new_version(box: Box):
    receipt = box.imported()
    before, ino = box.placements()[b"a.png"], receipt.stat().st_ino
    new = box.put("new.png")
    run("cp", new, receipt)
    same(new, receipt)
    box.take_in()
    after = box.placements()[b"a.png"]
    assert after.id == before.id
    assert after.digest.hex() == sha256(new)
    assert receipt.stat().st_ino == ino
    same(new, receipt)
    same(new, box.images / "a.png")
    assert [item.digest for item in box.trash()] == [before.digest]


def test_every_save_of_one_name_is_in_the_library_or_the_trash(box: Box):
    latest, saved = box.inbox / "latest.png", []
    box.inbox.mkdir()
    for number in range(6):
        new = box.put(f"{number}.png")
        saved.append(sha256(new))
        if number % 2:
            run("cp", new, latest)
        else:
            run("cp", new, box.inbox / ".new.tmp")
            run("mv", box.inbox / ".new.tmp", latest)
    gone = box.put("gone.png", where=box.inbox / "deeper")
    saved.append(sha256(gone))
    run("rm", "-r", gone.parent)
    box.take_in()
    assert box.placements()[b"latest.png"].digest.hex() == saved[5]
    kept = {item.digest.hex(): item.name for item in box.trash() if item.digest is not None}
    assert kept == dict.fromkeys(saved[:5], b"latest.png") | {saved[6]: b"gone.png"}
    same(box.images / "latest.png", latest)


def test_what_is_no_picture_goes_to_files(box: Box):
    damaged = png()[:-60]
    box.put("notes.txt", b"some text\n", box.inbox)
    box.put("damaged.png", damaged, box.inbox)
    box.put("good.png", where=box.inbox)
    box.take_in()
    files = box.session / "files"
    assert sorted(os.listdir(files)) == ["damaged.png", "notes.txt"]
    assert os.listdir(box.images) == ["good.png"]
    assert (files / "notes.txt").read_bytes() == b"some text\n"
    assert (files / "damaged.png").read_bytes() == damaged
    told = run("getfattr", "-d", files / "damaged.png").stdout
    assert b'user.mixfs.problem="' in told, told
    assert b"user.mixfs.problem" not in run("getfattr", "-d", box.images / "good.png").stdout


def test_gio_moves_and_saves(box: Box):
    source = box.put("a.png")
    data = source.read_bytes()
    box.inbox.mkdir()
    run("gio", "move", source, box.inbox / "a.png")
    box.take_in()
    assert not source.exists()
    assert (box.images / "a.png").read_bytes() == data
    if shutil.which("gio"):
        saved = subprocess.run(["gio", "save", box.inbox / "saved.txt"], input=b"text", timeout=60, check=True)
        assert saved.returncode == 0
    box.take_in()
    assert (box.session / "files" / "saved.txt").read_bytes() == b"text"


def test_du_and_find_and_ls_agree_with_what_is_read(box: Box):
    run("cp", "-r", tree_of(box), box.inbox)
    box.put("notes.txt", b"text", box.inbox)
    box.take_in()
    # Not below .mixfs/: that is made anew at each opening.
    listed = run("find", ".", "-path", "./.mixfs", "-prune", "-o", "-type", "f", "-printf", "%s\t%p\\0", cwd=box.point)
    lines = [line for line in listed.stdout.split(b"\0") if line]
    assert len(lines) > 20
    wrong = []
    for line in lines:
        size, _, path = line.partition(b"\t")
        with open(os.path.join(os.fsencode(box.point), path), "rb") as file:
            if len(file.read()) != int(size):
                wrong.append(path)
    assert not wrong


def test_every_listed_name_can_be_looked_up(box: Box):
    box.imported()
    seen = 0
    for folder, folders, files in os.walk(os.fsencode(box.point)):
        for name in [*folders, *files]:
            os.lstat(os.path.join(folder, name))
            seen += 1
        with os.scandir(folder) as entries:
            for entry in entries:
                assert entry.inode() == os.lstat(entry.path).st_ino, entry.path
    assert seen > 40




@pytest.mark.parametrize("backup", ["no", "yes"])
def test_vim_edits_what_was_taken_in(box: Box, backup: str):
    path = box.imported("notes.txt", b"before\n")
    first = box.placements()[b"notes.txt"]
    run("vim", "-u", "NONE", "-es", "-c", f"set backup backupcopy={backup}", "-c", "%s/before/after/", "-c", "wq", path)
    box.take_in()
    assert path.read_bytes() == b"after\n" == (box.session / "files" / "notes.txt").read_bytes()
    assert box.placements()[b"notes.txt"].id == first.id
    assert os.listdir(box.session / "files") == ["notes.txt"]
    assert [item.digest for item in box.trash()] == [first.digest]


def test_a_temporary_file_renamed_over_a_receipt_is_a_new_version(box: Box):
    # As KIO overwrites, and rsync.
    path = box.imported("a.png")
    first = box.placements()[b"a.png"]
    part = box.put("a.png.part", where=box.inbox)
    data = part.read_bytes()
    os.rename(part, path)
    box.take_in()
    assert path.read_bytes() == data == (box.images / "a.png").read_bytes()
    assert os.listdir(box.images) == ["a.png"]
    assert box.placements()[b"a.png"].id == first.id
    assert [item.digest for item in box.trash()] == [first.digest]


def test_folders_keep_the_times_that_programs_gave_them(box: Box):
    source = tree_of(box)
    for n, folder in enumerate((source / "deeper" / "still", source / "deeper", source)):
        os.utime(folder, (TIME_S + n, TIME_S + n))
    run("cp", "-a", source, box.inbox)
    for name in ("rsync", "tar"):
        target = box.inbox.with_name(f"{box.title} {name}")
        if name == "rsync":
            rsync(source, target)
        else:
            tar(source, target)
    for _ in range(2):
        for top in (box.inbox, box.inbox.with_name(f"{box.title} rsync"), box.inbox.with_name(f"{box.title} tar")):
            folders = (top / "deeper" / "still", top / "deeper", top)
            assert [os.stat(folder).st_mtime for folder in folders] == [TIME_S, TIME_S + 1, TIME_S + 2], top
        box.take_in()


def test_a_tree_of_hard_links(box: Box):
    source = tree_of(box)
    run("cp", "-a", source, box.inbox)
    box.take_in()
    linked = box.inbox.with_name(f"{box.title} linked")
    run("cp", "-al", box.inbox, linked)
    box.take_in()
    run("diff", "-r", source, linked)
    assert set(box.placements(linked.name)) == {os.fsencode(Path(name).name) for name in NAMES}


def test_what_firefox_does(box: Box):
    """An empty file of the final name, the download beside it, and a rename over the empty one."""
    box.inbox.mkdir()
    final, data = box.inbox / "a.png", png()
    final.touch()
    box.take_in()
    (box.inbox / "x1.a.png.part").write_bytes(data)
    box.take_in()
    assert box.placements() == {}
    os.rename(box.inbox / "x1.a.png.part", final)
    box.take_in()
    assert final.read_bytes() == (box.images / "a.png").read_bytes() == data
    assert os.listdir(box.inbox) == ["a.png"]


def test_trash_of_a_desktop_is_refused_and_nothing_is_lost(box: Box):
    box.inbox.mkdir()
    path = box.imported("a.png")
    done = run("gio", "trash", path, check=False)
    assert done.returncode != 0 and path.exists()
    assert not [name for name in os.listdir(box.point) if name.startswith(".Trash")]


def test_tar_with_hard_and_symbolic_links(box: Box):
    first = box.put("one/a.png")
    os.link(first, first.with_name("b.png"))
    os.symlink("a.png", first.with_name("link.png"))
    run("tar", "cf", box.source / "x.tar", "-C", first.parent, ".")
    box.inbox.mkdir()
    done = run("tar", "xf", box.source / "x.tar", "-C", box.inbox, check=False)
    assert b"link.png" in done.stderr
    assert b"b.png" not in done.stderr.replace(b"link.png", b"")
    box.take_in()
    assert sorted(os.listdir(box.images)) == ["a.png", "b.png"]
    same(box.images / "a.png", box.images / "b.png")


def test_many_programs_at_once(box: Box):
    box.inbox.mkdir()
    running = []
    for n in range(12):
        folder = box.source / f"f{n}"
        for m in range(8):
            box.put(f"{n}-{m}.png", where=folder)
        running.append(subprocess.Popen(["cp", "-r", folder, box.inbox]))
    assert [process.wait(timeout=60) for process in running] == [0] * 12
    box.take_in()
    for n in range(12):
        for m in range(8):
            same(box.source / f"f{n}" / f"{n}-{m}.png", box.images / f"f{n}" / f"{n}-{m}.png")
    assert len(box.placements()) == 96


def test_a_retitled_session_keeps_its_folder_of_import(box: Box):
    box.imported("a.png")
    renamed = box.session.with_name(f"{box.title} in Rome")
    run("mv", box.session, renamed)
    box.imported("b.png")
    assert sorted(os.listdir(renamed / "images")) == ["a.png", "b.png"]
    assert not box.session.exists()


def test_dd_appends_and_syncs(box: Box):
    path = box.imported("a.bin", b"begin")
    run("dd", f"if={box.put('x', b'more' * 1000)}", f"of={path}", "bs=100", "oflag=append", "conv=notrunc,fsync")
    box.take_in()
    assert path.read_bytes() == b"begin" + b"more" * 1000 == (box.session / "files" / "a.bin").read_bytes()


def test_who_waits_is_not_told_before_the_last_handle_of_a_closed_file_is_given_back(box: Box):
    """close(2) returns before the kernel has sent the release: on a busy machine `mixfs wait` came in between."""
    box.inbox.mkdir()
    path = box.inbox / "a.png"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, png())
    # The release comes when the second is closed; what close(2) waits for has come with the first.
    second = os.dup(fd)
    os.close(fd)
    release = threading.Timer(0.3, os.close, (second,))
    release.start()
    box.take_in()
    release.join()
    assert os.listdir(box.images) == ["a.png"]
