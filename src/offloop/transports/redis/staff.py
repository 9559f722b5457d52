"""Who takes requests of a pool: announced by supervisors, read by web processes. Owns the shape of an announcement."""

import msgspec

from offloop.transports.redis.names import ANNOUNCED, FORGOTTEN
from offloop.transports.redis.wire import Reply


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """One worker process, in a hash by its name.

    Attributes:
        until: seconds of the broker's clock; after that it does not count.
        loops: how many it has, and how many of them are `busy`.
    """

    until: float
    loops: int
    busy: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Announcement).decode


def announcement(broker_now: float, loops: int, busy: int) -> bytes:
    """The value for the hash."""
    return _encode(Announcement(broker_now + ANNOUNCED, loops, busy))


def forgotten(reply: Reply, broker_now: float) -> list[bytes]:
    """The names of those in an HGETALL's answer who have not counted for so long that nobody need know of them."""
    if not isinstance(reply, list):
        return []
    named = zip(reply[::2], reply[1::2], strict=False)
    return [name for name, value in named if (said := _read(value)) is not None and said.until + FORGOTTEN < broker_now]


def present(reply: Reply, broker_now: float) -> dict[str, tuple[int, int]]:
    """(loops, busy) by name, of those in an HGETALL's answer who count now."""
    there: dict[str, tuple[int, int]] = {}
    if not isinstance(reply, list):
        return there
    for name, value in zip(reply[::2], reply[1::2], strict=False):
        said = _read(value)
        if said is not None and said.until > broker_now:
            there[name.decode(errors="replace")] = (said.loops, said.busy)
    return there


def _read(value: bytes) -> Announcement | None:
    """None for what cannot be read: of a later version, perhaps."""
    try:
        return _decode(value)
    except (msgspec.DecodeError, ValueError):
        return None
