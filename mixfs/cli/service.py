"""`mixfs service`: the mount as a service of systemd's user manager."""

from __future__ import annotations

import json as json_module
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mixfs.cli.config import config_home, find_library, home_path
from mixfs.cli.options import JsonOption, LibraryOption, a_path
from mixfs.cli.output import emit_json, fields, note, plain, say

UNIT = "mixfs.service"
# What the template has where the paths of this installation go.
_COMMAND = "/usr/bin/env mixfs mount --foreground"
_MOUNTPOINT = '"%h/MixFS"'
# Kept in the unit for `status`; systemd passes over sections that begin with X-.
_SECTION = "[X-MixFS]"

app = typer.Typer(
    no_args_is_help=True,
    help="Have systemd mount the library when you log in, and again after a crash.",
)


def unit_path() -> Path:
    return config_home() / "systemd" / "user" / UNIT


def quote(argument: str) -> str:
    """One argument of a command line in a unit: quoted, and no specifier or variable is expanded in it."""
    out = argument.replace("\\", "\\\\").replace('"', '\\"')
    # A unit is lines of UTF-8: what is neither is written as its byte.
    out = re.sub("[\x00-\x1f\x7f\udc80-\udcff]", lambda found: f"\\x{os.fsencode(found[0]).hex()}", out)
    return '"' + out.replace("%", "%%").replace("$", "$$") + '"'


def quote_program(path: str) -> str:
    """The program of a command line: as `quote`, but systemd expands no variables in it."""
    return quote(path).replace("$$", "$")


def render_unit(template: str, command: list[str], mountpoint: str, library: str) -> str:
    """The unit of an installation, from the template."""
    words = [quote_program(command[0]), *map(quote, command[1:]), "mount", "--foreground", "--library", quote(library)]
    out = template.replace(_COMMAND, " ".join(words)).replace(_MOUNTPOINT, quote(mountpoint))
    about = json_module.dumps({"mountpoint": mountpoint, "library": library})
    return f"{out}\n{_SECTION}\nAbout={about}\n"


def _own_command() -> list[str]:
    """How this very installation is started."""
    script = Path(sys.executable).with_name("mixfs")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", "mixfs.cli.main"]


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["systemctl", "--user", *words], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))


def _usable() -> bool:
    """Whether a user manager answers: there is none in most containers, nor after `su`."""
    return _systemctl("show-environment").returncode == 0


def _about() -> dict[str, Any]:
    try:
        text = unit_path().read_text()
        _, _, about = text.partition(f"{_SECTION}\nAbout=")
        found = json_module.loads(about.partition("\n")[0]) if about else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@app.command()
def install(
    mountpoint: Annotated[
        Path | None, typer.Argument(metavar="MOUNTPOINT", parser=a_path, help="Else ~/MixFS.", show_default=False)
    ] = None,
    library: LibraryOption = None,
) -> None:
    """Write the service, and start it now and at each login."""
    from importlib.resources import files

    from mixfs.daemon import mounts
    from mixfs.journal.files import write_durably

    root = str(find_library(library))
    point = mounts.absolute(home_path(mountpoint or "~/MixFS"))
    mounts.check_apart(point, root)
    template = files("mixfs.cli").joinpath(UNIT).read_text()
    path = unit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, render_unit(template, _own_command(), point, root).encode("utf-8", "surrogateescape"), 0o644)
    say(f"{plain(str(path))} is written: {plain(root)} at {plain(point)}")
    if not _usable():
        say("No user manager of systemd answers here. Where one does (log in to the machine itself, not by su), run:")
        say("  systemctl --user daemon-reload && systemctl --user enable --now mixfs.service")
        return
    for words in (("daemon-reload",), ("enable", UNIT), ("restart", UNIT)):
        ran = _systemctl(*words)
        if ran.returncode:
            note(f"systemctl --user {' '.join(words)} failed: {' '.join(ran.stderr.split())}")
            note("`systemctl --user status mixfs.service` and `journalctl --user -u mixfs` say more.")
            raise typer.Exit(1)
    say("It runs now, and starts at each login. `loginctl enable-linger` starts it when the machine starts.")


@app.command()
def uninstall() -> None:
    """Stop the service and take it away. The library stays."""
    path = unit_path()
    if not path.exists():
        say(f"The service is not installed: there is no {plain(str(path))}.")
        return
    usable = _usable()
    if usable:
        ran = _systemctl("disable", "--now", UNIT)
        if ran.returncode:
            note(f"systemctl --user disable --now {UNIT} failed: {' '.join(ran.stderr.split())}")
            raise typer.Exit(1)
    path.unlink()
    # What `enable` would have made, had systemd been there to undo it.
    (path.parent / "default.target.wants" / UNIT).unlink(missing_ok=True)
    if usable:
        _systemctl("daemon-reload")
    say(f"{plain(str(path))} is removed.")
    if not usable:
        say("No user manager of systemd answers here. If it runs elsewhere: systemctl --user daemon-reload")


@app.command()
def status(json: JsonOption = False) -> None:
    """Say whether the service is installed, and whether it runs."""
    path = unit_path()
    installed, usable = path.exists(), _usable()
    about = _about()
    enabled = _systemctl("is-enabled", UNIT).stdout.strip() if usable else None
    active = _systemctl("is-active", UNIT).stdout.strip() if usable else None
    if json:
        emit_json(
            {"installed": installed, "unit": str(path), "mountpoint": about.get("mountpoint"),
             "library": about.get("library"), "systemd": usable, "enabled": enabled, "active": active}
        )  # fmt: skip
        return
    fields(
        (
            ("Service", f"installed, {path}" if installed else "not installed; `mixfs service install` does it"),
            ("Mount point", about.get("mountpoint")),
            ("Library", about.get("library")),
            ("At login", enabled),
            ("Now", active or ("unknown: no user manager of systemd answers here" if not usable else None)),
        )
    )
