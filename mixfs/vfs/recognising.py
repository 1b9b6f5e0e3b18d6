"""Recognising what was dropped into import/ in another program's layout, beside the intake, which it never holds up.

Every file is taken in first, as a plain file; a commit that takes in what may be part of a layout notes so in the
record of the top folder (of import/ itself for a file that lies there), so that a killed daemon forgets none. Once the
folder is whole, as far as anybody can tell, a process of its own looks at it (`mixfs.formats.dropped`), and the note
goes. A folder is whole when nothing in it is being written or waits to be taken in, and nothing has come for a while:
`QUIET_S`, or longer where looking takes long; one second for who waits for it.

Concurrency: event loop only. One look at a time, under `_looking`; a change meanwhile makes it be looked at again.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog
import trio

from mixfs.errors import MixfsError
from mixfs.library.transaction import Txn
from mixfs.library.view import View
from mixfs.library.wanted import IMPORT_ROOT_ID, import_directory
from mixfs.process import environment
from mixfs.records import ImportFolder, Receipt
from mixfs.vfs.records_of import IMPORT_ROOT, ancestors, folder_record, import_folder, lies_below
from mixfs.vfs.staging import Staged
from mixfs.vfs.tree import Tree

QUIET_S = 5.0
HURRIED_S = 1.0
# How long who waits goes on waiting for somebody who writes.
PATIENCE_S = 30.0
# A folder that is changed again and again is looked at for a tenth of the time at most.
SHARE = 10.0
RETRY_S = 30.0
_LOOKED_AT_ONCE = 100

log = structlog.get_logger("mixfs.recognising")


class Job(NamedTuple):
    """What to look at: `folder` and the id of a top folder of import/, or `file` and that of a receipt."""

    kind: str
    id: str


class Recognising:
    """What of one mount's import/ is to be looked at."""

    def __init__(self, tree: Tree, in_the_way: Callable[[Staged], bool]) -> None:
        """`in_the_way` says of a staged file whether it is written to, or will be taken in by itself."""
        self._tree = tree
        self._in_the_way = in_the_way
        self._wake = trio.Event()
        self._looking = trio.Lock()
        # When each was changed last, and from when on it may be looked at.
        self._changed: dict[Job, float] = {}
        self._quiet_s: dict[Job, float] = {}

    def load(self) -> None:
        """At the start of a mount: what an earlier one was not done with."""
        with self._tree.library.read() as view:
            root = view.get(ImportFolder, IMPORT_ROOT_ID)
            tops = (view.get_raw(ImportFolder, d.key[1:]) for d in view.dentries(IMPORT_ROOT) if d.is_directory)
            self._note(Job("file", each) for each in (root.unlooked if root is not None else ()))
            self._note(Job("folder", top.id) for top in tops if top is not None and top.unlooked)

    def _note(self, jobs: Iterable[Job]) -> None:
        now = time.monotonic()
        for job in jobs:
            self._changed[job] = now
        self._wake.set()

    # -- what the intake tells

    def mark(self, txn: Txn, staged: Staged, *, whole: bool, part: bool) -> Job | None:
        """Within the commit that takes a file of import/ in: note that there is something to look at, and what.

        `whole` and `part` say whether the file may be in a layout by itself, or part of a folder that is.
        """
        receipt = txn.get_raw(Receipt, staged.key[1:])
        if receipt is None:
            return None
        if staged.directory == IMPORT_ROOT:
            if not whole:
                return None
            root = folder_record(txn, IMPORT_ROOT)
            if receipt.id not in root.unlooked:
                txn.put(dataclasses.replace(root, unlooked=(*root.unlooked, receipt.id)))
            return Job("file", receipt.id)
        *_, top = ancestors(txn, import_folder(txn, staged.directory))
        if not (whole or part or top.layout or top.unlooked):
            return None
        if not top.unlooked:
            txn.put(dataclasses.replace(top, unlooked=(receipt.id,)))
        return Job("folder", top.id)

    def marked(self, jobs: Iterable[Job | None]) -> None:
        """After that commit."""
        self._note(job for job in jobs if job is not None)

    # -- the task

    async def run(self) -> None:
        """Look at whatever is whole, for as long as the mount lives."""
        while True:
            self._wake = trio.Event()
            next_due = time.monotonic() + 3600
            for job in list(self._changed):
                due = self._due(job)
                if due <= time.monotonic() and not await self._is_written_to(job):
                    await self._look(job)
                    due = self._due(job) if job in self._changed else next_due
                next_due = min(next_due, max(due, time.monotonic() + HURRIED_S))
            with trio.move_on_at(trio.current_time() + max(0.0, next_due - time.monotonic())):
                await self._wake.wait()

    async def settle(self) -> None:
        """Look at all that there is now, as soon as it is whole; what is written to all the while is left out."""
        for job in list(self._changed):
            whole = False
            with trio.move_on_after(PATIENCE_S):
                while job in self._changed and not (whole := await self._is_whole(job)):
                    await trio.sleep(HURRIED_S / 4)
            if whole:
                # Once: who goes on writing has it looked at again later.
                await self._look(job)

    def waiting(self) -> list[str]:
        """The names of what is still to be looked at."""
        return [self._name(job) for job in self._changed]

    async def _is_whole(self, job: Job) -> bool:
        """For who waits: nothing has come for a second, and nothing is being written."""
        quiet_s = 0.0 if job.kind == "file" else HURRIED_S
        return self._changed[job] + quiet_s <= time.monotonic() and not await self._is_written_to(job)

    def _due(self, job: Job) -> float:
        quiet_s = 0.0 if job.kind == "file" else max(QUIET_S, self._quiet_s.get(job, 0.0))
        return self._changed.get(job, 0.0) + quiet_s

    async def _is_written_to(self, job: Job) -> bool:
        if job.kind == "file":
            return False
        top, there = import_directory(job.id), list(self._tree.staging)
        for start in range(0, len(there), _LOOKED_AT_ONCE):
            with self._tree.library.read() as view:
                if any(self._is_below(view, staged, top) for staged in there[start : start + _LOOKED_AT_ONCE]):
                    return True
            await trio.lowlevel.checkpoint()
        return False

    def _is_below(self, view: View, staged: Staged, top: bytes) -> bool:
        return staged.linked and self._in_the_way(staged) and lies_below(view, staged.directory, top)

    async def _look(self, job: Job) -> None:
        async with self._looking:
            since, began = self._changed.get(job), time.monotonic()
            if since is None:
                return
            try:
                async with self._tree.lock:
                    await self._tree.settle()
                layouts = await self._process(job)
                self._quiet_s[job] = SHARE * (time.monotonic() - began)
                async with self._tree.lock:
                    if self._changed.get(job) == since:
                        await self._tree.commit(lambda txn: _unmark(txn, job, layouts))
                        del self._changed[job]
            except (OSError, MixfsError, ValueError) as error:
                # A full disk, say, or an answer that was cut short. It stays noted, and is looked at again.
                log.warning("not_looked_at", job=job, error=str(error))
                self._changed[job] = time.monotonic() + RETRY_S
            while len(self._quiet_s) > 2 * len(self._changed) + 100:
                del self._quiet_s[next(iter(self._quiet_s))]

    async def _process(self, job: Job) -> list[str]:
        """Have a process import what is in a layout; returns which were found."""
        library = self._tree.library
        command = [sys.executable, "-P", "-m", "mixfs.formats.dropped", str(library.root), *job]
        ended = await trio.run_process(
            command, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False, cwd="/",
            env=environment(),
        )  # fmt: skip
        if ended.returncode:
            words = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            name = self._name(job)
            library.store.problems.report(
                "not-imported", f"{name} is kept as it is. What it holds was not imported: {words}", name=name
            )
            return []
        layouts: list[str] = json.loads(ended.stdout)
        log.info("looked_at", kind=job.kind, layouts=layouts)
        return layouts

    def _name(self, job: Job) -> str:
        with self._tree.library.read() as view:
            record = view.get(ImportFolder if job.kind == "folder" else Receipt, job.id)
        return record.name.decode("utf-8", "replace") if isinstance(record, ImportFolder | Receipt) else job.id

    def held(self) -> dict[str, int]:
        """As `Tree.held`."""
        return {"to_look_at": len(self._changed)}


def _unmark(txn: Txn, job: Job, layouts: list[str]) -> None:
    if job.kind == "file":
        root = folder_record(txn, IMPORT_ROOT)
        txn.put(dataclasses.replace(root, unlooked=tuple(each for each in root.unlooked if each != job.id)))
        return
    top = txn.get(ImportFolder, job.id)
    if top is not None:
        txn.put(dataclasses.replace(top, unlooked=(), layout=layouts[0] if layouts else top.layout))
