"""What systemd is told, by a daemon that really mounts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mixfs.daemon.notify import notify

ROOT = Path(__file__).resolve().parents[3]


def listener(address: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(address)
    listening.settimeout(30)
    return listening


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_are_sent_to_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool):
    name = str(tmp_path / "socket")
    with listener("\0" + name if abstract else name) as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        assert notify("READY=1", "STATUS=fine")
        assert listening.recv(1000) == b"READY=1\nSTATUS=fine"


def test_nobody_and_a_dead_socket_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert not notify("READY=1")


@pytest.mark.mount
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="NOT RUN: a mount needs /dev/fuse")
def test_a_daemon_says_when_it_answers_and_when_it_goes(tmp_path: Path):
    point = tmp_path / "mount"
    point.mkdir()
    with listener(str(tmp_path / "socket")) as listening:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "mixfs.daemon", "--library", tmp_path / "library", "--mountpoint", point,
             "--log", tmp_path / "log"],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "socket"), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            assert listening.recv(1000).splitlines()[0] == b"READY=1"
            assert (point / "README.txt").exists(), "it answers once it says so"
            daemon.send_signal(signal.SIGTERM)
            assert listening.recv(1000) == b"STOPPING=1"
            assert daemon.wait(timeout=30) == 0
            assert not (point / "README.txt").exists()
        finally:
            if daemon.poll() is None:
                subprocess.run(["fusermount3", "-uz", point], check=False, timeout=30)
                daemon.wait(timeout=30)
