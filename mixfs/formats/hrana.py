"""A libSQL server, spoken to in its own protocol, Hrana over HTTP: SQL and values as JSON, answers as JSON.

https://github.com/tursodatabase/libsql/blob/main/docs/HRANA_3_SPEC.md; version 2 of the pipeline is used, which all
servers know. No library is between: those that there are make floats of large integers (docs/decisions/0023).
A stream is one connection to the database, with its transaction. Not for several threads.
"""

from __future__ import annotations

import base64
import binascii
import time
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mixfs import jsontext
from mixfs.errors import InvalidValue, MixfsError
from mixfs.formats.source_urls import SourceUrl, parse

if TYPE_CHECKING:
    import http.client

TIMEOUT_S = 60.0
ANSWER_S = 120.0
"""How long one answer may take, and how long it may be."""
MAX_ANSWER = 256 << 20
_PIPELINE = "/v2/pipeline"


class ServerError(MixfsError):
    """What the server said, or why it can't be reached. `code` is the server's own word for it."""

    def __init__(self, words: str, code: str = "") -> None:
        super().__init__(words)
        self.code = code


class Answer(NamedTuple):
    """The rows of a statement, and how many it changed."""

    rows: list[list[Any]]
    changed: int


class Stream:
    """A stream to the server of a URL: https://, http://, or libsql://, which is https but for `?tls=0`.

    The token stands in it as `authToken`, or as its password.
    """

    def __init__(self, url: str | SourceUrl) -> None:
        # Loaded by who asks a server: every import would begin with it.
        import http.client

        place = parse(url) if isinstance(url, str) else url
        secure = place.scheme == "https" or (place.scheme == "libsql" and place.query.get("tls") != "0")
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        [(host, port)] = place.hosts
        self._connection = kind(host, port or (443 if secure else 80), timeout=TIMEOUT_S)
        self._path = urllib.parse.quote(place.path.rstrip("/")) + _PIPELINE
        self._token = place.token
        self._baton: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        """Close the stream; a transaction that was not committed is rolled back by that."""
        if self._baton is not None:
            try:
                self._post([{"type": "close"}])
            except ServerError:
                # Gone already: the server lets go of it by itself.
                self._baton = None
        self._connection.close()

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Answer:
        """Run a statement. Raises ServerError."""
        statement = {"sql": sql, "args": [_out(value) for value in values], "want_rows": True}
        try:
            [result] = self._post([{"type": "execute", "stmt": statement}])
            if result.get("type") != "ok":
                said = result.get("error") or {}
                raise ServerError(f"The server says: {said.get('message')}.", str(said.get("code") or ""))
            found = result["response"]["result"]
            rows = [[_in(value) for value in row] for row in found["rows"]]
            return Answer(rows, int(found.get("affected_row_count") or 0))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError("The server's answer is no Hrana.") from error

    def _post(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        import http.client

        body = jsontext.dumps({"baton": self._baton, "requests": requests}).encode()
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token else {}
        )
        try:
            self._connection.request("POST", self._path, body, headers)
            answer = self._connection.getresponse()
            data = _body(answer)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise ServerError(f"The server can't be reached, or went away: {error}.") from error
        try:
            said = jsontext.loads(data)
        except InvalidValue:
            said = None
        if answer.status != 200 or not isinstance(said, dict):
            words = str(said.get("message") or said.get("error")) if isinstance(said, dict) else answer.reason
            hint = " The token goes into the URL, as ?authToken=…" if answer.status in (401, 403) else ""
            raise ServerError(f"The server answers {answer.status}: {words}.{hint}")
        self._baton = said.get("baton")
        results: list[dict[str, Any]] = said["results"]
        return results


def _body(answer: http.client.HTTPResponse) -> bytes:
    """All of an answer, of a server that may send for ever. Raises ServerError, OSError."""
    data, deadline = bytearray(), time.monotonic() + ANSWER_S
    # read1 returns with what is there, so a server that drips meets the deadline.
    while part := answer.read1(1 << 20):
        data += part
        if len(data) > MAX_ANSWER or time.monotonic() > deadline:
            raise ServerError(f"The server's answer is longer than {MAX_ANSWER >> 20} MiB or {ANSWER_S:g} s.")
    # read1 leaves an answer of known length open at its end, and the connection with it.
    answer.close()
    return bytes(data)


def _out(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {"type": "null"}
        case bool() | int():
            # As a text: JSON's numbers are floats to many.
            return {"type": "integer", "value": str(int(value))}
        case float():
            return {"type": "float", "value": value}
        case bytes():
            return {"type": "blob", "base64": base64.b64encode(value).decode()}
    return {"type": "text", "value": str(value)}


def _in(value: dict[str, Any]) -> Any:
    match value.get("type"):
        case "integer":
            return int(value["value"])
        case "blob":
            text = value["base64"]
            try:
                return base64.b64decode(text + "=" * (-len(text) % 4))
            except binascii.Error as error:
                raise ServerError(f"The server sent a value that can't be read: {error}.") from None
        case "null" | None:
            return None
    return value.get("value")
