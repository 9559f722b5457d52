"""Typed messages as bytes: the codec of one endpoint, compiled once.

Owns the choice of readers and writers, and nothing else; what they do is in `payload_requests`, `payload_structs` and
`payload_replies`. Which types travel at all is in `payload_types`.
"""

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
    """One endpoint's `Codec`. Immutable once built, and so thread-safe."""

    def __init__(self, endpoint: "Endpoint[Any, Any]") -> None:
        requests = reader_for(endpoint.request)
        replies = writer_for(endpoint.reply)
        chunks = writer_for(endpoint.stream)
        self._name = endpoint.name
        self._streams = endpoint.stream is not None
        self._decode_request = requests.decode
        self._encode_request = requests.encode
        self._encode_reply = replies.encode
        self._decode_reply = replies.decode
        self._encode_chunk = chunks.encode
        self._decode_chunk = chunks.decode

    def decode_request(self, envelope: Envelope) -> Any:
        return self._decode_request(envelope)

    def encode_request(self, message: Any) -> Encoded:
        return self._encode_request(message)

    def encode_reply(self, message: Any) -> Encoded:
        return self._encode_reply(message)

    def decode_reply(self, encoded: Encoded) -> Any:
        return self._decode_reply(encoded)

    def encode_chunk(self, message: Any) -> Encoded:
        return self._encode_chunk(message)

    def decode_chunk(self, encoded: Encoded) -> Any:
        """The stream message as `off.stream` hands it out."""
        return self._decode_chunk(encoded)
