"""What is decided at the broker itself, by a real one."""

from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offloop.transports.redis import scripts
from offloop.transports.redis.names import GROUP
from offloop.transports.redis.wire import Command, Line, Reply, ReplyError

FIELDS = (b"e", b"body")


class Queue:
    """A stream of requests of its own, and an inbox."""

    def __init__(self, line: Line) -> None:
        self._line = line
        name = uuid4().hex
        self.stream, self.inbox = f"{name}:requests", f"{name}:inbox"
        self(*scripts.load())

    def __call__(self, *commands: Command) -> Reply:
        """What the last of them was answered."""
        reply = self._line.exchange(commands)[-1]
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def add(self, bound: int, count: int = 1) -> list[bytes | None]:
        return list(self(scripts.add(self.stream, bound, [FIELDS] * count)))

    def take(self, consumer: str, count: int = 1) -> list[bytes]:
        given = self(("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", self.stream, ">"))
        return [entry[0] for entry in given[0][1]] if given else []

    def finish(self, id_: bytes) -> None:
        self(("XACK", self.stream, GROUP, id_), ("XDEL", self.stream, id_))

    def holder(self, id_: bytes) -> bytes | None:
        held = self(("XPENDING", self.stream, GROUP, id_, id_, 1))
        return held[0][1] if held else None

    def age(self, consumer: str, id_: bytes) -> None:
        """Its lease is five seconds old."""
        self(("XCLAIM", self.stream, GROUP, consumer, 0, id_, "IDLE", 5000, "JUSTID"))

    @property
    def length(self) -> int:
        return int(self(("XLEN", self.stream)))

    def inboxed(self) -> list[list[bytes]]:
        return [fields for _, fields in self(("XRANGE", self.inbox, "-", "+"))]


@pytest.fixture
def queue(line: Line) -> Queue:
    return Queue(line)


# ---- the shared bound


def test_no_more_wait_than_the_bound_allows_however_many_come_at_once(queue: Queue) -> None:
    added = queue.add(3, 5)
    assert [id_ is not None for id_ in added] == [True, True, True, False, False]
    assert queue.length == 3
    assert queue.add(3) == [None]


def test_what_was_delivered_makes_room_and_what_has_ended_leaves_nothing(queue: Queue) -> None:
    queue.add(2, 2)
    (first,) = queue.take("one")
    assert queue.add(2) != [None]
    assert queue.add(2) == [None]
    queue.finish(first)
    assert queue.add(2) == [None]
    queue.take("one", 2)
    assert None not in queue.add(2, 2)


def test_a_bound_of_nothing_refuses_all(queue: Queue) -> None:
    assert queue.add(0, 2) == [None, None]


def test_a_stream_without_a_group_is_given_one(queue: Queue) -> None:
    queue(("XADD", queue.stream, "*", *FIELDS))
    assert queue.add(2, 2)[1] is None
    assert len(queue.take("one", 9)) == 2


def test_a_key_of_another_kind_is_an_error_and_no_refusal(queue: Queue) -> None:
    queue(("SET", queue.stream, "mine"))
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        queue.add(2)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bound=st.integers(0, 5), steps=st.lists(st.sampled_from("add take end back".split()), max_size=30))
def test_what_waits_is_what_was_added_and_neither_delivered_nor_taken_back(
    line: Line, bound: int, steps: list[str]
) -> None:
    queue, waiting, running = Queue(line), list[bytes](), list[bytes]()
    for step in steps:
        if step == "add":
            (id_,) = queue.add(bound)
            assert (id_ is None) == (len(waiting) >= bound)
            waiting += [id_] if id_ is not None else []
        elif step == "take" and waiting:
            assert queue.take("one") == waiting[:1]  # first in, first out
            running.append(waiting.pop(0))
        elif step == "end" and running:
            queue.finish(running.pop())
        elif step == "back" and waiting:
            assert queue(scripts.withdraw(queue.stream, [waiting.pop()])) == [[b"", 0]]
    assert queue.length == len(waiting) + len(running)


# ---- taking back


def test_what_lies_there_is_taken_back_what_is_held_tells_by_whom_and_what_has_ended_is_nothing(queue: Queue) -> None:
    held, lies, ended = queue.add(9, 3)
    assert held is not None
    assert lies is not None
    assert ended is not None
    assert queue.take("one") == [held]
    queue(("XDEL", queue.stream, ended))
    assert queue(scripts.withdraw(queue.stream, [held, lies, ended])) == [[b"one", 1], [b"", 0], None]
    assert queue.take("two", 9) == []
    assert queue(scripts.withdraw(queue.stream, [lies])) == [None]


def test_what_is_held_beside_others_tells_so(queue: Queue) -> None:
    first, second, alone = queue.add(9, 3)
    assert first is not None
    assert second is not None
    assert alone is not None
    assert queue.take("one", 2) == [first, second]
    assert queue.take("two") == [alone]
    assert queue(scripts.withdraw(queue.stream, [first, second, alone])) == [[b"one", 2], [b"one", 2], [b"two", 1]]


# ---- once more


def test_what_a_lost_worker_had_lies_there_again_and_its_web_process_is_told_the_new_id(queue: Queue) -> None:
    (old,) = queue.add(9)
    assert old is not None
    queue(("XGROUP", "CREATE", queue.inbox, "owner", "$", "MKSTREAM"))
    queue.take("one")
    new = queue(scripts.again(queue.stream, queue.inbox, old, (b"e", b"again"), (b"e", b"told")))
    assert queue.take("two", 9) == [new]
    assert queue.length == 1
    assert queue.holder(old) is None
    assert queue.inboxed() == [[b"i", new, b"e", b"told"]]


def test_what_has_ended_meanwhile_is_not_queued_again(queue: Queue) -> None:
    (old,) = queue.add(9)
    assert old is not None
    queue.take("one")
    queue.finish(old)
    assert queue(scripts.again(queue.stream, queue.inbox, old, FIELDS, FIELDS)) is None
    assert queue.length == 0


def test_an_inbox_that_is_gone_is_not_made(queue: Queue) -> None:
    (old,) = queue.add(9)
    assert old is not None
    queue.take("one")
    assert queue(scripts.again(queue.stream, queue.inbox, old, FIELDS, FIELDS)) is not None
    assert queue(("EXISTS", queue.inbox)) == 0


# ---- leases


def test_renewing_keeps_what_a_consumer_has_and_tells_how_many_that_are(queue: Queue) -> None:
    queue.add(9, 3)
    held = queue.take("one", 2)
    (other,) = queue.take("two", 1)
    for each in held:
        queue.age("one", each)
    queue.age("two", other)
    assert queue(scripts.renew(queue.stream, ["one", "nobody"])) == [2, 0]
    for each in held:
        _, holder, idle, deliveries = queue(("XPENDING", queue.stream, GROUP, each, each, 1))[0]
        assert (holder, deliveries) == (b"one", 1)  # renewed, and not delivered once more
        assert idle < 5000
    assert queue(("XPENDING", queue.stream, GROUP, "-", "+", 9, "two"))[0][2] >= 5000


def test_a_look_takes_over_what_is_older_than_a_lease_and_nothing_that_is_not(queue: Queue) -> None:
    (old,) = queue.add(9)
    assert old is not None
    queue.take("one")
    queue.age("one", old)
    queue.add(9)
    queue.take("two")
    seconds, _ = queue(("TIME",))
    found = queue(scripts.look(queue.stream, "reaper", 4.0, 9, int(seconds) + 5))
    assert [entry[0] for entry in found] == [old]
    assert queue.holder(old) == b"reaper"


def test_a_look_finds_what_nobody_has_behind_however_many_that_are_held(queue: Queue) -> None:
    queue.add(3000, 3000)
    queue.take("alive", 2999)
    (lost,) = queue.take("dead")
    queue.age("dead", lost)
    seconds, _ = queue(("TIME",))
    found = queue(scripts.look(queue.stream, "reaper", 4.0, 1, int(seconds) + 5))
    assert [entry[0] for entry in found] == [lost]


def test_a_look_takes_no_more_than_it_may_and_the_next_one_the_rest(queue: Queue) -> None:
    queue.add(9, 5)
    ids = queue.take("dead", 5)
    for id_ in ids:
        queue.age("dead", id_)
    seconds, _ = queue(("TIME",))
    taken = [queue(scripts.look(queue.stream, "reaper", 4.0, 2, int(seconds) + 5)) for _ in range(3)]
    assert [[entry[0] for entry in found] for found in taken] == [ids[:2], ids[2:4], ids[4:]]


def test_what_was_deleted_under_a_lost_consumer_is_nothing_to_take_over(queue: Queue) -> None:
    queue.add(9)
    (id_,) = queue.take("dead")
    queue.age("dead", id_)
    queue(("XDEL", queue.stream, id_))
    seconds, _ = queue(("TIME",))
    assert queue(scripts.look(queue.stream, "reaper", 4.0, 2, int(seconds) + 5)) == []
    assert queue.holder(id_) is None


def test_a_look_that_comes_too_late_takes_nothing(queue: Queue) -> None:
    queue.add(9)
    (old,) = queue.take("one")
    queue.age("one", old)
    seconds, _ = queue(("TIME",))
    assert queue(scripts.look(queue.stream, "reaper", 4.0, 9, int(seconds) - 1)) == []
    assert queue.holder(old) == b"one"


def test_without_a_stream_there_is_nothing_to_renew_to_look_for_or_to_dismiss(queue: Queue) -> None:
    seconds, _ = queue(("TIME",))
    assert queue(scripts.renew(queue.stream, ["one"])) == [0]
    assert queue(scripts.look(queue.stream, "reaper", 1.0, 9, int(seconds) + 5)) == []
    assert queue(scripts.dismiss(queue.stream, ["one"])) is None
    assert queue(scripts.sweep(queue.stream, 0.0)) is None


def test_who_has_nothing_and_was_not_seen_for_long_is_swept_out(queue: Queue) -> None:
    queue.add(9)
    (id_,) = queue.take("busy")
    queue(("XGROUP", "CREATECONSUMER", queue.stream, GROUP, "gone"))
    queue(scripts.sweep(queue.stream, 60.0))
    assert len(queue(("XINFO", "CONSUMERS", queue.stream, GROUP))) == 2  # a moment ago both were there
    queue(scripts.sweep(queue.stream, -1.0))
    found = queue(("XINFO", "CONSUMERS", queue.stream, GROUP))
    assert [consumer[1] for consumer in found] == [b"busy"]
    assert queue.holder(id_) == b"busy"


def test_only_who_has_nothing_is_dismissed(queue: Queue) -> None:
    queue.add(9)
    (id_,) = queue.take("busy")
    queue(("XGROUP", "CREATECONSUMER", queue.stream, GROUP, "idle"))
    queue(scripts.dismiss(queue.stream, ["busy", "idle"]))
    found = queue(("XINFO", "CONSUMERS", queue.stream, GROUP))
    assert [consumer[1] for consumer in found] == [b"busy"]
    assert queue.holder(id_) == b"busy"
