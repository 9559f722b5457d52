"""Dead letters, in a real Redis."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from offloop.messages import Envelope
from offloop.transports.parcels import Parcel, parcels
from offloop.transports.redis.dead import PREVIEW, DeadLetters, preview
from offloop.transports.redis.names import Names
from offloop.transports.redis.wire import BrokerError, address_of
from tests.support.broker import Broker, broker

POOL = "a-pool"
KEYS = ("today's", "yesterday's")


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as one:
        yield one


class Place:
    """One pool of one namespace."""

    def __init__(self, redis: Broker, *keys: str) -> None:
        self.redis = redis
        self.names = Names(uuid4().hex)
        self.seal = parcels(keys, 2**20)
        self.letters = self.opened(*keys)

    def opened(self, *keys: str) -> DeadLetters:
        return DeadLetters(address_of(self.redis.url), self.names, POOL, keys)

    def dies(self, rid: str = "e-1-s", **more: object) -> str:
        """As the reaper leaves it: the entry as it lay among the requests."""
        envelope = Envelope(**{"rid": rid, "endpoint": "read", "payload": b"{}", "deadline": 0.0, "reply_to": "e",
                               "attempt": 3, "trace": (("baggage", "b"),), **more})  # type: ignore[arg-type]  # fmt: skip
        fields = self.seal.write(self.names.requests(POOL), Parcel(1.0, "print", True, envelope))
        id_: bytes = self.redis.cli("XADD", self.names.dead(POOL), "*", *fields)
        return id_.decode()

    def queued(self) -> list[Parcel]:
        stream = self.names.requests(POOL)
        return [self.seal.read(stream, fields) for _, fields in self.redis.cli("XRANGE", stream, "-", "+")]


@pytest.fixture(params=[(), KEYS], ids=["unsigned", "signed"])
def place(redis: Broker, request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(redis, *request.param)
    yield place
    place.letters.close()


def test_letters_are_listed_and_found_with_all_that_they_were(place: Place) -> None:
    ids = [place.dies(f"e-{number}-s") for number in range(120)]
    found = list(place.letters.all())
    assert [letter.id for letter in found] == ids
    assert [letter.parcel.envelope.rid for letter in found if letter.parcel] == [f"e-{n}-s" for n in range(120)]
    one = place.letters.find(ids[7])
    assert one == found[7]
    assert one.died_at.timestamp() == int(ids[7].partition("-")[0]) / 1000
    assert place.letters.find("1-1") is None


def test_where_nobody_died_there_is_nothing(place: Place) -> None:
    assert list(place.letters.all()) == []


def test_one_that_is_sent_again_is_a_first_try_of_a_new_request_for_nobody(place: Place) -> None:
    (letter,) = [place.letters.find(place.dies(payload=b'{"n":1}', stream=True))]
    assert letter is not None
    assert place.letters.replay(letter, 30.0)
    (parcel,) = place.queued()
    assert letter.parcel is not None
    before, after = letter.parcel.envelope, parcel.envelope
    assert (after.attempt, after.endpoint, after.payload, after.trace) == (1, "read", b'{"n":1}', ())
    assert after.rid != before.rid
    assert after.reply_to == ""  # nobody's inbox
    assert (parcel.fingerprint, parcel.again) == ("print", True)
    seconds, _ = place.redis.cli("TIME")
    assert 25.0 < parcel.expires - int(seconds) <= 31.0
    assert list(place.letters.all()) == []


def test_one_is_sent_again_or_dropped_once_whoever_else_tries(place: Place) -> None:
    first, second = place.letters.find(place.dies()), place.letters.find(place.dies())
    assert first is not None
    assert second is not None
    assert [place.letters.replay(first, 30.0) for _ in range(2)] == [True, False]
    assert [place.letters.drop(second) for _ in range(2)] == [True, False]
    assert not place.letters.replay(second, 30.0)
    assert len(place.queued()) == 1


def test_all_are_those_that_are_there_now(place: Place) -> None:
    ids = [place.dies() for _ in range(3)]
    seen = []
    for letter in place.letters.all():
        seen.append(letter.id)
        place.dies()  # as one does that dies again
    assert seen == ids


def test_what_cannot_be_believed_is_listed_and_dropped_and_never_sent_again(redis: Broker) -> None:
    place = Place(redis, *KEYS)
    forged = redis.cli("XADD", place.names.dead(POOL), "*", "e", b"noise", "s", b"noise").decode()
    unsigned = redis.cli("XADD", place.names.dead(POOL), "*", "e", b"noise").decode()
    found = list(place.letters.all())
    assert [(letter.id, letter.parcel) for letter in found] == [(forged, None), (unsigned, None)]
    assert [letter.why for letter in found] == [
        "its signature does not fit: another key, or it was altered", "it is not signed",
    ]  # fmt: skip
    assert not place.letters.replay(found[0], 30.0)
    assert place.letters.drop(found[0])
    place.letters.close()


def test_a_key_that_is_rotated_out_reads_and_the_new_one_signs(redis: Broker) -> None:
    place = Place(redis, *KEYS)
    place.seal = parcels(KEYS[1:], 2**20)
    letter = place.letters.find(place.dies())
    assert letter is not None
    assert place.letters.replay(letter, 30.0)
    place.seal = parcels(KEYS[:1], 2**20)
    assert len(place.queued()) == 1
    place.letters.close()


def test_without_its_key_a_signed_letter_is_not_sent_again_to_be_dropped_by_everybody(redis: Broker) -> None:
    place = Place(redis, *KEYS)
    id_ = place.dies()
    keyless = place.opened()
    letter = keyless.find(id_)
    assert letter is not None
    assert letter.why == "it is signed, and OFFLOOP_SIGNING_KEY is not set"
    assert not keyless.replay(letter, 30.0)
    keyless.close()
    place.letters.close()


def test_a_broker_that_refuses_says_so(redis: Broker) -> None:
    place = Place(redis)
    redis.cli("SET", place.names.dead(POOL), "no stream")
    with pytest.raises(BrokerError, match="the broker refuses it: WRONGTYPE"):
        place.letters.find("1-1")
    place.letters.close()


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b'{"n": 1}', '{"n": 1}'),
        (b"\x1b[31m\x00\r\n", r"\x1b[31m\x00\r\n"),
        ("grün\u2028".encode(), "grün\\u2028"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * PREVIEW, "x" * PREVIEW),
        (b"x" * (PREVIEW + 1), "x" * PREVIEW + "…"),
        ("ü" * 5 * PREVIEW, "ü" * PREVIEW + "…"),
    ],
)
def test_a_preview_is_short_and_harmless(payload: bytes | str, shown: str) -> None:
    data = payload.encode() if isinstance(payload, str) else payload
    assert preview(Envelope(rid="r", endpoint="e", payload=data, deadline=0.0)) == shown
