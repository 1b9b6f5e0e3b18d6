"""The URLs of servers that hold a Koda database: parsed here, and shown without what is secret in them.

No other module takes such a URL apart, and no message, log or report has one that did not pass through `shown`. A URL
that is not well-formed is shown as its scheme alone: nobody can tell which part of it was meant as the password.
Drivers are given the parts, never the URL, since they quote it in their errors.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass, field

from mixfs.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_POSTGRES = ("postgres", "postgresql")
_LIBSQL = ("libsql", "http", "https")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|(?:[\w.-]|%[0-9A-Fa-f]{2})*)(?::(\d{1,5}))?")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Words for libpq, and those of them whose values may be shown.
_SHOWN = {
    "host", "hostaddr", "port", "dbname", "user", "sslmode", "connect_timeout", "application_name", "gssencmode",
    "target_session_attrs", "channel_binding", "client_encoding", "tls",
}  # fmt: skip
_LIBPQ = _SHOWN - {"tls"} | {
    "password", "passfile", "options", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "replication", "sslcompression", "sslcert", "sslkey",
    "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "sslcertmode", "sslnegotiation", "requirepeer",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib", "gssdelegation", "service",
    "servicefile", "require_auth", "load_balance_hosts",
}  # fmt: skip
# What looks like the way to a server, whether or not it is well-formed: `user:password@`, or a word of a connection
# string with its value.
_CONNECTION = re.compile(
    r"://|\b(?:postgres(?:ql)?|libsql):|:[^/]*@"
    r"|(?:\b|_)(?:password|passwd|pwd|(?:auth)?_?token|secret)\s*=",
    re.IGNORECASE,
)  # fmt: skip
_WORDS = re.compile(r"[^\s:/@?&=#;,'\"\[\]]{3,}")


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """A well-formed URL. Not printed, also by a traceback that shows values: `repr` says `shown` only."""

    shown: str
    scheme: str = field(repr=False)
    hosts: tuple[tuple[str, int | None], ...] = field(repr=False)
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    path: str = field(repr=False)
    query: dict[str, str] = field(repr=False)
    _raw: str = field(repr=False)

    @property
    def is_postgres(self) -> bool:
        return self.scheme in _POSTGRES

    def parameters(self) -> dict[str, str]:
        """The words that libpq connects by. Raises UsageError for those that it has not got."""
        unknown = self.query.keys() - _LIBPQ
        if unknown:
            raise UsageError(f"{self.shown}: the URL has a parameter that PostgreSQL does not know.")
        parts = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port or "") for _, port in self.hosts),
            "user": self.user or "", "password": self.password or "", "dbname": self.path.removeprefix("/"),
        }  # fmt: skip
        return {name: value for name, value in parts.items() if value.strip(",")} | self.query

    @property
    def token(self) -> str | None:
        """The token of a libSQL server: `authToken` in any spelling, or the password."""
        given = {name.lower().replace("_", ""): value for name, value in self.query.items()}
        return given.get("authtoken") or self.password or None

    def masked(self, text: str) -> str:
        """A driver's words without what is secret."""
        return masked(text, [self._raw])


def is_url(location: str) -> bool:
    """Whether it names a server."""
    found = _SCHEME.match(location)
    return found is not None and found[1].lower() in (*_POSTGRES, *_LIBSQL)


def parse(location: str) -> SourceUrl:
    """The parts of a server's URL. Raises UsageError, which does not quote it."""
    found = _SCHEME.match(location)
    scheme = found[1].lower() if found else ""
    if found is None or scheme not in (*_POSTGRES, *_LIBSQL):
        raise UsageError(f"{_hidden(location)} is no URL of a server. {_FORMS}")
    rest = location[found.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    beyond = rest[len(authority) :]
    info, at, places = authority.rpartition("@")
    path, _, query = beyond.partition("?")
    hosts = [_HOST.fullmatch(place) for place in places.split(",")]
    broken = (
        "@" in beyond or "#" in beyond or not location.isprintable() or " " in location
        or _BROKEN_ESCAPE.search(location) or not all(hosts)
        or any(match is not None and match[1] is not None and not 0 < int(match[1]) < 65536 for match in hosts)
        or (query and not all("=" in pair and not pair.startswith("=") for pair in query.split("&")))
        or (scheme in _LIBSQL and (len(hosts) > 1 or not places))
    )  # fmt: skip
    try:
        user, colon, password = info.partition(":")
        pairs = {_decoded(key): _decoded(value) for key, _, value in (pair.partition("=") for pair in query.split("&"))}
        pairs.pop("", None)
        parts = [_decoded(user), _decoded(password), _decoded(path)]
    except ValueError:
        broken = True
    if broken:
        raise UsageError(
            f"{_hidden(location)} is not well-formed. {_FORMS} In a user name or a password, write / as %2F, # as %23, "
            "? as %3F and @ as %40."
        )
    shown_user = f"{user}@" if at and user and scheme in _POSTGRES else ""
    shown_query = "&".join(map(_shown_pair, filter(None, query.split("&"))))
    return SourceUrl(
        shown=f"{scheme}://{shown_user}{places}{path}{'?' if shown_query else ''}{shown_query}", scheme=scheme,
        hosts=tuple(_host(place) for place in places.split(",")),
        user=parts[0] if at and user else None, password=parts[1] if colon else None, path=parts[2], query=pairs,
        _raw=location,
    )  # fmt: skip


_FORMS = "Write postgresql://USER:PASSWORD@HOST/DATABASE, libsql://HOST?authToken=TOKEN, or https://HOST?authToken=TOKEN."


def _shown_pair(pair: str) -> str:
    name = pair.partition("=")[0]
    if name in _SHOWN:
        return pair
    # A token with an & in it looks like the name of another parameter.
    return f"{name}=…" if name in _LIBPQ or name == "authToken" else "…=…"


def _decoded(text: str) -> str:
    """A part of a URL. Raises ValueError for what no server takes."""
    out = urllib.parse.unquote(text, errors="strict")
    out.encode()
    if not out.isprintable():
        raise ValueError
    return out


def _host(place: str) -> tuple[str, int | None]:
    host, port = place, ""
    if not place.endswith("]"):
        host, _, port = place.rpartition(":") if ":" in place else (place, "", "")
    return _decoded(host.strip("[]")), int(port) if port else None


def _hidden(location: str) -> str:
    """What may be shown of text that may have a password anywhere."""
    found = _SCHEME.match(location)
    return f"{found[1].lower()}://…" if found is not None else "This"


def without_password(location: str) -> str:
    """A server's URL as it may be shown."""
    try:
        return parse(location).shown
    except UsageError:
        return _hidden(location)


def local(location: str) -> str:
    """A path, also of a `file:` URL as SQLite and libSQL take it; anything else as it is. Raises UsageError."""
    if location[:5].lower() != "file:":
        return location
    rest = re.split(r"[?#]", location[5:], maxsplit=1)[0]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        if host.lower() not in ("", "localhost"):
            raise UsageError("A file: URL names a path on this machine, as file:///home/me/koda.db.")
    if not rest:
        raise UsageError("A file: URL needs a path, as file:///home/me/koda.db.")
    return urllib.parse.unquote(rest, errors="surrogateescape")


def check_place(text: str) -> None:
    """Refuse what is no path and looks like the way to a server, without quoting it. Raises UsageError."""
    if is_url(text):
        parse(text)
    elif looks_secret(text) and not os.path.lexists(local(text)):
        raise UsageError(f"{_hidden(text)} is neither a file nor a URL of a server. {_FORMS}")


def looks_secret(text: str) -> bool:
    """Whether text may be the way to a server, with a password in it."""
    return text[:5].lower() != "file:" and _CONNECTION.search(text) is not None


def web(url: str) -> str:
    """The address of something on the web as it may be shown: no user, no password, no signature."""
    try:
        parts = urllib.parse.urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
    except ValueError:
        return _hidden(url)
    return f"{parts.scheme}://{place}{parts.path}{'?…' if parts.query else ''}"


def masked(text: str, secrets: list[str]) -> str:
    """Text without the URLs in `secrets`, and without any part of them that may be a password."""
    for secret in secrets:
        text = text.replace(secret, without_password(secret))
        shown = without_password(secret)
        for word in {*_WORDS.findall(secret), *_WORDS.findall(urllib.parse.unquote(secret))}:
            # Those of our own advice tell nobody anything.
            if word not in shown and word.lower() not in _FORMS.lower():
                text = text.replace(word, "…")
    return text
