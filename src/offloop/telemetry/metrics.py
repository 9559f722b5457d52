"""Metrics: counts and histograms from events, gauges from a snapshot, as Prometheus text.

Owns the names of section 7 of the contract and their buckets. Every label value comes from the program (endpoint
names, reasons, states), never from a caller, so that the number of series is bounded. Each `Metrics` has a registry of
its own: two in one process do not disturb each other.
"""

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from offloop.events import STOPPED, WEDGED, Event, Kind

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what `render` returns."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds, each included; the one above the last is infinite."""
LABELS = (*(str(bound) for bound in BUCKETS), "+Inf")

Snapshot = Callable[[], Mapping[str, Any]]
"""What is so at this moment: `queue_depth` and `queue_limit` (int), `endpoints` ({name: {"in_flight", "limit"}}),
`workers` ({state: int}) and `lag` (seconds). Called wherever `render` is."""


GATHERED = 128
"""Events that are counted together: the count of so many delays a request by less than a tenth of a millisecond."""


class _Histogram:
    """Plain numbers. Below zero (of two clocks that differ) counts as no time at all."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * len(LABELS)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        if seconds > 0.0:
            self.total += seconds


class _Series:
    """What is counted for one endpoint."""

    __slots__ = ("outcomes", "queue_wait", "rejected", "request", "run")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter(ok=0)
        self.rejected: Counter[str] = Counter()
        self.queue_wait = _Histogram()
        self.run = _Histogram()
        self.request = _Histogram()


class Metrics(Collector):
    """An `events.Observer`. Thread-safe.

    Args:
        snapshot: tells the gauges; it may itself cause events.
    """

    kinds: frozenset[Kind] = frozenset({"terminal", "reject", "late_drop", "worker_lost", "replace"})

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._series: dict[str, _Series] = {}
        self._gathered: deque[Event] = deque()
        self._late = 0
        self._lost: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def __call__(self, event: Event, /) -> None:
        # Counted many at a time: a loop that runs warm costs each request less than a visit of its own.
        self._gathered.append(event)
        if len(self._gathered) >= GATHERED:
            self._count()

    def _count(self) -> None:
        with self._lock:
            for _ in range(len(self._gathered)):
                event = self._gathered.popleft()
                if event.kind == "terminal":
                    self._terminal(event)
                elif event.kind == "reject":
                    self._of(event.endpoint).rejected[event.outcome] += 1
                elif event.kind == "late_drop":
                    self._late += 1
                elif event.kind == "replace" or event.outcome not in (STOPPED, WEDGED):
                    self._lost[event.outcome] += 1

    def _of(self, endpoint: str) -> _Series:
        series = self._series.get(endpoint)
        if series is None:
            series = self._series[endpoint] = _Series()
        return series

    def _terminal(self, event: Event) -> None:
        """Waiting is told of requests that began; a run that goes on after its outcome counts up to the outcome."""
        series = self._of(event.endpoint)
        series.outcomes[event.outcome] += 1
        series.request.observe(event.t - event.admitted_at)
        begun_at = event.begun_at
        if begun_at:
            series.queue_wait.observe(begun_at - event.admitted_at)
            series.run.observe((event.ended_at or event.t) - begun_at)

    # ---- exposition

    def render(self) -> bytes:
        """Prometheus text of `CONTENT_TYPE`. Where the snapshot belongs to an event loop, call it there."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask for a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """For a registry of one's own."""
        now = self._snapshot()  # before the lock is taken: what it settles may come back here as events
        self._count()
        with self._lock:
            for endpoint in now["endpoints"]:
                self._of(endpoint)
            families = [*self._counted(), *self._timed()]
        yield from _gauges(now)
        yield from families

    def _counted(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "offloop_requests", "Admitted requests by outcome.", labels=("endpoint", "outcome")
        )
        rejected = CounterMetricFamily(
            "offloop_rejected", "Requests refused at admission.", labels=("endpoint", "reason")
        )
        for endpoint, series in self._series.items():
            for outcome, count in series.outcomes.items():
                requests.add_metric((endpoint, outcome), count)
            for reason, count in series.rejected.items():
                rejected.add_metric((endpoint, reason), count)
        late = CounterMetricFamily("offloop_late_replies", "Late or duplicate replies, dropped.", value=self._late)
        restarts = CounterMetricFamily(
            "offloop_worker_restarts",
            "Workers that were lost without being stopped, or replaced because they were wedged.",
            labels=("reason",),
        )
        for reason, count in self._lost.items():
            restarts.add_metric((reason,), count)
        yield from (requests, rejected, late, restarts)

    def _timed(self) -> Iterator[Metric]:
        for name, text in (
            ("queue_wait", "From admission to the beginning, of requests that began."),
            ("run", "From the beginning to the end, or to the outcome where that came first."),
            ("request", "From admission to the outcome."),
        ):
            family = HistogramMetricFamily(f"offloop_{name}_seconds", text, labels=("endpoint",))
            for endpoint, series in self._series.items():
                histogram: _Histogram = getattr(series, name)
                counts = zip(LABELS, accumulate(histogram.counts), strict=True)
                family.add_metric((endpoint,), list(counts), histogram.total)
            yield family


def _gauges(now: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("offloop_queue_depth", "Admitted and not begun.", value=now["queue_depth"])
    yield GaugeMetricFamily("offloop_queue_limit", "Bound of the queue depth.", value=now["queue_limit"])
    in_flight = GaugeMetricFamily("offloop_in_flight", "Waiters.", labels=("endpoint",))
    limit = GaugeMetricFamily("offloop_in_flight_limit", "Bound of the waiters.", labels=("endpoint",))
    for endpoint, figures in now["endpoints"].items():
        in_flight.add_metric((endpoint,), figures["in_flight"])
        limit.add_metric((endpoint,), figures["limit"])
    workers = GaugeMetricFamily("offloop_workers", "Workers by state.", labels=("state",))
    for state, count in now["workers"].items():
        workers.add_metric((state,), count)
    yield from (in_flight, limit, workers)
    yield GaugeMetricFamily("offloop_event_loop_lag_seconds", "Worst recent lag of the event loop.", value=now["lag"])
