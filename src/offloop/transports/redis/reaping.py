"""What lay with workers that are no more: found, taken over, and brought to its end or to another worker.

Every web process and every supervisor looks, so that no death needs a particular survivor. What is found is claimed
first, under the looker's own name, so that two of them never act on one. What becomes of it is `core/redelivery`'s.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from offloop.core.redelivery import Fate, fate
from offloop.messages import Outcome, Requeued
from offloop.transports.parcels import NotOurs, Parcel, Refusals, Returned, Seal
from offloop.transports.redis import scripts
from offloop.transports.redis.names import FORGOTTEN, GROUP, LEASE, Mark, Names, mark_of
from offloop.transports.redis.wire import Command, Reply, ReplyError

log = logging.getLogger("offloop")

AT_ONCE = 32
"""Requests that one look takes over."""
ANSWERED_WITHIN = 0.3
"""Seconds after which a look is not to be done any more."""
GRACE = 2.5
"""Seconds that a link is up before its owner looks: when a broker comes back, those whose leases have run out meanwhile
are to renew them first."""
KEPT = 10_000
"""Dead letters of a pool, about; the oldest go first."""

Ask = Callable[[Sequence[Command], Callable[[list[Reply]], None]], None]
"""Sends commands, and gives their replies to the callback, if they are answered at all."""


def dead_letter(names: Names, pool: str, fields: Sequence[Reply]) -> Command:
    """Keep a request for people, as it lay there."""
    return ("XADD", names.dead(pool), "MAXLEN", "~", KEPT, "*", *fields)


class Reaper:
    """Of one pool.

    Args:
        name: whose name is on what was taken over.
        parcels: of any size: what is found need not be of this version of the program.
        broker_now: the broker's clock, in seconds.
    """

    def __init__(
        self,
        names: Names,
        pool: str,
        name: str,
        parcels: Seal[Parcel],
        returns: Seal[Returned],
        *,
        max_deliveries: int,
        broker_now: Callable[[], float],
    ) -> None:
        self._names = names
        self._pool = pool
        self._stream = names.requests(pool)
        self._name = f"reaper:{name}"
        self._parcels = parcels
        self._returns = returns
        self._max_deliveries = max_deliveries
        self._broker_now = broker_now
        self._sweeps_at = 0.0
        self._refusals = Refusals("a request that a lost worker had", broker_now)

    @property
    def refused(self) -> int:
        """Entries that were not believed."""
        return self._refusals.count

    def look(self, ask: Ask) -> None:
        """Take over what nobody has renewed for a lease. Not to be asked before those who renew had time to come back:
        see `GRACE`.
        """
        until = self._broker_now() + ANSWERED_WITHIN
        command = scripts.look(self._stream, self._name, LEASE, AT_ONCE, until)
        ask([command], lambda claimed: self._claimed(claimed[0], ask))
        if self._broker_now() >= self._sweeps_at:  # of a host that was lost nobody else dismisses the loops
            self._sweeps_at = self._broker_now() + FORGOTTEN
            ask([scripts.sweep(self._stream, FORGOTTEN)], lambda _: None)

    def take_over(self, marks: Mapping[str, Mark], ask: Ask) -> None:
        """Take over all that these consumers have, at once: they are known to be no more.

        Args:
            marks: by consumer, the last that it has begun. What comes after that goes to another, whatever it is.
        """

        def found(replies: list[Reply]) -> None:
            held = [entry for reply in replies if not isinstance(reply, ReplyError) for entry in reply]
            if not held:
                ask([scripts.dismiss(self._stream, tuple(marks))], lambda _: None)
                return
            unbegun = {id_ for id_, holder, *_ in held if mark_of(id_) > marks[holder.decode()]}
            ids = [entry[0] for entry in held]
            ask([("XCLAIM", self._stream, GROUP, self._name, 0, *ids)], lambda claimed: taken(claimed[0], unbegun))

        def taken(claimed: Reply, unbegun: Collection[bytes]) -> None:
            if not isinstance(claimed, ReplyError):
                self._end(claimed, ask, lambda id_: id_ not in unbegun)
                self.take_over(marks, ask)  # there may be more

        ask([("XPENDING", self._stream, GROUP, "-", "+", AT_ONCE, one) for one in marks], found)

    def _claimed(self, entries: Reply, ask: Ask) -> None:
        """With the supervisor the evidence is gone: what was delivered may have begun."""
        if not isinstance(entries, ReplyError):
            self._end(entries, ask, lambda _: None)

    def _end(self, entries: Sequence[Reply], ask: Ask, begun: Callable[[bytes], bool | None]) -> None:
        commands = [command for each in entries if each is not None for command in self._ends(begun(each[0]), *each)]
        if commands:
            ask([("MULTI",), *commands, ("EXEC",)], self._ended)

    def _ended(self, replies: list[Reply]) -> None:
        if isinstance(replies[-1], ReplyError):  # claimed again in a lease's time
            log.warning("what a lost worker has left cannot be ended now: %s", replies[-1])

    def _ends(self, begun: bool | None, id: bytes, fields: Sequence[Reply] | None) -> list[Command]:  # noqa: A002
        """What to do about one, all or nothing."""
        done: list[Command] = [("XACK", self._stream, GROUP, id), ("XDEL", self._stream, id)]
        if fields is None:  # deleted, and only its place in the list of what was delivered is left
            return done
        try:
            parcel = self._parcels.read(self._stream, fields)
        except NotOurs as fault:
            self._refusals.add(fault)
            return done
        envelope = parcel.envelope
        unbegun = begun is False
        end = fate(
            again=parcel.again or unbegun,
            attempt=0 if unbegun else envelope.attempt,  # what was not tried costs no try
            max_deliveries=self._max_deliveries,
            left=parcel.expires - self._broker_now(),
        )
        log.warning("a worker is lost that had %s (%s): %s", envelope.endpoint, envelope.rid, end.value)
        inbox = self._names.inbox(envelope.reply_to)
        letter = dead_letter(self._names, self._pool, fields)
        if end is Fate.EXPIRED:
            return done if envelope.reply_to else [letter, *done]
        if end is Fate.AGAIN:
            attempt = envelope.attempt + (not unbegun)
            next_one = msgspec.structs.replace(parcel, envelope=msgspec.structs.replace(envelope, attempt=attempt))
            fields = self._parcels.write(self._stream, next_one)
            told = self._returns.write(inbox, Requeued(envelope.rid, attempt))
            # It may have been seen, as a signed one is before it begins, and is to be believed once more.
            unseen: list[Command] = [("DEL", self._names.seen(envelope.rid, attempt))] if unbegun else []
            return [*unseen, scripts.again(self._stream, inbox, id, fields, told)]
        lost = Outcome(envelope.rid, "worker-lost", attempt=envelope.attempt, started=begun)
        kept = [letter] if end is Fate.DEAD else []
        return [("XADD", inbox, "NOMKSTREAM", "*", *self._returns.write(inbox, lost)), *kept, *done]
