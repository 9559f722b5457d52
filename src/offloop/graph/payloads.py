"""Typed messages as bytes: the codec of one endpoint, compiled once.

Owns the choice of readers and writers, and nothing else; what they do is in `payload_requests`, `payload_structs` and
`payload_replies`. Which types travel at all is in `payload_types`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from offloop.graph.payload_errors import errors_from_json, errors_json
from offloop.graph.payload_replies import writer_for
from offloop.graph.payload_requests import reader_for
from offloop.graph.payload_types import travels
from offloop.messages import Envelope
from offloop.ports.codec import Codec, Encoded

if TYPE_CHECKING:
    from offloop.graph.endpoint import Endpoint

__all__ = ["codec_for", "errors_from_json", "errors_json", "travels"]


def codec_for(endpoint: "Endpoint[Any, Any]") -> Codec:
    """The codec of an endpoint whose types travel. Building it is slow (schemas are compiled), using it is not."""
    return EndpointCodec(endpoint)


class EndpointCodec:
    """One endpoint's `Codec`: what its readers and writers do, without a detour. Immutable, and so thread-safe."""

    def __init__(self, endpoint: "Endpoint[Any, Any]") -> None:
        requests = reader_for(endpoint.request)
        replies = writer_for(endpoint.reply)
        chunks = writer_for(endpoint.stream)
        self.decode_request: Callable[[Envelope], Any] = requests.decode
        self.encode_request: Callable[[Any], Encoded] = requests.encode
        self.encode_reply: Callable[[Any], Encoded] = replies.encode
        self.decode_reply: Callable[[Encoded], Any] = replies.decode
        self.encode_chunk: Callable[[Any], Encoded] = chunks.encode
        self.decode_chunk: Callable[[Encoded], Any] = chunks.decode
