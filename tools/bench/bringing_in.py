"""Bringing pictures in: through a mount, by a command, and by the programs that one would use instead.

Each round copies the same folder into a fresh place, and then again beside the first, where deduplication shows. The
source is in the page cache; what was written before is on the disk when the clock starts.

    cp + sha256sum   `cp -r`, then `sha256sum` of the copies: what an import can't do without. Nothing is made durable
    cp, flushed      `cp -r`, then `sync -f`
    bindfs           the same through bindfs
    mixfs            `cp -r` into import/, then `mixfs wait`: durable, digested, looked into. Thumbnails are begun
    mixfs import     the command, without a mount. No thumbnails
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from measuring import MIXFS, Mixfs, Report, drop_caches, run, seconds
from peers import BORG, RESTIC, Bindfs

PART = "import"
LIMIT = "cp + sha256sum"
COMMAND = "mixfs import"


def copy(source: Path, target: Path) -> None:
    run("cp", "-r", source, target)


def copy_and_digest(source: Path, target: Path) -> None:
    copy(source, target)
    # Not in one process with cp: one after the other, as people do it.
    run("sha256sum", *sorted(target.iterdir()))


def copy_flushed(source: Path, target: Path) -> None:
    copy(source, target)
    run("sync", "-f", target)


Work = Callable[[str], object]
"""Brings the folder in under a name."""


def measure(report: Report, source: Path, work: Path) -> None:
    """One round of all."""
    files = len(os.listdir(source))
    # Into the page cache.
    run("sha256sum", *sorted(source.iterdir()))

    def note(who: str, bring_in: Work, settle: Callable[[], object] = lambda: None) -> None:
        for turn in ("first", "again"):
            os.sync()
            report.note(PART, f"files brought in, {turn}", "files/s", who, files / seconds(bring_in, turn))
            settle()

    def place(name: str) -> Path:
        folder = work / name
        folder.mkdir(parents=True)
        return folder

    def absent(*programs: str) -> bool:
        return any(shutil.which(program) is None for program in programs)

    native = place("native")
    note(LIMIT, lambda turn: copy_and_digest(source, native / turn))
    flushed = place("flushed")
    note("cp, flushed", lambda turn: copy_flushed(source, flushed / turn))

    mixfs = Mixfs(place("mixfs"))

    def through_mount(turn: str) -> None:
        copy(source, mixfs.point / "import" / turn)
        mixfs.wait()

    with mixfs.mounted():
        note(MIXFS, through_mount, mixfs.wait_for_thumbnails)

    command = Mixfs(place("command"))
    note(COMMAND, lambda turn: command("import", source, "--session", turn))

    if not absent("bindfs"):
        bindfs = Bindfs(place("bindfs-data"), place("bindfs"))
        with bindfs.mounted():
            note("bindfs", lambda turn: copy_flushed(source, bindfs.point / turn))
    if not absent("git", "git-annex"):
        annex = place("annex")
        run("git", "init", "-q", cwd=annex)
        run("git", "-c", "annex.uuid=", "annex", "init", "bench", cwd=annex, env={"HOME": str(work)})

        def add(turn: str) -> None:
            copy(source, annex / turn)
            run("git", "annex", "add", "--quiet", turn, cwd=annex, env={"HOME": str(work)})

        note("git-annex", add)
        # It takes the right to write from folders.
        run("chmod", "-R", "u+w", annex)
    if not absent("borg"):
        env = BORG | {"HOME": str(work)}
        repository = place("borg") / "repository"
        run("borg", "init", "-e", "none", repository, env=env)
        # Each turn reads the files, as all others do.
        create = ("borg", "create", "--files-cache", "disabled")
        note("borg", lambda turn: run(*create, f"{repository}::{turn}", source, env=env))
    if not absent("restic"):
        env = RESTIC | {"HOME": str(work)}
        kept = place("restic") / "repository"
        run("restic", "-r", kept, "init", env=env)
        # --force for the same.
        note("restic", lambda turn: run("restic", "-r", kept, "backup", "--force", source, env=env))
    shutil.rmtree(work)
    drop_caches()
