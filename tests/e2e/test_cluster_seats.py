"""A host with more workers than CPUs: quick work stays with a few, and nobody waits for those when they are held up."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

import pytest

from tests.support.broker import broker
from tests.support.cluster import DEADLINE, host, post, wait_until, web
from tests.support.gate import Gate
from tests.support.server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every loop waits at the broker")

WORKERS = 4
IN_A_ROW = 5 * WORKERS
"""Answers from one worker that nobody gets where all take turns."""
SEIZED = 4.0
"""Seconds for which the GIL of a worker that sits is held; the others must not wait so long."""


@contextmanager
def one_cpu() -> Iterator[None]:
    """For what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def server(gate: Gate) -> Iterator[Server]:
    with broker() as redis:
        with one_cpu():
            staff = host(redis.url, workers=WORKERS)
            workers = staff.__enter__()
        try:
            with web(redis.url) as process:
                workers.wait_probe("/metrics", 200, rf'state="idle"}} {WORKERS}\.0')
                yield process
        finally:
            staff.__exit__(None, None, None)


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


def test_quick_work_stays_with_as_many_workers_as_there_are_cpus(server: Server) -> None:
    assert settled(server) == settled(server)


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
    before = settled(server)
    seized = callers.submit(post, server, "/seize", name="seized", seconds=SEIZED)
    gate.wait_note(f"seized began in {before}")
    since = monotonic()
    assert post(server, "/work").json()["pid"] != before
    assert monotonic() - since < SEIZED / 2
    assert settled(server) != before
    assert seized.result(DEADLINE).json()["pid"] == before


def test_a_worker_that_sits_and_dies_is_followed_by_one_that_stood(server: Server) -> None:
    before = settled(server)
    os.kill(before, signal.SIGKILL)
    since = monotonic()
    answers = [post(server, "/work") for _ in range(3)]
    assert monotonic() - since < DEADLINE / 4
    assert all(answer.status in (200, 502) for answer in answers), answers
    assert settled(server) != before
