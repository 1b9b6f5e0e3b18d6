"""The record table: every kind of entity, its fields, and their fixed CBOR keys.

Records are frozen. A field is written under its small integer key and left out when it has its default, so that old
and new programs read each other; keys that this version doesn't know are kept in `unknown` and written back
(promise 6). A key is never given a second meaning: a field that goes leaves its number behind.

    kind  name           id                      lives in
    1     Session        UUIDv7 or foreign       sessions/
    2     Folder         derived or UUIDv7       sessions/X/images/…
    3     Placement      UUIDv7                  sessions/X/images/ or files/
    4     Entry          UUIDv7 or foreign       sessions/X/canvas/
    5     Edge           UUIDv7 or foreign       sessions/X/canvas.json
    6     Generation     UUIDv7 or foreign       sessions/X/generations/
    7     Blob           digest (hex)            blobs/
    8     Image          digest (hex)            images/, by-*/
    9     Annotation     digest (hex)            extended attributes
    10    Trash          UUIDv7                  (trash/, later)
    11    ImportFolder   UUIDv7 (import/: nil)   import/          local
    12    Receipt        UUIDv7                  import/          local
    13    Metadata       digest (hex)            metadata/

Times are nanoseconds since the epoch (`_ns`), sizes bytes, names bytes as programs gave them. `named_ns` and `order_ns`
are stamps: they only order. What is shown as a time is read from the clock: `changed_ns` is when a record was last put,
`named_at_ns` when it got its name. `Txn.put` sets these; in records of before they are 0, and the stamp was the time.

Other layouts number what is in a session from one, so an id that names an entry there may name another one in the next
session. Such an id is kept in `foreign_id`, and `id` follows from it and the session
(`mixfs.library.editing.member_id`). Edges, and the generation ids of entries, say `shown_id`: what names a member
within its session. `foreign` holds what a layout says and no field here does, by the layout's name, so that it can be
written back.
"""

from __future__ import annotations

import dataclasses
import struct
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import cbor2

from mixfs.ids import Digest

# What bytes that are not what was written can raise when they are read.
SENSELESS = (cbor2.CBORDecodeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error)

R = TypeVar("R", bound="Record")

_EMPTY: Mapping[int | str, Any] = {}


def _f(
    key: int, default: Any = dataclasses.MISSING, *, of: type[Record] | None = None,
    each: Callable[[Any], bool] | None = None, compare: bool = True,
) -> Any:  # fmt: skip
    """A field with a CBOR key; `each` says of each of its items whether it has the right shape."""
    metadata = {"key": key, "of": of, "default": default, "each": each}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    if default is _EMPTY:
        return field(default_factory=lambda: _EMPTY, metadata=metadata)
    return field(default=default, metadata=metadata, compare=compare)


def _is_stamp(value: Any) -> bool:
    """[stamp, replica] of a field."""
    return len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], bytes)


def _is_lora(value: Any) -> bool:
    """[name, weight]."""
    return isinstance(value, list | tuple) and len(value) == 2


def _is_kept(value: Any) -> bool:
    """[kind, id, record as CBOR map] of a record in the trash."""
    return (
        isinstance(value, list | tuple) and len(value) == 3 and isinstance(value[0], int) and isinstance(value[1], str)
        and isinstance(value[2], Mapping)
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A value with fixed CBOR keys; `unknown` holds the keys of other versions as they came."""

    KIND: ClassVar[int] = 0
    LOCAL: ClassVar[bool] = False
    FIELD_STAMPS: ClassVar[bool] = False

    unknown: Mapping[int | str, Any] = field(default_factory=lambda: _EMPTY)

    @property
    def entity_id(self) -> str:
        """The id under which the record is kept: `id`, or the digest in hex for what belongs to a blob."""
        value = getattr(self, "id", None)
        return value if isinstance(value, str) else getattr(self, "digest").hex()  # noqa: B009


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef(Record):
    """A picture that a generation took in or gave out."""

    digest: Digest | None = _f(1, None)
    name: str = _f(2, "")
    role: str = _f(3, "")
    size: int = _f(4, 0)
    placement_id: str | None = _f(5, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Record):
    """A named piece of work. `name` is the wanted directory name; fields carry stamps of their own."""

    KIND: ClassVar[int] = 1
    FIELD_STAMPS: ClassVar[bool] = True

    id: str = _f(1)
    title: str = _f(2, "")
    name: bytes = _f(3, b"")
    created_ns: int = _f(4, 0)
    user_id: str | None = _f(5, None)
    user_name: str | None = _f(6, None)
    zoom: float | None = _f(7, None)
    pan_x: float | None = _f(8, None)
    pan_y: float | None = _f(9, None)
    foreign: Mapping[str, Any] = _f(10, _EMPTY)
    changed_ns: int = _f(11, 0, compare=False)
    mode: int = _f(12, 0o755)
    stamps: Mapping[int, list[Any]] = _f(15, _EMPTY, each=_is_stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder(Record):
    """A sub-folder below a session's images/; `parent_id` None is images/ itself."""

    KIND: ClassVar[int] = 2

    id: str = _f(1)
    session_id: str = _f(2)
    parent_id: str | None = _f(3, None)
    name: bytes = _f(4, b"")
    mode: int = _f(5, 0o755)
    named_ns: int = _f(6, 0)
    named_at_ns: int = _f(7, 0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement(Record):
    """A blob in a session under a file name. `named_ns` is when it got its name: the earliest keeps it."""

    KIND: ClassVar[int] = 3

    id: str = _f(1)
    session_id: str = _f(2)
    digest: Digest = _f(3)
    name: bytes = _f(4)
    folder_id: str | None = _f(5, None)
    area: str = _f(6, "images")
    role: str = _f(7, "output")
    size: int = _f(8, 0)
    mode: int = _f(9, 0o644)
    mtime_ns: int = _f(10, 0)
    named_ns: int = _f(11, 0)
    original_name: bytes = _f(12, b"")
    xattrs: Mapping[str, bytes] = _f(13, _EMPTY)
    added_ns: int = _f(14, 0)
    foreign: Mapping[str, Any] = _f(15, _EMPTY)
    named_at_ns: int = _f(16, 0, compare=False)

    @property
    def ctime_ns(self) -> int:
        return max(self.added_ns, self.named_at_ns or self.named_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Record):
    """What may have an id of another layout's: it is unique in the session only."""

    @property
    def shown_id(self) -> str:
        """The id that names it within its session: the foreign one where there is one."""
        foreign: str | None = getattr(self, "foreign_id")  # noqa: B009
        return foreign if foreign is not None else self.entity_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Member):
    """A canvas entry: image, text, board, node, or a type unknown to us (its fields are then in `data`)."""

    KIND: ClassVar[int] = 4

    id: str = _f(1)
    session_id: str = _f(2)
    type: str = _f(3, "image")
    x: float = _f(4, 0.0)
    y: float = _f(5, 0.0)
    width: float | None = _f(6, None)
    height: float | None = _f(7, None)
    z: int = _f(8, 0)
    digest: Digest | None = _f(9, None)
    text: str | None = _f(10, None)
    generation_id: str | None = _f(11, None)
    data: Mapping[str, Any] = _f(12, _EMPTY)
    named_ns: int = _f(13, 0)
    foreign_id: str | None = _f(14, None)
    changed_ns: int = _f(15, 0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge(Member):
    """A connection between two entries of one session, named by their `shown_id`."""

    KIND: ClassVar[int] = 5

    id: str = _f(1)
    session_id: str = _f(2)
    source: str = _f(3)
    target: str = _f(4)
    source_handle: str | None = _f(5, None)
    target_handle: str | None = _f(6, None)
    data: Mapping[str, Any] = _f(7, _EMPTY)
    foreign_id: str | None = _f(8, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Member):
    """One run of a model. `reader`/`reader_version` say which metadata reader found it, if one did."""

    KIND: ClassVar[int] = 6

    id: str = _f(1)
    session_id: str = _f(2)
    time_ns: int = _f(3, 0)
    utc_offset_s: int = _f(4, 0)
    status: str = _f(5, "completed")
    prompt: str | None = _f(6, None)
    negative_prompt: str | None = _f(7, None)
    generator: str | None = _f(8, None)
    generator_version: str | None = _f(9, None)
    model: str | None = _f(10, None)
    model_hash: str | None = _f(11, None)
    seed: int | None = _f(12, None)
    steps: int | None = _f(13, None)
    cfg: float | None = _f(14, None)
    sampler: str | None = _f(15, None)
    scheduler: str | None = _f(16, None)
    width: int | None = _f(17, None)
    height: int | None = _f(18, None)
    loras: tuple[Any, ...] = _f(19, (), each=_is_lora)
    parameters: Mapping[str, Any] = _f(20, _EMPTY)
    inputs: tuple[ImageRef, ...] = _f(21, (), of=ImageRef)
    outputs: tuple[ImageRef, ...] = _f(22, (), of=ImageRef)
    duration_ms: int | None = _f(23, None)
    error: str | None = _f(24, None)
    reader: str | None = _f(25, None)
    reader_version: int = _f(26, 0)
    canvas_state: Mapping[str, Any] | None = _f(27, None)
    named_ns: int = _f(28, 0)
    foreign_id: str | None = _f(29, None)
    foreign: Mapping[str, Any] = _f(30, _EMPTY)
    # Whether it follows its picture (`mixfs.library.derived_generations`): False once a person or an app changed it.
    # None leaves that to its id and its reader.
    derived: bool | None = _f(31, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob(Record):
    """Bytes that the library holds: their size, type by content, and block sums (`mixfs.blobs.sums`)."""

    KIND: ClassVar[int] = 7

    digest: Digest = _f(1)
    size: int = _f(2, 0)
    media_type: str = _f(3, "application/octet-stream")
    added_ns: int = _f(4, 0)
    sums: bytes = _f(5, b"")
    # When the user gave up its missing bytes (`mixfs fsck --give-up`); 0 once they are back.
    given_up_ns: int = _f(6, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(Record):
    """What is known of a blob that is a picture. `problem` is why it is never decoded; pixels as stored."""

    KIND: ClassVar[int] = 8

    digest: Digest = _f(1)
    id: str | None = _f(2, None)
    media_type: str = _f(3, "")
    width: int | None = _f(4, None)
    height: int | None = _f(5, None)
    orientation: int = _f(6, 1)
    frames: int = _f(7, 1)
    problem: str | None = _f(8, None)
    taken_ns: int = _f(9, 0)
    utc_offset_s: int = _f(10, 0)
    size: int = _f(11, 0)
    added_ns: int = _f(12, 0)
    order_ns: int = _f(13, 0, compare=False)

    @property
    def order(self) -> int:
        return self.order_ns or self.added_ns

    @property
    def entity_id(self) -> str:
        return self.digest.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation(Record):
    """What a person said of an image: tags, a rating from 0 to 10 (Baloo's scale), a comment."""

    KIND: ClassVar[int] = 9
    FIELD_STAMPS: ClassVar[bool] = True

    digest: Digest = _f(1)
    tags: tuple[str, ...] = _f(2, ())
    rating: int | None = _f(3, None)
    comment: str | None = _f(4, None)
    stamps: Mapping[int, list[Any]] = _f(15, _EMPTY, each=_is_stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trash(Record):
    """An item that a delete or an overwrite took away, whole: `records` holds [kind, id, record as CBOR map].

    An item is a session, a folder, a picture or file with what was read from it, or a page of the members of a
    document. One deletion may have many: they share its `deleted_ns`, its reason and a `group_id`, the id of the first
    of them (None in that one, unless it is a session, and in what was deleted alone). `pending` is set in the item that
    speaks for its group while a large deletion ("delete") or restoration ("restore") is done in pieces. Older
    libraries have records with a whole session in one.
    """

    KIND: ClassVar[int] = 10

    id: str = _f(1)
    deleted_ns: int = _f(2, 0)
    reason: str = _f(3, "deleted")
    session_id: str | None = _f(4, None)
    session_title: str = _f(5, "")
    name: bytes = _f(6, b"")
    digest: Digest | None = _f(7, None)
    records: tuple[Any, ...] = _f(8, (), each=_is_kept)
    group_id: str | None = _f(9, None)
    pending: str = _f(10, "")
    order_ns: int = _f(14, 0, compare=False)

    @property
    def order(self) -> int:
        return self.order_ns or self.deleted_ns

    @property
    def group(self) -> str:
        """The id of the deletion that it belongs to."""
        return self.group_id if self.group_id is not None else self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFolder(Record):
    """A directory of import/. A top folder is bound to a session; deeper ones to a folder of that session."""

    KIND: ClassVar[int] = 11
    LOCAL: ClassVar[bool] = True

    id: str = _f(1)
    parent_id: str | None = _f(2, None)
    name: bytes = _f(3, b"")
    mode: int = _f(4, 0o755)
    mtime_ns: int = _f(5, 0)
    session_id: str | None = _f(6, None)
    folder_id: str | None = _f(7, None)
    named_ns: int = _f(8, 0)
    xattrs: Mapping[str, bytes] = _f(9, _EMPTY)
    # Ids of receipts that make a look for another program's layout due: of a folder the first is enough, and all that
    # is in it is looked at; of import/ itself each is a file to look at.
    unlooked: tuple[str, ...] = _f(10, ())
    # The layout that it was found to be in, or to hold.
    layout: str | None = _f(11, None)
    named_at_ns: int = _f(12, 0, compare=False)

    @property
    def ctime_ns(self) -> int:
        return max(self.mtime_ns, self.named_at_ns or self.named_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Record):
    """What stays listed in import/ after a file was taken in: same ino, size, mode and times."""

    KIND: ClassVar[int] = 12
    LOCAL: ClassVar[bool] = True

    id: str = _f(1)
    parent_id: str | None = _f(2, None)
    name: bytes = _f(3, b"")
    digest: Digest = _f(4)
    size: int = _f(5, 0)
    mode: int = _f(6, 0o644)
    mtime_ns: int = _f(7, 0)
    placement_id: str | None = _f(8, None)
    session_id: str | None = _f(9, None)
    xattrs: Mapping[str, bytes] = _f(10, _EMPTY)
    named_ns: int = _f(11, 0)
    # None in receipts of before these were kept: then the times are those of the receipt and of its bytes.
    ctime_ns: int | None = _f(12, None)
    atime_ns: int | None = _f(13, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata(Record):
    """The raw text that a picture carried, so that a better reader can run again. `raw` is zlib over a CBOR map."""

    KIND: ClassVar[int] = 13

    digest: Digest = _f(1)
    raw: bytes = _f(2, b"")
    reader: str | None = _f(3, None)
    reader_version: int = _f(4, 0)
    # The picture's derived generation as a CBOR map, saved here when the picture leaves its last session.
    generation: Mapping[int | str, Any] = _f(5, _EMPTY)


KINDS: dict[int, type[Record]] = {
    cls.KIND: cls
    for cls in (
        Session, Folder, Placement, Entry, Edge, Generation, Blob, Image, Annotation, Trash, ImportFolder, Receipt,
        Metadata,
    )
}  # fmt: skip


# Says whether a value out of a CBOR map is of a field's type.
_Check = Callable[[Any], bool]


def _check_of(hint: Any, each: _Check | None = None) -> _Check:
    """How to check a value against a field's type, and its items against their shape."""
    if hint is Any:
        return lambda value: True
    if hint is Digest:
        return lambda value: isinstance(value, bytes) and len(value) == 32
    if hint is float:
        return lambda value: isinstance(value, float | int)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        checks = [_check_of(each) for each in inner]
        return lambda value: any(check(value) for check in checks)
    if origin is list:
        return lambda value: isinstance(value, list)
    if origin is tuple:
        item = each or _check_of(inner[0])
        return lambda value: isinstance(value, list | tuple) and all(map(item, value))
    if origin is Mapping:
        key, value_of = map(_check_of, inner)
        return lambda value: (
            isinstance(value, Mapping)
            and all(map(key, value))
            and all(map(value_of, value.values()))
            and (each is None or all(map(each, value.values())))
        )
    if issubclass(hint, Record):
        return lambda value: isinstance(value, Mapping) and problem_of(hint, value) is None
    return lambda value: isinstance(value, hint)


class _Table:
    """The fields of one record class, looked up once."""

    __slots__ = ("checks", "fields", "required", "slots")

    def __init__(self, cls: type[Record]) -> None:
        self.fields: list[tuple[str, int, Any, type[Record] | None]] = []
        # To fill a record past its frozen class, which `from_map` alone may: (key, setter, default, tuple?, of).
        self.slots: list[tuple[int, Callable[[Any, Any], None], Any, bool, type[Record] | None]] = []
        self.checks: dict[int | str, tuple[str, _Check]] = {}
        self.required: dict[int | str, str] = {}
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            if "key" not in item.metadata:
                continue
            key, of, default = item.metadata["key"], item.metadata["of"], item.metadata["default"]
            self.fields.append((item.name, key, default, of))
            is_tuple = isinstance(default, tuple)
            self.slots.append((key, getattr(cls, item.name).__set__, default, is_tuple, of))
            self.checks[key] = (item.name, _check_of(hints[item.name], item.metadata["each"]))
            if default is dataclasses.MISSING:
                self.required[key] = item.name


_TABLES: dict[type[Record], _Table] = {}


def _table(cls: type[Record]) -> _Table:
    table = _TABLES.get(cls)
    if table is None:
        table = _TABLES[cls] = _Table(cls)
    return table


def to_map(record: Record) -> dict[int | str, Any]:
    """The CBOR map of a record: defaults left out, unknown keys last."""
    out: dict[int | str, Any] = {}
    for name, key, default, of in _table(type(record)).fields:
        value = getattr(record, name)
        if value == default and default is not dataclasses.MISSING:
            continue
        if of is not None:
            value = [to_map(item) for item in value]
        elif isinstance(value, tuple):
            value = list(value)
        out[key] = value
    out.update(record.unknown)
    return out


def from_map(cls: type[R], data: Mapping[int | str, Any]) -> R:
    """The record of a CBOR map. Raises TypeError when a field that every version writes is missing."""
    # Each request of a mount begins with one: the class's own constructor takes twice as long.
    record, known = object.__new__(cls), 0
    for key, put, default, is_tuple, of in _table(cls).slots:
        if key in data:
            known += 1
            value = data[key]
            if of is not None:
                value = tuple(from_map(of, item) for item in value)
            elif is_tuple:
                value = tuple(value)
        elif default is dataclasses.MISSING:
            raise TypeError(f"{cls.__name__}: field {key} is missing")
        else:
            value = default
        put(record, value)
    _put_unknown(record, _EMPTY if known == len(data) else _unknown_in(cls, data))
    return record


_put_unknown: Callable[[Any, Any], None] = Record.__dict__["unknown"].__set__


def _unknown_in(cls: type[Record], data: Mapping[int | str, Any]) -> dict[int | str, Any]:
    known = {key for key, *_ in _table(cls).slots}
    return {key: value for key, value in data.items() if key not in known}


def problem_of(cls: type[Record], data: Any) -> str | None:
    """Why a CBOR map is no record of its class: a field that is missing or of another type; None when all is well."""
    if not isinstance(data, Mapping):
        return f"{cls.__name__}: not a map"
    table = _table(cls)
    for key, name in table.required.items():
        if key not in data:
            return f"{cls.__name__}.{name} is missing"
    for key, value in data.items():
        name, check = table.checks.get(key, ("", None))
        if check is not None and not check(value):
            return f"{cls.__name__}.{name} is {value!r:.60}"
    return None


def field_path(cls: type[Record], key: int | str) -> str:
    """What a field is called where it is wrong: `Entry.data`."""
    name, _ = _table(cls).checks.get(key, (str(key), None))
    return f"{cls.__name__}.{name}"


def field_keys(cls: type[Record]) -> dict[str, int]:
    """Field name → CBOR key, without the bookkeeping fields."""
    return {name: key for name, key, _, _ in _table(cls).fields if name not in ("stamps", "id", "digest")}
