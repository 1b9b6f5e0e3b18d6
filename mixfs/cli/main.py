"""What the `mixfs` command begins with, and the last place where an error becomes a line on stderr and an exit code.

Half of the time that `mixfs mount` takes goes by while Python loads modules, here and in the daemon. So the daemon is
started before anything else, by what the command line plainly says, and loads its own while this process loads its.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from mixfs.cli import launch
from mixfs.cli.output import note
from mixfs.errors import INTERRUPTED, os_words

BUG = 70


def _keep_trace() -> str:
    """Write the traceback of the exception at hand where it can be looked up; says where that is."""
    import time
    import traceback

    from mixfs.cli.config import state_directory

    try:
        directory = state_directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "errors.log"
        with path.open("a", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {sys.argv!r}\n{traceback.format_exc()}\n")
    except OSError:
        return ""
    return f" Details are at the end of {path}."


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A name that the terminal's encoding lacks is shown as an escape, never a reason to fail.
            stream.reconfigure(errors="backslashreplace")
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
        note(f"This is a bug in MixFS: {what}.{_keep_trace()} `mixfs fsck` checks the library.")
        code = BUG
    else:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
