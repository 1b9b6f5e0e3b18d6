"""Small files that want much, and files that are broken: for tests of a mount and for tools/bench/hostile."""

from __future__ import annotations

import functools
import json
import struct
import zlib
from collections.abc import Iterator

from box import chunk, png

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def flat(width: int, height: int, depth: int, colour: int) -> bytes:
    """A whole PNG of one colour, whose pixels pack a thousand to one."""
    bits = depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * bits + 7) // 8)
    packer, parts = zlib.compressobj(9), []
    for _ in range(height):
        parts.append(packer.compress(row))
    parts.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(parts)) + chunk(b"IEND", b"")


def claims(width: int, height: int, size: int) -> bytes:
    """`size` bytes that begin as a PNG of 16-bit RGBA of these sides."""
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    head = SIGNATURE + chunk(b"IHDR", header)
    body = zlib.compress(bytes(8 * width), 9)
    return head + chunk(b"tEXt", b"x\0" + b"x" * (size - len(head) - len(body) - 38)) + chunk(b"IDAT", body) \
        + chunk(b"IEND", b"")  # fmt: skip


def with_texts(*texts: bytes) -> bytes:
    whole = png()
    return whole[:33] + b"".join(texts) + whole[33:]


def text_bomb(kind: bytes, inflated: int) -> bytes:
    """A compressed text of `inflated` bytes."""
    packed = zlib.compress(b"{" + b" " * inflated, 9)
    return chunk(kind, (b"prompt\0\0" if kind == b"zTXt" else b"prompt\0\1\0\0\0") + packed)


def looping_graph(nodes: int) -> bytes:
    """A ComfyUI graph in which every node leads to every other."""
    graph = {
        str(n): {"class_type": "KSampler" if n % 3 else "ConditioningCombine", "inputs": {
            "positive": [str((n * 7 + 1) % nodes), 0], "negative": [str((n * 5 + 2) % nodes), 0],
            "latent_image": [str((n + 1) % nodes), 0], "conditioning_1": [str((n * 3) % nodes), 0],
            "model": [str((n * 11) % nodes), 0], "text": [str((n * 13) % nodes), 0], "seed": n}}
        for n in range(nodes)
    }  # fmt: skip
    return chunk(b"tEXt", b"prompt\0" + json.dumps(graph).encode())


@functools.cache
def all_bombs() -> dict[str, bytes]:
    """File name → bytes. The names say what they are."""
    long = b"Steps: 1, Sampler: x, Seed: 1, Size: 1x1, Model: " + b"m" * 1_500_000
    return {
        "22 kB that want 1.5 GB.png": claims(16_000, 12_000, 22_000),
        "170 megapixels.png": flat(13_000, 13_000, 8, 2),
        "too many pixels.png": claims(60_000, 60_000, 22_000),
        "cut short.png": cut_short(),
        "no pixels.png": cut_short()[:60],
        "a text of 1 GB.png": with_texts(text_bomb(b"zTXt", 1 << 30)),
        "forty texts of 8 MB.png": with_texts(*[text_bomb(b"iTXt", 8 << 20)] * 40),
        "deep JSON.png": with_texts(chunk(b"tEXt", b"prompt\0" + b'{"a":' * 400_000)),
        "loops.png": with_texts(looping_graph(20_000)),
        "a long name.png": with_texts(chunk(b"tEXt", b"parameters\0a\n" + long)),
        "many chunks.png": with_texts(*[chunk(b"tEXt", b"k%d\0v" % n) for n in range(50_000)]),
        "EXIF that bites its tail.png": with_texts(
            chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\0\x02" + b"\x87\x69\0\x04\0\0\0\x01\0\0\0\x08" * 2 + b"\0\0\0\x08")
        ),
        "no picture.jpg": b"\xff\xd8\xff\xe1\xff\xff" + bytes(70_000),
    }


def cut_short() -> bytes:
    whole = png(200, 150)
    return whole[: len(whole) // 2]


def with_parameters(text: str) -> bytes:
    """A whole PNG with A1111's text."""
    return with_texts(chunk(b"tEXt", b"parameters\0" + text.encode()))


def readable() -> Iterator[str]:
    """Those of them that are whole pictures, for all that."""
    yield from ("170 megapixels.png", "a text of 1 GB.png", "forty texts of 8 MB.png", "deep JSON.png", "loops.png",
                "a long name.png", "many chunks.png", "EXIF that bites its tail.png")  # fmt: skip
