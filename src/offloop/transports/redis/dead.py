"""Dead letters: requests whose workers died once too often, looked at, sent again, or dropped, by people.

Owns the way into and out of the stream that `reaping` writes. It blocks, and is for the command line only; it needs no
program, because a letter is handed on as it is.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from offloop.ingress.ids import rids
from offloop.messages import Envelope
from offloop.transports.parcels import LARGEST, SIGNATURE, NotOurs, Parcel, parcels
from offloop.transports.redis.names import Names
from offloop.transports.redis.wire import Address, BrokerError, Command, Line, Reply, ReplyError

AT_ONCE = 50
"""Letters that one command reads."""

REPLAY = """
-- KEYS: dead letters, requests. ARGV: the letter's id, and the fields of the request. Once, whoever else tries.
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return false
end
return redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
"""


class Letter(NamedTuple):
    """One of them.

    Attributes:
        id: the broker's.
        parcel: what it was; None where it cannot be believed, and `why` says why.
    """

    id: str
    parcel: Parcel | None
    why: str = ""

    @property
    def died_at(self) -> datetime:
        """By the broker's clock."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)


class DeadLetters:
    """Those of one pool.

    Args:
        keys: that sign, or none where nothing is signed.

    Raises:
        BrokerError: by everything, where the broker cannot be reached or refuses.
    """

    def __init__(self, address: Address, names: Names, pool: str, keys: Sequence[str]) -> None:
        self._stream = names.dead(pool)
        self._requests = names.requests(pool)
        self._signs = bool(keys)
        self._parcels = parcels(keys, LARGEST)  # what a Redis has taken is shown
        self._line = Line(address, patience=10.0)

    def close(self) -> None:
        self._line.close()

    def all(self) -> Iterator[Letter]:
        """The oldest first, as many as there are now: one that dies again meanwhile is not among them."""
        newest = self._ask("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        if not newest:
            return
        first = "-"
        while entries := self._ask("XRANGE", self._stream, first, newest[0][0], "COUNT", AT_ONCE):
            yield from (self._letter(entry) for entry in entries)
            first = f"({entries[-1][0].decode()}"

    def find(self, id: str) -> Letter | None:  # noqa: A002
        """None where there is no such letter."""
        entries = self._ask("XRANGE", self._stream, id, id)
        return self._letter(entries[0]) if entries else None

    def replay(self, letter: Letter, timeout: float) -> bool:
        """Queue it once more, beyond the bound, as if for the first time: under a new id, with `timeout` seconds to go.

        Nobody waits for it, and its reply is for nobody: that it has no inbox says so, and that it is a dead letter
        again where no worker takes it in time. False: it is there no more, or cannot be believed.
        """
        if letter.parcel is None:
            return False
        envelope = msgspec.structs.replace(letter.parcel.envelope, rid=rids()(), reply_to="", attempt=1, trace=())
        seconds, micros = self._ask("TIME")
        expires = int(seconds) + int(micros) / 1e6 + timeout
        parcel = msgspec.structs.replace(letter.parcel, expires=expires, envelope=envelope)
        fields = self._parcels.write(self._requests, parcel)
        return self._ask("EVAL", REPLAY, 2, self._stream, self._requests, letter.id, *fields) is not None

    def drop(self, letter: Letter) -> bool:
        """False: it is there no more."""
        return bool(self._ask("XDEL", self._stream, letter.id))

    def _letter(self, entry: Reply) -> Letter:
        id_, fields = entry[0].decode(), entry[1]
        if not self._signs and SIGNATURE in fields[::2]:  # sent again without one, every worker would drop it
            return Letter(id_, None, "it is signed, and OFFLOOP_SIGNING_KEY is not set")
        try:
            return Letter(id_, self._parcels.read(self._requests, fields))  # as it lay among them
        except NotOurs as fault:
            return Letter(id_, None, str(fault))

    def _ask(self, *command: str | bytes | int) -> Reply:
        asked: Command = command
        (reply,) = self._line.exchange([asked])
        if isinstance(reply, ReplyError):
            raise BrokerError(f"the broker refuses it: {reply}")
        return reply


PREVIEW = 400
"""Characters that are shown of a payload."""


def preview(envelope: Envelope) -> str:
    """The beginning of a payload, in characters that no terminal acts on."""
    text = envelope.payload[: 4 * PREVIEW].decode(errors="replace")
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:PREVIEW])
    return shown if len(text) <= PREVIEW and len(envelope.payload) <= 4 * PREVIEW else f"{shown}…"
