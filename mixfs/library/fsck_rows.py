"""The index against what it should hold, row by row, and the values that only it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import cbor2

from mixfs.ids import Digest, ReplicaId
from mixfs.index import keys, seal
from mixfs.index.dentries import DirectoryRow
from mixfs.index.engine import ReadTxn, prefix_end
from mixfs.library.fsck_report import REBUILD, Report
from mixfs.library.replay import EVENTS_KEPT
from mixfs.library.view import SessionRow, View
from mixfs.media.png_rows import is_whole_png
from mixfs.records import KINDS, SENSELESS

# Rows that follow from the records alone, in whatever order their changes came. Of those that tell times as well (`n`,
# `z`), with several replicas only the rest is compared; what the times are, their seals say.
_COMPARED = (
    b"r", b"d", b"s", b"i", b"t", b"w", b"c", b"n", b"x", b"y", b"z", b"l", b"a", b"o", b"q", b"g", b"k", b"u",
)  # fmt: skip
_SEALED = (b"e", b"n", b"z")
_ROWS = {
    b"r": "record", b"d": "directory entry", b"s": "member of a session", b"i": "reference to a blob", b"t": "title",
    b"w": "views of an image", b"c": "counter", b"n": "directory", b"x": "family of names", b"y": "displaced name",
    b"z": "session", b"h": "thumbnail", b"e": "event", b"m": "note", b"q": "inode",
    b"l": "files of storage-v2/", b"a": "alias", b"o": "picture that is waited for",
    b"g": "item of a deletion", b"k": "record in the trash", b"u": "unfinished deletion",
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
        elif not seal.is_whole(value):
            yield key, None
        elif prefix == b"z":
            row = SessionRow(cbor2.loads(seal.unseal(value)))
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
    if key[:1] == b"r" and len(key) > 1 and key[1] in KINDS:
        return f"{KINDS[key[1]].__name__} {key[2:].hex()}"
    return f"{name} {key[1:].hex()}"


def check_seals(txn: ReadTxn, report: Report) -> None:
    """What can't be made again: events with their numbers, and the times of directories and sessions."""
    numbers = []
    for prefix in _SEALED:
        for key, value in txn.scan(prefix, prefix_end(prefix)):
            if prefix == b"e":
                numbers.append(int.from_bytes(key[1:], "big"))
            if not seal.is_whole(value):
                _damaged(key, report)
    last = View(txn).sequence()
    if numbers != list(range(max(1, last - EVENTS_KEPT + 1), last + 1)):
        _damaged(keys.META_SEQUENCE, report)


def _damaged(key: bytes, report: Report) -> None:
    report.add("index-damaged", _row_words(key), "The index's row is not what was written.", f"{REBUILD}.")


def check_others(txn: ReadTxn, replicas: Collection[ReplicaId], report: Report) -> None:
    """Rows that no version writes, and notes on journals that are not there."""
    known = {keys.META_DERIVATION, keys.META_LIBRARY, keys.META_STAMP, keys.META_SEQUENCE}
    known.update(map(keys.position, replicas))
    others = [prefix for prefix in (bytes([tag]) for tag in range(256)) if prefix not in _ROWS]
    for prefix in (b"m", *others):
        for key, _ in txn.scan(prefix, prefix_end(prefix)):
            if key not in known:
                _differs(key, "is in the index and not in the journal", report)


def check_thumbnails(directory: Path, read: Callable[[], AbstractContextManager[ReadTxn]], report: Report) -> None:
    """The rows of thumbnails against the files: sizes that a listing shows must be true.

    Files come and go beside the transaction that `read` begins, so what is not in order is looked at a second time, in
    a later one. A file that is missing is no damage: it is made again when somebody looks at it.
    """
    with read() as txn:
        suspects = [key for key, value in _rows(txn, b"h", True) if _thumbnail_problem(directory, txn, key, value)]
    missing = 0
    with read() as txn:
        for key in suspects:
            value = txn.get(key)
            problem = _thumbnail_problem(directory, txn, key, value) if value is not None else ""
            if problem == _MISSING:
                missing += 1
            elif problem:
                report.add("index-differs", str(_thumbnail_path(directory, key)), problem, f"{REBUILD}.")
    if missing:
        report.notes.append(f"{missing:,} thumbnails are not in {directory}: each is made again when it is looked at.")
    for path in damaged_thumbnails(directory):
        report.add(
            "thumbnail-damaged", str(path), "It is not what was written.",
            "`mixfs fsck --repair` removes it; it is made again when it is looked at.",
        )  # fmt: skip


def damaged_thumbnails(directory: Path) -> Iterator[Path]:
    """Every file in thumbnails/ that is no whole PNG."""
    for path in sorted(directory.glob("??/*.png")):
        with contextlib.suppress(FileNotFoundError):
            if not is_whole_png(path):
                yield path


_MISSING = "It is missing."


def _thumbnail_path(directory: Path, key: bytes) -> Path:
    text = key[1:].hex()
    return directory / text[:2] / f"{text[2:]}.png"


def _thumbnail_problem(directory: Path, txn: ReadTxn, key: bytes, value: object) -> str:
    """What is wrong with the row of a thumbnail; empty when nothing is."""
    try:
        size, mtime_ns = cbor2.loads(value)  # type: ignore[arg-type]
        if len(key) != 33 or View(txn).image(Digest(key[1:])) is None:
            return "The index has a thumbnail of what is no picture of the library."
        if (size, mtime_ns) == (0, 0):
            return ""
        status = _thumbnail_path(directory, key).stat()
    except FileNotFoundError:
        return _MISSING
    except SENSELESS:
        return "The index's row is not what was written."
    if (size, mtime_ns) != (status.st_size, status.st_mtime_ns):
        return "The index has another size or time of it."
    return ""
