"""Who has announced themselves, and until when that counts."""

from offloop.transports.redis.names import ANNOUNCED, FORGOTTEN, Names, consumer, worker_of
from offloop.transports.redis.staff import announcement, forgotten, present


def test_who_has_said_so_is_there_for_as_long_as_it_counts() -> None:
    reply = [b"host/one", announcement(100.0, 2, 1), b"host/two", announcement(101.0, 4, 0)]
    assert present(reply, 100.5) == {"host/one": (2, 1), "host/two": (4, 0)}
    assert present(reply, 100.0 + ANNOUNCED) == {"host/two": (4, 0)}
    assert present(reply, 101.0 + ANNOUNCED) == {}


def test_what_cannot_be_read_is_nobody() -> None:
    reply = [b"one", b"\x00", b"two", b"", b"\xff", announcement(1.0, 1, 0), b"alone"]
    assert present(reply, 1.0) == {"\N{REPLACEMENT CHARACTER}": (1, 0)}


def test_who_has_not_said_so_for_long_is_forgotten_and_what_cannot_be_read_is_kept() -> None:
    reply = [b"old", announcement(100.0, 1, 0), b"new", announcement(110.0, 1, 0), b"later", b"\x00"]
    now = 100.0 + ANNOUNCED + FORGOTTEN
    assert forgotten(reply, now) == []
    assert forgotten(reply, now + 1) == [b"old"]


def test_an_answer_that_is_none_is_nobody() -> None:
    assert present(None, 0.0) == present(ValueError(), 0.0) == {}
    assert forgotten(ValueError(), 1e9) == []


def test_a_loop_is_a_consumer_of_its_worker() -> None:
    assert worker_of(consumer("host:1:ab/worker-0:7", 3)) == "host:1:ab/worker-0:7"


def test_every_name_begins_with_its_namespace() -> None:
    names = Names("mine")
    every = [
        names.requests("p"), names.workers("p"), names.dead("p"), names.inbox("e"), names.orders("h"),
        names.seen("r", 1),
    ]  # fmt: skip
    assert all(name.startswith("mine:") for name in every)
    assert len(set(every)) == len(every)
