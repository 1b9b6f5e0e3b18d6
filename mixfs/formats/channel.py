"""What a reader's process and the one that started it say to each other: CBOR maps over a socket, and descriptors.

Only plain data, never pickles: the reader has parsed foreign bytes, and whatever took it over may send what it likes.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Any

import cbor2

MAX_MESSAGE = 256 << 20
_MAX_DEPTH = 400
# A tag makes regular expressions, fractions, dates and references out of data. 2 and 3 are large whole numbers.
_REFUSED_TAGS = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)


class Closed(Exception):
    """The other side is gone, or said something that is no message."""


class TimedOut(Exception):
    """The other side said nothing for too long."""


def _refuse(decoder: Any) -> Any:
    raise ValueError("a tag in a reader's message")


_NO_TAGS = dict.fromkeys(_REFUSED_TAGS, _refuse)


def packed(value: Any) -> bytes:
    """A value as CBOR. Raises ValueError for what the other side could not read."""
    try:
        return cbor2.dumps(value)
    except (cbor2.CBOREncodeError, RecursionError, UnicodeError, OverflowError, TypeError) as error:
        raise ValueError(f"it can't be kept ({error})") from error


def unpacked(data: bytes) -> Any:
    """The inverse. Raises ValueError."""
    try:
        return cbor2.loads(
            data, semantic_decoders=_NO_TAGS, max_depth=_MAX_DEPTH, allow_indefinite=False, strict_hashable_types=False
        )
    except (cbor2.CBORDecodeError, RecursionError, ValueError, TypeError) as error:
        raise ValueError(f"it is nested too deeply, or no message ({error})") from error


class Channel:
    """One end of the socket. For one thread."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def send(self, message: dict[str, Any], fd: int | None = None, timeout_s: float | None = None) -> None:
        """Send a message, with a descriptor if one is given. Raises Closed, TimedOut, ValueError."""
        body = packed(message)
        if len(body) > MAX_MESSAGE:
            raise ValueError(f"it has {len(body)} bytes; {MAX_MESSAGE} are allowed")
        head = len(body).to_bytes(4, "big")
        try:
            if timeout_s is not None:
                # Never in a reader, which may not make the system call.
                self._link.settimeout(timeout_s)
            if fd is None:
                self._link.sendall(head)
            else:
                socket.send_fds(self._link, [head], [fd])
            self._link.sendall(body)
        except TimeoutError as error:
            raise TimedOut from error
        except OSError as error:
            raise Closed from error

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], int | None]:
        """The next message, and the descriptor that came with it, which is the caller's. Raises Closed, TimedOut."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        fds: list[int] = []
        try:
            head = b""
            while len(head) < 4:
                self._wait(deadline)
                part, more, _, _ = socket.recv_fds(self._link, 4 - len(head), 4)
                fds += more
                if not part:
                    raise Closed
                head += part
            size = int.from_bytes(head, "big")
            if size > MAX_MESSAGE:
                raise Closed
            body = bytearray()
            while len(body) < size:
                self._wait(deadline)
                part = self._link.recv(min(size - len(body), 1 << 20))
                if not part:
                    raise Closed
                body += part
            message = unpacked(bytes(body))
            if not isinstance(message, dict):
                raise Closed
        except (OSError, ValueError, Closed) as error:
            _close(fds)
            raise Closed from error
        except BaseException:
            _close(fds)
            raise
        _close(fds[1:])
        return message, fds[0] if fds else None

    def _wait(self, deadline: float | None) -> None:
        if deadline is None:
            return
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        if left <= 0 or not poll.poll(left * 1e3):
            raise TimedOut

    def close(self) -> None:
        self._link.close()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
