"""`mixfs rebuild-index`: make the index again."""

from __future__ import annotations

from mixfs.cli.options import LibraryOption, existing_library
from mixfs.cli.output import plain, say


def rebuild_index(library: LibraryOption = None) -> None:
    """Make the index again from the journal.

    Shows the same folders and files afterwards. Nothing else of the library is touched, and it may be mounted.
    """
    from mixfs.library import fsck

    root = existing_library(library)
    fsck.rebuild(root)
    say(f"The index of {plain(str(root))} was made again.")
