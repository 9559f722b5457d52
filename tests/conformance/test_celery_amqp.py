"""The Celery transport over a RabbitMQ does what every transport must: two processes of a pool beside one web process.

A message in a queue cannot be taken out of it, and there is no store in which beginning and withdrawing exclude each
other. So one request is taken back when its deadline has come, as which both sides know it; a drain, that does not wait
for it, shuts the gate for all. What the suite cannot ask for then is asked for here. That a worker is lost is told by
whoever saw it end, or by whoever is given what it had. Reports are pushed as the broker gets them: how often the web
side wakes up for many is not in its hands.
"""

import threading
from collections.abc import Iterator
from random import Random
from time import monotonic

import pytest

from offloop.messages import Outcome, Report, Requeued, Withdrawn
from offloop.testing.conformance import Ends, Features
from offloop.testing.conformance.suite import begun, claim, envelope, put, said, take
from offloop.testing.conformance.web_side import WebSide, eventually, in_threads
from offloop.testing.conformance.work import SHORT
from tests.conformance.brokered import LOST, OverCelery, other
from tests.support.rabbit import anywhere
from tests.unit.transports.celery.rig_amqp import Cluster

RACES, EVERY = 60, 0.01
"""Requests that are taken back while they begin; seconds between their deadlines."""
SOON = 0.3
"""Seconds until a deadline that a test waits for."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with anywhere() as url:
        yield url


def passes(moment: float) -> None:
    """Until that instant, which is what the tests of deadlines are about."""
    threading.Event().wait(max(0.0, moment - monotonic()))


def never_began(report: Report) -> str:
    """Whom it says that of: who asked does, or a worker that had said the opposite and came too late."""
    if isinstance(report, Withdrawn) and report.begun is False:
        return report.rid
    return report.rid if isinstance(report, Outcome) and report.started is False else ""


class TestCelery(OverCelery):
    features = Features(
        late_withdrawal=True, begun_at_once=False, deadline_tolerance=0.05, late_work=True, put_again=False,
        early_withdrawal=False, wake_ups=1000, volume=500,
    )  # fmt: skip

    def new_cluster(self, url: str) -> Cluster:
        return Cluster(url, keys=self.keys)

    # ---- taken back

    def test_what_was_withdrawn_at_its_deadline_never_begins_and_others_do(self, web: WebSide, ends: Ends) -> None:
        gone, stays = envelope(deadline=monotonic() + SOON), envelope()
        put(web, ends, gone, stays)
        late, stayed = take(ends), take(ends)
        passes(gone.deadline)
        assert self.taken_back(web, ends, gone.rid)
        assert not late.begin()
        assert stayed.begin()

    def test_what_has_begun_is_not_withdrawn_at_its_deadline(self, web: WebSide, ends: Ends) -> None:
        sent = envelope(deadline=monotonic() + SOON)
        put(web, ends, sent)
        delivery = take(ends)
        with web.busy():  # that it has begun is not known there when it is asked for
            assert delivery.begin()
            passes(sent.deadline)
            answer = web.begin(ends.sink.withdraw, sent.rid)
        assert not self.told(web, sent.rid, answer.result())

    def test_beginning_and_withdrawing_at_the_deadline_exclude_each_other(self, web: WebSide, ends: Ends) -> None:
        """Each begins a little before its deadline, or too late for that; and is taken back when that has come."""
        random, start = Random(1), monotonic() + 1.0
        sent = [envelope(deadline=start + EVERY * number) for number in range(RACES)]
        put(web, ends, *sent)
        taken = {delivery.envelope.rid: delivery for delivery in (take(ends) for _ in sent)}
        assert monotonic() < start, "this machine is too slow to tell"
        # A worker begins nothing in the last tenth of what is left, at most: so near to it is best.
        moments = sorted((each.deadline - random.choice([0.0, 0.002, 0.005, 0.02, 0.05]), each.rid) for each in sent)
        began: set[str] = set()
        known: set[str] = set()

        def work(mine: int) -> None:
            for moment, rid in moments[mine::2]:
                passes(moment)
                if taken[rid].begin():
                    began.add(rid)

        def withdraw() -> None:
            for each in sent:
                passes(each.deadline)
                if web.call(ends.sink.withdraw, each.rid) is False:
                    known.add(each.rid)

        def told(reports: list[Report]) -> bool:
            back = set(filter(None, map(never_began, reports)))
            begun = known | {report.rid for report in reports if isinstance(report, Withdrawn) and report.begun}
            return begun | back >= began and back >= {each.rid for each in sent} - began

        in_threads(withdraw, lambda: work(0), lambda: work(1))
        back = set(filter(None, map(never_began, web.until(told, "what became of each"))))
        assert not began & back
        assert began
        assert back, "nothing was taken back: there was no race"

    def test_whose_caller_has_left_does_not_begin_and_others_do(self, web: WebSide, ends: Ends) -> None:
        """As far as it can be: whoever it is that has it has been told."""
        put(web, ends, envelope(rid="r1"), envelope(rid="r2"))
        gone, stays = take(ends), take(ends)

        def leave() -> None:
            assert ends.sink.withdraw("r1") is None
            ends.sink.cancel("r1")

        web.call(leave)
        web.until(lambda reports: Withdrawn("r1", begun=None) in reports, "that nobody can know")
        eventually(lambda: "r1" in self.workers[0].end._withdrawn, "the notice")
        assert not gone.begin()
        assert stays.begin()

    def test_whose_caller_has_left_sees_it_where_it_begins_all_the_same(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope(rid="r1"))
        delivery = take(ends)
        with web.busy():  # it begins, while its caller leaves
            left = web.begin(lambda: (ends.sink.withdraw("r1"), ends.sink.cancel("r1")))
            assert delivery.begin()
        left.result()
        eventually(lambda: delivery.cancelled, "the cancellation")

    def test_whoever_wants_one_no_more_and_stays_keeps_no_other_from_beginning(self, web: WebSide, ends: Ends) -> None:
        """A socket that cancels one of its requests: whether that had begun, nobody can say at once."""
        put(web, ends, envelope(rid="r1"), envelope(rid="r2"))
        gone, stays = take(ends), take(ends)
        assert web.call(ends.sink.withdraw, "r1") is None
        web.until(lambda reports: Withdrawn("r1", begun=None) in reports, "that nobody can know")
        eventually(lambda: "r1" in self.workers[0].end._withdrawn, "the notice")
        assert not gone.begin()
        assert stays.begin()
        put(web, ends, envelope(rid="r3"))
        assert take(ends).begin()

    def test_what_a_drain_takes_back_is_known_and_nothing_begins_any_more(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, *[envelope(rid=f"r{number}") for number in range(5)])
        held = [take(ends) for _ in range(4)]
        assert held[0].begin()
        web.call(ends.sink.cut)
        answers = [web.begin(ends.sink.withdraw, f"r{number}") for number in range(5)]
        back = {f"r{number}" for number, answer in enumerate(answers) if self.told(web, f"r{number}", answer.result())}
        assert back == {"r1", "r2", "r3", "r4"}
        assert not any(delivery.begin() for delivery in held[1:])
        assert not take(ends).begin()  # what still lay in the queue
        put(web, ends, envelope(rid="r5"))
        assert not take(ends).begin()
        outcome = Outcome("r0", payload=b"answer")
        ends.reply_sink.send(outcome)
        web.until(lambda reports: outcome in reports, "what had begun is answered")

    # ---- a worker's end

    def test_what_had_begun_in_a_worker_that_vanished_does_not_begin_again(self, web: WebSide, ends: Ends) -> None:
        second = other(ends)
        claim(web, ends, "r1")
        self.workers[0].vanish()
        assert second.source.get(SHORT) is None  # given to it by the broker
        assert said(web.until(lambda reports: LOST in reports, "the loss")) == [LOST]
        assert second.source.get(SHORT) is None

    def test_what_a_worker_that_vanished_had_not_begun_begins_elsewhere(self, web: WebSide, ends: Ends) -> None:
        """And nowhere else: it may only have been cut off, and go on."""
        second = other(ends)
        sent = envelope(rid="r1")
        put(web, ends, sent)
        late = take(ends)
        self.workers[0].vanish()
        again = take(second)
        assert (again.envelope.attempt, again.envelope.payload) == (2, sent.payload)
        assert not late.begin()
        assert again.begin()
        outcome = Outcome("r1", attempt=2)
        second.reply_sink.send(outcome)
        reports = said(web.until(lambda reports: outcome in reports, "the outcome"))
        assert reports == [Requeued("r1", 2, begun=False), outcome]

    def test_what_a_worker_that_was_cut_off_begins_before_that_is_known_begins_nowhere_else(
        self, web: WebSide, ends: Ends
    ) -> None:
        second = other(ends)
        put(web, ends, envelope(rid="r1"))
        late = take(ends)
        with web.busy():
            self.workers[0].vanish()
            assert second.source.get(1.0) is None  # it is given that, and tells
            assert late.begin()
        web.until(lambda reports: LOST in reports, "the loss")
        assert second.source.get(SHORT) is None

    def test_what_began_while_the_web_side_was_cut_off_does_not_begin_again(self, web: WebSide, ends: Ends) -> None:
        """That it began is lost with the inbox; then its process is killed, which is told into the next one."""
        second = other(ends)
        put(web, ends, envelope(rid="r1"), envelope(rid="r2", endpoint="again"))
        held = [take(ends), take(ends)]
        way = self.cluster.web._way
        with web.busy():  # that they began lies in an inbox that is never read
            dropped = web.begin(way._wire.drop)
            assert all(delivery.begin() for delivery in held)
        dropped.result()
        eventually(lambda: way.is_up, "it is back")
        for rid in ("r1", "r2"):
            self.workers[1].told(rid)
        doubt = Outcome("r1", "worker-lost", started=None)
        reports = web.until(lambda reports: doubt in reports and Requeued("r2", 2, None) in reports, "what it knows")
        assert not [report for report in reports if isinstance(report, Requeued) and report.rid == "r1"]
        assert take(second).envelope.rid == "r2"
        assert second.source.get(SHORT) is None

    def test_what_begins_is_known_before_its_node_is_called(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope(rid="r1"))
        assert take(ends).begin()
        assert web.until(bool, "that it began") == [begun(ends)]

    def test_for_a_web_process_that_is_gone_nothing_begins(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope(rid="r1"))
        delivery = take(ends)
        web.call(ends.close)
        eventually(lambda: not self.workers[0].finds(self.cluster.place.inbox("")), "the end of its inbox")
        assert not delivery.begin()


@pytest.mark.slow
class TestCelerySigned(TestCelery):
    keys = ("a key", "an old key")
