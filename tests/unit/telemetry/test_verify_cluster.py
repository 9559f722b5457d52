"""The promises of a cluster, from the logs of its web and worker processes together."""

from typing import Any

import pytest

from offloop.telemetry.verify import Report, check
from tests.support.histories import Lines, Story, number

WORKER = "host/worker-0"
LOOP = {"dequeue", "start", "finish"}


class Cluster(Story):
    """One web process and one worker; what the broker has judged is told when it has answered."""

    def __init__(self, queue_limit: int = 100, queues: int = 1) -> None:
        super().__init__("cluster", queue_limit)
        self.told[0] |= {"namespace": "mine", "queues": queues}
        self.say(0.1, "worker_up", worker=WORKER)

    def asked(self, rid: str, t: float, judged: float, timeout: float = 10.0, **policy: Any) -> float:
        """Arrived at `t`, and admitted as was known at `judged`."""
        deadline = t + timeout
        self.say(t, "arrive", rid)
        self.say(t, "waiter_add", rid, deadline=deadline)
        self.say(t, "enqueue", rid, deadline=deadline)
        self.say(t, "admit", rid, deadline=deadline, limit=self.max_in_flight, written=judged, **policy)
        return deadline

    def served(self, rid: str, t: float, begins: float, ends: float, **policy: Any) -> None:
        deadline = self.asked(rid, t, t + 0.002, **policy)
        self.start(rid, begins, deadline, worker=WORKER)
        self.finish(rid, ends, worker=WORKER)
        self.end(rid, ends + 0.002, "ok", True, begun=begins)

    def logs(self, *, close: bool = True) -> Lines:
        """What both have written: each line at its time, but for what was told later."""
        told = sorted(self.told, key=lambda line: line.get("written", line["t"]))
        end = {"t": told[-1]["t"] + 1.0, "rid": "", "kind": "close"}
        web = [line for line in told if line["kind"] not in LOOP] + [end] * close
        opened = {"t": 0.05, "rid": "", "kind": "open", "mode": "worker", "worker": WORKER, "namespace": "mine"}
        worker = [opened, *(line for line in told if line["kind"] in LOOP)]
        return [*number(web), *number(worker, pid=8, run="r1")]


def judged(story: Cluster) -> Report:
    return check(story.logs())


def day() -> Cluster:
    story = Cluster()
    story.served("a", 1.0, 1.1, 1.2)
    story.served("b", 1.0, 1.3, 1.4)
    story.say(1.5, "arrive", "c")
    story.say(1.5, "waiter_add", "c", deadline=11.5)
    story.say(1.501, "reject", "c", outcome="queue-full")
    story.say(1.501, "waiter_del", "c", deadline=11.5)
    story.drain(20.0, end=20.0)
    return story


def test_the_logs_of_both_hold_what_can_be_told() -> None:
    states = {verdict.promise: verdict.state for verdict in judged(day()).verdicts}
    assert {promise for promise, state in states.items() if state == "held"} == {1, 2, 3, 4, 5, 6, 8}


def test_a_worker_that_was_killed_has_left_out_nothing() -> None:
    story = day()
    deadline = story.asked("z", 2.0, 2.002)
    story.start("z", 2.1, deadline, worker=WORKER)
    story.end("z", 2.3, "worker-lost", True)
    report = judged(story)
    assert not report.violated
    assert report[5].state == report[4].state == "held"


@pytest.mark.parametrize(("outcome", "ends", "violated"), [
    ("worker-lost", 2.3, ()), ("worker-lost", 4.3, (9,)), ("deadline-exceeded", 2.3, (9,)),
])  # fmt: skip
def test_a_reply_may_be_lost_with_its_worker_though_nobody_saw_that_one_go(
    outcome: str, ends: float, violated: tuple[int, ...]
) -> None:
    story = day()
    deadline = story.asked("z", 2.0, 2.002)
    story.start("z", 2.1, deadline, worker=WORKER)
    story.finish("z", 2.2, worker=WORKER)
    story.end("z", ends, outcome, True)
    report = judged(story)
    assert 9 in report.violated or not violated, report.lines()
    assert violated or not report.violated, report.lines()


def test_what_began_before_its_admission_was_told_is_in_order() -> None:
    story = day()
    deadline = story.asked("z", 2.0, 2.2)
    story.start("z", 2.1, deadline, worker=WORKER)
    story.finish("z", 2.15, worker=WORKER)
    story.end("z", 2.21, "ok", True, begun=2.1)
    assert not judged(story).violated


def test_a_worker_without_a_log_leaves_it_open() -> None:
    story = day()
    story.say(3.0, "worker_up", worker="host/worker-1")
    report = judged(story)
    assert report[4].state == report[9].state == "not checkable"
    assert any("not all beginnings" in why for why in report[4].why)


def test_nobody_who_has_come_leaves_it_open() -> None:
    story = day()
    story.told = [line for line in story.told if line["kind"] != "worker_up"]
    assert judged(story)[4].state == "not checkable"


# ---- over Celery


class OverCelery(Cluster):
    """The worker is announced by its parent process; what runs requests are processes that are named after it."""

    def __init__(self, queue_limit: int = 100) -> None:
        super().__init__(queue_limit)
        self.told[0] |= {"mode": "celery", "queues": 0}
        self.told[-1]["worker"] = "host-1"

    def logs(self, *, close: bool = True) -> Lines:
        lines = super().logs(close=close)
        return [line | {"worker": "host-1.2-ab"} if line.get("worker") == WORKER else line for line in lines]


def test_the_processes_of_a_celery_worker_are_known_by_its_name() -> None:
    story = OverCelery()
    story.served("a", 1.0, 1.1, 1.2)
    assert judged(story)[4].state == "held"
    story.say(3.0, "worker_up", worker="host-3")
    assert judged(story)[4].state == "not checkable"


def test_over_celery_each_web_process_has_a_limit_of_its_own() -> None:
    first, second = OverCelery(queue_limit=1), OverCelery(queue_limit=1)
    first.served("a", 1.0, 2.0, 2.1)
    second.served("b", 1.0, 2.0, 2.1)
    both = [*first.logs(), *({**line, "pid": line["pid"] + 10, "run": f"{line['run']}0"} for line in second.logs())]
    assert check(both)[4].state == "held"
    first.served("c", 1.5, 2.2, 2.3)
    assert judged(first).violated == (4,)


# ---- the shared queue


@pytest.mark.parametrize(("limit", "queues", "violated"), [(3, 1, ()), (2, 1, (4,)), (1, 3, ())])
def test_more_wait_than_the_cluster_allows(limit: int, queues: int, violated: tuple[int, ...]) -> None:
    story = Cluster(limit, queues)
    story.lag(1.5, 1.5)  # what is told next says by when an admission was
    for rid in "abc":
        story.served(rid, 1.0, 2.0, 2.1)
    report = judged(story)
    assert report.violated == violated, report.lines()


def test_what_may_have_been_taken_already_is_not_counted() -> None:
    story = Cluster(queue_limit=1)
    for place, rid in enumerate("abc"):
        story.served(rid, 1.0 + place, 1.05 + place, 1.3 + place)
        story.served(f"{rid}2", 1.02 + place, 1.15 + place, 1.3 + place)
    assert judged(story)[4].state == "held"


def test_two_web_processes_share_the_limit_of_their_namespace_and_two_namespaces_do_not() -> None:
    for namespace, violated in (("mine", (4,)), ("another", ())):
        first, second = Cluster(queue_limit=1), Cluster(queue_limit=1)
        second.told[0]["namespace"] = namespace
        for story in (first, second):
            story.lag(1.5, 1.5)
        first.served("a", 1.0, 2.0, 2.1)
        second.served("b", 1.0, 2.0, 2.1)
        others = [line | {"pid": line["pid"] + 10} for line in second.logs()]
        assert check([*first.logs(), *others]).violated == violated


def test_an_endpoint_of_which_all_was_refused_has_no_limit_to_break() -> None:
    story = day()
    story.say(1.6, "waiter_add", "d", endpoint="other", deadline=11.6)
    story.say(1.6, "arrive", "d", endpoint="other")
    story.say(1.7, "reject", "d", endpoint="other", outcome="queue-full")
    story.say(1.7, "waiter_del", "d", endpoint="other", deadline=11.6)
    assert judged(story)[4].state == "held"


# ---- beginnings


@pytest.mark.parametrize(("after", "violated"), [(0.09, ()), (0.11, (5,))])
def test_a_withdrawal_takes_its_way_to_the_broker_and_no_longer(after: float, violated: tuple[int, ...]) -> None:
    story = day()
    deadline = story.asked("z", 2.0, 2.002)
    story.say(2.5, "disconnect", "z", outcome="disconnect")
    story.end("z", 2.5, "cancelled", None)
    story.start("z", 2.5 + after, deadline, worker=WORKER)
    assert judged(story).violated == violated


def test_what_was_said_never_to_begin_has_not_begun_by_so_much_as_a_moment() -> None:
    story = day()
    deadline = story.asked("z", 2.0, 2.002)
    story.say(2.5, "disconnect", "z", outcome="disconnect")
    story.end("z", 2.5, "cancelled", False)
    story.start("z", 2.501, deadline, worker=WORKER)
    assert judged(story).violated == (5,)


@pytest.mark.parametrize(
    ("read", "starts", "violated"),
    [(0.03, 0.02, ()), (0.03, 0.031, (5,)), (0.06, 0.055, (5,)), (-0.03, -0.02, (5,)), (0.0, -0.001, ())],
)
def test_a_deadline_is_the_loops_own_reading_as_far_as_clocks_may_differ(
    read: float, starts: float, violated: tuple[int, ...]
) -> None:
    story = day()
    deadline = story.asked("z", 2.0, 2.002, timeout=1.0)
    story.start("z", deadline + starts, deadline + read, worker=WORKER)
    story.end("z", deadline + 0.03, "deadline-exceeded", None)
    report = judged(story)
    assert report.violated == violated, report.lines()


def test_a_later_attempt_may_read_its_deadline_a_little_later() -> None:
    for later, violated in ((0.04, ()), (0.06, (6,))):
        story = day()
        deadline = story.asked("z", 2.0, 2.002, idempotent=True)
        story.start("z", 2.1, deadline, worker=WORKER)
        story.start("z", 4.1, deadline + later, attempt=2, worker=WORKER)
        story.finish("z", 4.2, attempt=2, worker=WORKER)
        story.end("z", 4.21, "ok", True, attempt=2)
        assert judged(story).violated == violated


def test_a_workers_death_is_not_seen_here() -> None:
    story = day()
    story.say(3.0, "worker_lost", worker=WORKER, outcome="stopped")
    assert judged(story)[7].state == "not checkable"
