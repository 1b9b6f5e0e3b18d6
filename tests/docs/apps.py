"""A home directory in which five programs have kept their work: what docs/moving-in.md is tried on."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from mixfs.formats import koda, outputs, storage_v2, workflow_package
from mixfs.library.api import Library
from mixfs.media.samples import make_sample
from mixfs.records import Edge, Entry, Generation, ImageRef

MOMENT = 1_765_274_400_000_000_000


def make_home(home: Path, scratch: Path) -> None:
    """studio/ (Storage V2), portrait.genaiw.zip, gallery/, outputs/ and koda/ in `home`."""
    kinds = ("a1111", "comfyui", "invokeai", "swarmui", "fooocus")
    pictures = [make_sample(kind)[1] for kind in kinds]
    with Library.open(scratch / "library") as library:
        ids = {}
        for at, (name, title) in enumerate(
            {"studio": "My Creative Project", "portrait": "Portrait", "outputs": "outputs", "koda": "Kitchen"}.items()
        ):
            session = library.create_session(title, session_id=f"{name}-1", user_id="user-123", user_name="Ada")
            ids[name] = session.id
            placement = library.import_bytes(
                pictures[at], f"{name}.png", session_id=session.id, mtime_ns=MOMENT
            )
            ref = ImageRef(digest=placement.digest, name=f"{name}.png", role="output", placement_id=placement.id)
            for generation in library.generations(session.id):
                library.delete_generation(generation.id)
            if name != "portrait":
                library.put_generation(
                    Generation(id=f"gen-{at}", session_id=session.id, time_ns=MOMENT, prompt="A serene landscape",
                               model="flux", outputs=(ref,), parameters={"steps": 4})
                )  # fmt: skip
            if name != "outputs":
                library.put_entry(Entry(id=f"image-{at}", session_id=session.id, type="image", digest=placement.digest))
                library.put_entry(Entry(id=f"text-{at}", session_id=session.id, type="text", text="Hello", x=300.0))
            if name in ("portrait", "koda"):
                library.put_edge(Edge(id=f"e-{at}", session_id=session.id, source=f"text-{at}", target=f"image-{at}"))
        storage_v2.write(library, [ids["studio"]], home / "studio")
        workflow_package.write(library, ids["portrait"], home / "portrait.genaiw.zip")
        outputs.write(library, [ids["outputs"]], home / "outputs")
        koda.write(library, [ids["koda"]], str(home / "koda"))
    (home / "studio" / "logs.jsonl").write_text('{"level": "info", "message": "started", "context": {}}\n')
    migrated = home / "gallery" / "images" / "sessions" / "house-1"
    migrated.mkdir(parents=True)
    (migrated / "bath-1.png").write_bytes(pictures[4])
    images = [
        {"id": "11111111-a", "roomType": {"id": "bath", "name": "Bath"},
         "url": "/api/images/sessions/house-1/bath-1.png"},
        {"id": "22222222-b", "roomType": {"id": "hall", "name": "Hall"},
         "url": "data:image/png;base64," + base64.b64encode(pictures[1]).decode()},
        {"id": "33333333-c", "roomType": {"id": "attic", "name": "Attic"}, "url": "https://example.com/attic.png"},
    ]  # fmt: skip
    document = {"sessions": [{"id": "house-1", "name": "Our house", "images": images}]}
    (home / "gallery" / "gallery_data.json").write_text(json.dumps(document))
