"""Asking from Python, in every mode: own routes, threads, plain asyncio; one process with two Offloops."""

import asyncio
import threading

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from offloop import Blob, Offloop, errors
from offloop.fastapi import OffloopRouter, exception_handlers
from tests.e2e.programs import nodes
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.threads import LASTING, threads_of_ours

PROGRAM = "tests.e2e.programs.nodes"


def test_an_own_route_asks_and_keeps_all_that_fastapi_offers(client: httpx.Client) -> None:
    answer = client.post("/own", json={"n": 3, "text": "abc"})
    assert (answer.status_code, answer.json()) == (201, {"n": 3, "size": 3, "request_id": "own"})
    assert client.post("/own/sync", json={"n": 4}).json()["n"] == 4


def test_an_own_route_answers_an_error_as_an_offloop_route_does(client: httpx.Client) -> None:
    own, offloop = client.post("/own/refused", json={"how": "pages"}), client.post("/refused", json={"how": "pages"})
    assert own.status_code == offloop.status_code == 422
    assert own.headers["content-type"] == "application/problem+json"
    differing = {"request_id", "instance"}
    assert {k: v for k, v in own.json().items() if k not in differing} == {
        k: v for k, v in offloop.json().items() if k not in differing
    }


async def test_plain_asyncio_without_a_web_framework(mode: Mode) -> None:
    async with Offloop(PROGRAM, settings=mode.settings(1)) as off:
        assert (await off.ask(nodes.echo, nodes.Echo(n=1, text="four"))).size == 4
        sized = await off.ask(nodes.weigh, Blob(b"12345", "text/plain", "five.txt"))
        assert (sized.size, sized.media_type, sized.filename) == (5, "text/plain", "five.txt")
        sealed = await off.ask(nodes.seal, nodes.Letter(to="Ada", body=Blob(b"abc", None, "a.txt")))
        assert (sealed.to, sealed.size, sealed.filename) == ("Ada", 3, "a.txt")
        assert await off.ask(nodes.store, nodes.Item(item=3)) is None
        assert (await off.ask(nodes.weigh_anything, Blob(b"raw"))).data == b"raw"


async def test_a_declared_problem_is_raised_as_its_own_class_with_its_members(mode: Mode) -> None:
    async with Offloop(PROGRAM, settings=mode.settings(1)) as off:
        with pytest.raises(nodes.TooManyPages) as caught:
            await off.ask(nodes.refuse, nodes.Failing(how="pages"))
    assert caught.value.members == {"pages": 900, "limit": [1, 500]}
    assert caught.value.detail == "900 pages are too many"


async def test_failures_are_raised_by_their_names(mode: Mode) -> None:
    async with Offloop(PROGRAM, settings=mode.settings(1)) as off:
        with pytest.raises(errors.NodeFailed):
            await off.ask(nodes.fail, nodes.Failing(how="raise"))
        with pytest.raises(errors.NoReply):
            await off.ask(nodes.fail, nodes.Failing(how="silence"))
        with pytest.raises(errors.PayloadTooLarge):
            await off.ask(nodes.weigh, Blob(b"x" * (2**20 + 1)))
        with pytest.raises(TypeError):
            await off.ask(nodes.echo, nodes.Failing(how="the wrong type"))


async def test_cancelling_ask_cancels_the_request(mode: Mode, gate: Gate) -> None:
    async with Offloop(PROGRAM, settings=mode.settings(1)) as off:
        asking = asyncio.create_task(off.ask(nodes.patient, nodes.Gated(name="cancelled ask")))
        await asyncio.to_thread(gate.wait_note, "cancelled ask began")
        asking.cancel()
        await asyncio.to_thread(gate.wait_note, "cancelled ask saw it")
        assert off.status()["endpoints"]["patient"]["in_flight"] == 0
    assert asking.cancelled()


async def test_asking_before_the_start_and_after_the_end_says_what_to_do(mode: Mode) -> None:
    off = Offloop(PROGRAM, settings=mode.settings(1))
    with pytest.raises(errors.NotStarted, match="include|Include"):
        await off.ask(nodes.echo, nodes.Echo(n=1))
    async with off:
        pass
    with pytest.raises(errors.NotStarted):
        await off.ask(nodes.echo, nodes.Echo(n=1))
    async with off:
        assert (await off.ask(nodes.echo, nodes.Echo(n=2))).n == 2


async def test_nested_entries_count_as_one(mode: Mode) -> None:
    off = Offloop(PROGRAM, settings=mode.settings(1))
    async with off:
        async with off:
            pass
        assert (await off.ask(nodes.echo, nodes.Echo(n=1))).n == 1
    assert off.gateway is None


async def test_another_event_loop_is_refused_with_what_to_do(mode: Mode) -> None:
    async with Offloop(PROGRAM, settings=mode.settings(1)) as off:
        with pytest.raises(errors.UsageError, match="ask_sync"):
            await asyncio.to_thread(asyncio.run, off.ask(nodes.echo, nodes.Echo(n=1)))
        assert (await asyncio.to_thread(off.ask_sync, nodes.echo, nodes.Echo(n=8))).n == 8
        with pytest.raises(errors.UsageError, match="await off.ask"):
            off.ask_sync(nodes.echo, nodes.Echo(n=1))


async def test_two_in_one_process_do_not_disturb_each_other(mode: Mode, gate: Gate) -> None:
    one, two = (Offloop(PROGRAM, settings=mode.settings(1, queue_limit=1)) for _ in range(2))
    async with one, two:
        holding = [asyncio.create_task(one.ask(nodes.gated, nodes.Gated(name="one"))) for _ in range(1)]
        await asyncio.to_thread(gate.wait, "one")
        holding.append(asyncio.create_task(one.ask(nodes.gated, nodes.Gated(name="one"))))
        await asyncio.sleep(0)
        with pytest.raises(errors.QueueFull):
            await one.ask(nodes.echo, nodes.Echo(n=1))
        assert (await two.ask(nodes.echo, nodes.Echo(n=2))).n == 2
        for task in holding:
            await asyncio.to_thread(gate.wait, "one")
            gate.open("one")
            await task


def test_two_routers_in_one_app_and_a_test_client(mode: Mode) -> None:
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(Offloop(PROGRAM, settings=mode.settings(1))), prefix="/one")
    app.include_router(OffloopRouter(Offloop(PROGRAM, settings=mode.settings(1))), prefix="/two")
    threads = threading.active_count()
    with TestClient(app) as client:
        assert [client.post(f"/{name}/echo", json={"n": 1}).status_code for name in ("one", "two")] == [200, 200]
    assert not threads_of_ours()
    assert threading.active_count() <= threads + 1 + len(LASTING)


def test_a_test_client_without_with_answers_that_nothing_was_started(mode: Mode) -> None:
    app = FastAPI(exception_handlers=exception_handlers)
    app.include_router(OffloopRouter(Offloop(PROGRAM, settings=mode.settings(1))))
    answer = TestClient(app).post("/echo", json={"n": 1})
    assert (answer.status_code, answer.json()["reason"]) == (503, "backend-unavailable")
