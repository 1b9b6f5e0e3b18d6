"""Names of pictures that two Storage V2 folders use for different ones: the library has one such folder, an app's own.

Who comes later gets another name here: its SHA-256 for a hash that stands for another picture, a file name with the
beginning of that for one that another picture has. What its app called it is kept beside (`came`), and an export gives
it back unless two of its pictures claim it. docs/decisions/0026 says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mixfs.formats.base import FoundFile, Piece
from mixfs.ids import Digest
from mixfs.library import editing
from mixfs.library import storage_v2 as documents_v2
from mixfs.library.documents import text_of
from mixfs.library.storage_v2 import IMAGES, NAME, POOL_ID, kept_of, mapping
from mixfs.library.view import View
from mixfs.names import split_extension
from mixfs.records import Generation, Placement

CAME = "came"
"""Beside what a placement keeps for this layout: what its app kept, where that is something else."""


class Name(NamedTuple):
    """What an app calls a picture: its hash, and the name of its file."""

    hash: str
    file: str


# Old names to new ones, by the hash.
Names = Mapping[str, tuple[Name, Name]]


def name_of(kept: Mapping[str, Any]) -> Name:
    return Name(str(kept.get("hash") or ""), str(kept.get("file") or ""))


def path_of(kept: Mapping[str, Any]) -> str:
    """Where in the folder the file lies."""
    said = mapping(kept.get("info")).get("file_path")
    return said if isinstance(said, str) and said else f"images/{name_of(kept).file}"


def settled(view: View, piece: Piece) -> Piece:
    """A piece under names that its pictures can have in this library."""
    names: dict[str, tuple[Name, Name]] = {}
    files = []
    for file in piece.files:
        if piece.session.id == POOL_ID:
            file = _in_pool(view, file)
        kept = mapping(file.foreign.get(NAME))
        fresh = _kept_here(view, piece.session.id, file, kept) if kept else kept
        if fresh != kept:
            names[name_of(kept).hash] = name_of(kept), name_of(fresh)
            file = dataclasses.replace(file, foreign={**file.foreign, NAME: fresh})
        files.append(file)
    piece = dataclasses.replace(piece, files=tuple(files))
    if not names:
        return piece
    return dataclasses.replace(
        piece, entries=tuple(dataclasses.replace(each, data=renamed(each.data, names)) for each in piece.entries),
        generations=tuple(_generation(each, names) for each in piece.generations),
    )  # fmt: skip


def _in_pool(view: View, file: FoundFile) -> FoundFile:
    """A picture that no session names, under an id of its own where one of another folder's has it."""
    own_id, _ = editing.member_id(view, Placement, POOL_ID, file.id)
    held = view.get(Placement, own_id)
    if held is None or held.digest == file.asset.digest:
        return file
    return dataclasses.replace(file, id=f"{file.id} {file.asset.digest.hex()}")


def _kept_here(view: View, session_id: str, file: FoundFile, kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a picture keeps, under the names that it has in the session already, or else can have."""
    own_id, _ = editing.member_id(view, Placement, session_id, file.id)
    held = view.get(Placement, own_id)
    if held is not None and kept_of(held).get(CAME) == kept:
        return kept_of(held)
    digest, name = file.asset.digest, name_of(kept)
    own_hash, own_file = name
    if any(other != digest for other in documents_v2.digests_of(view, name.hash)):
        own_hash = digest.hex()
    if _file_is_taken(view, name.file, digest):
        own_file = _apart(name, digest).file
    return kept if Name(own_hash, own_file) == name else _under(kept, Name(own_hash, own_file)) | {CAME: kept}


def _apart(name: Name, digest: Digest) -> Name:
    """A name that no other picture has."""
    stem, suffix = (text_of(part) for part in split_extension(name.file.encode("utf-8", "surrogateescape")))
    return Name(digest.hex(), f"{stem}_{digest.hex()[:12]}{suffix}")


def _file_is_taken(view: View, file: str, digest: Digest) -> bool:
    dentry = view.dentry(IMAGES, file.encode("utf-8", "surrogateescape"))
    if dentry is None:
        return False
    if dentry.key[:1] == b"J":
        return dentry.key[1:] != digest
    placement = view.get_raw(Placement, dentry.key[1:])
    return placement is not None and placement.digest != digest


def _under(kept: Mapping[str, Any], name: Name) -> dict[str, Any]:
    """What a picture keeps, under another name."""
    info = dict(mapping(kept.get("info")))
    if "hash" in info:
        info["hash"] = name.hash
    if "file_path" in info:
        folder, slash, _ = str(info["file_path"]).rpartition("/")
        info["file_path"] = folder + slash + name.file
    return {**kept, "hash": name.hash, "file": name.file, "info": info}


def _generation(generation: Generation, names: Names) -> Generation:
    foreign = {**generation.foreign, NAME: renamed(kept_of(generation), names)}
    return dataclasses.replace(
        generation, foreign=foreign, canvas_state=renamed(generation.canvas_state, names)
    )  # fmt: skip


def renamed(value: Any, names: Names) -> Any:
    """A JSON value in which pictures go by other names, wherever a field names one."""
    if isinstance(value, Mapping):
        out = {key: renamed(each, names) for key, each in value.items()}
        for key in ("hash", "imageHash"):
            old, new = names.get(value[key], (None, None)) if isinstance(value.get(key), str) else (None, None)
            if old is not None and new is not None:
                out[key] = new.hash
                if value.get("filename") == old.file:
                    out["filename"] = new.file
        return out
    if isinstance(value, list | tuple):
        return [renamed(each, names) for each in value]
    return value


# -- out


class GivenBack:
    """Under which names the pictures of an export go out.

    `names` are those of the library to those that go out; `others` counts pictures that go out under another name than
    the one they came under.
    """

    def __init__(self, view: View, session_ids: Iterable[str]) -> None:
        self.names: dict[str, tuple[Name, Name]] = {}
        self.others = 0
        self._out: dict[tuple[Digest, Name], Mapping[str, Any]] = {}
        self._own: set[Digest] = set()
        self._hashes: dict[str, Digest] = {}
        self._paths: dict[str, Digest] = {}
        placed = (each for session_id in session_ids for each in view.members(Placement, session_id))
        # Who has kept its name comes first.
        for placement in sorted(
            filter(documents_v2.is_file, placed), key=lambda each: (CAME in kept_of(each), each.added_ns, each.id)
        ):
            self._own.add(placement.digest)
            self._choose(placement)

    def of(self, placement: Placement) -> Mapping[str, Any] | None:
        """What a file of the library's folder is in the export; None for what only other sessions call so."""
        key = placement.digest, name_of(kept_of(placement))
        if key not in self._out and placement.digest in self._own:
            return None
        return self._choose(placement)

    def _choose(self, placement: Placement) -> Mapping[str, Any]:
        digest, kept = placement.digest, kept_of(placement)
        name = name_of(kept)
        if (digest, name) in self._out:
            return self._out[digest, name]
        came = mapping(kept.get(CAME))
        said = next((each for each in (came, kept) if each and self._claim(each, digest)), None)
        if said is None:
            # Since before names were told apart, or out of the trash: what names it may mean the other.
            said = _under(kept, _apart(name, digest))
            self._claim(said, digest)
        elif name_of(said) != name:
            self.names[name.hash] = name, name_of(said)
        self.others += said != (came or kept)
        self._out[digest, name] = said
        return said

    def _claim(self, kept: Mapping[str, Any], digest: Digest) -> bool:
        own_hash, path = name_of(kept).hash, path_of(kept)
        if (own_hash and self._hashes.get(own_hash, digest) != digest) or self._paths.get(path, digest) != digest:
            return False
        self._hashes[own_hash] = self._paths[path] = digest
        return True
