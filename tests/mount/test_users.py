"""The same programs for an ordinary user without capabilities: root becomes that user in a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live import ROOT, environment, needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]

NOBODY = 65534


# What the tests need of a Python: to import MixFS, to start itself again, and to open the device.
TRY = """
import subprocess, sys
import lmdb, mixfs.daemon, pyfuse3, pytest
open("/dev/fuse", "r+b", 0).close()
subprocess.run([sys.executable, "-S", "-c", ""], check=True)
"""


def as_nobody() -> list[str]:
    """The command of a Python that runs as an ordinary user; skips where there is none."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: only root can become another user; the other modules ran as this ordinary user")
    if shutil.which("setpriv") is None:
        pytest.skip("NOT RUN: there is no program setpriv here, so nothing was tried as an ordinary user")
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
    last = ""
    # A virtual environment's Python may lie below /root, where nobody else may look: then the system's, if it is the
    # same version.
    for program in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        tried = subprocess.run(
            [*command, program, "-S", "-c", TRY], env=environment(), cwd="/", capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        if tried.returncode == 0:
            return [*command, program, "-S"]
        last = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    pytest.skip(f"NOT RUN: user {NOBODY} can't run Python with MixFS, so nothing was tried as an ordinary user: {last}")


@pytest.mark.parametrize(
    ("module", "only"),
    [
        ("test_programs.py", ""), ("test_posix.py", ""), ("test_app_folder.py", ""),
        ("test_dropped.py", "what_it_is or waiting"),
    ],
)  # fmt: skip
def test_an_ordinary_user(module: str, only: str):
    run_as_nobody(Path(__file__).with_name(module), only=only)


def run_as_nobody(*modules: Path, only: str = "") -> None:
    """Run modules of tests, or `only` some, as an ordinary user; they must pass and leave no mount behind."""
    command = as_nobody()
    # pytest's own folders are for root only.
    home = Path(subprocess.run(["mktemp", "-d", "--tmpdir", "mixfs-nobody.XXXXXX"], capture_output=True, text=True,
                               check=True).stdout.strip())  # fmt: skip
    try:
        os.chown(home, NOBODY, NOBODY)
        env = environment() | {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "TMPDIR": str(home)}
        for name in ("MIXFS_LIBRARY", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
            env.pop(name, None)
        done = subprocess.run(
            [
                *command, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", ROOT,
                f"--basetemp={home}/t", "-k", only, *modules,
            ],
            env=env, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
        assert " passed" in done.stdout
        # Shown with `-rP`: what was skipped there, and how many were run.
        print(done.stdout)
        mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
        assert not mounted
    finally:
        shutil.rmtree(home, ignore_errors=True)
