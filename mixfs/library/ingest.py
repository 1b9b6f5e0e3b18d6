"""Taking a file in: from bytes with a digest to records, by one set of rules for import/, the CLI and Python.

What is no image, or an image that can't be decoded, is kept as a file of the session. The same bytes under the same
name in the same folder are the same placement. A picture that carries a known generator's metadata makes a generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mixfs.errors import BlobMissing
from mixfs.ids import Digest, generation_id_for, new_id
from mixfs.library import documents, editing
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.media.sniff import IMAGE_TYPES
from mixfs.media.types import EmbeddedMetadata, Inspection
from mixfs.records import Blob, Generation, Image, ImageRef, Metadata, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A file that is in the blob store and not yet named. `inspection` None: the library knows the blob already."""

    digest: Digest
    size: int
    name: bytes
    mtime_ns: int
    mode: int = 0o644
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    inspection: Inspection | None = None
    role: str = "output"
    sums: bytes = b""
    # Tags, rating and comment that came with it, by field: they set what is empty.
    annotation: Mapping[str, Any] = field(default_factory=dict)


def needs_inspection(view: View, digest: Digest) -> bool:
    """False when all that a reader could find in a blob is in the library already."""
    blob = view.blob(digest)
    if blob is None:
        return True
    if blob.media_type not in IMAGE_TYPES:
        return False
    if view.image(digest) is None:
        return True
    metadata = view.get(Metadata, digest.hex())
    if metadata is None or metadata.reader is None or metadata.generation:
        return False
    return view.generation_of(digest) is None


def utc_offset_s(ns: int) -> int:
    """This machine's offset from UTC at a time: kept with the record, so that dates stay the ones people saw."""
    try:
        return time.localtime(ns / 1e9).tm_gmtoff
    except (OverflowError, ValueError, OSError):
        return 0


def admit_blob(txn: Txn, incoming: Incoming, blob_exists: Callable[[Digest], bool]) -> None:
    """Put what is known of a blob by itself: its type, the picture, the raw metadata.

    Called inside the transaction that names the blob. Raises BlobMissing when it went away meanwhile.
    """
    inspection, digest = incoming.inspection, incoming.digest
    if not blob_exists(digest) or (inspection is None and txn.blob(digest) is None):
        # gc took it since it was looked at, records and all.
        raise BlobMissing(f"Blob {digest.hex()} went away before it was named: import the file again.")
    known = txn.blob(digest)
    if known is not None and known.given_up_ns:
        txn.put(replace(known, given_up_ns=0, size=incoming.size, sums=incoming.sums or known.sums))
    if known is None:
        media_type = inspection.media_type if inspection else "application/octet-stream"
        txn.put(
            Blob(
                digest=digest, size=incoming.size, media_type=media_type, added_ns=txn.now_ns, sums=incoming.sums
            )
        )  # fmt: skip
    editing.annotate_empty(txn, digest, incoming.annotation)
    if inspection is None or inspection.media_type not in IMAGE_TYPES:
        return
    if txn.image(digest) is None:
        taken_ns = inspection.taken_ns or incoming.mtime_ns
        txn.put(
            Image(
                digest=digest,
                id=editing.image_id_for(digest),
                media_type=inspection.media_type,
                width=inspection.width,
                height=inspection.height,
                orientation=inspection.orientation,
                frames=inspection.frames,
                problem=inspection.problem,
                taken_ns=taken_ns,
                utc_offset_s=utc_offset_s(taken_ns),
                size=incoming.size,
                added_ns=txn.now_ns,
            )
        )
    if txn.get(Metadata, digest.hex()) is None and (inspection.raw or inspection.metadata):
        found = inspection.metadata
        txn.put(
            Metadata(
                digest=digest,
                raw=documents.pack_raw(found.raw if found else inspection.raw),
                reader=found.reader if found else None,
                reader_version=found.reader_version if found else 0,
            )
        )


def area_of(txn: View, digest: Digest) -> str:
    """images, or files for what is no readable image."""
    image = txn.image(digest)
    return "images" if image is not None and image.problem is None else "files"


def admit(
    txn: Txn, incoming: Incoming, session_id: str, folder_id: str | None, blob_exists: Callable[[Digest], bool], *,
    placement_id: str | None = None, replaces: str | None = None, area: str | None = None,
) -> tuple[Placement, bool]:  # fmt: skip
    """Name a blob in a session; returns the placement and whether the session is changed by it.

    `replaces` is the placement whose bytes these are a new version of; `placement_id` the id a new one gets; `area`
    says where it is listed when that does not follow from the type.
    """
    admit_blob(txn, incoming, blob_exists)
    digest = incoming.digest
    area = area or area_of(txn, digest)
    old = txn.get(Placement, replaces) if replaces is not None else None
    if old is not None:
        new = editing.overwrite_placement(
            txn, old.id, digest=digest, size=incoming.size, mtime_ns=incoming.mtime_ns, mode=incoming.mode,
            xattrs=dict(incoming.xattrs), area=area,
        )  # fmt: skip
        _generation(txn, incoming, new)
        return new, new != old
    if placement_id is None:
        same = editing.find_placement(txn, session_id, folder_id, incoming.name, digest)
        if same is not None:
            return same, False
    placement = editing.place(
        txn,
        Placement(
            id=placement_id or new_id(),
            session_id=session_id,
            folder_id=folder_id,
            digest=digest,
            name=incoming.name,
            area=area,
            role=incoming.role,
            size=incoming.size,
            mode=incoming.mode,
            mtime_ns=incoming.mtime_ns,
            xattrs=dict(incoming.xattrs),
        ),
    )
    _generation(txn, incoming, placement)
    return placement, True


def _generation(txn: Txn, incoming: Incoming, placement: Placement) -> None:
    """The generation of a new picture, from its metadata; `derived_generations` copies that of a known one."""
    generation_id = generation_id_for(incoming.digest, placement.session_id)
    found = incoming.inspection.metadata if incoming.inspection else None
    if found is None or txn.is_member(Generation, placement.session_id, generation_id):
        return
    output = ImageRef(
        digest=incoming.digest, name=documents.text_of(placement.name), role="output", size=incoming.size,
        placement_id=placement.id,
    )  # fmt: skip
    image = txn.image(incoming.digest)
    time_ns = image.taken_ns if image else incoming.mtime_ns
    txn.put(
        Generation(
            id=generation_id,
            session_id=placement.session_id,
            time_ns=time_ns,
            utc_offset_s=utc_offset_s(time_ns),
            outputs=(output,),
            named_ns=txn.next_stamp,
            **generation_fields(found),  # type: ignore[arg-type]
        )
    )


def generation_fields(found: EmbeddedMetadata) -> dict[str, object]:
    """A reader's finding as the fields of a Generation."""
    return {
        "prompt": found.prompt,
        "negative_prompt": found.negative_prompt,
        "generator": found.generator,
        "generator_version": found.version,
        "model": found.model,
        "model_hash": found.model_hash,
        "seed": found.seed,
        "steps": found.steps,
        "cfg": found.cfg,
        "sampler": found.sampler,
        "scheduler": found.scheduler,
        "width": found.width,
        "height": found.height,
        "loras": tuple([lora.name, lora.weight] for lora in found.loras),
        "parameters": dict(found.parameters),
        "reader": found.reader,
        "reader_version": found.reader_version,
    }
