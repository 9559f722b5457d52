"""Who has more to do than others are to wait for: how much is done in each turn of the event loop."""

import asyncio

import pytest

from offloop.ingress.turns import AT_ONCE, Share, Turns

pytestmark = pytest.mark.anyio


async def in_turns(tasks: int, things: int = 200) -> tuple[list[int], list[int]]:
    """So many tasks do so many things each. How many were done in each turn, and by each, until the first was ready."""
    turns = Turns()
    done = [0] * tasks
    by_turn: list[int] = []

    async def doing(number: int) -> None:
        share = Share(turns)
        for _ in range(things):
            await share.over()
            done[number] += 1
            share.done()

    running = [asyncio.ensure_future(doing(number)) for number in range(tasks)]
    by_task: list[int] = []
    while not any(task.done() for task in running):
        before, by_task = sum(done), list(done)
        await asyncio.sleep(0)
        by_turn.append(sum(done) - before)
    await asyncio.gather(*running)
    assert turns.waiting == 0
    assert done == [things] * tasks
    return by_turn[:-1], by_task


async def test_one_does_so_much_and_then_the_others_have_their_turn() -> None:
    by_turn, _ = await in_turns(1)
    assert by_turn == [AT_ONCE] * (200 // AT_ONCE)


@pytest.mark.parametrize("tasks", [2, 3, 8, AT_ONCE, 5 * AT_ONCE])
async def test_several_share_what_one_may_do_and_none_is_left_behind(tasks: int) -> None:
    first, *by_turn = (await in_turns(tasks))[0]
    # Each does a whole number of things. In the first turn none knows yet of those that come after it.
    assert max(by_turn) <= AT_ONCE + tasks
    assert first <= AT_ONCE * sum(1 / n for n in range(1, tasks + 1)) + tasks
    by_task = (await in_turns(tasks))[1]
    assert max(by_task) - min(by_task) <= AT_ONCE


async def test_who_has_little_to_do_is_not_held_up() -> None:
    turns = Turns()
    share = Share(turns)
    steps: list[str] = []
    asyncio.get_running_loop().call_soon(steps.append, "another's turn")
    for _ in range(AT_ONCE - 1):
        share.done()
        await share.over()
    assert steps == []
    share.done()
    await share.over()
    assert steps == ["another's turn"]


async def test_who_is_cancelled_while_it_waits_is_not_counted_any_more() -> None:
    turns = Turns()
    share = Share(turns)
    for _ in range(AT_ONCE):
        share.done()
    task = asyncio.ensure_future(share.over())
    await asyncio.sleep(0)
    assert turns.waiting == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert turns.waiting == 0
