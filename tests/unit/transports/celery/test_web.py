"""The web process' end over an end that a test drives: what is sent, judged, taken back, sent again, and believed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from time import thread_time

import msgspec
import pytest

from offloop.errors import StartError
from offloop.messages import (
    Begun,
    Chunk,
    Freed,
    Linked,
    Outcome,
    Progressed,
    Refused,
    Requeued,
    Staffed,
    Taken,
    Withdrawn,
)
from offloop.transports.brokered import FORGET
from offloop.transports.celery.web import CeleryTransport, SentTask
from offloop.transports.parcels import OVERHEAD, PART, Cancel, Grant, Returned
from tests.unit.transports.celery.rig import LIMIT, PRINT, HandEnd, Told, begun, parcel_of, said, sent, targets

INBOX = "ns:inbox:abc"
KEYS = ("a key",)
WORKER = "worker-0"


class Place:
    """One web process, its end in the test's hand, and what it is told. Its clock stands still but for the test."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self.now = 100.0
        self.keys = keys
        self.end: HandEnd
        self.web = CeleryTransport(
            asyncio.get_running_loop(), self._made, "ns", INBOX, targets("gpu"),
            keys=keys, max_reply=LIMIT, max_body=LIMIT, max_deliveries=3, grace=5.0, clock=lambda: self.now,
        )  # fmt: skip
        self.told = Told(self.web)

    def _made(self, user: CeleryTransport) -> HandEnd:
        self.end = HandEnd(user)
        return self.end

    async def put(self, rid: str = "r1", *, endpoint: str = "read", deadline: float = 110.0, **fields: object) -> None:
        """Sent, and taken by the broker."""
        self.web.put(sent(rid, endpoint=endpoint, deadline=deadline, **fields), None)
        await turn()
        self.end.answer(self.end.letters[-1])

    def came(self, *reports: Returned) -> None:
        self.web.came([said(report, INBOX, self.keys) for report in reports])

    def news(self) -> list[object]:
        """What was told since the last time."""
        found, self.told.reports = list(self.told.reports), []
        return found


async def turn() -> None:
    """Let the event loop turn."""
    for _ in range(2):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """For what comes by a timer, of which nobody tells."""
    pause = threading.Event()
    async with asyncio.timeout(10):
        while not true():
            await asyncio.to_thread(pause.wait, 0.005)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    place.web.close()


# ---- sent


async def test_what_is_put_in_one_turn_goes_out_together_and_in_order(place: Place) -> None:
    for rid in ("r1", "r2", "r3"):
        place.web.put(sent(rid), None)
    assert place.end.letters == []
    await turn()
    assert (place.end.batches, [letter.rid for letter in place.end.letters]) == (1, ["r1", "r2", "r3"])
    assert place.news() == []
    for letter in place.end.letters:
        place.end.answer(letter)
    assert place.news() == [Taken("r1"), Taken("r2"), Taken("r3")]


async def test_a_message_says_until_when_by_the_common_clock_and_for_whom(place: Place) -> None:
    place.web.put(sent("r1", endpoint="again", deadline=112.5, payload=b"body", request_id="label"), None)
    await turn()
    (letter,) = place.end.letters
    parcel = parcel_of(letter)
    assert (parcel.expires, parcel.fingerprint, parcel.again) == (1112.5, PRINT, True)
    assert (parcel.envelope.payload, parcel.envelope.deadline, parcel.envelope.request_id) == (b"body", 0.0, "label")
    assert (letter.queue, letter.headers["id"], letter.headers["timelimit"][0]) == ("ns.gpu", "r1.1", 17.5)


async def test_only_what_may_begin_again_says_so(place: Place) -> None:
    """What streams does not: a caller cannot give back what it was told."""
    for rid, fields in {"r1": {}, "r2": {"endpoint": "again"}, "r3": {"endpoint": "again", "stream": True}}.items():
        place.web.put(sent(rid, **fields), None)  # type: ignore[arg-type]
    await turn()
    assert [parcel_of(letter).again for letter in place.end.letters] == [False, True, False]


async def test_what_the_broker_refuses_is_refused(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for rid in ("r1", "r2"):
        place.web.put(sent(rid), None)
    await turn()
    for letter in place.end.letters:
        place.end.answer(letter, "OOM command not allowed")
    refused = [Refused("r1", "backend-unavailable"), Refused("r2", "backend-unavailable")]
    assert place.news() == refused
    assert [record.message for record in caplog.records] == ["the broker refuses requests: OOM command not allowed"]
    assert place.web.withdraw("r1") is False  # nothing is known of it any more


async def test_nothing_is_sent_while_the_broker_is_away(place: Place) -> None:
    place.end.fall()
    place.web.put(sent("r1"), None)
    await turn()
    assert place.end.letters == []
    assert place.news() == [Linked(False), Refused("r1", "backend-unavailable")]
    place.end.rise()
    await place.put("r2")
    assert place.news() == [Linked(True), Taken("r2")]


async def test_what_has_no_answer_when_the_broker_goes_is_waited_for(place: Place) -> None:
    place.web.put(sent("r1"), None)
    await turn()
    place.end.fall()
    place.end.rise()
    place.came(begun("r1", at=1101.0), Outcome("r1"))
    assert place.news() == [Linked(False), Linked(True), begun("r1", at=101.0), Outcome("r1")]


# ---- large


LONG = bytes(range(256)) * 2**13  # two mebibytes


@pytest.mark.parametrize("keys", [(), KEYS], ids=["unsigned", "signed"])
async def test_what_is_large_is_written_while_others_are_sent_and_in_its_order(keys: tuple[str, ...]) -> None:
    place = Place(keys)
    for rid in ("one", "two"):
        place.web.put(sent(rid, payload=LONG), None)
    await turn()
    place.web.put(sent("small"), None)
    await until(lambda: len(place.end.letters) == 3)
    assert [letter.rid for letter in place.end.letters] == ["small", "one", "two"]
    assert [parcel_of(letter, keys).envelope.payload for letter in place.end.letters] == [b"{}", LONG, LONG]
    place.web.close()


async def test_while_it_is_written_the_event_loop_turns() -> None:
    """No turn takes near so long as all of it does; the best of a few, for what else a machine may do meanwhile."""
    place, envelope = Place(KEYS), sent("one", payload=LONG * 4)
    shares: list[float] = []
    for number in range(5):
        each = msgspec.structs.replace(envelope, rid=f"r{number}")
        since = thread_time()
        place.web._letter(SentTask(each.rid, 1, 0.0, envelope=each), each)
        at_once = thread_time() - since
        place.web.put(each, None)
        turns, longest = 0, 0.0
        while len(place.end.letters) == number:
            since = thread_time()
            await asyncio.sleep(0)
            turns, longest = turns + 1, max(longest, thread_time() - since)
        assert turns > 2 * len(each.payload) // PART
        shares.append(longest / at_once)
    assert min(shares) < 0.5, shares
    place.web.close()


async def test_what_is_large_and_too_large_for_whoever_would_read_it_is_refused_and_others_are_not(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.web.put(sent("one", payload=LONG, filename="f" * (LIMIT + OVERHEAD)), None)
    place.web.put(sent("two", payload=LONG), None)
    await until(lambda: bool(place.end.letters))
    assert [letter.rid for letter in place.end.letters] == ["two"]
    assert place.news() == [Refused("one", "payload-too-large")]
    assert "a request to read cannot be sent" in caplog.text


@pytest.mark.parametrize("how", ["withdrawn", "cancelled", "closed"])
async def test_what_is_taken_back_while_it_is_written_is_not_sent(place: Place, how: str) -> None:
    place.web.put(sent("one", payload=LONG), None)
    place.web.put(sent("two", payload=LONG), None)
    await turn()
    if how == "withdrawn":
        assert place.web.withdraw("one") is True
    elif how == "cancelled":
        place.web.cancel("one")
    else:
        place.web.close()
    if how != "closed":
        await until(lambda: bool(place.end.letters))
    await turn()
    assert [letter.rid for letter in place.end.letters] == ([] if how == "closed" else ["two"])
    assert place.end.claims == []


async def test_what_is_written_while_the_broker_goes_is_refused(place: Place) -> None:
    place.web.put(sent("one", payload=LONG), None)
    await turn()
    place.end.fall()
    await until(lambda: Refused("one", "backend-unavailable") in place.told.reports)
    assert place.end.letters == []


async def test_what_is_written_while_its_gate_is_shut_is_written_again(place: Place) -> None:
    await place.put()
    place.web.put(sent("one", payload=LONG), None)
    await turn()
    place.came(TWICE)
    place.end.shuts[0]()
    await until(lambda: len(place.end.letters) == 3)
    assert [(letter.headers["id"], parcel_of(letter).gate) for letter in place.end.letters[1:]] == [
        ("r1.2", "gate 1"), ("one.1", "gate 1"),
    ]  # fmt: skip


async def test_what_is_large_and_lost_is_written_again_and_may_be_taken_back_meanwhile(place: Place) -> None:
    for rid in ("one", "two"):
        place.web.put(sent(rid, endpoint="again", payload=LONG, deadline=110.0), None)
    await until(lambda: len(place.end.letters) == 2)
    place.came(begun("one"), begun("two"))
    place.news()
    place.came(Outcome("one", "worker-lost"), Outcome("two", "worker-lost"))
    assert place.web.withdraw("one") is None
    await until(lambda: len(place.end.letters) == 3)
    assert [letter.headers["id"] for letter in place.end.letters] == ["one.1", "two.1", "two.2"]
    assert Withdrawn("one", begun=False) in place.news()


async def test_whose_caller_leaves_while_it_is_written_again_is_told_to_hold_no_place(place: Place) -> None:
    place.web.put(sent("one", endpoint="again", payload=LONG), None)
    await until(lambda: len(place.end.letters) == 1)
    place.came(begun("one"), Outcome("one", "worker-lost"))
    assert place.web._sent["one"].writing
    place.news()
    assert place.web.withdraw("one") is None
    place.web.cancel("one")  # as for whoever does not wait for the answer
    await turn()
    assert place.news() == [Withdrawn("one", begun=False)]
    assert place.web._sent == {}
    place.web.put(sent("two", payload=LONG), None)
    await until(lambda: len(place.end.letters) == 2)
    assert place.end.letters[-1].rid == "two"


async def test_the_body_of_what_nobody_waits_for_is_not_kept(place: Place) -> None:
    await place.put(payload=b"body")
    place.web.withdraw("r1")
    place.web.cancel("r1")
    await turn()
    place.end.claims[-1][1]([None])
    assert place.web._sent["r1"].envelope is None
    place.came(begun("r1"))
    assert place.end.ordered == [Cancel(WORKER, "r1")]


async def test_nor_is_that_of_what_is_given_up_once_nobody_can_tell(place: Place) -> None:
    await place.put(payload=b"body")
    place.web.subscribe(lambda reports: place.web.cancel("r1"))  # as whoever waited for the answer does
    place.web.withdraw("r1")
    await turn()
    place.end.claims[-1][1]([None])
    assert place.web._sent["r1"].envelope is None


async def test_only_what_a_drain_takes_back_is_said_to_be_cut(place: Place) -> None:
    for rid in ("wanted no more", "left", "drained"):
        await place.put(rid)
    place.web.withdraw("wanted no more")
    await turn()
    place.web.cut()
    place.web.withdraw("left")
    place.web.cancel("left")
    place.web.withdraw("drained")
    await turn()
    claims = [claim for claims, _ in place.end.claims for claim in claims]
    assert [(claim.rid, claim.cut) for claim in claims] == [
        ("wanted no more", False), ("left", False), ("drained", True),
    ]  # fmt: skip


# ---- taken back


async def test_what_was_not_sent_yet_is_taken_back_at_once(place: Place) -> None:
    place.web.put(sent("r1"), None)
    assert place.web.withdraw("r1") is True
    await turn()
    assert place.end.letters == []


async def test_what_was_sent_is_taken_back_at_the_broker(place: Place) -> None:
    await place.put("r1", deadline=110.0)
    await place.put("r2", deadline=90.0)
    place.news()
    assert place.web.withdraw("r1") is None
    assert place.web.withdraw("r2") is None
    assert place.web.withdraw("r1") is None  # asked once
    await turn()
    ((claims, found),) = place.end.claims
    assert [(claim.rid, claim.attempt, claim.left) for claim in claims] == [("r1", 1, 10.0), ("r2", 1, -10.0)]
    found(["", WORKER])
    assert place.news() == [Withdrawn("r1", begun=False), Withdrawn("r2", begun=True)]
    assert place.web.withdraw("r1") is False
    assert place.web.withdraw("r2") is False


async def test_a_beginning_that_comes_while_it_is_taken_back_counts(place: Place) -> None:
    await place.put()
    place.web.withdraw("r1")
    await turn()
    ((_, found),) = place.end.claims
    place.came(begun("r1"))
    place.news()
    found([""])
    assert place.news() == [Withdrawn("r1", begun=True)]


async def test_what_is_known_to_have_begun_is_not_asked_for(place: Place) -> None:
    await place.put()
    place.came(begun("r1"))
    assert place.web.withdraw("r1") is False
    await turn()
    assert place.end.claims == []


async def test_what_nobody_can_tell_is_told_as_that(place: Place) -> None:
    await place.put()
    place.news()
    place.web.withdraw("r1")
    await turn()
    place.end.claims[0][1]([None])
    assert [report for report in place.news() if report != Withdrawn("r1", begun=None)] == []


async def test_a_question_that_was_lost_with_the_connection_is_asked_again(place: Place) -> None:
    await place.put()
    place.web.withdraw("r1")
    await turn()
    place.end.fall()
    place.end.rise()
    await turn()
    assert [claim.rid for claims, _ in place.end.claims for claim in claims] == ["r1", "r1"]
    place.end.fall()
    place.end.rise()
    await turn()
    assert len(place.end.claims) == 3
    place.news()
    place.end.claims[-1][1]([""])
    assert place.news() == [Withdrawn("r1", begun=False)]


async def test_one_that_is_asked_for_while_the_broker_is_away_is_asked_for_afterwards(place: Place) -> None:
    await place.put()
    place.end.fall()
    assert place.web.withdraw("r1") is None
    await turn()
    assert place.end.claims == []
    place.end.rise()
    await turn()
    assert len(place.end.claims) == 1


# ---- orders


async def test_orders_go_to_whoever_has_begun_it(place: Place) -> None:
    await place.put(stream=True)
    place.web.grant("r1", 5)  # nobody has begun it: nobody has sent what could be taken
    place.came(begun("r1", worker="there"))
    place.web.grant("r1", 7)
    place.web.cancel("r1")
    assert place.end.ordered == [Grant("there", "r1", 7), Cancel("there", "r1")]


async def test_a_cancellation_of_what_waits_takes_it_back_or_reaches_whoever_begins_it(place: Place) -> None:
    await place.put()
    place.web.cancel("r1")
    await turn()
    assert len(place.end.claims) == 1
    place.came(begun("r1", worker="there"))
    assert place.end.ordered == [Cancel("there", "r1")]
    await place.put("r2")
    place.web.cancel("r2")
    await turn()
    place.end.claims[-1][1](["elsewhere"])
    assert place.end.ordered[-1] == Cancel("elsewhere", "r2")


async def test_a_cancellation_is_said_again_after_the_broker_was_away(place: Place) -> None:
    await place.put()
    place.came(begun("r1"))
    place.web.cancel("r1")
    place.end.fall()
    place.end.rise()
    assert place.end.ordered == [Cancel(WORKER, "r1")] * 2


async def test_unknown_ids_are_passed_over(place: Place) -> None:
    place.web.cancel("nobody")
    place.web.grant("nobody", 1)
    assert place.web.withdraw("nobody") is False
    place.came(begun("nobody"), Outcome("nobody"), Freed("nobody", 1, WORKER), Requeued("nobody", 1))
    await turn()
    assert place.end.ordered == place.end.claims == place.end.letters == []


# ---- what comes


async def test_instants_are_told_in_this_hosts_time(place: Place) -> None:
    await place.put()
    place.news()
    place.came(begun("r1", at=1101.0), Outcome("r1", begun_at=1101.0, ended_at=1102.0))
    assert place.news() == [begun("r1", at=101.0), Outcome("r1", begun_at=101.0, ended_at=102.0)]
    await place.put("r2")
    place.news()
    place.came(Outcome("r2", reason="expired-in-queue", started=False))
    assert place.news() == [Outcome("r2", reason="expired-in-queue", started=False)]


async def test_an_outcome_ends_it(place: Place) -> None:
    await place.put()
    place.came(begun("r1"), Outcome("r1", last=False))
    place.web.cancel("r1")
    assert place.end.ordered == [Cancel(WORKER, "r1")]  # its loop still runs what is left
    place.came(Freed("r1", 1, WORKER))
    place.web.cancel("r1")
    assert len(place.end.ordered) == 1


async def test_what_is_said_of_an_earlier_attempt_does_not_end_a_later(place: Place) -> None:
    await place.put(endpoint="again")
    place.came(begun("r1"), Outcome("r1", "worker-lost"))
    await turn()
    place.came(begun("r1", 2, "other"))
    place.came(Outcome("r1", attempt=1), Freed("r1", 1, WORKER), begun("r1", 1))
    place.web.cancel("r1")
    assert place.end.ordered == [Cancel("other", "r1")]


async def test_a_stream_message_that_comes_twice_is_told_once(place: Place) -> None:
    await place.put(stream=True)
    place.came(begun("r1"))
    place.news()
    first, second = Chunk("r1", 1, 1, b"1"), Chunk("r1", 1, 2, b"2")
    place.came(first, first, second, first, Progressed("r1", 1, 0.5))
    assert place.news() == [first, second, Progressed("r1", 1, 0.5)]
    assert place.web.refused == 2


async def test_what_is_not_ours_is_counted_and_said_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(KEYS)
    await place.put()
    place.news()
    good = Outcome("r1", payload=b"yes")
    unsigned = said(Outcome("r1", payload=b"no"), INBOX)
    other_inbox = said(Outcome("r1", payload=b"no"), "ns:inbox:other", KEYS)
    altered = list(said(Outcome("r1", payload=b"no"), INBOX, KEYS))
    altered[1] = said(Outcome("r1", payload=b"yo"), INBOX, KEYS)[1]
    place.web.came([unsigned, other_inbox, altered, [], [b"e"], said(good, INBOX, KEYS)])
    assert place.news() == [good]
    assert place.web.refused == 5
    said_so = [record.message for record in caplog.records if record.name == "offloop"]
    assert len(said_so) == 2  # once for each reason
    assert all(line.startswith("a message to this process' inbox is dropped: it") for line in said_so)
    place.web.close()


# ---- lost


@pytest.mark.parametrize("endpoint", ["read", "again"])
async def test_what_was_lost_before_it_began_is_sent_again(place: Place, endpoint: str) -> None:
    await place.put(endpoint=endpoint, payload=b"body")
    place.news()
    place.came(Outcome("r1", "worker-lost"))
    await turn()
    assert place.news() == [Requeued("r1", 2, begun=False)]
    assert [letter.headers["id"] for letter in place.end.letters] == ["r1.1", "r1.2"]
    parcel = parcel_of(place.end.letters[1])
    assert (parcel.envelope.attempt, parcel.envelope.payload, parcel.expires) == (2, b"body", 1110.0)


async def test_what_had_begun_is_lost(place: Place) -> None:
    await place.put()
    place.came(begun("r1"))
    place.news()
    lost = Outcome("r1", "worker-lost", started=None)
    place.came(lost)
    await turn()
    assert place.news() == [msgspec.structs.replace(lost, started=True)]
    assert len(place.end.letters) == 1


async def test_what_is_idempotent_begins_three_times_and_no_more(place: Place) -> None:
    await place.put(endpoint="again")
    for attempt in (1, 2, 3):
        place.came(begun("r1", attempt))
        place.news()
        place.came(Outcome("r1", "worker-lost", attempt=attempt))
        await turn()
        if attempt < 3:
            assert place.news() == [Requeued("r1", attempt + 1)]
    assert place.news() == [Outcome("r1", "worker-lost", attempt=3, started=True)]
    assert len(place.end.letters) == 3


@pytest.mark.parametrize(
    ("how", "fields"),
    [("cancelled", {}), ("late", {"deadline": 99.0}), ("streams", {"stream": True})],
)
async def test_what_nobody_waits_for_or_what_streams_is_not_sent_again(
    place: Place, how: str, fields: dict[str, object]
) -> None:
    await place.put(endpoint="again", **fields)  # type: ignore[arg-type]
    place.came(begun("r1"))
    if how == "cancelled":
        place.web.cancel("r1")
    place.news()
    place.came(Outcome("r1", "worker-lost"))
    await turn()
    assert place.news() == [Outcome("r1", "worker-lost", started=True)]
    assert len(place.end.letters) == 1


TWICE = Outcome("r1", "worker-lost", started=None)
"""The broker has given it out a second time."""


async def test_what_was_given_out_twice_goes_out_again_once_nobody_can_begin_it(place: Place) -> None:
    await place.put(payload=b"body")
    await place.put("r2")
    await place.put("busy")
    place.came(begun("busy"))
    place.news()
    place.came(TWICE)
    place.came(msgspec.structs.replace(TWICE, rid="r2"))
    await turn()
    assert (len(place.end.shuts), len(place.end.letters), place.news()) == (1, 3, [])
    await place.put("r3")
    place.news()
    place.end.shuts[0]()
    assert place.news() == [Requeued("r1", 2, begun=False), Requeued("r2", 2, begun=False)]
    assert [letter.headers["id"] for letter in place.end.letters[3:]] == ["r3.1", "r1.2", "r2.2"]
    assert [parcel_of(letter).gate for letter in place.end.letters] == ["gate 0"] * 3 + ["gate 1"] * 3
    place.came(TWICE)  # of the first attempt, which is nobody's any more
    assert len(place.end.shuts) == 1


async def test_what_waits_by_the_same_gate_goes_out_again_with_it(place: Place) -> None:
    await place.put()
    await place.put("r2", endpoint="again")
    await place.put("left")
    place.web.cancel("left")
    await turn()
    place.news()
    place.came(TWICE)
    place.end.shuts[0]()
    assert [letter.headers["id"] for letter in place.end.letters[3:]] == ["r1.2", "r2.2"]
    assert Withdrawn("left", begun=False) in place.news()
    for attempt in (2, 3, 4):  # it has begun in none so far
        place.came(begun("r2", attempt), Outcome("r2", "worker-lost", attempt=attempt))
    await turn()
    assert [letter.headers["id"] for letter in place.end.letters[5:]] == ["r2.3", "r2.4"]


async def test_what_begins_before_its_gate_is_shut_is_lost_and_not_sent_again(place: Place) -> None:
    await place.put()
    place.came(TWICE)
    place.came(begun("r1"))
    place.news()
    place.end.shuts[0]()
    assert place.news() == [Outcome("r1", "worker-lost", started=True)]
    assert len(place.end.letters) == 1


async def test_what_was_being_asked_for_is_left_to_that(place: Place) -> None:
    await place.put()
    place.web.withdraw("r1")
    await turn()
    place.came(TWICE)
    place.news()
    place.end.shuts[0]()
    assert (place.news(), len(place.end.letters)) == ([], 1)
    place.end.claims[0][1]([""])
    assert place.news() == [Withdrawn("r1", begun=False)]


@pytest.mark.parametrize("lost", [Outcome("r1", "worker-lost"), TWICE], ids=["killed", "given out twice"])
async def test_where_a_beginning_may_have_been_lost_only_what_may_begin_again_does(place: Place, lost: Outcome) -> None:
    await place.put()
    await place.put("r2", endpoint="again")
    place.end.lost = {"r1", "r2"}
    place.news()
    place.came(lost, msgspec.structs.replace(lost, rid="r2"))
    await turn()
    assert place.news() == [Outcome("r1", "worker-lost", started=None), Requeued("r2", 2, begun=None)]
    assert [letter.headers["id"] for letter in place.end.letters] == ["r1.1", "r2.1", "r2.2"]
    assert place.end.shuts == []


async def test_a_gate_that_was_being_shut_when_the_connection_broke_leaves_a_doubt(place: Place) -> None:
    await place.put()
    await place.put("r2", endpoint="again")
    place.came(TWICE)
    place.end.fall()
    place.end.lost = {"r1", "r2"}
    place.news()
    place.end.rise()
    assert place.news() == [
        Linked(True), Outcome("r1", "worker-lost", started=None), Requeued("r2", 2, begun=None),
    ]  # fmt: skip
    assert [letter.headers["id"] for letter in place.end.letters] == ["r1.1", "r2.1", "r2.2"]


async def test_a_late_copy_knows_nothing_of_a_later_attempt_whose_beginning_may_be_lost(place: Place) -> None:
    await place.put(endpoint="again")
    place.came(begun("r1"), Outcome("r1", "worker-lost"))
    place.end.lost = {"r1"}
    place.news()
    place.came(Withdrawn("r1", begun=False))
    assert place.news() == []


async def test_a_loss_while_nothing_can_be_sent_is_the_end_and_says_whether_it_had_begun(place: Place) -> None:
    for rid in ("r1", "r2"):
        await place.put(rid, endpoint="again")
    place.came(begun("r1"))
    place.end.fall()
    place.news()
    place.came(Outcome("r1", "worker-lost"), Outcome("r2", "worker-lost"))
    await turn()
    assert place.news() == [
        Outcome("r1", "worker-lost", started=True), Outcome("r2", "worker-lost", started=False),
    ]  # fmt: skip


async def test_a_loss_that_is_told_twice_counts_once(place: Place) -> None:
    await place.put(endpoint="again")
    place.came(begun("r1"), Outcome("r1", "worker-lost"), Outcome("r1", "worker-lost"))
    await turn()
    assert [letter.attempt for letter in place.end.letters] == [1, 2]


# ---- handed back


async def test_what_a_worker_hands_back_goes_out_again_in_a_moment(place: Place) -> None:
    await place.put()
    place.came(Requeued("r1", 1))
    assert len(place.end.letters) == 1
    await until(lambda: len(place.end.letters) == 2)
    assert [letter.headers["id"] for letter in place.end.letters] == ["r1.1", "r1.2"]
    assert Requeued("r1", 2, begun=False) in place.news()


async def test_what_is_handed_back_is_sent_once_however_often_that_is_told(place: Place) -> None:
    """A worker tells it again where it did not hear that the broker had it."""
    await place.put()
    place.came(Requeued("r1", 1), Requeued("r1", 1))
    await until(lambda: len(place.end.letters) == 2)
    place.came(Requeued("r1", 1))
    place.came(Requeued("r1", 2))
    await until(lambda: len(place.end.letters) == 3)
    assert [letter.headers["id"] for letter in place.end.letters] == ["r1.1", "r1.2", "r1.3"]


async def test_what_is_handed_back_often_may_still_begin_as_often_as_any(place: Place) -> None:
    await place.put(endpoint="again")
    for attempt in (1, 2, 3, 4):
        place.came(Requeued("r1", attempt))
        await until(lambda: len(place.end.letters) == attempt + 1)  # noqa: B023
    place.came(begun("r1", 5), Outcome("r1", "worker-lost", attempt=5))
    await turn()
    assert len(place.end.letters) == 6


async def test_what_was_handed_back_and_is_taken_back_meanwhile_stays_so(place: Place) -> None:
    await place.put()
    place.came(Requeued("r1", 1))
    place.web.withdraw("r1")
    await turn()
    place.end.claims[0][1]([""])
    await place.put("r2")
    place.came(Requeued("r2", 1))
    await until(lambda: [letter.rid for letter in place.end.letters].count("r2") == 2)
    assert [letter.rid for letter in place.end.letters].count("r1") == 1


async def test_a_late_duplicate_does_not_say_that_what_has_begun_never_did(place: Place) -> None:
    """Whoever takes its message a second time, after the deadline, knows nothing of the first."""
    await place.put()
    place.came(begun("r1"))
    place.news()
    place.came(Withdrawn("r1", begun=False))
    assert Withdrawn("r1", begun=False) not in place.news()


# ---- its life


async def test_a_start_without_a_broker_fails_with_one_line() -> None:
    place = Place()
    place.end.is_up = False
    with pytest.raises(StartError, match="the broker cannot be reached: nobody listens there"):
        await place.web.start()
    place.web.close()


async def test_it_looks_who_is_there_and_waits_for_somebody() -> None:
    place = Place()
    await place.web.start()
    waits = asyncio.get_running_loop().create_task(place.web.staffed(5.0))
    await turn()
    assert not waits.done()
    assert place.end.looks >= 1
    place.web.seen({})
    await turn()
    assert not waits.done()
    place.web.seen({"worker-0": (2, 1)})
    async with asyncio.timeout(5):
        await waits
    assert place.news() == [Staffed({}), Staffed({"worker-0": (2, 1)})]
    lives = list(place.web._lives)
    place.web.close()
    await asyncio.gather(*lives, return_exceptions=True)


async def test_what_never_ended_is_forgotten_long_after_its_deadline() -> None:
    place = Place()
    await place.web.start()
    await place.put("old", deadline=110.0)
    await place.put("new", deadline=110.0 + FORGET)
    place.now = 110.0 + FORGET + 1
    await until(lambda: "old" not in place.web._sent)
    assert set(place.web._sent) == {"new"}
    lives = list(place.web._lives)
    place.web.close()
    await asyncio.gather(*lives, return_exceptions=True)


async def test_after_close_nothing_is_taken_or_told(place: Place) -> None:
    await place.put()
    place.news()
    place.web.close()
    assert place.end.closed
    place.web.put(sent("r2"), None)
    place.web.withdraw("r1")
    place.web.cancel("r1")
    place.came(Outcome("r1"))
    await turn()
    assert len(place.end.letters) == 1
    assert place.end.claims == place.end.ordered == place.news() == []


async def test_begun_is_told_as_it_came(place: Place) -> None:
    await place.put()
    place.news()
    place.came(begun("r1", at=1100.5))
    assert place.news() == [Begun("r1", 1, WORKER, 100.5)]
