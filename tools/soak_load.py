"""One process of `tools/soak`: does what users and their programs do, and keeps a ledger of what it was told is safe.

Each process has sessions of its own, so that it knows what must be there; it looks at everybody's. What it does wrong
by its ledger, or any error that a race between processes does not explain, is a fault.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mixfs.media.samples import KINDS, make_sample

# What another process may bring about by removing, or putting in its place, what this one is about to look at.
RACES = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
# A name in sessions/ may show its version before for a moment after `mixfs wait`: seen once, the cause is not known.
STALE_S = 5.0
SESSIONS = 6
FILES = 40
_SUSPENDED = (
    "import os, sys\nfile = open(sys.argv[1], 'wb')\nfile.write(b'half')\nfile.flush()\n"
    "print('ready', flush=True)\nsys.stdin.read()\nfile.write(sys.argv[2].encode())\nfile.close()"
)


@dataclass
class Session:
    """A session of this process. `files` maps a path below images/ or files/ to the SHA-256 that must be there."""

    title: str
    folder: str | None = None  # in import/
    files: dict[str, str] = field(default_factory=dict)
    receipts: list[str] = field(default_factory=list)  # those of `files` that are listed below `folder`
    in_images: list[str] = field(default_factory=list)  # those that were copied into images/, whatever they are

    def area(self, name: str) -> str:
        return "images" if name.endswith((".png", ".jpg")) or name in self.in_images else "files"


class Load:
    """The work of one process."""

    def __init__(self, number: int, point: Path, scratch: Path, library: Path, seed: int) -> None:
        self.number, self.point, self.scratch, self.library = number, point, scratch, library
        self.rng = random.Random(seed * 1000 + number)
        self.samples = [make_sample(kind) for kind in KINDS]
        self.sessions: list[Session] = []
        self.made = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        scratch.mkdir(parents=True, exist_ok=True)

    # -- the ledger

    def save(self, path: Path) -> None:
        ledger = {
            "made": self.made, "sessions": [asdict(session) for session in self.sessions], "counts": self.counts,
            "faults": self.faults,
        }  # fmt: skip
        path.write_text(json.dumps(ledger))

    def load(self, path: Path) -> None:
        """Go on from where an earlier run of this process stopped."""
        if path.exists():
            ledger = json.loads(path.read_text())
            self.made = ledger["made"]
            self.sessions = [Session(**held) for held in ledger["sessions"]]

    # -- what is worked with

    def number_of_next(self) -> int:
        self.made += 1
        return self.made

    def picture(self) -> tuple[str, bytes]:
        """A picture with a generator's metadata, other bytes each time, and its name."""
        name, data = self.rng.choice(self.samples)
        number = self.number_of_next()
        mark = f"soak {self.number} {number} {self.rng.random()}".encode()
        stem, suffix = os.path.splitext(name)
        if suffix == ".png":
            body = b"tEXtSoak\0" + mark
            chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
            data = data[:-12] + chunk + data[-12:]
        else:
            data = data[:2] + b"\xff\xfe" + (len(mark) + 2).to_bytes(2, "big") + mark + data[2:]
        odd = self.rng.choice(["", "", "", "", "é ", "a\nb ", "\udcff "])
        return f"{odd}{stem} {self.number}-{number}{suffix}", data

    def pictures(self, folder: Path) -> dict[str, str]:
        """Write a folder of pictures, with folders in it and files that are none; returns what is there."""
        out = {}
        deep = self.rng.choice(["", "deep", "deep/deeper"])
        for _ in range(self.rng.randrange(4, FILES // 2)):
            name, data = self.picture()
            if self.rng.random() < 0.15:
                name, data = f"note {self.number}-{self.number_of_next()}.txt", self.rng.randbytes(3000)
            if deep and self.rng.random() < 0.3:
                name = f"{deep}/{name}"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            out[name] = hashlib.sha256(data).hexdigest()
        return out

    def imports(self, session: Session) -> Path:
        return self.point / "import" / (session.folder or "")

    def shown(self, session: Session, name: str) -> Path:
        """Where a file is in sessions/, once it is taken in."""
        return self.point / "sessions" / session.title / session.area(name) / name

    def take_in(self) -> None:
        """As `mixfs wait` does."""
        fd = os.open(self.point / ".mixfs" / "imported", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def any_session(self, *, receipts: bool = False) -> Session | None:
        found = [session for session in self.sessions if session.files and (session.receipts or not receipts)]
        return self.rng.choice(found) if found else None

    def mixfs(self, *words: object) -> None:
        self.run([sys.executable, "-m", "mixfs.cli.main", *map(str, words)])

    def run(self, command: list[object], allowed: tuple[str, ...] = ()) -> str:
        """Run a program; what it says on stderr is a fault, but for lines that end as `allowed`."""
        done = subprocess.run([os.fsencode(str(word)) for word in command], capture_output=True, check=False)
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        wrong = [line for line in lines if not line.endswith(allowed)] if allowed else lines
        if wrong or (done.returncode and not allowed):
            raise AssertionError(f"{command[:6]} ended with {done.returncode}: {wrong[-5:]}")
        return done.stdout.decode("utf-8", "replace")

    @contextlib.contextmanager
    def source(self) -> Iterator[Path]:
        folder = self.scratch / f"source {self.number_of_next()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # -- what it does

    def copy_in(self) -> None:
        """cp -r, rsync, tar, through import/ or into images/, or `mixfs import`."""
        title = f"Soak {self.number} {self.number_of_next()}"
        with self.source() as source:
            files = self.pictures(source)
            session = Session(title, files=files)
            self.sessions.append(session)
            way = self.rng.choice(["cp", "rsync", "tar", "images", "mixfs"])
            if way == "mixfs":
                self.mixfs("import", "--session", title, source)
                return
            if way == "images":
                (self.point / "sessions" / title).mkdir()
                target = self.point / "sessions" / title / "images"
                session.in_images = list(files)
                self.run(["cp", "-r", f"{source}/.", target])
                return
            session.folder, session.receipts = title, list(files)
            target = self.imports(session)
            target.mkdir()
            if way == "cp":
                self.run(["cp", "-r", f"{source}/.", target])
            elif way == "rsync":
                self.run(["rsync", "-a", f"{source}/", f"{target}/"])
                if self.rng.random() < 0.5:
                    self.take_in()
                again = self.run(["rsync", "-ai", f"{source}/", f"{target}/"])
                assert ">f" not in again, f"rsync transferred again: {again}"
            else:
                archive = self.scratch / "archive.tar"
                self.run(["tar", "-C", source, "-cf", archive, "."])
                self.run(["tar", "-C", target, "-xf", archive])
                archive.unlink()
            for name in self.rng.sample(list(files), min(3, len(files))):
                self.check_bytes(target / name, files[name])

    def check_bytes(self, path: Path, digest: str) -> None:
        until = time.monotonic() + STALE_S
        while True:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found == digest or time.monotonic() > until:
                break
            time.sleep(0.05)
        assert found == digest, f"{path} has other bytes than were written"

    def rename_storm(self) -> None:
        session = self.any_session(receipts=True)
        if session is None:
            return
        for _ in range(15):
            old = self.rng.choice(session.receipts)
            folder, base = os.path.split(old)
            new = os.path.join(folder, f"r{self.number_of_next()} {base[-60:]}")
            if self.rng.random() < 0.2:
                # By way of a temporary name, as some programs do.
                os.rename(self.imports(session) / old, self.imports(session) / f"{new}.part")
                os.rename(self.imports(session) / f"{new}.part", self.imports(session) / new)
            else:
                os.rename(self.imports(session) / old, self.imports(session) / new)
            session.files[new] = session.files.pop(old)
            session.receipts[session.receipts.index(old)] = new
        if self.rng.random() < 0.3:
            title = f"Soak {self.number} {self.number_of_next()} renamed"
            os.rename(self.imports(session), self.point / "import" / title)
            session.folder = session.title = title

    def write_anywhere(self) -> None:
        """As fsx does, on a new file or a new version of an old one."""
        session = self.any_session(receipts=True)
        if session is None:
            return
        olds = [name for name in session.receipts if name.endswith(".bin")]
        name = self.rng.choice(olds) if olds and self.rng.random() < 0.5 else f"random {self.number_of_next()}.bin"
        path = self.imports(session) / name
        held = bytearray(path.read_bytes() if name in session.files else b"")
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            for step in range(40):
                at, size = self.rng.randrange(300_000), self.rng.choice([1, 100, 4096, 10_000, 70_000])
                data = self.rng.randbytes(size)
                match self.rng.randrange(6):
                    case 0 | 1:
                        os.pwrite(fd, data, at)
                        held.extend(bytes(max(0, at + size - len(held))))
                        held[at : at + size] = data
                    case 2:
                        os.ftruncate(fd, at)
                        held = held[:at] + bytes(max(0, at - len(held)))
                    case 3 if len(held) > size:
                        at %= len(held) - size
                        with mmap.mmap(fd, len(held)) as mapped:
                            mapped[at : at + size] = data
                        held[at : at + size] = data
                    case 4 if held:
                        with mmap.mmap(fd, len(held), prot=mmap.PROT_READ) as mapped:
                            assert mapped[:] == held, f"mapped bytes differ after step {step}"
                    case 5:
                        assert os.pread(fd, size, at) == held[at : at + size], f"read bytes differ after step {step}"
            os.pwrite(fd, b"end", len(held))
            held += b"end"
            if self.rng.random() < 0.3:
                os.fsync(fd)
        finally:
            os.close(fd)
        assert path.read_bytes() == held, "the whole differs"
        if name not in session.files:
            session.receipts.append(name)
        session.files[name] = hashlib.sha256(held).hexdigest()

    def overwrite(self) -> None:
        """A new version of a picture, as editors save: in place, renamed over it, or with the old one kept aside."""
        session = self.any_session(receipts=True)
        if session is None:
            return
        name = self.rng.choice(session.receipts)
        if not name.endswith(".png"):
            return
        _, data = self.picture()
        while not data.startswith(b"\x89PNG"):
            _, data = self.picture()
        path = self.imports(session) / name
        beside = path.with_name(f".saving {self.number_of_next()}.tmp")
        match self.rng.randrange(3):
            case 0:
                path.write_bytes(data)
            case 1:
                beside.write_bytes(data)
                os.replace(beside, path)
            case 2:
                os.rename(path, beside)
                path.write_bytes(data)
                beside.unlink()
        session.files[name] = hashlib.sha256(data).hexdigest()

    def list_all(self) -> None:
        allowed = ("No such file or directory", "Stale file handle")
        where = self.rng.choice([self.point, self.point / "sessions", self.point / "import", self.point / "by-model"])
        if self.rng.random() < 0.5:
            self.run(["find", where, "-printf", "%s %p\\n"], allowed)
        else:
            self.run(["ls", "-lR", where], allowed)

    def read_everybodys(self) -> None:
        """Pictures of all processes: in images/ the name says what the bytes must be."""
        buckets = os.listdir(self.point / "images")
        for bucket in self.rng.sample(buckets, min(3, len(buckets))):
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self.point / "images" / bucket)[:20]:
                    try:
                        self.check_bytes(self.point / "images" / bucket / name, name.partition(".")[0])
                    except OSError as error:
                        if error.errno not in RACES:
                            raise

    def read_own(self) -> None:
        session = self.any_session()
        if session is None:
            return
        self.take_in()
        for name in self.rng.sample(list(session.files), min(8, len(session.files))):
            path = self.shown(session, name)
            self.check_bytes(path, session.files[name])
            assert os.getxattr(path, "user.mixfs.digest").decode() == session.files[name]
            if session.area(name) == "images" and name.endswith((".png", ".jpg")):
                top = self.point / "sessions" / session.title
                json.loads((top / "metadata" / f"{name}.json").read_bytes())
                with contextlib.suppress(FileNotFoundError):
                    # It is made within two seconds, or there is none yet.
                    assert (top / "thumbnails" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        for document in ("session.json", "canvas.json", "generations.json"):
            json.loads((self.point / "sessions" / session.title / document).read_bytes())

    def attributes(self) -> None:
        session = self.any_session(receipts=True)
        if session is None:
            return
        for name in self.rng.sample(session.receipts, min(5, len(session.receipts))):
            path, value = self.imports(session) / name, f"comment {self.rng.random()}".encode()
            os.setxattr(path, "user.soak", value)
            assert os.getxattr(path, "user.soak") == value
            os.chmod(path, self.rng.choice([0o600, 0o640, 0o644]))
            if self.rng.random() < 0.5:
                self.take_in()
                os.setxattr(path, "user.xdg.tags", b"soaked")
                assert os.getxattr(self.shown(session, name), "user.xdg.tags") == b"soaked"
                os.removexattr(path, "user.soak")

    def delete_some(self) -> None:
        """Pictures out of sessions/, or receipts out of import/ (which take nothing away)."""
        session = self.any_session()
        if session is None:
            return
        self.take_in()
        if session.folder and self.rng.random() < 0.3:
            self.run(["rm", "-r", self.imports(session)])
            session.folder, session.receipts = None, []
            return
        images = [name for name in session.files if session.area(name) == "images"]
        for name in self.rng.sample(images, len(images) // 3):
            self.shown(session, name).unlink()
            del session.files[name]
            if name in session.in_images:
                session.in_images.remove(name)
            if name in session.receipts:
                session.receipts.remove(name)
                with contextlib.suppress(FileNotFoundError):
                    (self.imports(session) / name).unlink()

    def delete_session(self) -> None:
        if len(self.sessions) < 2:
            return
        session = self.sessions.pop(self.rng.randrange(len(self.sessions)))
        self.take_in()
        if session.folder:
            self.run(["rm", "-r", self.imports(session)])
        self.run(["rm", "-r", self.point / "sessions" / session.title])

    def retitle(self) -> None:
        session = self.any_session()
        if session is None:
            return
        self.take_in()
        title = f"Soak {self.number} {self.number_of_next()} retitled"
        os.rename(self.point / "sessions" / session.title, self.point / "sessions" / title)
        session.title = title

    def move_between(self) -> None:
        """A picture from one session's images/ to another's."""
        source, target = self.any_session(), self.any_session()
        if source is None or target is None or source is target:
            return
        names = [name for name in source.files if "/" not in name and source.area(name) == "images"]
        if not names:
            return
        self.take_in()
        name = self.rng.choice(names)
        os.rename(self.shown(source, name), self.point / "sessions" / target.title / "images" / name)
        target.files[name] = source.files.pop(name)
        target.in_images.append(name)
        for held in (source.in_images, source.receipts):
            if name in held:
                held.remove(name)
        if source.folder:
            with contextlib.suppress(FileNotFoundError):
                (self.imports(source) / name).unlink()

    def suspended(self) -> None:
        """A program that stands still with a file open, while this process goes on."""
        session = self.any_session(receipts=True)
        if session is None:
            return
        name, rest = f"held {self.number_of_next()}.bin", f" and half {self.rng.random()}"
        path = self.imports(session) / name
        with subprocess.Popen(
            [sys.executable, "-S", "-c", _SUSPENDED, path, rest], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout is not None and client.stdin is not None
            client.stdout.readline()
            client.send_signal(signal.SIGSTOP)
            try:
                # Not into its folder: a rename would take the name away under it.
                self.rng.choice([self.copy_in, self.read_own, self.list_all, self.take_in])()
            finally:
                client.send_signal(signal.SIGCONT)
                client.stdin.close()
        assert client.returncode == 0
        session.files[name] = hashlib.sha256(f"half{rest}".encode()).hexdigest()
        session.receipts.append(name)

    def keep_house(self) -> None:
        """What the command line does beside a mount: gc and compaction without patience, and a check of it all."""
        match self.rng.randrange(3):
            case 0:
                self.mixfs("gc", "--trash-days", 0, "--grace-hours", 0, "--yes")
            case 1:
                self.mixfs("compact", "--keep-days", 0)
            case 2:
                self.mixfs("fsck")

    # -- doing it

    def choose(self) -> Callable[[], None]:
        if self.number == 0:
            return self.keep_house
        if len(self.sessions) < 2:
            return self.copy_in
        if len(self.sessions) > SESSIONS:
            return self.delete_session
        return self.rng.choice([
            self.copy_in, self.copy_in, self.rename_storm, self.write_anywhere, self.overwrite, self.list_all,
            self.read_everybodys, self.read_own, self.attributes, self.delete_some, self.retitle, self.move_between,
            self.suspended,
        ])  # fmt: skip

    def work(self, until: float) -> None:
        while time.time() < until:
            activity = self.choose()
            try:
                activity()
            except Exception:  # noqa: BLE001 - whatever it is, it is told at the end
                self.faults.append(f"{activity.__name__}: {traceback.format_exc(limit=-4)}")
                if len(self.faults) > 20:
                    return
            self.counts[activity.__name__] += 1


def main() -> None:
    given = json.loads(sys.argv[1])
    load = Load(given["number"], Path(given["point"]), Path(given["scratch"]), Path(given["library"]), given["seed"])
    ledger = Path(given["ledger"])
    load.load(ledger)
    load.work(given["until"])
    load.save(ledger)


if __name__ == "__main__":
    main()
