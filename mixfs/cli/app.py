"""The `mixfs` command: its groups, and how an error of a command becomes a line on stderr and an exit code.

One file for each command. What a command needs beyond its options is imported when it runs, so that `mixfs --help` is
quick.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mixfs import __version__
from mixfs.cli import (
    abort,
    cleanup,
    compact,
    doctor,
    export,
    fsck,
    gc,
    import_,
    list_,
    log,
    mount,
    rebuild_index,
    service,
    sessions,
    show,
    stats,
    trash,
    umount,
    wait,
)
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


app = typer.Typer(
    name="mixfs",
    cls=Group,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mixfs {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _add(name: str, command: Callable[..., None], panel: str) -> None:
    """A command of the app; its help is its docstring, broken where the terminal ends and not where the source does."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, help=text, rich_help_panel=panel)(command)


_DRIVE, _IN_OUT, _LOOK, _CARE = "As a drive", "Pictures in and out", "What is there", "Looking after it"

_add("mount", mount.mount, _DRIVE)
_add("umount", umount.umount, _DRIVE)
_add("abort", abort.abort, _DRIVE)
_add("wait", wait.wait, _DRIVE)
app.add_typer(service.app, name="service", rich_help_panel=_DRIVE)
_add("import", import_.import_, _IN_OUT)
_add("export", export.export, _IN_OUT)
_add("sessions", sessions.sessions, _LOOK)
_add("list", list_.list_, _LOOK)
_add("show", show.show, _LOOK)
_add("stats", stats.stats, _LOOK)
_add("log", log.log, _LOOK)
_add("cleanup", cleanup.cleanup, _CARE)
_add("trash", trash.trash, _CARE)
_add("restore", trash.restore, _CARE)
_add("gc", gc.gc, _CARE)
_add("compact", compact.compact, _CARE)
_add("fsck", fsck.fsck, _CARE)
_add("rebuild-index", rebuild_index.rebuild_index, _CARE)
_add("doctor", doctor.doctor, _CARE)
