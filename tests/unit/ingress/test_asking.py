import asyncio

import pytest

from offloop import errors
from offloop.ingress.asking import outcome_of
from offloop.messages import Outcome
from offloop.ports.codec import Encoded
from tests.unit.ingress.rig import Rig

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
