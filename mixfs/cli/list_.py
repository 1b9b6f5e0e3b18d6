"""`mixfs list`: which pictures there are, by when, with what and how large they were made."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import emit_json, human_bytes, one_line, say, table
from mixfs.errors import UsageError

if TYPE_CHECKING:
    from mixfs.library.catalogue import Listed

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "": operator.eq, "=": operator.eq}
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def list_(
    session: Annotated[str | None, typer.Option("--session", metavar="SESSION", help="Only of this session.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DAY", help="Made on 2025-12-08 or later.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DAY", help="Made on 2025-12-08 or before.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Only of this model; `flux*` is what begins so.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Only by this generator; `*` as for models.")
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", metavar="NAME", help="Only of this category of an outputs folder.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="SIZE", help="`>=1024x1024`, `512x512`, `>2MB`, `<=100kB`.")
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List pictures and files, the oldest first."""
    from mixfs.library import documents
    from mixfs.library.catalogue import Wanted, listed

    for day in (since, until):
        if day is not None and not re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", day):
            raise UsageError(f"{day!r} is no day. Write 2025-12-08, 2025-12 or 2025.")
    fits = parse_size(size) if size is not None else None
    with open_library(library, read_only=True) as opened:
        session_id = opened.find_session(session).id if session is not None else None
        wanted = Wanted(
            session_id=session_id, since=since, until=until and f"{until}~", model=model, provider=provider,
            category=category, size=fits,
        )  # fmt: skip
        with opened.read() as view:
            found = sorted(listed(view, wanted), key=lambda item: (item.time_ns, item.placement.id))
    if json:
        emit_json([_as_json(item, documents.iso) for item in found])
        return
    if not found:
        say("There is nothing like that.")
        return
    table(
        ("MADE", "SESSION", "NAME", "PIXELS", "SIZE", "MODEL", "PROMPT"),
        (
            (
                item.day, one_line(item.session.title, 30), os.fsdecode(item.placement.name), item.pixels,
                human_bytes(item.placement.size), (item.generation and item.generation.model) or "",
                one_line((item.generation and item.generation.prompt) or "", 60),
            )
            for item in found
        ),
        right=(3, 4),
    )  # fmt: skip


def _as_json(item: Listed, iso: Callable[..., str]) -> dict[str, object]:
    generation, image, placement = item.generation, item.image, item.placement
    offset = generation.utc_offset_s if generation else image.utc_offset_s if image else 0
    return {
        "session": item.session.title, "session_id": item.session.id, "name": os.fsdecode(placement.name),
        "digest": placement.digest.hex(), "size": placement.size, "area": placement.area,
        "media_type": image.media_type if image else None, "width": image.width if image else None,
        "height": image.height if image else None, "made": iso(item.time_ns, offset),
        "model": generation.model if generation else None, "provider": generation.generator if generation else None,
        "category": item.category, "prompt": generation.prompt if generation else None,
        "seed": generation.seed if generation else None, "placement_id": placement.id,
    }  # fmt: skip


def parse_size(text: str) -> Callable[[Listed], bool]:
    """The test that `>=1024x1024` (both sides) or `>2MB` stands for. Raises UsageError."""
    found = re.fullmatch(r"(>=|<=|>|<|=|)\s*(?:(\d+)x(\d+)|(\d+(?:\.\d+)?)\s*([kmg]?b)?)", text.strip().lower())
    if found is None:
        raise UsageError(f"{text!r} is no size. Write >=1024x1024, 512x512, >2MB or <=100kB.")
    compare = _COMPARE[found[1]]
    if found[2] is not None:
        width, height = int(found[2]), int(found[3])
        return lambda item: (
            item.image is not None and item.image.width is not None and item.image.height is not None
            and compare(item.image.width, width) and compare(item.image.height, height)
        )  # fmt: skip
    size = float(found[4]) * _UNITS[found[5] or ""]
    return lambda item: bool(compare(item.placement.size, size))
