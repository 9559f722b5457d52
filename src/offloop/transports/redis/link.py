"""A web process' or a supervisor's life with a Redis: two connections, kept up, and looked at.

Owns when they are opened, given up and opened again, and what the broker's clock says. One connection is for commands,
the other waits in a stream for what comes. What is sent and what comes is for whoever uses it; no key and no meaning
may enter.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from offloop.clock import Clock
from offloop.transports.backoff import LONGEST, Backoff
from offloop.transports.redis.wire import (
    Address,
    BrokerError,
    Channel,
    Command,
    Reply,
    ReplyError,
    ask_all,
    open_channel,
)

log = logging.getLogger("offloop")

BEAT = 0.25
"""Seconds between two signs of life."""
PATIENCE = 0.6
"""Seconds that a command may go unanswered before the connection is given up."""
WAITS = 1.0
"""Seconds that a read of what comes waits at the broker."""
AT_ONCE = 1000
"""Entries that one read takes at most; over a new connection one, then two, and so on."""
BELIEVED = 10.0
"""Seconds for which the best reading of the broker's clock counts more than later ones that took longer."""


class User(Protocol):
    """Whoever a link is for."""

    @property
    def stream(self) -> str:
        """What to wait in."""

    def opening(self) -> Sequence[Command]:
        """What is said on each new connection, before anything else; errors among the answers are passed over."""

    def up(self) -> None:
        """Commands are taken from now on."""

    def down(self) -> None:
        """None are any more, and those that were not answered never will be."""

    def came(self, entries: Sequence[Reply]) -> None:
        """Entries of the stream, (id, fields) each, every one once."""

    def beat(self, number: int) -> None:
        """Every `BEAT` seconds while it is up."""


class Link:
    """See `serve`.

    Attributes:
        last: the id of the last entry that has come; reading goes on after it, also over a new connection.
        opened: what the broker has answered to `User.opening`, lately.
    """

    def __init__(self, address: Address, clock: Clock, user: User) -> None:
        self.last: bytes = b"0-0"
        self.opened: Sequence[Reply] = ()
        self._address = address
        self._clock = clock
        self._user = user
        self._commands: Channel | None = None
        self._incoming: Channel | None = None
        self._offset = 0.0
        self._doubt = math.inf  # seconds by which that may be wrong, and since when it is so
        self._set_at = 0.0
        self._many = 1
        self._broken = asyncio.Event()

    @property
    def is_up(self) -> bool:
        return self._commands is not None and not self._broken.is_set()

    def broker_time(self, at: float) -> float:
        """Seconds of the broker's clock at an instant of this host's monotonic one."""
        return at + self._offset

    def local_time(self, at: float) -> float:
        """The reverse; 0.0, which is no instant, stays so."""
        return at - self._offset if at else 0.0

    def ask(self, command: Command, answered: Callable[[Reply], None]) -> None:
        """Without a connection it is dropped: `down` has told."""
        if self._commands is not None:
            self._commands.ask(command, answered)

    def ask_together(self, commands: Sequence[Command], answered: Callable[[list[Reply]], None]) -> None:
        """Several in one write; `answered` has all replies at once."""
        if self._commands is None:
            return
        replies: list[Reply] = []

        def one(reply: Reply) -> None:
            replies.append(reply)
            if len(replies) == len(commands):
                answered(replies)

        self._commands.asks(commands, [one] * len(commands))

    # ---- its life

    async def serve(self) -> None:
        """Keep it up until cancelled."""
        backoff = Backoff()
        try:
            while True:
                try:
                    await self._connect()
                except BrokerError as fault:
                    log.debug("no connection to the broker: %s", fault)
                else:
                    since = self._clock()
                    await self._beats()
                    self._drop()
                    if self._clock() - since > LONGEST:
                        backoff.reset()
                # Also after one that was good: all who have lost theirs would come at once.
                await asyncio.sleep(backoff.delay())
        finally:
            self._drop()

    async def connect(self) -> None:
        """Once, for a start that is to fail where there is no broker. Raises BrokerError. `serve` goes on from it."""
        if not self.is_up:
            await self._connect()

    async def _connect(self) -> None:
        if self.is_up:
            return
        self._drop()
        self._broken.clear()
        commands = await open_channel(self._address, self._clock)
        commands.lost = self._broken.set  # from now on: it may break while the other is being opened
        try:
            sent = self._clock()
            opening = self._user.opening()
            async with asyncio.timeout(PATIENCE):
                *self.opened, told = await ask_all(commands, [*opening, ("TIME",)])
            commands.scripts = [command for command in opening if command[0] == "SCRIPT"]
            if isinstance(told, ReplyError):
                raise BrokerError(str(told))
            if commands.fault is not None:
                raise BrokerError(str(commands.fault))
            self._set_clock(told, sent)
            incoming = await open_channel(self._address, self._clock)
        except BaseException as fault:
            commands.drop()
            if isinstance(fault, TimeoutError):
                raise BrokerError("it does not answer") from None
            raise
        commands.lost = incoming.lost = self._broken.set
        self._commands, self._incoming = commands, incoming
        self._many = 1  # the last connection may have broken while more came than its way could bring
        self._user.up()
        self._wait()

    def _drop(self) -> None:
        """Both: half a link is none."""
        channels, self._commands, self._incoming = (self._commands, self._incoming), None, None
        for channel in channels:
            if channel is not None:
                channel.lost = lambda: None
                channel.drop()
        if channels[0] is not None:
            self._user.down()

    async def _beats(self) -> None:
        """Until the link is broken, or does not answer."""
        number = 0
        while True:
            began = self._clock()
            try:
                async with asyncio.timeout(BEAT):
                    await self._broken.wait()
            except TimeoutError:
                pass
            else:
                if self._commands is not None and (fault := self._commands.fault) is not None:
                    log.warning("the broker takes no writes: the connection is given up (%s)", fault)
                return
            now = self._clock()
            if now - began < 2 * BEAT and self._overdue(now):  # else it is this event loop that was late
                log.warning("the broker does not answer: the connection is given up")
                return
            number += 1
            sent = now
            self.ask(("TIME",), lambda told, sent=sent: self._set_clock(told, sent))  # type: ignore[misc]
            self._user.beat(number)

    def _overdue(self, now: float) -> bool:
        return any(
            channel is not None and channel.overdue(now, PATIENCE) for channel in (self._commands, self._incoming)
        )

    def _set_clock(self, told: Reply, sent: float) -> None:
        """Half way between question and answer, as NTP has it (RFC 5905, section 8).

        A quick answer is believed for longer than a slow one, but not for ever: clocks drift, and are set.
        """
        if isinstance(told, ReplyError):
            return
        now = self._clock()
        offset, doubt = int(told[0]) + int(told[1]) / 1e6 - (sent + now) / 2, (now - sent) / 2
        contradicts = abs(offset - self._offset) > doubt + self._doubt
        if doubt <= self._doubt or now - self._set_at > BELIEVED or contradicts:
            self._offset, self._doubt, self._set_at = offset, doubt, now

    # ---- what comes

    def _wait(self) -> None:
        if self._incoming is not None:
            waits = round(WAITS * 1000)
            command = ("XREAD", "COUNT", self._many, "BLOCK", waits, "STREAMS", self._user.stream, self.last)
            self._incoming.ask(command, self._came, WAITS)

    def _came(self, reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            log.warning("what comes back cannot be read: %s", reply)
            self._broken.set()
            return
        entries: list[Reply] = []
        if reply:
            entries = reply[0][1]
            self.last = entries[-1][0]
            self._many = min(AT_ONCE, 2 * self._many)
        self._wait()  # first: the next are on their way while these are read
        if entries:
            self._user.came(entries)
