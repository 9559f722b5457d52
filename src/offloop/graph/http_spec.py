"""How one endpoint meets HTTP: what its path and query carry, what its body may be, and in what form that travels.

Owns `HttpSpec`, which is compiled at preflight and read on the event loop, where it handles a few short texts and
never a body. It knows no web framework: an adapter builds its routes and its OpenAPI document from the attributes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_to_bytes

from offloop.graph.kinds import name_of, stripped
from offloop.graph.payload_fields import Field, fields_of
from offloop.messages import Blob, Form

if TYPE_CHECKING:
    from offloop.graph.endpoint import Endpoint

Where = Literal["path", "query"]
Body = Literal["none", "json", "raw", "blob-field"]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_QUERY = 1000
"""So many name=value pairs of a query string are looked at; the rest is passed over like unknown names."""

_JSON_TYPES = ("application/json", "application/*+json")
_PATH_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")
_PATH_TEXT = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*")
_MEDIA_RANGE = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/(\*|[a-z0-9!#$&^_.+-]+)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that comes as text beside the body.

    Attributes:
        name: in the path or in the query.
        field: the request's field that it becomes: its annotation with all constraints, its default and description.
    """

    where: Where
    name: str
    field: Field


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """One endpoint's HTTP side. Immutable.

    Attributes:
        method, path: of the route; fields in the path are `{name}`, or `{name:path}` for one that holds slashes.
        path_fields, query_fields: their names on the wire; a field with several aliases has several in the query.
        body: `none`: all is in path and query, whatever body is sent; `json`; `raw`: a Blob; `blob-field`: a model
            with one Blob field, as a raw body (the rest is in the query) or as a multipart form.
        media_types: what the body may be, patterns like `image/*` included; None: anything. A blob-field takes
            `multipart/form-data` as well. Empty where there is no body.
        parameters: path and query fields in their order, for an adapter's signature or document.
    """

    method: str
    path: str
    path_fields: tuple[str, ...]
    query_fields: tuple[str, ...]
    body: Body
    media_types: tuple[str, ...] | None
    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, endpoint: "Endpoint[Any, Any]") -> "HttpSpec":
        """The spec that an endpoint's `http`, `request` and `media_types` make.

        Raises:
            ValueError: they cannot work together. The text says why, and the remedy.
        """
        method, path = _method_and_path(endpoint.http)
        fields = fields_of(endpoint.request)
        in_path = path_parameters(path, fields, endpoint.request)
        rest = [field for field in fields or () if not any(field is parameter.field for parameter in in_path)]
        body = _body(method, endpoint.request, fields, rest)
        in_query = _query_parameters(body, rest)
        if body == "json":
            check_strict(in_path)
        return cls(
            method=method,
            path=path,
            path_fields=tuple(parameter.name for parameter in in_path),
            query_fields=tuple(name for parameter in in_query for name in parameter.field.names),
            body=body,
            media_types=_media_types(body, endpoint.media_types),
            parameters=(*in_path, *in_query),
        )

    def form_of(self, content_type: str | None) -> Form | None:
        """The form of a body with this Content-Type; None if it is not accepted (415 unsupported-media-type).

        Parameters and case do not count. A JSON body without a Content-Type is refused, as FastAPI's
        `strict_content_type` does: a browser would send it across origins without asking. A Blob without one is
        accepted where anything is.
        """
        if self.body == "none":
            return "none"
        essence = (content_type or "").partition(";")[0].strip().lower()
        if self.body == "json":
            is_json = essence == "application/json" or (
                essence.startswith("application/") and essence.endswith("+json")
            )
            return "json" if is_json else None
        if self.body == "blob-field" and essence == "multipart/form-data":
            return "multipart"
        return "raw" if self.media_types is None or self._accepts(essence) else None

    def fields(self, path_params: Mapping[str, str], query_string: bytes) -> tuple[tuple[str, str, str], ...]:
        """(where, name, value) of what the endpoint takes from path and query; what it does not know is passed over.

        Args:
            path_params: values by name, decoded.
            query_string: as it came, percent-encoded.
        """
        if not self.parameters:
            return ()
        found = [("path", name, str(path_params[name])) for name in self.path_fields]
        if self.query_fields and query_string:
            for pair in query_string.split(b"&", MAX_QUERY)[:MAX_QUERY]:
                name, _, value = pair.partition(b"=")
                if (known := _text(name)) in self.query_fields:
                    found.append(("query", known, _text(value)))
        return tuple(found)

    def _accepts(self, essence: str) -> bool:
        kind = essence.partition("/")[0]
        return any(accepted in (essence, f"{kind}/*", "*/*") for accepted in self.media_types or ()) and "/" in essence


def _text(raw: bytes) -> str:
    if b"%" in raw or b"+" in raw:
        raw = unquote_to_bytes(raw.replace(b"+", b" "))
    return raw.decode("utf-8", "replace")


def _method_and_path(http: Any) -> tuple[str, str]:
    method, space, path = http.partition(" ") if isinstance(http, str) else ("", "", "")
    if not space or method not in METHODS:
        raise ValueError(f"http={http!r} is not 'METHOD /path' with one of {', '.join(METHODS)}")
    try:
        check_path(path)
    except ValueError as reason:
        raise ValueError(f"http={http!r}: {reason}") from None
    return method, path


def check_path(path: str) -> None:
    """Raises ValueError where it is no path of a route."""
    names = [found[1] for found in _PATH_FIELD.finditer(path)]
    if not path.startswith("/") or not _PATH_TEXT.fullmatch(_PATH_FIELD.sub("", path)):
        raise ValueError(
            "the path begins with '/', its fields are like {name} or {name:path}, and what is not plain ASCII is "
            "percent-encoded; it has no query"
        )
    if len(set(names)) < len(names):
        raise ValueError("the path names a field twice. Each field is in it once")


def path_parameters(path: str, fields: tuple[Field, ...] | None, request: Any) -> list[Parameter]:
    """The request's fields that its path names, in the path's order. Raises ValueError where one cannot be such."""
    found: list[Parameter] = []
    for match in _PATH_FIELD.finditer(path):
        name, of = match[1], name_of(stripped(request))
        if fields is None:
            raise ValueError(
                f"the path has a field {{{name}}}, but {of} has no fields. Make the request a pydantic model, a "
                f"dataclass or a Struct that has one of that name"
            )
        field = next((field for field in fields if name in field.names), None) or next(
            (field for field in fields if name == field.name and field.names), None
        )
        if field is None:
            has = ", ".join(field.name for field in fields) or "none"
            raise ValueError(f"the path has a field {{{name}}}, and {of} has none of that name (it has {has})")
        if field.blob:
            raise ValueError(f"the path's field {{{name}}} is a Blob, which comes in the body. Take it out of the path")
        if field.many or not field.text:
            raise ValueError(f"the path's field {{{name}}} is no single value of text. Take it out of the path")
        if any(field is other.field for other in found):
            raise ValueError(f"the path gives {of}.{field.name} twice, by two of its names. Keep one of them")
        found.append(Parameter("path", name, field))
    return found


def _body(method: str, request: Any, fields: tuple[Field, ...] | None, rest: list[Field]) -> Body:
    of = name_of(stripped(request))
    blobs = [field for field in rest if field.blob]
    if method in ("GET", "DELETE"):
        if stripped(request) is Blob or blobs:
            raise ValueError(f"a {method} has no body for the Blob. Use POST, PUT or PATCH")
        if fields is None:
            raise ValueError(
                f"a {method} takes its request from path and query, and {of} has no fields. Make the request a "
                f"pydantic model, a dataclass or a Struct"
            )
        return "none"
    if stripped(request) is Blob:
        return "raw"
    if len(blobs) > 1:
        names = ", ".join(field.name for field in blobs)
        raise ValueError(f"{of} has several Blobs ({names}), and a raw body is one. Keep one, or leave http= out")
    if blobs:
        return "blob-field"
    return "none" if fields and not rest else "json"


def _query_parameters(body: Body, rest: list[Field]) -> list[Parameter]:
    if body == "json":
        return []
    found = []
    for field in rest:
        if field.blob:
            continue
        if not field.names:
            raise ValueError(f"the field {field.name} has an alias that reaches into a structure, and a query has none")
        if not field.text:
            raise ValueError(
                f"the field {field.name} cannot come from a query: it is no single value of text, nor a list of such. "
                f"Make it flat, or take the request as JSON (POST, PUT, PATCH, and no Blob)"
            )
        found.append(Parameter("query", field.names[0], field))
    return found


def check_strict(in_path: list[Parameter]) -> None:
    """Raises ValueError where a field that goes over a JSON body would refuse the text that a path holds."""
    for parameter in in_path:
        if parameter.field.strict and stripped(parameter.field.annotation) is not str:
            raise ValueError(
                f"the path's field {{{parameter.name}}} is strict, and what a path holds is text. "
                f"Give the field Field(strict=False)"
            )


def _media_types(body: Body, declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if body in ("none", "json"):
        if declared is not None:
            raise ValueError("media_types are of a Blob's body, and there is none here. Leave them out")
        return _JSON_TYPES if body == "json" else ()
    if declared is None:
        return None
    accepted = tuple(str(media_type).strip().lower() for media_type in declared)
    for media_type in accepted:
        if not _MEDIA_RANGE.fullmatch(media_type):
            raise ValueError(f"media_types has {media_type!r}, which is not like 'application/pdf' or 'image/*'")
    if not accepted:
        raise ValueError("media_types is empty, so that no body is accepted. Leave it out to accept any")
    return accepted
