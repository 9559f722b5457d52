"""The one task of ours, and the result backend that it alone has.

Owns what Celery calls: `Run.run` in whichever process or thread its pool has, and `Ends.store_result` wherever Celery
learns how a task ended, which is the parent process for all that a killed child cannot say. A reply is sent before
the task returns; so of a success there is nothing left to store, and nothing is ever kept.
"""

import logging
from typing import TYPE_CHECKING, Any

from billiard import common
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, Task, states
from celery.backends.base import BaseBackend

from offloop.errors import BackendUnavailable, NodeFailed, WorkerLost
from offloop.messages import Outcome
from offloop.transports.celery.letters import BESIDE, read_id, unpacked
from offloop.transports.parcels import NotOurs

if TYPE_CHECKING:
    from offloop.celery.engine import Engine

log = logging.getLogger("offloop")

GONE = (WorkerLostError, TimeLimitExceeded, Terminated)
"""The process that ran it was killed."""


def task_of(app: Celery, name: str, engine: "Engine") -> Task:
    """The task for one app. Celery writes into a task's class, so that each app has a class of its own."""
    kind: type[Run] = type(Run.__name__, (Run,), {"__module__": __name__})
    return kind(app, name, engine)


def ending() -> bool:
    """Whether this process of a pool has been sent SIGTERM: billiard raises SystemExit then, wherever it is."""
    return bool(common._should_have_exited[0])  # noqa: SLF001  (`terminate_handler_fired` is not in every version)


class Run(Task):  # type: ignore[misc]  # Celery has no types
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

    def __init__(self, app: Celery, name: str, engine: "Engine") -> None:
        self.name = name
        self._engine = engine
        self.backend = Ends(app, engine)

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
