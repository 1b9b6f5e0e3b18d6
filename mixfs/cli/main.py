"""What the `mixfs` command begins with, and the last place where an error becomes a line on stderr and an exit code.

Half of the time that `mixfs mount` takes goes by while Python loads modules, here and in the daemon. So the daemon is
started before anything else, by what the command line plainly says, and loads its own while this process loads its.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO, cast

from mixfs.cli import launch
from mixfs.cli.output import note
from mixfs.errors import INTERRUPTED, os_words

BUG = 70
# Bytes of errors.log, after which it starts again; the one before is kept as `.1`.
_LIMIT = 1 << 20


def _keep_trace(mask: Callable[[str], str]) -> str:
    """Write the traceback of the exception at hand where it can be looked up; says where that is."""
    import time
    import traceback

    from mixfs.cli.config import state_directory

    try:
        directory = state_directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "errors.log"
        if path.exists() and path.stat().st_size > _LIMIT:
            path.replace(path.with_suffix(".log.1"))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "a", errors="backslashreplace") as file:
            # One of an older version may be readable by others.
            os.fchmod(fd, 0o600)
            # Not the command line: it may have a password.
            file.write(mask(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n{traceback.format_exc()}\n"))
    except OSError:
        return ""
    return f" Details are at the end of {path}."


def _mask(words: Sequence[str]) -> Callable[[str], str]:
    """Takes what may be a password in the command line's words out of a text."""
    if not any("://" in word or "@" in word or "=" in word or ":" in word for word in words):
        return lambda text: text
    from mixfs.formats.source_urls import looks_secret, masked

    secrets = [word for word in words if looks_secret(word) and not os.path.lexists(word)]
    return lambda text: masked(text, secrets)


class _Masking:
    """A stream that shows no password of the command line, whatever is written to it."""

    def __init__(self, stream: TextIO, mask: Callable[[str], str]) -> None:
        self._stream, self._mask = stream, mask

    def write(self, text: str) -> int:
        self._stream.write(self._mask(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A name that the terminal's encoding lacks is shown as an escape, never a reason to fail.
            stream.reconfigure(errors="backslashreplace")
    mask = _mask(sys.argv[1:])
    if any(mask(word) != word for word in sys.argv[1:]):
        sys.stdout, sys.stderr = (cast("TextIO", _Masking(each, mask)) for each in (sys.stdout, sys.stderr))
    try:
        if sys.argv[1:2] == ["mount"]:
            launch.begin(sys.argv[2:])
        from mixfs.cli import app

        app.build(sys.argv[1:])()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        # Of `--help` and `--version`, which no command runs for: a full disk behind stdout, say.
        note(os_words(error))
        code = 1
    except Exception as error:  # noqa: BLE001 - the last place where a bug can be kept from being a page of Python
        what = f"{type(error).__name__}: {error}"
        note(f"This is a bug in MixFS: {mask(what)}.{_keep_trace(mask)} `mixfs fsck` checks the library.")
        code = BUG
    else:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
