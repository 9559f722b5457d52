"""What is written to a broker, whichever it is, and how one knows that it is ours: requests, reports, orders, signed.

Owns the shapes beside those of `messages`, their bytes, their caps, and the signatures of both directions. A parcel is
a few fields, names and values in turn; nothing here sends one, and no key is ever written anywhere.

A signature is an HMAC-SHA256 over the direction, the name of the stream or queue, and all the bytes it vouches for:
namespace and pool, or inbox, are in the name; endpoint, rid (with its epoch), attempt, expiry and payload are in the
bytes.
"""

import hmac
import logging
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from offloop.clock import Clock
from offloop.messages import Begun, Chunk, Envelope, Freed, Outcome, Progressed, Requeued, Withdrawn

log = logging.getLogger("offloop")

BODY, SIGNATURE = b"e", b"s"
"""The fields of an entry."""
PART = 3 * 2**16
"""Bytes of a large parcel that are worked on in one go; a multiple of three, which base64 writes as four."""
LARGEST = 2**29
"""Bytes of the largest value that a Redis holds: for whoever hands on what it need not take itself."""
OVERHEAD = 2**20
"""Bytes that a parcel may have besides its payload."""
SAY_EVERY = 1.0
"""Seconds between two lines that say the same: whoever may write many entries is not to fill the log."""


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """A request on its way.

    Attributes:
        expires: the deadline, in seconds of the broker's clock.
        fingerprint: of its endpoint as the web process knows it.
        again: whether it may begin more than once.
        gate: by which its beginning is told, for a broker that needs to be told where.
        envelope: its own `deadline` means nothing on another host, and is 0.
    """

    expires: float
    fingerprint: str
    again: bool
    envelope: Envelope
    gate: str = ""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for it any more."""

    worker: str
    rid: str


class Grant(msgspec.Struct, frozen=True, array_like=True, tag="grant"):
    """Its caller has taken `room` bytes of its stream."""

    worker: str
    rid: str
    room: int


Returned = Begun | Chunk | Progressed | Outcome | Freed | Withdrawn | Requeued
"""What comes into an inbox. Instants in it are seconds of the broker's clock, or of whichever clock both sides read."""
Order = Cancel | Grant
"""What comes to a supervisor."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class NotOurs(Exception):
    """An entry that is not to be believed; its text says why, and holds nothing of it."""


class TooLarge(NotOurs):
    """Nothing is known of it: it has not been looked at."""


class Refusals:
    """Counts what was not believed, and says so: once in `SAY_EVERY` seconds for each reason. For one thread.

    Attributes:
        count: how many so far.
    """

    def __init__(self, what: str, clock: Clock) -> None:
        self.count = 0
        self._what = what
        self._clock = clock
        self._said: dict[str, float] = {}

    def add(self, fault: NotOurs) -> None:
        """One more."""
        self.count += 1
        now, why = self._clock(), str(fault)
        if now - self._said.get(why, float("-inf")) >= SAY_EVERY:
            self._said[why] = now
            log.warning("%s is dropped: %s (%d so far)", self._what, why, self.count)


class Seal(Generic[T]):
    """Writes and reads the entries of one kind of stream.

    Args:
        kind: what is in them.
        direction: kept apart from what other kinds of stream are signed with.
        keys: the first signs, each is believed; none: nothing is signed, and no signature is asked for.
        largest: bytes of an entry.
    """

    def __init__(self, kind: object, direction: str, keys: Sequence[str], largest: int) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._direction = direction.encode()
        self._keys = [key.encode() for key in keys]
        self._largest = largest

    def write(self, stream: str, what: T) -> tuple[str | bytes, ...]:
        """The fields of an entry of that stream, names and values in turn.

        Raises:
            ValueError: it cannot be written, or would be too large for whoever reads it.
        """
        body = self._encoded(what)
        if not self._keys:
            return BODY, body
        return BODY, body, SIGNATURE, self._sign(self._keys[0], stream, body)

    def writing(self, stream: str, what: T) -> Generator[None, None, tuple[str | bytes, ...]]:
        """The same, with a pause after each part of a large one."""
        body = self._encoded(what)
        yield
        if not self._keys:
            return BODY, body
        mac = hmac.new(self._keys[0], self._before(stream), "sha256")
        for part in parts_of(body):
            mac.update(part)
            yield
        return BODY, body, SIGNATURE, mac.digest()

    def _encoded(self, what: T) -> bytes:
        body = _encode(what)
        if len(body) > self._largest:
            raise ValueError(f"it has {len(body)} bytes, of {self._largest} that are taken")
        return body

    def read(self, stream: str, fields: Sequence[Any]) -> T:
        """What an entry of that stream holds.

        Raises:
            NotOurs: it is too large, is not signed as it must be, or cannot be read.
        """
        message, too_large = self.read_any(stream, fields, self._largest)
        if too_large is not None:
            raise too_large
        return message

    def read_any(self, stream: str, fields: Sequence[Any], largest: int = LARGEST) -> tuple[T, TooLarge | None]:
        """The same, and whether that is too large to be taken: it may be for another, whose version takes more.

        Raises:
            NotOurs: as `read`; it has more than `largest` bytes.
        """
        found = dict(zip(fields[::2], fields[1::2], strict=False))
        body = found.get(BODY, b"")
        if len(body) <= self._largest:
            return self._read(stream, body, found.get(SIGNATURE)), None
        too_large = TooLarge(f"it is larger than the {self._largest} bytes that are taken")
        if len(body) > largest:
            raise too_large
        try:
            return self._read(stream, body, found.get(SIGNATURE)), too_large
        except NotOurs:
            raise too_large from None

    def _read(self, stream: str, body: bytes, given: bytes | None) -> T:
        if self._keys:
            if given is None:
                raise NotOurs("it is not signed")
            if not any(hmac.compare_digest(given, self._sign(key, stream, body)) for key in self._keys):
                raise NotOurs("its signature does not fit: another key, or it was altered")
        try:
            read: T = self._decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise NotOurs("it cannot be read") from None
        return read

    def _sign(self, key: bytes, stream: str, body: bytes) -> bytes:
        signature = hmac.new(key, self._before(stream), "sha256")
        signature.update(body)  # apart: a large one is not copied for it
        return signature.digest()

    def _before(self, stream: str) -> bytes:
        return b"\0".join((self._direction, stream.encode(), b""))


def parts_of(data: bytes) -> Iterator[memoryview]:
    """Of a large one, each of which takes well under a millisecond to be signed or written in another way."""
    view = memoryview(data)
    for at in range(0, len(data), PART):
        yield view[at : at + PART]


def parcels(keys: Sequence[str], largest: int) -> Seal[Parcel]:
    """For streams of requests; `largest` is of a payload, in bytes."""
    return Seal(Parcel, "request", keys, largest + OVERHEAD)


def returns(keys: Sequence[str], largest: int) -> Seal[Returned]:
    """For inboxes; as above."""
    return Seal(Returned, "report", keys, largest + OVERHEAD)


def orders(keys: Sequence[str]) -> Seal[Order]:
    """For what goes to supervisors."""
    return Seal(Order, "order", keys, OVERHEAD)
