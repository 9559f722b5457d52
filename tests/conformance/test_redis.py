"""The Redis transport does what every transport must: two workers beside one web process, over a real server.

Three things it does in its own way, and declares: what was delivered counts as begun (the broker's list of what is
pending is all the evidence there is), instants travel by the broker's clock, and a worker's end is told for each
request that it had, by `Outcome` or `Requeued`, and not by a `WorkerGone`.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from offloop.messages import Outcome, Requeued, Withdrawn
from offloop.testing.conformance import Ends, Features
from offloop.testing.conformance.suite import begun, envelope, put, said, take
from offloop.testing.conformance.web_side import WebSide, eventually
from tests.conformance.brokered import Brokered, other
from tests.support.broker import broker
from tests.unit.transports.redis.rig import Cluster, Worker


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with broker() as server:
        yield server.url


class TestRedis(Brokered):
    features = Features(
        late_withdrawal=True, begun_at_once=False, deadline_tolerance=0.05, late_work=True, taken_is_begun=True
    )

    def new_cluster(self, url: str) -> Cluster:
        return Cluster(url, keys=self.keys, epoch="")  # the suite's envelopes name no inbox

    async def new_worker(self, cluster: Cluster) -> Worker:
        return cluster.worker(len(cluster.host.workers))

    def all_written(self) -> None:
        self.workers[0]._busy["r1", 1]._whole()

    def lose(self, web: WebSide) -> None:
        self.workers[0].die()
        web.call(self.cluster.host.lose, self.workers[0])

    def test_what_may_begin_again_begins_elsewhere_as_the_next_attempt(self, web: WebSide, ends: Ends) -> None:
        second = other(ends)
        sent = envelope(rid="r1", endpoint="again")
        put(web, ends, sent)
        assert take(ends).begin()
        self.lose(web)
        again = take(second)
        assert again.envelope.attempt == 2
        assert again.envelope.payload == sent.payload
        assert again.begin()
        late = Outcome(rid="r1", payload=b"late")
        ends.reply_sink.send(late)  # it was taken for dead, and was only slow
        web.until(lambda reports: late in reports, "the late reply, which the gateway drops")
        web.call(ends.sink.cancel, "r1")
        eventually(lambda: again.cancelled, "the cancellation of what runs now")
        second.reply_sink.send(begun(second, attempt=2))
        outcome = Outcome(rid="r1", attempt=2, payload=b"answer")
        second.reply_sink.send(outcome)
        reports = said(web.until(lambda reports: outcome in reports, "the outcome"))
        assert [report for report in reports if not isinstance(report, Withdrawn)] == [Requeued("r1", 2), late, outcome]


class TestRedisSigned(TestRedis):
    """The same, signed; the load shows less than it costs."""

    features = replace(TestRedis.features, volume=500)
    keys = ("a key", "an old key")
