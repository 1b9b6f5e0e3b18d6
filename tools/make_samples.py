#!/usr/bin/env python3
"""Write sample pictures, with the metadata that generators really write, into a folder: make_samples.py DIR"""

from __future__ import annotations

import sys
from pathlib import Path

from mixfs.media.samples import KINDS, make_sample


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_samples.py DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        name, data = make_sample(kind)
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
