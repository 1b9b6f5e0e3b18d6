"""What the benchmarks share: figures by rounds, medians, ratios, targets, data from a seed, mounts.

A figure is noted once a round for each who is measured (a *peer*: MixFS, the native file system, bindfs, …). Rounds go
over all of them in turn, so that noise hits all alike. What is printed is the median of the rounds; a ratio is the
median of the rounds' ratios.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mixfs.blobs import Intake  # noqa: E402
from mixfs.ids import Digest  # noqa: E402
from mixfs.library import editing  # noqa: E402
from mixfs.library.api import Library  # noqa: E402
from mixfs.library.ingest import Incoming, admit  # noqa: E402
from mixfs.library.transaction import Txn  # noqa: E402
from mixfs.media.types import Inspection  # noqa: E402

# Where it is set each start compiles all modules anew: that is no start that a user has.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MIXFS = "mixfs"
BATCH = 1000


# -- figures


class Target(NamedTuple):
    """A ratio of one's figure to another's, or a bare value (`of` None), that is to be reached."""

    value: float
    of: str | None = None
    at_most: bool = False
    who: str = MIXFS

    def words(self) -> str:
        sign = "≤" if self.at_most else "≥"
        who = "" if self.who == MIXFS else f" ({self.who})"
        return f"{sign} {self.value:g}" + (f" × {self.of}" if self.of else "") + who


@dataclass(slots=True)
class Figure:
    """One thing that is measured: by peer the value of each round, in `unit`."""

    part: str
    name: str
    unit: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        return statistics.median(self.rounds[peer])

    def ratio(self, peer: str, base: str) -> float:
        """The median of the rounds' ratios."""
        pairs = zip(self.rounds[peer], self.rounds[base], strict=False)
        return statistics.median(a / b if b else float("inf") for a, b in pairs)

    def against(self, target: Target) -> float | None:
        """What is to be compared with the target; None when it was not measured."""
        if target.who not in self.rounds:
            return None
        if target.of is None:
            return self.median(target.who)
        return self.ratio(target.who, target.of) if target.of in self.rounds else None


class Report:
    """The figures of one run, by part and name."""

    def __init__(self, targets: dict[tuple[str, str], list[Target]], say: Callable[[str], None]) -> None:
        self.figures: dict[tuple[str, str], Figure] = {}
        self.left_out: list[str] = []
        self.say = say
        self._targets = targets

    def note(self, part: str, name: str, unit: str, peer: str, value: float) -> None:
        figure = self.figures.setdefault((part, name), Figure(part, name, unit))
        figure.rounds.setdefault(peer, []).append(value)

    def leave_out(self, what: str, reason: str) -> None:
        self.left_out.append(f"{what}: left out, {reason}")
        self.say(self.left_out[-1])

    def _met(self, figure: Figure) -> Iterator[tuple[Target, float, bool]]:
        for target in self._targets.get((figure.part, figure.name), []):
            found = figure.against(target)
            if found is not None:
                yield target, found, found <= target.value if target.at_most else found >= target.value

    def table(self) -> str:
        """Lines for people: each part's figures, then each target with what was found."""
        lines = []
        for part in dict.fromkeys(figure.part for figure in self.figures.values()):
            figures = [figure for figure in self.figures.values() if figure.part == part]
            peers = list(dict.fromkeys(peer for figure in figures for peer in figure.rounds))
            widths = {peer: max(16, len(peer) + 2) for peer in peers}
            lines += [f"\n== {part}", f"{'':54}" + "".join(f"{peer:>{widths[peer]}}" for peer in peers)]
            for figure in figures:
                cells = {peer: f"{figure.median(peer):,.4g}" if peer in figure.rounds else "–" for peer in peers}
                row = "".join(f"{cell:>{widths[peer]}}" for peer, cell in cells.items())
                lines.append(f"{figure.name + ', ' + figure.unit:54}{row}")
            for figure in figures:
                for target, found, met in self._met(figure):
                    words = f"{figure.name}: {found:.3g}, wanted {target.words()}"
                    lines.append(f"  {'met    ' if met else 'NOT MET'} {words}")
        return "\n".join([*lines, *self.left_out])

    def data(self) -> list[dict[str, Any]]:
        return [
            {
                "part": figure.part, "figure": figure.name, "unit": figure.unit, "rounds": figure.rounds,
                "medians": {peer: figure.median(peer) for peer in figure.rounds},
                "targets": [
                    {"wanted": target.words(), "found": found, "met": met} for target, found, met in self._met(figure)
                ],
            }
            for figure in self.figures.values()
        ]  # fmt: skip


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program to its end; what it printed. Raises RuntimeError with its words."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command}: exit status {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def drop_caches() -> bool:
    """Have the kernel forget its page cache, dentries and inodes; False where we may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


# -- data


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(seed: int, width: int, height: int) -> bytes:
    """A PNG of noise, no two alike, that takes a decoder as long as a picture does; about 3/4 of its pixels' bytes."""
    # Six bits of noise in each byte are what deflate's Huffman codes make six bits of.
    levels = bytes(value & 63 for value in range(256))
    noise = random.Random(seed).randbytes((width * 3 + 1) * height).translate(levels)
    rows = b"".join(b"\0" + noise[at : at + width * 3] for at in range(0, height * width * 3, width * 3))
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    pixels = packer.compress(rows) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiny_png(number: int) -> bytes:
    """About 120 bytes: a picture of which there is hardly more than what is known of it."""
    pixels = zlib.compress((b"\0" + number.to_bytes(4, "big") * 3) * 4)
    head = (4).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    text = chunk(b"tEXt", b"number\0%d" % number)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_images(folder: Path, count: int, width: int, height: int, first: int = 0) -> None:
    """So many pictures as `png` makes them, numbered from `first`."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        (folder / f"{number:05}.png").write_bytes(png(number, width, height))


TINY = Inspection(media_type="image/png", width=4, height=4)


def fill(
    library: Library, files: Iterable[tuple[str, bytes, bytes]],
    inspected: Callable[[int], Inspection] = lambda number: TINY, *, marked: bool = True,
) -> None:  # fmt: skip
    """Put (session, name, bytes) into a library as imports would leave it, but without their fsyncs or thumbnails.

    `inspected` is what the readers find in the file of a number. `marked`: as pictures of which none can be made.
    """
    staging = library.staging.open()

    def put(batch: list[tuple[str, Incoming]]) -> None:
        def write(txn: Txn) -> None:
            for title, incoming in batch:
                admit(txn, incoming, editing.session_titled(txn, title).id, None, library.has_blob)

        library.commit(write)

    came: list[tuple[str, Incoming]] = []
    for number, (title, name, data) in enumerate(files):
        digest, sums = _publish(library, staging, data)
        incoming = Incoming(
            digest=digest, size=len(data), name=name, mtime_ns=time.time_ns(), inspection=inspected(number), sums=sums
        )
        came.append((title, incoming))
        if len(came) == BATCH:
            put(came)
            came = []
    if came:
        put(came)
    if not marked:
        return
    # A daemon would make them while something else is measured.
    library.thumbnails.record(dict.fromkeys(library.thumbnails.missing(count=10**9)[0], (0, 0)))


def _publish(library: Library, staging: Path, data: bytes) -> tuple[Digest, bytes]:
    intake = Intake(staging / "one")
    intake.write(data, 0)
    digest, _ = library.blobs.receive(intake, durable=False)
    sums = intake.sums()
    intake.discard()
    return digest, sums


# -- MixFS


class Mixfs:
    """A library, a mount point, and the command line over them."""

    def __init__(self, top: Path) -> None:
        self.library, self.point = top / "library", top / "mount"
        self.point.mkdir(parents=True, exist_ok=True)
        self.env = {
            "PYTHONPATH": str(ROOT), "MIXFS_LIBRARY": str(self.library), "HOME": str(top),
            "XDG_STATE_HOME": str(top / "state"), "XDG_CONFIG_HOME": str(top / "config"),
        }  # fmt: skip

    def __call__(self, *words: str | Path) -> str:
        """A command."""
        return run(sys.executable, "-P", "-m", "mixfs.cli.main", *words, env=self.env)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        self("mount", self.point, "--library", self.library)
        try:
            yield self.point
        finally:
            self("umount", self.point)

    def wait(self) -> None:
        self("wait", self.point)

    def status(self, name: str) -> dict[str, Any]:
        """stats.json or health.json of .mixfs/."""
        found: dict[str, Any] = json.loads((self.point / ".mixfs" / f"{name}.json").read_text())
        return found

    def wait_for_thumbnails(self) -> None:
        while self.status("stats")["thumbnails_waiting"]:
            time.sleep(0.1)

    def memory(self) -> int:
        """The daemon's own memory (bytes); without pages of files like the index, which the kernel may drop."""
        pid = self.status("health")["pid"]
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
