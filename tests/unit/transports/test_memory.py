"""What is the memory transport's own; what it shares with all transports is in tests/conformance."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from offloop.messages import Begun, Chunk, Envelope, Freed, Outcome, Report
from offloop.transports.memory import MemoryTransport

BEGUN = Begun("r1", 1, "loop-1", 1.0)
OUTCOME = Outcome(rid="r1")


class Web:
    """A web side that is turned by hand."""

    def __init__(self) -> None:
        self.woken: list[Callable[[], None]] = []
        self.batches: list[list[Report]] = []
        self.transport = MemoryTransport(self.woken.append)
        self.transport.subscribe(lambda reports: self.batches.append(list(reports)))

    def turn(self) -> None:
        woken, self.woken[:] = list(self.woken), []
        for call in woken:
            call()


def envelope(rid: str = "r1", **fields: Any) -> Envelope:
    return Envelope(**{"rid": rid, "endpoint": "read", "payload": b"x" * 1000, "deadline": 1.0} | fields)


def test_begun_alone_wakes_nobody() -> None:
    web = Web()
    web.transport.send(BEGUN)
    assert web.woken == []
    web.transport.settle()
    assert web.batches == [[BEGUN]]


def test_reports_between_two_turns_take_one_wake_up_and_one_call() -> None:
    web = Web()
    reports = [BEGUN, Chunk("r1", 1, 1, b""), OUTCOME, Freed("r1", 1, "loop-1")]
    for report in reports:
        web.transport.send(report)
    assert len(web.woken) == 1
    web.turn()
    assert web.batches == [reports]


def test_after_a_turn_the_next_report_wakes_again() -> None:
    web = Web()
    for _ in range(3):
        web.transport.send(OUTCOME)
        assert len(web.woken) == 1
        web.turn()
    assert web.batches == [[OUTCOME]] * 3


def test_a_wake_up_whose_reports_were_settled_meanwhile_receives_nothing() -> None:
    web = Web()
    web.transport.send(OUTCOME)
    web.transport.settle()
    web.turn()
    assert web.batches == [[OUTCOME]]
    web.transport.send(OUTCOME)
    assert len(web.woken) == 1


def test_what_is_sent_while_reports_are_received_comes_with_the_next_turn() -> None:
    web = Web()
    more = [OUTCOME]

    def receive(reports: Any) -> None:
        web.batches.append(list(reports))
        if more:
            web.transport.send(more.pop())

    web.transport.subscribe(receive)
    web.transport.send(BEGUN)
    web.transport.settle()
    assert web.batches == [[BEGUN]]
    web.turn()
    assert web.batches == [[BEGUN], [OUTCOME]]


def test_the_body_of_what_was_withdrawn_does_not_wait_for_a_loop() -> None:
    web = Web()
    web.transport.put(envelope(), None)
    assert web.transport.withdraw("r1")
    left = web.transport.get(0.0)
    assert left is not None
    assert left.envelope.payload == b""
    assert not left.begin()


def test_what_has_ended_is_forgotten() -> None:
    web = Web()
    for rid, end in (("r1", OUTCOME), ("r2", Freed("r2", 1, "loop-1"))):
        web.transport.put(envelope(rid), None)
        delivery = web.transport.get(0.0)
        assert delivery is not None
        assert delivery.begin()
        web.transport.send(end)
    web.transport.settle()
    web.transport.cancel("r1")
    web.transport.cancel("r2")
    assert web.transport._deliveries == {}


def test_a_close_wakes_no_waiting_loop_but_gives_it_nothing() -> None:
    web = Web()
    came: list[Any] = []
    web.transport.put(envelope(), None)
    web.transport.close()
    loop = threading.Thread(target=lambda: came.append(web.transport.get(10.0)))
    loop.start()
    loop.join(10.0)
    assert came == [None]


def test_a_wake_up_that_comes_after_the_close_receives_nothing() -> None:
    web = Web()
    web.transport.send(OUTCOME)
    web.transport.close()
    web.turn()
    assert web.batches == []


def test_an_event_loop_that_has_closed_is_no_error_to_a_loop_that_outlived_it() -> None:
    loop = asyncio.new_event_loop()
    transport = MemoryTransport(loop.call_soon_threadsafe)
    loop.close()
    for report in (OUTCOME, BEGUN, OUTCOME):
        transport.send(report)
    assert not transport.get(0.0)


def test_a_report_before_anybody_subscribed_is_no_error() -> None:
    transport = MemoryTransport(lambda woken: None)
    transport.send(OUTCOME)
    transport.settle()
