"""import/ and sessions/ answer system calls as a disk does, and refuse the rest with the errno that programs expect."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import Box, png, run, same
from live import Live, environment, living, needs_fuse, python, sha256, until

from mixfs.library.api import Library

pytestmark = [pytest.mark.mount, needs_fuse]

NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class refused:
    """The block fails with this errno."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        expected = [errno.errorcode[number] for number in self.numbers]
        assert error is not None, f"nothing was refused; expected {expected}"
        if not isinstance(error, OSError):
            return False
        assert error.errno in self.numbers, f"{error!r}; expected {expected}"
        return True


@pytest.fixture
def inbox(box: Box) -> Path:
    box.inbox.mkdir()
    return box.inbox


# -- files in import/


@pytest.mark.parametrize("taken_in", [False, True], ids=["staged", "taken in"])
class TestFiles:
    """The same calls on a file that is in staging, and on one that was taken in."""

    @pytest.fixture
    def path(self, box: Box, inbox: Path, taken_in: bool) -> Iterator[Path]:
        path = inbox / "file.bin"
        path.write_bytes(b"0123456789")
        if taken_in:
            box.take_in()
        ino = path.stat().st_ino
        yield path
        if path.exists():
            # Whatever was written: it is one file, and what is taken in is what was read back.
            data = path.read_bytes()
            box.take_in()
            assert path.read_bytes() == data
            assert path.stat().st_size == len(data)
            assert (box.session / "files" / "file.bin").read_bytes() == data or not data
            assert path.stat().st_ino == ino

    def test_append(self, path: Path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"abc")
        os.write(fd, b"def")
        os.close(fd)
        assert path.read_bytes() == b"0123456789abcdef"

    def test_exclusive(self, path: Path):
        with refused(errno.EEXIST):
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        assert path.read_bytes() == b"0123456789"

    def test_truncating_open(self, path: Path):
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
        assert os.fstat(fd).st_size == 0
        os.write(fd, b"new")
        os.close(fd)
        assert path.read_bytes() == b"new"

    def test_truncate_down_and_up(self, path: Path):
        os.truncate(path, 4)
        assert path.read_bytes() == b"0123"
        os.truncate(path, 8)
        assert path.read_bytes() == b"0123\0\0\0\0"
        with open(path, "r+b") as file:
            file.truncate(2)
            assert os.fstat(file.fileno()).st_size == 2
            file.seek(4)
            file.write(b"x")
        assert path.read_bytes() == b"01\0\0x"

    def test_writes_at_any_offset(self, path: Path):
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"end", 300_000)
        os.pwrite(fd, b"AB", 2)
        assert os.pread(fd, 10, 0) == b"01AB456789"
        assert os.pread(fd, 10, 299_999) == b"\0end"
        os.close(fd)
        assert path.stat().st_size == 300_003

    def test_read_back_while_writing(self, path: Path):
        with open(path, "wb", buffering=0) as writer, open(path, "rb", buffering=0) as reader:
            for n in range(20):
                data = bytes([65 + n]) * 5000
                writer.write(data)
                assert reader.read(5000) == data
                assert path.stat().st_size == 5000 * (n + 1)

    def test_mmap_reads(self, path: Path):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == b"0123456789"

    def test_mmap_writes(self, path: Path):
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[2:4] = b"XY"
            view.flush()
        assert path.read_bytes() == b"01XY456789"

    def test_private_mmap_sees_what_is_written_later(self, path: Path):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            with open(path, "r+b") as writer:
                writer.write(b"ZZ")
            assert view[:4] == b"ZZ23"

    def test_fsync(self, path: Path):
        with open(path, "ab") as file:
            file.write(b"!")
            file.flush()
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
        fd = os.open(path.parent, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert path.read_bytes() == b"0123456789!"

    def test_times_and_mode(self, path: Path, box: Box):
        os.utime(path, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
        os.chmod(path, 0o600)
        for _ in range(2):
            status = path.stat()
            assert status.st_mtime_ns == 1_400_000_000_987_654_321
            assert stat.S_IMODE(status.st_mode) == 0o600
            box.take_in()

    def test_owner_is_accepted_and_ignored(self, path: Path):
        os.chown(path, os.getuid(), os.getgid())
        assert path.stat().st_uid == os.getuid()

    def test_unlink_while_open(self, path: Path, box: Box, taken_in: bool):
        with open(path, "r+b") as file:
            os.unlink(path)
            assert not path.exists()
            assert file.read() == b"0123456789"
            assert os.fstat(file.fileno()).st_size == 10
            if not taken_in:
                file.write(b"more")
                file.flush()
                assert os.pread(file.fileno(), 100, 0) == b"0123456789more"
            box.take_in()
        assert os.listdir(path.parent) == []

    def test_readers_keep_what_they_opened_when_it_is_renamed_over(self, path: Path):
        other = path.with_name("other")
        other.write_bytes(b"other")
        with open(path, "rb") as file:
            ino = os.fstat(file.fileno()).st_ino
            other_ino = other.stat().st_ino
            os.rename(other, path)
            assert file.read() == b"0123456789"
            assert path.read_bytes() == b"other"
            assert path.stat().st_ino == other_ino != ino
        os.unlink(path)

    def test_noreplace(self, path: Path):
        other = path.with_name("other")
        other.write_bytes(b"other")
        with refused(errno.EEXIST):
            renameat2(other, path, NOREPLACE)
        renameat2(other, path.with_name("third"), NOREPLACE)
        assert sorted(os.listdir(path.parent)) == ["file.bin", "third"]

    def test_exchange(self, path: Path, box: Box):
        other = path.with_name("other.bin")
        other.write_bytes(b"other")
        renameat2(other, path, EXCHANGE)
        try:
            assert path.read_bytes() == b"other"
            assert other.read_bytes() == b"0123456789"
            box.take_in()
            assert path.read_bytes() == b"other"
            assert other.read_bytes() == b"0123456789"
        finally:
            renameat2(other, path, EXCHANGE)
        assert path.read_bytes() == b"0123456789"

    def test_hard_link(self, path: Path, box: Box):
        linked = path.with_name("linked.bin")
        os.link(path, linked)
        assert linked.read_bytes() == b"0123456789"
        box.take_in()
        assert (box.session / "files" / "linked.bin").read_bytes() == b"0123456789"
        with refused(errno.EEXIST):
            os.link(path, linked)

    def test_a_name_that_is_taken_for_a_folder(self, path: Path):
        with refused(errno.EEXIST):
            os.mkdir(path)
        with refused(errno.ENOTDIR):
            os.listdir(path)
        with refused(errno.ENOTDIR):
            os.stat(path / "below")
        with refused(errno.ENOTDIR):
            os.rmdir(path)
        with refused(errno.EISDIR, errno.EPERM):
            os.unlink(path.parent)
        with refused(errno.ENOTEMPTY):
            os.rmdir(path.parent)

    def test_an_unknown_attribute_is_kept(self, path: Path, box: Box):
        os.setxattr(path, "user.mine", b"\0\xff value")
        for _ in range(2):
            assert os.getxattr(path, "user.mine") == b"\0\xff value"
            assert "user.mine" in os.listxattr(path)
            box.take_in()
        os.removexattr(path, "user.mine")
        with refused(errno.ENODATA):
            os.getxattr(path, "user.mine")
        with refused(errno.ENODATA):
            os.removexattr(path, "user.mine")

    def test_attributes_of_other_namespaces(self, path: Path):
        with refused(errno.ENODATA):
            os.getxattr(path, "security.capability")
        with refused(errno.EOPNOTSUPP, errno.EPERM):
            os.setxattr(path, "trusted.mine", b"x")


def test_a_new_version_while_a_reader_has_the_old_file_open(box: Box, inbox: Path):
    path = box.imported("a.png")
    data = path.read_bytes()
    with open(path, "rb", buffering=0) as reader:
        assert reader.read(10) == data[:10]
        with open(path, "r+b") as writer:
            writer.seek(len(data))
            writer.write(b"appended")
            writer.flush()
            assert os.pread(reader.fileno(), 1 << 20, 0) == data + b"appended"
        box.take_in()
        assert os.pread(reader.fileno(), 1 << 20, 0) == data + b"appended"
    same(path, box.images / "a.png")


def test_a_duplicated_descriptor_closes_nothing(box: Box, inbox: Path):
    path = inbox / "a.bin"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, b"first ")
    os.close(os.dup(fd))
    box.take_in()
    assert box.placements() == {}
    os.write(fd, b"second")
    os.close(fd)
    # The last release comes a moment after close(2).
    until(lambda: box.take_in() or box.placements(), "taken in", 10)
    assert (box.session / "files" / "a.bin").read_bytes() == b"first second"


def test_modes_bind_an_ordinary_user(box: Box, inbox: Path):
    path = box.imported("a.png")
    os.chmod(path, 0o444)
    if os.geteuid() == 0:
        os.close(os.open(path, os.O_WRONLY))
    else:
        with refused(errno.EACCES):
            os.open(path, os.O_WRONLY)
    assert (box.images / "a.png").stat().st_ino != path.stat().st_ino
    os.unlink(path)


def test_a_folder_tells_when_its_listing_changed(box: Box, inbox: Path):
    def changes(what: Callable[[], object]) -> bool:
        os.utime(inbox, (1, 1))
        assert inbox.stat().st_mtime == 1
        what()
        return inbox.stat().st_mtime > 1

    path = inbox / "a.png"
    assert changes(lambda: path.write_bytes(png()))
    assert not changes(box.take_in)
    assert not changes(lambda: path.write_bytes(png()))
    assert changes(lambda: os.rename(path, inbox / "b.png"))
    assert changes(lambda: os.mkdir(inbox / "sub"))
    assert changes(lambda: os.rename(inbox / "b.png", inbox / "sub" / "b.png"))
    assert changes(lambda: os.rmdir(os.path.join(inbox, os.mkdir(inbox / "x") or "x")))
    assert changes(lambda: os.link(inbox / "sub" / "b.png", inbox / "c.png"))
    assert changes(lambda: os.unlink(inbox / "c.png"))


@pytest.mark.skipif(shutil.which("strace") is None, reason="NOT RUN: there is no strace here to see fsync calls with")
def test_fsync_of_a_folder_makes_what_is_closed_below_it_durable(box: Box, inbox: Path, tmp_path: Path):
    (inbox / "deeper").mkdir()
    for name in ("deeper/a.part", "b.part"):
        (inbox / name).write_bytes(b"bytes")
    # What other tests copied into this mount is synced before the counting begins.
    box.take_in()
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-e", "trace=fsync", "-o", tmp_path / "trace", "-p", str(box.live.pid)],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert tracer.stderr is not None
    if b"attached" not in tracer.stderr.readline():
        pytest.skip("NOT RUN: strace may not attach here")

    def synced(folder: Path) -> int:
        before = (tmp_path / "trace").read_text().count("/staging/")
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return (tmp_path / "trace").read_text().count("/staging/") - before

    try:
        # The directory of the staging area, and each file.
        # Or more, where something else is taken in meanwhile.
        assert synced(inbox / "deeper") >= 2
        assert synced(inbox) >= 3
        assert synced(box.point / "sessions") >= 1
    finally:
        tracer.terminate()
        tracer.wait(timeout=30)
        tracer.stderr.close()


def test_locks_and_allocation(inbox: Path):
    with open(inbox / "a.bin", "w+b") as file, open(inbox / "a.bin", "rb") as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        with refused(errno.EAGAIN):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.posix_fallocate(file.fileno(), 0, 10_000)
        assert os.fstat(file.fileno()).st_size == 10_000
        assert os.lseek(file.fileno(), 0, os.SEEK_END) == 10_000
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), 20_000, 0) == bytes(10_000)


def test_holes_and_what_is_not_supported(inbox: Path):
    path = inbox / "a.bin"
    path.write_bytes(b"x" * 1000)
    with open(path, "r+b") as file:
        fd = file.fileno()
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) == 1000
        with refused(errno.ENXIO):
            os.lseek(fd, 1000, os.SEEK_DATA)
        # posix_fallocate(3), cp and rsync write, or do without, when they are told so.
        for mode in (0, 1, 3):
            assert _libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(5000)) == -1
            assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.fstat(fd).st_size == 1000
    with refused(errno.EOPNOTSUPP):
        os.open(inbox, os.O_TMPFILE | os.O_RDWR, 0o600)


def test_copy_file_range_and_sendfile(box: Box, inbox: Path):
    data = os.urandom(300_000)
    source = box.imported("source.bin", data)
    with open(source, "rb") as from_file, open(inbox / "sent.bin", "wb") as to_file:
        at = 0
        while at < len(data):
            at += os.sendfile(to_file.fileno(), from_file.fileno(), at, len(data) - at)
    assert (inbox / "sent.bin").read_bytes() == data
    with open(source, "rb") as from_file, open(inbox / "ranged.bin", "wb") as to_file:
        try:
            while os.copy_file_range(from_file.fileno(), to_file.fileno(), len(data)):
                pass
            assert os.fstat(to_file.fileno()).st_size == len(data)
        except OSError as error:
            # What programs fall back on.
            assert error.errno in (errno.EINVAL, errno.EXDEV, errno.ENOENT, errno.EOPNOTSUPP, errno.ENOSYS)


def test_listing_again_and_from_a_place(inbox: Path):
    for n in range(300):
        (inbox / f"{n:03}.part").touch()
    fd = os.open(inbox, os.O_RDONLY)
    try:
        # Each scandir of a descriptor rewinds it.
        first = sorted(entry.name for entry in os.scandir(fd))
        os.unlink(inbox / "000.part")
        assert sorted(entry.name for entry in os.scandir(fd)) == first[1:]
    finally:
        os.close(fd)
    shutil.rmtree(inbox)


def test_a_file_that_is_open_while_its_folder_moves(box: Box, inbox: Path):
    (inbox / "one").mkdir()
    with open(inbox / "one" / "a.bin", "wb") as file:
        file.write(b"begin ")
        file.flush()
        os.rename(inbox / "one", inbox / "two")
        file.write(b"end")
    until(lambda: box.take_in() or box.placements(), "taken in", 10)
    assert (inbox / "two" / "a.bin").read_bytes() == b"begin end"


def test_two_writers_of_one_file(box: Box, inbox: Path):
    path = inbox / "a.bin"
    first = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    second = os.open(path, os.O_WRONLY | os.O_APPEND)
    for n in range(50):
        os.write(first, b"%04d" % (2 * n))
        os.write(second, b"%04d" % (2 * n + 1))
    os.close(first)
    box.take_in()
    assert box.placements() == {}
    os.write(second, b"last")
    os.close(second)
    until(lambda: box.take_in() or box.placements(), "taken in", 10)
    expected = b"".join(b"%04d" % n for n in range(100)) + b"last"
    assert (box.session / "files" / "a.bin").read_bytes() == expected


def test_no_links_or_devices(inbox: Path):
    with refused(errno.EPERM):
        os.symlink("x", inbox / "link")
    with refused(errno.EPERM):
        os.mkfifo(inbox / "fifo")
    with refused(errno.EPERM):
        os.mknod(inbox / "socket", stat.S_IFSOCK | 0o600)
    assert os.listdir(inbox) == []
    os.mknod(inbox / "file", stat.S_IFREG | 0o600)
    assert os.listdir(inbox) == ["file"]


def test_names_of_255_bytes_and_of_256(box: Box, inbox: Path):
    longest = inbox / ("ä" * 125 + "a.png")
    assert len(os.fsencode(longest.name)) == 255
    longest.write_bytes(png())
    with refused(errno.ENAMETOOLONG):
        os.open(inbox / ("a" * 256), os.O_WRONLY | os.O_CREAT)
    with refused(errno.ENAMETOOLONG):
        os.mkdir(inbox / ("a" * 256))
    with refused(errno.ENAMETOOLONG):
        os.stat(inbox / ("a" * 256))
    with refused(errno.ENAMETOOLONG):
        os.rename(longest, inbox / ("a" * 256))
    box.take_in()
    same(longest, box.images / longest.name)
    for folder in ("metadata", "thumbnails"):
        for name in os.listdir(os.fsencode(box.session / folder)):
            assert len(name) <= 255
            os.stat(os.path.join(os.fsencode(box.session / folder), name))


def test_names_that_are_no_utf8(box: Box, inbox: Path):
    name = b"caf\xe9 \xff.png"
    path = os.path.join(os.fsencode(inbox), name)
    data = png()
    with open(path, "wb") as file:
        file.write(data)
    box.take_in()
    for folder in (inbox, box.images):
        assert os.listdir(os.fsencode(folder)) == [name]
        with open(os.path.join(os.fsencode(folder), name), "rb") as file:
            assert file.read() == data
    renamed = os.path.join(os.fsencode(inbox), b"\xfe.png")
    os.rename(path, renamed)
    assert os.listdir(os.fsencode(box.images)) == [b"\xfe.png"]


def test_folders(box: Box, inbox: Path):
    (inbox / "one").mkdir(mode=0o750)
    assert stat.S_IMODE((inbox / "one").stat().st_mode) == 0o750
    (inbox / "one" / "a.png").write_bytes(png())
    ino = (inbox / "one" / "a.png").stat().st_ino
    os.rename(inbox / "one", inbox / "two")
    box.take_in()
    assert (inbox / "two" / "a.png").stat().st_ino == ino
    assert (box.images / "two" / "a.png").exists()
    os.rename(inbox / "two", inbox / "three")
    assert (box.images / "three" / "a.png").exists()
    assert not (box.images / "two" / "a.png").exists()
    (inbox / "empty").mkdir()
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(inbox / "empty", inbox / "three")
    os.rename(inbox / "three", inbox / "empty")
    assert os.listdir(inbox) == ["empty"]
    with refused(errno.EINVAL):
        os.rename(inbox, inbox / "empty" / "below")


def test_a_folder_with_pending_files_moves_to_another_session(box: Box, inbox: Path):
    other = inbox.with_name(f"{box.title} other")
    other.mkdir()
    (inbox / "sub").mkdir()
    box.imported("sub/taken.png")
    (inbox / "sub" / "pending.png").write_bytes(png())
    os.rename(inbox / "sub", other / "sub")
    box.take_in()
    images = box.session.with_name(other.name) / "images" / "sub"
    assert sorted(os.listdir(images)) == ["pending.png", "taken.png"]
    assert box.placements() == {}


def test_a_folder_is_read_while_it_changes(inbox: Path):
    for n in range(500):
        (inbox / f"{n:04}.part").touch()
    seen = []
    with os.scandir(inbox) as entries:
        for n, entry in enumerate(entries):
            seen.append(entry.name)
            if n % 10 == 0:
                (inbox / f"new {n:04}.part").touch()
            if n % 10 == 5:
                os.unlink(entry.path)
    assert len(seen) == len(set(seen))
    assert {f"{n:04}.part" for n in range(500)} <= set(seen)
    shutil.rmtree(inbox)


def test_statfs_tells_of_the_disk_below(box: Box):
    here, below = os.statvfs(box.point), os.statvfs(box.live.library)
    assert here.f_blocks * here.f_frsize == below.f_blocks * below.f_frsize
    assert abs(here.f_bavail * here.f_frsize - below.f_bavail * below.f_frsize) < 1 << 30
    assert here.f_namemax == 255
    run("df", box.point)


# -- extended attributes of pictures


def test_getfattr_shows_what_is_known(box: Box, inbox: Path):
    path = box.imported("a.png")
    for shown in (path, box.images / "a.png"):
        told = run("getfattr", "-d", "--absolute-names", shown).stdout.decode()
        assert f'user.mixfs.digest="{sha256(path)}"' in told
        assert f'user.mixfs.session="{box.title}"' in told
        assert 'user.mixfs.original_name="a.png"' in told
        assert 'user.mime_type="image/png"' in told


def test_setfattr_of_tags_annotates(box: Box, inbox: Path):
    path = box.imported("a.png")
    digest = sha256(path)
    run("setfattr", "-n", "user.xdg.tags", "-v", "warm,portrait", path)
    run("setfattr", "-n", "user.xdg.comment", "-v", "so nice", box.images / "a.png")
    run("setfattr", "-n", "user.baloo.rating", "-v", "8", path)
    annotation = box.library.annotation(digest)
    assert set(annotation.tags) == {"warm", "portrait"}
    assert (annotation.comment, annotation.rating) == ("so nice", 8)
    assert set(os.getxattr(box.images / "a.png", "user.xdg.tags").split(b",")) == {b"warm", b"portrait"}
    with refused(errno.EINVAL):
        os.setxattr(path, "user.baloo.rating", b"11")
    run("setfattr", "-x", "user.xdg.comment", path)
    assert box.library.annotation(digest).comment is None
    with refused(errno.ENODATA):
        os.getxattr(path, "user.xdg.comment")


def test_tags_set_before_it_is_taken_in(box: Box, inbox: Path):
    path = box.put("a.png", where=inbox)
    os.setxattr(path, "user.xdg.tags", b"early")
    assert os.getxattr(path, "user.xdg.tags") == b"early"
    box.take_in()
    assert box.library.annotation(sha256(path)).tags == ("early",)


def test_xattr_create_and_replace(box: Box, inbox: Path):
    path = box.imported("a.png")
    os.setxattr(path, "user.mine", b"1", os.XATTR_CREATE)
    os.setxattr(path, "user.mine", b"2", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.mine") == b"2"


# -- sessions/


def test_sessions_are_made_and_retitled_and_removed(box: Box):
    os.mkdir(box.session)
    session = box.record()
    assert session is not None
    assert "images" in os.listdir(box.session)
    renamed = box.session.with_name(f"{box.title} renamed")
    run("mv", box.session, renamed)
    after = box.record(renamed.name)
    assert after is not None
    assert after.id == session.id
    assert json.loads((renamed / "session.json").read_text())["title"] == renamed.name
    os.rmdir(renamed)
    assert not renamed.exists()
    assert box.record(renamed.name) is None


def test_a_session_with_pictures_is_no_empty_folder(box: Box, inbox: Path):
    box.imported()
    with refused(errno.ENOTEMPTY):
        os.rmdir(box.session)
    other = box.session.with_name(f"{box.title} other")
    os.mkdir(other)
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(box.session, other)
    os.rmdir(other)


def test_rm_r_moves_a_session_to_the_trash(box: Box, inbox: Path):
    box.imported("a.png")
    box.imported("deeper/b.png")
    box.imported("notes.txt", b"text")
    # Some of it cached by the kernel, as when it was looked at before.
    run("ls", "-lR", box.session)
    run("rm", "-r", box.session)
    assert not box.session.exists()
    assert box.title not in os.listdir(box.point / "sessions")
    assert box.record() is None
    kept = {bytes(item.name) for item in box.trash()}
    assert kept, "nothing of it is in the trash"
    # The receipts stay readable.
    assert {path.name for path in inbox.rglob("*.*")} == {"a.png", "b.png", "notes.txt"}
    assert (inbox / "notes.txt").read_bytes() == b"text"


def test_shutil_rmtree_of_a_session(box: Box, inbox: Path):
    box.imported()
    shutil.rmtree(box.session)
    assert not box.session.exists()
    assert box.record() is None


def test_writing_to_a_receipt_whose_session_is_gone_makes_a_new_placement(box: Box, inbox: Path):
    path = box.imported()
    shutil.rmtree(box.session)
    data = png()
    path.write_bytes(data)
    box.take_in()
    assert (box.images / "a.png").read_bytes() == data


def test_copying_into_images(box: Box):
    os.mkdir(box.session)
    source, text = box.put("a.png"), box.put("notes.txt", b"text")
    run("cp", "-p", source, text, box.images)
    ino = (box.images / "a.png").stat().st_ino
    run("cp", "-r", box.put("deeper/b.png").parent, box.images)
    box.take_in()
    same(source, box.images / "a.png")
    assert (box.images / "a.png").stat().st_ino == ino
    assert (box.images / "a.png").stat().st_mtime_ns == source.stat().st_mtime_ns
    # Whatever its type, it stays listed where it was copied to.
    assert sorted(os.listdir(box.images)) == ["a.png", "deeper", "notes.txt"]
    assert (box.images / "notes.txt").read_bytes() == b"text"
    assert (box.images / "deeper" / "b.png").exists()
    before = box.placements()[b"a.png"]
    new = box.put("new.png")
    run("cp", new, box.images / "a.png")
    box.take_in()
    same(new, box.images / "a.png")
    assert box.placements()[b"a.png"].id == before.id
    assert [item.digest for item in box.trash()] == [before.digest]
    run("rm", box.images / "a.png")
    assert b"a.png" not in box.placements()
    assert len(box.trash()) == 2


class TestExchange:
    """RENAME_EXCHANGE of folders, and of a folder with a file."""

    def test_two_top_folders_are_two_sessions_that_change_titles(self, box: Box):
        one, other = box.inbox, box.inbox.with_name(f"{box.title} other")
        for path in (one, other):
            path.mkdir()
            (path / "a.bin").write_bytes(path.name.encode())
        box.take_in()
        (one / "late.bin").write_bytes(b"late")
        inos = one.stat().st_ino, other.stat().st_ino
        ids = [record.id for record in (box.record(), box.record(other.name)) if record]
        renameat2(one, other, EXCHANGE)
        for _ in range(2):
            assert (other.stat().st_ino, one.stat().st_ino) == inos
            assert (other / "a.bin").read_bytes() == one.name.encode()
            assert (one / "a.bin").read_bytes() == other.name.encode()
            assert sorted(os.listdir(one)), sorted(os.listdir(other)) == (["a.bin"], ["a.bin", "late.bin"])
            assert [record.id for record in (box.record(other.name), box.record()) if record] == ids
            box.take_in()
        until(lambda: (box.point / "sessions" / other.name / "files" / "late.bin").exists(), "in its session", 1)
        assert (box.session / "files" / "a.bin").read_bytes() == other.name.encode()
        assert sorted(os.listdir(box.session / "files")) == ["a.bin"]

    def test_deeper_folders_of_one_session(self, box: Box, inbox: Path):
        for name in ("one", "two/deep"):
            (inbox / name).mkdir(parents=True)
            (inbox / name / "a.png").write_bytes(png())
        box.take_in()
        one, other = (inbox / "one" / "a.png").read_bytes(), (inbox / "two" / "deep" / "a.png").read_bytes()
        renameat2(inbox / "one", inbox / "two" / "deep", EXCHANGE)
        for top in (inbox, box.images):
            until(lambda top=top: (top / "one" / "a.png").read_bytes() == other, "exchanged", 1)  # type: ignore[misc]
            assert (top / "two" / "deep" / "a.png").read_bytes() == one
            assert sorted(os.listdir(top)) == ["one", "two"] and os.listdir(top / "two") == ["deep"]

    @pytest.mark.parametrize("taken_in", [False, True], ids=["staged", "taken in"])
    def test_a_folder_with_a_file(self, box: Box, inbox: Path, taken_in: bool):
        (inbox / "folder" / "deeper").mkdir(parents=True)
        (inbox / "folder" / "deeper" / "a.png").write_bytes(png())
        data = (inbox / "folder" / "deeper" / "a.png").read_bytes()
        (inbox / "b.png").write_bytes(png())
        other = (inbox / "b.png").read_bytes()
        if taken_in:
            box.take_in()
        renameat2(inbox / "b.png", inbox / "folder", EXCHANGE)
        for _ in range(2):
            assert (inbox / "b.png" / "deeper" / "a.png").read_bytes() == data
            assert (inbox / "folder").read_bytes() == other
            assert sorted(os.listdir(inbox)) == ["b.png", "folder"]
            box.take_in()
        until(lambda: (box.images / "folder").is_file(), "the picture in the session", 1)
        assert (box.images / "b.png" / "deeper" / "a.png").read_bytes() == data
        assert (box.images / "folder").read_bytes() == other

    def test_folders_and_files_of_images(self, box: Box):
        box.session.mkdir()
        (box.images / "folder").mkdir()
        (box.images / "folder" / "a.png").write_bytes(png())
        (box.images / "b.png").write_bytes(png())
        data, other = (box.images / "folder" / "a.png").read_bytes(), (box.images / "b.png").read_bytes()
        box.take_in()
        renameat2(box.images / "folder", box.images / "b.png", EXCHANGE)
        assert (box.images / "b.png" / "a.png").read_bytes() == data
        assert (box.images / "folder").read_bytes() == other
        assert sorted(os.listdir(box.images)) == ["b.png", "folder"]

    def test_sessions_change_titles(self, box: Box):
        other = box.session.with_name(f"{box.title} other")
        box.session.mkdir()
        other.mkdir()
        ids = [json.loads((path / "session.json").read_bytes())["id"] for path in (box.session, other)]
        renameat2(box.session, other, EXCHANGE)
        assert [json.loads((path / "session.json").read_bytes())["id"] for path in (other, box.session)] == ids
        assert json.loads((other / "session.json").read_bytes())["title"] == other.name

    def test_what_is_generated_stays(self, box: Box, inbox: Path):
        box.imported("a.png")
        with refused(errno.EINVAL, errno.EXDEV, errno.EACCES):
            renameat2(inbox / "a.png", box.images / "a.png", EXCHANGE)
        with refused(errno.EINVAL, errno.EACCES):
            renameat2(box.session / "canvas.json", box.session / "generations.json", EXCHANGE)


def test_moving_between_sessions(box: Box, inbox: Path):
    box.imported()
    ino = (box.images / "a.png").stat().st_ino
    other = box.session.with_name(f"{box.title} other")
    os.mkdir(other)
    run("mv", box.images / "a.png", other / "images" / "moved.png")
    assert os.listdir(box.images) == []
    assert (other / "images" / "moved.png").stat().st_ino == ino
    assert set(box.placements(other.name)) == {b"moved.png"}
    with refused(errno.EXDEV):
        os.rename(other / "images" / "moved.png", inbox / "back.png")
    run("mv", other / "images" / "moved.png", inbox / "back.png")
    box.take_in()
    assert (box.images / "back.png").exists()


def test_exchanging_pictures_of_two_sessions(box: Box, inbox: Path):
    first, second = box.imported("a.png").read_bytes(), box.imported("b.png").read_bytes()
    renameat2(box.images / "a.png", box.images / "b.png", EXCHANGE)
    assert (box.images / "a.png").read_bytes() == second
    assert (box.images / "b.png").read_bytes() == first
    with refused(errno.EEXIST):
        renameat2(box.images / "a.png", box.images / "b.png", NOREPLACE)


REFUSED: dict[str, Callable[[Path], object]] = {
    "create in metadata": lambda s: (s / "metadata" / "x").touch(),
    "create in thumbnails": lambda s: (s / "thumbnails" / "x").touch(),
    "create in files": lambda s: (s / "files" / "x").touch(),
    "create in canvas": lambda s: (s / "canvas" / "x").touch(),
    "create in generations": lambda s: (s / "generations" / "x").touch(),
    "create in a session": lambda s: (s / "x.png").touch(),
    "create in sessions": lambda s: (s.parent / "x.png").touch(),
    "create at the top": lambda s: (s.parents[1] / "x.png").touch(),
    "create in .mixfs": lambda s: (s.parents[1] / ".mixfs" / "x").touch(),
    "mkdir at the top": lambda s: os.mkdir(s.parents[1] / "x"),
    "mkdir in a session": lambda s: os.mkdir(s / "x"),
    "write generations.json": lambda s: (s / "generations.json").write_text("x"),
    "write metadata": lambda s: (s / "metadata" / "a.png.json").write_text("x"),
    "truncate metadata": lambda s: os.truncate(s / "metadata" / "a.png.json", 0),
    "append to README.txt": lambda s: open(s.parents[1] / "README.txt", "a"),
    "rm README.txt": lambda s: os.unlink(s.parents[1] / "README.txt"),
    "rm generations.json": lambda s: os.unlink(s / "generations.json"),
    "rm canvas.json": lambda s: os.unlink(s / "canvas.json"),
    "rm metadata": lambda s: os.unlink(s / "metadata" / "a.png.json"),
    "rmdir metadata": lambda s: os.rmdir(s / "metadata"),
    "rename metadata": lambda s: os.rename(s / "metadata", s / "other"),
    "rename README.txt": lambda s: os.rename(s.parents[1] / "README.txt", s.parents[1] / "x"),
    "rename a top folder": lambda s: os.rename(s.parent, s.parents[1] / "x"),
    "chmod metadata": lambda s: os.chmod(s / "metadata" / "a.png.json", 0o644),
    "utime of metadata": lambda s: os.utime(s / "metadata" / "a.png.json", (1, 1)),
    "write files/": lambda s: (s / "files" / "notes.txt").write_text("x"),
    "rm files/": lambda s: os.unlink(s / "files" / "notes.txt"),
}


def test_what_is_generated_is_read_only_to_root_too(box: Box, inbox: Path):
    box.imported()
    box.imported("notes.txt", b"text")
    before = sorted(str(path) for path in box.session.rglob("*"))
    wrong = []
    for what, do in REFUSED.items():
        try:
            do(box.session)
        except OSError as error:
            if error.errno != errno.EACCES:
                wrong.append(f"{what}: {error!r}")
        else:
            wrong.append(f"{what}: was not refused")
    assert not wrong
    assert sorted(str(path) for path in box.session.rglob("*") if "thumbnails" not in path.parts) == [
        path for path in before if "thumbnails" not in Path(path).parts
    ]
    assert stat.S_IMODE((box.session / "metadata").stat().st_mode) == 0o555
    assert stat.S_IMODE((box.session / "generations.json").stat().st_mode) == 0o444


# -- canvas.json and session.json


def canvas(box: Box, text: str) -> bytes:
    """The session's canvas.json with one more text on it."""
    document = json.loads((box.session / "canvas.json").read_text())
    document["canvas_images"].append(
        {"canvasId": f"note-{text}", "type": "text", "x": 10, "y": 20, "width": 100, "height": 50, "text": text}
    )
    return json.dumps(document).encode()


def texts(box: Box) -> list[str]:
    folder = box.session / "canvas"
    return sorted((folder / name).read_text().rstrip("\n") for name in os.listdir(folder) if name.endswith(".txt"))


def soon(condition: Callable[[], object], what: str) -> None:
    until(condition, what, 10)


def test_canvas_json_is_saved_in_place(box: Box):
    os.mkdir(box.session)
    path = box.session / "canvas.json"
    path.write_bytes(canvas(box, "first"))
    # The commit comes at the last release, which close(2) doesn't wait for.
    soon(lambda: texts(box) == ["first"], "the entry")
    assert "first" in path.read_text()
    path.write_bytes(canvas(box, "second"))
    soon(lambda: texts(box) == ["first", "second"], "the second entry")
    session = box.record()
    assert session is not None
    assert sorted(entry.text or "" for entry in box.library.entries(session.id)) == ["first", "second"]


def test_canvas_json_is_saved_by_rename(box: Box):
    os.mkdir(box.session)
    for n, name in enumerate((".canvas.json.tmp", "canvas.json.tmp", ".goutputstream-ABC123", "canvas.json~")):
        new = box.session / name
        new.write_bytes(canvas(box, f"by rename {n}"))
        os.rename(new, box.session / "canvas.json")
        assert f"by rename {n}" in (box.session / "canvas.json").read_text()
        assert not new.exists()
        assert len(texts(box)) == n + 1
    assert json.loads((box.session / "canvas.json").read_text())["session_id"]


def test_an_invalid_document_is_refused_with_the_reason(box: Box):
    os.mkdir(box.session)
    path = box.session / "canvas.json"
    path.write_bytes(canvas(box, "kept"))
    soon(lambda: texts(box) == ["kept"], "the entry")
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b'{"canvas_images": [')
    with refused(errno.EINVAL):
        os.close(fd)
    last = json.loads(box.problems()[-1])
    assert "canvas.json" in last["reason"]
    assert "Line 1" in last["reason"]
    soon(lambda: b"kept" in path.read_bytes(), "what it was before")
    new = box.session / "canvas.json.tmp"
    new.write_bytes(b'{"canvas_images": [{"x": "far"}]}')
    lines = len(box.problems())
    with refused(errno.EINVAL):
        os.rename(new, path)
    assert len(box.problems()) == lines + 1
    assert "canvas_images[0]" in json.loads(box.problems()[-1])["reason"]
    os.unlink(new)
    assert b"kept" in path.read_bytes()
    assert texts(box) == ["kept"]


def test_session_json_retitles(box: Box):
    os.mkdir(box.session)
    path = box.session / "session.json"
    document = json.loads(path.read_text())
    document["title"] = f"{box.title} by json"
    path.write_text(json.dumps(document))
    renamed = box.session.with_name(document["title"])
    soon(renamed.exists, "the new title")
    soon(lambda: not box.session.exists(), "the old title's end")


@pytest.mark.parametrize("backup", ["no", "yes"])
def test_vim_saves_canvas_json(box: Box, backup: str):
    os.mkdir(box.session)
    path = box.session / "canvas.json"
    path.write_bytes(canvas(box, "before"))
    soon(lambda: texts(box) == ["before"], "the entry")
    copy = f"set backupcopy={backup}"
    run("vim", "-u", "NONE", "-es", "-c", copy, "-c", "%s/before/after/", "-c", "wq", path)
    soon(lambda: texts(box) == ["after"], "what vim saved")
    assert not [name for name in os.listdir(box.session) if name.endswith((".swp", "~")) or name == "4913"]


# -- over a remount


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Live]:
    """A mount that a test may unmount."""
    with living(tmp_path / "own") as live:
        live.start()
        yield live


def test_what_a_remount_keeps(own: Live, tmp_path: Path):
    inbox = own.point / "import" / "Trip"
    inbox.mkdir(mode=0o750)
    source = tmp_path / "Trip"
    for n in range(5):
        path = source / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png())
        os.utime(path, (1_600_000_000 + n, 1_600_000_000 + n))
    run("rsync", "-a", f"{source}/", f"{inbox}/")
    os.setxattr(inbox / "0.png", "user.mine", b"kept")
    os.setxattr(inbox, "user.folder", b"kept too")
    (own.point / "import" / "waiting.part").write_bytes(b"half")
    own.take_in()
    before = {str(path): path.stat() for path in [inbox, *inbox.iterdir()]}
    own.stop()
    own.start()
    after = {str(path): path.stat() for path in [inbox, *inbox.iterdir()]}
    assert after.keys() == before.keys()
    for name, was in before.items():
        now = after[name]
        assert (now.st_ino, now.st_size, now.st_mtime_ns, now.st_mode) == (
            was.st_ino, was.st_size, was.st_mtime_ns, was.st_mode
        ), name  # fmt: skip
    assert os.getxattr(inbox / "0.png", "user.mine") == b"kept"
    assert os.getxattr(inbox, "user.folder") == b"kept too"
    assert (own.point / "import" / "waiting.part").read_bytes() == b"half"
    again = run("rsync", "-a", "--itemize-changes", f"{source}/", f"{inbox}/")
    assert again.stdout == b""
    # A change that waits for nothing to be taken in: the folder's time is kept all the same.
    (inbox / "empty.png").touch()
    changed = inbox.stat().st_mtime_ns
    own.stop()
    own.start()
    assert inbox.stat().st_mtime_ns == changed
    own.stop()


def test_import_itself_stays(own: Live):
    with refused(errno.EACCES, errno.EBUSY):
        os.rmdir(own.point / "import")
    (own.point / "import" / "a.png").write_bytes(png())
    with refused(errno.EACCES, errno.EBUSY, errno.ENOTEMPTY):
        os.rmdir(own.point / "import")
    own.stop()


def ended(pid: int) -> bool:
    """True for a process that is gone, or that only waits for whoever adopted it to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_nothing_is_left_after_umount(own: Live):
    (own.point / "import" / "a.png").write_bytes(png())
    pid = own.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # Copied in, not yet taken in: unmounting finishes that.
    own.stop()
    assert not os.path.exists(f"/proc/{pid}")
    assert not [child for child in children if os.path.exists(f"/proc/{child}")]
    assert str(own.point) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(own.point) == []
    with Library.open(own.library, read_only=True) as library:
        assert [bytes(p.name) for s in library.sessions() for p in library.placements(s.id)] == [b"a.png"]


def test_the_command_line_mounts_and_unmounts(tmp_path: Path):
    point, library = tmp_path / "m", tmp_path / "lib"
    point.mkdir()
    env = environment() | {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}

    def mixfs(*words: object) -> str:
        command = python("-m", "mixfs.cli.main", *(str(word) for word in words))
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pids: list[int] = []
    try:
        mixfs("mount", point, "--library", library)
        pids.append(json.loads((library / "mounted").read_text())["pid"])
        (point / "import" / "a.png").write_bytes(png())
        mixfs("wait", point)
        assert (point / "sessions" / "Inbox" / "images" / "a.png").exists()
        mixfs("umount", point)
        assert not os.path.ismount(point)
        assert ended(pids[0])
    finally:
        if os.path.ismount(point):
            subprocess.run(["fusermount3", "-uz", point], check=False, timeout=10)
        for pid in pids:
            if not ended(pid):
                os.kill(pid, signal.SIGKILL)


def test_reads_agree_with_a_digest_of_random_places(box: Box, inbox: Path):
    data = os.urandom(3 << 20)
    path = box.imported("big.bin", data)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(data).hexdigest()
    fd = os.open(path, os.O_RDONLY)
    for at in (0, 1, 4095, 4096, 131_071, 1 << 20, (3 << 20) - 5, 3 << 20, 4 << 20):
        assert os.pread(fd, 10_000, at) == data[at : at + 10_000]
    os.close(fd)
