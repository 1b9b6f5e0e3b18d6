"""Makes the frozen library of the format version at hand: `python tests/formats/freeze.py`. Run once for each version.

The library goes to tests/formats/VERSION.tar (journal, blobs and format file; what is derived is left out), what a
mount of it shows to tests/formats/VERSION.json. `test_frozen.py` mounts every such library for ever: never make one
anew for a version that was released.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "mount"))

from live import Live, Seen, everything  # noqa: E402

from mixfs.library.api import Library  # noqa: E402
from mixfs.library.place import FORMAT_VERSION  # noqa: E402
from mixfs.records import Edge, Entry, Generation, ImageRef  # noqa: E402

TIME_NS = 1_765_180_500_123_456_789
KEPT = ("format", "blobs", "journal")

A1111 = """a lighthouse, <lora:waves:0.8>
Negative prompt: fog
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 16x16, Model hash: abcdef, Model: sea_v1, Version: v1.9.4"""


def picture(colour: str, text: str | None = None) -> bytes:
    info = PngInfo()
    if text is not None:
        info.add_text("parameters", text)
    out = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def fill(live: Live) -> None:
    """Something of everything that a library can hold."""
    trip = live.point / "import" / "Trip"
    (trip / "day 1" / "é\nnew line").mkdir(parents=True)
    pictures = {
        "a.png": picture("teal", A1111),
        "day 1/a.png": picture("navy"),
        "day 1/é\nnew line/\udcff.png": picture("teal", A1111),
        "notes.txt": b"no picture\n",
        "damaged.png": picture("red", A1111)[:-40],
    }
    for name, data in pictures.items():
        path = trip / name
        path.write_bytes(data)
        os.setxattr(path, "user.colour", b"blue")
        os.utime(path, ns=(TIME_NS, TIME_NS))
        path.chmod(0o640)
    (live.point / "import" / "alone.png").write_bytes(picture("gold"))
    live.take_in()
    session = live.point / "sessions" / "Trip"
    os.setxattr(session / "images" / "a.png", "user.xdg.tags", b"sea,night")
    (session / "images" / "a.png").rename(session / "images" / "b.png")
    (session / "images" / "a.png").write_bytes(picture("lime"))
    live.take_in()
    (session / "images" / "day 1" / "a.png").unlink()
    (live.point / "sessions" / "Gone").mkdir()
    (live.point / "sessions" / "Gone").rmdir()
    live.stop()


def draw(root: Path) -> None:
    """A canvas and a history, as other programs bring them."""
    with Library.open(root) as library:
        session = library.create_session("A canvas", session_id="foreign-id", user_id="u1", user_name="Ada")
        placement = library.import_bytes(picture("pink"), "pink.png", session_id=session.id, mtime_ns=TIME_NS)
        library.update_session(session.id, zoom=1.5, pan_x=-10.0, pan_y=20.25)
        for entry in (
            Entry(id="e1", session_id=session.id, type="image", digest=placement.digest, x=1, y=2, width=16, height=16),
            Entry(id="e2", session_id=session.id, type="text", text="a note", z=1, unknown={99: "kept"}),
            Entry(id="e3", session_id=session.id, type="hologram", data={"depth": 3, "list": [1, {"a": None}]}),
        ):
            library.put_entry(entry)
        library.put_edge(Edge(id="k1", session_id=session.id, source="e1", target="e2"))
        output = ImageRef(digest=placement.digest, name="pink.png", role="output", size=placement.size)
        library.put_generation(
            Generation(
                id="g1", session_id=session.id, time_ns=TIME_NS, utc_offset_s=3600, prompt="pink", model="m",
                parameters={"k": [1, 2.5, "x"]}, outputs=(output,), error="none", duration_ms=12,
            )
        )  # fmt: skip
        library.retitle_session(session.id, "A canvas, retitled")
        library.annotate(placement.digest, rating=8, comment="pink")


def as_json(seen: dict[bytes, Seen]) -> dict[str, list[object]]:
    return {os.fsdecode(name): list(what) for name, what in sorted(seen.items())}


def freeze(to: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        live = Live(Path(directory))
        try:
            live.start()
            fill(live)
            draw(live.library)
            live.start()
            seen = as_json(everything(live.point))
            live.stop()
        finally:
            live.close()
        (to / f"{FORMAT_VERSION}.json").write_text(json.dumps(seen, indent=1) + "\n")
        with tarfile.open(to / f"{FORMAT_VERSION}.tar", "w") as tar:
            for name in KEPT:
                tar.add(live.library / name, name)


if __name__ == "__main__":
    freeze(HERE)
