"""What every index engine must do; the one in memory is stricter, never laxer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixfs.errors import IndexDamaged, IndexFailed, IndexFull
from mixfs.index.engine import Engine, prefix_end
from mixfs.index.lmdb_engine import LmdbEngine
from mixfs.index.memory import MemoryEngine

ENGINES: dict[str, Callable[[Path], Engine]] = {
    "memory": lambda _: MemoryEngine(),
    "lmdb": lambda path: LmdbEngine(path / "index", map_size=1 << 24),
}
TINY = 1 << 16


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = ENGINES[request.param](tmp_path)
    yield engine
    engine.close()


def put(engine: Engine, **items: str) -> None:
    with engine.write() as txn:
        for key, value in items.items():
            txn.put(key.encode(), value.encode())


def everything(engine: Engine) -> list[tuple[bytes, bytes]]:
    with engine.read() as txn:
        return list(txn.scan(b"\0", b"\xff" * 512))


def test_put_get_delete(engine: Engine) -> None:
    put(engine, a="1", b="2")
    with engine.write() as txn:
        txn.put(b"a", b"3")
        assert txn.get(b"a") == b"3"
        assert txn.delete(b"b") is True
        assert txn.delete(b"b") is False
        assert txn.get(b"b") is None
        txn.put(b"empty", b"")
    with engine.read() as txn:
        assert (txn.get(b"a"), txn.get(b"b"), txn.get(b"empty")) == (b"3", None, b"")


keys = st.binary(min_size=1, max_size=5) | st.sampled_from([b"\xff", b"\xff\xff", b"\0", b"a" * 511])


@settings(deadline=None, database=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_it_is_an_ordered_map(engine: Engine, data: st.DataObject) -> None:
    with engine.write() as txn:
        for key, _ in list(txn.scan(b"\0", b"\xff" * 512)):
            txn.delete(key)
    model: dict[bytes, bytes] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        changes = data.draw(st.lists(st.tuples(keys, st.none() | st.binary(max_size=9)), max_size=8))
        fails = data.draw(st.booleans())
        before = dict(model)
        try:
            with engine.write() as txn:
                for key, value in changes:
                    if value is None:
                        assert txn.delete(key) == (model.pop(key, None) is not None)
                    else:
                        txn.put(key, value)
                        model[key] = value
                start, stop = data.draw(keys), data.draw(keys)
                assert list(txn.scan(start, stop)) == sorted((k, v) for k, v in model.items() if start <= k < stop)
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            model = before
        with engine.read() as txn:
            start, stop = data.draw(keys), data.draw(keys)
            assert list(txn.scan(start, stop)) == sorted((k, v) for k, v in model.items() if start <= k < stop)
            for key in [key for key, _ in changes]:
                assert txn.get(key) == model.get(key)


@settings(deadline=None, database=None, max_examples=100)
@given(st.binary(min_size=1, max_size=5), st.binary(min_size=1, max_size=7))
def test_prefix_end_bounds_just_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    assert (prefix <= key < prefix_end(prefix)) == key.startswith(prefix)


def test_a_reader_sees_one_state(engine: Engine) -> None:
    put(engine, a="1")
    with engine.read() as before:
        done = threading.Thread(target=put, args=(engine,), kwargs={"a": "2", "b": "2"})
        done.start()
        done.join()
        assert before.get(b"a") == b"1"
        assert list(before.scan(b"a", b"z")) == [(b"a", b"1")]
        with engine.read() as after:
            assert after.get(b"a") == b"2"
        assert before.get(b"b") is None


def test_a_write_is_undone_by_any_exception(engine: Engine) -> None:
    put(engine, a="1")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), engine.write() as txn:  # noqa: PT012
            txn.put(b"a", b"2")
            txn.put(b"b", b"2")
            raise error
    assert everything(engine) == [(b"a", b"1")]
    put(engine, a="3")
    assert everything(engine) == [(b"a", b"3")]


def test_readers_don_t_see_a_write_before_its_end(engine: Engine) -> None:
    with engine.write() as txn:
        txn.put(b"a", b"1")
        seen = []
        reader = threading.Thread(target=lambda: seen.append(everything(engine)))
        reader.start()
        reader.join()
    assert seen == [[]]
    assert everything(engine) == [(b"a", b"1")]


def test_a_transaction_can_t_be_used_after_its_end(engine: Engine) -> None:
    put(engine, a="1", b="2")
    with engine.read() as txn:
        scan = txn.scan(b"a", b"z")
        next(scan)
    with pytest.raises(Exception):  # noqa: B017 — LMDB's own error
        txn.get(b"a")
    with pytest.raises(Exception):  # noqa: B017
        next(scan)
    with engine.write() as writing:
        writing_scan = writing.scan(b"a", b"z")
        next(writing_scan)
    for use in (lambda: writing.put(b"c", b""), lambda: writing.delete(b"a"), lambda: next(writing_scan)):
        with pytest.raises(Exception):  # noqa: B017
            use()


def test_the_one_in_memory_is_stricter() -> None:
    engine = MemoryEngine()
    put(engine, a="1")
    with engine.read() as txn, pytest.raises(IndexDamaged):
        txn.put(b"a", b"2")
    with engine.write() as txn:
        errors = []

        def elsewhere() -> None:
            try:
                txn.put(b"a", b"2")
            except IndexDamaged as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(errors) == 1
        with pytest.raises(IndexDamaged):
            txn.put(b"a", bytearray(b"no bytes"))  # type: ignore[arg-type]
    with engine.read() as txn:
        pass
    with pytest.raises(IndexDamaged):
        txn.get(b"a")


@pytest.mark.parametrize("key", [b"", b"x" * 512])
def test_keys_have_1_to_511_bytes(engine: Engine, key: bytes) -> None:
    # A fault of the caller's: no reason to make the index anew.
    with pytest.raises(IndexFailed) as raised, engine.write() as txn:
        txn.put(key, b"")
    assert not isinstance(raised.value, IndexDamaged)
    put(engine, **{"y" * 511: "fits"})
    assert everything(engine) == [(b"y" * 511, b"fits")]


def test_a_scan_goes_on_while_its_own_transaction_writes(engine: Engine) -> None:
    with engine.write() as txn:
        for i in range(2000):
            txn.put(b"k%05d" % i, b"v" * 40)
    seen = []
    with engine.write() as txn:
        for key, _ in txn.scan(b"k", b"l"):
            seen.append(key)
            txn.delete(key)
            txn.put(b"j" + key[1:], b"before the scan")
            if key[-1:] == b"0":
                # Behind the scan's place, so the scan comes by; deleted before it does, so it does not.
                txn.put(key + b"+", b"new")
                txn.delete(b"k%05d" % (int(key[1:]) + 1))
            if len(key) > 6:
                txn.put(b"k00000", b"behind the place already passed")
    assert seen == sorted(seen)
    assert [key for key in seen if key.endswith(b"+")] == [b"k%05d+" % i for i in range(0, 2000, 10)]
    assert not any(key.endswith(b"1") for key in seen)
    with engine.read() as txn:
        assert len(list(txn.scan(b"j", b"k"))) == len(seen)


def test_a_new_engine_is_current_and_can_be_closed_at_once(engine: Engine) -> None:
    assert engine.is_current()
    engine.grow()
    put(engine, a="1")
    assert everything(engine) == [(b"a", b"1")]


def test_close_waits_for_readers(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "index", map_size=TINY)
    put(engine, a="1")
    reading, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def read() -> None:
        with engine.read() as txn:
            reading.set()
            go_on.wait(10)
            order.append(str(txn.get(b"a")))

    def close() -> None:
        engine.close()
        order.append("closed")

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    closer = threading.Thread(target=close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive() and order == []
    go_on.set()
    for thread in (reader, closer):
        thread.join(10)
    assert order == ["b'1'", "closed"]
    with pytest.raises(IndexDamaged), engine.read():
        pass


# -- LMDB alone


def fill(engine: Engine, values: int) -> None:
    with engine.write() as txn:
        for i in range(values):
            txn.put(b"%05d" % i, b"x" * 1000)


def test_a_full_map_grows_and_the_transaction_runs_again(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "index", map_size=TINY)
    put(engine, zz="kept")
    grown = 0
    while True:
        try:
            fill(engine, 500)
            break
        except IndexFull:
            assert everything(engine) == [(b"zz", b"kept")]
            engine.grow()
            grown += 1
    assert grown >= 3
    assert len(everything(engine)) == 501
    engine.close()
    # Whoever opens it next takes its size as it is.
    again = LmdbEngine(tmp_path / "index", map_size=TINY)
    assert len(everything(again)) == 501
    again.close()


_GROW = """
import sys
from pathlib import Path
from mixfs.errors import IndexFull
from mixfs.index.lmdb_engine import LmdbEngine
engine = LmdbEngine(Path(sys.argv[1]), map_size=1 << 16)
while True:
    try:
        with engine.write() as txn:
            for i in range(500):
                txn.put(b"%05d" % i, b"x" * 1000)
        break
    except IndexFull:
        engine.grow()
engine.close()
"""


@pytest.mark.parametrize("write", [False, True])
def test_a_map_that_another_process_grew_is_taken_over(tmp_path: Path, write: bool) -> None:
    engine = LmdbEngine(tmp_path / "index", map_size=TINY)
    put(engine, zz="kept")
    subprocess.run([sys.executable, "-c", _GROW, str(tmp_path / "index")], check=True, timeout=60)
    with engine.write() if write else engine.read() as txn:
        assert txn.get(b"00499") == b"x" * 1000
        assert txn.get(b"zz") == b"kept"
    engine.close()


def test_an_index_that_was_replaced_or_deleted_is_not_current(tmp_path: Path) -> None:
    path = tmp_path / "index"
    engine = LmdbEngine(path, map_size=TINY)
    put(engine, a="old")
    path.rename(tmp_path / "elsewhere")
    assert not engine.is_current()
    fresh = LmdbEngine(path, map_size=TINY)
    assert fresh.is_current() and not engine.is_current()
    put(fresh, a="new")
    assert everything(engine) == [(b"a", b"old")]
    assert everything(fresh) == [(b"a", b"new")]
    shutil.rmtree(path)
    assert not fresh.is_current()
    assert everything(fresh) == [(b"a", b"new")]
    fresh.close()
    engine.close()


def test_a_file_that_is_no_index_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "data.mdb").write_bytes(b"\x5a" * 20000)
    with pytest.raises(IndexDamaged, match="rebuild-index"):
        LmdbEngine(tmp_path / "index", map_size=TINY)
