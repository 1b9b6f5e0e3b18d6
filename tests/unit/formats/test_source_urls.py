"""URLs of servers: parsed strictly, and shown without what is secret in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_home import Home
from hypothesis import given
from hypothesis import strategies as st

from mixfs.errors import UsageError
from mixfs.formats.layouts import import_paths
from mixfs.formats.source_urls import check_place, is_url, local, looks_secret, masked, parse, without_password
from mixfs.library.api import Library

SECRET = "gehe1m"

FORMS = (
    "postgresql://user:gehe1m@[::1/koda", "postgresql://user:gehe1m#x@127.0.0.1:1/db",
    "postgresql://user:x#gehe1m@127.0.0.1:1/db", "postgresql://user:x/gehe1m@127.0.0.1:1/db",
    "postgresql://user:gehe1m/1@127.0.0.1:1/db", "POSTGRESQL://user:gehe1m@127.0.0.1:1/db",
    "postgresql://user:1?gehe1m=1@127.0.0.1:1/db", "postgresql://user:gehe1m@127.0.0.1:99999/db",
    "postgresql://user:gehe1m", "postgresql://user:%zzgehe1m@127.0.0.1:1/db", "postgresql:/user:gehe1m@h/db",
    "postgresql://127.0.0.1:1/db?password=gehe1m", "postgresql://127.0.0.1:1/db?p%61ssword=gehe1m",
    "postgresql://127.0.0.1:1/db?gehe1m=1", "postgresql://user:%00gehe1m@127.0.0.1:1/db",
    "libsql://127.0.0.1:1?authtoken=gehe1m", "libsql://127.0.0.1:1?AUTH_TOKEN=a&gehe1m=1", "libsql://gehe1m@127.0.0.1:1",
    "http://x:gehe1m@127.0.0.1:1/", "https://127.0.0.1:1/?authToken=gehe1m", "libsql://?authToken=gehe1m",
    "libsql://127.0.0.1:1#gehe1m", "mysql://user:gehe1m@h/db", "host=127.0.0.1 password=gehe1m", "user:gehe1m@h/db",
    " postgresql://user:gehe1m@h/db", "jdbc:postgresql://h/db?password=gehe1m", "libsql:127.0.0.1?auth_token=gehe1m",
)  # fmt: skip


def test_no_form_of_a_url_shows_its_password(home: Home) -> None:
    """Whatever is wrong with it, it is wrong usage or a server that can't be had, and is said without the secret."""
    codes = set()
    for form in FORMS:
        ran = home.run("import", form, "--json", code=None)
        assert ran.code in (1, 2), (form, ran)
        assert SECRET not in ran.out + ran.err, form
        codes.add(ran.code)
    assert codes == {1, 2}
    # Nor where no URL is meant at all.
    for words in ([FORMS[5]], ["sessions", "--library", FORMS[0]], ["show", FORMS[22]]):
        ran = home.run(*words, code=None)
        assert ran.code != 70 and SECRET not in ran.out + ran.err
    for folder, _, names in os.walk(home.path):
        for name in names:
            assert SECRET.encode() not in Path(folder, name).read_bytes(), name


def test_a_bug_leaves_no_password(home: Home, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import mixfs.formats.layouts as l\n"
        "def broken(library, places, *rest, **more): raise RuntimeError('bad ' + places[0])\n"
        "l.import_paths = broken\n"
    )
    log = home.path / ".local" / "state" / "mixfs" / "errors.log"
    log.parent.mkdir(parents=True)
    log.touch(0o644)
    ran = home.run(
        "import", FORMS[5], code=70, env={"PYTHONPATH": f"{tmp_path}:{home.env['PYTHONPATH']}"}
    )  # fmt: skip
    assert SECRET not in ran.err and "RuntimeError" in log.read_text() and SECRET not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_parts_of_a_url() -> None:
    url = parse("postgres://%C3%A4da:p%40%2F%23@[::1]:5432,h2:1/k%C3%B6da?sslmode=require&password=other")
    assert url.parameters() == {
        "host": "::1,h2", "port": "5432,1", "user": "äda", "password": "other", "dbname": "köda", "sslmode": "require"
    }  # fmt: skip
    assert url.shown == "postgres://%C3%A4da@[::1]:5432,h2:1/k%C3%B6da?sslmode=require&password=…"
    assert "p@" not in repr(url) and "other" not in repr(url)
    assert parse("postgresql://mixfs@/db?host=%2Ftmp").parameters() == {"user": "mixfs", "dbname": "db", "host": "/tmp"}
    assert parse("LIBSQL://h.io:8080/a?Auth_Token=t").token == "t" == parse("https://:t@h.io").token
    assert [parse("libsql://h.io").hosts, parse("http://[::1]:1").hosts] == [(("h.io", None),), (("::1", 1),)]
    with pytest.raises(UsageError, match="parameter that PostgreSQL does not know"):
        parse("postgresql://h/d?x=1").parameters()


@given(st.text("aZ1:/@?#[]%=&. \t\0ü-", max_size=30), st.sampled_from(["postgresql://", "libsql://", "http://", "x://"]))
def test_any_text_is_parsed_or_refused_and_never_shown_with_a_password(text: str, scheme: str) -> None:
    url = f"{scheme}user:{SECRET}{text}"
    if is_url(url):
        assert SECRET not in without_password(f"{url}@host")
    for place in (url, f"{url}@host", f"{scheme}host?{text}password={SECRET}"):
        assert looks_secret(place)
        assert f"{SECRET}" not in masked(f"error: {place!s}", [place]) or SECRET in without_password(place)
        try:
            check_place(place)
        except UsageError as error:
            assert SECRET not in str(error)


def test_an_import_from_python_reports_what_is_wrong_with_a_url(library: Library) -> None:
    [report] = import_paths(library, [FORMS[0]]).layouts
    assert "not well-formed" in report.not_taken[0].reason and SECRET not in repr(report)


def test_a_file_url_needs_a_path() -> None:
    assert local("file:///a%20b?mode=ro") == "/a b" and local("FILE:x") == "x" and local("file://localhost/x") == "/x"
    for text in ("file:", "file://", "file://elsewhere/x", "file://[::1/x"):
        with pytest.raises(UsageError):
            local(text)
