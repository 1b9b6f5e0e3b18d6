"""How results are put: sizes, tables, names that are no text."""

from __future__ import annotations

import pytest

from mixfs.cli import output
from mixfs.library import doctor


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1536, "1.5 kB"), (123_456, "123 kB"), (5e12, "5.0 TB")],
)
def test_sizes(size: float, words: str) -> None:
    assert output.human_bytes(size) == words


def test_names_can_t_move_the_cursor() -> None:
    assert output.plain("café 日本") == "café 日本"
    assert output.plain(b"a\x1b[2J\xff\n\x7f") == "a\\x1b[2J\\xff\\n\\x7f"
    assert output.plain("a\u202eb") == "a\\u202eb"


def test_a_table_stands_in_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "N"), [("日本", "1"), ("a", "20")], right=(1,))
    assert capsys.readouterr().out == "NAME   N\n日本   1\na     20\n"


def test_a_long_text_on_one_line() -> None:
    assert output.one_line("a\n b\tc") == "a b c"
    assert output.one_line("word " * 40, 20) == "word word word word…"


def test_doctor_says_what_to_do(tmp_path: object) -> None:
    gone = doctor.check_device("There is no /dev/fuse: load the module.")
    assert (gone.state, gone.remedy) == (doctor.PROBLEM, "Load the module.")
    assert doctor.check_device("").state == doctor.OK
    assert "fuse3" in doctor.check_fusermount(None).remedy
    assert doctor.check_allow_other(True).remedy == "" and doctor.check_allow_other(False).remedy
    assert doctor.check_sandbox("", False).state == doctor.OK
    assert "libseccomp2" in doctor.check_sandbox("no library", False).remedy
    assert doctor.check_sandbox("a worker did not start", True).state == doctor.PROBLEM
    stale = doctor.check_mounts(["/m"], [])
    assert stale.state == doctor.PROBLEM and "mixfs mount /m" in stale.remedy
    assert doctor.check_mounts([], ["/m"]).text == "Mounted at /m."
