"""Port for typed message ⇄ bytes, of one endpoint. No implementation, no policy."""

from typing import Any, NamedTuple, Protocol

from offloop.messages import Envelope, Form


class Encoded(NamedTuple):
    """A message as bytes, and how they are to be read."""

    payload: bytes
    form: Form = "json"
    media_type: str | None = None
    filename: str | None = None


class Codec(Protocol):
    """Thread-safe. Decoding a request validates it; everything else trusts the program."""

    def decode_request(self, envelope: Envelope) -> Any:
        """Raises `errors.InvalidPayload` with FastAPI's list of errors."""

    def encode_request(self, message: Any) -> Encoded:
        """For `ask`. Raises TypeError where the message is not of the request type."""

    def encode_reply(self, message: Any) -> Encoded:
        """Raises ValueError or TypeError where the message cannot be written."""

    def decode_reply(self, encoded: Encoded) -> Any:
        """The reply as `ask` returns it."""

    def encode_chunk(self, message: Any) -> Encoded:
        """A stream message. Raises as `encode_reply` does."""

    def decode_chunk(self, encoded: Encoded) -> Any:
        """The stream message as a caller in Python gets it."""
