"""The suite for a worker's death: what it had said and begun comes first, then its end, and nothing after that."""

from collections.abc import Callable

import pytest

from offloop.messages import Begun, Chunk, Outcome, Report, WorkerGone
from offloop.testing.conformance.ends import Ends
from offloop.testing.conformance.suite import Suite, begin, begun, claim, envelope, put, said, take
from offloop.testing.conformance.web_side import WebSide

CHUNKS = 20


class LossConformance(Suite):
    def test_a_workers_end_comes_after_all_that_it_had_sent(self, web: WebSide, ends: Ends) -> None:
        lose = self._lose(ends)
        begin(web, ends)
        sent: list[Report] = [Chunk("r1", 1, number, b"{}") for number in range(1, CHUNKS + 1)]
        sent.append(Outcome(rid="r1", payload=b"answer"))
        with web.busy():
            for report in sent:
                ends.reply_sink.send(report)
            lose()
        gone = web.until_gone()
        assert ends.worker in (None, gone.worker)
        assert said(web.reports) == [*sent, gone]

    def test_what_a_lost_worker_had_begun_is_known_before_its_end(self, web: WebSide, ends: Ends) -> None:
        lose = self._lose(ends)
        claim(web, ends, "r1")
        claim(web, ends, "r2")
        put(web, ends, envelope(rid="r3"))
        with web.busy():
            ends.reply_sink.send(begun(ends, "r1"))
            lose()
        gone = web.until_gone()
        assert web.reports == [begun(ends, "r1"), gone]

    def test_a_lost_workers_end_is_the_last_of_it(self, web: WebSide, ends: Ends) -> None:
        lose = self._lose(ends)
        begin(web, ends)
        lose()
        web.until_gone()
        before = list(web.reports)
        assert sum(isinstance(report, WorkerGone) for report in before) == 1
        assert [type(report) for report in before] == [Begun, WorkerGone]
        web.call(ends.sink.settle)
        web.call(lambda: None)
        assert web.reports == before

    def test_what_is_put_for_a_lost_worker_is_without_harm(self, web: WebSide, ends: Ends) -> None:
        lose = self._lose(ends)
        lose()
        gone = web.until_gone()
        put(web, ends, envelope(rid="r1"))
        web.call(ends.sink.cancel, "r1")
        web.call(ends.sink.settle)
        web.call(lambda: None)
        assert web.reports == [gone]
        if (second := ends.second) is not None:
            put(web, second, envelope(rid="r2"))
            assert take(second).envelope.rid == "r2"

    def test_another_worker_goes_on(self, web: WebSide, ends: Ends) -> None:
        lose, second = self._lose(ends), ends.second
        if second is None:
            pytest.skip("this transport has one worker")
        begin(web, ends, "r1")
        begin(web, second, "r2")
        lose()
        web.until_gone()
        second.reply_sink.send(Outcome(rid="r2"))
        reports = web.until(lambda reports: Outcome(rid="r2") in reports, "the other's outcome")
        assert said(reports)[-1] == Outcome(rid="r2")

    def _lose(self, ends: Ends) -> Callable[[], object]:
        if ends.lose is None:
            pytest.skip("this transport's workers do not die alone")
        return ends.lose
