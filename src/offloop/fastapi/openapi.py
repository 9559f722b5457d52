"""One endpoint as FastAPI documents a route.

Owns the signature, the responses and the body descriptions from which FastAPI itself makes the OpenAPI document. What
is described here is never called: requests take another way (`http.py`).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Body, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema

from offloop.fastapi.responses import REQUEST_ID, Responses, route_responses
from offloop.fastapi.schemas import Schema, known_to_pydantic, schema_of
from offloop.graph.endpoint import Endpoint
from offloop.graph.http_spec import HttpSpec
from offloop.graph.kinds import parts, stripped
from offloop.graph.payload_fields import Field
from offloop.messages import Blob

BINARY: Schema = {"type": "string", "format": "binary"}
TEXT: Schema = {"type": "string"}
EVENTS: Schema = {
    "type": "string",
    "description": "For callers that accept it: `chunk` and `progress` events, then one `reply` or `problem`.",
}
SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0}
TIMEOUT = "Seconds after which the caller wants no answer any more. Shortens the endpoint's time, never lengthens it."
LABEL = "A label for this request, returned and logged. 1 to 128 visible ASCII characters; otherwise one is made."


@dataclass(frozen=True)
class Documented:
    """What `APIRouter.add_api_route` is told of an endpoint."""

    function: Callable[..., Any]
    responses: Responses
    response_model: Any = None
    response_class: type[Response] = JSONResponse
    openapi_extra: dict[str, Any] = field(default_factory=dict)


def documented(endpoint: Endpoint[Any, Any], spec: HttpSpec) -> Documented:
    """Describe an endpoint: its parameters and body as a signature, its outcomes as responses."""
    responses = route_responses(endpoint)
    success, model = _success(endpoint)
    responses[endpoint.status] = success
    if endpoint.stream is not None:  # events are a 200 whatever the reply is
        streamed = responses.setdefault(200, {"headers": {"X-Request-ID": REQUEST_ID}})
        streamed.setdefault("content", {})["text/event-stream"] = {"schema": EVENTS}
    extra: dict[str, Any] = {}
    if (body := _undeclared_body(endpoint, spec)) is not None:
        extra["requestBody"] = body
    return Documented(
        function=_function(endpoint, spec),
        responses={status: responses[status] for status in sorted(responses, key=int)},
        response_model=model,
        response_class=JSONResponse if model is not None else Response,
        openapi_extra=extra,
    )


def _success(endpoint: Endpoint[Any, Any]) -> tuple[dict[str, Any], Any]:
    """The reply's response, and its model where FastAPI can describe that by itself."""
    response: dict[str, Any] = {"headers": {"X-Request-ID": REQUEST_ID}}
    if endpoint.reply is None:
        return response, None
    members = [stripped(part) for part in parts(endpoint.reply)]
    if Blob in members:
        response["content"] = {"*/*": {"schema": BINARY}}
    if members == [Blob]:
        return response, None
    if known_to_pydantic(endpoint.reply):
        return response, endpoint.reply
    schema = schema_of(endpoint.reply, "serialization")
    response.setdefault("content", {})["application/json"] = {"schema": schema}
    return response, None


def _function(endpoint: Endpoint[Any, Any], spec: HttpSpec) -> Callable[..., Any]:
    async def called() -> None:  # pragma: no cover
        raise AssertionError("an offloop route is served without calling the function that describes it")

    parameters = [*_fields(spec), *_declared_body(endpoint, spec), *_headers()]
    called.__name__ = endpoint.name
    called.__doc__ = endpoint.description
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


def _headers() -> list[inspect.Parameter]:
    # Not `| None`: a header may be left out, and cannot be null.
    label = Annotated[Annotated[Any, WithJsonSchema(TEXT)], Header(alias="X-Request-ID", description=LABEL)]
    seconds = Annotated[Annotated[Any, WithJsonSchema(SECONDS)], Header(alias="X-Request-Timeout", description=TIMEOUT)]
    return [_parameter("offloop_label", label, None), _parameter("offloop_timeout", seconds, None)]


def _fields(spec: HttpSpec) -> list[inspect.Parameter]:
    """Parameters of the path, then of the query."""
    found = []
    for parameter in spec.parameters:
        described = parameter.field
        annotation: Any = _schema(described)
        about = described.info.description
        if parameter.where == "path":
            found.append(_parameter(parameter.name, Annotated[annotation, Path(description=about)]))
            continue
        # A form has them as parts instead, so that beside a body none can be said to be required.
        required = described.required and spec.body != "blob-field"
        query = Annotated[annotation, Query(alias=parameter.name, description=about)]
        found.append(_parameter(f"offloop_{described.name}", query, ... if required else _default(described)))
    return found


def _declared_body(endpoint: Endpoint[Any, Any], spec: HttpSpec) -> list[inspect.Parameter]:
    """The JSON body as a parameter; whole where nothing of it comes from elsewhere, so that its model is named."""
    if spec.body != "json":
        return []
    annotation: Any = endpoint.request
    if not spec.path_fields and known_to_pydantic(annotation):
        return [_parameter("offloop_body", Annotated[annotation, Body()])]
    schema = _without(schema_of(annotation), spec.path_fields)
    body = Body(title=schema.get("title"))
    return [_parameter("offloop_body", Annotated[Annotated[Any, WithJsonSchema(schema)], body])]


def _undeclared_body(endpoint: Endpoint[Any, Any], spec: HttpSpec) -> dict[str, Any] | None:
    """A body that FastAPI has no parameter for: bytes as they are, or a form."""
    if spec.body not in ("raw", "blob-field"):
        return None
    kinds = [kind for kind in spec.media_types or ("*/*",) if not kind.startswith("multipart/")]
    content: dict[str, Any] = {kind: {"schema": BINARY} for kind in kinds}
    if spec.body == "blob-field":
        form = _without(schema_of(endpoint.request), spec.path_fields)
        content["multipart/form-data"] = {"schema": form}
    return {"required": True, "content": content}


def _without(schema: Schema, names: tuple[str, ...]) -> Schema:
    """An object's schema without some of its properties."""
    properties = {name: part for name, part in schema.get("properties", {}).items() if name not in names}
    required = [name for name in schema.get("required", ()) if name not in names]
    return {**schema, "properties": properties} | ({"required": required} if "required" in schema else {})


def _schema(described: Field) -> Any:
    """A field's type as FastAPI takes it for a parameter whatever it is: anything at all, with its schema."""
    schema = schema_of(described.annotation)
    if described.info.title:
        schema["title"] = described.info.title
    return Annotated[Any, WithJsonSchema(schema)]


def _default(described: Field) -> Any:
    """A default that can be written into a document; None for every other, which says no more than "not required"."""
    default = described.info.get_default()
    return default if isinstance(default, str | int | float) else None


def _parameter(name: str, annotation: Any, default: Any = ...) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=inspect.Parameter.empty if default is ... else default,
    )
