"""Every error under one root; each carries its reason and its HTTP status.

Owns the failures of section 5 of the contract, one class a row, and the errors of wrong use. No adapter keeps a table
of its own: status, reason, title and public text are read from here. Nothing here may import another module of the
package, and no text here may hold anything of the caller's, of an exception or of the host.
"""

import re
from typing import Any, ClassVar


class OffloopError(Exception):
    """The root of all that offloop raises.

    Attributes:
        status: the HTTP status an adapter answers with.
        reason: the stable, machine-readable name of the failure (kebab case).
        title: one line for people, the same for every occurrence.
        detail: what happened in this occurrence; never holds an exception's text.
        endpoint, request_id: which request, where known.
        started: whether a node had begun; None when that cannot be known.
        retry_safe: whether the same request may be sent again without doing the work twice.
        retry_after: whole seconds after which to try again, on every 429 and 503.
    """

    status: int = 500
    reason: ClassVar[str] = "offloop-error"
    title: str = "The request failed"
    explanation: ClassVar[str] = "The request could not be completed."

    def __init__(
        self,
        detail: str | None = None,
        *,
        endpoint: str | None = None,
        request_id: str | None = None,
        started: bool | None = False,
        retry_safe: bool = False,
        retry_after: int | None = None,
        debug: str | None = None,
    ) -> None:
        self.detail = detail or self.explanation
        super().__init__(self.detail)
        self.endpoint = endpoint
        self.request_id = request_id
        self.started = started
        self.retry_safe = retry_safe
        self.retry_after = retry_after
        self.debug = debug


# ---- what an adapter answers before or instead of a reply (contract, section 5, in its order)


class Draining(OffloopError):
    status, reason, title = 503, "draining", "The service is shutting down"
    explanation = "This process is draining and takes no new requests. Another instance will."


class BackendUnavailable(OffloopError):
    status, reason, title = 503, "backend-unavailable", "No loop can take the work"
    explanation = "The loops that run this work cannot be reached at the moment."


class UnsupportedMediaType(OffloopError):
    status, reason, title = 415, "unsupported-media-type", "The media type is not accepted"
    explanation = "The body's media type or content encoding is not one this endpoint accepts."


class PayloadTooLarge(OffloopError):
    status, reason, title = 413, "payload-too-large", "The body is too large"
    explanation = "The body is larger than this endpoint accepts."


class EndpointBusy(OffloopError):
    status, reason, title = 429, "endpoint-busy", "The endpoint is busy"
    explanation = "As many callers as this endpoint allows are waiting already."


class QueueFull(OffloopError):
    status, reason, title = 503, "queue-full", "The queue is full"
    explanation = "As much work as may wait is waiting already."


class UploadTimeout(OffloopError):
    status, reason, title = 408, "upload-timeout", "The upload took too long"
    explanation = "The body had not arrived completely when the request's time was up."


class InvalidPayload(OffloopError):
    """The payload does not validate. `errors` has FastAPI's shape: a list of `{type, loc, msg, input}`."""

    status, reason, title = 422, "invalid-payload", "The payload does not validate"
    explanation = "The payload does not validate."

    def __init__(self, errors: list[dict[str, Any]], **context: Any) -> None:
        first = errors[0] if errors else {}
        where = ".".join(str(part) for part in first.get("loc", ()))
        super().__init__(f"The payload does not validate: {where}: {first.get('msg', '')}", **context)
        self.errors = errors


class ExpiredInQueue(OffloopError):
    status, reason, title = 503, "expired-in-queue", "The request's time was up before it began"
    explanation = "The deadline passed while the request was waiting; it never began."


class DeadlineExceeded(OffloopError):
    status, reason, title = 504, "deadline-exceeded", "The request's time was up"
    explanation = "The deadline passed before there was a reply."


class DrainCut(OffloopError):
    """The drain's budget ended: 503 for what had not begun, 504 for what had, or where that cannot be known."""

    status, reason, title = 504, "drain-cut", "The service shut down before there was a reply"
    explanation = "The service's time to shut down had ended before there was a reply."

    def __init__(self, detail: str | None = None, **context: Any) -> None:
        super().__init__(detail, **context)
        if self.started is False:
            self.status = 503


class WorkerLost(OffloopError):
    status, reason, title = 502, "worker-lost", "The worker was lost"
    explanation = "The worker ended while it was running the request."


class NodeFailed(OffloopError):
    status, reason, title = 500, "node-failed", "The work failed"
    explanation = "The work ended with an unexpected error."


class NoReply(OffloopError):
    status, reason, title = 500, "no-reply", "The work ended without a reply"
    explanation = "The work ran to its end and gave no reply."


class Cancelled(OffloopError):
    status, reason, title = 499, "cancelled", "The caller has gone"
    explanation = "The caller went away or cancelled the request."


BY_REASON: dict[str, type[OffloopError]] = {
    error.reason: error
    for error in (
        Draining, BackendUnavailable, UnsupportedMediaType, PayloadTooLarge, EndpointBusy, QueueFull, UploadTimeout,
        InvalidPayload, ExpiredInQueue, DeadlineExceeded, DrainCut, WorkerLost, NodeFailed, NoReply, Cancelled,
    )
}  # fmt: skip
"""Every row of the contract's table, by its reason, in the order of the table."""


# ---- failures that a program declares

RESERVED_MEMBERS = frozenset(
    "type title status detail instance reason request_id endpoint started retry_safe debug".split()
)
"""Members of a problem document that are offloop's own; a Problem's fields may not take these names."""


class Problem(OffloopError):
    """A failure that callers may expect: subclass it with `status` (400 to 599) and `title`, and raise it in a node.

    Fields are given by keyword and become members of the problem document; `detail` is optional. `reason` is the
    class name in kebab case.

    Example:
        >>> class TooManyPages(Problem):
        ...     status, title = 422, "The document has too many pages"
        >>> TooManyPages(pages=900).members
        {'pages': 900}
    """

    status = 400
    title = "The request was refused"
    explanation = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        status: Any = cls.status
        title: Any = cls.title
        if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 599:
            raise TypeError(f"{cls.__qualname__}.status is {status!r}: a Problem has a status from 400 to 599")
        if not isinstance(title, str) or not title:
            raise TypeError(f"{cls.__qualname__}.title is {title!r}: a Problem has a title, one line for people")
        if "reason" not in vars(cls):
            cls.reason = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    def __init__(self, detail: str | None = None, **members: Any) -> None:
        if taken := RESERVED_MEMBERS.intersection(members):
            raise TypeError(f"{type(self).__qualname__}: {', '.join(sorted(taken))} cannot be a field of a Problem")
        super().__init__(detail or self.title, started=True)
        self.members = members


# ---- wrong use: raised where the mistake is, never sent to a caller as such


class UsageError(OffloopError):
    """The library is used in a way that cannot work; the text says what to do instead."""

    reason = "usage"


class NotStarted(BackendUnavailable, UsageError):
    """Asked before the start or after the end. To a caller it is `backend-unavailable`, 503."""

    reason = BackendUnavailable.reason


class SettingsError(UsageError):
    """A setting has a value it cannot have. One line, naming the setting."""

    reason = "settings"


class PreflightError(UsageError):
    """The program cannot work as written. `faults` has every fault: function, file, line and remedy."""

    reason = "preflight"

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"preflight found {count}:", *(f"  {fault}" for fault in faults)]))


class StartError(OffloopError):
    """The loops could not be started, and nothing was left running. The cause is the exception's `__cause__`."""

    reason = "start-failed"
