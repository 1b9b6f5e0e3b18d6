"""What is in another program's layout and is dropped into import/."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

from box import Box, png
from live import until

SEEN_S = 10.0


def package(session_id: str, title: str, data: bytes, claimed: str | None = None) -> bytes:
    digest = claimed or hashlib.sha256(data).hexdigest()
    manifest = {
        "packageVersion": 1, "workflow": {"id": session_id, "file": "workflow.json", "name": title},
        "assets": [{"id": "a", "origin": "embedded", "file": "assets/a.png", "hash": f"sha256-{digest}"}],
    }  # fmt: skip
    node = {"id": "n1", "type": "image", "title": "Out", "position": {"x": 1, "y": 2},
            "result": {"kind": "embedded", "id": "a"}}  # fmt: skip
    edge = {"id": "e1", "source": "n1", "target": "n1"}
    workflow = {"id": session_id, "name": title, "nodes": [node], "edges": [edge]}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("workflow.json", json.dumps(workflow))
        archive.writestr("assets/a.png", data)
    return out.getvalue()


def test_a_package_is_imported_as_what_it_is(box: Box) -> None:
    title, data = f"{box.title} flow", png()
    box.inbox.mkdir()
    whole = package(f"wf {box.title}", title, data)
    dropped = box.imported("flow.genaiw.zip", whole)
    # Whoever waits for the intake waits for this too.
    session = box.point / "sessions" / title
    assert (session / "images" / "a.png").read_bytes() == data
    assert dropped.read_bytes() == whole
    canvas = json.loads((session / "canvas.json").read_text())
    assert [entry["canvasId"] for entry in canvas["canvas_images"]] == ["n1"]
    assert [(edge["source"], edge["target"]) for edge in canvas["edges"]] == [("n1", "n1")]
    until(lambda: any(path.read_bytes() == data for path in (session / "canvas").iterdir()), "the node", SEEN_S)


def test_a_broken_package_is_kept_and_reported(box: Box) -> None:
    title = f"{box.title} flow"
    box.inbox.mkdir()
    whole = package(f"wf {box.title}", title, png(), "0" * 64)
    assert box.imported("broken.genaiw.zip", whole).read_bytes() == whole
    assert not (box.point / "sessions" / title).exists()
    lines = [json.loads(line) for line in box.problems()]
    assert [line["reason"] for line in lines if line.get("name") == "broken.genaiw.zip" and "SHA-256" in line["reason"]]
