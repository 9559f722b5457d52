"""Who takes requests of a pool: announced by workers' hosts, read by web processes. Owns the shape of an announcement.

Whoever is killed takes nothing back. So a hash in which nobody says anything any more ends by itself, and of one in
which others do, those who read it take out who has been silent for long.
"""

from collections.abc import Sequence

import msgspec

from offloop.transports.redis.names import ANNOUNCED, FORGOTTEN
from offloop.transports.redis.wire import Command, Reply


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


def announcing(key: str, said: Sequence[str | bytes]) -> list[Command]:
    """`said`: names and announcements in turn."""
    return [("HSET", key, *said), ("PEXPIRE", key, round((ANNOUNCED + FORGOTTEN) * 1000))]


def present(reply: Reply, broker_now: float) -> dict[str, tuple[int, int]]:
    """(loops, busy) by name, of those in an HGETALL's answer who count now."""
    return {
        name.decode(errors="replace"): (said.loops, said.busy) for name, said in _read(reply) if said.until > broker_now
    }


def forgetting(keys: Sequence[str], replies: Sequence[Reply], broker_now: float) -> list[Command]:
    """What takes those out, of the hashes with these answers, who have been silent for long."""
    commands: list[Command] = []
    for key, reply in zip(keys, replies, strict=True):
        silent = [name for name, said in _read(reply) if said.until + FORGOTTEN < broker_now]
        if silent:
            commands.append(("HDEL", key, *silent))
    return commands


def _read(reply: Reply) -> list[tuple[bytes, Announcement]]:
    found: list[tuple[bytes, Announcement]] = []
    if isinstance(reply, list):
        for name, value in zip(reply[::2], reply[1::2], strict=False):
            try:
                found.append((name, _decode(value)))
            except (msgspec.DecodeError, ValueError):  # of a later version, perhaps
                continue
    return found
