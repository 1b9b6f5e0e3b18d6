"""MixFS: a library of AI-image work that you mount as a drive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixfs.formats.storage_service import StorageService as StorageService
    from mixfs.library.api import Library as Library

__version__ = "0.1.0"
__all__ = ["Library", "StorageService", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: a worker process imports mixfs.media and should not pay for LMDB.
    if name == "Library":
        from mixfs.library.api import Library

        return Library
    if name == "StorageService":
        from mixfs.formats.storage_service import StorageService

        return StorageService
    raise AttributeError(f"module 'mixfs' has no attribute {name!r}")
