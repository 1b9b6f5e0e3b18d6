"""What a saved document may cost the daemon, which parses it itself."""

from __future__ import annotations

import json

import pytest

from mixfs.errors import InvalidValue
from mixfs.library import canvas_json


@pytest.mark.parametrize("part", [b"{},", b"[],", b"0,", b'{"a":0},', b"[[]],"])
def test_a_flood_of_values_is_refused_before_it_is_parsed(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("it was parsed"))
    data = b'{"x":[' + part * (canvas_json.LIMIT // len(part) - 10) + b"0]}"
    with pytest.raises(InvalidValue, match="too many parts"):
        canvas_json.check("canvas.json", data)


def test_a_large_canvas_is_no_flood() -> None:
    entries = [{"canvasId": f"{n}", "type": "text", "x": n, "y": n, "width": 1, "height": 1, "text": "words, words"}
               for n in range(20_000)]  # fmt: skip
    canvas_json.check("canvas.json", json.dumps({"canvas_images": entries}).encode())
