"""The form of events, and what becomes of a request whose caller does not take them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from offloop import Offloop, Settings
from offloop.events import Event
from offloop.fastapi import OffloopRouter, events, patience
from offloop.ingress.streaming import Stream
from offloop.messages import Chunk, Outcome
from tests.unit.fastapi.asgi import DEADLINE, JSON, Caller
from tests.unit.ingress.rig import Rig

TAKES = (b"accept", b"text/event-stream")
HEADERS = [*JSON, TAKES]
ROWS = [f'event: chunk\ndata: {{"number":{n},"text":""}}\n\n'.encode() for n in (1, 2)]
REPLY = b'event: reply\ndata: {"rows":2}\n\n'


class Seeing:
    """Notes how requests end, and why."""

    kinds = frozenset({"disconnect", "terminal"})

    def __init__(self, seen: list[Event]) -> None:
        self._seen = seen

    def __call__(self, event: Event) -> None:
        self._seen.append(event)


@asynccontextmanager
async def serving(seen: list[Event] | None = None) -> AsyncIterator[tuple[FastAPI, Offloop]]:
    observers = () if seen is None else (Seeing(seen),)
    settings = Settings(threads=2, gc_freeze=False)
    off = Offloop("tests.e2e.programs.events", settings=settings, observers=observers)
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    async with app.router.lifespan_context(app):
        yield app, off


class Deaf(Caller):
    """Takes so many messages; the next stays unread until it has changed its mind."""

    takes = 0

    async def _send(self, message: Message) -> None:
        if len(self.sent) >= self.takes:
            await self.mind.wait()
        await super()._send(message)

    def __init__(self, *args: Any, takes: int, **options: Any) -> None:
        self.takes = takes
        self.mind = asyncio.Event()
        super().__init__(*args, **options)


async def waiting(off: Offloop, name: str, count: int = 0) -> None:
    """Until so many wait."""
    async with asyncio.timeout(DEADLINE):
        while off.status()["endpoints"][name]["in_flight"] != count:  # noqa: ASYNC110  (what a status says has no event)
            await asyncio.sleep(0)


# ---- who takes events


@pytest.mark.parametrize(
    "accept", [b"text/event-stream", b"Text/Event-Stream; charset=utf-8", b"application/json, text/event-stream"]
)
def test_whoever_names_events_takes_them(accept: bytes) -> None:
    assert events.wanted({b"accept": accept})


@pytest.mark.parametrize("accept", [b"*/*", b"text/*", b"application/json", b""])
def test_whoever_accepts_anything_or_says_nothing_takes_a_reply(accept: bytes) -> None:
    assert not events.wanted({b"accept": accept})
    assert not events.wanted({})


async def test_an_endpoint_that_does_not_stream_answers_with_its_reply_whatever_is_accepted() -> None:
    off = Offloop("tests.unit.fastapi.program", settings=Settings(threads=1, gc_freeze=False))
    app = FastAPI()
    app.include_router(OffloopRouter(off))
    async with app.router.lifespan_context(app):
        caller = await Caller(app, "/texts", headers=HEADERS).say(b'{"text": "a b"}').answered()
    assert (caller.status, caller.json) == (201, {"words": 2})


# ---- how they are written


async def test_the_answer_is_a_200_of_one_event_after_the_other_and_complete_with_the_last() -> None:
    async with serving() as (app, off):
        headers = [*HEADERS, (b"x-request-id", b"mine")]
        caller = await Caller(app, "/created", headers=headers).say(b'{"count": 2}').answered()
        await waiting(off, "created")
    assert caller.status == 200
    assert caller.headers == {
        b"content-type": b"text/event-stream",
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
        b"x-request-id": b"mine",
    }
    assert b"".join(message["body"] for message in caller.sent[1:]) == b"".join((*ROWS, REPLY))
    assert [message["body"] for message in caller.sent[-2:]] == [REPLY, b""]
    assert caller.complete


def test_json_over_several_lines_is_one_event() -> None:
    chunk = Chunk("r", 1, 1, b'{\r\n"a":\r1,\n"b": "\\n"}')
    assert events._event(chunk) == b'event: chunk\ndata: {\ndata: "a":\ndata: 1,\ndata: "b": "\\n"}\n\n'


@pytest.mark.parametrize("line", ["\x0b", "\x0c", "\x85", "\u2028"])
def test_what_other_than_a_carriage_return_or_line_feed_breaks_a_line_is_left_as_it_is(line: str) -> None:
    payload = f'"{line}"'.encode()
    assert events._event(Chunk("r", 1, 1, payload)) == b"event: chunk\ndata: " + payload + b"\n\n"


@pytest.mark.parametrize(
    ("media_type", "payload", "data"),
    [
        (None, b'{"a":1}', {"a": 1}),
        (None, b"", None),
        ("application/json;type=Row", b'{"a":1}', {"a": 1}),
        ("application/json", b"{", {"media_type": "application/json", "filename": "a.json", "data": "ew=="}),
        ("text/plain", b"", {"media_type": "text/plain", "filename": "a.json", "data": ""}),
    ],
)
def test_json_is_told_as_it_is_and_bytes_in_base64(media_type: str | None, payload: bytes, data: Any) -> None:
    outcome = Outcome("r", payload=payload, media_type=media_type, filename="a.json")
    assert json.loads(events._data(outcome)) == data


# ---- callers who do not read


async def test_a_caller_who_does_not_read_is_cancelled_and_its_answer_left_incomplete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    async with serving() as (app, off):
        caller = Deaf(app, "/watched", headers=HEADERS, takes=1).say(b"{}")
        await caller.answered()
        await waiting(off, "watched")
    assert [message["type"] for message in caller.sent] == ["http.response.start"]
    assert not caller.complete


async def test_a_caller_who_takes_not_even_the_head_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    async with serving() as (app, off):
        caller = await Deaf(app, "/watched", headers=HEADERS, takes=0).say(b"{}").answered()
        await waiting(off, "watched")
    assert caller.sent == []


async def test_a_caller_who_leaves_the_last_event_unread_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    async with serving() as (app, off):
        caller = await Deaf(app, "/created", headers=HEADERS, takes=2).say(b'{"count": 1}').answered()
        off.begin_drain()
    assert [message["body"] for message in caller.sent[1:]] == ROWS[:1]
    assert not caller.complete


async def test_under_finish_a_caller_who_does_not_read_has_left_and_its_work_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    monkeypatch.setattr(patience, "SLOWEST", 2**40)
    seen: list[Event] = []
    async with serving(seen) as (app, off):
        caller = Deaf(app, "/steadfast", headers=HEADERS, takes=1).say(b'{"count": 40}')
        await caller.answered()
        await waiting(off, "steadfast")
    assert [event.outcome for event in seen if event.kind == "disconnect"] == ["disconnect"]
    assert [event.outcome for event in seen if event.kind == "terminal"] == ["ok"]
    assert not caller.complete


async def test_who_reads_slowly_has_as_much_more_time_as_it_was_sent_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SLOWEST", 2)
    allowed: list[float] = []

    async def patiently(sending: Any, seconds: float) -> None:
        allowed.append(seconds)
        await sending

    monkeypatch.setattr(patience, "patiently", patiently)
    async with serving() as (app, _):
        caller = await Caller(app, "/created", headers=HEADERS).say(b'{"count": 1}').answered()
    sizes = [0, *(len(message["body"]) for message in caller.sent[1:])]
    assert allowed == [patience.PATIENCE + sum(sizes[max(0, n - 2) : n + 1]) / 2 for n in range(len(sizes))]


async def test_a_caller_who_keeps_up_with_a_flood_leaves_the_others_their_turn() -> None:
    rig = Rig()
    stream = Stream(rig.gateway)
    waiter = rig.gateway.open("keeps", stream.promise)
    stream.begin(waiter)
    rig.gateway.send(waiter, b"", stream=True)
    rig.begun(waiter)
    rig.reports(*(Chunk(waiter.rid, 1, n, b"{}") for n in range(1000)), Outcome(waiter.rid))
    sent = 0

    async def send(message: Message) -> None:  # there is room: it never waits
        nonlocal sent
        sent += message.get("body", b"").count(b"\n\n")

    task = asyncio.ensure_future(events.Answer(send, b"label").serve(stream))
    while not task.done():
        before = sent
        await asyncio.sleep(0)
        assert sent - before <= events.AT_ONCE
    assert (sent, task.result()) == (1000, Outcome(waiter.rid))


async def test_a_caller_who_reads_again_in_time_misses_nothing() -> None:
    async with serving() as (app, off):
        caller = Deaf(app, "/created", headers=HEADERS, takes=1).say(b'{"count": 2}')
        await caller.hears(1)
        await waiting(off, "created")
        caller.mind.set()
        await caller.answered()
    assert caller.body == b"".join(ROWS) + REPLY


async def test_what_is_silent_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.01)
    async with serving() as (app, _):
        caller = Caller(app, "/watched", headers=HEADERS).say(b"{}")
        await caller.hears(5)
        caller.leave()
        await caller.answered()
    said = [message["body"] for message in caller.sent[1:]]
    assert [body for body in said if body != b":\n\n"] == [ROWS[0]]
    assert said.count(b":\n\n") >= 2


async def test_a_connection_that_times_out_while_it_is_listened_to_ends_the_request() -> None:
    async with serving() as (app, off):
        caller = Caller(app, "/watched", headers=HEADERS).say(b"{}")
        await caller.hears(2)
        caller.breaks(TimeoutError("no answer from the other side"))
        await caller.answered()
        await waiting(off, "watched")
    assert not caller.complete
    assert len(caller.sent) == 2


async def test_a_connection_that_breaks_while_it_is_listened_to_fails_the_request() -> None:
    async with serving() as (app, off):
        caller = Caller(app, "/watched", headers=HEADERS).say(b"{}")
        await caller.hears(2)
        caller.breaks(ConnectionResetError("by the other side"))
        with pytest.raises(ConnectionResetError, match="by the other side"):
            await caller.answered()
        await waiting(off, "watched")


async def test_a_caller_who_leaves_during_its_upload_is_no_stream() -> None:
    async with serving() as (app, off):
        caller = Caller(app, "/created", headers=HEADERS).say(b'{"count":', more=True)
        await waiting(off, "created", 1)
        caller.leave()
        await caller.answered()
        await waiting(off, "created")
    assert caller.status == 499


async def test_an_upload_that_is_late_is_answered_over_plain_http() -> None:
    async with serving() as (app, _):
        headers = [*HEADERS, (b"x-request-timeout", b"0.05")]
        caller = await Caller(app, "/created", headers=headers).say(b'{"count":', more=True).answered()
    assert (caller.status, caller.json["reason"]) == (408, "upload-timeout")


async def test_a_stream_that_was_not_started_is_refused_over_plain_http() -> None:
    app = FastAPI()
    app.include_router(OffloopRouter(Offloop("tests.e2e.programs.events")))
    caller = await Caller(app, "/created", headers=HEADERS).say(b"{}").answered()
    assert (caller.status, caller.json["reason"]) == (503, "backend-unavailable")
