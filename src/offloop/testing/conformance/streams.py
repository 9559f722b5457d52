"""The suite for flow control: whoever makes stream messages waits for a caller who does not take them."""

import threading
from collections.abc import Callable

from offloop.messages import WINDOW, Chunk, Outcome, Progressed, Report
from offloop.ports.work import Delivery
from offloop.testing.conformance.ends import Ends
from offloop.testing.conformance.suite import Suite, begin, begun, claim, envelope, put, said, take
from offloop.testing.conformance.web_side import DEADLINE, WebSide, in_threads
from offloop.testing.conformance.work import SHORT

PARTS = 8
ROUNDS = 50


class StreamConformance(Suite):
    def test_stream_messages_and_progress_keep_their_order(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends)
        sent: list[Report] = [Progressed("r1", 1, 0.5), Chunk("r1", 1, 1, b"first"), Chunk("r1", 1, 2, b"")]
        sent += [Progressed("r1", 1, 3.0, 4.0, "drei von vier: für März"), Outcome(rid="r1")]
        with web.busy():
            for report in sent:
                ends.reply_sink.send(report)
        came = web.until(lambda reports: Outcome(rid="r1") in reports, "the outcome")
        assert said(came) == sent

    def test_a_window_may_be_spent_and_no_more(self, web: WebSide, ends: Ends) -> None:
        delivery = claim(web, ends)
        for _ in range(PARTS):
            assert delivery.spend(WINDOW // PARTS, 0.0)
        assert not delivery.spend(1, SHORT)

    def test_one_message_may_be_larger_than_what_is_left(self, web: WebSide, ends: Ends) -> None:
        delivery = claim(web, ends)
        assert delivery.spend(WINDOW - 1, 0.0)
        assert delivery.spend(3 * WINDOW, 0.0)
        assert not delivery.spend(1, SHORT)

    def test_a_waiting_loop_goes_on_when_its_caller_has_taken(self, web: WebSide, ends: Ends) -> None:
        delivery = self._spent(web, ends)
        assert _waits(delivery, lambda: web.call(ends.sink.grant, "r1", 2))
        assert delivery.spend(1, 0.0)
        assert not delivery.spend(1, SHORT)

    def test_what_is_taken_again_and_again_adds_up(self, web: WebSide, ends: Ends) -> None:
        delivery = self._spent(web, ends)

        def take_all() -> None:
            for _ in range(ROUNDS):
                web.call(ends.sink.grant, "r1", 2)

        def make() -> None:
            for _ in range(2 * ROUNDS):
                assert delivery.spend(1, DEADLINE)

        in_threads(make, take_all)
        assert not delivery.spend(1, SHORT)

    def test_what_one_caller_has_taken_is_nothing_to_the_others(self, web: WebSide, ends: Ends) -> None:
        first, second = self._spent(web, ends, "r1"), self._spent(web, ends, "r2")
        web.call(ends.sink.grant, "r2", 1)
        assert second.spend(1, DEADLINE)
        assert not first.spend(1, SHORT)

    def test_a_cancellation_ends_the_waiting(self, web: WebSide, ends: Ends) -> None:
        delivery = self._spent(web, ends)
        assert not _waits(delivery, lambda: web.call(ends.sink.cancel, "r1"))
        assert delivery.cancelled, "whoever is told to wait no longer finds out why"
        web.call(ends.sink.grant, "r1", WINDOW)
        assert not delivery.spend(1, SHORT)

    def test_the_end_of_time_ends_the_waiting(self, web: WebSide, ends: Ends) -> None:
        delivery, spent = self._spent(web, ends), list[bool]()
        in_threads(lambda: spent.append(delivery.spend(1, SHORT)))
        assert spent == [False]
        web.call(ends.sink.grant, "r1", 1)
        assert delivery.spend(1, DEADLINE)

    def test_grants_for_unknown_ids_are_passed_over(self, web: WebSide, ends: Ends) -> None:
        web.call(ends.sink.grant, "nobody", 1)
        begin(web, ends)
        ends.reply_sink.send(Outcome(rid="r1"))
        web.until(lambda reports: Outcome(rid="r1") in reports, "the outcome")
        web.call(ends.sink.grant, "r1", 1)
        delivery = self._spent(web, ends, "r2")
        assert _waits(delivery, lambda: web.call(ends.sink.grant, "r2", 1))

    def test_a_request_whose_caller_does_not_stream_cannot_spend(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope(rid="r1"))
        delivery, spent = take(ends), list[bool]()
        assert delivery.begin()
        web.call(ends.sink.grant, "r1", WINDOW)
        in_threads(lambda: spent.append(delivery.spend(1, 2 * DEADLINE)))
        assert spent == [False]

    def test_what_is_put_again_has_a_window_of_its_own(self, web: WebSide, ends: Ends) -> None:
        self.needs_putting_again()
        self.needs_letting_go()
        sent = envelope(rid="r1", stream=True)
        put(web, ends, sent)
        first = take(ends)
        assert first.spend(WINDOW, 0.0)
        assert self.taken_back(web, ends, "r1")
        put(web, ends, sent)
        second = take(ends)
        assert second.begin()
        assert second.spend(WINDOW, 0.0)
        web.call(ends.sink.grant, "r1", 1)
        assert second.spend(1, DEADLINE)
        assert not first.spend(1, SHORT)

    def test_nothing_is_granted_after_close(self, web: WebSide, ends: Ends) -> None:
        delivery = self._spent(web, ends)
        web.call(ends.close)
        web.call(ends.sink.grant, "r1", 1)
        assert not delivery.spend(1, SHORT)

    def _spent(self, web: WebSide, ends: Ends, rid: str = "r1") -> Delivery:
        """A running request that has sent all that it may for now; that it has begun is known by then."""
        delivery = begin(web, ends, rid)
        web.call(ends.sink.settle)
        web.until(lambda reports: begun(ends, rid) in reports, "the Begun")
        assert delivery.spend(WINDOW, 0.0)
        return delivery


def _waits(delivery: Delivery, end: Callable[[], object]) -> bool:
    """What a loop that waits for room is told when `end` ends its wait."""
    spent: list[bool] = []
    waits = threading.Event()

    def spend() -> None:
        waits.set()
        # Longer than `in_threads` waits: one that only runs out of time does not pass.
        spent.append(delivery.spend(1, 2 * DEADLINE))

    def end_it() -> None:
        assert waits.wait(DEADLINE)
        end()

    in_threads(spend, end_it)
    return spent[0]
