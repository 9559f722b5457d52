"""Workers behind a broker die, stop and hang, alone and with their supervisor: what becomes of what they had.

Killed processes are those that a test started. What a worker had begun is known from the file that its nodes write.
"""

import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from time import monotonic
from typing import NamedTuple

import httpx
import pytest

from offloop.transports.redis.desk import READ_AHEAD
from offloop.transports.redis.names import LEASE
from offloop.transports.redis.reaping import GRACE as LOOKS_AFTER
from tests.e2e.programs.clustered import RECORD
from tests.e2e.test_promises import verdicts
from tests.support.broker import Broker, broker
from tests.support.cluster import Callers, host, post, said, wait_served, wait_until, web
from tests.support.command import Worker
from tests.support.gate import Gate
from tests.support.server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

LOST = (502, "worker-lost", True)
KNOWN = 2.0
"""Seconds within which what a dead worker had begun has its answer."""
GRACE = 1.0
"""OFFLOOP_KILL_GRACE here."""
STALL = 0.2


class Site(NamedTuple):
    broker: Broker
    web: Server
    host: Worker


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


@pytest.fixture(scope="module")
def site(gate: Gate, redis: Broker) -> Iterator[Site]:
    with host(redis.url, kill_grace=GRACE) as workers, web(redis.url) as process:
        yield Site(redis, process, workers)


def where(gate: Gate, name: str) -> list[int]:
    """The processes in which a node has begun under that name, in order."""
    found = (re.fullmatch(rf"{name} began in (\d+)", note) for note in list(gate.notes))
    return [int(match.group(1)) for match in found if match]


def staffed(site: Site, workers: int) -> None:
    """Until so many are ready, and idle as the web process sees it."""
    site.host.wait_probe("/metrics", 200, rf'state="idle"}} {workers}\.0')
    wait_until(
        lambda: httpx.get(f"{site.web.url}/offloop/status").json()["workers"]["idle"] == workers, "they are announced"
    )


def test_what_a_killed_worker_had_begun_is_answered_at_once(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    took = []
    for number in range(3):
        staffed(site, 2)
        name = f"killed {number}"
        held = callers.submit(post, site.web, "/patient", name=name)
        gate.wait(name)
        killed = monotonic()
        os.kill(where(gate, name)[0], signal.SIGKILL)
        assert said(held.result()) == LOST
        took.append(monotonic() - killed)
    assert min(took) < 0.25  # some 50 ms, where the machine has nothing else to do
    assert max(took) < KNOWN
    staffed(site, 2)
    site.broker.until(lambda length: length == 0, "XLEN", "test:requests:default")


def test_what_hangs_is_ended_though_the_broker_has_gone(gate: Gate, callers: ThreadPoolExecutor) -> None:
    with broker() as redis, host(redis.url, kill_grace=GRACE, workers=1) as workers, web(redis.url) as process:
        held = callers.submit(post, process, "/hang", name="alone")
        gate.wait("alone")
        (hung,) = where(gate, "alone")
        redis.stop()
        assert said(held.result())[1] == "deadline-exceeded"
        wait_until(lambda: hung not in workers.workers(), "the worker that hangs is no more")
        redis.start()
        wait_served(process)


def test_under_load_only_what_a_killed_worker_had_begun_is_lost(site: Site) -> None:
    staffed(site, 2)
    with Callers(site.web.port, seconds=0.01) as load:
        for number in range(3):
            load.wait(number=50 * (number + 1))
            alive = site.host.workers()
            os.kill(next(call.pid for call in reversed(load.calls) if call.pid in alive), signal.SIGKILL)
            wait_until(lambda: len(site.host.workers()) == 2, "another has taken its place")
        load.wait(number=50, after=load.calls[-1].at)
    counted = load.counted()
    assert set(counted) <= {"ok", "worker-lost"}, counted
    assert counted["worker-lost"] <= 3
    assert max(call.took for call in load.calls) < KNOWN
    assert load.stall() < STALL
    staffed(site, 2)


def test_an_idempotent_request_runs_again_elsewhere(site: Site, gate: Gate, callers: ThreadPoolExecutor) -> None:
    staffed(site, 2)
    held = callers.submit(post, site.web, "/again", name="twice")
    gate.wait("twice")
    os.kill(where(gate, "twice")[0], signal.SIGKILL)
    gate.wait("twice", 2)  # one of them is the dead one's
    gate.open("twice")
    assert said(held.result())[1] == "ok"
    first, second = where(gate, "twice")
    assert first != second


def test_what_kills_three_workers_becomes_a_dead_letter(site: Site, gate: Gate) -> None:
    staffed(site, 2)
    before = site.broker.cli("XLEN", "test:dead:default")
    answer = post(site.web, "/poison", name="poison")
    assert said(answer) == LOST
    wait_until(lambda: gate.notes.count("poison") >= 3, "it has begun three times")
    assert site.broker.cli("XLEN", "test:dead:default") == before + 1
    staffed(site, 2)
    assert gate.notes.count("poison") == 3


def test_a_stopped_worker_is_killed_and_what_it_had_is_answered(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    staffed(site, 2)
    held = callers.submit(post, site.web, "/patient", name="stopped")
    gate.wait("stopped")
    stopped = monotonic()
    os.kill(where(gate, "stopped")[0], signal.SIGSTOP)
    assert said(held.result()) == LOST
    assert monotonic() - stopped < LEASE + KNOWN  # until its lease has run out, or the supervisor has looked twice
    staffed(site, 2)


def test_a_node_that_outlasts_its_deadline_and_the_grace_is_killed_and_replaced(
    site: Site, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    staffed(site, 2)
    asked = monotonic()
    held = callers.submit(post, site.web, "/hang", name="hang")
    gate.wait("hang")
    (pid,) = where(gate, "hang")
    assert said(held.result()) == (504, "deadline-exceeded", True)
    assert monotonic() - asked < 0.5 + 0.5
    took = wait_until(lambda: pid not in site.host.workers(), "it is gone")
    assert took > GRACE / 2
    staffed(site, 2)


def test_the_loss_of_a_whole_host_is_answered_by_the_web_process(
    redis: Broker, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with host(redis.url, "alone") as workers, web(redis.url, "alone") as process:
        wait_served(process)
        wait_reaping(process)
        held = [callers.submit(post, process, "/patient", name="alone") for _ in range(2)]
        gate.wait("alone", 2)
        killed = monotonic()
        kill_all(workers)
        assert [said(each.result()) for each in held] == [LOST] * 2
        assert monotonic() - killed < KNOWN


@pytest.mark.slow
def test_when_the_last_host_is_lost_requests_are_refused_once_that_is_certain(redis: Broker) -> None:
    with host(redis.url, "last") as workers, web(redis.url, "last") as process:
        wait_served(process)
        kill_all(workers)
        took = wait_until(lambda: said(post(process, "/work", timeout=0.2))[1] == "backend-unavailable", "it is known")
        assert took < 10
        assert httpx.get(f"{process.url}/offloop/readyz").status_code == 200


def wait_reaping(process: Server) -> None:
    """Until it has been linked for so long that it looks after lost workers."""
    since = monotonic()
    wait_until(lambda: monotonic() - since > LOOKS_AFTER + 0.5, "it has been linked for long enough")


def kill_all(workers: Worker) -> None:
    """At once: the supervisor first, so that it answers for nobody."""
    pids = workers.workers()
    workers.process.kill()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.slow
def test_a_lost_hosts_idempotent_work_runs_on_another(redis: Broker, gate: Gate, callers: ThreadPoolExecutor) -> None:
    with (
        host(redis.url, "pair", workers=1, ready=False) as one,
        host(redis.url, "pair", workers=1) as other,
        web(redis.url, "pair") as process,
    ):
        wait_served(process)
        wait_reaping(process)
        held = [callers.submit(post, process, "/again", name="pair") for _ in range(2)]
        gate.wait("pair", 2)
        victims = one.workers()
        kill_all(one)
        gate.open("pair")
        gate.wait("pair")
        gate.open("pair")
        answers = [each.result() for each in held]
        assert [said(answer)[1] for answer in answers] == ["ok"] * 2
        assert not {answer.json()["pid"] for answer in answers} & victims
        assert other.workers() >= {answer.json()["pid"] for answer in answers}


# ---- paused


class Begun(NamedTuple):
    number: int
    at: float
    pid: int


def begun(record: Path) -> list[Begun]:
    words = (line.split() for line in record.read_text().splitlines())
    return [Begun(int(number), float(at), int(pid)) for number, at, pid in words]


@pytest.mark.slow
def test_a_host_that_was_paused_begins_nothing_late(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    """Supervisor and workers are stopped together, for longer than a lease and than a deadline, and continued."""
    record, name = tmp_path / "begun", "paused"
    with ExitStack() as stack:
        options = {RECORD: record, "kill_grace": 10}
        paused, other = (stack.enter_context(host(redis.url, name, ready=False, **options)) for _ in range(2))
        process = stack.enter_context(web(redis.url, name))
        for one in (paused, other):
            one.wait_probe("/readyz", 200)
        wait_served(process)
        wait_reaping(process)
        record.unlink()
        pids = {paused.process.pid, *paused.workers()}
        with Callers(process.port, callers=10, seconds=0.004) as load:
            load.wait(number=100)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            stopped = monotonic()
            wait_until(lambda: monotonic() - stopped > 3.0, "leases and deadlines have passed")
            continued = monotonic()
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            load.wait(number=100, after=continued + 2)
        ended = {call.number: call for call in load.calls}
        lines = begun(record)
        assert [number for number, count in Counter(line.number for line in lines).items() if count > 1] == []
        late = [line for line in lines if line.at > ended[line.number].at + ended[line.number].took]
        assert late == []
        assert set(load.counted()) <= {"ok", "worker-lost", "deadline-exceeded"}, load.counted()
        assert set(load.counted(continued + 2)) == {"ok"}
        assert load.stall() < STALL


# ---- recycled


@pytest.mark.slow
def test_recycling_loses_nothing(redis: Broker, gate: Gate) -> None:
    with host(redis.url, "recycled", max_requests=40) as workers, web(redis.url, "recycled") as process:
        wait_served(process)
        with Callers(process.port, seconds=0.002) as load:
            wait_until(
                lambda: len({call.pid for call in list(load.calls)}) >= 5, f"five have served\n{workers.log}", 40
            )
        assert not load.faults
        assert set(load.counted()) == {"ok"}


# ---- at most once


class Killer(threading.Thread):
    """Kills a worker now and then; seeded, as far as the machine lets it."""

    def __init__(self, hosts: list[Worker], load: Callers, seed: int, every: tuple[int, int]) -> None:
        super().__init__()
        self.kills = 0
        self.over = threading.Event()
        self._hosts, self._load, self._every = hosts, load, every
        self._random = Random(seed)

    def run(self) -> None:
        until = self._random.randint(*self._every)
        while not self.over.wait(0.005):
            if len(self._load.calls) < until:
                continue
            until = len(self._load.calls) + self._random.randint(*self._every)
            seen = {call.pid for call in self._load.calls[-20:]}
            there = sorted(pid for host in self._hosts for pid in host.workers() if pid in seen)
            if len(there) > 1:
                self.kills += 1
                os.kill(self._random.choice(there), signal.SIGKILL)


def at_most_once(
    redis: Broker,
    folder: Path,
    seed: int,
    requests: int,
    *,
    seconds: float = 0.003,
    every: tuple[int, int] = (40, 120),
    lost_with_each: int = 1,
) -> None:
    record, namespace = folder / f"begun {seed}", f"once-{seed}"
    logs = str(folder / f"{seed} {{host}} {{pid}}.jsonl")
    with ExitStack() as stack:
        options = {"event_log": logs, RECORD: record}
        hosts = [stack.enter_context(host(redis.url, namespace, ready=False, **options)) for _ in range(2)]
        processes = [stack.enter_context(web(redis.url, namespace, event_log=logs)) for _ in range(2)]
        for one in hosts:
            one.wait_probe("/readyz", 200)
        for process in processes:
            wait_served(process)
        record.unlink()
        ports = [process.port for process in processes]
        with Callers(*ports, path="/patient", callers=12, seconds=seconds, total=requests) as load:
            killer = Killer(hosts, load, seed, every)
            killer.start()
            load.finish(stop=False)
            killer.over.set()
            killer.join()
        assert not load.faults
        for process in processes:
            process.signal(signal.SIGTERM)
            process.wait()
        for one in hosts:
            one.signal(signal.SIGTERM)
            one.wait()
    ended = {call.number: call.reason for call in load.calls}
    counts = Counter(line.number for line in begun(record))
    struck = [number for number, reason in ended.items() if reason == "worker-lost"]
    assert sorted(ended) == list(range(requests))
    # Where all are away for long, because their like takes long to start: refused or taken back, and never begun.
    unbegun = {"backend-unavailable", "expired-in-queue", "queue-full"}
    assert set(ended.values()) <= {"ok", "worker-lost"} | unbegun
    assert [number for number, reason in ended.items() if reason in unbegun and counts[number]] == []
    assert [number for number, count in counts.items() if count > 1] == []
    assert [number for number, reason in ended.items() if reason == "ok" and not counts[number]] == []
    assert killer.kills >= requests / every[1] / 2
    assert len(struck) <= killer.kills * lost_with_each
    held = verdicts(*folder.glob(f"{seed} *.jsonl"))
    assert {promise for promise, verdict in held.items() if verdict == "violated"} == set()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_request_runs_twice_however_workers_die(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    at_most_once(redis, tmp_path, seed=1, requests=600)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_quick_request_runs_twice_and_none_is_lost_that_was_only_read_ahead(
    redis: Broker, gate: Gate, tmp_path: Path
) -> None:
    """With a worker go the one that it runs and those that have ended, but of which nobody has been told."""
    at_most_once(redis, tmp_path, 3, 6000, seconds=0.0, every=(300, 900), lost_with_each=1 + READ_AHEAD)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_runs_twice_however_workers_die_for_long(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    at_most_once(redis, tmp_path, seed=2, requests=20_000)
