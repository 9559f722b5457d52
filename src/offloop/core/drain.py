"""The order of a graceful stop, as data, and when its steps are due.

Owns the budget. The steps up to `FINISH` are judged here from `now` and the number of waiters; those after it belong
to whoever owns the parts, in the order of `ORDER`. Nothing here stops anything.
"""

from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    UNREADY = "unready"
    DELAY = "delay"
    REFUSE = "refuse"
    FINISH = "finish"
    CUT = "cut"
    REPLIES = "replies"
    WORKERS = "workers"
    TRANSPORTS = "transports"
    LOGS = "logs"
    SIGNAL = "signal"


ORDER: tuple[tuple[Step, str], ...] = (
    (Step.UNREADY, "load balancers must stop sending before requests are refused"),
    (Step.DELAY, "they need a while to notice; until then a refusal would be an error that nobody deserved"),
    (Step.REFUSE, "what is still admitted would eat the time of what already waits"),
    (Step.FINISH, "the backlog runs down and running nodes end; most drains end here"),
    (Step.CUT, "at the budget each one left gets its own outcome, so that no caller is left without an answer"),
    (Step.REPLIES, "an outcome that was decided must leave the process before its sockets close"),
    (Step.WORKERS, "only now: a worker that stops earlier would turn replies into losses"),
    (Step.TRANSPORTS, "workers send their last reports through them"),
    (Step.LOGS, "after everything that may write to them, before the signal: no exit hook may follow it"),
    (Step.SIGNAL, "the server's own handler closes listeners and connections, and may end the process"),
)
"""What happens in a stop, in order, and why there."""


@dataclass(slots=True)
class Drain:
    """One graceful stop. All times are monotonic seconds.

    Attributes:
        timeout: the budget, counted from the beginning; the delay is a part of it.
        delay: how long admission goes on after readiness turned false.
    """

    timeout: float
    delay: float = 0.0
    began_at: float | None = None
    cut: bool = False

    def begin(self, now: float) -> None:
        self.began_at = now

    @property
    def refuse_at(self) -> float:
        """When admission ends."""
        assert self.began_at is not None
        return self.began_at + min(self.delay, self.timeout)

    @property
    def cut_at(self) -> float:
        """When the budget ends."""
        assert self.began_at is not None
        return self.began_at + self.timeout

    def due(self, now: float) -> tuple[Step, ...]:
        """The steps whose time has come and that have not been taken, in order. `CUT` is given once."""
        if self.began_at is None:
            return ()
        steps: tuple[Step, ...] = (Step.REFUSE,) if now >= self.refuse_at else ()
        if now >= self.cut_at and not self.cut:
            self.cut = True
            steps += (Step.CUT,)
        return steps

    def next_at(self, now: float) -> float | None:
        """When to look again; None where nothing is due by time."""
        if self.began_at is None or self.cut:
            return None
        return self.refuse_at if now < self.refuse_at else self.cut_at
