"""`lose_worker`: a real worker process dies, and the program's callers are told what a death means for them."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from offloop import Offloop, Settings, errors
from offloop.fastapi import OffloopRouter
from offloop.testing import lose_worker
from tests.support.broker import broker
from tests.support.gate import Gate, gate_at
from tests.unit.testing import mortal
from tests.unit.testing.mortal import Name, Ran, again, once


@pytest.fixture
def gate() -> Iterator[Gate]:
    # A Unix socket's path must be short; the folders that pytest makes are not.
    with tempfile.TemporaryDirectory(prefix="offloop-") as folder, gate_at(Path(folder)) as gate:
        yield gate


def program(workers: int, mode: str = "process", broker_url: str | None = None) -> Offloop:
    settings = Settings(mode=mode, workers=workers, gc_freeze=False, broker_url=broker_url)  # type: ignore[arg-type]
    return Offloop(mortal.__name__, settings=settings)


async def test_what_the_lost_worker_ran_is_lost_and_another_takes_its_place(gate: Gate) -> None:
    async with program(1) as off:
        asking = asyncio.create_task(off.ask(once, Name(name="a")))
        await asyncio.to_thread(gate.wait, "a")
        pid = lose_worker(off)
        assert gate.notes == [f"a is run by {pid}"]
        with pytest.raises(errors.WorkerLost):
            await asking
        asking = asyncio.create_task(off.ask(once, Name(name="b")))
        await asyncio.to_thread(gate.wait, "b")
        assert gate.open("b") == 1
        assert (await asking).pid != pid


async def test_with_a_broker_it_is_the_one_that_runs_something_as_well(gate: Gate) -> None:
    with broker() as redis:
        async with program(2, broker_url=redis.url) as off:
            asking = asyncio.create_task(off.ask(once, Name(name="a")))
            await asyncio.to_thread(gate.wait, "a")
            pid = lose_worker(off)
            assert gate.notes == [f"a is run by {pid}"]
            with pytest.raises(errors.WorkerLost):
                await asking


async def test_an_idempotent_request_is_answered_all_the_same(gate: Gate) -> None:
    async with program(1) as off:
        asking = asyncio.create_task(off.ask(again, Name(name="a")))
        await asyncio.to_thread(gate.wait, "a")
        pid = lose_worker(off)
        await asyncio.to_thread(gate.wait, "a", 2)  # where it stood before counts, too
        assert gate.open("a") == 1
        reply = await asking
    assert reply != Ran(pid=pid)
    assert gate.notes == [f"a is run by {pid}", f"a is run by {reply.pid}"]


async def test_the_worker_that_runs_the_most_is_lost_first_and_none_twice(gate: Gate) -> None:
    async with program(2) as off:
        asking = asyncio.create_task(off.ask(once, Name(name="a")))
        await asyncio.to_thread(gate.wait, "a")
        busy = lose_worker(off)
        idle = lose_worker(off)
        assert gate.notes == [f"a is run by {busy}"]
        assert idle not in (busy, os.getpid())
        with pytest.raises(errors.UsageError, match="no worker process of this Offloop is ready"):
            lose_worker(off)
        with pytest.raises(errors.WorkerLost):
            await asking


def test_it_may_be_called_from_any_thread(gate: Gate) -> None:
    off = program(1)
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    with TestClient(app):
        assert lose_worker(off) != os.getpid()


async def test_in_another_mode_it_says_what_to_do() -> None:
    async with program(1, "thread") as off:
        with pytest.raises(errors.UsageError, match="mode is thread. Test in process mode: OFFLOOP_MODE=process"):
            lose_worker(off)


def test_before_the_start_it_says_what_to_do() -> None:
    with pytest.raises(errors.UsageError, match="not started, and has no worker to lose. Enter it"):
        lose_worker(program(1))


async def test_another_program_that_runs_is_left_alone(gate: Gate) -> None:
    off, other = program(1), program(1)
    async with other:
        with pytest.raises(errors.UsageError, match="not started"):
            lose_worker(off)
        async with off:
            lose_worker(off)
            assert lose_worker(other)
