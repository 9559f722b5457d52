from prometheus_client.parser import text_string_to_metric_families

from offloop.telemetry.worker_metrics import render


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_all_that_is_told_is_there_under_its_name() -> None:
    text = render(
        linked=True, ready=False, workers={"idle": 2, "busy": 1, "absent": 0}, requests=3,
        lost={"died": 4, "wedged": 1}, refused=5,
    )  # fmt: skip
    assert samples(text) == {
        ("offloop_broker_up",): 1.0,
        ("offloop_ready",): 0.0,
        ("offloop_workers", "idle"): 2.0,
        ("offloop_workers", "busy"): 1.0,
        ("offloop_workers", "absent"): 0.0,
        ("offloop_leases",): 3.0,
        ("offloop_worker_restarts_total", "died"): 4.0,
        ("offloop_worker_restarts_total", "wedged"): 1.0,
        ("offloop_entries_refused_total",): 5.0,
    }
