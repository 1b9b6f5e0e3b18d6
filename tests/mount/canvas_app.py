"""A canvas app's storage service as it is written over plain files: it knows a folder, and nothing of MixFS."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

START_MS = 1_765_274_400_000


class CanvasApp:
    """Truncates and rewrites its JSON, writes pictures under its own names, appends to its log."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ms = START_MS
        for name in ("sessions", "images", "thumbnails"):
            (root / name).mkdir(exist_ok=True)
        if not (root / "image_registry.json").exists():
            self._write("image_registry.json", {"version": "2.0", "images": {}})

    def _now_ms(self) -> int:
        self._ms += 1
        return self._ms

    # -- files

    def _write(self, name: str, document: Any) -> None:
        with open(self.root / name, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)

    def read(self, name: str) -> Any:
        path = self.root / name
        data = path.read_bytes()
        assert path.stat().st_size == len(data), name
        return json.loads(data)

    # -- pictures

    def register(self, data: bytes, role: str = "output", **fields: Any) -> str:
        """Write a picture, then what the registry says of it; returns the app's own hash."""
        image_hash = hashlib.md5(data).hexdigest()
        registry = self.read("image_registry.json")
        if image_hash in registry["images"]:
            return image_hash
        kind = "output" if role == "output" else "input"
        name = f"images/{kind}_{self._now_ms()}_{image_hash[:6]}.png"
        with open(self.root / name, "wb") as file:
            file.write(data)
        registry["images"][image_hash] = {
            "id": f"00000000-0000-4000-8000-{image_hash[:12]}", "hash": image_hash, "original_name": None,
            "imported_at": "2025-12-09T10:00:00.000Z", "size_bytes": len(data), "width": 16, "height": 12,
            "mime_type": "image/png", "file_path": name, **fields,
        }  # fmt: skip
        self._write("image_registry.json", registry)
        return image_hash

    def image(self, image_hash: str) -> bytes:
        return (self.root / self.read("image_registry.json")["images"][image_hash]["file_path"]).read_bytes()

    def thumbnail(self, session_id: str, number: int, data: bytes) -> str:
        name = f"thumbnails/{session_id}/{number}.png"
        os.makedirs(self.root / "thumbnails" / session_id, exist_ok=True)
        with open(self.root / name, "wb") as file:
            file.write(data)
        return name

    # -- sessions

    def create(self, title: str, **fields: Any) -> str:
        session_id = f"mixboard-{self._now_ms()}"
        self.save_canvas(session_id, canvas(session_id, title) | fields)
        return session_id

    def save_canvas(self, session_id: str, document: dict[str, Any]) -> None:
        self._write(f"sessions/{session_id}_canvas.json", document)

    def save_generations(self, session_id: str, generations: list[dict[str, Any]]) -> None:
        document = {"version": "2.0", "session_id": session_id, "generations": generations}
        self._write(f"sessions/{session_id}_generations.json", document)

    def canvas(self, session_id: str) -> Any:
        return self.read(f"sessions/{session_id}_canvas.json")

    def generations(self, session_id: str) -> Any:
        return self.read(f"sessions/{session_id}_generations.json")["generations"]

    def delete(self, session_id: str) -> None:
        for suffix in ("_canvas.json", "_generations.json"):
            (self.root / "sessions" / (session_id + suffix)).unlink(missing_ok=True)

    # -- the log

    def log(self, level: str, message: str, **context: Any) -> None:
        line = {"timestamp": "2025-12-09T10:00:00.000Z", "level": level, "user": "Ada", "userId": "user-123",
                "message": message, "context": context}  # fmt: skip
        with open(self.root / "logs.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def logs(self) -> list[Any]:
        return [json.loads(line) for line in (self.root / "logs.jsonl").read_text(encoding="utf-8").splitlines()]

    # -- everything

    def everything(self) -> dict[str, Any]:
        """All that can be read back: JSON as values, all else byte by byte."""
        out: dict[str, Any] = {}
        for folder, _, files in os.walk(self.root):
            for file in files:
                path = Path(folder) / file
                data = path.read_bytes()
                assert path.stat().st_size == len(data), path
                out[str(path.relative_to(self.root))] = json.loads(data) if path.suffix == ".json" else data
        return out


def canvas(session_id: str, title: str) -> dict[str, Any]:
    return {
        "version": "2.0", "session_id": session_id, "title": title, "created_at": "2025-12-09T10:00:00.000Z",
        "updated_at": "2025-12-09T10:00:00.000Z", "canvas_images": [], "zoom": 1.0, "panOffset": {"x": 0, "y": 0},
        "user": {"displayName": "Ada", "id": "user-123"},
    }  # fmt: skip


def image_entry(number: int, image_hash: str, **fields: Any) -> dict[str, Any]:
    return {
        "canvasId": f"canvas-img-{number:03}", "imageHash": image_hash, "type": "image", "x": 10 * number, "y": 0.5,
        "width": 300, "height": 400, "selected": False, "originalWidth": 16, "originalHeight": 12,
    } | fields  # fmt: skip


def generation(number: int, inputs: list[str] = [], outputs: list[str] = []) -> dict[str, Any]:  # noqa: B006
    def refs(hashes: list[str]) -> list[dict[str, Any]]:
        return [{"id": each, "filename": f"{each[:6]}.png", "hash": each, "size_bytes": 7} for each in hashes]

    return {
        "generation_id": f"gen-{number}", "timestamp": f"2025-12-09T10:0{number}:00.000Z", "status": "completed",
        "prompt": f"a cat, number {number}", "input_images": refs(inputs), "output_images": refs(outputs),
        "parameters": {"model": "flux", "temperature": 0.7, "top_p": 0.95, "aspect_ratio": "1:1"},
        "generation_time_ms": 1200, "canvas_state": {"images": [], "zoom": 1.0, "panOffset": {"x": 0, "y": 0}},
    }  # fmt: skip
