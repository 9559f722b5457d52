"""How one endpoint meets a WebSocket: what its path carries, and what one frame of its requests is.

Owns `SocketSpec`, which preflight judges and a router reads once. What a path's fields may be is the same as for
`http=`. No frame is read here, and no web framework is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offloop.graph.http_spec import check_path, check_strict, path_parameters
from offloop.graph.kinds import name_of, stripped
from offloop.graph.payload_fields import fields_of
from offloop.messages import Blob

if TYPE_CHECKING:
    from offloop.graph.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class SocketSpec:
    """One endpoint's side of a WebSocket. Immutable.

    Attributes:
        path: of the route; its fields are `{name}`, or `{name:path}` for one that holds slashes.
        path_fields: their names, which are the request's.
        raw: whether a request is a binary frame; otherwise it is the `data` of a text frame.
        media_type: of a binary frame; None where the endpoint leaves a choice.
    """

    path: str
    path_fields: tuple[str, ...]
    raw: bool
    media_type: str | None

    @classmethod
    def of(cls, endpoint: "Endpoint[Any, Any]") -> "SocketSpec":
        """The spec that an endpoint's `websocket`, `request` and `media_types` make.

        Raises:
            ValueError: they cannot work together. The text says why, and the remedy.
        """
        path = endpoint.websocket
        assert path is not None
        check_path(path)
        fields = fields_of(endpoint.request)
        in_path = path_parameters(path, fields, endpoint.request)
        check_strict(in_path)
        for field in fields or ():
            if field.blob:
                raise ValueError(
                    f"{name_of(stripped(endpoint.request))}.{field.name} is a Blob, and a frame is JSON or the bytes "
                    f"of one Blob, never both. Make the request the Blob alone, make the field base64 text "
                    f"(pydantic.Base64Bytes), or leave websocket= out"
                )
        accepted = endpoint.media_types or ()
        return cls(
            path=path,
            path_fields=tuple(parameter.name for parameter in in_path),
            raw=stripped(endpoint.request) is Blob,
            media_type=accepted[0] if len(accepted) == 1 and "*" not in accepted[0] else None,
        )

    def fields(self, path_params: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
        """(where, name, value) of what every request of one socket takes from its path.

        Args:
            path_params: values by name, decoded; those of a prefix are passed over.
        """
        return tuple(("path", name, str(path_params[name])) for name in self.path_fields)
