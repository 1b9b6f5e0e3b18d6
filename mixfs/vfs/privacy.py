"""What other users may read where a mount is shown to them (`-o allow_other`).

A picture stands in many places: in its session, by date, by model, with its generation, on a canvas, in trash/. The
modes that its owner gave are those of the session, of folders of its images/, and of the file. Another user may read
it, its thumbnail and what is known of it wherever it stands if, and only if, a placement of it can be read by its own
path. The kernel checks that path; this module checks the others. What lies in trash/ goes by the modes that it had;
with its session, or its folder, in the trash as well, nobody else may read it.

A document that tells of many pictures, or generations/, may be read if all of them may be: those of a session by the
pictures, generations and canvas entries of the session; image_registry.json, the log and thumbnails of storage-v2/, and
documents in import/ by all that the library has.

`Other.may_read` runs on the event loop, inside one read; `Other.may_read_all` reads every record that is told of, and
runs in a thread. Both for requests of other users only.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from mixfs.ids import Digest
from mixfs.library.trashed import kept_records, split_key
from mixfs.library.view import View
from mixfs.records import Entry, Folder, Generation, Placement, Receipt, Session, Trash

_DEEPEST = 1000
EVERYTHING = b""
"""In place of a session's raw id: a document tells of the whole library."""


def tells_of(view: View, key: bytes) -> bytes | None:
    """The raw id of the session whose pictures a document tells of, or EVERYTHING; None when it is no such document."""
    if key[:2] in (b"DS", b"DC", b"DH"):
        return key[2:18]
    if key[:2] == b"Vr" or key[:1] in (b"K", b"Q"):
        return EVERYTHING
    if key[:1] == b"V":
        return key[2:18]
    if key[:1] == b"g":
        # The names of generations begin with their prompts.
        return key[1:]
    if key[:1] == b"R":
        receipt = view.get_raw(Receipt, key[1:])
        if receipt is not None and receipt.placement_id is None and not view.is_mentioned(receipt.digest):
            # It belongs to what another program had saved.
            return EVERYTHING
    return None


class Other:
    """A user who is neither the mount's nor root: of the owner's group, or not."""

    def __init__(self, *, in_group: bool) -> None:
        self.in_group = in_group
        self._read, self._pass = (0o040, 0o010) if in_group else (0o004, 0o001)

    def may_read(self, view: View, key: bytes) -> bool:
        """Whether a file's bytes or attributes, or a folder's names, may be given."""
        tag = key[:1]
        if tag == b"P":
            placement = view.get_raw(Placement, key[1:])
            return placement is None or self._placement(view, placement)
        if tag in (b"J", b"T"):
            return self._digest(view, Digest(key[1:33]))
        if tag == b"D":
            return self._document(view, key)
        if tag == b"R":
            receipt = view.get_raw(Receipt, key[1:])
            if receipt is None:
                return True
            placement = view.get(Placement, receipt.placement_id) if receipt.placement_id else None
            if placement is not None:
                return self._placement(view, placement)
            return not view.is_mentioned(receipt.digest) or self._digest(view, receipt.digest)
        if tag == b"U":
            return self._trashed(view, key)
        if tag in (b"p", b"m", b"t", b"f"):
            folder = view.get_raw(Folder, key[1:])
            return folder is None or (bool(folder.mode & self._read) and self._folder(view, folder))
        return True

    def may_read_all(self, view: View, told: bytes) -> bool:
        """Whether all may be read that a document tells of (`tells_of`). Blocks: it reads all those records."""
        if told == EVERYTHING:
            return all(self._all_of(view, session) for session in view.records(Session))
        session = view.get_raw(Session, told)
        return session is None or self._all_of(view, session)

    def _all_of(self, view: View, session: Session) -> bool:
        if not self._session(session):
            return False
        shown: set[Digest] = set()
        folders: dict[str | None, bool] = {None: True}
        for placement in view.members(Placement, session.id):
            folder_id = placement.folder_id
            if folder_id not in folders:
                folder = view.get(Folder, folder_id) if folder_id is not None else None
                folders[folder_id] = folder is not None and self._folder(view, folder)
            if not placement.mode & self._read or not folders[folder_id]:
                return False
            shown.add(placement.digest)
        for generation in view.members(Generation, session.id):
            if not self._generation(view, generation, shown):
                return False
        for entry in view.members(Entry, session.id):
            if entry.digest is not None and entry.digest not in shown and not self._digest(view, entry.digest):
                return False
        return True

    def _generation(self, view: View, generation: Generation, shown: Set[Digest] = frozenset()) -> bool:
        """By what it gave; `shown` are pictures that may be read."""
        digests = [ref.digest for ref in generation.outputs if ref.digest is not None]
        return not digests or any(digest in shown or self._digest(view, digest) for digest in digests)

    def _document(self, view: View, key: bytes) -> bool:
        kind, raw = key[1:2], key[2:18]
        if kind == b"e":
            entry = view.get_raw(Entry, raw)
            return entry is None or entry.type != "image" or entry.digest is None or self._digest(view, entry.digest)
        generation = view.get_raw(Generation, raw) if kind in b"123" else None
        if generation is not None:
            return self._generation(view, generation)
        placement = view.get_raw(Placement, raw)
        return placement is None or self._placement(view, placement)

    def _digest(self, view: View, digest: Digest) -> bool:
        has_placement = False
        for placement in view.referrers(Placement, digest):
            has_placement = True
            if self._placement(view, placement):
                return True
        for trash in view.referrers(Trash, digest):
            beside = {each.entity_id: each for each in kept_records(trash) if each is not None}
            for kept in beside.values():
                if isinstance(kept, Placement) and kept.digest == digest:
                    has_placement = True
                    if self._placement(view, kept, beside):
                        return True
        if has_placement:
            return False
        # On a canvas, or an input of a generation, without a name of its own.
        named_by: tuple[Entry | Generation, ...] = (*view.referrers(Entry, digest), *view.referrers(Generation, digest))
        sessions = (view.get(Session, record.session_id) for record in named_by)
        return any(session is not None and self._session(session) for session in sessions)

    def _trashed(self, view: View, key: bytes) -> bool:
        raw, index = split_key(key)
        trash = view.get_raw(Trash, raw)
        if trash is None or index is None:
            return True
        kept = list(kept_records(trash))
        record = kept[index] if index < len(kept) else None
        if not isinstance(record, Placement):
            return False
        return self._placement(view, record, {each.entity_id: each for each in kept if each is not None})

    def _placement(self, view: View, placement: Placement, beside: Mapping[str, object] | None = None) -> bool:
        """`beside` is what was taken away together with it."""
        if not placement.mode & self._read:
            return False
        session = view.get(Session, placement.session_id) or (beside or {}).get(placement.session_id)
        if not isinstance(session, Session) or not self._session(session):
            return False
        if placement.folder_id is None:
            return True
        folder = view.get(Folder, placement.folder_id) or (beside or {}).get(placement.folder_id)
        return isinstance(folder, Folder) and self._folder(view, folder, beside)

    def _folder(self, view: View, folder: Folder, beside: Mapping[str, object] | None = None) -> bool:
        """Whether one may pass through a folder, and those that it lies in."""
        above: object = folder
        # Folders of several replicas may lie in each other.
        for _ in range(_DEEPEST):
            if not isinstance(above, Folder):
                break
            if not above.mode & self._pass:
                return False
            parent_id = above.parent_id
            above = None if parent_id is None else view.get(Folder, parent_id) or (beside or {}).get(parent_id)
        session = view.get(Session, folder.session_id)
        return session is None or self._session(session)

    def _session(self, session: Session) -> bool:
        return bool(session.mode & self._pass)
