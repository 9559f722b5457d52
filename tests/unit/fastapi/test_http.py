import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware

from offloop import Offloop, Settings
from offloop.fastapi import OffloopRouter, upload
from tests.unit.fastapi import program
from tests.unit.fastapi.asgi import DEADLINE, JSON, Caller

PROGRAM = "tests.unit.fastapi.program"
MIB = 2**20


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[tuple[FastAPI, Offloop]]:
    off = Offloop(PROGRAM, settings=Settings(**{"threads": 2, "gc_freeze": False, **settings}))
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    program.OPEN.clear()
    async with app.router.lifespan_context(app):
        try:
            yield app, off
        finally:
            program.OPEN.set()


def waiters(off: Offloop, name: str) -> int:
    return off.status()["endpoints"][name]["in_flight"]


async def until(condition, within: float = DEADLINE) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  (what a status says has no event)
            await asyncio.sleep(0)


# ---- the way of a request


async def test_a_reply_has_its_status_type_length_and_the_callers_label():
    async with serving() as (app, _):
        caller = Caller(app, "/texts", headers=[*JSON, (b"x-request-id", b"mine")]).say(b'{"text": "a b c"}')
        await caller.answered()
    assert caller.status == 201
    assert caller.json == {"words": 3}
    assert caller.headers == {
        b"content-type": b"application/json",
        b"content-length": b"11",
        b"x-request-id": b"mine",
    }


async def test_a_reply_of_none_is_a_204_without_a_type_or_a_length():
    async with serving() as (app, _):
        caller = await Caller(app, "/people/7", method="PUT", headers=JSON).say(b'{"name": "Ada"}').answered()
    assert caller.status == 204
    assert caller.body == b""
    assert set(caller.headers) == {b"x-request-id"}


async def test_fields_come_from_the_path_and_the_query_and_a_body_is_not_even_read():
    async with serving() as (app, _):
        query = b"words=two%20words&words=b&unknown=1&limit=5"
        caller = await Caller(app, "/shelves/top/books", method="GET", query=query).answered()
    assert caller.json == ["top", "two words", "b", "5"]
    assert caller.received == 0


async def test_a_blob_goes_and_comes_with_its_type_and_name():
    headers = [(b"content-type", b"image/png"), (b"content-disposition", b'attachment; filename="a.png"')]
    async with serving() as (app, _):
        caller = await Caller(app, "/brief", headers=headers).say(b"\x89PNG").answered()
    assert caller.body == b"\x89PNG"
    assert caller.headers[b"content-type"] == b"image/png"
    assert caller.headers[b"content-disposition"] == b'attachment; filename="a.png"'


async def test_a_body_in_pieces_is_one_body():
    async with serving() as (app, _):
        caller = Caller(app, "/texts", headers=[*JSON, (b"transfer-encoding", b"chunked")])
        caller.say(b'{"text":', more=True).say(b"", more=True).say(b'"a b"}')
        await caller.answered()
    assert caller.json == {"words": 2}


async def test_several_replies_on_their_way_are_kept_apart():
    async with serving() as (app, _):
        callers = [
            Caller(app, "/texts", headers=JSON).say(json.dumps({"text": "a " * n}).encode()) for n in range(1, 40)
        ]
        for n, caller in enumerate(callers, start=1):
            assert (await caller.answered()).json == {"words": n}


# ---- refusals


async def test_a_malformed_timeout_is_refused_before_anything_is_admitted():
    async with serving() as (app, off):
        caller = await Caller(app, "/texts", headers=[*JSON, (b"x-request-timeout", b"soon")]).answered()
        assert waiters(off, "count") == 0
    assert caller.status == 422
    assert caller.json["detail"][0]["loc"] == ["header", "x-request-timeout"]
    assert caller.received == 0


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"identity, gzip"])
async def test_an_encoded_body_is_415(encoding):
    async with serving() as (app, _):
        caller = await Caller(app, "/texts", headers=[*JSON, (b"content-encoding", encoding)]).answered()
    assert (caller.status, caller.json["reason"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b""])
async def test_the_encoding_that_is_none_is_accepted(encoding):
    async with serving() as (app, _):
        caller = Caller(app, "/texts", headers=[*JSON, (b"content-encoding", encoding)]).say(b'{"text": "a"}')
        assert (await caller.answered()).status == 201


async def test_without_its_start_it_answers_503():
    app = FastAPI()
    app.include_router(OffloopRouter(Offloop(PROGRAM)))
    caller = await Caller(app, "/texts", headers=JSON).answered()
    assert (caller.status, caller.json["reason"]) == (503, "backend-unavailable")
    assert caller.headers[b"retry-after"] == b"1"
    assert caller.json["endpoint"] == "count"


async def test_a_refusal_of_a_small_body_keeps_the_connection():
    async with serving() as (app, _):
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"65536")]
        caller = await Caller(app, "/texts", headers=headers).answered()
    assert caller.status == 415
    assert b"connection" not in caller.headers
    assert caller.complete
    assert caller.received == 0  # the server reads the rest, as it must to go on


@pytest.mark.parametrize("rest", [(b"content-length", b"%d" % (2 * MIB)), (b"transfer-encoding", b"chunked")])
async def test_a_refusal_of_a_large_or_unknown_body_is_sent_then_the_rest_is_let_go_then_it_closes(rest):
    async with serving() as (app, off):
        caller = Caller(app, "/texts", headers=[(b"content-type", b"text/plain"), rest])
        await caller.hears(2)
        assert caller.status == 415
        assert caller.headers[b"connection"] == b"close"
        assert int(caller.headers[b"content-length"]) == len(caller.body)
        assert not caller.complete
        assert waiters(off, "count") == 0
        caller.say(bytes(MIB), more=True).say(bytes(MIB))
        await caller.answered()
    assert caller.complete


async def test_a_caller_who_waits_for_100_continue_is_refused_without_it():
    async with serving() as (app, _):
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"10"), (b"expect", b"100-continue")]
        caller = Caller(app, "/texts", headers=headers)
        await caller.hears(2)  # a server says 100 at the first `receive()`, unless the answer has been sent
        assert caller.headers[b"connection"] == b"close"
        caller.leave()
        await caller.answered()


async def test_the_rest_is_let_go_within_bounds(monkeypatch):
    monkeypatch.setattr(upload, "LINGER_BYTES", 100)
    async with serving() as (app, _):
        caller = Caller(app, "/texts", headers=[(b"transfer-encoding", b"chunked")])
        for _ in range(5):
            caller.say(bytes(50), more=True)
        await caller.answered()
        assert caller.received == 2
        monkeypatch.setattr(upload, "LINGER_SECONDS", 0.01)
        caller = await Caller(app, "/texts", headers=[(b"transfer-encoding", b"chunked")]).answered()
        assert caller.complete


async def test_a_stream_of_http_2_is_ended_and_its_connection_kept():
    async with serving() as (app, _):
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % (2 * MIB))]
        caller = await Caller(app, "/texts", headers=headers, version="2").answered()
    assert caller.status == 415
    assert b"connection" not in caller.headers
    assert caller.received == 0


async def test_a_body_that_grows_beyond_its_bound_is_refused_as_it_arrives():
    async with serving() as (app, off):
        caller = Caller(app, "/texts", headers=[*JSON, (b"transfer-encoding", b"chunked")])
        for _ in range(3):
            caller.say(bytes(MIB // 2), more=True)
        await caller.hears(2)
        assert (caller.status, caller.json["reason"]) == (413, "payload-too-large")
        assert waiters(off, "count") == 0
        caller.say(b"")
        await caller.answered()


async def test_a_body_that_was_not_declared_is_measured_even_when_it_comes_at_once():
    async with serving() as (app, _):
        caller = await Caller(app, "/texts", headers=JSON).say(bytes(MIB + 1)).answered()
    assert (caller.status, caller.json["reason"]) == (413, "payload-too-large")


async def test_while_draining_the_connection_closes():
    async with serving() as (app, off):
        off.begin_drain()
        caller = Caller(app, "/texts", headers=[*JSON, (b"content-length", b"13")]).say(b'{"text": "a"}')
        await caller.answered()
    assert (caller.status, caller.json["reason"]) == (503, "draining")
    assert caller.headers[b"connection"] == b"close"
    assert caller.received == 1


# ---- ends during an upload


@pytest.mark.parametrize("first", [None, b"some"])
async def test_the_time_is_up_while_the_upload_blocks(first):
    async with serving() as (app, off):
        caller = Caller(app, "/brief", headers=[(b"content-length", b"100")])
        if first is not None:
            caller.say(first, more=True)
        await caller.hears(2)
        assert (caller.status, caller.json["reason"]) == (408, "upload-timeout")
        assert waiters(off, "brief") == 0
        caller.leave()
        await caller.answered()
        assert not caller.task.cancelled()
        assert caller.task.cancelling() == 0


async def test_a_caller_who_leaves_during_its_upload_frees_its_place_at_once():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=[*JSON, (b"content-length", b"100")]).say(b"{", more=True)
        await until(lambda: waiters(off, "wait") == 1)
        caller.leave()
        await caller.answered()
        assert waiters(off, "wait") == 0
    assert caller.status == 499


async def test_a_task_cancelled_during_its_upload_is_cancelled_and_nothing_else():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=JSON).say(b"{", more=True)
        await until(lambda: waiters(off, "wait") == 1)
        caller.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.task
        assert waiters(off, "wait") == 0
        assert caller.sent == []


async def test_a_fault_of_the_connection_during_the_upload_ends_the_request():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=JSON).say(b"{", more=True)
        await until(lambda: waiters(off, "wait") == 1)
        caller.breaks(OSError("the line is broken"))
        with pytest.raises(OSError, match="the line is broken"):
            await caller.task
        assert waiters(off, "wait") == 0


# ---- callers that leave while they wait


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


@pytest.mark.parametrize("behind", [False, True])
async def test_a_caller_who_leaves_while_it_waits_frees_its_waiter_within_a_tenth_of_a_second(behind):
    async with serving() as (app, off):
        if behind:
            app.add_middleware(Passing)
        caller = Caller(app, "/waits", headers=JSON).say(b"{}")
        await until(lambda: waiters(off, "wait") == 1)
        caller.leave()
        await until(lambda: waiters(off, "wait") == 0, within=0.1)
        await caller.answered()
    assert caller.status == 499
    assert caller.body == b""


async def test_one_who_waits_longer_is_watched_until_it_is_answered():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=JSON).say(b"{}")
        await until(lambda: waiters(off, "wait") == 1)
        await until(lambda: any("until_gone" in repr(task.get_coro()) for task in asyncio.all_tasks()))
        program.OPEN.set()
        await caller.answered()
        assert caller.status == 200
        await until(lambda: not any("until_gone" in repr(task.get_coro()) for task in asyncio.all_tasks()))


async def test_one_who_is_answered_at_once_is_never_watched(monkeypatch):
    from offloop.fastapi.departures import Call

    watched: list[Call] = []
    monkeypatch.setattr(Call, "look_after", watched.append)
    async with serving() as (app, _):
        for _ in range(20):
            await Caller(app, "/texts", headers=JSON).say(b'{"text": "a"}').answered()
    assert watched == []


async def test_a_body_that_the_endpoint_does_not_take_is_passed_over_while_it_is_watched():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=JSON).say(b"{}").say(b"more", more=True).say(b"")
        await until(lambda: caller.received == 3)
        assert waiters(off, "wait") == 1
        caller.leave()
        await caller.answered()
        assert waiters(off, "wait") == 0


async def test_a_task_that_the_server_cancels_cancels_its_request():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=JSON).say(b"{}")
        await until(lambda: waiters(off, "wait") == 1)
        caller.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.task
        assert waiters(off, "wait") == 0
        assert caller.sent == []


async def test_a_fault_of_the_connection_while_waiting_fails_the_request():
    async with serving() as (app, off):
        caller = Caller(app, "/waits", headers=JSON).say(b"{}")
        await until(lambda: waiters(off, "wait") == 1)
        caller.breaks(OSError("the line is broken"))
        with pytest.raises(OSError, match="the line is broken"):
            await caller.task
        assert waiters(off, "wait") == 0


def test_the_same_router_serves_again_on_another_loop():
    off = Offloop(PROGRAM, settings=Settings(threads=1, gc_freeze=False))
    app = FastAPI()
    app.include_router(OffloopRouter(off))

    async def once() -> None:
        program.OPEN.clear()
        async with app.router.lifespan_context(app):
            caller = Caller(app, "/waits", headers=JSON).say(b"{}")
            await until(lambda: waiters(off, "wait") == 1)
            caller.leave()
            await until(lambda: waiters(off, "wait") == 0, within=0.1)
            await caller.answered()
            program.OPEN.set()

    asyncio.run(once())
    asyncio.run(once())
