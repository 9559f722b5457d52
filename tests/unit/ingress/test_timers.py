import asyncio

import pytest

from offloop.ingress.timers import LoopTimers

pytestmark = pytest.mark.anyio


async def test_an_instant_is_told_by_our_clock() -> None:
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    LoopTimers(loop, clock=lambda: 1000.0).call_at(1000.01, lambda: fired.set_result(None))
    await asyncio.wait_for(fired, 5.0)


async def test_an_instant_that_has_passed_is_now() -> None:
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    LoopTimers(loop, clock=lambda: 1000.0).call_at(1.0, lambda: fired.set_result(None))
    await asyncio.wait_for(fired, 5.0)


async def test_a_cancelled_timer_never_fires() -> None:
    loop = asyncio.get_running_loop()
    timers, fired = LoopTimers(loop, clock=lambda: 0.0), []
    timers.call_at(0.0, lambda: fired.append("cancelled")).cancel()
    done = loop.create_future()
    timers.call_at(0.001, lambda: done.set_result(None))
    await asyncio.wait_for(done, 5.0)
    assert fired == []
