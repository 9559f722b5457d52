"""Stopping: real signals to a real uvicorn that has running, queued, uploading and idle connections, in every mode."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.conftest import APP
from tests.e2e.test_rloop import wait_in_flight, wait_unready
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.stalls import Stalls
from tests.support.wire import Wire

SIGNALS = [signal.SIGTERM, signal.SIGINT]


class Busy(NamedTuple):
    """A server with one of each kind of connection."""

    server: Server
    name: str
    running: Wire
    queued: Wire
    uploading: Wire
    idle: Wire

    def finish_upload(self) -> None:
        self.uploading.send(b'"n": 5}')


@contextmanager
def busy(gate: Gate, mode: Mode, name: str, budget: float, group: bool = False) -> Iterator[Busy]:
    """One loop, held by the first; the second waits behind it; the third has sent half its body; the fourth idles."""
    with (
        serving(APP, env=mode.env(1, drain_timeout=budget), group=group) as server,
        Wire(server.port) as running,
        Wire(server.port) as queued,
        Wire(server.port) as uploading,
        Wire(server.port) as idle,
    ):
        running.post("/gated", {"name": name})
        gate.wait(name)
        queued.post("/gated", {"name": f"{name} next"})
        uploading.head("POST /echo", content_type="application/json", content_length="8")
        uploading.send(b"{")
        idle.head("GET /ping")
        assert idle.answer().status == 200
        wait_in_flight(server, "gated", 2)
        wait_in_flight(server, "echo", 1)
        yield Busy(server, name, running, queued, uploading, idle)


@cache
def exit_code_of_uvicorn(number: signal.Signals) -> int:
    """What the same uvicorn, without offloop, exits with."""
    with serving("tests.e2e.programs.plain:app") as server:
        server.signal(number)
        return server.wait()


@pytest.mark.parametrize("number", SIGNALS)
def test_everything_that_was_admitted_is_answered_before_the_server_goes(
    mode: Mode, gate: Gate, number: signal.Signals
) -> None:
    with busy(gate, mode, f"graceful {number}", budget=15) as b:
        b.server.signal(number)
        wait_unready(b.server)
        assert httpx.get(f"{b.server.url}/ping").status_code == 200  # other routes serve meanwhile
        refused = httpx.post(f"{b.server.url}/echo", json={"n": 1})
        assert (refused.status_code, refused.json()["reason"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"]
        b.finish_upload()
        gate.open(b.name)
        gate.wait(f"{b.name} next")
        gate.open(f"{b.name} next")
        assert b.running.answer().json() == {"name": b.name, "word": "go"}
        assert b.queued.answer().status == 200
        assert b.uploading.answer().json()["n"] == 5
        assert b.idle.closed()
        assert b.server.wait() == exit_code_of_uvicorn(number)
        b.server.wait_gone()


@pytest.mark.parametrize("number", SIGNALS)
def test_at_the_end_of_the_budget_each_one_left_gets_its_own_answer(
    mode: Mode, gate: Gate, number: signal.Signals
) -> None:
    with busy(gate, mode, f"cut {number}", budget=1) as b, Stalls() as stalls:
        sent = time.monotonic()
        b.server.signal(number)
        running, queued, uploading = b.running.answer(), b.queued.answer(), b.uploading.answer()
        cut = time.monotonic() - sent
        assert (running.status, running.json()["reason"], running.json()["started"]) == (504, "drain-cut", True)
        assert (queued.status, queued.json()["reason"], queued.json()["started"]) == (503, "drain-cut", False)
        assert (uploading.status, uploading.json()["reason"], uploading.json()["started"]) == (503, "drain-cut", False)
        assert queued.headers["retry-after"]
        assert b.idle.closed()
        code = b.server.wait()  # though the node never returned
        gone = time.monotonic() - sent
        assert cut < 1 + 0.25 + 0.5 + stalls.seconds
        assert gone < 1 + 1 + stalls.seconds
        assert code == exit_code_of_uvicorn(number)
        b.server.wait_gone()


def test_a_signal_to_the_whole_group_and_one_more_soon_after_are_one_signal(mode: Mode, gate: Gate) -> None:
    with busy(gate, mode, "group", budget=15, group=True) as b:
        os.killpg(b.server.process.pid, signal.SIGINT)
        wait_unready(b.server)
        os.killpg(b.server.process.pid, signal.SIGTERM)
        assert httpx.get(f"{b.server.url}/ping").status_code == 200
        gate.open(b.name)
        gate.wait(f"{b.name} next")
        gate.open(f"{b.name} next")
        b.finish_upload()
        assert [b.running.answer().status, b.queued.answer().status, b.uploading.answer().status] == [200, 200, 200]
        assert b.server.wait() == exit_code_of_uvicorn(signal.SIGINT)


def test_a_later_second_signal_is_passed_on_at_once(mode: Mode, gate: Gate) -> None:
    with busy(gate, mode, "second", budget=60) as b:
        b.server.signal(signal.SIGTERM)
        wait_unready(b.server)
        later = time.monotonic() + 2.1
        while time.monotonic() < later:
            assert httpx.get(f"{b.server.url}/offloop/readyz").status_code == 503
        b.server.signal(signal.SIGINT)
        b.server.wait_line("Shutting down")
        assert b.idle.closed()


def test_a_drain_that_the_program_began_leaves_the_server_to_its_owner(mode: Mode) -> None:
    with serving("tests.e2e.programs.drainable:app", env=mode.env(1, drain_timeout=5)) as server:
        assert httpx.post(f"{server.url}/drain").status_code == 200
        wait_unready(server)
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).json()["reason"] == "draining"
        assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == exit_code_of_uvicorn(signal.SIGTERM)


def test_an_idle_drain_ends_within_a_tenth_of_a_second(mode: Mode, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with serving(APP, env=mode.env(2, event_log=log)) as server:
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).status_code == 200
        server.signal(signal.SIGTERM)
        server.wait()
    times = {event["kind"]: event["t"] for event in events_of(log)}
    assert times["drain_end"] - times["drain_begin"] < 0.1
    assert times["close"] - times["drain_begin"] < 0.1 + 0.5  # the loops' threads or processes, and the log itself


def test_admission_goes_on_for_the_drain_delay(mode: Mode) -> None:
    with serving(APP, env=mode.env(1, drain_delay=1.0)) as server:
        server.signal(signal.SIGTERM)
        wait_unready(server)
        assert httpx.post(f"{server.url}/echo", json={"n": 3}).json()["n"] == 3
        server.wait()


def events_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]
