"""The suite for what comes back: `ReplySink` and `ReplySource`."""

from collections.abc import Sequence

import pytest

from offloop.messages import Chunk, Freed, Outcome, Report
from offloop.testing.conformance.ends import Ends
from offloop.testing.conformance.suite import Suite, begin, begun, claim, said
from offloop.testing.conformance.web_side import WebSide, in_threads

SENDERS = 4
EACH = 500
MIB = 2**20

Reported = Outcome | Chunk | Freed

REPORTS: tuple[Reported, ...] = (
    Outcome(rid="r1", payload=b'{"pages": []}', begun_at=12.25, ended_at=12.5, worker="loop-2"),
    Outcome(rid="r1", payload=bytes(range(256)), media_type="image/png", filename="Maß.png", last=False),
    Outcome(rid="r1", reason="encrypted-pdf", status=422, payload=b'{"title": "t", "detail": "d", "members": {}}'),
    Outcome(rid="r1", reason="node-failed", attempt=3, debug="Traceback: ä"),
    Outcome(rid="r1", reason="expired-in-queue", started=False),
    Outcome(rid="r1", reason="deadline-exceeded", started=None),
    Chunk("r1", 2, 7, bytes(range(256)), "image/png", "a.png"),
    Freed("r1", 2, "loop-2"),
)


class ReplyConformance(Suite):
    @pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__.lower())
    def test_a_report_arrives_whole(self, web: WebSide, ends: Ends, report: Reported) -> None:
        begin(web, ends, attempt=report.attempt)
        ends.reply_sink.send(report)
        assert said(web.until(lambda reports: bool(said(reports)), "the report")) == [report]

    def test_begun_is_visible_when_send_has_returned(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends, attempt=3)
        web.call(ends.sink.settle)
        if not self.features.begun_at_once:
            web.until(bool, "the Begun")
        assert web.reports == [begun(ends, attempt=3)]

    def test_begun_comes_before_what_the_same_thread_sent_after_it(self, web: WebSide, ends: Ends) -> None:
        chunk, outcome = Chunk("r1", 3, 1, b"1"), Outcome(rid="r1", attempt=3)
        begin(web, ends, attempt=3)
        for report in (chunk, outcome):
            ends.reply_sink.send(report)
        came = [begun(ends, attempt=3), chunk, outcome]
        assert web.until(lambda reports: len(reports) == 3, "three reports") == came

    def test_settle_reports_each_once(self, web: WebSide, ends: Ends) -> None:
        outcome = Outcome(rid="r1")
        claim(web, ends)
        with web.busy():
            ends.reply_sink.send(begun(ends))
            ends.reply_sink.send(outcome)
        web.call(ends.sink.settle)
        web.call(ends.sink.settle)
        reports = web.until(lambda reports: outcome in reports, "the outcome")
        # An outcome says of itself that it has begun: the "begun" that lay beside it may be left out.
        assert reports in ([begun(ends), outcome], [outcome])

    def test_reports_of_one_thread_keep_their_order(self, web: WebSide, ends: Ends) -> None:
        rids = [f"r{sender}" for sender in range(SENDERS)]
        for rid in rids:
            begin(web, ends, rid)

        def send(rid: str) -> None:
            for number in range(1, EACH + 1):
                ends.reply_sink.send(Chunk(rid, 1, number, b"x" * (number % 7)))

        in_threads(*(lambda rid=rid: send(rid) for rid in rids))
        reports = said(web.until(lambda reports: len(said(reports)) >= SENDERS * EACH, "all reports"))
        for rid in rids:
            numbers = [chunk.number for chunk in reports if isinstance(chunk, Chunk) and chunk.rid == rid]
            assert numbers == list(range(1, EACH + 1))

    def test_many_reports_take_few_wake_ups(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends)
        web.call(ends.sink.settle)
        before = web.calls
        with web.busy():
            for number in range(1, self.features.burst + 1):
                ends.reply_sink.send(Chunk("r1", 1, number, b"{}"))
        web.until(lambda reports: len(said(reports)) == self.features.burst, "all reports")
        assert web.calls - before <= self.features.wake_ups

    def test_a_report_that_comes_while_others_are_received_is_not_left_lying(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends)
        for number in range(1, EACH + 1):
            ends.reply_sink.send(Chunk("r1", 1, number, b""))
            web.until(lambda reports, number=number: len(said(reports)) == number, "each report")  # type: ignore[misc]

    def test_a_large_reply_arrives_whole(self, web: WebSide, ends: Ends) -> None:
        outcome = Outcome(rid="r1", payload=bytes(range(256)) * (MIB // 256))
        begin(web, ends)
        ends.reply_sink.send(outcome)
        assert said(web.until(lambda reports: bool(said(reports)), "the large reply")) == [outcome]

    def test_a_receiver_that_raises_does_not_stop_the_reader(self, web: WebSide, ends: Ends) -> None:
        def raises(reports: Sequence[Report]) -> None:
            web.receive(reports)
            raise ValueError("a receiver must not raise")

        begin(web, ends)
        web.call(ends.sink.settle)
        web.call(ends.reply_source.subscribe, raises)
        chunk, outcome = Chunk("r1", 1, 1, b"1"), Outcome(rid="r1")
        ends.reply_sink.send(chunk)
        web.until(lambda reports: chunk in reports, "the first report")
        ends.reply_sink.send(outcome)
        assert said(web.until(lambda reports: outcome in reports, "the second report")) == [chunk, outcome]

    # ---- after the end

    def test_after_close_reports_are_dropped_without_an_error(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends, "r1")
        claim(web, ends, "r2")
        with web.busy():
            ends.reply_sink.send(REPORTS[0])
            closing = web.begin(ends.close)
        closing.result()
        before = list(web.reports)
        for report in (begun(ends, "r2"), *REPORTS):
            ends.reply_sink.send(report)
        web.call(ends.sink.settle)
        web.call(lambda: None)  # one more turn, in which a wake-up would have been read
        assert web.reports == before

    def test_a_web_side_that_is_gone_is_no_error(self, ends: Ends, web: WebSide) -> None:
        begin(web, ends)
        web.call(ends.close)
        in_threads(*[lambda: ends.reply_sink.send(REPORTS[1])] * SENDERS)
