"""A failing history, made small and told: fewest callers, every event, the command that runs it again.

Owns the search for the smallest history. It never judges one.
"""

import logging
import traceback
from contextlib import suppress

from tests.simulation.history import History


def fails(seed: int, without: frozenset[int] = frozenset()) -> BaseException | None:
    """Run it; what it failed with, or None."""
    try:
        with _no_dropped_report():
            History(seed, without).run()
    except Exception as failure:  # noqa: BLE001 whatever it is, it is a failure
        return failure
    return None


class _no_dropped_report(logging.Handler):  # noqa: N801 read as a phrase
    """`receive` logs what it could not apply and goes on, as it must; here that is a failure."""

    def __enter__(self) -> "_no_dropped_report":
        self._failure: BaseException | None = None
        logging.getLogger("offloop").addHandler(self)
        return self

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and self._failure is None:
            self._failure = record.exc_info[1]

    def __exit__(self, *ignored: object) -> None:
        logging.getLogger("offloop").removeHandler(self)
        if self._failure is not None:
            raise self._failure


def smallest(seed: int, failure: BaseException) -> tuple[int, frozenset[int], BaseException]:
    """Leave callers out as long as it fails in the same way."""
    without: frozenset[int] = frozenset()
    numbers = [caller.number for caller in History(seed).callers]
    size = len(numbers)
    while size := size // 2:
        for start in range(0, len(numbers), size):
            fewer = without | set(numbers[start : start + size])
            other = fails(seed, fewer)
            if other is not None and _where(other) == _where(failure):
                without, failure = fewer, other
    return seed, without, failure


def _where(failure: BaseException) -> tuple[str, int]:
    """Which check it was."""
    frame = traceback.extract_tb(failure.__traceback__)[-1]
    return frame.filename, frame.lineno or 0


def tell(seed: int, without: frozenset[int], failure: BaseException) -> str:
    """For people."""
    history = History(seed, without)
    with suppress(Exception), _no_dropped_report():  # what it fails with is told below
        history.run()
    lines = [f"history {seed} with {len(history.callers)} callers ({'threads' if history.shared else 'processes'}):"]
    began = history.recorder.events[0].t
    for event in history.recorder.events:
        said = (event.rid, event.endpoint, event.worker, event.outcome, event.started, event.value or None)
        words = " ".join(f"{word:.4f}" if type(word) is float else str(word) for word in said if word not in ("", None))
        again = f" attempt {event.attempt}" if event.attempt > 1 else ""
        lines.append(f"  {event.t - began:8.4f}  {event.kind:12} {words}{again}")
    lines += [f"failed: {type(failure).__name__}: {failure}", f"again:  python -m tests.simulation --seed {seed}"]
    return "\n".join(lines)
