"""Derived generations: those that were read from a picture, and therefore follow it wherever it goes.

A session that has a picture has at most one derived generation for it, under an id made from the two. `settle` keeps it
so at the end of every commit: a picture that comes to a session brings its generation along, and one that leaves takes
it away. When the picture leaves its last session (it lies in the trash then), the generation is kept in the picture's
Metadata record, which is deleted together with the original. Trash records need not hold it.

A generation that an app or a person made or changed is not derived: it stays in its session, and records by digest
which pictures it took and gave.

What must not change: every code path that places or removes a picture goes through a `Txn`, and never moves, copies or
deletes derived generations itself.

Concurrency: inside a write transaction.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mixfs.ids import Digest, generation_id_for
from mixfs.library.documents import text_of
from mixfs.library.storage_v2 import PLACE, POOL_ID
from mixfs.records import (
    Generation,
    ImageRef,
    Metadata,
    Placement,
    Record,
    Session,
    Trash,
    from_map,
    problem_of,
    to_map,
)

if TYPE_CHECKING:
    from mixfs.library.transaction import Txn
    from mixfs.library.view import View

# Where a generation keeps the JSON file that lay beside its picture (`mixfs.formats.outputs`).
_SIDECAR = "outputs"


def picture_of(generation: Generation) -> Digest | None:
    """The picture that a generation was read from, even if it was changed since; None if it was not read from one."""
    digest = generation.outputs[0].digest if len(generation.outputs) == 1 else None
    if digest is None or generation.id != generation_id_for(digest, generation.session_id):
        return None
    return digest


def is_derived(generation: Generation) -> bool:
    """Whether a generation says only what its picture says, and therefore follows it."""
    if picture_of(generation) is None:
        return False
    if generation.derived is not None:
        return generation.derived
    # An app that saved its own version of it left fields of its layout.
    was_read = generation.reader is not None or _SIDECAR in generation.foreign
    return was_read and set(generation.foreign) <= {PLACE, _SIDECAR}


def is_left_behind(view: View, generation: Generation) -> bool:
    """Whether a generation is derived and its session has no such picture, as earlier versions left it."""
    digest = picture_of(generation)
    return digest is not None and is_derived(generation) and not view.had_picture(generation.session_id, digest)


def follows_picture(txn: Txn, generation: Generation) -> bool:
    """Whether `settle` removes a generation when its picture leaves, or has left in this commit."""
    return is_derived(generation) and not is_left_behind(txn, generation)


def marked_if_changed(existing: Generation | None, generation: Generation) -> Generation:
    """A generation that replaces `existing`, marked as no longer derived if it says anything else."""
    if existing is None or not is_derived(existing) or generation.derived is False:
        return generation
    same = dataclasses.replace(generation, named_ns=existing.named_ns) == existing
    return generation if same else dataclasses.replace(generation, derived=False)


# -- at the end of a commit


def settle(
    txn: Txn, had: Mapping[tuple[Digest, str], bool], deleted: Iterable[Generation], *, restores: bool
) -> None:  # fmt: skip
    """Make derived generations follow the pictures that this commit placed or removed.

    `had` tells of each (picture, session) that a placement changed in whether the session had the picture before;
    `deleted` are the generations that the commit deleted; `restores` tells whether anything leaves the trash.
    """
    has = {pair: txn.has_picture(pair[1], pair[0]) for pair in had}
    left = [pair for pair in had if had[pair] and not has[pair]]
    for digest, session_id in (pair for pair in had if has[pair] and not had[pair]):
        if txn.is_member(Generation, session_id, generation_id_for(digest, session_id)):
            continue
        sources = _sources(txn, digest, session_id, [old for moved, old in left if moved == digest], restores)
        source = next(sources, None)
        if source is not None and not (source.derived and _has_own(txn, digest, session_id)):
            _derive(txn, source, digest, session_id)
    for digest, session_id in left:
        generation = txn.get(Generation, generation_id_for(digest, session_id))
        if generation is not None and is_derived(generation):
            _remove(txn, generation, digest)
    keep_for_other_sessions(txn, (each for each in deleted if txn.get(Session, each.session_id) is None))


def _sources(
    txn: Txn, digest: Digest, session_id: str, left: list[str], restores: bool
) -> Iterator[Generation]:  # fmt: skip
    """Where a derived generation can be copied from, the best source first; `left` are sessions the picture leaves."""
    for other in left:
        generation = txn.get(Generation, generation_id_for(digest, other))
        if generation is not None:
            yield generation
    saved = _saved(txn, digest)
    if saved is not None and saved.reader is None and not restores:
        # An import reads the same from the picture again, but not from a file beside it, or from an app.
        saved = None
    if saved is not None and saved.session_id == session_id:
        yield saved
    living = [each for each in txn.generations_of(digest) if picture_of(each) == digest]
    yield from sorted(living, key=is_derived, reverse=True)
    if saved is not None:
        yield saved
    # Earlier versions put it into the trash with its session.
    yield from (each for each in _in_trash(txn, digest) if picture_of(each) == digest)


def _has_own(txn: Txn, digest: Digest, session_id: str) -> bool:
    """Whether a session has a generation of a picture, or gets it back in a later piece of the restore at hand."""
    found = itertools.chain(txn.generations_of(digest), _in_trash(txn, digest))
    return any(each.session_id == session_id for each in found)


def _derive(txn: Txn, source: Generation, digest: Digest, session_id: str) -> None:
    """Give a session the derived generation of a picture that it has; unchanged if the session had it before."""
    own_id, named_ns = generation_id_for(digest, session_id), 0
    if source.id == own_id:
        output = source.outputs[0]
        placement = txn.get(Placement, output.placement_id) if output.placement_id is not None else None
        if placement is not None and (placement.session_id, placement.digest) == (session_id, digest):
            txn.put(source)
            return
        named_ns = source.named_ns
    placement = next(each for each in txn.referrers(Placement, digest) if each.session_id == session_id)
    output = ImageRef(
        digest=digest, name=text_of(placement.name), role="output", size=placement.size, placement_id=placement.id
    )
    foreign = {name: value for name, value in source.foreign.items() if name == _SIDECAR}
    was_read = source.reader is not None or bool(foreign)
    txn.put(
        dataclasses.replace(
            source, id=own_id, session_id=session_id, foreign_id=None, outputs=(output,), foreign=foreign,
            named_ns=named_ns or txn.next_stamp, derived=None if was_read else True,
        )
    )  # fmt: skip


def _remove(txn: Txn, generation: Generation, digest: Digest) -> None:
    """Delete a derived generation; save it in the picture's Metadata if no other session has the same."""
    txn.delete(Generation, generation.id)
    if any(is_derived(each) and _content(each) == _content(generation) for each in txn.generations_of(digest)):
        return
    metadata = txn.get(Metadata, digest.hex()) or Metadata(digest=digest)
    data = to_map(generation)
    if metadata.generation != data:
        txn.put(dataclasses.replace(metadata, generation=data))


def _content(generation: Generation) -> Generation:
    """A generation without the fields that differ between sessions."""
    foreign = {name: value for name, value in generation.foreign.items() if name != PLACE}
    return dataclasses.replace(generation, id="", session_id="", outputs=(), named_ns=0, derived=None, foreign=foreign)


def _saved(view: View, digest: Digest) -> Generation | None:
    metadata = view.get(Metadata, digest.hex())
    return _decoded(metadata.generation) if metadata is not None and metadata.generation else None


def _decoded(data: Mapping[int | str, Any]) -> Generation | None:
    return from_map(Generation, data) if problem_of(Generation, data) is None else None


# -- generations of deleted sessions


def keep_for_other_sessions(txn: Txn, generations: Iterable[Generation]) -> None:
    """Copy what deleted generations tell of pictures to the sessions that have these, unless they know something."""
    for generation in generations:
        for digest in dict.fromkeys(ref.digest for ref in generation.outputs if ref.digest is not None):
            if not txn.generations_of(digest):
                for session_id in txn.sessions_with(digest):
                    if session_id == POOL_ID:
                        # No session of the app's: its pictures are there in case one of them is restored.
                        continue
                    _derive(txn, dataclasses.replace(generation, canvas_state=None, inputs=()), digest, session_id)


def give_back(txn: Txn, digest: Digest, records: Sequence[Record]) -> None:
    """For a picture that lies in a session again after its records were deleted: what these, the newest last, told of
    how it was made. Records that live stay as they are."""
    metadata = next((each for each in reversed(records) if isinstance(each, Metadata) and each.digest == digest), None)
    living = txn.get(Metadata, digest.hex())
    if metadata is not None and (living is None or (metadata.generation and not living.generation)):
        txn.put(metadata if living is None else dataclasses.replace(living, generation=metadata.generation))
    generations = {
        each.id: each for each in records
        if isinstance(each, Generation) and any(ref.digest == digest for ref in each.outputs)
    }  # fmt: skip
    newest = list(reversed(generations.values()))
    for generation in newest:
        if not is_derived(generation):
            _put_back(txn, generation, digest)
    source = _saved(txn, digest) or next(filter(is_derived, newest), None)
    if source is None:
        return
    for session_id in txn.sessions_with(digest):
        has_derived = txn.is_member(Generation, session_id, generation_id_for(digest, session_id))
        if session_id != POOL_ID and not has_derived and not (source.derived and _has_own(txn, digest, session_id)):
            _derive(txn, source, digest, session_id)


def _put_back(txn: Txn, generation: Generation, digest: Digest) -> None:
    """Give a session that has a picture a generation that an app or a person made, unless it lives."""
    sessions = [each for each in txn.sessions_with(digest) if each != POOL_ID]
    if not sessions:
        return
    session_id = generation.session_id if generation.session_id in sessions else sessions[0]
    own_id = generation_id_for(digest, session_id) if picture_of(generation) == digest else generation.id
    living = txn.get(Generation, own_id)
    if living is not None and not is_derived(living):
        return
    placement = next(each for each in txn.referrers(Placement, digest) if each.session_id == session_id)
    outputs = tuple(
        dataclasses.replace(ref, placement_id=placement.id) if ref.digest == digest else ref
        for ref in generation.outputs
    )
    txn.put(dataclasses.replace(generation, id=own_id, session_id=session_id, outputs=outputs, derived=False))


def bring_from_trash(txn: Txn, digest: Digest) -> None:
    """For a picture that leaves the trash: copy a generation that was deleted with its session, if none is known."""
    if _saved(txn, digest) is None and not txn.generations_of(digest):
        keep_for_other_sessions(txn, itertools.islice(_in_trash(txn, digest), 1))


def _in_trash(view: View, digest: Digest) -> Iterator[Generation]:
    """The generations in the trash that gave a picture, the newest deletion first."""
    for trash in sorted(view.referrers(Trash, digest), key=lambda trash: (trash.order, trash.id), reverse=True):
        yield from (each for each in generations_in(trash) if any(ref.digest == digest for ref in each.outputs))


def generations_in(trash: Trash) -> Iterator[Generation]:
    """The generations that a trash record holds."""
    for kind, _, data in trash.records:
        generation = _decoded(data) if kind == Generation.KIND else None
        if generation is not None:
            yield generation


# -- libraries of earlier versions


def settle_left_behind(txn: Txn, generation_ids: Iterable[str]) -> None:
    """Make generations that an earlier version left behind follow their pictures."""
    for generation_id in generation_ids:
        generation = txn.get(Generation, generation_id)
        if generation is None or not is_left_behind(txn, generation):
            continue
        digest = generation.outputs[0].digest
        assert digest is not None
        for session_id in txn.sessions_with(digest):
            if not txn.is_member(Generation, session_id, generation_id_for(digest, session_id)):
                _derive(txn, generation, digest, session_id)
        _remove(txn, generation, digest)
