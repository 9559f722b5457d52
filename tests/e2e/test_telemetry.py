"""What an operator sees: health, readiness, metrics and status of a real server; and traces that go on in a node;
in every mode.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import APP
from tests.e2e.programs.app import off
from tests.e2e.test_rloop import wait_in_flight, wait_unready
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Wire

NAMES: dict[str, tuple[str, set[str]]] = {
    "offloop_queue_depth": ("gauge", set()),
    "offloop_queue_limit": ("gauge", set()),
    "offloop_in_flight": ("gauge", {"endpoint"}),
    "offloop_in_flight_limit": ("gauge", {"endpoint"}),
    "offloop_requests_total": ("counter", {"endpoint", "outcome"}),
    "offloop_rejected_total": ("counter", {"endpoint", "reason"}),
    "offloop_queue_wait_seconds": ("histogram", {"endpoint"}),
    "offloop_run_seconds": ("histogram", {"endpoint"}),
    "offloop_request_seconds": ("histogram", {"endpoint"}),
    "offloop_late_replies_total": ("counter", set()),
    "offloop_workers": ("gauge", {"state"}),
    "offloop_worker_restarts_total": ("counter", {"reason"}),
    "offloop_event_loop_lag_seconds": ("gauge", set()),
}
OPERATOR = ("/offloop/livez", "/offloop/readyz", "/offloop/metrics", "/offloop/status")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"

Samples = dict[tuple[str, ...], float]


class Metrics:
    """What one server said of itself at one moment."""

    def __init__(self, server: Server) -> None:
        answer = httpx.get(f"{server.url}/offloop/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        self.types: dict[str, str] = {}
        self.labels: dict[str, set[str]] = {}
        self._samples: dict[str, Samples] = {}
        for family in text_string_to_metric_families(answer.text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.types[name] = family.type
            assert family.documentation
            for sample in family.samples:
                self.labels.setdefault(name, set()).update(set(sample.labels) - {"le"})
                self._samples.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value

    def __getitem__(self, name: str) -> Samples:
        """Values by the values of their labels."""
        return self._samples[name]

    def counted(self, name: str) -> Samples:
        """Those that are not zero."""
        return {labels: value for labels, value in self._samples.get(name, {}).items() if value}


def status_of(server: Server) -> dict[str, Any]:
    said: dict[str, Any] = httpx.get(f"{server.url}/offloop/status").json()
    return said


# ---- metrics


@pytest.fixture(scope="module")
def used(mode: Mode, gate: Gate) -> Iterator[Server]:
    """A server that has answered a little of everything, and is at rest."""
    with serving(APP, env=mode.env(2)) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        for n in range(5):
            assert client.post("/echo", json={"n": n}).status_code == 200
        for _ in range(2):
            assert client.post("/echo", json={"n": "many"}).status_code == 422
        for how, status in (("raise", 500), ("exit", 500), ("silence", 500)):
            assert client.post("/failing", json={"how": how}).status_code == status
        for how, status in (("pages", 422), ("pages", 422), ("gone", 410)):
            assert client.post("/refused", json={"how": how}).status_code == status
        assert client.post("/blobs", content=b"x", headers={"content-type": "image/png"}).status_code == 415
        assert client.post("/anything", content=b"x" * (8 * 2**20 + 1)).status_code == 413
        with Wire(server.port) as wire:
            wire.post("/patient", {"name": "counted"})
            gate.wait_note("counted began")
        gate.wait_note("counted saw it")
        wait_in_flight(server, "patient", 0)
        assert client.post("/brief", json={"name": "counted"}).status_code == 504
        gate.wait("counted")
        gate.open("counted")
        # Both nodes replied when nobody waited any more.
        assert any(Metrics(server)["offloop_late_replies_total"][()] == 2 for _ in range(500))
        yield server


def test_every_metric_is_there_with_its_type_and_its_labels(used: Server) -> None:
    said = Metrics(used)
    assert said.types == {name: kind for name, (kind, _) in NAMES.items()}
    never = {"offloop_worker_restarts_total"}  # nothing was restarted here
    assert said.labels == {name: labels for name, (_, labels) in NAMES.items() if name not in never}


def test_the_counts_are_of_what_was_sent(used: Server) -> None:
    said = Metrics(used)
    assert said.counted("offloop_requests_total") == {
        ("echo", "ok"): 5, ("echo", "invalid-payload"): 2,
        ("fail", "node-failed"): 2, ("fail", "no-reply"): 1,
        ("refuse", "too-many-pages"): 2, ("refuse", "gone"): 1,
        ("patient", "cancelled"): 1, ("brief", "deadline-exceeded"): 1,
    }  # fmt: skip
    assert said.counted("offloop_rejected_total") == {
        ("weigh", "unsupported-media-type"): 1, ("weigh_anything", "payload-too-large"): 1,
    }  # fmt: skip
    assert said["offloop_late_replies_total"] == {(): 2}
    assert not said.counted("offloop_worker_restarts_total")


def test_the_histograms_hold_every_request_once(used: Server) -> None:
    said = Metrics(used)
    for endpoint in off.program.endpoints:
        outcomes = {outcome: n for (of, outcome), n in said["offloop_requests_total"].items() if of == endpoint}
        ended = sum(outcomes.values())
        assert said["offloop_request_seconds_count"][endpoint,] == ended
        for name in ("queue_wait", "run"):  # all of them had begun
            assert said[f"offloop_{name}_seconds_count"][endpoint,] == ended
    for name in ("queue_wait", "run", "request"):
        buckets = said[f"offloop_{name}_seconds_bucket"]
        echoed = [value for (endpoint, _), value in buckets.items() if endpoint == "echo"]
        assert echoed == sorted(echoed)
        assert buckets["echo", "+Inf"] == said[f"offloop_{name}_seconds_count"]["echo",] == 7
        assert said[f"offloop_{name}_seconds_sum"]["brief",] >= 0
    assert said["offloop_request_seconds_sum"]["brief",] >= 0.4


def test_the_gauges_are_of_this_moment(used: Server) -> None:
    said = Metrics(used)
    endpoints = off.program.endpoints
    assert said["offloop_queue_depth"] == {(): 0}
    assert said["offloop_queue_limit"] == {(): 100}
    assert said["offloop_in_flight"] == {(name,): 0 for name in endpoints}
    assert said["offloop_in_flight_limit"] == {(name,): of.max_in_flight for name, of in endpoints.items()}
    assert said["offloop_workers"] == {("idle",): 2, ("busy",): 0, ("overdue",): 0, ("wedged",): 0}
    assert said["offloop_event_loop_lag_seconds"][()] >= 0


def test_nothing_that_a_caller_sends_becomes_a_label(used: Server) -> None:
    before = httpx.get(f"{used.url}/offloop/metrics").text.count("\n")
    for n in range(10):
        headers = {"x-request-id": f"label-{n}", "traceparent": TRACEPARENT}
        httpx.post(f"{used.url}/nowhere/{n}", json={"n": n}, headers=headers)
        httpx.post(f"{used.url}/traces", json={"n": n}, headers=headers)
    text = httpx.get(f"{used.url}/offloop/metrics").text
    assert text.count("\n") == before
    assert "label-" not in text
    assert "nowhere" not in text


# ---- status, health and readiness


@pytest.mark.on_one_host("over Redis the loops tell how busy they are now and then")
def test_the_status_of_a_server_at_rest(mode: Mode, used: Server) -> None:
    said = status_of(used)
    endpoints = off.program.endpoints
    assert said == {
        "mode": mode.setting, "state": "serving", "ready": True, "queue_depth": 0, "queue_limit": 100, "queue_bytes": 0,
        "endpoints": {name: {"in_flight": 0, "limit": of.max_in_flight} for name, of in endpoints.items()},
        "workers": {"idle": 2, "busy": 0, "overdue": 0, "wedged": 0}, "refused": 2, "cut": 0,
    }  # fmt: skip


def test_health_and_readiness_of_a_server_at_rest(used: Server) -> None:
    for path, said in (("livez", "alive"), ("readyz", "ready")):
        answer = httpx.get(f"{used.url}/offloop/{path}")
        assert (answer.status_code, answer.json()) == (200, {"status": said})
        assert answer.headers["cache-control"] == "no-store"


def test_before_the_start_the_operator_is_told_so(mode: Mode) -> None:
    with serving(APP, "--lifespan", "off", env=mode.env()) as server:
        assert status_of(server) == {"mode": mode.setting, "state": "new", "ready": False}
        assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
        metrics = httpx.get(f"{server.url}/offloop/metrics")
        assert (metrics.status_code, metrics.content) == (200, b"")
        unready(server, "backend-unavailable")


def unready(server: Server, reason: str) -> None:
    answer = httpx.get(f"{server.url}/offloop/readyz", headers={"x-request-id": "probe"})
    assert (answer.status_code, answer.json()["reason"]) == (503, reason)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "probe"
    assert answer.headers["retry-after"]


def test_readiness_is_false_from_the_instant_in_which_a_drain_begins(mode: Mode) -> None:
    # It goes on admitting for the delay: readiness alone tells a load balancer.
    with (
        serving("tests.e2e.programs.drainable:app", env=mode.env(1, drain_delay=5)) as server,
        Wire(server.port) as wire,
    ):
        wire.head("POST /drain", content_length="0")
        wire.head("GET /offloop/readyz")
        assert wire.answer().status == 200
        refused = wire.answer()
        assert (refused.status, refused.json()["reason"]) == (503, "draining")
        said = status_of(server)
        assert (said["ready"], said["state"]) == (False, "leaving")
        assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).status_code == 200


def test_while_all_loops_are_wedged_the_server_lives_and_is_not_ready(gate: Gate) -> None:
    # In process mode a wedged loop is killed with its process, and its place is taken at once.
    with serving(APP, env=Mode.THREAD.env(1, kill_grace=0.1)) as server:
        assert httpx.get(f"{server.url}/offloop/readyz").status_code == 200
        for held in (1, 2):  # the loop there is, and the fresh one in its place
            assert httpx.post(f"{server.url}/brief", json={"name": "stuck"}, timeout=30).status_code == 504
            gate.wait("stuck", held)
        wait_unready(server)
        unready(server, "backend-unavailable")
        assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
        said = Metrics(server)
        assert said["offloop_workers"] == {("idle",): 0, ("busy",): 0, ("overdue",): 0, ("wedged",): 2}
        assert said["offloop_worker_restarts_total"] == {("wedged",): 1}
        assert said.labels["offloop_worker_restarts_total"] == {"reason"}
        gate.open("stuck")
        wait_ready(server)  # a loop whose node came back after all
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).status_code == 200


def wait_ready(server: Server) -> None:
    for _ in range(2000):
        if httpx.get(f"{server.url}/offloop/readyz").status_code == 200:
            return
    raise AssertionError("readiness stayed false")


@pytest.mark.on_one_host("over Redis the loops tell how busy they are now and then")
def test_the_operator_is_answered_while_every_loop_is_held_and_the_queue_is_full(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(2, queue_limit=3)) as server, ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(5)]
        for wire in wires[:2]:
            wire.post("/gated", {"name": "full"})
        gate.wait("full", 2)
        for wire in wires[2:]:
            wire.post("/gated", {"name": "full"})
        wait_in_flight(server, "gated", 5)
        assert httpx.post(f"{server.url}/echo", json={"n": 1}).json()["reason"] == "queue-full"
        with httpx.Client(base_url=server.url, timeout=5) as client, ThreadPoolExecutor(8) as callers:
            assert set(callers.map(lambda path: client.get(path).status_code, OPERATOR * 10)) == {200}
        said = Metrics(server)
        assert said["offloop_queue_depth"] == said["offloop_queue_limit"] == {(): 3}
        assert said["offloop_in_flight"]["gated",] == 5
        assert said["offloop_workers"]["busy",] == 2
        assert said.counted("offloop_rejected_total") == {("echo", "queue-full"): 1}
        status = status_of(server)
        assert (status["queue_depth"], status["refused"], status["ready"]) == (3, 1, True)
        assert status["queue_bytes"] == 3 * len(json.dumps({"name": "full"}))
        let_on = 0
        while let_on < len(wires):
            gate.wait("full")
            let_on += gate.open("full")
        assert {wire.answer().status for wire in wires} == {200}


# ---- traces


def test_the_callers_trace_and_baggage_reach_a_node(client: httpx.Client) -> None:
    headers = {"traceparent": TRACEPARENT, "baggage": "tenant=ada%20%26%20co,other=1"}
    said = client.post("/traces", json={"n": 1}, headers=headers).json()
    assert said == {"trace_id": TRACE, "span_id": PARENT, "is_remote": True, "tenant": "ada & co"}
    nothing = client.post("/traces", json={"n": 1}).json()
    assert nothing == {"trace_id": "0" * 32, "span_id": "0" * 16, "is_remote": False, "tenant": None}
    assert client.post("/traces", json={"n": 1}, headers={"baggage": "tenant=bob"}).json()["tenant"] == "bob"


def test_a_malformed_trace_harms_nobody(client: httpx.Client) -> None:
    for value in ("00-zz-1-01", "", "ÿ".encode("latin-1"), "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 4000):
        headers = {"traceparent": value, "baggage": value}
        answer = client.post("/traces", json={"n": 1}, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["trace_id"]) == (200, "0" * 32)


def test_where_tracing_is_set_up_the_work_is_a_span_of_the_callers_trace(mode: Mode) -> None:
    with serving("tests.e2e.programs.traced:app", env=mode.env(1)) as server:
        headers = {"traceparent": TRACEPARENT, "x-request-id": "traced"}
        said = httpx.post(f"{server.url}/traces", json={"n": 1}, headers=headers).json()
        assert said["trace_id"] == TRACE
        assert (said["span_id"] != PARENT, said["is_remote"]) == (True, False)
        span = span_of(server, "trace")
        assert span["context"]["trace_id"] == f"0x{TRACE}"
        assert span["context"]["span_id"] == f"0x{said['span_id']}"
        assert span["parent_id"] == f"0x{PARENT}"
        attributes = span["attributes"]
        assert (attributes["offloop.request_id"], attributes["offloop.outcome"]) == ("traced", "ok")
        assert attributes["offloop.endpoint"] == "trace"
        httpx.post(f"{server.url}/refused", json={"how": "gone"})
        refused = span_of(server, "refuse")
        assert (refused["attributes"]["offloop.outcome"], refused["status"]["status_code"]) == ("gone", "ERROR")
        assert refused["parent_id"] is None


def span_of(server: Server, name: str) -> dict[str, Any]:
    span: dict[str, Any] = json.loads(server.wait_line(rf'^(?:\[worker 0\] )?span (.*"name": "{name}".*)').group(1))
    return span
