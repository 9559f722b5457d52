"""Celery's broker is a RabbitMQ: how both ends of the transport use it.

Owns the names of queues and exchanges, and what stands for a claim where there is no shared store. That a request
begins goes into its web process' inbox through an exchange, the gate, and is confirmed before its node is called; all
else comes into the same queue. So whoever sends a probe of its own into its inbox has, when it arrives, all that was
said before. What a broker gives out a second time, the first may begin yet, cut off as it may be: before it is sent
again its key to the gate is taken away, and what is sent from then on has another. Time is each host's own wall clock.
Both ends are in this one file, long as it is: neither can be read without the other.

It is longer than most files because both ends of one protocol stand side by side.
"""

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pamqp import commands

from offloop.clock import Clock
from offloop.errors import BackendUnavailable
from offloop.ingress.ids import epoch_of
from offloop.messages import Outcome, Withdrawn
from offloop.transports.backoff import LONGEST, Backoff
from offloop.transports.celery.amqp_line import Blocked, Line
from offloop.transports.celery.amqp_wire import (
    BULKY,
    LOOK,
    MAIN,
    BrokerError,
    Message,
    Method,
    Wire,
    address_of,
    open_wire,
    properties,
)
from offloop.transports.celery.ends import Claim, Fields, TooLarge, User
from offloop.transports.celery.letters import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    Letter,
    boxed,
    id_of,
    queue_of,
    unboxed,
)
from offloop.transports.celery.recent import Recent
from offloop.transports.parcels import Cancel, NotOurs, Order, Parcel, Refusals, Returned, Seal, orders

log = logging.getLogger("offloop")

ALLOWANCE, SHARE = 0.05, 0.1
"""Seconds by which a worker begins nothing before its deadline, and that part of what is left when it asks if that is
less: for so much the clocks of two hosts may differ."""
BEAT = 0.25
"""Seconds between two probes that nobody asked for."""
PATIENCE = 0.6
"""Seconds for which nothing may go on, while something is under way, before the connection is given up."""
PROBE = 16
"""Bytes of one."""

TRIES = 3
"""How often a worker says how a request ended, over new connections, where the broker does not answer."""
WAITS = 1.0
"""Seconds that a wait for orders takes before it looks whether it is to end."""
AGAIN_AFTER = 0.5
"""Seconds between two tries to hear orders."""
ASK_AGAIN_AFTER = 0.05
"""The same for whoever waits to begin."""
HEARTBEAT = 10
"""Seconds between two signs of life where orders are waited for."""
T = TypeVar("T")


class AmqpBroker:
    """`broker.Broker`: a RabbitMQ.

    Args:
        url: its query may say how TLS is used here (`amqp_wire.address_of`); kombu has other ways to be told.

    Raises:
        SettingsError: it is no URL of a RabbitMQ.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self.address = address_of(url)
        self.url = urlunsplit(urlsplit(url)._replace(query=""))
        self.options: dict[str, Any] = {}
        self.namespace = namespace

    def __repr__(self) -> str:
        return f"celery on {self.address}"

    @property
    def local(self) -> bool:
        return self.address.local

    @property
    def gate(self) -> str:
        """The exchange by which a request is said to begin; where nobody waits, it comes back."""
        return f"{self.namespace}:gate"

    @property
    def withdrawn(self) -> str:
        """The exchange by which every worker hears of what was taken back."""
        return f"{self.namespace}:withdrawn"

    def inbox(self, epoch: str) -> str:
        """The queue of a web process."""
        return f"{self.namespace}:inbox:{epoch}"

    def orders(self, name: str) -> str:
        """The queue of a process that runs tasks."""
        return f"{self.namespace}:orders:{name}"

    def web_end(
        self, epoch: str, pools: set[str | None], keys: Sequence[str], clock: Clock, user: User, largest: int
    ) -> "AmqpWebEnd":
        return AmqpWebEnd(self, epoch, pools, keys, clock, user, largest)

    def worker_end(self, name: str, seal: Seal[Returned], keys: Sequence[str], clock: Clock) -> "AmqpWorkerEnd":
        return AmqpWorkerEnd(self, name, seal, keys, clock)


class AmqpWebEnd:
    """`ends.WebEnd`. One connection, kept up and looked at: it is up from the moment that a probe has come back."""

    def __init__(
        self, place: AmqpBroker, epoch: str, pools: set[str | None], keys: Sequence[str], clock: Clock, user: User,
        largest: int,
    ):  # fmt: skip
        self._place = place
        self._epoch = epoch
        self._inbox = place.inbox(epoch)
        self._queues = [queue_of(place.namespace, pool) for pool in sorted(pools, key=str)]
        self._orders = orders(keys)
        self._clock = clock
        self._user = user
        self._largest = largest
        self._wire: Wire | None = None
        self._up = False
        self._risen = asyncio.Event()
        self._broken = asyncio.Event()
        self._mark = secrets.token_bytes(PROBE // 2)
        self._number = 0
        self._probes: dict[bytes, Callable[[], None]] = {}
        self._sent = Recent()
        self._looking = False
        self._gates = 0
        self._opening_gates = 0
        self._held: list[tuple[Letter, Callable[[Letter, str], None]]] = []
        self._shuts = self._shut = False
        self._when_shut: list[Callable[[], None]] = []
        self._closed = False

    @property
    def is_up(self) -> bool:
        return self._up and not self._broken.is_set()

    @property
    def gate(self) -> str:
        return f"{self._epoch}.{self._gates}"

    def knows(self, rid: str) -> bool:
        return rid in self._sent

    # ---- its life

    async def connect(self) -> None:
        if self.is_up:
            return
        await self._connect()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._risen.wait()
        except BaseException as fault:
            blocked = self._wire is not None and self._wire.is_blocked
            self._drop()
            if isinstance(fault, TimeoutError):
                why = "it is short of memory or disk, and takes nothing" if blocked else "it does not answer"
                raise BrokerError(f"{self._place.address}: {why}") from None
            raise

    async def serve(self) -> None:
        backoff = Backoff()
        try:
            while not self._closed:
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
            try:
                if self._closed and self._wire is not None:
                    await self._broken.wait()  # goodbye is said, and soon heard, or given up
            finally:
                self._drop()

    async def _connect(self) -> None:
        """As far as a probe that is under way."""
        if self._wire is not None and not self._broken.is_set():
            return
        self._drop()
        self._broken.clear()
        self._risen.clear()
        wire = await open_wire(self._place.address, self._largest, self._clock)
        # From now on: before what is asked here is answered it may be lost, and something may be in the inbox.
        wire.lost, wire.came, wire.blocked = self._lost, self._came, self._blocked
        try:
            async with asyncio.timeout(PATIENCE):
                await wire.told(MAIN, *self._opening())
            if self._broken.is_set():
                raise BrokerError("the connection was lost")
        except BaseException as fault:
            wire.drop()
            if isinstance(fault, TimeoutError):
                raise BrokerError("it does not answer") from None
            raise
        self._wire = wire
        self._probe(self._rise)

    def _opening(self) -> list[Method]:
        place, inbox = self._place, self._inbox
        bind = [] if self._shuts else [commands.Queue.Bind(0, inbox, place.gate, self.gate)]
        return [
            commands.Exchange.Declare(0, place.gate, "direct", durable=True),
            commands.Exchange.Declare(0, place.withdrawn, "fanout", durable=True),
            commands.Queue.Declare(0, inbox, exclusive=True, auto_delete=True),
            *bind,
            commands.Basic.Consume(0, inbox, no_ack=True, exclusive=True),
        ]

    def _rise(self) -> None:
        if not self._up and self._wire is not None and not self._wire.is_blocked:
            self._up = True
            self._risen.set()
            self._user.up()
            if self._shuts:  # the inbox has no way in any more
                self._now_shut()

    def _fall(self) -> None:
        if self._up:
            self._up = False
            self._user.down()

    def _blocked(self, blocked: bool) -> None:
        """It stays down until that is over: what was sent lies in the connection, and so does all that would be."""
        if blocked:
            log.warning("the broker takes nothing for now: it is short of memory or disk")
            self._fall()
        else:
            self._probe(self._rise)

    def _lost(self) -> None:
        self._broken.set()
        self._fall()

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        self._probes.clear()
        self._opening_gates = 0
        self._held.clear()
        self._sent.clear()  # what was said of these may be lost with the inbox
        self._looking = False
        if wire is not None:
            wire.lost = lambda: None
            wire.drop()
        self._fall()

    async def _beats(self) -> None:
        """Until the connection is broken, or nothing goes on."""
        while True:
            began = self._clock()
            try:
                async with asyncio.timeout(BEAT):
                    await self._broken.wait()
            except TimeoutError:
                pass
            else:
                if self._wire is not None and self._wire.why:
                    log.warning("%s", self._wire.why)
                return
            now, wire = self._clock(), self._wire
            if wire is None:
                return
            late = wire.silent(now) if wire.is_blocked else wire.overdue(now, PATIENCE)
            if late and now - began < 2 * BEAT:  # else it is this event loop that was late
                log.warning("the broker does not answer: the connection is given up")
                return
            if not wire.is_blocked:
                self._probe(lambda: None)

    # ---- what comes

    def _probe(self, arrived: Callable[[], None]) -> None:
        """Into the own inbox: when it arrives, all that the broker had taken for it before has come."""
        if self._wire is None:
            return
        self._number += 1
        body = self._mark + self._number.to_bytes(PROBE - len(self._mark), "big")
        self._probes[body] = arrived
        self._send([Message(self._inbox, body)])

    def _came(self, bodies: list[bytes]) -> None:
        parcels: list[Fields] = []
        for body in bodies:
            if len(body) == PROBE and body in self._probes:
                if parcels:
                    self._user.came(parcels)
                    parcels = []
                self._arrived(body)
            else:
                parcels.append(_fields(body))
        if parcels:
            self._user.came(parcels)

    def _arrived(self, body: bytes) -> None:
        if body == next(iter(self._probes)):
            self._probes.pop(body)()
        else:
            log.warning("somebody has emptied this process' inbox: what was in it is lost, it is made again")
            self._broken.set()

    # ---- WebEnd

    def look(self) -> None:
        """One queue after the other: one that is not there takes the channel with it."""
        if self._wire is not None and not self._looking:
            self._looking = True
            self._look_at(self._wire, 0, {})

    def _look_at(self, wire: Wire, number: int, there: dict[str, tuple[int, int]]) -> None:
        if number == len(self._queues):
            self._looking = False
            self._user.seen(there)
            return
        queue = self._queues[number]

        def answered(method: Method) -> None:
            if isinstance(method, commands.Queue.DeclareOk):
                if method.consumer_count:
                    there[queue] = method.consumer_count, 0
            else:
                wire.ask(LOOK, commands.Channel.Open(), lambda _: None)
            self._look_at(wire, number + 1, there)

        wire.ask(LOOK, commands.Queue.Declare(0, queue, passive=True), answered)

    def publish(self, letters: Sequence[Letter], answered: Callable[[Letter, str], None]) -> None:
        if self._wire is not None:
            for letter in letters:
                self._sent.add(letter.rid)
            if self._opening_gates:
                self._held += [(letter, answered) for letter in letters if len(letter.text) >= BULKY // 2]
                letters = [letter for letter in letters if len(letter.text) < BULKY // 2]
            told = [partial(answered, letter) for letter in letters]
            self._wire.publish([message_of(letter) for letter in letters], told)

    def _send(self, messages: Sequence[Message]) -> None:
        if self._wire is not None:
            self._wire.publish(messages, [_passed_over] * len(messages))

    def withdraw(self, claims: Sequence[Claim], found: Callable[[list[str | None]], None]) -> None:
        """Known of those whose time has come, and of all once the gate is shut; not of what was sent to another inbox.

        Known, too, of what is large and waits to be sent: it will not be.
        For what a drain has cut, it is shut. What may still begin is only asked for, and workers are told not to: to
        shut the gate for one request would be to send all others again.
        """
        unsent = self._unsend({id_of(claim.rid, claim.attempt) for claim in claims})
        self._ask_back(claims, unsent, found)

    def _unsend(self, ids: set[str]) -> set[str]:
        """Drop what waits for other large ones, or for the next gate: nothing bounds bodies whose places are free.

        Returns whose it was.
        """
        held = {id_of(letter.rid, letter.attempt) for letter, _ in self._held} & ids
        if held:
            self._held = [each for each in self._held if id_of(each[0].rid, each[0].attempt) not in held]
        return held if self._wire is None else held | self._wire.unsend(ids)

    def _ask_back(
        self, claims: Sequence[Claim], unsent: AbstractSet[str], found: Callable[[list[str | None]], None]
    ) -> None:
        sent = [claim for claim in claims if id_of(claim.rid, claim.attempt) not in unsent]
        if not self._shut and any(claim.cut and claim.left > 0 for claim in sent):
            self._close_gate(partial(self._ask_back, claims, unsent, found))
            return
        early = [] if self._shut else [claim for claim in sent if claim.left > 0]
        notices = self._place.withdrawn
        self._send(
            [
                Message("", boxed(self._orders.write(notices, Cancel("", claim.rid))), exchange=notices)
                for claim in early
            ]
        )
        unknown = {claim.rid for claim in sent if claim in early or claim.rid not in self._sent}
        self._probe(lambda: found([None if claim.rid in unknown else "" for claim in claims]))

    def _close_gate(self, done: Callable[[], None]) -> None:
        """From `done` on nobody begins anything for this process, and it has been told of all that was begun.

        Without a connection there is no inbox, and so no way in: it is done when there is one again, if ever.
        """
        self._shuts = True
        self._when_shut.append(done)
        if self._wire is not None:
            # The probe goes out when the answer has come: what passed the gate before is in the inbox then.
            self._wire.ask(MAIN, self._unbind(), lambda _: self._probe(self._now_shut))

    def _unbind(self) -> Method:
        return commands.Queue.Unbind(0, self._inbox, self._place.gate, self.gate)

    def _now_shut(self) -> None:
        self._shut = True
        waiting, self._when_shut = self._when_shut, []
        for done in waiting:
            done()

    def shut(self, done: Callable[[], None]) -> None:
        """The other one is open before anything can come that is to go by it.

        A channel keeps its order; what is large goes by another channel, and so waits for the answer.
        """
        if self._wire is None:
            return
        last = self._unbind()
        self._gates += 1
        if self._shuts:
            self._wire.ask(MAIN, last, lambda _: self._probe(done))
            return
        self._opening_gates += 1
        bind = commands.Queue.Bind(0, self._inbox, self._place.gate, self.gate)
        self._wire.asks(MAIN, [bind, last], [self._opened_gate, lambda _: self._probe(done)])

    def _opened_gate(self, _: Method) -> None:
        self._opening_gates -= 1
        if not self._opening_gates:
            held, self._held = self._held, []
            for letter, answered in held:
                self.publish([letter], answered)

    def order(self, order: Order) -> None:
        queue = self._place.orders(order.worker)
        self._send([Message(queue, boxed(self._orders.write(queue, order)))])

    def broker_time(self, at: float) -> float:
        return at + time.time() - self._clock()

    def local_time(self, at: float) -> float:
        return at - time.time() + self._clock() if at else 0.0

    def close(self) -> None:
        self._closed = True
        self._up = False
        if self._wire is not None:
            self._wire.close()


def _passed_over(fault: str) -> None:
    if fault:
        log.debug("the broker: %s", fault)


def _fields(body: bytes) -> Fields:
    try:
        return unboxed(body)
    except NotOurs:
        return ()  # as which it is refused where others are


def message_of(letter: Letter) -> Message:
    """As kombu sends one, but that it is not kept on disk: whoever waits for it does not outlive the broker."""
    id_ = letter.properties["correlation_id"]
    written = properties(CONTENT_TYPE, CONTENT_ENCODING, letter.headers, id_, letter.properties.get("reply_to") or "")
    return Message(letter.queue, letter.body, written, id_, mandatory=True)


class AmqpWorkerEnd:
    """`ends.WorkerEnd`. A connection for each thread: none waits for another's."""

    def __init__(self, place: AmqpBroker, name: str, seal: Seal[Returned], keys: Sequence[str], clock: Clock):
        self._place = place
        self._name = name
        self._seal = seal
        self._clock = clock
        self._orders = orders(keys)
        self._refusals = Refusals("an order", clock)
        self._lines = threading.local()
        self._withdrawn = Recent()
        self._over = threading.Event()

    # ---- time

    def local_time(self, at: float) -> float:
        return at - time.time() + self._clock()

    def broker_time(self, at: float) -> float:
        return at + time.time() - self._clock() if at else 0.0

    # ---- what is said

    @property
    def remembers(self) -> bool:
        return False

    def begin(self, parcel: Parcel, begun: Returned) -> str:
        rid, attempt, expires = parcel.envelope.rid, parcel.envelope.attempt, parcel.expires
        if rid in self._withdrawn:
            self.tell(rid, Withdrawn(rid, begun=False), heard=True)
            return "withdrawn"
        now = time.time()
        until = expires - min(ALLOWANCE, SHARE * max(0.0, expires - now))
        body = boxed(self._seal.write(self._place.inbox(epoch_of(rid)), begun))
        unsure = False
        while (answer := self._ask_gate(parcel.gate, body, until)) is None:
            unsure = True
        late = time.time() >= until
        if (not answer and late) or (answer and unsure):
            # It has said the opposite, or may have, which only an end takes back.
            reason = "expired-in-queue" if late else BackendUnavailable.reason
            self.tell(rid, Outcome(rid, reason, attempt=attempt, started=False), heard=True)
            return answer or "late"
        return answer

    def _ask_gate(self, gate: str, body: bytes, until: float) -> str | None:
        """Empty: it may begin. None: it has to be asked again, for which there is time; saying it twice is no harm.

        Raises:
            OSError: there is none.
        """
        try:
            return self._tried(partial(self._pass_gate, gate, body, until))
        except OSError:
            if time.time() >= until or self._over.wait(ASK_AGAIN_AFTER):
                raise
            return None

    def _pass_gate(self, gate: str, body: bytes, until: float, line: Line) -> str:
        line.settle()
        if time.time() >= until:  # so long has it taken to come here
            return "late"
        line.returned = False
        _heard(line, line.send(self._place.gate, gate, body, mandatory=True))
        return "nobody waits" if line.returned else ""

    def tell(self, rid: str, report: Returned, *, heard: bool) -> None:
        inbox = self._place.inbox(epoch_of(rid))
        body = boxed(self._seal.write(inbox, report))
        if not heard:
            self._tried(lambda line: line.send("", inbox, body))
            return
        for last in range(TRIES):
            try:
                self._tried(lambda line: _heard(line, line.send("", inbox, body)))
            except Blocked:
                raise  # it lies in the connection, which is to stay
            except TooLarge:
                raise  # nor would it be taken by another
            except OSError:
                if last == TRIES - 1:
                    raise
            else:
                return

    def settled(self) -> bool:
        found: tuple[int, Line] | None = getattr(self._lines, "line", None)
        torn, self._lines.torn = getattr(self._lines, "torn", False), False
        if found is None:
            return not torn
        try:
            self._tried(lambda line: line.settle())
        except OSError:
            self._lines.torn = False
            return False
        refused, found[1].refused = found[1].refused, set()
        return not (torn or refused)

    def announce(self, queues: Sequence[str], loops: int, busy: int) -> None:
        """The broker knows who takes from its queues."""

    def depart(self, queues: Sequence[str]) -> None:
        """The same."""

    # ---- what it is told

    def orders(self) -> Iterator[Order]:
        queue, notices = self._place.orders(self._name), self._place.withdrawn
        line: Line | None = None
        while not self._over.is_set():
            try:
                if line is None:
                    line = Line(self._place.address, HEARTBEAT)
                    line.declare(notices, "fanout")
                    line.open_queue(queue, notices)
                for exchange, body in line.listen(WAITS):
                    order = self._read(notices if exchange == notices else queue, body)
                    if order is not None and exchange == notices:
                        self._withdrawn.add(order.rid)
                    elif order is not None:
                        yield order
            except OSError:
                if line is not None:
                    line.drop()
                    line = None
                self._over.wait(AGAIN_AFTER)
        if line is not None:
            line.close()

    def _read(self, where: str, body: bytes) -> Order | None:
        try:
            return self._orders.read(where, unboxed(body))
        except NotOurs as fault:
            self._refusals.add(fault)
            return None

    def close(self) -> None:
        self._over.set()
        found: tuple[int, Line] | None = getattr(self._lines, "line", None)
        if found is not None:
            found[1].close()
            self._lines.line = None

    # ---- connections

    def _tried(self, say: Callable[[Line], T]) -> T:
        """On this thread's own connection, made in this process: a child that was forked has none of its parent's."""
        found: tuple[int, Line] | None = getattr(self._lines, "line", None)
        try:
            if found is None or found[0] != os.getpid():
                line = Line(self._place.address)
                found = self._lines.line = os.getpid(), line
                line.declare(self._place.gate, "direct")
            return say(found[1])
        except Blocked:
            self._lines.torn = True
            raise
        except OSError:
            self._lines.torn = True
            self._lines.line = None
            if found is not None and found[0] == os.getpid():
                found[1].drop()
            raise


def _heard(line: Line, number: int) -> None:
    """Until the broker has it. Raises BrokerError, also where it refuses it."""
    line.settle()
    if number in line.refused:
        line.refused.discard(number)
        raise BrokerError("the broker refuses what is said of a request")
