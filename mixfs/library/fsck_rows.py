"""The index against what it should hold, row by row, and the values that only it holds."""

from __future__ import annotations

from pathlib import Path

import cbor2

from mixfs.index import keys
from mixfs.index.dentries import Changes
from mixfs.index.engine import ReadTxn, prefix_end
from mixfs.library.fsck_report import REBUILD, SENSELESS, Report
from mixfs.library.view import SessionRow
from mixfs.records import KINDS

# Rows that follow from the records alone; the others count commits, or times at which replicas met.
_COMPARED = (b"r", b"d", b"s", b"i", b"t", b"w", b"c")
_COMPARED_ALONE = (b"n", b"x", b"y", b"z")
_ROWS = {
    b"r": "record", b"d": "directory entry", b"s": "member of a session", b"i": "reference to a blob", b"t": "title",
    b"w": "views of an image", b"c": "counter", b"n": "directory", b"x": "family of names", b"y": "displaced name",
    b"z": "session", b"h": "thumbnail", b"e": "event", b"m": "note", b"q": "inode",
}  # fmt: skip


def compare(wanted: ReadTxn, held: ReadTxn, alone: bool, report: Report) -> None:
    """Both sides in the order of keys, row by row."""
    if alone and wanted.get(keys.META_STAMP) != held.get(keys.META_STAMP):
        _differs(keys.META_STAMP, "is not as the journal has it", report)
    for prefix in _COMPARED + (_COMPARED_ALONE if alone else ()):
        ours, theirs = (iter(txn.scan(prefix, prefix_end(prefix))) for txn in (wanted, held))
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


def decode_rest(txn: ReadTxn, report: Report) -> None:
    """Try every value that isn't compared: what can't be read would fail whoever needs it."""
    for prefix, decode in ((b"e", Changes.load), (b"m", cbor2.loads), (b"z", _decode_session)):
        for key, value in txn.scan(prefix, prefix_end(prefix)):
            try:
                decode(value)
            except SENSELESS as error:
                report.add("index-damaged", _row_words(key), f"Its value can't be read: {error}.", f"{REBUILD}.")


def _decode_session(value: bytes) -> None:
    SessionRow(cbor2.loads(value))


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
        if status is not None and (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
            report.add("index-differs", str(path), "The index does not have it as it is.", f"{REBUILD}.")
