"""The service's unit: one text, right for any path, and accepted by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_home import ROOT, Home

from mixfs.cli import service

TEMPLATE = ROOT / "mixfs" / "cli" / "mixfs.service"
NASTY = '/srv/My 100% "best" $HOME pictures\\x'


def verify(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze (package systemd) is not installed: the unit was not verified")
    ran = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60,
        env=os.environ | {"XDG_RUNTIME_DIR": str(unit.parent), "SYSTEMD_LOG_LEVEL": "warning"}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert unit.name not in ran.stderr, ran.stderr


def setting(unit: str, name: str) -> str:
    (line,) = [line for line in unit.splitlines() if line.startswith(name + "=")]
    return line.split("=", 1)[1]


def test_there_is_one_text() -> None:
    link = ROOT / "systemd" / "mixfs.service"
    assert link.is_symlink() and link.resolve() == TEMPLATE
    assert os.readlink(link) == "../mixfs/cli/mixfs.service"  # noqa: PTH115 - what is committed


def test_the_template_is_a_unit_itself(tmp_path: Path) -> None:
    shutil.copy(TEMPLATE, tmp_path / "mixfs.service")
    verify(tmp_path / "mixfs.service")
    text = TEMPLATE.read_text()
    assert setting(text, "Type") == "notify" and setting(text, "Restart") == "on-failure"
    assert "fusermount3 -u -z" in setting(text, "ExecStopPost")
    settings = [line for line in text.splitlines() if not line.startswith("#")]
    assert not any(line.startswith(("NoNewPrivileges", "Protect", "Private", "SystemCall")) for line in settings)


def test_arguments_are_quoted() -> None:
    assert service.quote("/a b/100%/$x/\"q\"/\\") == '"/a b/100%%/$$x/\\"q\\"/\\\\"'


@pytest.mark.parametrize("place", ["/home/u/MixFS", NASTY, "/srv/a\tb\nc\rd\x1b[31m\x85\u2028e", "/srv/caf\udce9"])
def test_a_rendered_unit_is_accepted(tmp_path: Path, place: str) -> None:
    program = tmp_path / "with $pace 5%" / "mixfs"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "mixfs.service"
    unit.write_text(service.render_unit(TEMPLATE.read_text(), [str(program)], place, place + "/lib"))
    assert not set("\r\t\x1b\udce9") & set(unit.read_text())
    assert service._COMMAND not in unit.read_text() and "%h" not in unit.read_text().split("[Service]")[1]
    verify(unit)


def test_install_status_uninstall_where_no_user_manager_is(home: Home) -> None:
    env = {"XDG_RUNTIME_DIR": str(home.path)}
    assert home.run("service", "status", "--json", env=env).json["installed"] is False
    out = home.run("service", "install", home.path / "My Pictures", env=env).out
    unit = home.path / ".config" / "systemd" / "user" / "mixfs.service"
    assert str(unit) in out and "systemctl --user daemon-reload" in out
    text = unit.read_text()
    assert f'mount --foreground --library "{home.library}" "{home.path}/My Pictures"' in setting(text, "ExecStart")
    assert setting(text, "ExecStart").startswith('"/')
    verify(unit)
    about = home.run("service", "status", "--json", env=env).json
    assert about == {
        "installed": True, "unit": str(unit), "mountpoint": f"{home.path}/My Pictures", "library": str(home.library),
        "systemd": False, "enabled": None, "active": None,
    }  # fmt: skip
    assert "no user manager" in home.run("service", "status", env=env).out
    assert "is removed" in home.run("service", "uninstall", env=env).out
    assert not unit.exists()
    assert "not installed" in home.run("service", "uninstall", env=env).out


def test_install_refuses_a_mount_point_in_the_library(home: Home) -> None:
    assert "inside the library" in home.run("service", "install", home.library / "M", code=4).err
