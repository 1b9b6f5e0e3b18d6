"""`mixfs doctor`: can MixFS work here?"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import typer

from mixfs.cli.options import JsonOption, LibraryOption
from mixfs.cli.output import emit_json, plain, say
from mixfs.errors import os_words

_MARKS = {"ok": "ok", "warning": "!!", "problem": "NO"}


def doctor(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Look for what may keep MixFS from working, and say what to do about it.

    Exit code 0 when nothing stands in the way, else 1.
    """
    from mixfs.cli.config import find_library
    from mixfs.daemon import mounts
    from mixfs.library import doctor as checks
    from mixfs.media.pool import WorkerPool, WorkerStartError

    root = find_library(library)
    points = list(dict.fromkeys(mount.mountpoint for mount in mounts.mixfs_mounts()))
    alive = [point for point in points if mounts.answer(point) is mounts.Answer.ALIVE]
    with WorkerPool(1) as pool:
        try:
            workers, broken = pool.sandbox_problem(), False
        except WorkerStartError as error:
            workers, broken = str(error), True
    troubles = _library_troubles(root)
    for point in alive:
        troubles += [each for each in mounts.troubles(point) if each["text"] not in {one["text"] for one in troubles}]
    findings = [
        checks.check_device(mounts.fuse_device_problem()),
        checks.check_fusermount(shutil.which("fusermount3")),
        checks.check_allow_other(mounts.user_allow_other()),
        checks.check_sandbox(workers, broken),
        checks.check_place(root),
        checks.check_disk(root),
        checks.check_format(root),
        checks.check_clock(root),
        checks.check_leftovers(root),
        checks.check_lost(root),
        checks.check_mounts([point for point in points if point not in alive], alive),
        *checks.check_health(troubles),
    ]
    healthy = all(finding.state != checks.PROBLEM for finding in findings)
    if json:
        emit_json(
            {
                "healthy": healthy,
                "library": str(root),
                "findings": [
                    {"name": finding.name, "state": finding.state, "text": finding.text, "remedy": finding.remedy}
                    for finding in findings
                ],
            }
        )
    else:
        for finding in findings:
            say(f"[{_MARKS[finding.state]}] {plain(finding.text)}")
            if finding.remedy:
                say(f"     {plain(finding.remedy)}")
    if not healthy:
        raise typer.Exit(1)


def _library_troubles(root: Path) -> list[dict[str, str]]:
    """What is wrong with the library itself, as far as can be seen without changing it."""
    from mixfs.errors import MixfsError
    from mixfs.library.api import Library
    from mixfs.library.health import troubles

    if not (root / "format").exists():
        return []
    try:
        with Library.open(root, create=False, read_only=True) as library:
            return [asdict(trouble) for trouble in troubles(library)]
    except (OSError, MixfsError) as error:
        words = os_words(error) if isinstance(error, OSError) else str(error)
        return [{"kind": "library", "text": words, "remedy": "`mixfs fsck` says more."}]
