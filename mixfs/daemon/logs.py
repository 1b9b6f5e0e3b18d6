"""Structured log lines: JSON, one event a line, to the state directory's file and, in the foreground, to stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

from mixfs.modes import create_file, make_directory

# Bytes of the log, after which it starts again; the one before is kept as `.1`.
LIMIT = 8 << 20


class _Rotating(RotatingFileHandler):
    """The log, also as standard output and error where these are the same file: what is printed moves along."""

    def doRollover(self) -> None:
        before = os.stat(self.baseFilename)
        super().doRollover()
        with contextlib.suppress(OSError), open(self.baseFilename, "ab") as log:
            for number in (1, 2):
                if os.path.samestat(os.fstat(number), before):
                    os.dup2(log.fileno(), number)


def configure(log_file: Path | None, *, stderr: bool) -> None:
    """Send every log line, ours and pyfuse3's, to the file, or to stderr."""
    handlers: list[logging.Handler] = []
    if log_file is not None:
        make_directory(log_file.parent, parents=True, exist_ok=True)
        os.close(create_file(log_file, os.O_WRONLY))
        handlers.append(_Rotating(log_file, maxBytes=LIMIT, backupCount=1))
    if stderr or not handlers:
        handlers.append(logging.StreamHandler(sys.stderr))
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
        foreign_pre_chain=shared,
    )
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(handlers=handlers, level=logging.INFO, force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
