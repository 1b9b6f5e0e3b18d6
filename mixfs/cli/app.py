"""The `mixfs` command: its groups, and how an error of a command becomes a line on stderr and an exit code.

One file for each command, which is loaded when it is the one that is meant; what it needs beyond its options, when it
runs. So a command is quick to begin.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mixfs import __version__
from mixfs.cli.output import note
from mixfs.errors import INTERRUPTED, MixfsError, os_words

BROKEN_PIPE = 141

# A paragraph is one line here: typer breaks lines where the terminal ends.
HELP = "\n\n".join(
    (
        "A library of AI-image work that you mount as a drive.",
        "`mixfs mount ~/MixFS` shows the library as folders: copy pictures into ~/MixFS/import, and find them with "
        "their prompts, models and thumbnails under ~/MixFS/sessions. `mixfs import` does the same without a mount.",
    )
)
EPILOG = "\n\n".join(
    (
        "[bold]Exit codes[/bold]: 0 done · 1 something failed, and stderr says what · 2 wrong usage · 3 not in the "
        "library · 4 the library can't be opened as it is · 5 damage was found · 6 can't mount or unmount · 70 a bug · "
        "130 interrupted (Ctrl-C)",
        "[bold]The library[/bold] is that of --library, else of MIXFS_LIBRARY, else `library = \"…\"` in "
        "$XDG_CONFIG_HOME/mixfs/config.toml, else $XDG_DATA_HOME/mixfs (~/.local/share/mixfs).",
    )
)


class Group(TyperGroup):
    """A command group in which every error ends as one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            leave(INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output (head, less) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            leave(BROKEN_PIPE)
        except MixfsError as error:
            fail(str(error) or (type(error).__doc__ or type(error).__name__).strip(), error.exit_code)
        except OSError as error:
            fail(os_words(error))


def leave(code: int) -> NoReturn:
    raise typer.Exit(code)


def fail(words: str, code: int = 1) -> NoReturn:
    note(words)
    leave(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mixfs {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


_DRIVE, _IN_OUT, _LOOK, _CARE = "As a drive", "Pictures in and out", "What is there", "Looking after it"

# The command, its module and function, and its panel of `mixfs --help`.
COMMANDS = {
    "mount": ("mount", "mount", _DRIVE),
    "umount": ("umount", "umount", _DRIVE),
    "abort": ("abort", "abort", _DRIVE),
    "wait": ("wait", "wait", _DRIVE),
    "service": ("service", "app", _DRIVE),
    "import": ("import_", "import_", _IN_OUT),
    "export": ("export", "export", _IN_OUT),
    "sessions": ("sessions", "sessions", _LOOK),
    "list": ("list_", "list_", _LOOK),
    "show": ("show", "show", _LOOK),
    "stats": ("stats", "stats", _LOOK),
    "log": ("log", "log", _LOOK),
    "cleanup": ("cleanup", "cleanup", _CARE),
    "trash": ("trash", "trash", _CARE),
    "restore": ("trash", "restore", _CARE),
    "gc": ("gc", "gc", _CARE),
    "compact": ("compact", "compact", _CARE),
    "fsck": ("fsck", "fsck", _CARE),
    "rebuild-index": ("rebuild_index", "rebuild_index", _CARE),
    "doctor": ("doctor", "doctor", _CARE),
}


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The command line: with all commands, or with that alone which the words after `mixfs` begin with."""
    app = typer.Typer(
        name="mixfs",
        cls=Group,
        callback=_main,
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        module, function, panel = COMMANDS[name]
        command = getattr(importlib.import_module(f"mixfs.cli.{module}"), function)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, help=_help_of(command), rich_help_panel=panel)(command)
    return app


def _help_of(command: Callable[..., None]) -> str:
    """A command's docstring, to be broken where the terminal ends and not where the source does."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
