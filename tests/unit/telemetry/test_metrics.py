import threading

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from offloop.events import Event
from offloop.telemetry.metrics import CONTENT_TYPE, Metrics

NOW = {
    "queue_depth": 3,
    "queue_limit": 100,
    "endpoints": {"read": {"in_flight": 2, "limit": 32}, "keywords": {"in_flight": 0, "limit": 100}},
    "workers": {"idle": 1, "busy": 2},
    "lag": 0.004,
}


def terminal(endpoint: str = "read", outcome: str = "ok", **times: float) -> Event:
    return Event(kind="terminal", endpoint=endpoint, outcome=outcome, **({"t": 11.0, "admitted_at": 10.0} | times))


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def seen(*events: Event) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    metrics = Metrics(lambda: NOW)
    for event in events:
        assert event.kind in metrics.kinds
        metrics(event)
    return samples(metrics)


def test_the_names_are_those_of_the_contract() -> None:
    metrics = Metrics(lambda: NOW)
    metrics(Event(t=1.0, kind="worker_lost", outcome="killed"))
    metrics(Event(t=1.0, kind="reject", endpoint="read", outcome="queue-full"))
    assert {(family.name, family.type) for family in text_string_to_metric_families(metrics.render().decode())} == {
        ("offloop_queue_depth", "gauge"),
        ("offloop_queue_limit", "gauge"),
        ("offloop_in_flight", "gauge"),
        ("offloop_in_flight_limit", "gauge"),
        ("offloop_requests", "counter"),
        ("offloop_rejected", "counter"),
        ("offloop_queue_wait_seconds", "histogram"),
        ("offloop_run_seconds", "histogram"),
        ("offloop_request_seconds", "histogram"),
        ("offloop_late_replies", "counter"),
        ("offloop_workers", "gauge"),
        ("offloop_worker_restarts", "counter"),
        ("offloop_event_loop_lag_seconds", "gauge"),
    }
    assert CONTENT_TYPE.startswith("text/plain; version=")


def test_gauges_are_read_when_somebody_looks() -> None:
    now = dict(NOW)
    metrics = Metrics(lambda: now)
    found = samples(metrics)
    assert found["offloop_queue_depth", ()] == 3
    assert found["offloop_queue_limit", ()] == 100
    assert found["offloop_in_flight", (("endpoint", "read"),)] == 2
    assert found["offloop_in_flight_limit", (("endpoint", "keywords"),)] == 100
    assert found["offloop_workers", (("state", "busy"),)] == 2
    assert found["offloop_event_loop_lag_seconds", ()] == 0.004
    now["queue_depth"] = 0
    assert samples(metrics)["offloop_queue_depth", ()] == 0


def test_every_endpoint_has_its_series_before_its_first_request() -> None:
    found = seen()
    assert found["offloop_requests_total", (("endpoint", "keywords"), ("outcome", "ok"))] == 0
    assert found["offloop_request_seconds_count", (("endpoint", "keywords"),)] == 0


def test_outcomes_refusals_late_replies_and_restarts_are_counted() -> None:
    found = seen(
        terminal(),
        terminal(),
        terminal(outcome="node-failed"),
        terminal("keywords", "encrypted-pdf"),
        Event(t=1.0, kind="reject", endpoint="read", outcome="queue-full"),
        Event(t=1.0, kind="late_drop", outcome="ok"),
        Event(t=1.0, kind="worker_lost", worker="w1", outcome="killed"),
        Event(t=1.0, kind="worker_lost", worker="w2", outcome="stopped"),
        Event(t=1.0, kind="replace", worker="w3", outcome="wedged"),
        Event(t=1.0, kind="worker_lost", worker="w3", outcome="wedged"),
    )
    assert found["offloop_requests_total", (("endpoint", "read"), ("outcome", "ok"))] == 2
    assert found["offloop_requests_total", (("endpoint", "read"), ("outcome", "node-failed"))] == 1
    assert found["offloop_requests_total", (("endpoint", "keywords"), ("outcome", "encrypted-pdf"))] == 1
    assert found["offloop_rejected_total", (("endpoint", "read"), ("reason", "queue-full"))] == 1
    assert found["offloop_late_replies_total", ()] == 1
    assert found["offloop_worker_restarts_total", (("reason", "killed"),)] == 1
    assert found["offloop_worker_restarts_total", (("reason", "wedged"),)] == 1
    assert ("offloop_worker_restarts_total", (("reason", "stopped"),)) not in found


def test_histograms_come_from_the_outcome() -> None:
    read = (("endpoint", "read"),)
    found = seen(terminal(begun_at=10.25, ended_at=10.75, t=10.8), terminal(t=10.01))
    assert found["offloop_request_seconds_count", read] == 2
    assert abs(found["offloop_request_seconds_sum", read] - 0.81) < 1e-9
    assert found["offloop_queue_wait_seconds_count", read] == 1, "what never began did not wait for its beginning"
    assert found["offloop_queue_wait_seconds_sum", read] == 0.25
    assert found["offloop_run_seconds_sum", read] == 0.5
    assert found["offloop_queue_wait_seconds_bucket", (("endpoint", "read"), ("le", "0.25"))] == 1, "bounds included"
    assert found["offloop_queue_wait_seconds_bucket", (("endpoint", "read"), ("le", "0.1"))] == 0
    assert found["offloop_request_seconds_bucket", (("endpoint", "read"), ("le", "+Inf"))] == 2


def test_a_run_that_goes_on_counts_up_to_its_outcome() -> None:
    assert seen(terminal(begun_at=10.5, t=12.0))["offloop_run_seconds_sum", (("endpoint", "read"),)] == 1.5


def test_clocks_that_differ_never_make_time_run_backwards() -> None:
    assert seen(terminal(begun_at=9.0))["offloop_queue_wait_seconds_sum", (("endpoint", "read"),)] == 0.0


def test_a_snapshot_may_cause_events() -> None:
    metrics = Metrics(lambda: metrics(terminal()) or NOW)  # type: ignore[func-returns-value]
    assert samples(metrics)["offloop_requests_total", (("endpoint", "read"), ("outcome", "ok"))] == 1


def test_two_in_one_process_do_not_clash_and_one_may_join_a_registry_of_ones_own() -> None:
    first, second = Metrics(lambda: NOW), Metrics(lambda: NOW)
    first(terminal())
    key = "offloop_requests_total", (("endpoint", "read"), ("outcome", "ok"))
    assert (samples(first)[key], samples(second)[key]) == (1, 0)
    registry = CollectorRegistry()
    registry.register(first)
    assert registry.get_sample_value("offloop_late_replies_total") == 0


def test_nothing_is_lost_when_threads_count_at_once() -> None:
    metrics = Metrics(lambda: NOW)
    event = terminal(begun_at=10.5)
    threads = [threading.Thread(target=lambda: [metrics(event) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = samples(metrics)
    assert found["offloop_requests_total", (("endpoint", "read"), ("outcome", "ok"))] == 8000
    assert found["offloop_run_seconds_count", (("endpoint", "read"),)] == 8000
