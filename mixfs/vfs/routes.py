"""ROUTES: the whole tree as one table. Each line: a path pattern, the tag of its node keys, the view that shows it.

    X a session, F a folder below images/, N a name, G a generation, D a digest

Adding a view is one small file in `mixfs/vfs/views/` and one line here. Node keys are described in
`mixfs/index/dentries.py`.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from mixfs.errors import NotFoundError
from mixfs.index.dentries import DIR_MODE, Dentry, fixed
from mixfs.library import storage_v2
from mixfs.library.trashed import TRASH_ROOT
from mixfs.library.view import View
from mixfs.vfs.context import Context
from mixfs.vfs.views import fixed as fixed_views
from mixfs.vfs.views.base import DirectoryView, FileView
from mixfs.vfs.views.canvas import Canvas
from mixfs.vfs.views.generations import GenerationDocument, GenerationFolder, GenerationImages, Generations
from mixfs.vfs.views.mirrors import Files, ImageDocument, MetadataFolder, Thumbnail, Thumbnails
from mixfs.vfs.views.pictures import EntryFile, PlacementFile, ReceiptFile, SharedImage
from mixfs.vfs.views.session import SessionDocument, SessionFolder
from mixfs.vfs.views.storage_v2 import AppDocument, AppFolder, AppSessions, KeptFile, KeptFolder
from mixfs.vfs.views.stored import ImageFolder, ImportDirectory, Stored
from mixfs.vfs.views.trash import TrashFile, TrashFolder, TrashRoot


class Route(NamedTuple):
    """`tag` is how the node keys of this route begin."""

    path: str
    tag: bytes
    view: DirectoryView | FileView


IMAGE_DOCUMENT, GENERATION_DOCUMENT, THUMBNAILS = ImageDocument(), GenerationDocument(), Thumbnails()

ROUTES: tuple[Route, ...] = (
    Route("/", fixed_views.ROOT, fixed_views.Root()),
    Route("/README.txt, /.trackerignore, /.mixfs/*", b".", fixed_views.FixedFile()),
    Route("/.mixfs", fixed_views.STATUS, fixed_views.Status()),
    Route("/import, /import/F", b"d", ImportDirectory()),
    Route("/import/N", b"R", ReceiptFile()),
    Route("/sessions", fixed("/sessions"), Stored(DIR_MODE, missing_ok=True)),
    Route("/sessions/X", b"S", SessionFolder()),
    Route("/sessions/X/session.json", b"DS", SessionDocument("session.json")),
    Route("/sessions/X/canvas.json", b"DC", SessionDocument("canvas.json")),
    Route("/sessions/X/generations.json", b"DH", SessionDocument("generations.json")),
    Route("/sessions/X/images, …/F", b"p", ImageFolder()),
    Route("/sessions/X/images/N, /sessions/X/files/N", b"P", PlacementFile()),
    Route("/sessions/X/thumbnails, …/F", b"t", THUMBNAILS),
    Route("/sessions/X/thumbnails/N.png", b"T", Thumbnail()),
    Route("/sessions/X/metadata, …/F", b"m", MetadataFolder()),
    Route("/sessions/X/metadata/N.json", b"Dj", IMAGE_DOCUMENT),
    Route("/sessions/X/metadata/N.txt", b"Dt", IMAGE_DOCUMENT),
    Route("/sessions/X/metadata/N.workflow.json", b"Dw", IMAGE_DOCUMENT),
    Route("/sessions/X/metadata/N.xmp", b"Dx", IMAGE_DOCUMENT),
    Route("/sessions/X/files, …/F", b"f", Files()),
    Route("/sessions/X/canvas", b"c", Canvas()),
    Route("/sessions/X/canvas/N", b"De", EntryFile()),
    Route("/sessions/X/generations", b"g", Generations()),
    Route("/sessions/X/generations/G", b"G", GenerationFolder()),
    Route("/sessions/X/generations/G/prompt.txt", b"D1", GENERATION_DOCUMENT),
    Route("/sessions/X/generations/G/generation.json", b"D2", GENERATION_DOCUMENT),
    Route("/sessions/X/generations/G/parameters.json", b"D3", GENERATION_DOCUMENT),
    Route("/sessions/X/generations/G/inputs", b"<", GenerationImages(outputs=False)),
    Route("/sessions/X/generations/G/outputs", b">", GenerationImages(outputs=True)),
    Route("/images", fixed("/images"), Stored(missing_ok=True)),
    Route("/images/ab", b"b", Stored()),
    Route("/by-date", fixed("/by-date"), Stored(missing_ok=True)),
    Route("/by-model", fixed("/by-model"), Stored(missing_ok=True)),
    Route("/by-lora", fixed("/by-lora"), Stored(missing_ok=True)),
    Route("/by-generator", fixed("/by-generator"), Stored(missing_ok=True)),
    Route("/by-*/N", b"v", Stored()),
    Route("/images/ab/D.png, /by-*/N/N", b"J", SharedImage()),
    Route("/storage-v2", storage_v2.ROOT, AppFolder()),
    Route("/storage-v2/sessions", storage_v2.SESSIONS, AppSessions()),
    Route("/storage-v2/sessions/X_*.json, …/image_registry.json", b"V", AppDocument()),
    Route("/storage-v2/images", storage_v2.IMAGES, Stored(DIR_MODE, missing_ok=True)),
    Route("/storage-v2/thumbnails, …/X", b"k", KeptFolder()),
    Route("/storage-v2/thumbnails/X/N, /storage-v2/logs.jsonl", b"K", KeptFile()),
    Route("/trash", TRASH_ROOT, TrashRoot()),
    Route("/trash/N", b"u", TrashFolder()),
    Route("/trash/N/N", b"U", TrashFile()),
)

# What stands at the top, in the order that a listing gives it.
ROOT_DIRECTORIES: dict[bytes, bytes] = {
    b"import": fixed_views.IMPORT,
    b"sessions": fixed("/sessions"),
    b"images": fixed("/images"),
    b"by-date": fixed("/by-date"),
    b"by-model": fixed("/by-model"),
    b"by-lora": fixed("/by-lora"),
    b"by-generator": fixed("/by-generator"),
    b"trash": TRASH_ROOT,
    b"storage-v2": storage_v2.ROOT,
    b".mixfs": fixed_views.STATUS,
}

_BY_TAG = {route.tag: route.view for route in ROUTES}


def view_of(key: bytes) -> DirectoryView | FileView:
    """The view that shows a node. Raises NotFoundError for a key that no route has."""
    tag = key[:1]
    if tag == b"/":
        tag = key
    elif tag == b"D":
        tag = key[:2]
    view = _BY_TAG.get(tag)
    if view is None:
        raise NotFoundError("There is no such thing.")
    return view


def directory_view(key: bytes) -> DirectoryView:
    return cast(DirectoryView, view_of(key))


def file_view(key: bytes) -> FileView:
    return cast(FileView, view_of(key))


def attr(context: Context, view: View, key: bytes) -> Dentry:
    """The attributes of any node."""
    return view_of(key).attr(context, view, key)
