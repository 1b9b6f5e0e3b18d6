"""Fixtures of the command line's tests; what they are made of is in cli_home.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cli_home import filled, fresh, home  # noqa: E402

__all__ = ["filled", "fresh", "home"]
