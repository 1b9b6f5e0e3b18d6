"""The library against dictionaries, while its process is killed, its journal torn and its index lost or out of date.

What a commit acknowledged is there after each of these, and nothing else. The index that replay or `rebuild-index`
makes is, row for row, the one that was there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from live import environment, python
from profiles import settings_for

from mixfs.errors import NotFoundError
from mixfs.ids import Digest, digest_from_hex, key16
from mixfs.index.engine import prefix_end
from mixfs.journal import frames
from mixfs.library import editing
from mixfs.library.api import Library
from mixfs.records import Entry, Placement

MAP = 1 << 20
TITLES = st.sampled_from(["Trip", "trip", "Trip (2)", "a/b", ".", "x" * 300, "Ünïcödé", "Inbox"])
NAMES = st.sampled_from(["a.txt", "a (2).txt", "a (3).txt", "b", "n" * 255, "\udcff.txt"])
TAGS = st.lists(st.sampled_from(["a", "b", "c"]), unique=True)
# Few, so that the same bytes come again.
BLOBS = st.sampled_from([b"one", b"two", b"three", b"", b"\x89PNG\r\n\x1a\n not a picture"])
# What the index holds of records; `fsck` compares the same. Times at which a listing changed belong to no record.
ROWS = (b"r", b"d", b"s", b"i", b"t", b"w", b"c", b"n", b"x", b"y", b"z")


@dataclass
class Model:
    """What the library should hold."""

    sessions: dict[str, str] = field(default_factory=dict)
    # id → (session id, digest)
    placements: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    entries: dict[str, tuple[str, str]] = field(default_factory=dict)
    annotations: dict[bytes, tuple[tuple[str, ...], int | None]] = field(default_factory=dict)
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    trashed: int = 0


class Dictionary(RuleBasedStateMachine):
    """Every rule changes the library and the model; the invariant compares them whole."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mixfs-model-"))
        self.root = self.home / "library"
        self.model = Model()
        self.numbers = 0
        self.library = self.opened()

    def opened(self) -> Library:
        return Library.open(self.root, map_size=MAP)

    def teardown(self) -> None:
        if hasattr(self, "library"):
            self.library.close()
            shutil.rmtree(self.home)

    def pick(self, among: dict[str, Any], number: int) -> str:
        return sorted(among)[number % len(among)]

    # -- changes

    @rule(title=TITLES)
    def create_session(self, title: str) -> None:
        session = self.library.create_session(title)
        assert session.id not in self.model.sessions
        self.model.sessions[session.id] = title

    @precondition(lambda self: self.model.sessions)
    @rule(number=st.integers(0, 9), title=TITLES)
    def retitle(self, number: int, title: str) -> None:
        session_id = self.pick(self.model.sessions, number)
        self.library.retitle_session(session_id, title)
        self.model.sessions[session_id] = title

    @precondition(lambda self: self.model.sessions)
    @rule(number=st.integers(0, 9))
    def delete_session(self, number: int) -> None:
        session_id = self.pick(self.model.sessions, number)
        self.library.delete_session(session_id)
        del self.model.sessions[session_id]
        for members in (self.model.placements, self.model.entries):
            for member_id in [key for key, value in members.items() if value[0] == session_id]:
                del members[member_id]
        self.model.trashed += 1

    @precondition(lambda self: self.model.sessions)
    @rule(number=st.integers(0, 9), data=BLOBS, name=NAMES)
    def import_bytes(self, number: int, data: bytes, name: str) -> None:
        session_id = self.pick(self.model.sessions, number)
        placement = self.library.import_bytes(data, name, session_id=session_id, mtime_ns=7)
        held = self.model.placements.get(placement.id)
        assert held is None or held == (session_id, placement.digest)
        self.model.placements[placement.id] = session_id, placement.digest
        self.model.blobs[placement.digest] = data

    @precondition(lambda self: self.model.placements)
    @rule(number=st.integers(0, 9), to=st.integers(0, 9), name=st.none() | NAMES)
    def move(self, number: int, to: int, name: str | None) -> None:
        placement_id, session_id = self.pick(self.model.placements, number), self.pick(self.model.sessions, to)
        placement = self.library.move_placement(placement_id, session_id, name)
        self.model.placements[placement_id] = session_id, placement.digest

    @precondition(lambda self: self.model.placements)
    @rule(number=st.integers(0, 9))
    def delete_placement(self, number: int) -> None:
        placement_id = self.pick(self.model.placements, number)
        self.library.delete_placement(placement_id)
        del self.model.placements[placement_id]
        self.model.trashed += 1

    @precondition(lambda self: self.model.blobs)
    @rule(
        number=st.integers(0, 9),
        tags=st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
        rating=st.integers(0, 10),
    )
    def annotate(self, number: int, tags: list[str], rating: int) -> None:
        digest = sorted(self.model.blobs)[number % len(self.model.blobs)]
        # The API annotates pictures only; the rule is what the mount does for files too.
        self.library.commit(lambda txn: editing.annotate(txn, digest, tags=tags, rating=rating))
        self.model.annotations[digest] = tuple(tags), rating

    @precondition(lambda self: self.model.sessions)
    @rule(number=st.integers(0, 9), entry=st.integers(0, 3), text=st.text(max_size=8))
    def put_entry(self, number: int, entry: int, text: str) -> None:
        entry_id = f"entry {entry}"
        held = self.model.entries.get(entry_id)
        session_id = held[0] if held is not None else self.pick(self.model.sessions, number)
        self.library.put_entry(Entry(id=entry_id, session_id=session_id, type="text", text=text))
        self.model.entries[entry_id] = session_id, text

    @precondition(lambda self: self.model.entries)
    @rule(number=st.integers(0, 9))
    def delete_entry(self, number: int) -> None:
        entry_id = self.pick(self.model.entries, number)
        self.library.delete_entry(entry_id)
        del self.model.entries[entry_id]
        self.model.trashed += 1

    @rule()
    def a_change_that_fails(self) -> None:
        """Nothing of it is seen."""

        def write(txn: Any) -> None:
            txn.put(Entry(id="never", session_id="none", type="text"))
            raise NotFoundError("on purpose")

        try:
            self.library.commit(write)
        except NotFoundError:
            return
        raise AssertionError("it must be told")

    # -- mishaps

    @rule()
    def reopen(self) -> None:
        self.library.close()
        self.library = self.opened()

    @rule(title=TITLES, commits=st.integers(0, 2))
    def killed(self, title: str, commits: int) -> None:
        """Another process makes sessions and is killed before it closes anything."""
        self.library.close()
        ids = [f"killed {self.numbers + n}" for n in range(commits)]
        self.numbers += commits
        child = os.fork()
        if not child:
            try:
                library = self.opened()
                for session_id in ids:
                    library.create_session(title, session_id=session_id)
                # Written and never committed: torn off by the kill.
                library.staging.intake().write(b"half a file", 0)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        self.library = self.opened()
        self.model.sessions.update(dict.fromkeys(ids, title))

    @rule(size=st.integers(1, 60), open_meanwhile=st.booleans())
    def torn_tail(self, size: int, open_meanwhile: bool) -> None:
        """The beginning of an item stands at the end of the journal, as a kill in the middle of a write leaves it."""
        if not open_meanwhile:
            self.library.close()
        segments = sorted((self.root / "journal").rglob("*.seg"))
        if segments:
            with open(segments[-1], "ab") as file:
                file.write(frames.encode_at(b"what was never committed" * 4, file.tell())[:size])
        if not open_meanwhile:
            self.library = self.opened()

    @rule()
    def index_lost(self) -> None:
        before = self.rows()
        self.library.close()
        shutil.rmtree(self.root / "index")
        self.library = self.opened()
        assert self.rows() == before

    @rule(beside=st.booleans())
    def rebuilt(self, beside: bool) -> None:
        before = self.rows()
        if beside:
            # By another process: this one finds another index under its feet.
            program = "import sys, pathlib\nfrom mixfs.library import fsck\nfsck.rebuild(pathlib.Path(sys.argv[1]))"
            subprocess.run(python("-c", program, self.root), env=environment(), check=True, timeout=60)
        else:
            self.library.store.rebuild_index()
        assert self.rows() == before

    @rule()
    def keep_index(self) -> None:
        self.library.close()
        shutil.rmtree(self.home / "kept", ignore_errors=True)
        shutil.copytree(self.root / "index", self.home / "kept")
        self.library = self.opened()

    @precondition(lambda self: (self.home / "kept").exists())
    @rule()
    def index_of_before(self) -> None:
        """A power cut lost the index's last transactions: they are replayed."""
        before = self.rows()
        self.library.close()
        shutil.rmtree(self.root / "index")
        shutil.copytree(self.home / "kept", self.root / "index")
        self.library = self.opened()
        assert self.rows() == before

    def rows(self) -> dict[bytes, bytes]:
        with self.library.read() as view:
            return {key: value for prefix in ROWS for key, value in view.txn.scan(prefix, prefix_end(prefix))}

    # -- the library is what the model says

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "library"):
            return
        library, model = self.library, self.model
        assert {session.id: session.title for session in library.sessions()} == model.sessions
        placements: dict[str, Placement] = {}
        entries: dict[str, tuple[str, str]] = {}
        for session_id in model.sessions:
            placements.update({placement.id: placement for placement in library.placements(session_id)})
            entries.update({entry.id: (session_id, entry.text or "") for entry in library.entries(session_id)})
        assert {key: (held.session_id, held.digest) for key, held in placements.items()} == model.placements
        assert entries == model.entries
        for digest, (tags, rating) in model.annotations.items():
            found = library.annotation(Digest(digest))
            assert (found.tags, found.rating) == (tags, rating)
        for digest, data in model.blobs.items():
            assert library.read_image(digest_from_hex(digest.hex())) == data
        stats = library.stats()
        assert (stats.sessions, stats.placements) == (len(model.sessions), len(model.placements))
        with library.read() as view:
            assert sum(1 for _ in view.deletions()) == model.trashed
            listed = Counter(
                dentry.key
                for session_id in model.sessions
                for tag in (b"p", b"f")
                for dentry in view.dentries(tag + key16(session_id))
                if not dentry.is_directory
            )
        # Everything stands somewhere; what is no picture stands in images/ or in files/ too.
        assert {key[1:] for key in listed if key[:1] == b"P"} == {key16(key) for key in model.placements}


def test_the_library_is_what_dictionaries_say() -> None:
    run_state_machine_as_test(Dictionary, settings=settings_for(examples=15, steps=30))
