"""Every end that a request may have in a Celery worker: whoever waits is told, and told the truth of whether it began.

Killed processes are those that a test started. What has begun is known from the file that the nodes write.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from celery import Celery

from tests.e2e.programs.clustered import RECORD
from tests.e2e.test_promises import verdicts
from tests.support.broker import Broker, broker
from tests.support.celery import Pool, Worker, celery, numbers, streaming, wait_idle, web, where
from tests.support.cluster import Callers, post, said, wait_served, wait_until
from tests.support.command import offloop
from tests.support.gate import Gate
from tests.support.server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

LOST = (502, "worker-lost", True)
KNOWN = 2.0
"""Seconds within which what a killed child had begun has its answer."""
GRACE = 1.0
"""OFFLOOP_KILL_GRACE here."""
STALL = 0.2


class Site(NamedTuple):
    broker: Broker
    url: str
    namespace: str
    web: Server
    worker: Worker
    record: Path


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


@contextmanager
def a_site(
    redis: Broker, folder: Path, pool: Pool = "prefork", *args: str, loops: int = 2, **more: Any
) -> Iterator[Site]:
    """A web process, and a worker with two loops."""
    url, namespace, record = f"celery+{redis.url}", f"test-{uuid4().hex[:8]}", folder / "begun"
    settings = {"kill_grace": GRACE} | more
    with (
        celery(url, namespace, *args, pool=pool, concurrency=loops, **{RECORD: record}, **settings) as worker,
        web(url, namespace, **settings) as process,
    ):
        wait_idle(process, loops)
        yield Site(redis, url, namespace, process, worker, record)


@pytest.fixture(scope="module")
def site(gate: Gate, redis: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with a_site(redis, tmp_path_factory.mktemp("ends")) as site:
        yield site


def whole(site: Site) -> None:
    """Until the pool has both of its processes, and nothing runs."""
    wait_until(lambda: len(site.worker.children()) == 2, "there are two")
    wait_idle(site.web, 2)


def task(site: Site, place: str) -> str:
    """The id of the one task that is there: `active` or `waiting`, in the queue."""
    if place == "waiting":
        (entry,) = site.broker.until(lambda entries: len(entries) == 1, "LRANGE", site.namespace, 0, -1)
        return str(json.loads(entry)["headers"]["id"])
    found: list[dict[str, Any]] = []
    inspect = control(site).inspect(destination=[site.worker.name], timeout=5)
    wait_until(lambda: found.extend((inspect.active() or {}).get(site.worker.name, [])) or found, "it is seen")
    return str(found[0]["id"])


def control(site: Site) -> Any:
    return Celery(broker=site.broker.url, set_as_current=False).control


# ---- the node's own


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_node_does_is_answered_as_in_every_mode(redis: Broker, gate: Gate, tmp_path: Path, pool: Pool) -> None:
    with a_site(redis, tmp_path, pool) as site:
        before = site.worker.children()
        occupied = post(site.web, "/failing", how="problem")
        assert said(occupied) == (409, "occupied", True)
        assert (occupied.json()["detail"], occupied.json()["by"]) == ("by somebody else", "them")
        for how in ("raise", "exit"):
            failed = post(site.web, "/failing", how=how)
            assert said(failed) == (500, "node-failed", True)
            assert b"secret" not in failed.body
        assert said(post(site.web, "/failing", how="silence")) == (500, "no-reply", True)
        invalid = post(site.web, "/failing")
        assert (invalid.status, invalid.json()["detail"][0]["loc"]) == (422, ["body", "how"])
        assert said(post(site.web, "/work"))[1] == "ok"
        assert site.worker.children() == before


# ---- a child of the pool


def test_what_a_killed_child_had_begun_is_answered_at_once(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    took = []
    for number in range(3):
        whole(site)
        name = f"killed {number}"
        held = callers.submit(post, site.web, "/patient", name=name)
        gate.wait(name)
        killed = monotonic()
        os.kill(where(gate, name)[0], signal.SIGKILL)
        assert said(held.result()) == LOST
        took.append(monotonic() - killed)
    assert min(took) < 0.5  # some 70 ms, where the machine has nothing else to do
    assert max(took) < KNOWN
    whole(site)


@pytest.mark.slow
def test_the_other_child_goes_on(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    whole(site)
    held = [callers.submit(post, site.web, "/patient", name=name) for name in ("struck", "spared")]
    gate.wait("struck")
    gate.wait("spared")
    os.kill(where(gate, "struck")[0], signal.SIGKILL)
    assert said(held[0].result()) == LOST
    gate.open("spared")
    assert said(held[1].result()) == (200, "ok", True)
    whole(site)


@pytest.mark.slow
def test_under_load_only_what_killed_children_had_begun_is_lost(site: Site) -> None:
    whole(site)
    with Callers(site.web.port, seconds=0.01, path="/patient") as load:
        for number in range(3):
            load.wait(number=50 * (number + 1))
            alive = site.worker.children()
            os.kill(next(call.pid for call in reversed(load.calls) if call.pid in alive), signal.SIGKILL)
            wait_until(lambda: len(site.worker.children()) == 2, "another has taken its place")
        load.wait(number=50, after=load.calls[-1].at)
    counted = load.counted()
    assert set(counted) <= {"ok", "worker-lost"}, counted
    assert counted["worker-lost"] <= 3
    assert load.stall() < STALL
    whole(site)


def test_an_idempotent_request_begins_again_and_another_does_not(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    whole(site)
    held = callers.submit(post, site.web, "/again", name="twice", number=7070)
    gate.wait("twice")
    os.kill(where(gate, "twice")[0], signal.SIGKILL)
    gate.wait("twice", 2)  # one of them is the dead one's
    gate.open("twice")
    answer = held.result()
    assert said(answer)[1] == "ok"
    first, second = where(gate, "twice")
    assert answer.json()["pid"] == second != first
    held = callers.submit(post, site.web, "/patient", name="once", number=7071)
    gate.wait("once")
    os.kill(where(gate, "once")[0], signal.SIGKILL)
    assert said(held.result()) == LOST
    whole(site)
    assert said(post(site.web, "/work"))[1] == "ok"
    assert Counter(numbers(site.record))[7070] == 2
    assert Counter(numbers(site.record))[7071] == 1


@pytest.mark.slow
def test_what_kills_every_worker_begins_three_times(site: Site, gate: Gate) -> None:
    whole(site)
    answer = post(site.web, "/poison", name="poison")
    assert said(answer) == LOST
    assert gate.notes.count("poison") == 3
    assert answer.json()["retry_safe"] is True
    whole(site)
    assert gate.notes.count("poison") == 3


def test_a_stream_whose_child_is_killed_ends_and_does_not_begin_again(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    whole(site)
    with streaming(site.web, "/steps", name="torn", number=3) as answer:
        gate.wait("torn 1")
        active = control(site).inspect(destination=[site.worker.name], timeout=5).active()
        (running,) = active[site.worker.name]
        os.kill(running["worker_pid"], signal.SIGKILL)
        text = "".join(answer.iter_text())
    assert '"number":1' in text.replace(" ", "")
    assert "worker-lost" in text
    whole(site)
    assert "torn closed" not in gate.notes


def test_a_node_that_outlasts_its_deadline_and_the_grace_is_killed_and_replaced(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    """Celery's hard time limit, which every message of ours names."""
    whole(site)
    asked = monotonic()
    held = callers.submit(post, site.web, "/hang", name="hang")
    gate.wait("hang")
    (pid,) = where(gate, "hang")
    assert said(held.result()) == (504, "deadline-exceeded", True)
    assert monotonic() - asked < 0.5 + 0.5
    wait_until(lambda: pid not in site.worker.children(), "it is gone")
    assert monotonic() - asked > 0.5 + GRACE / 2
    site.worker.wait_line(r"Hard time limit \(1\.\d+s\) exceeded")
    whole(site)
    assert said(post(site.web, "/work"))[1] == "ok"


def test_the_grace_counts_from_the_deadline_however_long_it_waited(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """It waits behind another for most of its time, in Celery's hands; then it begins, and does not end."""
    within, waits = 4.0, 2.0
    with a_site(redis, tmp_path, loops=1) as site:
        first = callers.submit(post, site.web, "/patient", name="first")
        gate.wait("first")
        asked_at = monotonic()
        second = callers.submit(post, site.web, "/patient", within, name="second")
        wait_until(lambda: monotonic() > asked_at + waits, "most of its time has passed")
        gate.open("first")
        gate.wait("second")
        (pid,) = where(gate, "second")
        assert said(first.result()) == (200, "ok", True)
        assert said(second.result()) == (504, "deadline-exceeded", True)
        wait_until(lambda: pid not in site.worker.children(), "it is gone")
        assert within + GRACE - 0.1 < monotonic() - asked_at < within + GRACE + waits - 0.5


@pytest.mark.slow
def test_recycled_children_lose_nothing(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    with a_site(redis, tmp_path, "prefork", "--max-tasks-per-child", "30") as site:
        with Callers(site.web.port, seconds=0.002, path="/patient") as load:
            wait_until(lambda: len({call.pid for call in list(load.calls)}) >= 5, "five have served", 40)
        assert not load.faults
        assert set(load.counted()) == {"ok"}


# ---- revoked


def test_what_is_revoked_before_it_runs_is_refused(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    whole(site)
    held = [callers.submit(post, site.web, "/patient", name="ahead") for _ in range(2)]
    gate.wait("ahead", 2)
    revoked = callers.submit(post, site.web, "/patient", name="revoked", number=7080)
    control(site).revoke(task(site, "waiting"), destination=[site.worker.name], reply=True, timeout=5)
    gate.open("ahead")
    assert [said(each.result()) for each in held] == [(200, "ok", True)] * 2
    assert said(revoked.result()) == (503, "backend-unavailable", False)
    assert said(post(site.web, "/work"))[1] == "ok"
    assert 7080 not in numbers(site.record)


@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_what_is_revoked_and_terminated_while_it_runs_is_lost(
    site: Site, gate: Gate, callers: ThreadPoolExecutor, how: str
) -> None:
    whole(site)
    held = callers.submit(post, site.web, "/again", name=f"ended by {how}", number=7081)
    gate.wait(f"ended by {how}")
    control(site).revoke(task(site, "active"), terminate=True, signal=how, destination=[site.worker.name])
    gate.wait(f"ended by {how}", 2)  # idempotent: it begins again
    gate.open(f"ended by {how}")
    assert said(held.result()) == (200, "ok", True)
    held = callers.submit(post, site.web, "/patient", name=f"over by {how}")
    gate.wait(f"over by {how}")
    control(site).revoke(task(site, "active"), terminate=True, signal=how, destination=[site.worker.name])
    assert said(held.result()) == LOST
    whole(site)


# ---- the whole worker


@pytest.mark.slow
def test_a_warm_shutdown_finishes_what_runs_and_leaves_what_waits(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with a_site(redis, tmp_path) as site:
        running = [callers.submit(post, site.web, "/patient", name="last") for _ in range(2)]
        gate.wait("last", 2)
        waiting = callers.submit(post, site.web, "/patient", number=5)
        task(site, "waiting")
        site.worker.signal(signal.SIGTERM)
        site.worker.wait_line("Warm shutdown")
        with celery(site.url, site.namespace, **{RECORD: site.record}):
            assert said(waiting.result()) == (200, "ok", True)
            gate.open("last")
            assert [said(each.result()) for each in running] == [(200, "ok", True)] * 2
            assert site.worker.wait() == 0


@pytest.mark.slow
def test_a_cold_shutdown_is_told_of_and_nothing_begins_twice(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Celery gives back what its children run, and ends them: whoever waits is not left to the deadline."""
    with a_site(redis, tmp_path) as site:
        running = [callers.submit(post, site.web, "/patient", name="cold", number=number) for number in (1, 2)]
        gate.wait("cold", 2)
        struck = monotonic()
        site.worker.signal(signal.SIGQUIT)
        answers = [said(each.result()) for each in running]
        assert answers == [LOST] * 2
        assert monotonic() - struck < 10  # of twenty that they may wait
        site.worker.wait()
        with celery(site.url, site.namespace, **{RECORD: site.record}):
            wait_served(site.web)
            wait_until(lambda: redis.cli("LLEN", site.namespace) == 0, "what was given back has been dealt with")
            assert said(post(site.web, "/work", number=3))[1] == "ok"
        begun = Counter(numbers(site.record))
        assert (begun[1], begun[2], begun[3]) == (1, 1, 1)


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_whole_is_answered_for_by_the_deadline(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path, pool: Pool
) -> None:
    """What it had is given to another, as the broker does after its time-out, and does not begin twice."""
    with a_site(redis, tmp_path, pool) as site:
        running = [callers.submit(post, site.web, "/patient", 2.0, name="whole", number=number) for number in (1, 2)]
        gate.wait("whole", 2)
        waiting = callers.submit(post, site.web, "/patient", 10.0, number=3)
        task(site, "waiting")
        site.worker.strike()
        left = redis.keys(f"{site.namespace}:*")
        assert f"{site.namespace}:workers:{site.namespace}" in left
        assert [key for key in left if redis.cli("PTTL", key) == -1] == [], "all of it ends by itself"
        with celery(site.url, site.namespace, pool=pool, **{RECORD: site.record}):
            assert said(waiting.result()) == (200, "ok", True)
            given = given_back(site)
            wait_until(lambda: redis.cli("LLEN", site.namespace) == 0, "all have been taken")
            assert said(post(site.web, "/work", number=4))[1] == "ok"
            assert [said(each.result()) for each in running] == [(504, "deadline-exceeded", True)] * 2
            assert given >= 2
            assert said(post(site.web, "/work", number=5))[1] == "ok"
        assert Counter(numbers(site.record)) == dict.fromkeys((1, 2, 3, 4, 5), 1)


def given_back(site: Site) -> int:
    """What kombu does after its visibility time-out of an hour: messages that were not acknowledged lie there again."""
    held = site.broker.cli("HGETALL", "unacked")
    for value in held[1::2]:
        message, _, queue = json.loads(value)
        if queue == site.namespace:
            message["properties"]["delivery_info"]["redelivered"] = True
            site.broker.cli("RPUSH", queue, json.dumps(message))
    return len(held) // 2


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_worker_gives_back_and_takes_again_does_not_begin_twice(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor, tmp_path: Path, pool: Pool
) -> None:
    """Its connections break while a node runs: Celery puts the message back, and takes it once more."""
    with a_site(redis, tmp_path, pool) as site:
        both = [callers.submit(post, site.web, "/patient", name="both", number=number) for number in (1, 2)]
        gate.wait("both", 2)  # every loop has a connection of its own now
        gate.open("both")
        assert [said(each.result()) for each in both] == [(200, "ok", True)] * 2
        held = callers.submit(post, site.web, "/patient", name="given back", number=3)
        gate.wait("given back")
        redis.cli("CLIENT", "KILL", "TYPE", "normal")
        site.worker.wait_line(r"Restoring 1 unacknowledged message|re-establish the connection")
        wait_until(lambda: len(re.findall(r"Task \S+ received", site.worker.log)) >= 4, "it was taken once more")
        wait_until(
            lambda: gate.holds("given back") > 1 or said(post(site.web, "/work"))[1] == "ok", "it has been dealt with"
        )
        assert gate.holds("given back") == 1
        gate.open("given back")
        assert said(held.result()) == (200, "ok", True)
        wait_served(site.web)
        assert Counter(numbers(site.record))[3] == 1


# ---- what cannot run


def test_a_service_that_cannot_be_built_fails_requests_and_says_so(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    with a_site(redis, tmp_path, TEST_TOOL="broken") as site:
        assert said(post(site.web, "/tooled")) == (500, "node-failed", False)
        site.worker.wait_line("a service could not be built")
        site.worker.wait_line("the tool is broken")


def test_a_program_with_faults_ends_the_worker_with_all_of_them(redis: Broker) -> None:
    with celery(
        f"celery+{redis.url}", "broken", ready=False, TEST_PROGRAM="tests.e2e.programs.celeried_faulty"
    ) as worker:
        assert worker.wait() != 0
        worker.wait_line(r"PreflightError: preflight found \d faults")
        worker.wait_line(r"celeried_faulty\.py:\d+")
        told = offloop("check", "tests.e2e.programs.celeried_faulty", env={})
        for line in told.stdout.splitlines():
            if ".py:" in line:
                assert line.strip() in worker.log
        assert "ready." not in worker.log


def test_a_package_that_is_not_there_ends_the_worker_with_a_line(redis: Broker) -> None:
    with celery(f"celery+{redis.url}", "missing", ready=False, TEST_PROGRAM="tests.nowhere") as worker:
        assert worker.wait() != 0
        worker.wait_line(r"^offloop: .*tests\.nowhere")


def test_settings_of_another_mode_are_said_to_be_without_effect(redis: Broker) -> None:
    with celery(f"celery+{redis.url}", "unused", workers=3, max_requests=5) as worker:
        worker.wait_line("OFFLOOP_WORKERS does not apply")
        worker.wait_line("OFFLOOP_MAX_REQUESTS does not apply")


def test_a_mode_with_workers_of_its_own_is_refused_by_the_web_side(redis: Broker) -> None:
    env = {"OFFLOOP_MODE": "process"}
    with pytest.raises(AssertionError, match="OFFLOOP_MODE is cluster then"), web(f"celery+{redis.url}", "mode", **env):
        pass


# ---- at most once


def at_most_once(broker_url: str, folder: Path, seed: int, requests: int) -> None:
    record, namespace, url = folder / f"begun {seed}", f"once-{seed}", f"celery+{broker_url}"
    logs = str(folder / f"{seed} {{host}} {{pid}}.jsonl")
    random, kills = Random(seed), 0
    with ExitStack() as stack:
        options = {"event_log": logs, RECORD: record}
        workers = [stack.enter_context(celery(url, namespace, ready=False, **options)) for _ in range(2)]
        for worker in workers:
            worker.wait_ready()
        processes = [stack.enter_context(web(url, namespace, event_log=logs)) for _ in range(2)]
        for process in processes:
            wait_idle(process, 4)
        ports = [process.port for process in processes]
        with Callers(*ports, path="/patient", callers=12, seconds=0.003, total=requests) as load:
            for until in range(100, requests - 50, 150):
                load.wait(number=until, timeout=50)
                seen = {call.pid for call in load.calls[-40:]}
                there = sorted(pid for worker in workers for pid in worker.children() if pid in seen)
                kills += 1
                os.kill(random.choice(there), signal.SIGKILL)
            load.finish(stop=False)
        assert not load.faults
        for process in processes:
            process.signal(signal.SIGTERM)
            process.wait()
        for worker in workers:
            worker.stop()
    ended = {call.number: call.reason for call in load.calls}
    counts = Counter(numbers(record))
    assert sorted(ended) == list(range(requests))
    assert set(ended.values()) <= {"ok", "worker-lost"}, Counter(ended.values())
    assert [number for number, count in counts.items() if count > 1] == []
    assert [number for number, reason in ended.items() if reason == "ok" and not counts[number]] == []
    assert 1 <= sum(reason == "worker-lost" for reason in ended.values()) <= kills
    held = verdicts(*folder.glob(f"{seed} *.jsonl"))
    assert {promise for promise, verdict in held.items() if verdict == "violated"} == set()
    assert held[6] == "held"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_request_runs_twice_however_children_die(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    at_most_once(redis.url, tmp_path, seed=1, requests=1200)
