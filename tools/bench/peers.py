"""Who is measured beside MixFS: each shows one folder of data through a mount. Those that are not installed say so."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measuring import MIXFS, ROOT, Mixfs, fill, run

from mixfs.library.api import Library

FOREVER = "entry_timeout=86400,attr_timeout=86400,negative_timeout=86400,kernel_cache"
BORG = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
RESTIC = {"RESTIC_PASSWORD": "x"}
PATIENCE_S = 60.0


class Peer:
    """The native file system; the others are mounts over it."""

    name = "ext4"
    programs: tuple[str, ...] = ()

    def __init__(self, data: Path, work: Path) -> None:
        """`data` is what is shown; in `work`, made here, a peer may keep what it likes."""
        self.data, self.work = data, work
        self.point = work / "mount"
        self.point.mkdir(parents=True)
        self.env = {"HOME": str(work), "XDG_CACHE_HOME": str(work / "cache")}

    def missing(self) -> str | None:
        return next((program for program in self.programs if shutil.which(program) is None), None)

    def prepare(self) -> None:
        """Take the data in, where it is not shown from where it lies."""

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        yield

    def folder(self, name: str) -> Path:
        """Where a folder of `data` is shown."""
        return self.data / name

    # -- for mounts

    @contextlib.contextmanager
    def _mounted(self, *command: str | Path) -> Iterator[None]:
        """Of a program that goes to the background once it is mounted."""
        try:
            run(*command, env=self.env)
            self._wait()
            yield
        finally:
            # Also where it was interrupted: then it may have mounted nothing.
            subprocess.run(["fusermount3", "-u", self.point], check=False, capture_output=True)

    @contextlib.contextmanager
    def _mounted_by(self, *command: str | Path) -> Iterator[None]:
        """Of a program that stays in the foreground."""
        process = subprocess.Popen(
            [str(word) for word in command], env=os.environ | self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._wait()
            yield
        finally:
            subprocess.run(["fusermount3", "-u", self.point], check=False, capture_output=True)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not os.path.ismount(self.point):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has not mounted within {PATIENCE_S:g} s")
            time.sleep(0.01)


class Bindfs(Peer):
    name = "bindfs"
    programs = ("bindfs",)
    options: tuple[str, ...] = ()

    def folder(self, name: str) -> Path:
        return self.point / name

    def mounted(self) -> contextlib.AbstractContextManager[None]:
        return self._mounted("bindfs", *self.options, self.data, self.point)


class BindfsCached(Bindfs):
    name = "bindfs, caches"
    options = ("-o", FOREVER)


class Squashfuse(Bindfs):
    name = "squashfuse_ll"
    programs = ("squashfuse_ll", "mksquashfs")

    def prepare(self) -> None:
        # Uncompressed, as the others keep it.
        run("mksquashfs", self.data, self.work / "image", "-noI", "-noD", "-noF", "-noX", "-quiet", "-no-progress")

    def mounted(self) -> contextlib.AbstractContextManager[None]:
        return self._mounted("squashfuse_ll", self.work / "image", self.point)


class Rclone(Bindfs):
    name = "rclone"
    programs = ("rclone",)

    def mounted(self) -> contextlib.AbstractContextManager[None]:
        return self._mounted_by("rclone", "mount", "--read-only", self.data, self.point)


class Borg(Bindfs):
    name = "borg"
    programs = ("borg",)

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(data, work)
        self.env |= BORG

    def prepare(self) -> None:
        run("borg", "init", "-e", "none", self.work / "repository", env=self.env)
        # In its folder, so that names in the archive begin there.
        run("borg", "create", "-C", "none", f"{self.work / 'repository'}::data", ".", cwd=self.data, env=self.env)

    def mounted(self) -> contextlib.AbstractContextManager[None]:
        return self._mounted_by("borg", "mount", "-f", f"{self.work / 'repository'}::data", self.point)


class Restic(Bindfs):
    name = "restic"
    programs = ("restic",)

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(data, work)
        self.env |= RESTIC

    def prepare(self) -> None:
        run("restic", "-r", self.work / "repository", "init", env=self.env)
        run("restic", "-r", self.work / "repository", "backup", self.data, env=self.env)

    def mounted(self) -> contextlib.AbstractContextManager[None]:
        return self._mounted_by("restic", "-r", self.work / "repository", "mount", self.point)

    def folder(self, name: str) -> Path:
        return self.point / "snapshots" / "latest" / str(self.data).lstrip("/") / name


class Bare(Bindfs):
    """pyfuse3 with nothing behind it but the native file system: what Python can do at best."""

    name = "bare pyfuse3"
    programs = ()

    def mounted(self) -> contextlib.AbstractContextManager[None]:
        return self._mounted_by(sys.executable, ROOT / "tools" / "bench" / "bare.py", self.data, self.point)


class MixfsPeer(Peer):
    name = MIXFS

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(data, work)
        self.mixfs = Mixfs(work)

    def prepare(self) -> None:
        with Library.open(self.mixfs.library) as library:
            # Very many, for which `mixfs import` would take long: an fsync each.
            small = sorted(path for path in (self.data / "small").iterdir())
            fill(library, (("small", os.fsencode(path.name), path.read_bytes()) for path in small))
            library.import_paths([path for path in sorted(self.data.iterdir()) if path.name != "small"])
        with self.mixfs.mounted():
            self.mixfs.wait_for_thumbnails()

    def mounted(self) -> contextlib.AbstractContextManager[Path]:  # type: ignore[override]
        return self.mixfs.mounted()

    def folder(self, name: str) -> Path:
        return self.mixfs.point / "sessions" / name / ("files" if name == "large" else "images")


PEERS: tuple[type[Peer], ...] = (Peer, MixfsPeer, Bare, Bindfs, BindfsCached, Squashfuse, Borg, Restic, Rclone)
