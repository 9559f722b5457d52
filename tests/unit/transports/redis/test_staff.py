"""Who has announced themselves, and until when that counts."""

from offloop.transports.redis.names import ANNOUNCED, FORGOTTEN, Names, consumer, worker_of
from offloop.transports.redis.staff import announcement, announcing, forgetting, present


def test_who_has_said_so_is_there_for_as_long_as_it_counts() -> None:
    reply = [b"host/one", announcement(100.0, 2, 1), b"host/two", announcement(101.0, 4, 0)]
    assert present(reply, 100.5) == {"host/one": (2, 1), "host/two": (4, 0)}
    assert present(reply, 100.0 + ANNOUNCED) == {"host/two": (4, 0)}
    assert present(reply, 101.0 + ANNOUNCED) == {}


def test_what_cannot_be_read_is_nobody() -> None:
    reply = [b"one", b"\x00", b"two", b"", b"\xff", announcement(1.0, 1, 0), b"alone"]
    assert present(reply, 1.0) == {"\N{REPLACEMENT CHARACTER}": (1, 0)}


def test_an_answer_that_is_none_is_nobody() -> None:
    assert present(None, 0.0) == present(ValueError(), 0.0) == {}
    assert forgetting(["a"], [ValueError()], 1e9) == []


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


def test_a_hash_ends_by_itself_once_nobody_says_anything_in_it() -> None:
    hset, pexpire = announcing("key", ("one", b"said"))
    assert hset == ("HSET", "key", "one", b"said")
    assert pexpire == ("PEXPIRE", "key", round((ANNOUNCED + FORGOTTEN) * 1000))


def test_who_has_been_silent_for_long_is_taken_out_and_nobody_else() -> None:
    long_ago = [b"old", announcement(100.0, 1, 0), b"late", announcement(102.0, 1, 0), b"strange", b"\x00"]
    now = 101.0 + ANNOUNCED + FORGOTTEN
    assert forgetting(["a", "b", "c"], [long_ago, [], None], now) == [("HDEL", "a", b"old")]
    assert forgetting(["a"], [long_ago], now + 2.0) == [("HDEL", "a", b"old", b"late")]
