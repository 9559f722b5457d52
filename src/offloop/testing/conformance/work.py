"""The suite for work on its way to a worker: `WorkSink` and `WorkSource`."""

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from offloop.messages import Envelope
from offloop.ports.work import Delivery
from offloop.testing.conformance.ends import Ends
from offloop.testing.conformance.suite import Suite, envelope, put, take
from offloop.testing.conformance.web_side import DEADLINE, WebSide, eventually, in_threads

T = TypeVar("T")

SHORT = 0.01
"""Seconds in which nothing is expected to come."""
RACERS = 4
ROUNDS = 200


class WorkConformance(Suite):
    def test_an_envelope_arrives_whole(self, web: WebSide, ends: Ends) -> None:
        sent = envelope(
            bytes(range(256)), endpoint="documents.read", form="multipart", media_type='application/pdf; a="ü"',
            filename="Bericht für März.pdf", fields=(("path", "id", "7"), ("query", "q", "ä b")), request_id="label/1",
            reply_to="inbox", trace=(("traceparent", "00-aa-bb-01"),), attempt=2, stream=True,
        )  # fmt: skip
        put(web, ends, sent)
        came = take(ends).envelope
        assert came.deadline == pytest.approx(sent.deadline, abs=self.features.deadline_tolerance)
        for field in Envelope.__struct_fields__:
            if field != "deadline":
                assert getattr(came, field) == getattr(sent, field), field

    @pytest.mark.parametrize("size", [0, 1, 2**20])
    def test_a_payload_of_any_size_arrives_whole(self, web: WebSide, ends: Ends, size: int) -> None:
        payload = (bytes(range(251)) * (size // 251 + 1))[:size]
        put(web, ends, envelope(payload))
        assert take(ends).envelope.payload == payload

    def test_work_comes_first_in_first_out(self, web: WebSide, ends: Ends) -> None:
        if not self.features.ordered:
            pytest.skip("this transport keeps no order")
        sent = [envelope() for _ in range(300)]
        put(web, ends, *sent[:100])
        put(web, ends, *sent[100:])
        assert [take(ends).envelope.rid for _ in sent] == [each.rid for each in sent]

    def test_get_returns_none_when_idle(self, ends: Ends) -> None:
        assert ends.source.get(SHORT) is None
        assert ends.source.get(0.0) is None

    def test_a_waiting_get_is_woken_by_work(self, web: WebSide, ends: Ends) -> None:
        sent, came = envelope(), list[Delivery]()
        waits = threading.Event()

        def wait() -> None:
            waits.set()
            came.append(take(ends))

        def send() -> None:
            assert waits.wait(DEADLINE)
            put(web, ends, sent)

        in_threads(wait, send)
        assert came[0].envelope.rid == sent.rid

    def test_a_nudged_get_returns_none(self, web: WebSide, ends: Ends) -> None:
        nudge = ends.nudge
        if nudge is None:
            pytest.skip("this transport's loops are not nudged")
        came: list[Delivery | None] = []
        # Longer than `in_threads` waits: a `get` that only runs out of time does not pass.
        waits = [lambda: came.append(ends.source.get(2 * DEADLINE))] * RACERS
        in_threads(*waits, lambda: web.call(nudge, RACERS))
        assert came == [None] * RACERS
        put(web, ends, envelope())
        assert take(ends).begin()

    # ---- one claim

    def test_a_delivery_is_claimed_once(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope())
        delivery = take(ends)
        assert delivery.begin()
        assert not delivery.begin()

    def test_racing_threads_claim_a_delivery_once(self, web: WebSide, ends: Ends) -> None:
        for _ in range(ROUNDS // 4):
            put(web, ends, envelope())
            delivery, together = take(ends), threading.Barrier(RACERS)
            claims: list[bool] = []
            in_threads(*[_racer(together, lambda: claims.append(delivery.begin()))] * RACERS)  # noqa: B023  (joined)
            assert sorted(claims) == [False] * (RACERS - 1) + [True]

    def test_what_was_withdrawn_never_begins(self, web: WebSide, ends: Ends) -> None:
        self.needs_early_withdrawal()
        gone, stays = envelope(), envelope()
        put(web, ends, gone, stays)
        assert self.taken_back(web, ends, gone.rid)
        delivery = take(ends)
        if delivery.envelope.rid == gone.rid:
            assert not delivery.begin()
            delivery = take(ends)
        assert delivery.envelope.rid == stays.rid
        assert delivery.begin()

    def test_what_a_loop_holds_can_be_withdrawn_until_it_begins(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope())
        delivery = take(ends)
        taken_back = self.taken_back(web, ends, delivery.envelope.rid)
        assert taken_back is not self.features.taken_is_begun
        assert delivery.begin() is not taken_back

    def test_what_has_begun_cannot_be_withdrawn(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope())
        delivery = take(ends)
        assert delivery.begin()
        assert not self.taken_back(web, ends, delivery.envelope.rid)
        assert not self.taken_back(web, ends, delivery.envelope.rid)

    def test_beginning_and_withdrawing_exclude_each_other(self, web: WebSide, ends: Ends) -> None:
        self.needs_early_withdrawal()
        put(web, ends, envelope())
        first = take(ends)
        assert first.begin()
        assert self.told(web, first.envelope.rid, web.call(ends.sink.withdraw, first.envelope.rid)) is False
        for _ in range(ROUNDS):
            put(web, ends, envelope())
            delivery, together = take(ends), threading.Barrier(2)
            rid = delivery.envelope.rid
            answer = web.begin(_racer(together, lambda: ends.sink.withdraw(rid)))  # noqa: B023  (awaited below)
            together.wait(DEADLINE)
            begun = delivery.begin()
            assert begun is not self.told(web, rid, answer.result(DEADLINE))

    def test_withdrawing_while_loops_take_work_leaves_each_with_one_of_them(self, web: WebSide, ends: Ends) -> None:
        sent = [envelope() for _ in range(ROUNDS)]
        put(web, ends, *sent)
        begun: list[str] = []
        withdrawn: set[str] = set()
        some, over = threading.Event(), threading.Event()

        def work() -> None:
            while (delivery := ends.source.get(SHORT)) is not None or not over.is_set():
                if delivery is not None and delivery.begin():
                    begun.append(delivery.envelope.rid)
                    some.set()

        def withdraw() -> None:
            try:
                assert some.wait(DEADLINE), "no loop has begun anything"
                withdrawn.update(each.rid for each in reversed(sent) if self.taken_back(web, ends, each.rid))
            finally:
                over.set()

        in_threads(withdraw, *[work] * RACERS)
        assert len(begun) == len(set(begun))
        assert withdrawn.isdisjoint(begun)
        assert withdrawn.union(begun) == {each.rid for each in sent}

    # ---- nobody waits any more

    def test_a_running_delivery_sees_its_cancellation(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope(), envelope())
        first, second = take(ends), take(ends)
        assert first.begin()
        assert second.begin()
        assert not first.cancelled
        web.call(ends.sink.cancel, first.envelope.rid)
        eventually(lambda: first.cancelled, "the cancellation")
        assert not second.cancelled

    def test_unknown_ids_are_passed_over(self, web: WebSide, ends: Ends) -> None:
        web.call(ends.sink.cancel, "nobody")
        assert web.call(ends.sink.withdraw, "nobody") is not True
        put(web, ends, envelope())
        assert take(ends).begin()

    # ---- after the end

    def test_after_close_nothing_is_taken(self, web: WebSide, ends: Ends) -> None:
        before, after = envelope(), envelope()
        put(web, ends, before)
        web.call(ends.close)
        put(web, ends, after)
        for rid in (before.rid, after.rid):
            assert web.call(ends.sink.withdraw, rid) is not True
            web.call(ends.sink.cancel, rid)
        web.call(ends.sink.settle)
        taken = []
        while (delivery := ends.source.get(SHORT)) is not None:
            taken.append(delivery.envelope.rid)
        assert taken == [] or (self.features.late_work and taken == [before.rid])

    def test_it_may_be_closed_twice(self, web: WebSide, ends: Ends) -> None:
        web.call(ends.close)
        web.call(ends.close)


def _racer(together: threading.Barrier, act: Callable[[], T]) -> Callable[[], T]:
    def run() -> T:
        together.wait(DEADLINE)
        return act()

    return run
