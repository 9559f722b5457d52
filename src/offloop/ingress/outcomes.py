"""Outcomes as exceptions. Owns the one place where a travelling outcome becomes the error that names it."""

from typing import Any

import msgspec

from offloop import errors
from offloop.core.policy import Policy
from offloop.graph.payloads import errors_from_json
from offloop.messages import Outcome


class Refusal(errors.Problem):
    """A Problem whose class this process does not know: the worker's code, or a module, is not loaded here."""

    status, title = 500, "The work refused the request"


def error_of(
    outcome: Outcome,
    policy: Policy,
    request_id: str,
    problem: type[errors.Problem] | None = None,
    retry_after: int | None = None,
) -> errors.OffloopError:
    """The exception that a failure stands for.

    Args:
        outcome: a failure; never `ok`.
        policy: the endpoint's.
        request_id: the caller's label.
        problem: the declared class of a Problem's reason, so that `except` finds it.
        retry_after: seconds, for the outcomes that carry it.
    """
    if outcome.status:
        error: errors.OffloopError = _problem(outcome, problem)
    else:
        known = errors.BY_REASON[outcome.reason]
        safe = outcome.started is False or policy.idempotent
        context: dict[str, Any] = {
            "started": outcome.started,
            "retry_safe": safe,
            "debug": outcome.debug,
        }
        if known is errors.InvalidPayload:
            error = errors.InvalidPayload(errors_from_json(outcome.payload), **context)
        else:
            error = known(**context)
        # By the error's own status: a drain's cut is a 503 or a 504.
        error.retry_after = retry_after if error.status in (429, 503) else None
    error.endpoint, error.request_id = policy.name, request_id
    return error


def _problem(outcome: Outcome, declared: type[errors.Problem] | None) -> errors.Problem:
    """Built without calling the class: its `__init__` is the user's, and may take anything."""
    said = msgspec.json.decode(outcome.payload)
    kind = declared or Refusal
    problem = kind.__new__(kind)
    errors.Problem.__init__(problem, said["detail"])
    problem.members = said["members"]
    for name, value in said["members"].items():
        if not hasattr(problem, name):
            setattr(problem, name, value)
    if declared is None:
        problem.__dict__.update(status=outcome.status, title=said["title"], reason=outcome.reason)
    problem.debug = outcome.debug
    return problem
