"""`python -m mixfs.daemon`: the process behind a mount, started by `mixfs mount`."""

from __future__ import annotations

import argparse
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
    arguments = parser.parse_args()
    # structlog would load it for the colours of a terminal: a tenth of the time in which a killed mount is back.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    import structlog

    from mixfs.daemon import logs

    logs.configure(arguments.log, stderr=arguments.foreground)

    from mixfs.daemon.run import run

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


if __name__ == "__main__":
    sys.exit(main())
