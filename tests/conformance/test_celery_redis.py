"""The Celery transport over a Redis does what every transport must: two processes of a pool beside one web process.

Two things it does in its own way, and declares: instants travel by the broker's clock, and a withdrawal is judged at
the broker, where beginning and withdrawing exclude each other. That a worker is lost is told for each request that it
had, by whoever saw it end.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from offloop.messages import Envelope, Outcome
from offloop.testing.conformance import Ends, Features
from offloop.testing.conformance.suite import envelope, put, take
from offloop.testing.conformance.web_side import WebSide
from offloop.transports.celery.web import CeleryTransport
from tests.conformance.brokered import OverCelery, other
from tests.support.broker import broker
from tests.unit.transports.celery.rig import Cluster


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with broker() as server:
        yield server.url


class Attempts(CeleryTransport):
    """The suite puts later attempts of what had begun, as only an idempotent endpoint has them."""

    def _again(self, envelope: Envelope) -> bool:
        return envelope.attempt > 1 or super()._again(envelope)


class TestCelery(OverCelery):
    features = Features(
        late_withdrawal=True, begun_at_once=False, deadline_tolerance=0.05, late_work=True, put_again=False, volume=2000
    )

    def new_cluster(self, url: str) -> Cluster:
        return Cluster(url, keys=self.keys, transport=Attempts)

    def test_what_a_lost_worker_had_not_begun_begins_elsewhere(self, web: WebSide, ends: Ends) -> None:
        second = other(ends)
        put(web, ends, envelope(rid="r1"))
        late = take(ends)
        self.lose(web)
        again = take(second)
        assert again.envelope.attempt == 2
        assert again.begin()
        second.reply_sink.send(Outcome(rid="r1", attempt=2))
        web.until(lambda reports: Outcome(rid="r1", attempt=2) in reports, "the outcome")
        assert late.envelope.attempt == 1


class TestCelerySigned(TestCelery):
    """The same, signed; the load shows less than it costs."""

    features = replace(TestCelery.features, volume=500)
    keys = ("a key", "an old key")
