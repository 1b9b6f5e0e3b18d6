"""Workflow packages, `.genaiw.zip`: `manifest.json`, `workflow.json` and `assets/<assetId>.<ext>`. In and out.

A workflow is a session, a node an entry, a connection an edge; an asset is a placement. A package is taken whole or not
at all. `reading.py` brings one in, `writing.py` takes one out, `parts.py` has what both know.
docs/formats/workflow-package.md says what is kept, changed and not taken.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from mixfs.formats.base import Refused, head_of
from mixfs.formats.workflow_package.parts import NAME, OURS, VERSION
from mixfs.formats.workflow_package.reading import read
from mixfs.formats.workflow_package.writing import Written, not_carried, write
from mixfs.formats.zips import open_listed

__all__ = ["NAME", "OURS", "TITLE", "VERSION", "Written", "detect", "not_carried", "read", "write"]

TITLE = "workflow package (.genaiw.zip)"


def detect(path: Path) -> bool:
    """A ZIP file with a manifest.json that names a packageVersion."""
    if head_of(path, 4)[:2] != b"PK":
        return False
    if path.name.lower().endswith(".genaiw.zip"):
        return True
    try:
        with open_listed(path) as archive, archive.open("manifest.json") as file:
            return b'"packageVersion"' in file.read(1 << 20)
    except (Refused, zipfile.BadZipFile, zlib.error, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return False
