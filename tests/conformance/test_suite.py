"""The suite finds what it is there to find: transports that are broken in one way each do not pass it."""

import asyncio
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import msgspec
import pytest

from offloop.messages import WINDOW, Begun, Chunk, Envelope, Freed, Outcome, Progressed, Report, WorkerGone
from offloop.testing.conformance import Ends, TransportConformance, streams, suite, web_side, work
from offloop.testing.conformance.web_side import WebSide
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.memory import MemoryTransport


class ClaimedByAll(MemoryTransport):
    def get(self, timeout: float) -> ClaimedDelivery | None:
        delivery = super().get(timeout)
        if delivery is not None:
            delivery._claim.extend([None] * 99)
        return delivery


class WithdrawnAtAnyTime(MemoryTransport):
    def withdraw(self, rid: str) -> bool | None:
        super().withdraw(rid)
        return rid in self._deliveries or True


class LastInFirstOut(MemoryTransport):
    held: list[ClaimedDelivery]

    def get(self, timeout: float) -> ClaimedDelivery | None:
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
            delivery.cancel()


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

    def get(self, timeout: float) -> ClaimedDelivery | None:
        return super().get(0.0)


class Unshaken(MemoryTransport):
    def nudge(self, loops: int) -> None:
        """It lets idle loops wait."""


class OncePerId(MemoryTransport):
    """What was put once is known, and not sent again."""

    seen: set[str]

    def put(self, envelope: Envelope, worker: str | None) -> None:
        self.seen = getattr(self, "seen", set())
        if envelope.rid not in self.seen:
            self.seen.add(envelope.rid)
            super().put(envelope, worker)


class FirstStays(OncePerId):
    """What is put again is sent, and known as what was put first."""

    def put(self, envelope: Envelope, worker: str | None) -> None:
        known = self._deliveries.get(envelope.rid)
        MemoryTransport.put(self, envelope, worker)
        if known is not None:
            self._deliveries[envelope.rid] = known


class Revived(MemoryTransport):
    """A second put revives the delivery that was taken back."""

    def withdraw(self, rid: str) -> bool | None:
        before = self._deliveries.get(rid)
        taken = super().withdraw(rid)
        self.taken = {**getattr(self, "taken", {}), rid: before}
        return taken

    def put(self, envelope: Envelope, worker: str | None) -> None:
        super().put(envelope, worker)
        before = getattr(self, "taken", {}).get(envelope.rid)
        if before is not None:
            before.envelope = envelope
            before._claim.append(None)


class AnyAttempt(MemoryTransport):
    """The end of one attempt is the end of all."""

    def settle(self) -> None:
        for report in self._reports:
            if isinstance(report, (Outcome, Freed)):
                self._deliveries.pop(report.rid, None)
        super().settle()


class FirstAttempt(MemoryTransport):
    def put(self, envelope: Envelope, worker: str | None) -> None:
        super().put(msgspec.structs.replace(envelope, attempt=1), worker)


class Hasty(MemoryTransport):
    """The news of a death overtakes what the dead had sent."""

    def send(self, report: Report) -> None:
        super().send(report)
        if isinstance(report, WorkerGone):
            self._reports.rotate(1)


class Unwitnessed(MemoryTransport):
    """What had begun dies with its worker."""

    def send(self, report: Report) -> None:
        if isinstance(report, WorkerGone):
            for begun in [each for each in self._reports if isinstance(each, Begun)]:
                self._reports.remove(begun)
        super().send(report)


class Imaginative(MemoryTransport):
    """All that a lost worker was given has begun."""

    def send(self, report: Report) -> None:
        if isinstance(report, WorkerGone):
            for rid in self._deliveries:
                if not any(isinstance(each, Begun) and each.rid == rid for each in self._reports):
                    super().send(Begun(rid, 1, report.worker, 1.0))
        super().send(report)


class DiesTwice(MemoryTransport):
    def send(self, report: Report) -> None:
        super().send(report)
        if isinstance(report, WorkerGone):
            self._wake(lambda: self._reports.append(report))


class Undying(MemoryTransport):
    """A worker's end is not noticed."""

    def send(self, report: Report) -> None:
        if not isinstance(report, WorkerGone):
            super().send(report)


class Mourning(MemoryTransport):
    """It takes nothing for the dead."""

    def send(self, report: Report) -> None:
        super().send(report)
        self.lost = getattr(self, "lost", False) or isinstance(report, WorkerGone)

    def put(self, envelope: Envelope, worker: str | None) -> None:
        if getattr(self, "lost", False):
            raise KeyError(worker)
        super().put(envelope, worker)


class Changed(MemoryTransport):
    """Its deliveries are of another class."""

    delivery: type[ClaimedDelivery]

    def put(self, envelope: Envelope, worker: str | None) -> None:
        delivery = self._deliveries[envelope.rid] = self.delivery(envelope)
        self._queue.put(delivery)


class Boundless(Changed):
    """Nobody ever waits."""

    class delivery(ClaimedDelivery):  # noqa: N801  (it stands in for an attribute)
        def spend(self, size: int, timeout: float) -> bool:
            return True


class Strict(Changed):
    """No message may go beyond what is left."""

    class delivery(ClaimedDelivery):  # noqa: N801
        def spend(self, size: int, timeout: float) -> bool:
            return size <= WINDOW and super().spend(size, timeout)


class Punctual(Changed):
    """It waits for room, and only then looks at the time."""

    class delivery(ClaimedDelivery):  # noqa: N801
        def spend(self, size: int, timeout: float) -> bool:
            return super().spend(size, timeout + 2.0)


class Asking(Changed):
    """Whoever does not stream has room as well."""

    class delivery(ClaimedDelivery):  # noqa: N801
        def __init__(self, envelope: Envelope) -> None:
            super().__init__(msgspec.structs.replace(envelope, stream=True))


class Resumed(Changed):
    """What is put again goes on with the room that it had."""

    def put(self, envelope: Envelope, worker: str | None) -> None:
        before = getattr(self, "credits", {}).get(envelope.rid)
        super().put(envelope, worker)
        made = self._deliveries[envelope.rid]
        made._credit = before or made._credit
        self.credits = {**getattr(self, "credits", {}), envelope.rid: made._credit}

    delivery = ClaimedDelivery


class Miserly(MemoryTransport):
    def grant(self, rid: str, room: int) -> None:
        """What was taken opens nothing."""


class Forgets(MemoryTransport):
    """Of two grants between two looks one counts."""

    def grant(self, rid: str, room: int) -> None:
        super().grant(rid, room - 1)


class GrantsAll(MemoryTransport):
    def grant(self, rid: str, room: int) -> None:
        for known in self._deliveries:
            super().grant(known, room)


class Knowing(MemoryTransport):
    def grant(self, rid: str, room: int) -> None:
        self._deliveries[rid].grant(room)


class StillWaiting(MemoryTransport):
    """A cancellation is seen by whoever looks, and whoever waits does not look."""

    def cancel(self, rid: str) -> None:
        if rid in self._deliveries:
            self._deliveries[rid].cancelled = True


class Overtaking(MemoryTransport):
    """What tells of progress is sent behind all else."""

    def settle(self) -> None:
        progress = [report for report in self._reports if isinstance(report, Progressed)]
        for report in progress:
            self._reports.remove(report)
        self._reports.extend(progress)
        super().settle()


class Granting(MemoryTransport):
    """Its end lets all streams flow."""

    def close(self) -> None:
        for delivery in self._deliveries.values():
            delivery.grant(WINDOW)
        super().close()


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
    (Unshaken, "a_nudged_get_returns_none"),
    (OncePerId, "what_was_withdrawn_can_be_put_again_and_begins_once"),
    (OncePerId, "a_withdrawn_delivery_stays_so_when_its_request_is_put_again"),
    (OncePerId, "a_later_attempt_is_begun_and_answered_as_such"),
    (FirstStays, "what_is_said_of_an_earlier_attempt_does_not_end_the_later"),
    (FirstStays, "what_is_said_of_an_earlier_attempt_does_not_begin_the_later"),
    (Revived, "what_was_withdrawn_can_be_put_again_and_begins_once"),
    (Revived, "a_withdrawn_delivery_stays_so_when_its_request_is_put_again"),
    (AnyAttempt, "what_is_said_of_an_earlier_attempt_does_not_end_the_later"),
    (AnyAttempt, "what_is_said_of_an_earlier_attempt_does_not_begin_the_later"),
    (FirstAttempt, "a_later_attempt_is_begun_and_answered_as_such"),
    (Hasty, "a_workers_end_comes_after_all_that_it_had_sent"),
    (Hasty, "what_a_lost_worker_had_begun_is_known_before_its_end"),
    (Unwitnessed, "what_a_lost_worker_had_begun_is_known_before_its_end"),
    (Imaginative, "what_a_lost_worker_had_begun_is_known_before_its_end"),
    (DiesTwice, "a_lost_workers_end_is_the_last_of_it"),
    (Undying, "a_workers_end_comes_after_all_that_it_had_sent"),
    (Mourning, "what_is_put_for_a_lost_worker_is_without_harm"),
    (Boundless, "a_window_may_be_spent_and_no_more"),
    (Boundless, "one_message_may_be_larger_than_what_is_left"),
    (Strict, "one_message_may_be_larger_than_what_is_left"),
    (Punctual, "the_end_of_time_ends_the_waiting"),
    (Asking, "a_request_whose_caller_does_not_stream_cannot_spend"),
    (Resumed, "what_is_put_again_has_a_window_of_its_own"),
    (Miserly, "a_waiting_loop_goes_on_when_its_caller_has_taken"),
    (Miserly, "what_is_taken_again_and_again_adds_up"),
    (Forgets, "what_is_taken_again_and_again_adds_up"),
    (GrantsAll, "what_one_caller_has_taken_is_nothing_to_the_others"),
    (Knowing, "grants_for_unknown_ids_are_passed_over"),
    (StillWaiting, "a_cancellation_ends_the_waiting"),
    (Overtaking, "stream_messages_and_progress_keep_their_order"),
    (Granting, "nothing_is_granted_after_close"),
]

SILENT = {
    Deaf, Lossy, Disheartened, Unshaken, OncePerId, FirstStays, AnyAttempt, Undying, Punctual, Asking, Resumed, Miserly,
    Forgets, StillWaiting,
}  # fmt: skip
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
                close=transport.close, nudge=transport.nudge, lose=lambda: transport.send(WorkerGone("loop-1", "died")),
            )  # fmt: skip

    if broken in SILENT:
        for module in (web_side, suite, work, streams):
            monkeypatch.setattr(module, "DEADLINE", 0.5)
    with WebSide() as web:
        ends = web.run(Broken().open())
        web.call(ends.reply_source.subscribe, web.receive)
        test = getattr(Broken(), f"test_{name}")
        late = {"late": Outcome(rid="r1")} if "late" in signature(test).parameters else {}
        with pytest.raises((AssertionError, TimeoutError, KeyError)):
            test(web=web, ends=ends, **late)
