"""The specification's five test cases, in every mode, with a real server and real clients."""

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.e2e.conftest import APP
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving


def test_rloop_01_blocking_loops_do_not_block_the_acceptance_of_requests(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(2)) as server, ThreadPoolExecutor(4) as callers:
        blocked = [
            callers.submit(httpx.post, f"{server.url}/gated", json={"name": "rloop-01"}, timeout=30) for _ in range(4)
        ]
        gate.wait("rloop-01", 2)  # every loop there is stands still
        assert httpx.get(f"{server.url}/ping").json() == {"ok": True}
        status = httpx.get(f"{server.url}/offloop/status").json()
        assert status["endpoints"]["gated"]["in_flight"] == 4  # four were accepted while two ran
        assert status["queue_depth"] == 2
        gate.open("rloop-01")
        gate.wait("rloop-01", 2)
        gate.open("rloop-01")
        assert [caller.result().status_code for caller in blocked] == [200] * 4


def test_rloop_02_a_graceful_stop_drains_what_is_in_flight_within_its_budget(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(1, drain_timeout=15)) as server, ThreadPoolExecutor(2) as callers:
        running = callers.submit(httpx.post, f"{server.url}/gated", json={"name": "running"}, timeout=30)
        gate.wait("running")
        queued = callers.submit(httpx.post, f"{server.url}/gated", json={"name": "queued"}, timeout=30)
        wait_in_flight(server, "gated", 2)
        server.signal(signal.SIGTERM)
        wait_unready(server)
        refused = httpx.post(f"{server.url}/echo", json={"n": 1})
        assert (refused.status_code, refused.json()["reason"]) == (503, "draining")
        gate.open("running")
        gate.wait("queued")
        gate.open("queued")
        assert [running.result().status_code, queued.result().status_code] == [200, 200]
        assert server.wait() == -signal.SIGTERM


def test_rloop_03_a_time_out_has_its_own_answer_and_leaves_no_waiter(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(1)) as server:
        answer = httpx.post(f"{server.url}/brief", json={"name": "rloop-03"}, timeout=30)
        assert (answer.status_code, answer.json()["reason"]) == (504, "deadline-exceeded")
        assert answer.json()["started"] is True
        assert httpx.get(f"{server.url}/offloop/status").json()["endpoints"]["brief"]["in_flight"] == 0
        gate.wait("rloop-03")
        gate.open("rloop-03")  # its late reply finds nobody, and harms nobody
        assert httpx.post(f"{server.url}/echo", json={"n": 7}).json()["n"] == 7
        assert "offloop_late_replies_total 1" in httpx.get(f"{server.url}/offloop/metrics").text


def test_rloop_04_the_overload_policy_answers_when_limits_are_reached(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(1, queue_limit=2)) as server, ThreadPoolExecutor(8) as callers:
        first = callers.submit(httpx.post, f"{server.url}/gated", json={"name": "rloop-04"}, timeout=30)
        gate.wait("rloop-04")
        queued = [
            callers.submit(httpx.post, f"{server.url}/gated", json={"name": "rloop-04"}, timeout=30) for _ in range(2)
        ]
        wait_in_flight(server, "gated", 3)
        full = httpx.post(f"{server.url}/gated", json={"name": "rloop-04"})
        assert (full.status_code, full.json()["reason"]) == (503, "queue-full")
        assert 1 <= int(full.headers["retry-after"]) <= 30
        for _ in range(3):
            gate.wait("rloop-04")
            gate.open("rloop-04")
        assert {caller.result().status_code for caller in [first, *queued]} == {200}


def test_rloop_05_a_hundred_callers_with_one_label_get_a_hundred_replies_of_their_own(mode: Mode) -> None:
    with (
        serving(APP, env=mode.env()) as server,
        ThreadPoolExecutor(20) as callers,
        httpx.Client(base_url=server.url, headers={"x-request-id": "the-same"}, timeout=30) as client,
    ):
        answers = list(callers.map(lambda n: client.post("/echo", json={"n": n}), range(100)))
    assert [answer.json()["n"] for answer in answers] == list(range(100))
    assert {answer.headers["x-request-id"] for answer in answers} == {"the-same"}
    assert {answer.json()["request_id"] for answer in answers} == {"the-same"}


def wait_in_flight(server: Server, endpoint: str, count: int) -> None:
    """Until that many callers wait; each look is a real request, which the server answers meanwhile."""
    for _ in range(2000):
        if httpx.get(f"{server.url}/offloop/status").json()["endpoints"][endpoint]["in_flight"] == count:
            return
    raise AssertionError(f"{endpoint} never had {count} in flight")


def wait_unready(server: Server) -> None:
    for _ in range(2000):
        if httpx.get(f"{server.url}/offloop/readyz").status_code == 503:
            return
    raise AssertionError("readiness stayed true")
