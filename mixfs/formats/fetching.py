"""Downloading what a layout names by URL only: http and https, public addresses, with limits on type, size and time.

A name is resolved once and the connection goes to the address that was looked at: a name that answers with another
address the second time gains nothing. Each redirect is looked at anew. Proxies of the environment are not used, since
they would resolve names themselves.
"""

from __future__ import annotations

import ipaddress
import time
import urllib.parse
from typing import TYPE_CHECKING

from mixfs.blobs.intake import CHUNK
from mixfs.errors import MixfsError
from mixfs.formats.source_urls import web

if TYPE_CHECKING:
    # Loaded by who fetches something: they are a tenth of what every import would begin with.
    import http.client

MAX_BYTES = 256 << 20
MAX_SECONDS = 300
MAX_REDIRECTS = 5
_TIMEOUT_S = 30
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TYPES = ("image/", "video/", "audio/")


class NotFetched(MixfsError):
    """A URL that was not downloaded, and why."""


class Download:
    """The body of an answer, read with limits. Close it."""

    def __init__(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, url: str) -> None:
        self._connection, self._answer, self._url = connection, answer, url
        self._deadline = time.monotonic() + MAX_SECONDS
        self._size = 0

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes; none at the end. Raises NotFetched."""
        import http.client

        if time.monotonic() > self._deadline:
            raise NotFetched(f"{web(self._url)}: it takes longer than {MAX_SECONDS} s.")
        try:
            # read1 answers with what is there, so that a server that drips bytes meets the deadline.
            data = self._answer.read1(min(size, CHUNK))
        except (OSError, http.client.HTTPException) as error:
            raise NotFetched(f"{web(self._url)}: the connection broke ({error}).") from error
        self._size += len(data)
        if self._size > MAX_BYTES:
            raise NotFetched(f"{web(self._url)}: it has more than {MAX_BYTES >> 20} MiB.")
        left = self._answer.length
        if not data and left:
            raise NotFetched(f"{web(self._url)}: {left} bytes of it did not come.")
        return data

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fetch(url: str, *, private: bool = False) -> Download:
    """Open a URL for reading. `private` also allows addresses that are not public.

    Raises NotFetched for another scheme, an address that may not be asked, a status other than 200, a type that is no
    picture, video or sound, or a length beyond MAX_BYTES.
    """
    import http.client

    at = url
    for _ in range(MAX_REDIRECTS + 1):
        connection = _connect(at, private)
        parts = urllib.parse.urlsplit(at)
        target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        target += f"?{parts.query}" if parts.query else ""
        try:
            connection.request("GET", target, headers={"User-Agent": "mixfs", "Accept": "image/*, video/*, audio/*"})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise NotFetched(f"{web(at)}: {error}.") from error
        if answer.status in (301, 302, 303, 307, 308):
            there = answer.headers.get("Location")
            connection.close()
            if not there:
                raise NotFetched(f"{web(at)}: it redirects to nowhere.")
            at = urllib.parse.urljoin(at, there)
            continue
        problem = _problem(answer)
        if problem:
            connection.close()
            raise NotFetched(f"{web(at)}: {problem}.")
        return Download(connection, answer, at)
    raise NotFetched(f"{web(url)}: it redirects more than {MAX_REDIRECTS} times.")


def _problem(answer: http.client.HTTPResponse) -> str:
    if answer.status != 200:
        return f"the server answers {answer.status} {answer.reason}"
    kind = answer.headers.get_content_type()
    if not kind.startswith(_TYPES):
        return f"it is {kind}, no picture, video or sound"
    if answer.length is not None and answer.length > MAX_BYTES:
        return f"it has {answer.length} bytes; {MAX_BYTES >> 20} MiB are allowed"
    return ""


def _connect(url: str, private: bool) -> http.client.HTTPConnection:
    import http.client
    import socket
    import ssl

    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise NotFetched(f"{web(url):.200}: {error}.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise NotFetched(f"{web(url):.200}: only http and https are fetched.")
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotFetched(f"{web(url)}: {host} is not found ({error}).") from error
    refused = ""
    for *_, address in found:
        text = str(address[0])
        if not private and not _is_public(text):
            refused = f"{host} is {text}, which is no public address; --fetch-private allows it"
            continue
        try:
            link = socket.create_connection((text, port), timeout=_TIMEOUT_S)
            if parts.scheme == "https":
                link = ssl.create_default_context().wrap_socket(link, server_hostname=host)
        except OSError as error:
            refused = str(error)
            continue
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        # The port that the Host header leaves out.
        connection.default_port = 443 if parts.scheme == "https" else 80
        connection.sock = link
        return connection
    raise NotFetched(f"{web(url)}: {refused}.")


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if address in _NAT64:
        mapped = ipaddress.ip_address(address.packed[-4:])
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)
