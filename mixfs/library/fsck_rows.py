"""The index against what it should hold, row by row, and the values that only it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cbor2

from mixfs.index import keys
from mixfs.index.dentries import DirectoryRow
from mixfs.index.engine import ReadTxn, prefix_end
from mixfs.index.seal import is_whole, unseal
from mixfs.library.fsck_report import REBUILD, Report
from mixfs.library.replay import EVENTS_KEPT
from mixfs.library.view import SessionRow, View
from mixfs.records import KINDS, SENSELESS

# Rows that follow from the records alone, in whatever order their changes came. Of those that tell times as well (`n`,
# `z`), with several replicas only the rest is compared; what the times are, their seals say.
_COMPARED = (b"r", b"d", b"s", b"i", b"t", b"w", b"c", b"n", b"x", b"y", b"z", b"l", b"a", b"o")
_SEALED = (b"e", b"n", b"z")
_ROWS = {
    b"r": "record", b"d": "directory entry", b"s": "member of a session", b"i": "reference to a blob", b"t": "title",
    b"w": "views of an image", b"c": "counter", b"n": "directory", b"x": "family of names", b"y": "displaced name",
    b"z": "session", b"h": "thumbnail", b"e": "event", b"m": "note", b"q": "inode",
    b"l": "files of storage-v2/", b"a": "alias", b"o": "picture that is waited for",
}  # fmt: skip


def compare(wanted: ReadTxn, held: ReadTxn, alone: bool, report: Report) -> None:
    """Both sides in the order of keys, row by row. `alone`: there is one replica, so that times are the same too."""
    if wanted.get(keys.META_STAMP) != held.get(keys.META_STAMP):
        _differs(keys.META_STAMP, "is not as the journal has it", report)
    for prefix in _COMPARED:
        ours, theirs = (_rows(txn, prefix, alone) for txn in (wanted, held))
        a, b = next(ours, None), next(theirs, None)
        while a is not None or b is not None:
            report.rows += 1
            if a == b:
                a, b = next(ours, None), next(theirs, None)
            elif b is None or (a is not None and a[0] < b[0]):
                assert a is not None
                _differs(a[0], "is in the journal and not in the index", report)
                a = next(ours, None)
            elif a is None or b[0] < a[0]:
                _differs(b[0], "is in the index and not in the journal", report)
                b = next(theirs, None)
            else:
                _differs(a[0], "is not as the journal has it", report)
                a, b = next(ours, None), next(theirs, None)


def _rows(txn: ReadTxn, prefix: bytes, alone: bool) -> Iterator[tuple[bytes, object]]:
    for key, value in txn.scan(prefix, prefix_end(prefix)):
        if alone or prefix not in (b"n", b"z"):
            yield key, value
        elif not is_whole(value):
            yield key, None
        elif prefix == b"z":
            row = SessionRow(cbor2.loads(unseal(value)))
            sizes = {name: size for name, (size, _) in row.documents.items()}
            yield key, (row.counts, row.entries, row.edges, row.generations, sizes)
        elif children := DirectoryRow.load(value).children:
            # Directories that every mount has keep a row once they had a child.
            yield key, children


def _differs(key: bytes, words: str, report: Report) -> None:
    report.add("index-differs", _row_words(key), f"The index's row {words}.", f"{REBUILD}.")


def _row_words(key: bytes) -> str:
    """A key of the index in words."""
    name = _ROWS.get(key[:1], "row")
    if key[:1] == b"d":
        return f"{name} {key[18:].decode('utf-8', 'backslashreplace')!r} in {key[1:18].hex()}"
    if key[:1] == b"r" and key[1] in KINDS:
        return f"{KINDS[key[1]].__name__} {key[2:].hex()}"
    return f"{name} {key[1:].hex()}"


def check_seals(txn: ReadTxn, report: Report) -> None:
    """What can't be made again: events with their numbers, and the times of directories and sessions."""
    numbers = []
    for prefix in _SEALED:
        for key, value in txn.scan(prefix, prefix_end(prefix)):
            if prefix == b"e":
                numbers.append(int.from_bytes(key[1:], "big"))
            if not is_whole(value):
                _damaged(key, report)
    last = View(txn).sequence()
    if numbers != list(range(max(1, last - EVENTS_KEPT + 1), last + 1)):
        _damaged(keys.META_SEQUENCE, report)


def _damaged(key: bytes, report: Report) -> None:
    report.add("index-damaged", _row_words(key), "The index's row is not what was written.", f"{REBUILD}.")


def check_thumbnails(directory: Path, txn: ReadTxn, report: Report) -> None:
    """The rows of thumbnails against the files: sizes that a listing shows must be true."""
    for key, value in txn.scan(b"h", prefix_end(b"h")):
        text = key[1:].hex()
        path = directory / text[:2] / f"{text[2:]}.png"
        try:
            size, mtime_ns = cbor2.loads(value)
            status = path.stat() if size else None
        except (FileNotFoundError, *SENSELESS):
            report.add("index-differs", str(path), "The index does not have it as it is.", f"{REBUILD}.")
            continue
        if (size, mtime_ns) != ((status.st_size, status.st_mtime_ns) if status is not None else (0, 0)):
            report.add("index-differs", str(path), "The index does not have it as it is.", f"{REBUILD}.")
