"""A web process' own workers of several pools are one workforce: up together, or not at all."""

import asyncio

import pytest

from offloop.errors import StartError
from offloop.orchestration.cluster import ClusterWorkforce


class Transport:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def start(self) -> None:
        self.told.append("start")

    async def staffed(self, timeout: float) -> None:
        self.told.append("staffed")


class Pool:
    """Workers of one pool; a fault ends their start, otherwise `ready` does."""

    def __init__(self, pid: int | None = None, fault: StartError | None = None) -> None:
        self.ready = asyncio.Event()
        self.begun = asyncio.Event()
        self.given_up = False
        self.stopped = 0
        self._pid = pid
        self._fault = fault

    async def start(self) -> None:
        self.begun.set()
        if self._fault is not None:
            raise self._fault
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise

    def replace(self, worker: str) -> None: ...

    def lose(self) -> int | None:
        return self._pid

    async def stop(self, timeout: float) -> int:
        self.stopped += 1
        return 1


async def test_all_pools_come_up_beside_each_other_and_stop_together() -> None:
    transport, pools = Transport(), [Pool(), Pool(pid=7)]
    workforce = ClusterWorkforce(transport, pools)
    starting = asyncio.ensure_future(workforce.start())
    async with asyncio.timeout(10):
        for pool in pools:
            await pool.begun.wait()
        assert transport.told == ["start"]
        for pool in pools:
            pool.ready.set()
        await starting
    assert transport.told == ["start", "staffed"]
    assert workforce.lose() == 7
    assert await workforce.stop(1.0) == 2


async def test_one_that_cannot_start_says_why_and_the_others_are_not_waited_for() -> None:
    slow, broken = Pool(), Pool(fault=StartError("there is no tool"))
    with pytest.raises(StartError, match="there is no tool"):
        async with asyncio.timeout(10):
            await ClusterWorkforce(Transport(), [slow, broken]).start()
    assert slow.given_up


async def test_where_all_workers_are_elsewhere_there_is_nobody_to_wait_for_lose_or_stop() -> None:
    transport = Transport()
    workforce = ClusterWorkforce(transport)
    await workforce.start()
    assert transport.told == ["start"]
    assert workforce.lose() is None
    assert await workforce.stop(1.0) == 0
