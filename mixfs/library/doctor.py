"""What may keep MixFS from working on this machine, and what to do about it.

Each check looks at one thing and gives one finding; what is checked comes in as arguments, so that tests can show it
machines that aren't there. Prints nothing and changes nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixfs.blobs.removal import Removal
from mixfs.errors import MixfsError, os_words
from mixfs.library import leftovers, place
from mixfs.library.lost import totals
from mixfs.library.problems import Problems
from mixfs.library.steadiness import Steadiness

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LOW_DISK = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """`state` is ok, warning or problem; `remedy` says what to do, and is empty when nothing needs doing."""

    name: str
    state: str
    text: str
    remedy: str = ""


def check_device(problem: str) -> Finding:
    """/dev/fuse, as `mixfs.daemon.mounts.fuse_device_problem` found it."""
    if problem:
        what, _, remedy = problem.partition(": ")
        return Finding("fuse-device", PROBLEM, f"{what}.", remedy[:1].upper() + remedy[1:])
    return Finding("fuse-device", OK, "/dev/fuse can be opened.")


def check_fusermount(path: str | None) -> Finding:
    """fusermount3: users other than root mount and unmount through it."""
    if path is None:
        state = WARNING if os.geteuid() == 0 else PROBLEM
        return Finding("fusermount3", state, "fusermount3 is not installed.", "Install the package fuse3.")
    if os.geteuid() != 0 and not os.stat(path).st_mode & 0o4000:
        return Finding(
            "fusermount3", WARNING, f"{path} is not setuid root.", "Without that only root can mount: reinstall fuse3."
        )
    return Finding("fusermount3", OK, f"{path} is there.")


def check_allow_other(allowed: bool) -> Finding:
    """user_allow_other in /etc/fuse.conf; root needs no leave."""
    if allowed:
        return Finding("user-allow-other", OK, "Users may mount with `-o allow_other`.")
    return Finding(
        "user-allow-other",
        OK,
        "Only root may mount with `-o allow_other`, which shows a mount to other users.",
        "If you need that (containers, a web server): write the line user_allow_other into /etc/fuse.conf.",
    )


def check_sandbox(problem: str, broken: bool) -> Finding:
    """The worker processes that read pictures, as `WorkerPool.sandbox_problem` found them; `broken`: none started."""
    if broken:
        return Finding("workers", PROBLEM, f"Pictures can't be read: {problem}.", "Install MixFS again.")
    if problem:
        return Finding(
            "workers", WARNING, f"The processes that read pictures may make every system call: {problem}.",
            "Install the package libseccomp2: then a picture that takes over its decoder can do no harm.",
        )  # fmt: skip
    return Finding("workers", OK, "The processes that read pictures can do nothing else (seccomp).")


def check_place(root: Path) -> Finding:
    """The file system that the library lies on, or would."""
    existing = root
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    kind = place.filesystem_type(existing) or "unknown"
    try:
        place.check_suitable(root)
    except MixfsError as error:
        return Finding("file-system", PROBLEM, str(error), "Move the library to a local disk.")
    return Finding("file-system", OK, f"{root} lies on {kind}.")


def check_disk(root: Path) -> Finding:
    """Free space where the library lies."""
    existing = root
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free."
    if usage.free < LOW_DISK:
        return Finding("disk", WARNING, text, "Make room: what doesn't fit will be refused.")
    return Finding("disk", OK, text)


def check_format(root: Path) -> Finding:
    """The library's format."""
    try:
        if not (root / "format").exists():
            return Finding(
                "library", OK, f"There is no library in {root} yet.", "`mixfs import` or `mixfs mount` makes one."
            )
        form = place.read_format(root)
    except OSError as error:
        return Finding("library", PROBLEM, os_words(error))
    except MixfsError as error:
        return Finding("library", PROBLEM, str(error), "Check the path; `mixfs fsck` says more.")
    if not os.access(root, os.W_OK):
        return Finding(
            "library", WARNING, f"You may not write to {root}: it can be looked at and exported from, no more.",
            "Change its owner or its permissions.",
        )
    return Finding("library", OK, f"{root} has format {form.version}, which this MixFS writes.")


def check_leftovers(root: Path) -> Finding:
    """What killed processes left in the library."""
    found = list(leftovers.find(root))
    if found:
        names = ", ".join(str(path.relative_to(root)) for path in found[:3]) + (", …" if len(found) > 3 else "")
        return Finding(
            "leftovers", WARNING, f"{len(found):,} files and folders were left behind by killed processes: {names}.",
            "The next command that writes to the library removes them.",
        )  # fmt: skip
    return Finding("leftovers", OK, "No killed process left anything behind.")


def check_clock(root: Path) -> Finding:
    """Whether the clock jumped, so that nothing expires."""
    words = Steadiness(root, Problems(root), read_only=True).words() if (root / "clock.json").exists() else ""
    if words:
        return Finding("clock", WARNING, words, "Check the clock (`timedatectl`).")
    return Finding("clock", OK, "The clock is steady.")


def check_health(troubles: Sequence[Mapping[str, str]]) -> list[Finding]:
    """What a mount, or the library itself, says is wrong with it."""
    if not troubles:
        return [Finding("health", OK, "The library is well.")]
    return [Finding(trouble["kind"], PROBLEM, trouble["text"], trouble["remedy"]) for trouble in troubles]


def check_lost(root: Path) -> Finding:
    """The originals that nothing references, and that gc deletes in some days."""
    try:
        words = totals(Removal(root)).words()
    except OSError as error:
        return Finding("lost", WARNING, f"lost/ can't be looked at. {os_words(error)}")
    return Finding("lost", OK, words or "No original lies in lost/.")


def check_mounts(stale: Sequence[str], alive: Sequence[str]) -> Finding:
    """Mounts whose daemon is gone or doesn't answer, and those that are well."""
    if stale:
        listed = ", ".join(stale)
        return Finding(
            "mounts", PROBLEM, f"The daemon of {listed} is gone or does not answer.",
            f"`mixfs mount {stale[0]}` heals it; `mixfs umount --lazy {stale[0]}` takes it away.",
        )  # fmt: skip
    if alive:
        return Finding("mounts", OK, f"Mounted at {', '.join(alive)}.")
    return Finding("mounts", OK, "Nothing is mounted.")
