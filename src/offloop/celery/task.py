"""The one task of ours, and the result backend that it alone has.

Owns what Celery calls: `Run.run` in whichever process or thread its pool has, and `Ends.store_result` wherever Celery
learns how a task ended, which is the parent process for all that a killed child cannot say. A reply is sent before
the task returns; so of a success there is nothing left to store, and nothing is ever kept.
"""

import logging
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard import common
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, Task, states
from celery.backends.base import BaseBackend
from celery.worker.request import Request

from offloop.errors import BackendUnavailable, NodeFailed, WorkerLost
from offloop.messages import Outcome
from offloop.transports.celery.letters import BESIDE, UNTIL, read_id, unpacked
from offloop.transports.parcels import NotOurs

if TYPE_CHECKING:
    from offloop.celery.engine import Engine

log = logging.getLogger("offloop")

GONE = (WorkerLostError, TimeLimitExceeded, Terminated)
"""The process that ran it was killed."""
LEAST = 1.0
"""Seconds that a task has, late as it may be, to see by itself that it is: its process is spared."""


def task_of(app: Celery, name: str, engine: "Engine") -> Task:
    """The task for one app. Celery writes into a task's class, so that each app has a class of its own."""
    kind: type[Run] = type(Run.__name__, (Run,), {"__module__": __name__})
    return kind(app, name, engine)


def ending() -> bool:
    """Whether this process of a pool has been sent SIGTERM: billiard raises SystemExit then, wherever it is."""
    return bool(common._should_have_exited[0])  # noqa: SLF001  (`terminate_handler_fired` is not in every version)


class Timed(Request):  # type: ignore[misc]  # Celery has no types
    """A task of ours in the parent process. Its time limit counts from its deadline, and not from when it is accepted.

    What its message says is counted from there: right if it does not wait, and too long by as much as it does.
    """

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        until, result = self._request_dict.get(UNTIL), self._apply_result and self._apply_result()
        stated = self.time_limits[0]
        if result is None or not hasattr(result, "_on_timeout_set") or not isinstance(until, int | float) or not stated:
            return  # a pool that kills nobody
        left = self.task.left(until)
        limit = result._timeout = result._soft_timeout = min(stated, max(left, LEAST))  # noqa: SLF001
        if result._on_timeout_set:  # noqa: SLF001  (the pool has timers, and set them a moment ago)
            result._on_timeout_cancel(result)  # noqa: SLF001
            result._on_timeout_set(result, limit, limit)  # noqa: SLF001


class Run(Task):  # type: ignore[misc]  # as above
    """Runs one request. Acknowledged when it has ended: what dies with a whole worker, the broker gives another."""

    # Each is said: what is not is taken from the app's configuration, which is for its own tasks.
    acks_late = True
    acks_on_failure = acks_on_timeout = acks_on_failure_or_timeout = True
    reject_on_worker_lost = retry_on_worker_lost = False
    ignore_result = False
    track_started = False
    serializer = "json"
    max_retries = 0
    rate_limit = 0
    Request = Timed

    def __init__(self, app: Celery, name: str, engine: "Engine") -> None:
        self.name = name
        self._app_of = app
        self._engine = engine

    @classmethod
    def annotate(cls) -> None:
        """Not: `task_annotations` for "*" are the app's own, and would say again what is said above."""

    @cached_property
    def backend(self) -> "Ends":
        """Made when it is first asked for: it reads the app's configuration."""
        return Ends(self._app_of, self._engine)

    def left(self, until: float) -> float:
        """Seconds to an instant of the common clock; without end where that has not been read here."""
        left = until - self._engine.end().broker_time(monotonic())
        return left if left > float("-inf") else float("inf")

    def run(self, endpoint: str) -> None:
        """`endpoint` is for people who watch; the request itself lies beside the arguments."""
        request = self.request
        where = request.delivery_info or {}
        try:
            fields = unpacked(getattr(request, BESIDE, None))
        except NotOurs as fault:
            log.warning("a task for %s is dropped: %s", endpoint, fault)
            return
        try:
            queue = str(where.get("routing_key") or "")
            self._engine.start().run(fields, queue, redelivered=bool(where.get("redelivered")))
            if ending():
                raise SystemExit  # as it was raised inside the node, where it ends the request and not the process
        except OSError as fault:  # whoever waits has an end by time, and is told that nobody knows more
            log.warning("a request for %s was given up, the broker is gone: %s", endpoint, fault)


class Ends(BaseBackend):  # type: ignore[misc]  # as above
    """Pushes how a task ended to whoever asked, where the task itself could not. Keeps nothing."""

    persistent = False

    def __init__(self, app: Celery, engine: "Engine") -> None:
        super().__init__(app, url="offloop://")
        self._engine = engine

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        """Celery's, for every state. Also without a request: some ends have none."""
        if state in (states.FAILURE, states.REVOKED):
            try:
                rid, attempt = read_id(task_id)
                self._engine.end().tell(rid, _outcome(rid, attempt, result, state), heard=True)
            except (OSError, NotOurs) as fault:
                log.warning("nobody could be told that %s has ended (%s): %s", task_id, state, fault)
        return result

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """Nothing is known of any task."""
        return {"status": states.PENDING, "result": None}


def _outcome(rid: str, attempt: int, result: Any, state: str) -> Outcome:
    if isinstance(result, GONE) or (state == states.REVOKED and str(result) == "terminated"):
        return Outcome(rid, WorkerLost.reason, attempt=attempt)
    if state == states.REVOKED:  # somebody has, before it ran: it never will
        return Outcome(rid, BackendUnavailable.reason, attempt=attempt, started=False)
    return Outcome(rid, NodeFailed.reason, attempt=attempt, started=None)
