"""Every outcome of an endpoint, as OpenAPI describes responses.

Owns the rows of the contract's table as documentation: statuses, examples, headers, the `OffloopProblem` model. The
examples are made by the code that makes the answers. It serves no request.
"""

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from offloop import errors
from offloop.fastapi import problems
from offloop.fastapi.schemas import schema_of
from offloop.graph.endpoint import Endpoint, policy_of

PROBLEM_JSON = "application/problem+json"
Responses = dict[int | str, dict[str, Any]]


class OffloopProblem(BaseModel):
    """A failure, as RFC 9457 describes it. A declared problem's own fields are further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:offloop:problem:` and the reason")
    title: str = Field(description="The same for every occurrence")
    status: int
    detail: str = Field(description="What happened this time")
    instance: str = Field(description="Names this one occurrence")
    reason: str = Field(description="The stable name of the failure")
    request_id: str = Field(description="The `X-Request-ID` of this request")
    endpoint: str | None
    started: bool | None = Field(description="Whether the work had begun; null where that cannot be known")
    retry_safe: bool = Field(description="Whether sending it again cannot do the work twice")


class ValidationError(BaseModel):
    """One fault of a payload, as FastAPI tells it."""

    loc: list[str | int] = Field(title="Location")
    msg: str = Field(title="Message")
    type: str = Field(title="Error Type")


class HTTPValidationError(BaseModel):
    """A payload that does not validate, as FastAPI tells it."""

    detail: list[ValidationError]


COMPONENTS = (OffloopProblem, HTTPValidationError)
"""What the documents of offloop's routes refer to in `#/components/schemas`."""

REQUEST_ID = {"description": "The caller's `X-Request-ID`, or a new one", "schema": {"type": "string"}}
RETRY_AFTER = {
    "description": "Whole seconds after which to try again",
    "schema": {"type": "integer", "minimum": 1, "maximum": 30},
}
EXAMPLE_ID = "4f1b8c0e2d6a4f3f9b7c5d1e0a2b3c4d"
EXAMPLE_INSTANCE = "urn:uuid:0b6f7c6e-3c2f-4a57-9a52-6d1c0f0f2e11"
BEGUN = {errors.DeadlineExceeded, errors.WorkerLost, errors.NodeFailed, errors.NoReply}
OF_THE_BODY = {errors.UnsupportedMediaType, errors.UploadTimeout}
"""Rows that only a route can meet whose body offloop reads."""


def problem_responses(endpoint: Endpoint[Any, Any] | Callable[..., Any]) -> Responses:
    """What an own route that calls `off.ask(endpoint, …)` may answer, for its `responses=`.

    Args:
        endpoint: whose failures, as `Endpoint` or decorated function; its declared problems are among them.

    Returns:
        By status; schemas are written out in place, so that the route's app need not include anything else.

    Raises:
        UsageError: it is no endpoint.
    """
    found = _responses(_terms(endpoint), schema_of(OffloopProblem), without=OF_THE_BODY)
    if 422 in found:  # where it is not, FastAPI describes its own
        found[422]["content"]["application/json"] = {"schema": schema_of(HTTPValidationError), "example": _INVALID}
    return found


def route_responses(endpoint: Endpoint[Any, Any]) -> Responses:
    """Every row of the table for a route of offloop's own, with schemas in `components`."""
    found = _responses(_terms(endpoint), _ref(OffloopProblem), without=set())
    invalid = found.setdefault(422, _response(422))
    invalid["content"]["application/json"] = {"schema": _ref(HTTPValidationError), "example": _INVALID}
    return found


class _Terms(NamedTuple):
    """What an endpoint says of its failures."""

    name: str
    problems: Sequence[type[errors.Problem]]
    idempotent: bool


def _terms(endpoint: Endpoint[Any, Any] | Callable[..., Any]) -> _Terms:
    if isinstance(endpoint, Endpoint):
        return _Terms(endpoint.name, endpoint.problems, endpoint.idempotent)
    if (policy := policy_of(endpoint)) is None:
        raise errors.UsageError(f"{endpoint!r} is no Endpoint and no function under @endpoint")
    return _Terms(endpoint.__name__, policy.get("problems", ()), policy.get("idempotent", False))


def _responses(terms: _Terms, problem: dict[str, Any], *, without: set[type[errors.OffloopError]]) -> Responses:
    found: Responses = {}
    for error in _failures(terms):
        if type(error) in without:
            continue
        response = found.setdefault(error.status, _response(error.status))
        media = response["content"].setdefault(PROBLEM_JSON, {"schema": problem, "examples": {}})
        said = problems.document(error, EXAMPLE_ID, EXAMPLE_INSTANCE)
        media["examples"].setdefault(error.reason, {"summary": error.title, "value": said})
    return found


def _failures(terms: _Terms) -> Iterator[errors.OffloopError]:
    """One occurrence of each."""
    for error in errors.BY_REASON.values():
        # 499 is never sent, and a payload that does not validate has a shape of its own.
        if error in (errors.Cancelled, errors.InvalidPayload):
            continue
        for started in (False, True) if error is errors.DrainCut else (error in BEGUN,):
            yield error(endpoint=terms.name, started=started, retry_safe=not started or terms.idempotent)
    for problem in terms.problems:
        said = problem.__new__(problem)  # its `__init__` is the user's, and may take anything
        errors.Problem.__init__(said)
        said.endpoint = terms.name
        yield said


def _response(status: int) -> dict[str, Any]:
    headers = {"X-Request-ID": REQUEST_ID} | ({"Retry-After": RETRY_AFTER} if status in (429, 503) else {})
    return {"description": _phrase(status), "headers": headers, "content": {}}


def _phrase(status: int) -> str:
    """Also of a status that only a Problem knows."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "The request was refused"


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


_INVALID = {"detail": [{"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": {}}]}
