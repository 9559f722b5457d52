"""Worker processes in their ordinary and extraordinary life: recycled, talkative, out of their minds."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from tests.e2e.programs.fatal import STARTS
from tests.e2e.test_deaths import callers, fatal, lost, post, pytestmark, restarts, status, wait_idle, wait_until
from tests.support.gate import Gate
from tests.support.server import Server
from tests.support.wire import Wire

__all__ = ["callers", "pytestmark"]  # fixtures and marks that hold here as well


@pytest.fixture(scope="module")
def server(gate: Gate) -> Iterator[Server]:
    with fatal(2, OFFLOOP_THREADS="2") as server:
        yield server


# ---- recycling


class Round:
    """What many callers have seen together."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pids: set[int] = set()
        self.statuses: list[int] = []
        self.slowest = 0.0

    def ask(self, wire: Wire, number: int) -> None:
        began = monotonic()
        wire.post("/echo", {"number": number})
        answer = wire.answer()
        self.slowest = max(self.slowest, monotonic() - began)
        self.statuses.append(answer.status)
        assert answer.json()["number"] == number
        self.pids.add(answer.json()["pid"])

    def go(self, requests: int, generations: int) -> None:
        """At least so many requests, until so many workers have been seen."""
        until, pause = monotonic() + 40, threading.Event()
        with Wire(self.server.port) as wire:
            while (requests > 0 or len(self.pids) < generations) and monotonic() < until:
                self.ask(wire, requests)
                requests -= 1
                if requests < 0:
                    pause.wait(0.01)  # leave the machine to the worker that is starting


@pytest.mark.slow
def test_no_request_waits_while_workers_are_recycled(gate: Gate, callers: ThreadPoolExecutor) -> None:
    # Whoever waited for a worker's start would wait for two seconds.
    with fatal(1, OFFLOOP_MAX_REQUESTS="20", **{STARTS: "2"}) as server:
        seen = Round(server)
        for caller in [callers.submit(seen.go, 75, 3) for _ in range(8)]:
            caller.result()
        assert len(seen.statuses) >= 600
        assert set(seen.statuses) == {200}
        assert len(seen.pids) >= 3
        assert seen.slowest < 1.5
        assert restarts(server, "recycled") >= 1
        assert "died" not in server.log


# ---- what cannot be understood


GARBAGE = [("noise", "garbled"), ("long head", "garbled"), ("long body", "garbled"), ("unreadable", "garbled"),
           ("cut short", "garbled"), ("cut short by its end", "died"), ("silence", "silent")]  # fmt: skip


@pytest.mark.parametrize(("how", "reason"), GARBAGE)
def test_a_worker_that_garbles_its_socket_is_killed_and_nobody_else_is_harmed(
    server: Server, gate: Gate, callers: ThreadPoolExecutor, how: str, reason: str
) -> None:
    wait_idle(server, 2)
    before = restarts(server, reason)
    held = [callers.submit(post, server, "/gated", name=f"beside {how}") for _ in range(2)]
    gate.wait(f"beside {how}", 2)
    wait_until(lambda: status(server)["workers"]["busy"] == 2, "each runs one of them")
    lost(post(server, "/garble", how=how, name=how))
    wait_until(lambda: any(caller.done() for caller in held), "what ran beside it has ended")
    gate.open(f"beside {how}")
    assert sorted(caller.result().status for caller in held) == [200, 502]
    assert restarts(server, reason) == before + 1
    if reason == "garbled":
        server.wait_line(r"^worker \d \(pid \d+\) is killed: it sent a ")
    assert post(server, "/echo").status == 200


# ---- what they print and log


def test_what_nodes_print_comes_out_of_the_server_with_the_workers_index(server: Server) -> None:
    wait_idle(server, 2)
    assert post(server, "/say", name="hello").status == 200
    server.wait_line(r"^\[worker \d\] hello on stdout$")
    server.wait_line(r"^\[worker \d\] hello on stderr$")


def test_a_flood_of_log_records_delays_no_reply_and_ends_in_a_count(
    server: Server, gate: Gate, callers: ThreadPoolExecutor
) -> None:
    wait_idle(server, 2)
    flooding = callers.submit(post, server, "/flood", number=20_000)
    gate.wait("the handler")  # it takes no more until the gate opens
    slowest = 0.0
    while not flooding.done():
        began = monotonic()
        assert post(server, "/echo").status == 200
        slowest = max(slowest, monotonic() - began)
    assert flooding.result().status == 200
    assert slowest < 1.0
    gate.open("the handler")
    told = server.wait_line(r"^(\d+) log records of worker-\d were dropped")
    assert 10_000 < int(told.group(1)) < 20_000
