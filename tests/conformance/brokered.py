"""What the suites of the transports over a broker share: one web process in the test's own, and two workers beside it.

Owns their life, and what is asked of every such transport beyond the suite. How a worker's end comes to be known is for
each transport to say.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import pytest

from offloop.messages import Chunk, Outcome, Report, Requeued
from offloop.testing.conformance import Ends, TransportConformance
from offloop.testing.conformance.suite import begin, claim, envelope, put, said, take
from offloop.testing.conformance.web_side import WebSide, eventually

CHUNKS = 20
LOST = Outcome("r1", "worker-lost", started=True)


def other(ends: Ends) -> Ends:
    """Those of the second worker."""
    assert ends.second is not None
    return ends.second


class Brokered(TransportConformance):
    """A module of such tests has a fixture `url`, of its broker.

    Attributes:
        keys: with which everything is signed.
        cluster: of this test, in a namespace of its own.
        workers: the first is the one of `ends`, the other that of `ends.second`.
    """

    keys: tuple[str, ...] = ()

    @abstractmethod
    def new_cluster(self, url: str) -> Any:
        """One that is to be started. Called on the event loop that is its web side."""

    async def new_worker(self, cluster: Any) -> Any:
        return await asyncio.to_thread(cluster.worker)  # it may wait for its broker

    @abstractmethod
    def all_written(self) -> None:
        """What the first worker has said of "r1" reaches the broker: what a dying process has written does, or not."""

    @abstractmethod
    def lose(self, web: WebSide) -> None:
        """The first worker, which has "r1", is no more, and whoever is to know does."""

    @pytest.fixture(autouse=True)
    def _cluster(self, web: WebSide, url: str) -> Iterator[None]:
        self.url = url
        yield
        web.run(self.cluster.stop())

    async def open(self) -> Ends:
        self.cluster = self.new_cluster(self.url)
        await self.cluster.start()
        self.workers = [await self.new_worker(self.cluster) for _ in range(2)]
        web = self.cluster.web
        ends: Ends | None = None
        for worker in reversed(self.workers):
            ends = Ends(
                sink=web, source=worker, reply_sink=worker, reply_source=web, close=web.close, worker=worker.name,
                second=ends,
            )  # fmt: skip
        assert ends is not None
        return ends

    def test_two_namespaces_do_not_see_each_other(self, web: WebSide, ends: Ends) -> None:
        async def elsewhere() -> tuple[Any, Any]:
            cluster = self.new_cluster(self.url)
            await cluster.start()
            return cluster, await self.new_worker(cluster)

        cluster, worker = web.run(elsewhere())
        put(web, ends, envelope(rid="r1"))
        assert worker.get(0.1) is None
        assert take(ends).envelope.rid == "r1"
        web.run(cluster.stop())

    # ---- a worker's end

    def test_a_request_is_lost_with_its_worker_after_all_that_it_had_sent(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends)
        sent: list[Report] = [Chunk("r1", 1, number, b"{}") for number in range(1, CHUNKS + 1)]
        for report in sent:
            ends.reply_sink.send(report)
        self.all_written()
        self.lose(web)
        assert said(web.until(lambda reports: LOST in reports, "the loss")) == [*sent, LOST]

    def test_what_a_lost_worker_had_not_been_handed_another_takes(self, web: WebSide, ends: Ends) -> None:
        second = other(ends)
        claim(web, ends, "r1")
        put(web, ends, envelope(rid="r2"))
        self.lose(web)
        assert take(second).envelope.rid == "r2"
        web.until(lambda reports: LOST in reports, "the loss")
        second.reply_sink.send(Outcome(rid="r2"))
        reports = web.until(lambda reports: Outcome(rid="r2") in reports, "the other's outcome")
        assert len(said(reports)) == 2


class OverCelery(Brokered):
    """That a worker is lost is told for each request that it had, by whoever saw it end: here by the other worker."""

    def all_written(self) -> None:
        assert self.workers[0].end.settled()

    def lose(self, web: WebSide) -> None:
        self.workers[1].told("r1")

    def test_what_may_begin_again_begins_elsewhere_as_the_next_attempt(self, web: WebSide, ends: Ends) -> None:
        second = other(ends)
        sent = envelope(rid="r1", endpoint="again")
        put(web, ends, sent)
        assert take(ends).begin()
        self.lose(web)
        again = take(second)
        assert (again.envelope.attempt, again.envelope.payload) == (2, sent.payload)
        assert again.begin()
        late = Outcome(rid="r1", payload=b"late")
        ends.reply_sink.send(late)  # it was taken for dead, and was only slow
        web.until(lambda reports: late in reports, "the late reply, which the gateway drops")
        web.call(ends.sink.cancel, "r1")
        eventually(lambda: again.cancelled, "the cancellation of what runs now")
        outcome = Outcome(rid="r1", attempt=2, payload=b"answer")
        second.reply_sink.send(outcome)
        assert said(web.until(lambda reports: outcome in reports, "the outcome")) == [Requeued("r1", 2), late, outcome]
