"""The callers of a history: how each arrives, uploads, waits, leaves.

Owns one caller's story and what it was told. A caller does with the gateway what an adapter does, `close` in the end
included; it judges what it is told, and nothing else.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from offloop import errors
from offloop.core.policy import Policy
from offloop.core.waiters import Waiter
from offloop.ingress.gateway import Gateway
from offloop.ingress.outcomes import error_of
from offloop.messages import Chunk, Outcome, Progressed
from tests.simulation.streams import Streams
from tests.simulation.world import World


class FakePromise:
    """As much of an `asyncio.Future` as the gateway knows, but strict."""

    def __init__(self, caller: "Caller") -> None:
        self._caller = caller
        self.outcome: Outcome | None = None
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled or self.outcome is not None

    def set_result(self, outcome: Outcome) -> None:
        assert not self.done(), "a promise was settled twice"
        self.outcome = outcome
        self._caller.told()


class Caller:
    """One request, from its arrival to its `close`. All that is random about it was drawn before it began."""

    def __init__(self, number: int, random: Random, policy: Policy, arrives: float, window: float) -> None:
        self.number = number
        self.policy = policy
        self.arrives = arrives
        self.error: errors.OffloopError | None = None
        self.waiter: Waiter | None = None
        self.closed = False
        self.left = False
        self.chunks: list[Chunk] = []
        self.promise = FakePromise(self)
        self._acceptable = random.random() > 0.03
        shorter, whole = random.uniform(0, policy.timeout), policy.timeout
        self._timeout, self._seconds = random.choice(
            (
                (None, whole),
                (None, whole),
                (shorter, shorter),
                (0.0, 0.0),
                (-1.0, 0.0),
                (99.0, whole),
                (float("nan"), whole),
            )
        )
        self._size = 0 if random.random() < 0.2 else int(random.triangular(1, policy.max_body * 1.15, 10))
        self._declared = random.choice((self._size, self._size, 0, self._size // 2, self._size * 2))
        self._steps = random.choice((0, 0, 0, 1, 4))
        self._pace = random.choice((0.0, 0.001, policy.timeout / 3))
        self._streams = random.random() < 0.3
        self._leaves_after = random.choice((0.0, 0.002, random.uniform(0, policy.timeout), random.uniform(0, window)))
        self._leaves_by = random.choices((None, "disconnect", "cancelled"), (6, 2, 2))[0]
        self._closes_after = random.choice((0.0, 0.0, 0.002))
        self._closes_at_once = random.random() < 0.05
        self._untaken: deque[Chunk | Progressed] = deque()
        self._takes_after = random.choice((0.0, 0.0, 0.001, policy.timeout / 8, None))
        self._taking = False

    def plan(
        self, world: World, gateway: Gateway, streams: Streams, refused: Callable[["Caller", int, bool], None]
    ) -> None:
        """`refused` judges a refusal, given the bytes that were asked for in all and whether the type was accepted."""
        self._world = world
        self._gateway = gateway
        self._accounts = streams
        self._judge = refused
        world.at(self.arrives, self._arrive, web=True)

    def _arrive(self) -> None:
        try:
            self.waiter = self._gateway.open(
                self.policy.name, self.promise, request_id=f"label {self.number}", timeout=self._timeout,
                declared=self._declared, acceptable=self._acceptable,
            )  # fmt: skip
        except errors.OffloopError as refusal:
            self._refused(refusal, self._declared)
            return
        assert self._acceptable
        assert self._declared <= self.policy.max_body
        assert abs(self.waiter.deadline - self.waiter.admitted_at - self._seconds) < 1e-6, "its deadline is not its own"
        if self._streams:
            self.waiter.hears = self._hear
        if self._leaves_by is not None:
            self._world.after(self._leaves_after, self._leave, web=True)
        self._upload(0)

    def _upload(self, step: int) -> None:
        assert self.waiter is not None
        if self.closed or self.left:
            return
        size = self._size
        try:
            if step < self._steps:
                size = self._size * (step + 1) // (self._steps + 1)
                self._gateway.grow(self.waiter, size)
                self._world.after(self._pace, lambda: self._upload(step + 1), web=True)
            else:
                self._gateway.send(self.waiter, bytes(self._size), stream=self._streams)
        except errors.OffloopError as refusal:
            self._refused(refusal, size)
            self._close()

    def _refused(self, refusal: errors.OffloopError, size: int) -> None:
        assert self.error is None
        self.error = refusal
        self._judge(self, size, self._acceptable)
        assert refusal.endpoint == self.policy.name
        assert refusal.request_id == f"label {self.number}"
        assert refusal.started is False
        assert refusal.retry_safe
        assert (refusal.retry_after is not None) == (refusal.status in (429, 503))
        assert refusal.retry_after is None or 1 <= refusal.retry_after <= 30

    def _hear(self, report: Chunk | Progressed) -> None:
        assert self.promise.outcome is None, "a stream goes on after its end"
        if isinstance(report, Chunk):
            self.chunks.append(report)
            self._accounts.heard(report)
        self._untaken.append(report)
        self._take_soon()

    def _take_soon(self) -> None:
        if self._takes_after is not None and self._untaken and not self._taking:
            self._taking = True
            self._world.after(self._takes_after, self._take, web=True)

    def _take(self) -> None:
        assert self.waiter is not None
        self._taking = False
        if self.closed or self.left:
            return
        if isinstance(first := self._untaken.popleft(), Chunk):
            self._accounts.taken(first)
            self._gateway.take(self.waiter, first)
        self._take_soon()

    def _leave(self) -> None:
        assert self.waiter is not None
        if self.closed or self.left:
            return
        self.left = True
        if self._streams and self.policy.finishes and self._leaves_by == "disconnect":
            self._accounts.left(self.waiter.rid)
        if self._leaves_by == "disconnect":
            self._gateway.cancel(self.waiter, "disconnect")
        else:
            self.promise.cancelled = self.promise.outcome is None
        self._world.after(self._closes_after, self._close, web=True)

    def told(self) -> None:
        """Its promise was settled. It closes once the answer is out: after a while, or before the gateway goes on."""
        assert not self.left, "a caller that had left was told"
        if self._closes_at_once:
            self._close()
        else:
            self._world.after(self._closes_after, self._close, web=True)

    def _close(self) -> None:
        assert self.waiter is not None
        self.closed = True
        self._gateway.close(self.waiter)

    def judge(self) -> None:
        """After everything: what it was told is its own, and all it was to be told."""
        outcome = self.promise.outcome
        if self.waiter is None or self.left or self.error is not None:
            assert self.waiter is not None or self.error is not None, "it was neither admitted nor refused"
            assert self.error is None or outcome is None, "it was told twice"
            return
        assert outcome is not None, "it was never told"
        assert self.closed
        assert outcome.rid == self.waiter.rid
        if outcome.reason == "ok":
            assert outcome.payload == f"{outcome.rid}/{outcome.attempt}".encode()
            numbers = [chunk.number for chunk in self.chunks]
            assert numbers == [*range(1, len(numbers) + 1)]
            assert not numbers or self.chunks[0].attempt == outcome.attempt
        elif not outcome.status and outcome.reason != "invalid-payload":
            error = error_of(outcome, self.policy, "", retry_after=self._gateway.retry_after(self.waiter, outcome))
            assert (error.retry_after is not None) == (error.status in (429, 503))
            assert error.retry_safe == (outcome.started is False or self.policy.idempotent)
