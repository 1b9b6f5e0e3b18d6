"""`mixfs rebuild-index`: make the index again."""

from __future__ import annotations

from mixfs.cli.options import LibraryOption, existing_library
from mixfs.cli.output import note, plain, say


def rebuild_index(library: LibraryOption = None) -> None:
    """Make the index again from the journal.

    Shows the same folders and files afterwards. If part of the journal is missing, so is what it told: that is said.
    Nothing else of the library is touched, and it may be mounted.
    """
    from mixfs.library import fsck
    from mixfs.library.gaps import Gaps

    root = existing_library(library)
    fsck.rebuild(root)
    say(f"The index of {plain(str(root))} was made again.")
    gaps = Gaps(root).open()
    if gaps:
        note("What the journal lacks is not in it, and nothing is deleted from the library until that is settled:")
        for gap in gaps:
            note(f"  {gap}")
        note("Restore the segment from a backup and repeat this, or accept the loss: `mixfs fsck --accept-loss`.")
