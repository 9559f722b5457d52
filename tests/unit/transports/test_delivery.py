"""One envelope on the worker side; racing claims are in the conformance suite."""

from offloop.messages import WINDOW, Envelope
from offloop.transports.credit import Credit
from offloop.transports.delivery import ClaimedDelivery

DEADLINE = 10.0


def delivery(*, stream: bool) -> ClaimedDelivery:
    return ClaimedDelivery(Envelope(rid="r1", endpoint="read", payload=b"", deadline=1.0, stream=stream), 7)


def test_it_is_claimed_once() -> None:
    one = delivery(stream=False)
    assert one.place == 7
    assert [one.begin(), one.begin()] == [True, False]


def test_a_window_may_be_spent_and_what_was_taken_once_more() -> None:
    one = delivery(stream=True)
    assert one.spend(WINDOW, 0.0)
    assert not one.spend(1, 0.0)
    one.grant(10)
    assert one.spend(10, 0.0)


def test_a_caller_that_takes_no_stream_messages_is_not_waited_for() -> None:
    one = delivery(stream=False)
    one.grant(WINDOW)
    assert not one.spend(1, DEADLINE)
    one.cancel()
    assert one.cancelled


def test_a_cancellation_is_seen_before_the_wait_for_room_ends() -> None:
    one = delivery(stream=True)
    seen: list[bool] = []

    class Watched(Credit):
        def end(self) -> None:
            seen.append(one.cancelled)
            super().end()

    one._credit = Watched(WINDOW)
    one.cancel()
    assert seen == [True]
    assert not one.spend(1, DEADLINE)
