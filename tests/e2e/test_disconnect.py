"""A caller that goes away: its waiter is freed, queued work never begins, running work is told."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Wire

APPS = ["tests.e2e.programs.app:app", "tests.e2e.programs.app:behind"]


@pytest.fixture(scope="module", params=APPS, ids=["bare", "behind BaseHTTPMiddleware"])
def alone(request: pytest.FixtureRequest, mode: Mode, gate: Gate) -> Iterator[Server]:
    """A server with one loop."""
    with serving(request.param, env=mode.env(1)) as server:
        yield server


def in_flight(server: Server, endpoint: str) -> int:
    return int(httpx.get(f"{server.url}/offloop/status").json()["endpoints"][endpoint]["in_flight"])


def wait_in_flight(server: Server, endpoint: str, count: int, timeout: float = 10.0) -> float:
    """Seconds until that many wait; fails after `timeout`."""
    began = time.monotonic()
    with httpx.Client(base_url=server.url) as client:
        while time.monotonic() - began < timeout:
            if client.get("/offloop/status").json()["endpoints"][endpoint]["in_flight"] == count:
                return time.monotonic() - began
    raise AssertionError(f"{endpoint} never had {count} in flight")


def test_a_caller_that_leaves_frees_its_waiter_within_a_tenth_of_a_second(alone: Server, gate: Gate) -> None:
    wire = Wire(alone.port)
    wire.post("/gated", {"name": "leaving"})
    gate.wait("leaving")
    wait_in_flight(alone, "gated", 1)
    wire.close()
    freed = wait_in_flight(alone, "gated", 0)
    gate.open("leaving")
    assert freed < 0.1 + 0.15  # the second part is the looking itself, on a busy machine


def test_queued_work_of_a_caller_that_left_never_begins(alone: Server, gate: Gate) -> None:
    with Wire(alone.port) as first, Wire(alone.port) as third:
        second = Wire(alone.port)
        first.post("/gated", {"name": "first"})
        gate.wait("first")
        second.post("/gated", {"name": "never"})
        wait_in_flight(alone, "gated", 2)
        second.close()
        wait_in_flight(alone, "gated", 1)
        third.post("/gated", {"name": "third"})
        gate.open("first")
        gate.wait("third")  # what came after it has begun
        assert gate.holds("never") == 0
        gate.open("third")
        assert [first.answer().status, third.answer().status] == [200, 200]


def test_a_running_node_sees_that_its_caller_has_gone(alone: Server, gate: Gate) -> None:
    name = f"patient {alone.port}"
    wire = Wire(alone.port)
    wire.post("/patient", {"name": name})
    gate.wait_note(f"{name} began")
    wire.close()
    gate.wait_note(f"{name} saw it")


def test_a_generator_is_closed_at_its_yield_on_its_own_thread(alone: Server, gate: Gate) -> None:
    name = f"parts {alone.port}"
    wire = Wire(alone.port)
    wire.post("/assemblies", {"name": name})
    gate.wait(f"{name} 1")
    wire.close()
    wait_in_flight(alone, "assemble", 0)
    gate.open(f"{name} 1")
    gate.wait_note(f"{name} closed")
    assert gate.holds(f"{name} 2") == 0


def test_work_that_is_to_finish_runs_on_when_its_caller_has_gone(alone: Server, gate: Gate) -> None:
    name = f"steadfast {alone.port}"
    wire = Wire(alone.port)
    wire.post("/steadfast", {"name": name})
    gate.wait(name)
    wire.close()
    gate.open(name)
    gate.wait_note(f"{name} ended")
    wait_in_flight(alone, "steadfast", 0)


def test_a_caller_that_leaves_in_the_middle_of_its_upload_frees_its_place(alone: Server) -> None:
    wire = Wire(alone.port)
    wire.head("POST /echo", content_type="application/json", content_length="100")
    wire.send(b'{"n":')
    wait_in_flight(alone, "echo", 1)
    wire.close()
    wait_in_flight(alone, "echo", 0)
    assert httpx.get(f"{alone.url}/offloop/status").json()["queue_depth"] == 0
