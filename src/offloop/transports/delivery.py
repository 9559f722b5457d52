"""One envelope on the worker side, in whichever process its loop is.

Owns who has claimed it, whether anybody still waits, and how much of its stream may be sent. Rests on `list.pop`, which
is atomic with and without a GIL: no lock is taken on the way of a request that does not stream.
"""

from offloop.messages import WINDOW, Envelope
from offloop.transports.credit import Credit


class ClaimedDelivery:
    """`ports.work.Delivery`. Claimed by whoever pops its one claim: a loop that begins it, or a withdrawal.

    Attributes:
        place: its own in a table of what has begun, where the transport has one.
    """

    __slots__ = ("_claim", "_credit", "cancelled", "envelope", "place")

    def __init__(self, envelope: Envelope, place: int = 0) -> None:
        self.envelope = envelope
        self.place = place
        self.cancelled = False
        self._claim = [None]
        self._credit = Credit(WINDOW) if envelope.stream else None

    def begin(self) -> bool:
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True

    def spend(self, size: int, timeout: float) -> bool:
        return self._credit is not None and self._credit.spend(size, timeout)

    # ---- from the web side

    def grant(self, room: int) -> None:
        """Its caller has taken so many bytes."""
        if self._credit is not None:
            self._credit.grant(room)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.cancelled = True
        if self._credit is not None:
            self._credit.end()
