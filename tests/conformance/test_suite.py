"""The suite finds what it is there to find: transports that are broken in one way each do not pass it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from offloop.messages import Begun, Chunk, Envelope, Outcome, Report
from offloop.testing.conformance import Ends, TransportConformance, suite, web_side, work
from offloop.testing.conformance.web_side import WebSide
from offloop.transports.memory import MemoryDelivery, MemoryTransport


class ClaimedByAll(MemoryTransport):
    def get(self, timeout: float) -> MemoryDelivery | None:
        delivery = super().get(timeout)
        if delivery is not None:
            delivery._claim.extend([None] * 99)
        return delivery


class WithdrawnAtAnyTime(MemoryTransport):
    def withdraw(self, rid: str) -> bool | None:
        super().withdraw(rid)
        return rid in self._deliveries or True


class LastInFirstOut(MemoryTransport):
    held: list[MemoryDelivery]

    def get(self, timeout: float) -> MemoryDelivery | None:
        self.held = getattr(self, "held", [])
        while (delivery := super().get(0.0)) is not None:
            self.held.append(delivery)
        return self.held.pop() if self.held else None


class Forgetful(MemoryTransport):
    """Of an envelope it keeps what a simple request needs."""

    def put(self, envelope: Envelope, worker: str | None) -> None:
        super().put(msgspec.structs.replace(envelope, trace=()), worker)


class Deaf(MemoryTransport):
    def cancel(self, rid: str) -> None:
        """It passes over every cancellation."""


class CancelsAll(MemoryTransport):
    def cancel(self, rid: str) -> None:
        for delivery in self._deliveries.values():
            delivery.cancelled = True


class Lossy(MemoryTransport):
    def send(self, report: Report) -> None:
        if not isinstance(report, Chunk) or report.number != 250:
            super().send(report)


class Twice(MemoryTransport):
    def send(self, report: Report) -> None:
        super().send(report)
        if isinstance(report, (Begun, Outcome)):
            super().send(report)


class LateBegun(MemoryTransport):
    """Evidence that comes with the next report only."""

    def settle(self) -> None:
        if not isinstance(self._reports[-1] if self._reports else None, Begun):
            super().settle()


class Eager(MemoryTransport):
    """One wake-up for each report."""

    def _woken(self) -> None:
        self._armed = False
        if self._reports:
            self._receive([self._reports.popleft()])

    def send(self, report: Report) -> None:
        self._armed = False
        super().send(report)


class Disheartened(MemoryTransport):
    """A receiver that raised once is not called again."""

    def subscribe(self, receive: Callable[[Sequence[Report]], None]) -> None:
        def once(reports: Sequence[Report]) -> None:
            try:
                receive(reports)
            except ValueError:
                self._receive = list

        super().subscribe(once)


class Restless(MemoryTransport):
    def close(self) -> None:
        """It goes on."""


class Dozing(MemoryTransport):
    """Work wakes nobody who waits already."""

    def get(self, timeout: float) -> MemoryDelivery | None:
        return super().get(0.0)


BROKEN: list[tuple[type[MemoryTransport], str]] = [
    (ClaimedByAll, "a_delivery_is_claimed_once"),
    (ClaimedByAll, "racing_threads_claim_a_delivery_once"),
    (ClaimedByAll, "what_a_loop_holds_can_be_withdrawn_until_it_begins"),
    (WithdrawnAtAnyTime, "what_has_begun_cannot_be_withdrawn"),
    (WithdrawnAtAnyTime, "beginning_and_withdrawing_exclude_each_other"),
    (WithdrawnAtAnyTime, "withdrawing_while_loops_take_work_leaves_each_with_one_of_them"),
    (WithdrawnAtAnyTime, "unknown_ids_are_passed_over"),
    (LastInFirstOut, "work_comes_first_in_first_out"),
    (Forgetful, "an_envelope_arrives_whole"),
    (Deaf, "a_running_delivery_sees_its_cancellation"),
    (CancelsAll, "a_running_delivery_sees_its_cancellation"),
    (Lossy, "reports_of_one_thread_keep_their_order"),
    (Twice, "begun_is_visible_when_send_has_returned"),
    (Twice, "nothing_is_lost_and_nothing_comes_twice_under_load"),
    (LateBegun, "begun_is_visible_when_send_has_returned"),
    (Eager, "many_reports_take_few_wake_ups"),
    (Disheartened, "a_receiver_that_raises_does_not_stop_the_reader"),
    (Restless, "after_close_nothing_is_taken"),
    (Restless, "after_close_reports_are_dropped_without_an_error"),
    (Dozing, "a_waiting_get_is_woken_by_work"),
]

SILENT = {Deaf, Lossy, Disheartened}
"""Seen only by what does not come: no need to wait for it long."""


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_transport_does_not_pass(
    broken: type[MemoryTransport], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(TransportConformance):
        async def open(self) -> Ends:
            transport: Any = broken(asyncio.get_running_loop().call_soon_threadsafe)
            return Ends(
                sink=transport, source=transport, reply_sink=transport, reply_source=transport,
                close=transport.close, nudge=transport.nudge,
            )  # fmt: skip

    if broken in SILENT:
        for module in (web_side, suite, work):
            monkeypatch.setattr(module, "DEADLINE", 0.5)
    with WebSide() as web:
        ends = web.run(Broken().open())
        web.call(ends.reply_source.subscribe, web.receive)
        with pytest.raises((AssertionError, TimeoutError)):
            getattr(Broken(), f"test_{name}")(web=web, ends=ends)
