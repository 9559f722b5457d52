"""Job: what a node may know of the request it works for, and say about it.

Owns the node's view of one request. Nothing here acts on a request; a job only tells.
"""

from collections.abc import Callable

from offloop.clock import Clock
from offloop.messages import Envelope

Progress = Callable[[float, float | None, str | None], None]
"""Takes how much is done, of how much, and a note for people."""


def _pass_over(done: float, total: float | None, note: str | None) -> None:
    """Nobody listens."""


class Job:
    """The request a node works for. Ask for it by a parameter annotated `Job`.

    Example:
        >>> job = Job.fake(rid="r1", remaining=2.5)
        >>> job.rid, job.remaining, job.cancelled
        ('r1', 2.5, False)
    """

    __slots__ = ("_cancelled", "_clock", "_envelope", "_progress")

    def __init__(
        self,
        envelope: Envelope,
        *,
        clock: Clock,
        cancelled: Callable[[], bool],
        progress: Progress | None = None,
    ) -> None:
        self._envelope = envelope
        self._clock = clock
        self._cancelled = cancelled
        self._progress = progress or _pass_over

    @classmethod
    def fake(
        cls,
        *,
        rid: str = "fake",
        request_id: str = "",
        endpoint: str = "fake",
        remaining: float = 15.0,
        cancelled: bool = False,
        progress: Progress | None = None,
    ) -> "Job":
        """A job for tests: its time does not pass.

        Args:
            rid: the correlation id.
            request_id: the caller's label.
            endpoint: the endpoint's name.
            remaining: seconds.
            cancelled: whether the caller has gone.
            progress: is called with what the node reports.
        """
        envelope = Envelope(rid=rid, endpoint=endpoint, payload=b"", deadline=remaining, request_id=request_id)
        return cls(envelope, clock=lambda: 0.0, cancelled=lambda: cancelled, progress=progress)

    @property
    def rid(self) -> str:
        """The correlation id: unique, and ours."""
        return self._envelope.rid

    @property
    def request_id(self) -> str:
        """The caller's label, for logs; it may repeat."""
        return self._envelope.request_id

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; not positive once it has passed."""
        return self._envelope.deadline - self._clock()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more. A long node looks now and then, and returns."""
        return self._cancelled()

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the work is: `done` of `total`, in any unit, and a note for people. Cheap; it never waits."""
        self._progress(done, total, note)

    def __repr__(self) -> str:
        return f"Job(rid={self.rid!r}, request_id={self.request_id!r})"
