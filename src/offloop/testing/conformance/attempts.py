"""The suite for a request that is put more than once: taken back and put again, or again after its worker was lost."""

import pytest

from offloop.messages import Freed, Outcome, Report
from offloop.testing.conformance.ends import Ends
from offloop.testing.conformance.suite import Suite, begin, begun, envelope, put, said, take
from offloop.testing.conformance.web_side import WebSide, eventually
from offloop.testing.conformance.work import SHORT

LATE: tuple[Report, ...] = (Outcome(rid="r1", attempt=1), Freed("r1", 1, "loop-2"))
"""What a worker may say of an earlier attempt while a later one is on its way."""


class AttemptConformance(Suite):
    def test_what_was_withdrawn_can_be_put_again_and_begins_once(self, web: WebSide, ends: Ends) -> None:
        self.needs_putting_again()
        sent, last = envelope(b"question", rid="r1"), envelope()
        put(web, ends, sent)
        assert self.taken_back(web, ends, "r1")
        put(web, ends, sent, last)
        claimed = []
        while (delivery := take(ends)).envelope.rid != last.rid:
            if delivery.begin():  # what was withdrawn may be handed out as well
                claimed.append((delivery.envelope.rid, delivery.envelope.payload))
        assert claimed == [(sent.rid, sent.payload)]
        self._answers(web, ends)

    def test_a_withdrawn_delivery_stays_so_when_its_request_is_put_again(self, web: WebSide, ends: Ends) -> None:
        self.needs_putting_again()
        self.needs_letting_go()
        sent = envelope(rid="r1")
        put(web, ends, sent)
        first = take(ends)
        assert self.taken_back(web, ends, "r1")
        put(web, ends, sent)
        second = take(ends)
        assert not first.begin()
        assert second.begin()
        web.call(ends.sink.cancel, "r1")
        eventually(lambda: second.cancelled, "the cancellation")

    def test_what_one_worker_let_go_another_begins(self, web: WebSide, ends: Ends) -> None:
        self.needs_putting_again()
        if ends.second is None:
            pytest.skip("this transport has one worker")
        self.needs_letting_go()
        sent = envelope(rid="r1")
        put(web, ends, sent)
        first = take(ends)
        assert self.taken_back(web, ends, "r1")
        put(web, ends.second, sent)
        second = take(ends.second)
        assert second.envelope == sent
        assert second.begin()
        assert not first.begin()
        assert ends.source.get(SHORT) is None
        self._answers(web, ends.second)

    def test_a_later_attempt_is_begun_and_answered_as_such(self, web: WebSide, ends: Ends) -> None:
        begin(web, ends)
        again = self._elsewhere(web, ends)
        assert begin(web, again, attempt=2).envelope.attempt == 2
        self._answers(web, again, attempt=2)

    @pytest.mark.parametrize("late", LATE, ids=lambda late: type(late).__name__.lower())
    def test_what_is_said_of_an_earlier_attempt_does_not_end_the_later(
        self, web: WebSide, ends: Ends, late: Report
    ) -> None:
        begin(web, ends)
        again = self._elsewhere(web, ends)
        running = begin(web, again, attempt=2)
        self._hear(web, ends, late)
        web.call(ends.sink.cancel, "r1")
        eventually(lambda: running.cancelled, "the cancellation")
        self._answers(web, again, attempt=2)

    @pytest.mark.parametrize("late", LATE, ids=lambda late: type(late).__name__.lower())
    def test_what_is_said_of_an_earlier_attempt_does_not_begin_the_later(
        self, web: WebSide, ends: Ends, late: Report
    ) -> None:
        self.needs_letting_go()
        begin(web, ends)
        again = self._elsewhere(web, ends)
        put(web, again, envelope(rid="r1", attempt=2))
        waiting = take(again)
        self._hear(web, ends, late)
        assert self.taken_back(web, ends, "r1")
        assert not waiting.begin()

    def _elsewhere(self, web: WebSide, ends: Ends) -> Ends:
        """Where a request may begin again: where workers are lost, that of `ends` is lost, and it is another's."""
        if ends.lose is None or ends.second is None:
            return ends
        ends.lose()
        web.until_gone()
        return ends.second

    def _hear(self, web: WebSide, ends: Ends, late: Report) -> None:
        """Let the web side read it, where it still hears that worker."""
        ends.reply_sink.send(late)
        web.call(ends.sink.settle)
        web.call(lambda: None)

    def _answers(self, web: WebSide, ends: Ends, attempt: int = 1) -> None:
        outcome = Outcome(rid="r1", payload=b"answer", attempt=attempt)
        ends.reply_sink.send(begun(ends, attempt=attempt))
        ends.reply_sink.send(outcome)
        assert said(web.until(lambda reports: outcome in reports, "the outcome"))[-1] == outcome
