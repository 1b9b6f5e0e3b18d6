"""Workflow packages: what comes in, what goes out again, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_home import Home
from format_home import package, picture, read_package, take, write_package
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mixfs.errors import ExistsError
from mixfs.formats import zips
from mixfs.formats.fetching import NotFetched, fetch
from mixfs.formats.layouts import detect
from mixfs.formats.workflow_package import not_carried, write
from mixfs.library.api import Library
from mixfs.library.canvas_json import save
from mixfs.library.editing import member_id
from mixfs.records import Edge, Entry, Generation, Member, Session


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_package(tmp_path / "a.genaiw.zip", package())


def test_a_package_is_a_session_with_its_canvas(library: Library, source: Path) -> None:
    before = source.read_bytes()
    report = take(library, source)
    assert (report.not_taken, report.known) == ([], {})
    assert report.taken == {"sessions": 1, "pictures": 2, "files": 1, "entries": 3, "edges": 2}
    assert ["https://example.com/x.png" in item.reason for item in report.skipped] == [True]
    session = library.find_session("My Workflow")
    assert (session.id, session.zoom, session.pan_x, session.pan_y) == ("wf-1", 0.8, 1.5, -2)
    names = {placement.name: placement for placement in library.placements("wf-1")}
    assert set(names) == {b"as-1.png", b"as-2.jpg", b"unlisted.bin"}
    assert library.read_image(names[b"as-1.png"].digest) == picture(1)
    nodes = {entry.shown_id: entry for entry in library.entries("wf-1")}
    assert list(nodes) == ["n1", "n2", "n3"]
    assert nodes["n2"].digest == names[b"as-1.png"].digest
    assert [(edge.source, edge.target) for edge in sorted(library.edges("wf-1"), key=lambda edge: edge.shown_id)] == [
        ("n1", "n2"), ("n2", "n3"),
    ]  # fmt: skip
    assert source.read_bytes() == before


def test_a_second_import_changes_nothing(library: Library, source: Path) -> None:
    taken = take(library, source).taken
    with library.read() as view:
        state = view.state()
    report = take(library, source)
    assert (report.taken, report.known, report.differs, report.not_taken) == ({}, taken, 0, [])
    with library.read() as view:
        assert view.state()[0] == state[0]


def test_what_was_changed_here_stays(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    entry = next(entry for entry in library.entries("wf-1") if entry.shown_id == "n1")
    library.put_entry(Entry(**{**_fields(entry), "x": 77.0}))
    assert take(library, source).differs == 1
    write(library, "wf-1", tmp_path / "out.zip")
    assert read_package(tmp_path / "out.zip")["workflow.json"]["nodes"][0]["position"] == {"x": 77.0, "y": 0}


def test_the_same_ids_in_another_workflow_are_other_nodes(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    other = package()
    other["workflow.json"] |= {"id": "wf-2", "name": "Another"}
    other["manifest.json"]["workflow"]["id"] = "wf-2"
    other["workflow.json"]["nodes"][0]["title"] = "Other"
    take(library, write_package(tmp_path / "b.genaiw.zip", other))
    for session_id, title in (("wf-1", "Prompt"), ("wf-2", "Other")):
        assert [entry.data["title"] for entry in library.entries(session_id)] == [title, "Out", "Remote"]
        assert len(library.edges(session_id)) == 2


def test_ids_do_not_depend_on_what_came_first(source: Path, tmp_path: Path) -> None:
    """Two replicas that import the same packages in another order have the same records."""
    members = package()
    members["workflow.json"]["id"] = members["manifest.json"]["workflow"]["id"] = "wf-2"
    other = write_package(tmp_path / "b.genaiw.zip", members)
    found = []
    for at, order in enumerate(((source, other), (other, source))):
        with Library.open(tmp_path / f"replica{at}") as replica:
            for path in order:
                take(replica, path)
            ids = [member.id for wf in ("wf-1", "wf-2") for member in (*replica.entries(wf), *replica.edges(wf))]
            ids += [placement.id for wf in ("wf-1", "wf-2") for placement in replica.placements(wf)]
            found.append(sorted(ids))
    assert found[0] == found[1] and len(set(found[0])) == 16


def test_a_dry_run_says_the_same_and_writes_nothing(library: Library, source: Path) -> None:
    report = take(library, source, dry_run=True)
    assert library.sessions() == [] and not list((library.root / "blobs").rglob("*"))
    assert report.taken == take(library, source).taken


def test_it_goes_out_as_it_came_in(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    write(library, "wf-1", tmp_path / "out.genaiw.zip")
    assert read_package(tmp_path / "out.genaiw.zip") == read_package(source)
    with pytest.raises(ExistsError):
        write(library, "wf-1", tmp_path / "out.genaiw.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.genaiw.zip", "library", "out.genaiw.zip"]


def test_canvas_json_has_all_that_the_workflow_says(library: Library, source: Path, tmp_path: Path) -> None:
    take(library, source)
    with library.read() as view:
        document = view.render_session_document(library.session("wf-1"), "canvas.json")
        state = view.state()
    canvas = json.loads(document)
    assert [entry["canvasId"] for entry in canvas["canvas_images"]] == ["n1", "n2", "n3"]
    assert {(edge["id"], edge["source"], edge["target"]) for edge in canvas["edges"]} == {
        ("e1", "n1", "n2"), ("e2", "n2", "n3"),
    }  # fmt: skip
    assert canvas["canvas_images"][1]["config"] == {}
    # Saved as it is, it changes nothing; made again from nothing else, it is the same package.
    library.commit(lambda txn: save(txn, "wf-1", "canvas.json", document))
    with library.read() as view:
        assert view.state()[0] == state[0]
    for entry in library.entries("wf-1"):
        library.delete_entry(entry.id)
    library.commit(lambda txn: save(txn, "wf-1", "canvas.json", document))
    write(library, "wf-1", tmp_path / "out.zip")
    nodes = read_package(source)["workflow.json"]["nodes"]
    assert read_package(tmp_path / "out.zip")["workflow.json"]["nodes"] == nodes


def test_detection_goes_by_content(source: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "x.bin"
    renamed.write_bytes(source.read_bytes())
    assert detect(renamed) is not None
    plain = tmp_path / "plain.zip"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("notes.txt", "x")
    assert detect(plain) is None and detect(tmp_path) is None and detect(tmp_path / "none") is None
    assert detect(write_package(tmp_path / "odd.zip", {"manifest.json": b"{}"})) is None


# -- what is refused


def _with(members: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: write_package(path, package() | members) and None


def _raw(change: Callable[[zipfile.ZipFile], None]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        write_package(path, package())
        with zipfile.ZipFile(path, "a") as archive:
            change(archive)

    return build


def _entry(name: str, **fields: Any) -> Callable[[zipfile.ZipFile], None]:
    def add(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        for key, value in fields.items():
            setattr(entry, key, value)
        archive.writestr(entry, b"x")

    return add


def _edited(where: str, path: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def build(target: Path) -> None:
        members = package()
        inner = members[where]
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        write_package(target, members)

    return build


def _truncated(path: Path) -> None:
    write_package(path, package())
    path.write_bytes(path.read_bytes()[:-30])


def _flipped(path: Path) -> None:
    """A bit of an asset's packed bytes."""
    write_package(path, package())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("assets/as-2.jpg").header_offset
    data = bytearray(path.read_bytes())
    data[at + 200] ^= 1
    path.write_bytes(data)


def _overlapping(path: Path) -> None:
    """An entry whose bytes are another one's too: its local header lies within the other's data."""
    write_package(path, package())
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        target = archive.getinfo("assets/as-1.png").header_offset
    at = data.rfind(b"PK\1\2")
    struct.pack_into("<L", data, at + 42, target)
    path.write_bytes(data)


def _lying_size(path: Path) -> None:
    """The list of entries says that an asset is shorter than it is."""
    write_package(path, package())
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\1\2")
    struct.pack_into("<L", data, at + 24, 3)
    path.write_bytes(data)


def _twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("assets/as-1.png", picture(9))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "absolute": (_raw(_entry("/etc/x")), "leads out"),
    "parent": (_raw(_entry("assets/../../x")), "leads out"),
    "backslash": (_raw(_entry("..\\x")), "leads out"),
    "drive": (_raw(_entry("C:x")), "leads out"),
    "link": (_raw(_entry("assets/l", external_attr=0o120777 << 16)), "link or a device"),
    "device": (_raw(_entry("assets/d", external_attr=0o020666 << 16)), "link or a device"),
    "bzip2": (_raw(_entry("assets/b", compress_type=zipfile.ZIP_BZIP2)), "method 12"),
    "duplicate": (_raw(_twice), "twice"),
    "bomb": (_with({"assets/bomb.bin": bytes(50 << 20)}), "would grow"),
    "overlap": (_overlapping, "lies over|not where"),
    "lying size": (_lying_size, "damaged"),
    "truncated": (_truncated, "its end is missing"),
    "flipped": (_flipped, "damaged"),
    "no manifest": (lambda path: write_package(path, {"workflow.json": {}}) and None, "no manifest.json"),
    "manifest no json": (_with({"manifest.json": b"{"}), "manifest.json: Line 1"),
    "too new": (_edited("manifest.json", ("packageVersion",), 2), "packageVersion is 2"),
    "no workflow": (_edited("manifest.json", ("workflow", "file"), "other.json"), "not in the package"),
    "workflow no object": (_with({"workflow.json": b"[]"}), "must be a JSON object"),
    "hash": (_edited("manifest.json", ("assets", 0, "hash"), "sha256-" + "0" * 64), "its SHA-256 is"),
    "bytes": (_edited("manifest.json", ("assets", 0, "bytes"), 3), r"assets\[0\] has \d+ bytes, not 3"),
    "asset missing": (_edited("manifest.json", ("assets", 0, "file"), "assets/none"), r"assets\[0\]: file"),
    "asset twice": (_edited("manifest.json", ("assets", 1, "id"), "as-1"), "'as-1' stands there twice"),
    "node twice": (_edited("workflow.json", ("nodes", 1, "id"), "n1"), "'n1' stands there twice"),
    "node no object": (_edited("workflow.json", ("nodes", 1), 3), r"nodes\[1\] must be an object"),
    "node without place": (_edited("workflow.json", ("nodes", 1, "position"), None), r"nodes\[1\].position"),
    "position no number": (_edited("workflow.json", ("nodes", 1, "position", "x"), "3"), r"position.x must be"),
    "unknown asset": (_edited("workflow.json", ("nodes", 1, "result", "id"), "as-9"), "names the asset 'as-9'"),
    "edge without source": (_edited("workflow.json", ("edges", 0, "source"), None), r"edges\[0\].source"),
    "no id": (_edited("workflow.json", ("id",), ""), "id is empty"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_hostile_or_broken_leaves_no_trace(library: Library, tmp_path: Path, kind: str) -> None:
    build, reason = HOSTILE[kind]
    path = tmp_path / "h.genaiw.zip"
    build(path)
    for dry_run in (True, False):
        report = take(library, path, dry_run=dry_run)
        assert report.taken == {} and len(report.not_taken) == 1
        _must_match(reason, report.not_taken[0].reason)
    assert library.sessions() == []
    assert not [file for place in ("blobs", "staging") for file in (library.root / place).rglob("*")
                if file.is_file() and file.name != "lock"]  # fmt: skip


def _must_match(pattern: str, text: str) -> None:
    assert re.search(pattern, text), f"{pattern!r} is not in {text!r}"


def test_limits_of_a_package(library: Library, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, words in (
        ("MAX_ENTRIES", 4, "5 entries"), ("MAX_DIRECTORY", 50, "list of entries"), ("MAX_BYTES", 900, "Unpacked"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(zips, name, value)
            _must_match(words, take(library, source).not_taken[0].reason)


# -- what lies on the web


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/x.png": (200, {"Content-Type": "image/png"}, picture(3)),
    "/page": (200, {"Content-Type": "text/html"}, b"<p>"),
    "/gone": (404, {"Content-Type": "image/png"}, b""),
    "/there": (302, {"Location": "/x.png"}, b""),
    "/round": (302, {"Location": "/round"}, b""),
    "/file": (302, {"Location": "file:///etc/passwd"}, b""),
    "/huge": (200, {"Content-Type": "image/png", "Content-Length": str(1 << 40)}, b""),
    "/short": (200, {"Content-Type": "image/png", "Content-Length": "999999"}, b"short"),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, body = ANSWERS[self.path]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_fetch_downloads_what_is_named_by_url(library: Library, server: _Server, tmp_path: Path) -> None:
    source = write_package(tmp_path / "a.genaiw.zip", package(f"{server.url}/there"))
    report = take(library, source, fetch=True, fetch_private=True)
    assert report.not_taken == [] and report.taken["pictures"] == 3
    assert picture(3) in [library.read_image(placement.digest) for placement in library.placements("wf-1")]
    entry = next(entry for entry in library.entries("wf-1") if entry.shown_id == "n3")
    assert entry.digest == hashlib.sha256(picture(3)).digest()
    # It keeps its URL, also in the package; --embed-remote puts it in.
    write(library, "wf-1", tmp_path / "url.zip")
    assert read_package(tmp_path / "url.zip") == read_package(source)
    write(library, "wf-1", tmp_path / "in.zip", embed_remote=True)
    _embedded(read_package(tmp_path / "in.zip"))


def _embedded(members: dict[str, Any]) -> None:
    asset = members["manifest.json"]["assets"][2]
    assert asset["origin"] == "embedded" and asset["hash"] == "sha256-" + hashlib.sha256(picture(3)).hexdigest()
    assert members[asset["file"]] == picture(3)
    assert members["workflow.json"]["nodes"][2]["result"] == {"kind": "embedded", "id": "as-3"}


def test_embed_remote_downloads_what_is_not_there(library: Library, server: _Server, tmp_path: Path) -> None:
    take(library, write_package(tmp_path / "a.genaiw.zip", package(f"{server.url}/x.png")))
    write(library, "wf-1", tmp_path / "in.zip", embed_remote=True, fetch_private=True)
    _embedded(read_package(tmp_path / "in.zip"))
    with pytest.raises(NotFetched, match="no public address"):
        write(library, "wf-1", tmp_path / "not.zip", embed_remote=True)
    assert not (tmp_path / "not.zip").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/page", "text/html"), ("/gone", "404"), ("/round", "more than 5 times"), ("/file", "only http and https"),
     ("/huge", "MiB are allowed"), ("/short", "did not come")],
)  # fmt: skip
def test_what_is_not_fetched_is_reported(
    library: Library, server: _Server, tmp_path: Path, path: str, reason: str
) -> None:
    source = write_package(tmp_path / "a.genaiw.zip", package(server.url + path))
    report = take(library, source, fetch=True, fetch_private=True)
    assert report.taken["pictures"] == 2 and len(report.not_taken) == 1
    assert report.not_taken[0].place == "manifest.json: assets[2]"
    _must_match(reason, report.not_taken[0].reason)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x", "http://localhost/x", "http://[::1]/x", "http://10.1.2.3/x", "http://169.254.169.254/x",
     "http://[::ffff:127.0.0.1]/x", "http://[64:ff9b::7f00:1]/x", "http://0.0.0.0/x", "ftp://example.com/x",
     "file:///etc/passwd", "http:///x", "http://[bad/x", "http://127.0.0.1:99999/x"],
)  # fmt: skip
def test_addresses_that_are_not_asked(url: str) -> None:
    with pytest.raises(NotFetched):
        fetch(url)


# -- whatever the model holds


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
numbers = st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | plain,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(plain, inner, max_size=2),
    max_leaves=4,
)
keys = plain | st.sampled_from(
    ["position", "size", "result", "node", "title", "x-mixfs", "config", "sourceHandle", "source", "z", "kind"]
)
odd = values | st.fixed_dictionaries({"x": values}) | st.just({}) | st.just({"kind": "embedded", "id": "as-1"})
data = st.dictionaries(keys.filter(lambda key: key not in _SHOWN), odd, max_size=3)
_SHOWN = {"canvasId", "imageHash", "type", "x", "y", "width", "height", "text", "generationId", "id", "target"}
entries = st.lists(
    st.builds(
        Entry, id=plain.filter(bool), session_id=st.just(""), type=plain, x=numbers, y=numbers,
        width=st.none() | numbers, height=st.none() | numbers, z=st.integers(-3, 3), text=st.none() | plain,
        generation_id=st.none() | plain, data=data,
    ),
    max_size=4, unique_by=lambda entry: entry.id,
)  # fmt: skip
edges = st.lists(
    st.builds(
        Edge, id=plain.filter(bool), session_id=st.just(""), source=plain, target=plain,
        source_handle=st.none() | plain, target_handle=st.none() | plain, data=data,
    ),
    max_size=3, unique_by=lambda edge: edge.id,
)  # fmt: skip


# Shrinking would take minutes: each example is two libraries' commits.
@settings(
    max_examples=40, deadline=None, phases=(Phase.reuse, Phase.generate), suppress_health_check=[HealthCheck.too_slow]
)
@given(
    title=plain.filter(str.strip), zoom=st.none() | numbers, pan=st.none() | numbers, user=st.none() | plain,
    entries=entries, edges=edges, shown=st.none() | st.integers(0, 2),
)  # fmt: skip
def test_what_a_session_holds_comes_back_equal(
    two: tuple[Library, Library, Path], title: str, zoom: float | None, pan: float | None, user: str | None,
    entries: list[Entry], edges: list[Edge], shown: int | None,
) -> None:  # fmt: skip
    one, other, path = two
    session = one.create_session(title, user_id=user)
    one.update_session(session.id, zoom=zoom, pan_x=pan)
    for seed in (1, 2):
        one.import_bytes(picture(seed), f"ä {seed}.png", session_id=session.id, role="reference")
    digest = one.placements(session.id)[0].digest
    for at, entry in enumerate(entries):
        own = _ids(one, Entry, session.id, entry.id) | {"digest": digest if at == shown else None}
        one.put_entry(dataclasses.replace(entry, **own))
    for edge in edges:
        one.put_edge(dataclasses.replace(edge, **_ids(one, Edge, session.id, edge.id)))
    target = path / "p.zip"
    target.unlink(missing_ok=True)
    write(one, session.id, target)
    assert not_carried(one, session.id) == ()
    report = take(other, target)
    assert report.not_taken == []
    try:
        assert _comparable(one, session.id) == _comparable(other, session.id)
        # Into the library that it came from it brings nothing.
        assert take(one, target).taken == {}
    finally:
        other.delete_session(session.id)


def _ids(library: Library, cls: type[Member], session_id: str, shown_id: str) -> dict[str, Any]:
    with library.read() as view:
        own_id, foreign_id = member_id(view, cls, session_id, shown_id)
    return {"id": own_id, "foreign_id": foreign_id, "session_id": session_id}


def _comparable(library: Library, session_id: str) -> Any:
    session: Session = library.session(session_id)
    return (
        (session.title, session.user_id, session.zoom, session.pan_x),
        [_kept(entry) for entry in sorted(library.entries(session_id), key=lambda entry: (entry.z, entry.shown_id))],
        sorted((_kept(edge) for edge in library.edges(session_id)), key=repr),
        sorted((p.name, p.digest, p.role, p.id) for p in library.placements(session_id)),
    )


def _kept(record: Any) -> dict[str, Any]:
    return {name: value for name, value in _fields(record).items() if name not in ("named_ns", "changed_ns", "unknown")}


def test_an_export_says_beforehand_what_has_no_place(library: Library, home: Home, tmp_path: Path) -> None:
    session = library.create_session("Trip")
    placement = library.import_bytes(picture(1), "a.png", session_id=session.id)
    library.annotate(placement.digest, tags=["sea"])
    library.put_generation(Generation(id="g", session_id=session.id, prompt="a cat"))
    assert not_carried(library, session.id) == (
        "generations (1)", "tags, ratings and comments of pictures (1)",
    )  # fmt: skip
    library.close()
    ran = home.run(
        "export", "Trip", tmp_path / "t.genaiw.zip", "--format", "workflow-package", "--library", library.root, "--json"
    )
    assert "no place for generations (1)" in ran.err and ran.json["not_carried"][0] == "generations (1)"
    assert ran.json["files"] == len(read_package(tmp_path / "t.genaiw.zip"))


# -- the command line, and what others made


def test_import_and_its_exit_codes(home: Home, tmp_path: Path) -> None:
    good = write_package(tmp_path / "good.genaiw.zip", package())
    would = home.run("import", "--dry-run", good).out
    assert "would take in 1 session, 2 pictures, 1 file, 3 entries, 2 connections" in would
    assert not home.library.exists()
    report = home.run("import", good, "--json").json
    assert (report["imported"], report["kept_as_files"]) == (2, 1)
    assert [layout["format"] for layout in report["layouts"]] == ["workflow-package"]
    assert "known already" in home.run("import", good).out
    bad = tmp_path / "bad.genaiw.zip"
    _truncated(bad)
    ran = home.run("import", bad, good, code=1)
    assert "bad.genaiw.zip: It is no whole ZIP file" in ran.err and "1 not taken" in ran.out
    assert home.run("import", bad, "--format", "files").code == 0
    assert "no layout 'odd'" in home.run("import", bad, "--format", "odd", code=2).err


def test_the_samples_that_others_made(library: Library, samples: Path, tmp_path: Path) -> None:
    expected = json.loads((samples / "EXPECTED.json").read_text())["genaiw"]
    good = samples / "genaiw" / "good.genaiw.zip"
    report = take(library, good)
    assert report.taken == {
        "sessions": 1, "pictures": len(expected["digests"]), "entries": expected["nodes"], "edges": expected["edges"],
    }  # fmt: skip
    session = library.find_session(expected["name"])
    assert session.id == expected["id"]
    assert {placement.digest.hex() for placement in library.placements(session.id)} == set(expected["digests"])
    write(library, session.id, tmp_path / "out.zip")
    assert read_package(tmp_path / "out.zip") == read_package(good)
    hostile = sorted((samples / "genaiw").glob("hostile-*"))
    assert len(hostile) == 6
    for path in hostile:
        report = take(library, path)
        assert report.taken == {} and len(report.not_taken) == 1, path
    assert [session.id for session in library.sessions()] == [expected["id"]]
