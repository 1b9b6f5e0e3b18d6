"""Tasks that wait for requests: each request is taken once, and who has something else to do gets a turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mixfs.fuse.receiving import IN_A_ROW, Receiving


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Where requests come from, one byte each; and where they are put in. As with /dev/fuse, reading blocks."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


async def take(receiving: Receiving, fd: int) -> bytes:
    """As pyfuse3's tasks do: nothing awaits between the waiting and the read."""
    async with receiving:
        await receiving.wait_readable(fd)
    return os.read(fd, 1)


async def test_each_request_is_taken_once(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    receiving, taken = Receiving(lambda: False), []

    async def work() -> None:
        taken.append(await take(receiving, source))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(work)
            await wait_all_tasks_blocked()
            # One waits in epoll, the others for the lock. This one is first, and takes what wakes them.
            os.write(sink, b"a")
            assert await take(receiving, source) == b"a"
            await wait_all_tasks_blocked()
            assert taken == []
            os.write(sink, b"bcd")
    assert sorted(taken) == [b"b", b"c", b"d"]


async def test_others_have_a_turn(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    receiving, turns = Receiving(lambda: False), []

    async def other() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            turns.append(None)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            # The first tells it of the descriptor.
            os.write(sink, b"x")
            await take(receiving, source)
            turns.clear()
            os.write(sink, b"y" * 5 * IN_A_ROW)
            for _ in range(5 * IN_A_ROW):
                await take(receiving, source)
            nursery.cancel_scope.cancel()
    # Four turns of all tasks; in the last of them it may come after the last request.
    assert len(turns) >= 3


async def test_a_request_that_comes_soon_is_not_waited_for_while_another_waits(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    asked = []

    def busy() -> bool:
        asked.append(None)
        return True

    receiving = Receiving(busy)
    os.write(sink, b"x")
    await take(receiving, source)
    with trio.move_on_after(0.05):
        await take(receiving, source)
    assert asked
    # Cancelled in epoll, it has given the lock back.
    os.write(sink, b"y")
    with trio.fail_after(10):
        assert await take(receiving, source) == b"y"
