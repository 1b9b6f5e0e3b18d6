"""GIF blocks (GIF89a): how many frames there are, comments, and whether the file ends too soon. No pixels."""

from __future__ import annotations

from typing import BinaryIO

from mixfs.media.texts import RawTexts, decode_text

MAX_BLOCKS = 2_000_000
MAX_FRAMES = 100_000
MAX_COMMENT = 1024 * 1024


def scan_gif(file: BinaryIO, raw: RawTexts) -> tuple[int, bool]:
    """Frames (at most MAX_FRAMES), and whether the last block is cut short. A missing trailer alone is fine."""
    frames = 0
    file.seek(0)
    head = file.read(13)
    if len(head) < 13:
        return 0, True
    if head[10] & 0x80:
        file.seek(3 << ((head[10] & 7) + 1), 1)
    blocks = 0
    while frames < MAX_FRAMES and blocks < MAX_BLOCKS:
        kind = file.read(1)
        if kind in (b"", b";"):
            return frames, False
        comment = False
        if kind == b"!":
            comment = file.read(1) == b"\xfe"
        elif kind == b",":
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return frames, True
            if descriptor[8] & 0x80:
                file.seek(3 << ((descriptor[8] & 7) + 1), 1)
            file.seek(1, 1)
            frames += 1
        else:
            return frames, False
        text = bytearray()
        while blocks < MAX_BLOCKS:
            blocks += 1
            size = file.read(1)
            if not size:
                return frames, True
            if size == b"\x00":
                break
            if comment and len(text) < MAX_COMMENT:
                text += file.read(size[0])
            else:
                file.seek(size[0], 1)
        if comment and text:
            raw.put("comment", decode_text(bytes(text)))
    return frames, False
