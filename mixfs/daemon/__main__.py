"""`python -m mixfs.daemon`: the process behind a mount, started by `mixfs mount`."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path

from mixfs.errors import MixfsError, os_words


def main() -> int:
    """Serve one mount; the exit code is that of the error that ended it, else 0."""
    parser = argparse.ArgumentParser(prog="mixfs.daemon", description="Serve a MixFS mount (use `mixfs mount`).")
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--mountpoint", type=Path, required=True)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--log", type=Path)
    parser.add_argument("--trash-days", type=float, default=30.0)
    parser.add_argument("--ready-fd", type=int, default=-1)
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("--wait", action="store_true", help="load, then read a log file's name from stdin and begin")
    arguments = parser.parse_args()
    # All that is loaded now stays: to look for what doesn't is a twentieth of the time.
    gc.disable()
    # structlog would load it for the colours of a terminal: a tenth of the time in which a killed mount is back.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    import structlog

    from mixfs.daemon import logs

    if not arguments.wait:
        # What goes wrong while it loads is to be in the log.
        logs.configure(arguments.log, stderr=arguments.foreground)

    from mixfs.daemon.run import run

    gc.freeze()
    gc.enable()
    if arguments.wait:
        # To the end, for a path may have line ends in it; the one behind it says that it is whole.
        told = sys.stdin.buffer.read()
        if not told.endswith(b"\n"):
            return 0
        arguments.log = Path(os.fsdecode(told[:-1]))
        _live_on(arguments.log)
        logs.configure(arguments.log, stderr=False)

    def tell(line: str) -> None:
        if arguments.ready_fd >= 0:
            os.write(arguments.ready_fd, line.encode("utf-8", "replace") + b"\n")
            os.close(arguments.ready_fd)
            arguments.ready_fd = -1

    try:
        run(
            arguments.library, arguments.mountpoint, set(arguments.option), lambda: tell("ready"), arguments.log,
            arguments.trash_days,
        )  # fmt: skip
    except MixfsError as error:
        tell(f"error: {' '.join(str(error).split())}")
        if arguments.foreground:
            print(f"mixfs: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        tell(f"error: {os_words(error)}")
        if arguments.foreground:
            print(f"mixfs: {os_words(error)}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - whoever waits for the mount is told in a line, and the log has the rest
        structlog.get_logger("mixfs.daemon").exception("died", error=repr(error))
        tell(f"error: This is a bug in MixFS: {error!r}. Details are at the end of {arguments.log or 'the log'}.")
        return 70
    return 0


def _live_on(log: Path) -> None:
    """As a process that was started with nothing on stdin, and what it prints in the log."""
    for flags, path, numbers in ((os.O_RDONLY, os.devnull, (0,)), (os.O_WRONLY | os.O_APPEND, log, (1, 2))):
        fd = os.open(path, flags)
        for number in numbers:
            os.dup2(fd, number)
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
