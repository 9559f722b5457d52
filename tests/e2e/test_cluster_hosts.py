"""Several web processes and hosts around one broker: what is answered, bounded, withdrawn, cancelled."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.programs.clustered import FIELD, RECORD
from tests.support.broker import Broker, broker
from tests.support.cluster import Balanced, Callers, host, post, said, wait_served, wait_until, web
from tests.support.command import Worker
from tests.support.gate import Gate
from tests.support.server import Server
from tests.support.stalls import Stalls
from tests.support.wire import Wire

LIMIT = 10
STALL = 0.2


class Site(NamedTuple):
    """Two web processes, and two hosts of one worker each."""

    broker: Broker
    webs: list[Server]
    hosts: list[Worker]


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


@pytest.fixture(scope="module")
def site(gate: Gate, redis: Broker) -> Iterator[Site]:
    with ExitStack() as stack:
        hosts = [stack.enter_context(host(redis.url, workers=1, ready=False)) for _ in range(2)]
        webs = [stack.enter_context(web(redis.url, queue_limit=LIMIT)) for _ in range(2)]
        for process in webs:
            wait_until(lambda process=process: idle(process) == 2, "both hosts are known")  # type: ignore[misc]
        yield Site(redis, webs, hosts)


def idle(process: Server) -> int:
    found: int = httpx.get(f"{process.url}/offloop/status").json()["workers"]["idle"]
    return found


def waiting(redis: Broker, namespace: str) -> int:
    """Requests that are in the stream and were not delivered, at one moment."""
    script = "return redis.call('XLEN', KEYS[1]) - redis.call('XPENDING', KEYS[1], 'workers')[1]"
    found: int = redis.cli("EVAL", script, 1, f"{namespace}:requests:default")
    return found


def test_replies_reach_whoever_asked_and_every_host_has_its_share(site: Site) -> None:
    with Callers(*(process.port for process in site.webs), callers=6, total=400) as load:
        load.finish(stop=False)
    assert not load.faults
    assert load.counted() == {"ok": 400}
    answered = {call.pid for call in load.calls}
    assert len(answered) == 2
    assert all(answered & one.workers() for one in site.hosts)


def test_two_namespaces_on_one_broker_do_not_see_each_other(site: Site, redis: Broker) -> None:
    with host(redis.url, "other", workers=1) as stranger, web(redis.url, "other") as process:
        wait_served(process)
        assert idle(process) == 1
        with (
            Callers(process.port, callers=2, total=60) as theirs,
            Callers(*(each.port for each in site.webs), callers=4, total=120) as ours,
        ):
            theirs.finish(stop=False)
            ours.finish(stop=False)
        assert {call.pid for call in theirs.calls} <= stranger.workers()
        assert not {call.pid for call in ours.calls} & stranger.workers()
    wait_until(lambda: [idle(each) for each in site.webs] == [2, 2], "no stranger is counted, and nothing is left")


def test_the_bound_holds_over_all_web_processes_together(site: Site) -> None:
    over, samples = threading.Event(), list[int]()

    def sample() -> None:
        while not over.is_set():
            samples.append(waiting(site.broker, "test"))

    sampler = threading.Thread(target=sample)
    with Callers(*(process.port for process in site.webs), callers=30, seconds=0.01) as load:
        sampler.start()
        load.wait("queue-full", number=50)
        load.wait(number=200)
    over.set()
    sampler.join()
    assert max(samples) <= LIMIT
    assert max(samples) > LIMIT / 2
    assert set(load.counted()) == {"ok", "queue-full"}
    assert load.stall() < STALL
    assert waiting(site.broker, "test") == 0


def test_what_nobody_has_taken_is_withdrawn_and_never_runs(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    """Without any worker: what times out or is cancelled, its place, and what becomes of it when one comes."""
    record, name = tmp_path / "begun", "vacant"
    with web(redis.url, name, queue_limit=2) as process:
        with Stalls() as stalls, ThreadPoolExecutor(3) as callers:
            held = [callers.submit(post, process, "/work", 0.6, number=number) for number in (1, 2)]
            wait_until(lambda: waiting(redis, name) == 2, "both wait")
            assert said(post(process, "/work", number=3)) == (503, "queue-full", False)
            ends = {said(each.result()) for each in held}
            # A Redis that does not answer within 30 ms leaves open whether it was taken back in time.
            unheard = {(504, "deadline-exceeded", None)} if stalls.seconds else set()
            assert ends - unheard <= {(503, "expired-in-queue", False)}
        wait_until(lambda: waiting(redis, name) == 0, "their places are free")
        with Wire(process.port) as wire:
            wire.post("/work", {"number": 4})
            wait_until(lambda: waiting(redis, name) == 1, "it waits")
        wait_until(lambda: waiting(redis, name) == 0, "its caller has gone, and so has it")
        refused = (503, "backend-unavailable", False)
        took = wait_until(
            lambda: said(post(process, "/work", 0.1, number=5)) == refused, "nobody has been there for 5 s"
        )
        assert took < 7
        assert httpx.get(f"{process.url}/offloop/readyz").status_code == 200
        with host(redis.url, name, workers=1, **{RECORD: record}):
            wait_until(lambda: said(post(process, "/work", number=6))[1] == "ok", "somebody has come")
    assert {int(line.split()[0]) for line in record.read_text().splitlines()} == {6}


def test_a_cancel_reaches_the_worker_that_runs_it(site: Site, gate: Gate) -> None:
    for number, process in enumerate(site.webs):
        name = f"left {number}"
        with Wire(process.port) as wire:
            wire.post("/watchful", {"name": name})
            gate.wait_note(f"{name} began")
        gate.wait_note(f"{name} saw it")
    for process in site.webs:
        wait_until(lambda process=process: idle(process) == 2, "their loops are free again")  # type: ignore[misc]


def test_a_slow_reader_holds_up_its_stream_and_nothing_else(site: Site, gate: Gate) -> None:
    order, stream = {"number": 400, "name": "slow"}, {"accept": "text/event-stream"}

    def made() -> int:
        return sum(note.startswith("slow makes") for note in list(gate.notes))

    with (
        httpx.Client(base_url=site.webs[0].url, timeout=20) as client,
        client.stream("POST", "/parts", json=order, headers=stream) as answer,
    ):
        gate.wait_note("slow makes 14")
        still: list[int] = []
        wait_until(lambda: still.append(made()) or still[-50:] == [made()] * 50, "it makes no more")  # type: ignore[func-returns-value]
        assert made() < 400
        assert said(post(site.webs[1], "/work"))[1] == "ok"
        parts = sum(line.startswith("data:") and '"text"' in line for line in answer.iter_lines())
    assert parts == 400


def test_nobody_waits_behind_a_surprise(redis: Broker, gate: Gate) -> None:
    """What was read ahead, because all of it was quick so far, when one takes long: whoever comes is to have it."""
    name = "surprises"
    with web(redis.url, name) as process, host(redis.url, name, workers=1), ThreadPoolExecutor(1) as caller:
        wait_served(process)
        for number in range(2):
            surprise = f"surprise {number}"
            with Callers(process.port, path="/varied", callers=16, seconds=0.0004) as load:
                load.wait(number=300)
                held = caller.submit(post, process, "/varied", name=surprise)
                gate.wait(surprise)
                with host(redis.url, name, workers=1) as other:
                    load.wait(number=100, after=load.calls[-1].at)
                    load.finish()
                    assert not load.faults  # every caller has had its last answer
                    assert set(load.counted()) == {"ok"}
                    assert not held.done()
                    gate.open(surprise)
                    assert said(held.result())[1] == "ok"
                    other.signal(15)
                    assert other.wait() == 0


def test_a_loop_that_has_ended_tells_so_though_another_goes_on(redis: Broker, gate: Gate) -> None:
    """In a drain, with two loops in one worker."""
    name = "two-loops"
    with (
        host(redis.url, name, workers=1, threads=2) as workers,
        web(redis.url, name) as process,
        ThreadPoolExecutor(2) as callers,
    ):
        wait_served(process)
        first, second = (callers.submit(post, process, "/patient", name=f"{name} {number}") for number in (1, 2))
        for number in (1, 2):
            gate.wait(f"{name} {number}")
        workers.signal(15)
        wait_until(lambda: idle(process) == 0, "it leaves")
        gate.open(f"{name} 1")
        assert said(first.result(timeout=10))[1] == "ok"
        assert not second.done()
        gate.open(f"{name} 2")
        assert said(second.result())[1] == "ok"
        assert workers.wait() == 0


def test_a_rolling_deployment_under_load_loses_nothing(redis: Broker, gate: Gate, tmp_path: Path) -> None:
    """The same endpoint with another field: each finds its own workers, whoever else is there. New workers come first,
    then web processes are replaced, and last the old workers go; the load never ends, and begins anew nowhere.
    """
    name, record = "rolling", tmp_path / "begun"
    with ExitStack() as stack:
        old_host = stack.enter_context(host(redis.url, name, workers=1, **{RECORD: record}))
        old = stack.enter_context(web(redis.url, name))
        wait_served(old)
        new_host = stack.enter_context(host(redis.url, name, workers=1, ready=False, **{FIELD: "1", RECORD: record}))
        new = stack.enter_context(web(redis.url, name, **{FIELD: "1"}))
        wait_served(new)
        record.unlink()
        with Balanced(old.port, new.port, callers=4) as load:
            load.wait(number=50)
            before = len(load.calls)
            old.signal(2)
            old.wait()
            load.wait(number=50, after=load.calls[-1].at)
            old_host.signal(15)
            assert old_host.wait() == 0
            load.wait(number=50, after=load.calls[-1].at)
        assert not load.faults
        assert set(load.counted()) == {"ok"}
        numbers = list(range(len(load.calls)))
        assert sorted(call.number for call in load.calls) == numbers
        assert sorted(int(line.split()[0]) for line in record.read_text().splitlines()) == numbers  # and each once
        assert not {call.pid for call in load.calls[:before]} & new_host.workers()
        assert {call.pid for call in load.calls[-50:]} <= new_host.workers()


def test_a_host_that_drains_under_load_loses_nothing(redis: Broker, gate: Gate) -> None:
    name = "drained"
    with (
        host(redis.url, name, workers=1) as leaves,
        host(redis.url, name, workers=1) as stays,
        web(redis.url, name) as process,
    ):
        wait_until(lambda: idle(process) == 2, "both are known")
        there = leaves.workers()
        with Callers(process.port, callers=6) as load:
            wait_until(lambda: there & {call.pid for call in list(load.calls)}, "it has its share")
            leaves.signal(15)
            assert leaves.wait() == 0
            load.wait(number=50, after=load.calls[-1].at)
        assert not load.faults
        assert set(load.counted()) == {"ok"}
        assert {call.pid for call in load.calls[-20:]} <= stays.workers()
