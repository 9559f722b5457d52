"""Metrics of a host's workers that take from a broker: how many there are, and what they have, as Prometheus text.

Owns the names, which are those of `metrics` where they mean the same. Requests and their outcomes are counted where
they were admitted, by the web processes.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what `render` returns."""


def render(
    *, linked: bool, ready: bool, workers: Mapping[str, int], requests: int, lost: Mapping[str, int], refused: int
) -> bytes:
    """Prometheus text.

    Args:
        linked: whether the broker can be reached.
        ready: whether requests are taken.
        workers: how many, by state.
        requests: how many they have.
        lost: how many are no more without having been stopped, by cause.
        refused: entries of the broker that were not believed.
    """
    registry = CollectorRegistry()
    registry.register(_Once(list(_families(linked, ready, workers, requests, lost, refused))))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _families(
    linked: bool,
    ready: bool,
    workers: Mapping[str, int],
    requests: int,
    lost: Mapping[str, int],
    refused: int,
) -> Iterator[Metric]:
    yield GaugeMetricFamily("offloop_broker_up", "Whether the broker can be reached.", value=linked)
    yield GaugeMetricFamily("offloop_ready", "Whether requests are taken.", value=ready)
    by_state = GaugeMetricFamily("offloop_workers", "Workers by state.", labels=("state",))
    for state, count in workers.items():
        by_state.add_metric((state,), count)
    yield by_state
    yield GaugeMetricFamily("offloop_leases", "Requests that the workers have.", value=requests)
    restarts = CounterMetricFamily(
        "offloop_worker_restarts", "Workers that were lost without being stopped.", labels=("reason",)
    )
    for reason, count in lost.items():
        restarts.add_metric((reason,), count)
    yield restarts
    yield CounterMetricFamily(
        "offloop_entries_refused", "Entries of the broker that were not believed, and dropped.", value=refused
    )
