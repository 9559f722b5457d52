"""Sends that end at once, that wait, that fail, and that nobody reads."""

import asyncio
from typing import Any

import pytest

from offloop.fastapi.patience import PATIENCE, SLOWEST, Reader, patiently


@pytest.fixture(autouse=True)
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each timer that was made was to wait."""
    made: list[float] = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: (made.append(seconds), timeout(seconds))[1])
    return made


def run(main: Any) -> Any:
    return asyncio.run(asyncio.wait_for(main, 10))


def test_what_ends_at_once_costs_no_timer(timers: list[float]) -> None:
    sent: list[int] = []

    async def send() -> None:
        sent.append(1)

    run(patiently(send(), 5.0))
    assert (sent, timers) == ([1], [])


def test_what_waits_goes_on_where_it_was_and_any_awaitable_will_do(timers: list[float]) -> None:
    steps: list[str] = []

    async def main() -> None:
        first, second = asyncio.Event(), asyncio.Event()

        async def send() -> None:
            steps.append("begun")
            await first.wait()
            steps.append("first")
            await asyncio.gather(second.wait(), asyncio.sleep(0))
            steps.append("second")

        async def read() -> None:
            first.set()
            await asyncio.sleep(0)
            second.set()

        await asyncio.gather(patiently(send(), 5.0), read())
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, None)
        await patiently(future, 5.0)

    run(main())
    assert steps == ["begun", "first", "second"]
    assert timers == [5.0, 5.0]


def test_who_does_not_read_in_time_has_the_send_cancelled() -> None:
    ends: list[type[BaseException]] = []

    async def send() -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as end:
            ends.append(type(end))
            raise

    with pytest.raises(TimeoutError):
        run(patiently(send(), 0.0))
    assert ends == [asyncio.CancelledError]


@pytest.mark.parametrize("waits", [False, True])
def test_a_send_that_fails_fails(waits: bool) -> None:
    async def send() -> None:
        if waits:
            await asyncio.sleep(0)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        run(patiently(send(), 5.0))


def test_whoever_sends_can_be_cancelled_and_the_send_with_it() -> None:
    ended = False

    async def main() -> None:
        async def send() -> None:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended = True

        task = asyncio.ensure_future(patiently(send(), 5.0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert ended


@pytest.mark.parametrize(
    ("sizes", "allowed"),
    [([0], 0), ([5], 5), ([5, 0], 5), ([5, 0, 0], 5), ([5, 0, 0, 0], 0), ([3, 2, 1], 6), ([4, 3, 2, 1], 6)],
)
def test_who_reads_slowly_has_time_for_the_message_and_for_the_two_before_it(
    sizes: list[int], allowed: int, timers: list[float]
) -> None:
    """In seconds, at the slowest rate."""

    async def main() -> None:
        reader = Reader()
        for size in sizes:
            await reader.takes(asyncio.sleep(0), size * SLOWEST)

    run(main())
    assert timers[-1] == PATIENCE + allowed
