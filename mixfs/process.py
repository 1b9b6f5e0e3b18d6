"""Processes of our own, beside this one."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """What a Python that we start is given, so that it finds this very package from wherever it runs."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
