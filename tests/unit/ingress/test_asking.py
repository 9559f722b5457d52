import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from offloop import Endpoint, errors
from offloop.graph.payloads import codec_for
from offloop.ingress.asking import Messages, outcome_of, stream_of
from offloop.messages import Chunk, Outcome, Progressed
from offloop.ports.codec import Encoded
from tests.unit.ingress.rig import Rig
from tests.unit.runners.program import Done, Order, Part

pytestmark = pytest.mark.anyio
BODY = Encoded(b"body", "raw", "text/plain", "note.txt")


async def asked(rig: Rig) -> "asyncio.Task[tuple[Outcome, int | None]]":
    asking = asyncio.ensure_future(outcome_of(rig.gateway, "plain", BODY, timeout=2.0, request_id="label"))
    await asyncio.sleep(0)
    return asking


async def test_asking_opens_sends_waits_and_closes() -> None:
    rig = Rig()
    asking = await asked(rig)
    ((envelope, _),) = rig.sink.put_to
    assert (envelope.payload, envelope.form, envelope.media_type, envelope.filename) == BODY
    assert (envelope.deadline, envelope.request_id) == (102.0, "label")
    rig.reports(Outcome(rid="r1"))
    assert await asking == (Outcome(rid="r1"), None)
    assert rig.gateway.unsent == 0


async def test_what_expired_in_the_queue_says_when_to_try_again() -> None:
    rig = Rig()
    asking = await asked(rig)
    rig.until(102.0)
    assert await asking == (Outcome(rid="r1", reason="expired-in-queue", started=False), 1)


async def test_cancelling_the_asker_cancels_the_request() -> None:
    rig = Rig()
    asking = await asked(rig)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert rig.ends() == [("r1", "cancelled", False)]


async def test_a_refusal_is_raised() -> None:
    with pytest.raises(errors.BackendUnavailable):
        await (await asked(Rig(0)))


# ---- streams


CODEC = codec_for(Endpoint("plain", Order, Done, stream=Part))


class Ended(Exception):
    """What the outcome became."""


def streamed(rig: Rig) -> AbstractAsyncContextManager[Messages[Any]]:
    return stream_of(rig.gateway, "plain", BODY, CODEC, Ended, timeout=2.0, request_id="label")  # type: ignore[arg-type]


def chunk(number: int) -> Chunk:
    return Chunk("r1", 1, number, Part(number=number).model_dump_json().encode())


REPLY = Outcome(rid="r1", payload=b'{"text":"all"}')


async def test_streaming_asks_for_stream_messages_and_gives_them_in_order_and_then_the_reply() -> None:
    rig = Rig()
    async with streamed(rig) as messages:
        ((envelope, _),) = rig.sink.put_to
        assert (envelope.payload, envelope.form, envelope.media_type, envelope.filename) == BODY
        assert (envelope.deadline, envelope.request_id, envelope.stream) == (102.0, "label", True)
        rig.reports(chunk(1), chunk(2), REPLY)
        assert [part async for part in messages] == [Part(number=1), Part(number=2)]
        assert messages.reply == Done(text="all")
        assert [part async for part in messages] == []
        assert rig.gateway.unsent == 1
    assert messages.reply == Done(text="all")
    assert (rig.gateway.unsent, rig.sink.cancelled) == (0, [])


async def test_progress_is_there_for_whoever_looks_between_two_messages() -> None:
    rig = Rig()
    async with streamed(rig) as messages:
        assert messages.progress is None
        rig.reports(Progressed("r1", 1, 1.0, 2.0, "page 1"), chunk(1), Progressed("r1", 1, 2.0), REPLY)
        seen = [messages.progress async for _ in messages]
    assert seen == [(1.0, 2.0, "page 1")]
    assert messages.progress == (2.0, None, None)


async def test_there_is_no_reply_before_the_end() -> None:
    rig = Rig()
    async with streamed(rig) as messages:
        rig.reports(chunk(1), REPLY)
        with pytest.raises(errors.UsageError, match="async for"):
            _ = messages.reply
        await anext(messages)
        with pytest.raises(errors.UsageError):
            _ = messages.reply


@pytest.mark.parametrize(
    "failure",
    [Outcome(rid="r1", reason="no-reply"), Outcome(rid="r1", reason="ok", status=409)],
    ids=["row", "problem"],
)
async def test_a_failure_is_raised_after_what_came_before_it_and_again(failure: Outcome) -> None:
    rig = Rig()
    async with streamed(rig) as messages:
        rig.reports(chunk(1), failure)
        assert await anext(messages) == Part(number=1)
        for _ in range(2):
            with pytest.raises(Ended) as raised:
                await anext(messages)
            assert raised.value.args == (failure, None)
        with pytest.raises(errors.UsageError):
            _ = messages.reply


async def test_what_was_late_says_when_to_try_again() -> None:
    rig = Rig()
    async with streamed(rig) as messages:
        rig.until(102.0)
        with pytest.raises(Ended) as raised:
            await anext(messages)
    assert raised.value.args == (Outcome(rid="r1", reason="expired-in-queue", started=False), 1)


async def test_leaving_early_cancels_the_request() -> None:
    rig = Rig()
    async with streamed(rig) as messages:
        rig.begun(next(iter(rig.gateway.waiters)))
        rig.reports(chunk(1))
        await anext(messages)
    assert rig.sink.cancelled == ["r1"]
    assert rig.ends() == [("r1", "cancelled", True)]


async def test_leaving_with_an_outcome_that_was_not_taken_cancels_nothing() -> None:
    rig = Rig()
    async with streamed(rig):
        rig.reports(chunk(1), REPLY)
    assert (rig.ends(), rig.sink.cancelled, rig.gateway.unsent) == ([("r1", "ok", True)], [], 0)


async def test_cancelling_whoever_iterates_cancels_the_request() -> None:
    rig = Rig()

    async def iterate() -> None:
        async with streamed(rig) as messages:
            await anext(messages)

    task = asyncio.ensure_future(iterate())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.ends() == [("r1", "cancelled", False)]


async def test_a_stream_that_is_refused_is_not_entered() -> None:
    rig = Rig(0)
    with pytest.raises(errors.BackendUnavailable):
        await streamed(rig).__aenter__()
    rig = Rig()
    with pytest.raises(errors.PayloadTooLarge):
        await stream_of(
            rig.gateway, "plain", Encoded(b"x" * 101), CODEC, Ended, timeout=None, request_id=""  # type: ignore[arg-type]
        ).__aenter__()  # fmt: skip
    assert len(rig.gateway.waiters) == 0
