"""A host with more workers than CPUs: quick work stays with as few as keep up, and nobody waits for who is held up."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest

from offloop.cpus import usable_cpus
from tests.e2e.test_cluster_deaths import where
from tests.support.broker import broker
from tests.support.cluster import DEADLINE, Callers, host, post, wait_until, web
from tests.support.gate import Gate
from tests.support.server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every loop waits at the broker")

WORKERS = 4
IN_A_ROW = 10 * WORKERS
"""Answers from one worker that nobody gets where all take turns, or two."""
SEIZED = 4.0
"""Seconds for which the GIL of a worker that sits is held; the others must not wait so long."""


@contextmanager
def cpus(count: int) -> Iterator[None]:
    """So many, for what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def cluster(count: int) -> Iterator[Server]:
    """A web process, and a host whose workers may use so many CPUs."""
    with broker() as redis, ExitStack() as staff:
        with cpus(count):
            workers = staff.enter_context(host(redis.url, workers=WORKERS))
        with web(redis.url) as process:
            workers.wait_probe("/metrics", 200, rf'state="idle"}} {WORKERS}\.0')
            yield process


@pytest.fixture(scope="module")
def server(gate: Gate) -> Iterator[Server]:
    with cluster(1) as one:
        yield one


def settled(server: Server) -> int:
    """Until one worker has answered so many in a row; which."""
    pids: list[int] = []

    def sits() -> bool:
        answer = post(server, "/work")
        assert answer.status == 200, answer
        pids.append(answer.json()["pid"])
        return len(pids) >= IN_A_ROW and len(set(pids[-IN_A_ROW:])) == 1

    wait_until(sits, "one worker sits")
    return pids[-1]


def test_quick_work_stays_with_one_worker(server: Server) -> None:
    assert settled(server)


@pytest.mark.skipif(usable_cpus() < 2, reason="no two of them may use a CPU each")
def test_one_more_works_while_one_cannot_keep_up(gate: Gate) -> None:
    with cluster(2) as server:
        settled(server)
        with Callers(server.port, callers=12, seconds=0.0, burns=0.0015) as callers:
            wait_until(lambda: len({call.pid for call in callers.calls[-10:]}) > 1, "two of them work")
        settled(server)
        assert all(call.status == 200 for call in callers.calls), callers.calls


def test_work_that_waits_is_done_by_all(server: Server) -> None:
    """As many at once as there are workers, though each is quick."""
    settled(server)
    with ThreadPoolExecutor(WORKERS) as callers:

        def everybody() -> bool:
            answers = callers.map(lambda _: post(server, "/work", seconds=0.0015), range(20 * WORKERS))
            return len({answer.json()["pid"] for answer in answers}) == WORKERS

        wait_until(everybody, "all of them work")


def test_a_worker_that_sits_and_is_held_up_holds_up_nobody(
    server: Server, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    settled(server)
    seized = callers.submit(post, server, "/seize", name="seized", seconds=SEIZED)
    wait_until(lambda: where(gate, "seized"), "one of them holds its GIL")
    since = monotonic()
    (held,) = where(gate, "seized")
    assert post(server, "/work").json()["pid"] != held
    assert monotonic() - since < SEIZED / 2
    assert settled(server) != held
    assert seized.result(DEADLINE).json()["pid"] == held


def test_a_worker_that_sits_and_dies_is_followed_by_one_that_stood(server: Server) -> None:
    before = settled(server)
    os.kill(before, signal.SIGKILL)
    since = monotonic()
    answers = [post(server, "/work") for _ in range(3)]
    assert monotonic() - since < DEADLINE / 4
    assert all(answer.status in (200, 502) for answer in answers), answers
    assert settled(server) != before
