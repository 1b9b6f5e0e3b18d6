"""Who may see a mount and its library: its user, and nobody else unless it is asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import png
from live import Live, environment, living, needs_fuse, until
from test_users import NOBODY, as_nobody

from mixfs.media.samples import make_sample

pytestmark = [pytest.mark.mount, needs_fuse]

LOOK = "import os, sys; print(sorted(os.listdir(sys.argv[1])))"
READ = "import sys; print(len(open(sys.argv[1], 'rb').read()))"
MAKE = "import sys; open(sys.argv[1], 'xb')"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Not below pytest's own folder, which is for one user only: what is refused here must be the mount's doing."""
    top = Path(subprocess.run(["mktemp", "-d", "--tmpdir", "mixfs-open.XXXXXX"], capture_output=True, text=True,
                              check=True).stdout.strip())  # fmt: skip
    top.chmod(0o755)
    try:
        with living(top / "home") as made:
            yield made
    finally:
        shutil.rmtree(top, ignore_errors=True)


def options_of(point: Path) -> set[str]:
    """A mount's options and its file system's, as the kernel tells them."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(point):
            return {*fields[5].split(","), *fields[-1].split(",")}
    raise AssertionError(f"{point} is not mounted")


def attempt(command: list[str], program: str, path: Path) -> str:
    """What another user gets who tries: its output, or the name of the error."""
    done = subprocess.run(
        [*command, "-c", program, path], env=environment(), cwd="/", capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1].partition(":")[0]


def test_of_the_mounting_user_and_of_nobody_else(live: Live) -> None:
    live.library.mkdir(mode=0o755)
    live.start()
    options = options_of(live.point)
    assert {"rw", "nosuid", "nodev", "default_permissions", f"user_id={os.geteuid()}"} <= options
    assert "allow_other" not in options
    (live.point / "import" / "Trip").mkdir()
    (live.point / "import" / "Trip" / "a.png").write_bytes(png())
    live.take_in()
    for folder, folders, files in os.walk(live.point):
        for name in [*folders, *files]:
            found = os.lstat(os.path.join(folder, name))
            assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid()), name
            assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID), name
    assert stat.S_IMODE(live.library.stat().st_mode) == 0o700
    for folder, folders, _ in os.walk(live.library):
        for name in folders:
            # Behind the library's own 0700; but nobody can write there in any case.
            assert not os.stat(os.path.join(folder, name)).st_mode & 0o022, name


def test_set_user_id_means_nothing(live: Live) -> None:
    """A program of root's that would make anybody root, were it on another file system."""
    other = as_nobody()
    live.start("allow_other")
    path = live.point / "import" / "id"
    shutil.copyfile("/usr/bin/id", path)
    path.chmod(0o4755)
    assert path.stat().st_mode & stat.S_ISUID
    done = subprocess.run([*other[: other.index("-S") - 1], path, "-u"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(NOBODY)


def test_another_user_is_refused(live: Live) -> None:
    other = as_nobody()
    live.start()
    (live.point / "import" / "a.png").write_bytes(png())
    for path in (live.point, live.point / "import", live.point / "README.txt", live.library):
        assert attempt(other, LOOK if path.is_dir() else READ, path) == "PermissionError", path
    assert attempt(other, MAKE, live.point / "import" / "mine") == "PermissionError"


def test_allow_other_only_when_it_is_asked_for(live: Live) -> None:
    other = as_nobody()
    live.start("allow_other")
    assert {"allow_other", "default_permissions", "nosuid", "nodev"} <= options_of(live.point)
    data = png()
    (live.point / "import" / "Trip").mkdir()
    (live.point / "import" / "Trip" / "a.png").write_bytes(data)
    live.take_in()
    assert "sessions" in attempt(other, LOOK, live.point)
    assert attempt(other, READ, live.point / "sessions" / "Trip" / "images" / "a.png") == str(len(data))
    # The kernel checks modes: to see is not to write.
    assert attempt(other, MAKE, live.point / "import" / "mine") == "PermissionError"
    assert attempt(other, MAKE, live.point / "sessions" / "Trip" / "images" / "mine") == "PermissionError"
    assert attempt(other, LOOK, live.library) == "PermissionError"


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can become another user")
@pytest.mark.parametrize("hidden", ["file", "folder", "session"])
def test_what_another_user_may_not_read_is_nowhere_else_either(live: Live, hidden: str) -> None:
    """By its date, its digest, its generation, its metadata, from the trash, and in no document its prompt."""
    prompt = "alpine valley at sunrise"

    def read_by_nobody(*, telling: bool = False) -> dict[str, bool]:
        """Which files below the mount another user may read, by path; `telling`: which tell them the prompt."""
        code = (
            "import os, sys\n"
            "point, prompt = sys.argv[1:]\n"
            "for top, folders, names in os.walk(point):\n"
            "    for name in names:\n"
            "        path = os.path.join(top, name)\n"
            "        try: word = 'told' if prompt.encode() in open(path, 'rb').read() else 'read'\n"
            "        except PermissionError: word = 'refused'\n"
            "        print(word, os.path.relpath(path, point))\n"
            "    for name in folders:\n"
            "        if prompt in name: print('told', os.path.relpath(os.path.join(top, name), point))\n"
        )
        done = subprocess.run(
            ["/usr/bin/python3", "-S", "-c", code, live.point, prompt], user=NOBODY, group=NOBODY, extra_groups=[],
            cwd="/", capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        words = ("told",) if telling else ("read", "told")
        return {path: word in words for word, path in (line.split(" ", 1) for line in done.stdout.splitlines())}

    live.start("allow_other")
    name, data = make_sample("a1111")
    for folder, content in (("Secret/below", data), ("Open", png())):
        (live.point / "import" / folder).mkdir(parents=True)
        (live.point / "import" / folder / name).write_bytes(content)
    live.take_in()
    secret = live.point / "sessions" / "Secret"
    picture = secret / "images" / "below" / name
    before = read_by_nobody()
    assert all(before.values())
    assert sum(told for path, told in read_by_nobody(telling=True).items() if path.endswith("generations.json")) >= 2
    {"file": picture, "folder": picture.parent, "session": secret}[hidden].chmod(0o600 if hidden == "file" else 0o700)
    after = read_by_nobody()
    digest = hashlib.sha256(data).hexdigest()
    by_date = next(path for path in before if path.startswith("by-date/") and (live.point / path).read_bytes() == data)
    inside = {path.relative_to(live.point).as_posix() for path in live.point.glob(f"sessions/Secret/*/below/{name}*")}
    inside |= {path.relative_to(live.point).as_posix() for path in live.point.glob("sessions/Secret/generations/*/*")}
    inside |= {path.relative_to(live.point).as_posix() for path in live.point.glob("sessions/Secret/generations/*/*/*")}
    assert not any(read_by_nobody(telling=True).values())
    pictures = {by_date, f"images/{digest[:2]}/{digest}.png", f"import/Secret/below/{name}"} | inside
    assert {path for path in pictures if after.get(path, False)} == set()
    assert all(readable for path, readable in after.items() if "/Open/" in path), "what is open stays so"
    assert sum(after.values()) > len(before) / 3
    assert (live.point / by_date).read_bytes() == data, "its owner reads it everywhere"
    picture.unlink()
    assert not any(readable for path, readable in read_by_nobody().items() if path == f"trash/Secret/{name}")
    # The same picture in a session that all may read.
    (live.point / "sessions" / "Open" / "images" / "copy.png").write_bytes(data)
    live.take_in()
    assert read_by_nobody()[f"images/{digest[:2]}/{digest}.png"]


@contextlib.contextmanager
def mounted_by_nobody(command: list[str], home: Path) -> Iterator[Path]:
    point = home / "mount"
    for folder in (home, point):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    with open(home / "stderr", "wb") as stderr:
        daemon = subprocess.Popen(
            [*command, "-m", "mixfs.daemon", "--library", home / "library", "--mountpoint", point, "--log",
             home / "log.jsonl"],
            env=environment() | {"HOME": str(home)}, cwd="/", stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
        )  # fmt: skip
    try:
        # Root may not even look whether it answers.
        until(lambda: f" {point} " in Path("/proc/self/mountinfo").read_text() or daemon.poll() is not None, "mounted")
        assert daemon.poll() is None, (home / "stderr").read_text()
        until(lambda: "import" in attempt(command, LOOK, point), "it answers to its user")
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=False, capture_output=True, timeout=30)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(20)


def test_root_is_refused_too(live: Live) -> None:
    """Mounted by an ordinary user: without allow_other the kernel lets nobody else in, whatever their capabilities."""
    command = as_nobody()
    home = live.point.parent.parent / "nobody"
    with mounted_by_nobody(command, home) as point:
        options = options_of(point)
        assert {"nosuid", "nodev", "default_permissions", f"user_id={NOBODY}", f"group_id={NOBODY}"} <= options
        assert "allow_other" not in options
        for path in (point, point / "import", point / "README.txt"):
            with pytest.raises(PermissionError):
                os.stat(path / "." if path == point else path)
        with pytest.raises(PermissionError):
            os.listdir(point)
        attempt(command, MAKE, point / "import" / "mine")
        owners = "import os, sys; r = sys.argv[1]; print({os.lstat(os.path.join(f, n)).st_uid " \
                 "for f, d, x in os.walk(r) for n in d + x})"  # fmt: skip
        assert attempt(command, owners, point) == f"{{{NOBODY}}}"
        found = (home / "library").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, NOBODY)
