"""sd_notify(3): telling systemd that the mount answers, or that it is going."""

from __future__ import annotations

import os
import socket


def watchdog_s() -> float | None:
    """Seconds between two signs of life that systemd wants at least (WatchdogSec= of the unit), or None."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


def notify(*lines: str) -> bool:
    """Send state lines (`READY=1`, `STATUS=…`, `STOPPING=1`); False when nobody asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True
