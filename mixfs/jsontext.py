"""JSON of other programs in, strict JSON out. Everything that reads foreign JSON or writes any uses these.

Reading takes what Python, JavaScript and PostgreSQL write: any depth, numbers of any length, NaN and Infinity, half a
surrogate pair, a byte order mark, UTF-16 and UTF-32. Of a key that stands twice the last value counts, as in all three.

- `NaN`, `Infinity` and `-Infinity` become texts of these words: JSON has no such numbers.
- Half a surrogate pair becomes U+FFFD: UTF-8 can't hold it.
- A container more than `DEPTH` levels deep, and a number that no float or `int` of Python holds, is kept as a *marked
  text*: `{"mixfs:json": "…"}` with its JSON. Records hold it like any object, and writing puts the JSON back in its
  place. An object of another program that looks so is itself kept as a marked text.

Writing gives what the standard allows and nothing else, whatever the value holds. What only shows (`deep` False) leaves
containers that are marked texts as they are; what goes back to a program has its JSON whole.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from mixfs.errors import InvalidValue

DEPTH = 64
MARK = "mixfs:json"

Default = Callable[[Any], Any]

_DIGITS = 4300
"""Digits of an `int` that Python converts from and to text; more take it quadratic time."""
_MAX_INT = 10**_DIGITS
_QUOTED_MARK = f'"{MARK}"'
# The same with characters escaped that no program escapes without intent.
_ESCAPED_MARK = re.compile(r"\\u00(?:[67][0-9a-fA-F]|3[aA])")
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_HALF = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None, "NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity"}
_CHUNK = 1 << 16
# (text, where its content begins, strict) → (content, where it ends)
_scan_string: Callable[[str, int, bool], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]


class Marked(dict[str, str]):
    """A marked text that was made here, not found in what another program wrote."""


def marked(text: str) -> Marked:
    return Marked({MARK: text})


def is_marked(value: Any) -> bool:
    """Whether a value of a record stands for JSON in its text."""
    return isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get(MARK), str)


# -- reading


def decode(data: bytes) -> str:
    """The text of a JSON document, in UTF-8, UTF-16 or UTF-32, without its byte order mark. Raises InvalidValue."""
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding, "strict" if encoding.startswith("utf-8") else "surrogatepass")
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise InvalidValue(f"Byte {error.start} is no {name}.") from None
    return text.removeprefix("\ufeff")


def beginning(head: bytes) -> str:
    """The first bytes of a file as text without white space before it, in whatever encoding JSON has."""
    return head.decode(json.detect_encoding(head), "ignore").lstrip("\ufeff \t\r\n")


def loads(data: bytes | str, *, strict: bool = True, nan_as_null: bool = False, whole: bool = False) -> Any:
    """The value of a JSON document. Raises InvalidValue that says where it is wrong.

    With `strict` False texts may have line ends and control characters in them. With `whole` containers are built at
    any depth, for a caller that keeps no record of them.
    """
    text = decode(data) if isinstance(data, bytes) else data.removeprefix("\ufeff")
    if not text.isascii():
        text = _HALF.sub("\ufffd", text)
    if _HALF_ESCAPE.search(text):
        text = _ESCAPE.sub(lambda found: "\\ufffd" if found[1] else found[0], text)
    if is_deep(text):
        value = parsed(text, strict=strict, nan_as_null=nan_as_null)
        return value if whole else cut(value)
    try:
        value = _loads(text, strict, nan_as_null)
    except json.JSONDecodeError as error:
        raise InvalidValue(f"Line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        # Of a document that is no JSON either, or its brackets would have been counted.
        value = parsed(text, strict=strict, nan_as_null=nan_as_null)
    looks_marked = _QUOTED_MARK in text or ("\\u00" in text and _ESCAPED_MARK.search(text))
    return cut(value) if looks_marked and not whole else value


def _loads(text: str, strict: bool, nan_as_null: bool) -> Any:
    constant = _null if nan_as_null else str
    try:
        return json.loads(text, strict=strict, parse_float=_real, parse_constant=constant)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # A number of too many digits for Python.
        return json.loads(text, strict=strict, parse_float=_real, parse_constant=constant, parse_int=_whole)


def _null(name: str) -> None:
    return None


def _real(text: str) -> float | Marked:
    value = float(text)
    return value if math.isfinite(value) else marked(text)


def _whole(text: str) -> int | Marked:
    return int(text) if len(text) <= _DIGITS else marked(text)


def is_strict(text: str) -> bool:
    """Whether a text is JSON as the standard has it. False, too, of what takes long to tell."""
    if _HALF.search(text) or (_HALF_ESCAPE.search(text) and any(found[1] for found in _ESCAPE.finditer(text))):
        return False
    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError, InvalidValue):
        return False
    return True


_BRACKETS = b'[]{}"'
_OTHERS = bytes(sorted(set(range(256)) - set(_BRACKETS)))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")


def is_deep(text: str) -> bool:
    """Whether containers are nested more than DEPTH levels deep. Also True of some that is no JSON."""
    if text.count("[") + text.count("{") <= DEPTH:
        return False
    data = text.encode().replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    data = re.sub(rb'"[^"]*"', b"", data).translate(_AS_SQUARE)
    # Each round takes the innermost containers away.
    for _ in range(DEPTH):
        if not data:
            return False
        data = data.replace(b"[]", b"")
    return bool(data)


def parsed(text: str, *, strict: bool = True, nan_as_null: bool = False) -> Any:
    """The value of a document nested however deeply, with nothing kept as text. Raises InvalidValue."""
    parts = iter((text,))
    found = events(lambda size: next(parts, ""), strict=strict, nan_as_null=nan_as_null)
    event, value = next(found)
    value = build(found, event, value)
    # It raises for what follows.
    next(found, None)
    return value


class _Window:
    """The part of a text that is being read; `read` gives more of it, "" at its end."""

    def __init__(self, read: Callable[[int], str], strict: bool, nan_as_null: bool) -> None:
        self._read, self._strict, self._nan_as_null = read, strict, nan_as_null
        self._text, self._at, self._size = "", 0, _CHUNK
        self._line, self._column = 1, 1
        self._ended = False

    def _more(self) -> bool:
        """Read on; what was passed is let go."""
        if self._ended:
            return False
        passed, self._text = self._text[: self._at], self._text[self._at :]
        lines = passed.count("\n")
        self._line += lines
        self._column = len(passed) - passed.rfind("\n") if lines else self._column + len(passed)
        self._at = 0
        part = self._read(self._size)
        self._ended = not part
        self._text += part
        return not self._ended

    def error(self, words: str, at: int | None = None) -> InvalidValue:
        passed = self._text[: self._at if at is None else at]
        lines = passed.count("\n")
        column = len(passed) - passed.rfind("\n") if lines else self._column + len(passed)
        return InvalidValue(f"Line {self._line + lines}, column {column}: {words}.")

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        self._at += 1

    def string(self) -> str:
        """The text that begins here."""
        self._size = _CHUNK
        while True:
            try:
                value, end = _scan_string(self._text, self._at + 1, self._strict)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 12
                # A long text is looked through again each time: with twice as much.
                self._size *= 2
                if not cut_off or not self._more():
                    raise self.error(error.msg, error.pos if not cut_off else None) from None
                continue
            self._at, self._size = end, _CHUNK
            if not value.isascii():
                value = _HALF.sub("\ufffd", value)
            return value

    def scalar(self) -> Any:
        """The number or word that begins here."""
        while (end := _WORD.match(self._text, self._at).end()) == len(self._text) and self._more():  # type: ignore[union-attr]
            pass
        word = self._text[self._at : end]
        value: Any
        if word in _WORDS:
            value = None if self._nan_as_null and word.endswith(("N", "y")) else _WORDS[word]
        else:
            found = _NUMBER.fullmatch(word)
            if found is None:
                raise self.error("Expecting value")
            value = _whole(word) if found[1] is None and found[2] is None else _real(word)
        self._at = end
        return value


def events(read: Callable[[int], str], *, strict: bool = True, nan_as_null: bool = False) -> Iterator[tuple[str, Any]]:
    """The parts of a document one by one, of which only the text in hand is in memory. Raises InvalidValue.

    `start_map`, `map_key`, `end_map`, `start_array` and `end_array`, and `value` for all else.
    """
    text = _Window(read, strict, nan_as_null)
    open_: list[str] = []

    def key() -> str:
        if text.peek() != '"':
            raise text.error("Expecting property name enclosed in double quotes")
        name = text.string()
        if text.peek() != ":":
            raise text.error("Expecting ':' delimiter")
        text.skip()
        return name

    while True:
        char = text.peek()
        if char in ("{", "["):
            text.skip()
            yield ("start_map" if char == "{" else "start_array"), None
            open_.append("}" if char == "{" else "]")
            if text.peek() != open_[-1]:
                if char == "{":
                    yield "map_key", key()
                continue
        else:
            yield "value", text.string() if char == '"' else text.scalar()
        while True:
            char = text.peek()
            if not open_:
                if char:
                    raise text.error("Extra data")
                return
            if char not in (",", open_[-1]):
                raise text.error("Expecting ',' delimiter")
            text.skip()
            if char == ",":
                if open_[-1] == "}":
                    yield "map_key", key()
                break
            yield ("end_map" if open_.pop() == "}" else "end_array"), None


def file_events(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """`events` of a file, in whatever encoding JSON has. Raises InvalidValue, OSError."""
    head = file.read(4)
    encoding = json.detect_encoding(head).removesuffix("-sig")
    errors = "strict" if encoding == "utf-8" else "surrogatepass"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    first = True

    def read(size: int) -> str:
        nonlocal head, first
        while True:
            data, head = head + file.read(size), b""
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = file.tell() - len(error.object) + error.start
                raise InvalidValue(f"Byte {at} is no {error.encoding.upper()}.") from None
            if text and first:
                first, text = False, text.removeprefix("\ufeff")
            if text or not data:
                return text

    return events(read)


def build(found: Iterator[tuple[str, Any]], event: str, value: Any) -> Any:
    """The value that begins with an event, however deep it is."""
    if event == "value":
        return value
    root: Any = {} if event == "start_map" else []
    open_: list[tuple[Any, str]] = []
    at, name = root, ""
    while True:
        event, value = next(found)
        if event == "map_key":
            name = value
            continue
        if event in ("end_map", "end_array"):
            if not open_:
                return root
            at, name = open_.pop()
            continue
        if event != "value":
            value = {} if event == "start_map" else []
        if isinstance(at, list):
            at.append(value)
        else:
            at[name] = value
        if event != "value":
            open_.append((at, name))
            at = value


def cut(value: Any, room: int = DEPTH) -> Any:
    """A value as records keep it: what is nested more than `room` levels deep as marked texts.

    So is an object that looks like a marked text and was not made here.
    """
    if isinstance(value, Marked) or not isinstance(value, dict | list):
        return value
    if room <= 0 or is_marked(value):
        return marked(_compact(value))
    if isinstance(value, list):
        return [cut(item, room - 1) for item in value]
    return {key: cut(item, room - 1) for key, item in value.items()}


def keepable(value: Any, path: str, room: int) -> Any:
    """A value as a record can keep it: as `cut`, of any that a program hands over, where marked texts stay.

    Raises InvalidValue that names the place of what can't be kept.
    """
    return value if _is_keepable(value, room) else _kept(value, path, room)


def _is_keepable(value: Any, room: int) -> bool:
    kind = type(value)
    if kind is str:
        return value.isascii() or not _HALF.search(value)
    if kind is int:
        return bool(-_MAX_INT < value < _MAX_INT)
    if value is None or kind is float or kind is bool or kind is bytes:
        return True
    if kind is dict or kind is Marked:
        if room <= 0 and not is_marked(value):
            return False
        for key, item in value.items():
            if not (_is_keepable(item, room - 1) and (type(key) is int or (type(key) is str and _is_keepable(key, 0)))):
                return False
        return True
    if kind is list or kind is tuple:
        return room > 0 and all(_is_keepable(item, room - 1) for item in value)
    return False


def _kept(value: Any, path: str, room: int) -> Any:
    if _is_keepable(value, room):
        return value
    if isinstance(value, str):
        raise InvalidValue(f"{path} is {value!r:.60}, a text that can't be kept as UTF-8.")
    if isinstance(value, int):
        raise InvalidValue(f"{path} is a number of {value.bit_length()} bits: it is too long.")
    if not isinstance(value, Mapping | list | tuple):
        raise InvalidValue(f"{path} is {value!r:.60}, of a kind that can't be kept.")
    if room <= 0:
        return value if is_marked(value) else marked(_compact(value, marks=True))
    if not isinstance(value, Mapping):
        return [_kept(item, f"{path}[{at}]", room - 1) for at, item in enumerate(value)]
    for key in value:
        if not isinstance(key, str | int) or not _is_keepable(key, 0):
            raise InvalidValue(f"{path} has the key {key!r:.60}, which can't be kept.")
    return {key: _kept(item, f"{path}.{key}", room - 1) for key, item in value.items()}


# -- writing


def plain(value: Any) -> Any:
    """What JSON says of a value that it has no kind for."""
    if isinstance(value, bytes):
        return value.hex()
    return dict(value) if isinstance(value, Mapping) else str(value)


def refuse(value: Any) -> Any:
    """For `default`: raise InvalidValue for what JSON has no kind for."""
    raise InvalidValue(f"{value!r:.60} is of a kind that JSON has no word for.")


def dumps(
    value: Any, *, indent: int | None = None, ascii: bool = False, default: Default = plain, marks: bool = True,
    deep: bool = True,
) -> str:  # fmt: skip
    """Strict JSON of any value: NaN and its like as texts, marked texts as the JSON that they stand for.

    It can be written as UTF-8. Of a value that is not from a record (`marks` False) an object that looks like a marked
    text is just that. With `deep` False containers that are nested deeply stay marked texts, so that every parser reads
    it: many follow some hundred levels.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=ascii, allow_nan=False, default=default)
    except (ValueError, TypeError, RecursionError):
        text = None
    if text is None or _QUOTED_MARK in text or (not deep and is_deep(text)):
        text = _with_raw(value, indent, ascii, default, marks, deep)
    if ascii:
        return _ESCAPE.sub(lambda found: "\\ufffd" if found[1] else found[0], text) if "\\ud" in text else text
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def _with_raw(value: Any, indent: int | None, ascii: bool, default: Default, marks: bool, deep: bool) -> str:
    raw: list[str] = []
    token = secrets.token_hex(16)

    def put(text: str) -> str:
        raw.append(text)
        return f"{token}{len(raw) - 1}"

    def plainly(value: Any, room: int) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return _named(value)
        if isinstance(value, int) and not -_MAX_INT < value < _MAX_INT:
            return f"{value:#x}"
        if isinstance(value, str | int | float) or value is None:
            return value
        text = _text_of(value, ascii) if isinstance(value, Marked) or (marks and is_marked(value)) else None
        if text is not None:
            return put(text) if deep or text[0] not in "[{" else dict(value)
        if isinstance(value, Mapping | list | tuple) and not room:
            text = _compact(value, default, ascii, marks)
            return put(text) if deep else marked(text)
        if isinstance(value, Mapping):
            return {_key(key): plainly(item, room - 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plainly(item, room - 1) for item in value]
        return plainly(default(value), room)

    # Records wrap what they keep in a few more levels.
    kept = plainly(value, 2 * DEPTH if deep else DEPTH + 16)
    text = json.dumps(kept, indent=indent, ensure_ascii=ascii, allow_nan=False)
    return re.sub(f'"{token}([0-9]+)"', lambda found: raw[int(found[1])], text)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key) if isinstance(key, int | None) else str(key)


def _named(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text_of(value: Mapping[str, str], ascii: bool = False) -> str | None:
    """The JSON of a marked text, on one line; None where it is none, as in another program's journal."""
    if _NUMBER.fullmatch(value[MARK]):
        return value[MARK]
    try:
        return _compact(parsed(value[MARK]), plain, ascii)
    except InvalidValue:
        return None


def _compact(value: Any, default: Default = plain, ascii: bool = False, marks: bool = False) -> str:
    """JSON on one line, of a value that is nested however deeply.

    With `marks` what looks like a marked text is one, as in a record; else only those made here are.
    """
    out: list[str] = []
    open_: list[tuple[str, Iterator[Any], int]] = []
    within: set[int] = set()

    def enter(begin: str, end: str, container: Any, items: Iterator[Any]) -> None:
        if id(container) in within:
            raise InvalidValue("A value that is within itself can't be written as JSON.")
        within.add(id(container))
        out.append(begin)
        open_.append((end, items, id(container)))

    def start(value: Any) -> None:
        text = _text_of(value, ascii) if isinstance(value, Marked) or (marks and is_marked(value)) else None
        if text is not None:
            out.append(text)
        elif isinstance(value, Mapping):
            enter("{", "}", value, iter(value.items()))
        elif isinstance(value, list | tuple):
            enter("[", "]", value, iter(value))
        elif isinstance(value, str | int | float) or value is None:
            if isinstance(value, float) and not math.isfinite(value):
                value = _named(value)
            elif isinstance(value, int) and not -_MAX_INT < value < _MAX_INT:
                value = f"{value:#x}"
            out.append(json.dumps(value, ensure_ascii=ascii))
        else:
            start(default(value))

    start(value)
    while open_:
        end, items, container = open_[-1]
        first = out[-1] in ("{", "[")
        try:
            item = next(items)
        except StopIteration:
            open_.pop()
            within.remove(container)
            out.append(end)
            continue
        if not first:
            out.append(", ")
        if end == "}":
            out.append(json.dumps(_key(item[0]), ensure_ascii=ascii) + ": ")
            item = item[1]
        start(item)
    return "".join(out)
