"""`mixfs show`: all that is known of a session, a picture, or a path in the mount."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixfs import jsontext
from mixfs.cli.options import JsonOption, LibraryOption, open_library
from mixfs.cli.output import count, emit_json, fields, human_bytes, one_line, plain, quoted, say, table

if TYPE_CHECKING:
    from mixfs.ids import Digest
    from mixfs.library.api import Library
    from mixfs.records import Session


def show(
    what: Annotated[
        str,
        typer.Argument(metavar="SESSION|DIGEST|PATH", help="A session, a SHA-256 digest, or a path in the mount."),
    ],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show a session, or what is known of a picture.

    A session is named by its title, its folder's name or its id; a picture by its SHA-256 digest or by its path in the
    mount.
    """
    from mixfs.daemon import mounts
    from mixfs.ids import digest_from_hex

    place = mounts.inside_mount(what)
    if place is not None:
        _show_path(place, library, json)
        return
    with open_library(library, read_only=True) as opened:
        try:
            digest = digest_from_hex(what)
        except ValueError:
            _show_session(opened, opened.find_session(what), json)
        else:
            _show_blob(opened, digest, json)


def _show_path(place: tuple[str, str], option: Path | None, json: bool) -> None:
    """A path in a mount: the library is the one that is mounted there, whatever the options say."""
    from mixfs.daemon import mounts
    from mixfs.errors import NotFoundError
    from mixfs.ids import digest_from_hex

    mountpoint, below = place
    path = os.path.join(mountpoint, below) if below else mountpoint
    daemon = mounts.find_daemon(mountpoint)
    if option is None and daemon is not None:
        option = Path(daemon.library)
    try:
        digest = digest_from_hex(os.getxattr(path, "user.mixfs.digest").decode("ascii"))
    except OSError:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"There is no {path}. `ls` shows what is there.") from None
        first, _, rest = below.partition("/")
        with open_library(option, read_only=True) as opened:
            session = _session_in(opened, first, rest.partition("/")[0]) if rest else None
            if session is None:
                raise NotFoundError(f"{path} is no picture and in no session: there is nothing to show.") from None
            _show_session(opened, session, json)
        return
    with open_library(option, read_only=True) as opened:
        _show_blob(opened, digest, json)


def _session_in(library: Library, part: str, folder: str) -> Session | None:
    """The session of `sessions/FOLDER` or `import/FOLDER`; another one may have that name as its title."""
    from mixfs.library.editing import SESSIONS
    from mixfs.library.wanted import import_directory
    from mixfs.records import ImportFolder, Session

    with library.read() as view:
        if part == "import":
            dentry = view.dentry(import_directory(None), os.fsencode(folder))
            bound = view.get_raw(ImportFolder, dentry.key[1:]) if dentry is not None else None
            return view.get(Session, bound.session_id) if bound is not None and bound.session_id is not None else None
        dentry = view.dentry(SESSIONS, os.fsencode(folder))
        found = view.get_raw(Session, dentry.key[1:]) if dentry is not None else None
    if part != "sessions":
        return None
    return found or library.find_session(folder)


# -- a session


def _show_session(library: Library, session: Session, json: bool) -> None:
    from mixfs.library import documents

    with library.read() as view:
        about: dict[str, Any] = jsontext.loads(view.render_session_document(session, "session.json"))
    placements = library.placements(session.id)
    generations = library.generations(session.id)
    if json:
        emit_json(
            about
            | {
                "placements": [
                    {
                        "name": os.fsdecode(placement.name),
                        "digest": placement.digest.hex(),
                        "size": placement.size,
                        "area": placement.area,
                        "role": placement.role,
                        "placement_id": placement.id,
                    }
                    for placement in placements
                ],
                "generation_ids": [generation.id for generation in generations],
            }
        )
        return
    fields(
        (
            ("Session", about["title"]),
            ("Id", about["id"]),
            ("User", about["user"]["displayName"]),
            ("Created", about["created_at"]),
            ("Changed", about["updated_at"]),
            ("Holds", f"{count(about['images'], 'picture')}, {count(about['files'], 'other file')}, "
                      f"{human_bytes(about['bytes'])}"),
            ("Canvas", f"{count(about['entries'], 'entry', 'entries')}, {count(about['edges'], 'connection')}"
                       if about["entries"] else None),
        )
    )  # fmt: skip
    if placements:
        say()
        table(
            ("NAME", "SIZE", "IN", "DIGEST"),
            ((os.fsdecode(p.name), human_bytes(p.size), p.area, p.digest.hex()) for p in placements),
            right=(1,),
        )
    if generations:
        say()
        table(
            ("GENERATED", "MODEL", "PROMPT"),
            (
                (_moment(documents.iso(g.time_ns, g.utc_offset_s)), g.model or "", one_line(g.prompt or ""))
                for g in generations
            ),
        )


def _moment(iso: str) -> str:
    return iso[:19].replace("T", " ")


# -- a picture or another file


def _show_blob(library: Library, digest: Digest, json: bool) -> None:
    about = _about(library, digest)
    if json:
        emit_json(about)
        return
    size = f"{about['width']} × {about['height']}" if about.get("width") else None
    fields(
        (
            ("Digest", about["digest"]),
            ("Type", about["media_type"]),
            ("Size", f"{human_bytes(about['size'])} ({count(about['size'], 'byte')})"),
            ("Pixels", size),
            ("Problem", about.get("problem")),
            ("Kept in", about["path"]),
            ("Tags", ", ".join(about["tags"])),
            ("Rating", about["rating"]),
            ("Comment", about["comment"]),
        )
    )
    for placement in about["placements"]:
        say(f"In session {quoted(placement['session'])} as {plain(placement['name'])} ({placement['area']}/)")
    for generation in about["generations"]:
        say()
        _print_generation(generation)


def _about(library: Library, digest: Digest) -> dict[str, Any]:
    from mixfs.errors import NotFoundError
    from mixfs.library import documents
    from mixfs.records import Placement, Session

    with library.read() as view:
        blob, image = view.blob(digest), view.image(digest)
        if blob is None:
            raise NotFoundError(f"There is nothing with the digest {digest.hex()} in {library.root}.")
        about: dict[str, Any] = {
            "digest": digest.hex(),
            "media_type": blob.media_type,
            "size": blob.size,
            "path": str(library.blobs.path(digest)),
            "added": documents.iso(blob.added_ns),
        }
        if image is not None:
            about |= {
                "image_id": image.id, "width": image.width, "height": image.height, "orientation": image.orientation,
                "frames": image.frames, "problem": image.problem,
                "taken": documents.iso(image.taken_ns, image.utc_offset_s),
            }  # fmt: skip
        annotation = view.annotation(digest)
        about["tags"] = list(annotation.tags) if annotation else []
        about["rating"] = annotation.rating if annotation else None
        about["comment"] = annotation.comment if annotation else None
        about["placements"] = []
        for placement in view.referrers(Placement, digest):
            session = view.get(Session, placement.session_id)
            about["placements"].append(
                {
                    "session": session.title if session else "", "session_id": placement.session_id,
                    "name": os.fsdecode(placement.name), "area": placement.area, "role": placement.role,
                    "placement_id": placement.id,
                }
            )  # fmt: skip
        about["generations"] = [documents.generation_fields(generation) for generation in view.generations_of(digest)]
    # Parameters are whatever a generator wrote: made plain by the same rules as the documents of the mount.
    plain_json: dict[str, Any] = jsontext.loads(documents.to_json(about))
    return plain_json


def _print_generation(generation: dict[str, Any]) -> None:
    width, height = generation.get("width"), generation.get("height")
    fields(
        (
            ("Generated", generation["timestamp"]),
            ("By", " ".join(filter(None, (generation.get("generator"), generation.get("generator_version"))))),
            ("Model", generation.get("model")),
            ("LoRAs", ", ".join(str(lora["name"]) for lora in generation.get("loras", []))),
            ("Seed", generation.get("seed")),
            ("Steps", generation.get("steps")),
            ("CFG", generation.get("cfg")),
            ("Sampler", " ".join(filter(None, (generation.get("sampler"), generation.get("scheduler"))))),
            ("Asked for", f"{width} × {height}" if width and height else None),
            ("Prompt", generation.get("prompt")),
            ("Negative", generation.get("negative_prompt")),
        )
    )
