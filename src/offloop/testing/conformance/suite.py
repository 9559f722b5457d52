"""What the suites share: how a transport is opened for a test, and what the tests say again and again."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from offloop.clock import monotonic
from offloop.messages import Begun, Envelope, Report, Withdrawn
from offloop.ports.work import Delivery
from offloop.testing.conformance.ends import Ends, Features
from offloop.testing.conformance.web_side import DEADLINE, WebSide

_numbers = itertools.count(1)


class Suite(ABC):
    """One open transport per test, as the fixture `ends`, with its event loop, as the fixture `web`."""

    features: ClassVar[Features] = Features()

    @abstractmethod
    async def open(self) -> Ends:
        """Open a fresh transport. Awaited on the event loop that is its web side; a worker is ready when it returns."""

    @pytest.fixture
    def web(self) -> Iterator[WebSide]:
        with WebSide(self.features.deadline_tolerance) as web:
            yield web

    @pytest.fixture
    def ends(self, web: WebSide) -> Iterator[Ends]:
        ends = web.run(self.open())
        web.call(ends.reply_source.subscribe, web.receive)
        yield ends
        web.call(ends.close)

    def needs_putting_again(self) -> None:
        """For tests of what was taken back and is put once more."""
        if not self.features.put_again:
            pytest.skip("what this transport has taken back never begins as the same attempt")

    def needs_early_withdrawal(self) -> None:
        """For tests of what is taken back before its time, beside others that are not."""
        if not self.features.early_withdrawal:
            pytest.skip("this transport takes one request back at its deadline, or all of them in a drain")

    def needs_letting_go(self) -> None:
        """For tests of what a loop was handed and has not begun."""
        if self.features.taken_is_begun:
            pytest.skip("a loop of this transport lets go of nothing that it was handed")

    def taken_back(self, web: WebSide, ends: Ends, rid: str) -> bool:
        """Withdraw it, and say whether it will never begin, however late the transport may tell."""
        if not self.features.early_withdrawal:
            web.call(ends.sink.cut)
        return self.told(web, rid, web.call(ends.sink.withdraw, rid))

    def told(self, web: WebSide, rid: str, answer: bool | None) -> bool:
        """What a withdrawal answered, or the `Withdrawn` that follows it."""
        if answer is not None:
            return answer
        assert self.features.late_withdrawal, "withdraw answered None, which is the feature late_withdrawal"

        def tells(report: Report) -> bool:
            return isinstance(report, Withdrawn) and report.rid == rid

        reports = web.until(lambda reports: any(map(tells, reports)), f"a Withdrawn for {rid}")
        return Withdrawn(rid, begun=False) in reports


def envelope(payload: bytes = b"{}", **fields: Any) -> Envelope:
    """One with an id of its own, due in a minute."""
    made: dict[str, Any] = {"rid": f"rid-{next(_numbers)}", "endpoint": "read", "deadline": monotonic() + 60.0}
    return Envelope(payload=payload, **made | fields)


def put(web: WebSide, ends: Ends, *envelopes: Envelope) -> None:
    """Put them, in their order, in one turn of the event loop."""

    def put_all() -> None:
        for each in envelopes:
            ends.sink.put(each, ends.worker)

    web.call(put_all)


def take(ends: Ends) -> Delivery:
    """The next delivery, which must come."""
    delivery = ends.source.get(DEADLINE)
    assert delivery is not None, f"nothing came within {DEADLINE} s"
    return delivery


def claim(web: WebSide, ends: Ends, rid: str = "r1", attempt: int = 1) -> Delivery:
    """A request that a worker has claimed, and may report on from now on."""
    put(web, ends, envelope(rid=rid, attempt=attempt, stream=True))
    delivery = take(ends)
    assert delivery.begin(), "a delivery that nobody withdrew can be claimed"
    return delivery


def begun(ends: Ends, rid: str = "r1", attempt: int = 1) -> Begun:
    """The report that it has begun."""
    return Begun(rid, attempt, ends.worker or "loop-2", 12.25)


def begin(web: WebSide, ends: Ends, rid: str = "r1", attempt: int = 1) -> Delivery:
    """A request that a worker has claimed and begun."""
    delivery = claim(web, ends, rid, attempt)
    ends.reply_sink.send(begun(ends, rid, attempt))
    return delivery


def said(reports: list[Report]) -> list[Report]:
    """What was reported, but for beginnings, which may be left out beside an outcome."""
    return [report for report in reports if not isinstance(report, Begun)]
