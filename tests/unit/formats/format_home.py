"""What the tests of layouts share: pictures and packages made from a seed, and how they are taken in."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from mixfs.formats.base import Options, Report
from mixfs.formats.layouts import detect, import_layout
from mixfs.library.api import Library


def picture(seed: int, kind: str = "PNG") -> bytes:
    """A small picture that no other seed gives."""
    noise = random.Random(seed).randbytes(3 * 16 * 12)
    out = io.BytesIO()
    Image.frombytes("RGB", (16, 12), noise).save(out, kind)
    return out.getvalue()


def package(url: str = "https://example.com/x.png") -> dict[str, Any]:
    """The members of a package: JSON as values, assets as bytes."""
    one, two = picture(1), picture(2, "JPEG")
    return {
        "manifest.json": {
            "packageVersion": 1, "app": {"name": "an app", "version": "0.9.1"},
            "createdAt": "2025-12-09T10:00:00.000Z",
            "workflow": {"id": "wf-1", "file": "workflow.json", "name": "My Workflow"},
            "assets": [
                {"id": "as-1", "origin": "embedded", "mime": "image/png", "bytes": len(one),
                 "hash": "sha256-" + hashlib.sha256(one).hexdigest(), "file": "assets/as-1.png", "xasset": [1]},
                {"id": "as-2", "origin": "embedded", "mime": "image/jpeg", "bytes": len(two),
                 "hash": "sha256-" + hashlib.sha256(two).hexdigest(), "file": "assets/as-2.jpg"},
                {"id": "as-3", "origin": "url", "mime": "image/png", "url": url},
            ],
            "xmanifest": None,
        },
        "workflow.json": {
            "id": "wf-1", "name": "My Workflow", "updatedAt": 1765274400000, "version": 7,
            "viewport": {"x": 1.5, "y": -2, "zoom": 0.8, "xview": True},
            "nodes": [
                {"id": "n1", "type": "prompt", "title": "Prompt", "status": "idle", "position": {"x": 0, "y": 0},
                 "config": {"text": "A serene landscape"}, "result": "plain text", "updatedAt": 1, "version": 1},
                {"id": "n2", "type": "image", "title": "Out", "status": "complete", "position": {"x": 300, "y": 0.5},
                 "size": {"width": 200, "height": 100}, "config": {}, "result": {"kind": "embedded", "id": "as-1"},
                 "updatedAt": 1, "version": 3, "xnode": {"a": [None]}, "text": 5, "width": None},
                {"id": "n3", "type": "image", "title": "Remote", "status": "complete",
                 "position": {"x": 600, "y": 0, "xpos": 1}, "config": {"k": [1]}, "size": None,
                 "result": {"kind": "url", "url": url, "mime": "image/png"}, "updatedAt": 1, "version": 2},
            ],
            "edges": [
                {"id": "e2", "source": "n2", "target": "n3", "targetHandle": None, "updatedAt": 1, "version": 1},
                {"id": "e1", "source": "n1", "target": "n2", "sourceHandle": "out", "targetHandle": "in",
                 "updatedAt": 1, "version": 1, "xedge": 0},
            ],
            "xfuture": {"a": 1},
        },
        "assets/as-1.png": one,
        "assets/as-2.jpg": two,
        "assets/unlisted.bin": b"named by nothing",
    }  # fmt: skip


def write_package(path: Path, members: dict[str, Any]) -> Path:
    """A package; the ZIP says of each member what zipfile says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, value if isinstance(value, bytes) else json.dumps(value))
    return path


def read_package(path: Path) -> dict[str, Any]:
    """The inverse of `write_package`."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {
            name: json.loads(archive.read(name)) if name.endswith(".json") else archive.read(name)
            for name in archive.namelist()
        }


def take(library: Library, path: Path, *, dry_run: bool = False, **options: object) -> Report:
    """Import a path as the layout that it is found to be."""
    layout = detect(path)
    assert layout is not None, f"{path} is in no layout"
    return import_layout(library, layout, path, Options(**options), dry_run=dry_run)  # type: ignore[arg-type]
