import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import (
    APIRouter,
    Body,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Request,
    Security,
    WebSocket,
    WebSocketException,
)
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader

from offloop import Offloop, Settings, errors
from offloop.fastapi import OffloopRouter, patience
from offloop.fastapi.patience import Reader
from offloop.fastapi.sockets import connection
from offloop.fastapi.websocket import origin_allowed
from offloop.ingress.turns import AT_ONCE
from tests.unit.fastapi import talking
from tests.unit.fastapi.talking import DEADLINE, Peer

PROGRAM = "tests.unit.fastapi.talking"
HERE = (b"host", b"here.example")


def made(router: dict[str, Any] | None = None, **settings: Any) -> tuple[FastAPI, Offloop]:
    off = Offloop(PROGRAM, settings=Settings(**{"threads": 2, "gc_freeze": False, **settings}))
    app = FastAPI()
    app.include_router(OffloopRouter(off, **(router or {})))
    return app, off


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[FastAPI, Offloop]]:
    app, off = made(**settings)
    talking.OPEN.clear()
    talking.ENDED.clear()
    talking.BEGUN = threading.Semaphore(0)
    async with app.router.lifespan_context(app):
        try:
            yield app, off
        finally:
            talking.OPEN.set()


def waiters(off: Offloop, name: str) -> int:
    count: int = off.status()["endpoints"][name]["in_flight"]
    return count


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  (what a status says has no event)
            await asyncio.sleep(0)


# ---- frames of the program's


async def test_each_class_of_a_union_says_which_it_is():
    async with serving() as (app, _):
        peer = await Peer(app, "/answer").accepted()
        peer.ask("1", {"text": "ab"})
        assert await peer.hear() == {
            "id": "1", "event": "reply", "media_type": "application/json;type=Short", "data": {"text": "ab"},
        }  # fmt: skip
        peer.leave()
        await peer.ended()


async def test_a_reply_of_none_is_null():
    async with serving() as (app, _):
        peer = await Peer(app, "/nothing").accepted()
        peer.ask("1", {"count": 1})
        assert await peer.hear() == {"id": "1", "event": "reply", "data": None}
        peer.leave()
        await peer.ended()


async def test_chunks_are_in_order_progress_is_among_them_and_the_reply_is_last():
    async with serving() as (app, _):
        peer = await Peer(app, "/pieces").accepted()
        peer.ask('é"', {"count": 20})
        heard = [await peer.hear()]
        while heard[-1]["event"] != "reply":
            heard.append(await peer.hear())
        assert {said["id"] for said in heard} == {'é"'}
        assert [said["data"]["number"] for said in heard if said["event"] == "chunk"] == list(range(20))
        progress = next(said for said in heard if said["event"] == "progress")
        assert progress == {
            "id": 'é"', "event": "progress", "done": progress["done"], "total": None, "note": "bit by bit",
        }  # fmt: skip
        peer.leave()
        await peer.ended()


async def test_bytes_follow_their_announcement_also_among_the_answers_of_others():
    async with serving() as (app, _):
        peer = await Peer(app, "/sliced").accepted()
        for number in range(8):
            peer.ask(str(number), {"raw": True})
        replies = 0
        while replies < 8:
            said = await peer.hear()
            if "blob" in said:
                assert said["blob"] == {"media_type": "text/plain", "filename": None, "size": 65536}
                assert (await peer.next())["bytes"] == b"x" * 65536
            replies += said["event"] == "reply"
        peer.leave()
        await peer.ended()


async def test_a_media_type_that_the_endpoint_leaves_open_is_not_made_up():
    async with serving() as (app, _):
        peer = await Peer(app, "/measure").accepted()
        peer.say(b"abc")
        assert (await peer.hear())["data"] == {"size": 3, "media_type": None}
        peer.leave()
        await peer.ended()


# ---- frames that are none


@pytest.mark.parametrize(
    "frame",
    [
        "", "x", "[]", "null", '"a"', "{}", '{"data": {}}', '{"id": 1, "data": {}}', '{"id": "", "data": {}}',
        '{"id": null, "data": {}}', '{"id": "' + "a" * 129 + '", "data": {}}', '{"id": "a", "event": "begin"}',
        '{"id": "a", "data": {}, "timeout": "2"}', '{"id": "a", "data": {}, "timeout": 1e999}',
        '{"id": "a", "data": {}, "timeout": true}', '{"id": "a", "data": {}',
        '{"id": "a", "data": ' + "[" * 1500, "\ud800", b"", b"abc",
    ],
)  # fmt: skip
async def test_a_malformed_frame_is_a_problem_without_an_id_and_three_in_a_row_close_the_socket(frame):
    async with serving() as (app, off):
        peer = await Peer(app, "/answer").accepted()
        for _ in range(2):
            peer.say(frame)
            said = await peer.hear()
            assert (said["event"], said["status"], "id" in said) == ("problem", 422, False)
            assert said["problem"]["detail"][0]["type"] == "frame_invalid"
        peer.ask("good", {"text": "abc"})
        assert (await peer.hear())["id"] == "good"
        for _ in range(3):
            peer.say(frame)
            assert (await peer.hear())["event"] == "problem"
        assert await peer.close() == (1008, "malformed frames")
        assert waiters(off, "answer") == 0


async def test_data_that_is_missing_or_not_due_is_a_problem_of_its_id():
    async with serving() as (app, _):
        peer = await Peer(app, "/answer").accepted()
        peer.say('{"id": "a"}')
        said = await peer.hear()
        assert (said["id"], said["status"], said["problem"]["detail"][0]["loc"]) == ("a", 422, ["frame", "data"])
        peer.leave()
        await peer.ended()
        other = await Peer(app, "/measure").accepted()
        other.ask("a", {"text": "ab"})
        said = await other.hear()
        assert (said["id"], said["status"]) == ("a", 422)
        other.leave()
        await other.ended()


async def test_an_id_that_is_in_use_is_refused_without_taking_its_answer_and_is_free_after_it():
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("a", {"name": "first"})
        peer.ask("a", {"name": "second"})
        said = await peer.hear()
        assert (said["event"], "id" in said, said["problem"]["detail"][0]["loc"]) == ("problem", False, ["frame", "id"])
        assert waiters(off, "wait") == 1
        talking.OPEN.set()
        assert (await peer.hear())["event"] == "reply"
        peer.ask("a", {"name": "third"})
        assert (await peer.hear())["event"] == "reply"
        assert talking.ENDED == ["first", "third"]
        peer.leave()
        await peer.ended()
        assert off.gateway is not None
        assert off.gateway.unsent == 0


async def test_text_beyond_the_endpoints_bound_closes_with_1009_read_or_not():
    async with serving() as (app, _):
        for text in ("x" * 1990, "x" * 4000):  # the data is too large, then the whole frame
            peer = await Peer(app, "/answer").accepted()
            peer.ask("a", {"text": text})
            assert await peer.close() == (1009, "the request is too large")
        peer = await Peer(app, "/answer").accepted()
        peer.ask("a", {"text": "x" * 1980})
        assert (await peer.hear())["event"] == "reply"
        peer.leave()
        await peer.ended()


# ---- what the path gives


async def test_what_the_path_names_comes_from_the_path_whatever_a_frame_says():
    async with serving() as (app, _):
        peer = await Peer(app, "/rooms/blue/7").accepted()
        peer.ask("1", {"text": "a"})
        assert (await peer.hear())["data"] == {"room": "blue", "seat": 7, "text": "a"}
        peer.ask("2", {"text": "b", "room": "red", "seat": 8})
        assert (await peer.hear())["data"] == {"room": "blue", "seat": 7, "text": "b"}
        peer.leave()
        await peer.ended()


async def test_what_is_wrong_in_the_path_is_said_of_the_path_in_every_answer():
    async with serving() as (app, _):
        peer = await Peer(app, "/rooms/blue/first").accepted()
        for id in "ab":
            peer.ask(id, {"text": "a"})
            said = await peer.hear()
            assert (said["id"], said["status"]) == (id, 422)
            assert said["problem"]["detail"][0]["loc"] == ["path", "seat"]
        peer.leave()
        await peer.ended()


async def test_what_a_prefix_names_is_for_dependencies_alone():
    seen: list[str] = []

    async def known(house: str, room: str) -> None:
        seen.append(f"{house} {room}")

    app, _ = made({"prefix": "/{house}", "dependencies": [Depends(known)]})
    async with app.router.lifespan_context(app):
        peer = await Peer(app, "/mine/rooms/blue/7").accepted()
        peer.ask("1", {"text": "a"})
        assert (await peer.hear())["data"]["room"] == "blue"
        peer.leave()
        await peer.ended()
    assert seen == ["mine blue"]


# ---- time


@pytest.mark.parametrize(
    ("header", "frame", "least", "most"),
    [
        (None, None, 90, 100), (b"50", None, 40, 50), (b"500", None, 90, 100), (None, 20, 10, 20),
        (b"50", 20.5, 10, 20.5), (b"20", 50, 10, 20), (b"500", 1e300, 90, 100),
    ],
)  # fmt: skip
async def test_handshake_and_frame_shorten_the_time_of_a_request_and_never_lengthen_it(header, frame, least, most):
    async with serving() as (app, _):
        headers = [HERE] if header is None else [HERE, (b"x-request-timeout", header)]
        peer = await Peer(app, "/time", headers=headers).accepted()
        rest = "" if frame is None else f', "timeout": {frame}'
        for _ in range(2):  # each request has its own time
            peer.say(f'{{"id": "a", "data": {{}}{rest}}}')
            assert least < (await peer.hear())["data"]["seconds"] <= most
        peer.leave()
        await peer.ended()


async def test_a_request_that_takes_longer_than_its_frame_allows_ends_by_itself():
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("long", {})
        peer.say('{"id": "short", "data": {}, "timeout": 0.05}')
        said = await peer.hear()
        assert (said["id"], said["status"], said["problem"]["reason"]) == ("short", 504, "deadline-exceeded")
        assert waiters(off, "wait") == 1
        peer.leave()
        await peer.ended()


@pytest.mark.parametrize("timeout", ["0", "-1", "-0.0"])
async def test_a_time_that_has_passed_is_a_problem_of_its_id(timeout):
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        for _ in range(4):  # it is no malformed frame
            peer.say(f'{{"id": "a", "data": {{}}, "timeout": {timeout}}}')
            said = await peer.hear()
            assert (said["id"], said["status"], said["problem"]["detail"][0]["loc"]) == ("a", 422, ["frame", "timeout"])
        assert waiters(off, "wait") == 0
        peer.leave()
        await peer.ended()


@pytest.mark.parametrize("seconds", [b"", b"0", b"-1", b"soon", b"1e999", b"nan", b"1,5"])
async def test_a_time_that_cannot_be_read_refuses_the_handshake_as_http_refuses_it(seconds):
    headers = [HERE, (b"x-request-timeout", seconds)]
    async with serving() as (app, _):
        status, answered = await denied(app, headers=headers)
        assert (status, answered[b"content-type"]) == (422, b"application/json")
        peer = await Peer(app, "/answer", headers=headers, denial=False).accepted()
        assert await peer.close() == (1008, "invalid-payload")


# ---- limits, cancelling, leaving


async def test_one_socket_has_so_many_requests_at_once_and_the_next_is_a_problem_of_its_id():
    async with serving(ws_in_flight=2) as (app, off):
        peer = await Peer(app, "/wait").accepted()
        for id in "abc":
            peer.ask(id, {})
        said = await peer.hear()
        assert (said["id"], said["status"]) == ("c", 429)
        assert 1 <= said["retry_after"] <= 30
        assert (said["problem"]["reason"], said["problem"]["retry_safe"]) == ("endpoint-busy", True)
        assert said["problem"]["detail"] == connection.CROWDED
        other = await Peer(app, "/wait").accepted()  # the limit is one socket's
        other.ask("d", {})
        await until(lambda: waiters(off, "wait") == 3)
        talking.OPEN.set()
        assert {(await peer.hear())["id"], (await peer.hear())["id"]} == {"a", "b"}
        assert (await other.hear())["id"] == "d"
        for one in (peer, other):
            one.leave()
            await one.ended()


async def test_what_one_socket_may_not_have_is_told_as_refused_and_says_when_to_try_again():
    async with serving(ws_in_flight=1) as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("a", {})
        for number in range(3):
            peer.ask(str(number), {})
            assert (await peer.hear())["problem"]["reason"] == "endpoint-busy"
        assert off.status()["refused"] == 3
        assert b'offloop_rejected_total{endpoint="wait",reason="endpoint-busy"} 3.0' in off.metrics()
        off.begin_drain()
        peer.ask("late", {})  # what is closed to everybody comes first
        assert (await peer.hear())["problem"]["reason"] == "draining"
        talking.OPEN.set()
        assert await peer.hear() == {"id": "a", "event": "reply", "data": {"bits": 0}}
        assert await peer.close() == (1012, "draining")


async def test_what_is_cancelled_before_it_began_says_so():
    async with serving(threads=1) as (app, _):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("running", {"name": "running"})
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(talking.BEGUN.acquire)
        for id, started in (("queued", False), ("running", True)):
            if id == "queued":
                peer.ask(id, {})
            peer.say(json.dumps({"id": id, "event": "cancel"}))
            said = await peer.hear()
            assert (said["id"], said["status"], said["problem"]["reason"]) == (id, 499, "cancelled")
            assert (said["problem"]["started"], said["problem"]["retry_safe"]) == (started, not started)
        peer.leave()
        await peer.ended()


async def test_a_cancelled_request_ends_once_and_what_is_unknown_is_passed_over():
    async with serving(threads=1) as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("running", {"name": "running"})
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(talking.BEGUN.acquire)
        peer.ask("queued", {"name": "queued"})
        peer.say('{"id": "nobody", "event": "cancel"}')
        peer.say('{"id": "queued", "event": "cancel"}')
        peer.say('{"id": "running", "event": "cancel"}')
        ends = {said["id"]: said for said in (await peer.hear(), await peer.hear())}
        assert set(ends) == {"running", "queued"}
        assert {said["problem"]["reason"] for said in ends.values()} == {"cancelled"}
        assert waiters(off, "wait") == 0
        talking.OPEN.set()
        peer.ask("next", {"name": "next"})
        assert (await peer.hear())["id"] == "next"
        assert talking.ENDED == ["running cancelled", "next"]
        peer.leave()
        await peer.ended()


async def test_whoever_leaves_takes_all_its_requests_along():
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        for number in range(8):
            peer.ask(str(number), {})
        await until(lambda: waiters(off, "wait") == 8)
        peer.leave()
        await peer.ended()
        assert waiters(off, "wait") == 0


async def test_a_request_and_a_departure_in_one_breath_leave_nothing_behind():
    async with serving() as (app, off):
        before = asyncio.all_tasks()
        peer = await Peer(app, "/wait").accepted()
        for number in range(8):
            peer.ask(str(number), {})
        peer.leave()
        await peer.ended()
        assert waiters(off, "wait") == 0
        assert asyncio.all_tasks() <= before


async def test_under_finish_what_was_asked_goes_on_without_its_caller():
    async with serving() as (app, off):
        peer = await Peer(app, "/keep").accepted()
        peer.ask("a", {"name": "kept"})
        await until(lambda: waiters(off, "keep") == 1)
        peer.leave()
        await peer.ended()
        assert waiters(off, "keep") == 1
        talking.OPEN.set()
        await until(lambda: waiters(off, "keep") == 0)
        assert talking.ENDED == ["kept"]


async def test_who_has_cancelled_hears_no_more_than_the_end():
    async with serving() as (app, off):
        peer = await Peer(app, "/sliced", reads=False).accepted()
        peer.ask("a", {"raw": True})
        assert off.gateway is not None
        await until(lambda: waiters(off, "sliced") == 1)
        (waiter,) = off.gateway.waiters
        await until(lambda: len(waiter.hears.__self__._heard) >= 5)  # one is being sent, these have come after it
        peer.say('{"id": "a", "event": "cancel"}')
        await until(lambda: waiters(off, "sliced") == 0)
        peer.reading.set()
        assert "blob" in await peer.hear()
        assert "bytes" in await peer.next()
        assert (await peer.hear())["problem"]["reason"] == "cancelled"
        peer.leave()
        await peer.ended()
        assert len(peer.sent) == 4


async def test_a_server_that_cancels_leaves_nothing_behind():
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("a", {})
        await until(lambda: waiters(off, "wait") == 1)
        peer.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await peer.ended()
        assert waiters(off, "wait") == 0


@pytest.mark.parametrize("fault", [OSError("gone"), RuntimeError("after it was closed")])
async def test_a_send_that_fails_is_a_departure(fault):
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("a", {})
        peer.ask("b", {})
        await until(lambda: waiters(off, "wait") == 2)
        peer.breaks = fault
        peer.say("nonsense")
        await peer.ended()
        assert waiters(off, "wait") == 0


async def test_a_fault_of_the_connection_is_the_servers_to_hear():
    async with serving() as (app, off):
        peer = await Peer(app, "/wait").accepted()
        peer.ask("a", {})
        await until(lambda: waiters(off, "wait") == 1)
        peer._said.put_nowait({"type": "websocket.strange"})
        with pytest.raises(RuntimeError, match="websocket.strange"):
            await peer.ended()
        assert waiters(off, "wait") == 0


async def test_a_peer_that_does_not_read_is_closed_and_its_requests_are_cancelled(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    async with serving() as (app, off):
        peer = await Peer(app, "/sliced", reads=False).accepted()
        other = await Peer(app, "/sliced").accepted()
        for number in range(4):
            peer.ask(str(number), {"raw": True})
        other.ask("a", {"raw": True})
        assert await peer.close() == (1008, "what was sent is not read")
        assert [message["type"] for message in peer.sent] == ["websocket.accept", "websocket.close"]
        while (await other.next()).get("text", "").find('"reply"') < 0:  # it was not slowed
            pass
        await until(lambda: waiters(off, "sliced") == 0)
        other.leave()
        await other.ended()


@pytest.mark.parametrize(
    ("steps", "lost"),
    [([9.0, 0.9], False), ([10.9, 10.9, 10.9], False), ([11.1], True), ([10.9, 11.1], True)],
)
async def test_a_large_message_gives_its_reader_time_for_the_next(monkeypatch, steps, lost):
    """After 64 KiB the next send may wait for PATIENCE, which is 10 s, and one second more."""
    loop = asyncio.get_running_loop()
    real, begun = loop.time, loop.time()
    now = [begun]
    monkeypatch.setattr(loop, "time", lambda: now[0])  # it passes by the test's word
    async with serving() as (app, off):
        peer = await Peer(app, "/sliced", reads=False).accepted()
        peer.ask("a", {"raw": True})
        await until(lambda: peer.waits == 1)
        peer.read(2)  # an announcement, then its bytes: a next one waits after those
        for number, step in enumerate(steps):
            await until(lambda number=number: peer.waits == 3 + 2 * number)
            now[0] += step
            for _ in range(10):  # what is due by then happens
                await asyncio.sleep(0)
            if lost and number == len(steps) - 1:
                assert await peer.close() == (1008, "what was sent is not read")
            else:
                peer.read(2)
        if not lost:
            await until(lambda: peer.waits == 3 + 2 * len(steps))
            peer.leave()
            await peer.ended()
        await until(lambda: waiters(off, "sliced") == 0)
        monkeypatch.setattr(loop, "time", lambda: real() + now[0] - begun)  # by itself again, and never backwards


@pytest.mark.parametrize("close", ["unread", "too large"])
async def test_a_close_that_is_not_read_either_is_given_up(monkeypatch, close):
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    monkeypatch.setattr(connection, "CLOSE_WITHIN", 0.05)
    async with serving() as (app, _):
        peer = await Peer(app, "/answer", reads=close != "unread").accepted()
        peer.closes.clear()
        peer.ask("a", {"text": "x" * (4000 if close == "too large" else 1)})
        await peer.ended()
        assert [message["type"] for message in peer.sent] == ["websocket.accept"]


@pytest.mark.parametrize(
    ("sent", "budget", "draining", "allowed"),
    [
        (0, 20.0, False, 10.0), (64, 20.0, False, 11.0), (64, 20.0, True, 11.0), (64, 8.0, True, 8.0),
        (64, 2.0, True, 5.0),
    ],
)  # fmt: skip
async def test_a_close_waits_for_a_slow_reader_and_in_a_drain_not_much_beyond_its_budget(
    monkeypatch, sent, budget, draining, allowed
):
    seconds: list[float] = []

    async def patiently(sending, most):
        seconds.append(most)
        await sending

    async with serving(drain_timeout=budget) as (app, off):
        peer = await Peer(app, "/answer").accepted()
        peer.ask("a", {"text": "x"})
        await peer.hear()
        now = off.gateway._clock()
        monkeypatch.setattr(off.gateway, "_clock", lambda: now)
        monkeypatch.setattr(Reader, "allowed", lambda self, size=0: 10.0 + sent / 64)
        monkeypatch.setattr(connection, "patiently", patiently)
        if draining:
            off.gateway.drain.begin(now)
        peer.ask("a", {"text": "x" * 4000})
        assert (await peer.close())[0] == 1009
        monkeypatch.undo()
    assert seconds == [pytest.approx(allowed)]


@pytest.mark.parametrize("ends", ["leaves", "is closed"])
async def test_however_a_socket_ends_what_is_left_of_it_is_not_waited_for_for_ever(monkeypatch, ends):
    """What a server has of a message whose peer has gone without a word keeps the connection, too."""
    seen: list[tuple[object, float]] = []
    monkeypatch.setattr(connection, "cut_unless_read", lambda *of: seen.append(of))
    async with serving() as (app, _):
        peer = await Peer(app, "/answer").accepted()
        if ends == "leaves":
            peer.leave()
            await peer.ended()
        else:
            peer.ask("a", {"text": "x" * 4000})
            await peer.close()
    [(send, seconds)] = seen
    assert callable(send)
    assert seconds == patience.PATIENCE


async def test_a_flood_of_refused_requests_waits_for_its_reader_too():
    async with serving(ws_in_flight=1) as (app, _):
        peer = await Peer(app, "/wait", reads=False).accepted()
        for number in range(200):
            peer.ask(str(number), {})
        await until(lambda: peer._said.qsize() < 199)
        for _ in range(100):
            await asyncio.sleep(0)
        assert peer._said.qsize() == 198  # one was admitted, one is refused; the rest is not even received
        peer.reading.set()
        for number in range(1, 200):
            assert (await peer.hear())["id"] == str(number)
        peer.leave()
        await peer.ended()


async def test_a_flood_from_a_peer_leaves_the_others_their_turn():
    async with serving() as (app, _):
        peer = await Peer(app, "/answer").accepted()
        for _ in range(1000):
            peer.say('{"id": "nobody", "event": "cancel"}')
        before = 1000
        while before:
            await asyncio.sleep(0)
            assert before - peer._said.qsize() <= AT_ONCE
            before = peer._said.qsize()
        peer.leave()
        await peer.ended()


# ---- stopping


async def test_a_drain_refuses_each_message_and_closes_the_socket_when_nothing_of_it_is_left():
    async with serving() as (app, off):
        busy, idle = await Peer(app, "/wait").accepted(), await Peer(app, "/wait").accepted()
        late, done = await Peer(app, "/answer").accepted(), await Peer(app, "/wait").accepted()
        busy.ask("a", {})
        done.ask("d", {})
        await until(lambda: waiters(off, "wait") == 2)
        off.begin_drain()
        done.say('{"id": "d", "event": "cancel"}')
        assert (await done.hear())["problem"]["reason"] == "cancelled"
        assert await done.close() == (1012, "draining")
        busy.ask("b", {})
        refused = await busy.hear()
        assert (refused["id"], refused["status"], refused["problem"]["reason"]) == ("b", 503, "draining")
        late.ask("c", {"text": "abc"})
        assert (await late.hear())["problem"]["reason"] == "draining"
        assert await late.close() == (1012, "draining")
        talking.OPEN.set()
        assert await busy.hear() == {"id": "a", "event": "reply", "data": {"bits": 0}}
        assert await busy.close() == (1012, "draining")
        assert await idle.close() == (1012, "draining")


async def denied(app: FastAPI, path: str = "/answer", **options: Any) -> tuple[int, dict[bytes, bytes]]:
    peer = Peer(app, path, **options)
    first = await peer.next()
    assert first["type"] == "websocket.http.response.start"
    assert (await peer.next())["type"] == "websocket.http.response.body"
    await peer.ended()
    return first["status"], dict(first["headers"])


async def test_who_comes_before_the_start_or_in_a_drain_is_refused_before_it_is_accepted():
    app, off = made()
    status, headers = await denied(app)
    assert (status, headers[b"retry-after"], headers[b"content-type"]) == (503, b"1", b"application/problem+json")
    async with app.router.lifespan_context(app):
        off.begin_drain()
        status, headers = await denied(app)
        assert (status, headers[b"connection"]) == (503, b"close")


async def test_who_comes_when_its_endpoint_is_full_is_refused_before_it_is_accepted():
    async with serving() as (app, off):
        assert off.gateway is not None
        peer = await Peer(app, "/narrow").accepted()
        peer.ask("a", {})
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(talking.BEGUN.acquire)
        status, headers = await denied(app, "/narrow")
        assert (status, headers[b"content-type"]) == (429, b"application/problem+json")
        assert 1 <= int(headers[b"retry-after"]) <= 30
        other = await Peer(app, "/narrow", denial=False).accepted()
        assert await other.close() == (1013, "endpoint-busy")
        assert off.status()["refused"] == 2
        assert b'offloop_rejected_total{endpoint="narrow",reason="endpoint-busy"} 2.0' in off.metrics()
        talking.OPEN.set()
        assert (await peer.hear())["event"] == "reply"
        again = await Peer(app, "/narrow").accepted()
        for one in (peer, again):
            one.leave()
            await one.ended()


async def test_a_server_that_cannot_answer_by_http_accepts_and_closes_with_1013():
    app, _ = made()
    peer = await Peer(app, "/answer", denial=False).accepted()
    assert await peer.close() == (1013, "backend-unavailable")


async def test_who_comes_when_no_loop_can_take_work_is_refused_before_it_is_accepted():
    async with serving() as (app, off):
        assert off.gateway is not None
        off.gateway.crew.usable = 0
        assert (await denied(app))[0] == 503
        off.gateway.crew.usable = 2


# ---- who may


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "allowed", "opened"),
    [
        (None, "ws", b"a.example", (), True),
        (b"http://a.example", "ws", b"a.example", (), True),
        (b"https://A.example", "wss", b"a.EXAMPLE", (), True),
        (b"https://a.example", "ws", b"a.example", (), True),  # a proxy has ended TLS
        (b"http://a.example", "wss", b"a.example", (), False),
        (b"https://a.example", "wss", b"a.example:443", (), True),
        (b"https://a.example:8443", "wss", b"a.example", (), False),
        (b"http://[::1]:80", "ws", b"[::1]", (), True),
        (b"https://b.example", "wss", b"a.example", (), False),
        (b"https://a.example.b.example", "wss", b"a.example", (), False),
        (b"https://x@a.example", "wss", b"a.example", (), False),
        (b"null", "ws", b"a.example", (), False),
        (b"", "ws", b"a.example", (), False),
        (b"chrome-extension://a.example", "ws", b"a.example", (), False),
        (b"https://b.example", "ws", b"a.example", ("https://b.example",), True),
        (b"https://a.example", "wss", b"a.example", ("https://b.example",), False),
        (b"null", "ws", b"a.example", ("*",), True),
    ],
)
def test_an_origin_is_allowed_where_it_is_the_same_or_is_named(origin, scheme, host, allowed, opened):
    headers = [(b"host", host)] + ([] if origin is None else [(b"origin", origin)])
    assert origin_allowed({"headers": headers, "scheme": scheme}, allowed) is opened


def test_several_origins_and_no_or_several_hosts_are_refused():
    same = (b"origin", b"http://a.example")
    for headers in ([same, same, (b"host", b"a.example")], [same], [same, (b"host", b"a.example"), (b"host", b"b")]):
        assert not origin_allowed({"headers": headers, "scheme": "ws"}, ())


async def test_another_origin_is_closed_before_it_is_accepted():
    async with serving() as (app, _):
        peer = Peer(app, "/answer", headers=[HERE, (b"origin", b"https://elsewhere.example")])
        assert (await peer.next())["type"] == "websocket.close"
        await peer.ended()


@pytest.mark.parametrize("refusal", [HTTPException(403), WebSocketException(1008)])
async def test_dependencies_of_every_level_hold_and_stay_open_as_long_as_the_socket(refusal):
    story: list[str] = []

    async def known(x_key: Annotated[str, Header()] = "") -> AsyncIterator[None]:
        if x_key != "secret":
            raise refusal
        story.append("opened")
        yield
        story.append("closed")

    app, _ = made({"dependencies": [Depends(known)]})
    async with app.router.lifespan_context(app):
        peer = Peer(app, "/answer")
        refused = await peer.next()
        assert refused.get("status") == 403 or refused["type"] == "websocket.close"
        await peer.ended()
        assert story == []
        peer = await Peer(app, "/answer", headers=[HERE, (b"x-key", b"secret")]).accepted()
        peer.ask("a", {"text": "abc"})
        assert (await peer.hear())["event"] == "reply"
        assert story == ["opened"]
        peer.leave()
        await peer.ended()
        assert story == ["opened", "closed"]


async def of_the_request(request: Request) -> None: ...


async def of_the_body(text: Annotated[str, Body(embed=True)]) -> None: ...


class OfTheRequest:
    def __call__(self, request: Request) -> None: ...


async def within(_: Annotated[None, Depends(of_the_request)]) -> None: ...


@pytest.mark.parametrize(
    ("dependency", "says"),
    [
        (of_the_request, "of_the_request asks for a Request (`request`)"),
        (within, "of_the_request asks for a Request (`request`)"),
        (of_the_body, "of_the_body reads `text` from the body"),
        (OfTheRequest(), "OfTheRequest asks for a Request (`request`)"),
    ],
)
@pytest.mark.parametrize("where", ["the router", "the inclusion", "the app", "an outer router", "nowhere but itself"])
async def test_a_dependency_that_no_socket_could_satisfy_stops_the_start(dependency, says, where):
    off = Offloop(PROGRAM, settings=Settings(threads=1, gc_freeze=False))
    given = {"dependencies": [Depends(dependency)]}
    app = FastAPI(**given if where == "the app" else {})
    router = OffloopRouter(off, **(given if where in ("the router", "nowhere but itself") else {}))
    if where == "an outer router":
        outer = APIRouter(**given)
        outer.include_router(router, prefix="/outer")
        app.include_router(outer)
    else:
        app.include_router(router, **(given if where == "the inclusion" else {}))
    started: Any = router if where == "nowhere but itself" else app.router
    with pytest.raises(errors.UsageError, match="websocket /.*" + re.escape(says)):
        async with started.lifespan_context(router if started is router else app):
            pass


async def test_what_both_have_and_what_need_not_be_given_is_no_fault_of_a_dependency():
    story: list[str] = []

    async def open_to_both(connection: HTTPConnection, request: Request = None, socket: WebSocket = None) -> None:  # type: ignore[assignment]
        story.append(f"{connection.scope['type']} {request} {socket is connection}")

    key = Security(APIKeyHeader(name="x-key"))
    app, _ = made({"dependencies": [key, Depends(open_to_both), Depends(partial(of_the_request, request=None))]})
    async with app.router.lifespan_context(app):
        peer = await Peer(app, "/answer", headers=[HERE, (b"x-key", b"any")]).accepted()
        peer.leave()
        await peer.ended()
    assert story == ["websocket None True"]


async def test_sockets_of_the_users_own_beside_ours_are_not_judged():
    off = Offloop(PROGRAM, settings=Settings(threads=1, gc_freeze=False))
    router = OffloopRouter(off, talking.answer)

    @router.websocket("/mine", dependencies=[Depends(of_the_request)])
    async def mine(socket: WebSocket) -> None: ...

    app = FastAPI()
    app.include_router(router)
    async with app.router.lifespan_context(app):
        peer = await Peer(app, "/answer").accepted()
        peer.leave()
        await peer.ended()


async def test_a_socket_carries_its_callers_label_in_the_handshake_and_in_problems():
    async with serving() as (app, _):
        peer = Peer(app, "/answer", headers=[HERE, (b"x-request-id", b"mine")])
        assert (await peer.next())["headers"] == [(b"x-request-id", b"mine")]
        peer.leave()
        await peer.ended()


def test_only_endpoints_that_are_named_have_a_socket():
    off = Offloop(PROGRAM, settings=Settings(threads=1))
    router = OffloopRouter(off, talking.nothing)
    assert [getattr(route, "path", "") for route in router.routes] == ["/nothing"]
