"""The suite for a whole transport: both port pairs, and what holds between them."""

import threading
from collections import Counter

from offloop.messages import Begun, Chunk, Outcome, Report
from offloop.testing.conformance.attempts import AttemptConformance
from offloop.testing.conformance.ends import Ends
from offloop.testing.conformance.losses import LossConformance
from offloop.testing.conformance.replies import ReplyConformance
from offloop.testing.conformance.streams import StreamConformance
from offloop.testing.conformance.suite import begin, begun, envelope, put, take
from offloop.testing.conformance.web_side import WebSide, in_threads
from offloop.testing.conformance.work import RACERS, SHORT, WorkConformance

BURST = 100


class TransportConformance(WorkConformance, ReplyConformance, AttemptConformance, LossConformance, StreamConformance):
    """Subclass it, say how the transport is opened, and name its `features` where they are not the strictest."""

    def test_a_request_goes_out_and_its_reply_comes_back(self, web: WebSide, ends: Ends) -> None:
        put(web, ends, envelope(b"question", attempt=2, stream=True))
        delivery = take(ends)
        assert delivery.begin()
        sent, send = delivery.envelope, ends.reply_sink.send
        came: list[Report] = [
            begun(ends, sent.rid, sent.attempt),
            Chunk(sent.rid, sent.attempt, 1, b"first"),
            Chunk(sent.rid, sent.attempt, 2, b"second"),
            Outcome(rid=sent.rid, attempt=sent.attempt, payload=b"answer"),
        ]
        for report in came:
            send(report)
        assert web.until(lambda reports: len(reports) == 4, "the reply") == came

    def test_a_cancellation_after_the_outcome_is_passed_over(self, web: WebSide, ends: Ends) -> None:
        rid = begin(web, ends).envelope.rid
        ends.reply_sink.send(Outcome(rid=rid))
        web.until(lambda reports: Outcome(rid=rid) in reports, "the outcome")
        web.call(ends.sink.cancel, rid)
        assert web.call(ends.sink.withdraw, rid) is not True

    def test_nothing_is_lost_and_nothing_comes_twice_under_load(self, web: WebSide, ends: Ends) -> None:
        sent = [envelope(f"payload {number}".encode()) for number in range(self.features.volume)]
        over = threading.Event()

        def work() -> None:
            while (delivery := ends.source.get(SHORT)) is not None or not over.is_set():
                if delivery is not None and delivery.begin():
                    came = delivery.envelope
                    ends.reply_sink.send(begun(ends, came.rid))
                    ends.reply_sink.send(Outcome(rid=came.rid, payload=came.payload.upper()))

        def ask() -> None:
            try:
                for start in range(0, len(sent), BURST):
                    put(web, ends, *sent[start : start + BURST])
                web.until(lambda reports: _outcomes(reports) >= len(sent), "every outcome")
            finally:
                over.set()

        in_threads(ask, *[work] * RACERS)
        began = Counter(report.rid for report in web.reports if isinstance(report, Begun))
        answers = {report.rid: report.payload for report in web.reports if isinstance(report, Outcome)}
        assert _outcomes(web.reports) == len(sent)
        assert set(began.values()) <= {1}  # one beside its outcome may be left out
        assert set(began) <= set(answers)
        assert answers == {each.rid: each.payload.upper() for each in sent}


def _outcomes(reports: list[Report]) -> int:
    return sum(isinstance(report, Outcome) for report in reports)
