"""Which library is meant, and where MixFS keeps what is its own: the XDG directories and config.toml."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mixfs.errors import UsageError, os_words

# Days that are as good as for ever, and that clocks in nanoseconds can still be set back by.
FOREVER_DAYS = 100_000.0


def _xdg(variable: str, default: str) -> Path:
    """An XDG base directory; a relative value is to be ignored, as the specification says."""
    value = os.environ.get(variable, "")
    return Path(value) if Path(value).is_absolute() else home_path("~") / default


def home_path(text: str | os.PathLike[str]) -> Path:
    """A path in which a leading `~` is somebody's home. Raises UsageError when they have none."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        whose = Path(text).parts[0]
        raise UsageError(f"There is no home to be found for {whose}: write the path out, or set HOME.") from error


def config_home() -> Path:
    return _xdg("XDG_CONFIG_HOME", ".config")


def config_file() -> Path:
    return config_home() / "mixfs" / "config.toml"


def state_directory() -> Path:
    """Logs lie here."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "mixfs"


def default_library() -> Path:
    return _xdg("XDG_DATA_HOME", ".local/share") / "mixfs"


def _configured(key: str) -> object:
    """A value of config.toml, or None. Raises UsageError when the file can't be read or makes no sense."""
    path = config_file()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(os_words(error)) from error
    # Most people have none, and `mixfs mount` begins with a look for it.
    import tomllib

    try:
        return tomllib.loads(data.decode()).get(key)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid TOML ({error}). Correct it, or remove it.") from error


def configured_library() -> Path | None:
    """`library = "…"` of config.toml. Raises UsageError when the file makes no sense."""
    value = _configured("library")
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f'{config_file()}: library must be a path, as in library = "/data/pictures".')
    # A relative path is meant from where it is written down, not from where a command happens to be run.
    return config_file().parent / home_path(value)


def trash_days() -> float:
    """`trash_days = …` of config.toml: how long what was deleted is kept (`inf`: for ever). Raises UsageError."""
    value = _configured("trash_days")
    if value is None:
        return 30
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise UsageError(f"{config_file()}: trash_days must be a number of days, as in trash_days = 30.")
    return min(value, FOREVER_DAYS)


def find_library(option: Path | None = None) -> Path:
    """The library's directory: --library, then MIXFS_LIBRARY, then config.toml, then the XDG data directory."""
    if option is not None:
        found: Path | None = home_path(option)
    elif from_environment := os.environ.get("MIXFS_LIBRARY"):
        found = home_path(from_environment)
    else:
        found = configured_library()
    return Path(os.path.abspath(found or default_library()))


def log_file(library: Path) -> Path:
    """Where the log of a library's daemon goes: named by the library's id, or by its directory before it has one."""
    import tomllib

    try:
        library_id = tomllib.loads((library / "format").read_text())["library"]
    except (OSError, ValueError, KeyError):
        library_id = None
    return state_directory() / f"{library_id if isinstance(library_id, str) else library.name or 'library'}.log"
