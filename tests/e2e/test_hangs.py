"""A worker process hangs or is stopped: it is killed and replaced. One that only works hard is left alone."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import httpx
import pytest

from tests.e2e.test_deaths import (
    alive,
    callers,
    fatal,
    lost,
    post,
    pytestmark,
    restarts,
    session,
    status,
    wait_idle,
    wait_until,
    workers_of,
)
from tests.support.gate import Gate
from tests.support.server import Server

__all__ = ["callers", "pytestmark"]  # fixtures and marks that hold here as well

STOPPED_FOR = 3.0
"""Seconds within which a stopped worker's request is answered."""


def child_of(gate: Gate, name: str) -> int:
    """The pid of the process that the node of that name has started."""
    pattern = re.compile(rf"{name} child (\d+)")
    found = [match for note in gate.notes if (match := pattern.fullmatch(note))]
    return int(found[-1].group(1))


def test_a_node_that_hangs_is_killed_with_all_that_its_worker_has_started(
    gate: Gate, callers: ThreadPoolExecutor
) -> None:
    with fatal(1, OFFLOOP_THREADS="2", OFFLOOP_KILL_GRACE="1.5") as server:
        beside = callers.submit(post, server, "/gated", name="beside")
        gate.wait("beside")
        began = monotonic()
        answer = post(server, "/hang", name="hung")
        took = monotonic() - began
        assert (answer.status, answer.json()["reason"]) == (504, "deadline-exceeded")
        assert 0.5 <= took < 1.5
        assert status(server)["workers"]["overdue"] == 1
        gate.wait("hung")
        child = child_of(gate, "hung")
        assert alive(child)
        lost(beside.result())
        assert 1.9 <= monotonic() - began < 4.0
        wait_until(lambda: not alive(child), "what the node has started has ended")
        wait_idle(server, 1)
        assert restarts(server, "wedged") == 1
        server.wait_line(r"^worker 0 \(pid \d+\) was killed: a node ran past its deadline and the grace after it")
        assert post(server, "/echo").status == 200
        assert "sleep" not in session(server.process.pid).values()


@pytest.fixture(scope="module")
def server(gate: Gate) -> Iterator[Server]:
    with fatal(3) as server:
        yield server


def test_a_stopped_worker_is_replaced_and_to_continue_it_later_changes_nothing(
    server: Server, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    wait_idle(server, 3)
    before = restarts(server, "suspended")
    held = callers.submit(post, server, "/gated", name="stopped")
    gate.wait("stopped")
    pid = busy_one(server, gate)
    began = monotonic()
    os.kill(pid, signal.SIGSTOP)
    lost(held.result())
    assert monotonic() - began < STOPPED_FOR
    wait_until(lambda: not alive(pid), "it has ended")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    wait_idle(server, 3)
    assert restarts(server, "suspended") == before + 1
    server.wait_line(r"^worker \d \(pid \d+\) was killed: it had been stopped, as by SIGSTOP; it was running gated")
    gate.open("stopped")


def busy_one(server: Server, gate: Gate) -> int:
    """The pid of the one worker of three that does not answer."""
    names = [f"idle {number}" for number in range(2)]
    with ThreadPoolExecutor(2) as others:
        held = [others.submit(post, server, "/echo", name=name) for name in names]
        for name in names:
            gate.wait(name)  # each on a worker of its own, for neither ends before both have begun
        for name in names:
            gate.open(name)
        idle = {answer.result().json()["pid"] for answer in held}
    (pid,) = set(workers_of(server).values()) - idle
    return pid


def test_what_a_stopped_worker_was_sent_and_did_not_read_runs_elsewhere_and_nobody_else_waits(
    server: Server, callers: ThreadPoolExecutor
) -> None:
    wait_idle(server, 3)
    victim = workers_of(server)[0]
    os.kill(victim, signal.SIGSTOP)
    size = 32 * 2**20
    body = bytes(size)
    headers = {"content-type": "application/octet-stream"}
    sent = [
        callers.submit(httpx.post, f"{server.url}/weigh", content=body, headers=headers, timeout=60) for _ in range(4)
    ]
    slowest, pings = 0.0, 0
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while alive(victim) or not all(caller.done() for caller in sent):
            began = monotonic()
            assert client.get("/ping").status_code == 200
            slowest = max(slowest, monotonic() - began)
            pings += 1
    answers = [caller.result() for caller in sent]
    assert [(answer.status_code, answer.json()["number"]) for answer in answers] == [(200, size)] * 4
    assert victim not in {answer.json()["pid"] for answer in answers}
    assert pings > 5
    assert slowest < 1.0
    wait_idle(server, 3)


def works_hard(server: Server, gate: Gate, callers: ThreadPoolExecutor, seconds: float) -> None:
    """Two workers keep their interpreters to themselves; the third serves; nobody is replaced."""
    wait_idle(server, 3)
    before, notes = workers_of(server), len(gate.notes)
    spins = [
        callers.submit(post, server, "/spin", name="spin", how=how, seconds=seconds) for how in ("python", "native")
    ]
    wait_until(lambda: gate.notes[notes:].count("spin began") == 2, "both have begun")
    until, slowest, served = monotonic() + seconds - 1, 0.0, 0
    while monotonic() < until:
        began = monotonic()
        assert post(server, "/echo").status == 200
        slowest = max(slowest, monotonic() - began)
        served += 1
    assert not any(spin.done() for spin in spins)
    assert [spin.result().status for spin in spins] == [200, 200]
    assert workers_of(server) == before
    assert served > 5
    assert slowest < 1.0


def test_a_worker_that_works_hard_for_four_seconds_is_left_alone(
    server: Server, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    works_hard(server, gate, callers, 4)


@pytest.mark.slow
def test_a_worker_that_works_hard_for_ten_seconds_is_left_alone(
    server: Server, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    works_hard(server, gate, callers, 10)
