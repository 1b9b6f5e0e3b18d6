"""canvas/: a file for each entry of the canvas. The listing is stored."""

from __future__ import annotations

from collections.abc import Iterator

from mixfs.index.dentries import Dentry
from mixfs.library.view import View
from mixfs.vfs.context import Context
from mixfs.vfs.views.stored import Stored


class Canvas(Stored):
    """Empty while `rm -r` is at work on the session (see `Context.going`)."""

    def lookup(self, context: Context, view: View, key: bytes, name: bytes) -> Dentry | None:
        return None if key[1:] in context.going else super().lookup(context, view, key, name)

    def entries(self, context: Context, view: View, key: bytes, after: bytes) -> Iterator[tuple[Dentry, bytes]]:
        return iter(()) if key[1:] in context.going else super().entries(context, view, key, after)
