"""Celery's broker is a Redis: how both ends of the transport use it.

Owns the keys, the scripts, and the form in which kombu keeps messages in a list. Whether a request has begun is a key
that its worker sets and a withdrawal sets, whichever comes first: each excludes the other. Time is the broker's.

It is longer than most files because both ends of one protocol stand side by side.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import msgspec

from offloop.clock import Clock
from offloop.ingress.ids import epoch_of
from offloop.transports.celery.ends import Claim, User
from offloop.transports.celery.letters import CONTENT_ENCODING, CONTENT_TYPE, Letter, queue_of
from offloop.transports.celery.recent import Recent
from offloop.transports.parcels import NotOurs, Order, Parcel, Refusals, Returned, Seal, orders
from offloop.transports.redis.link import BELIEVED, Link
from offloop.transports.redis.names import INBOX_LIVES, Names
from offloop.transports.redis.scripts import hash_of
from offloop.transports.redis.staff import announcement, announcing, forgetting, present
from offloop.transports.redis.wire import (
    BrokerError,
    Command,
    Line,
    Reply,
    ReplyError,
    address_of,
    forgotten,
    passed_over,
)

log = logging.getLogger("offloop")

PREFIX = "global_keyprefix"
"""In the URL's query what an app of the user's has in `broker_transport_options`."""
KEPT = 5.0
"""Seconds past its deadline for which it is remembered who has begun a request: after it, nobody would."""
TRIES = 3
"""How often a worker says how a request ended, over new connections, where the broker does not answer."""
WAITS = 1.0
"""Seconds that a wait for orders takes before it looks whether it is to end."""
AGAIN_AFTER = 0.5
"""Seconds between two tries to hear orders."""
ORDERS_KEPT = 10_000
"""Entries that may lie before a process that does not read."""

_json = msgspec.json.Encoder().encode

WITHDRAWN = b""
"""What lies where a beginning would be, once it has been taken back."""

BEGIN = """
-- KEYS: whether it has begun, its inbox. ARGV: who, the deadline, how long to remember, whether this was asked before
-- and not answered, fields that tell of it.
-- A web process that is gone has no inbox: nobody waits.
local now = redis.call('TIME')
if now[1] + now[2] / 1e6 >= tonumber(ARGV[2]) then
  return 'late'
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return 'nobody waits'
end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[3]) then
  local by = redis.call('GET', KEYS[1])
  if by ~= ARGV[1] or ARGV[4] == '' then
    return by == '' and 'withdrawn' or 'begun before'
  end
end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 5))
return ''
"""

WITHDRAW = """
-- KEYS: for each, whether it has begun. ARGV: for how long to remember each. For each: who has begun it, or ''.
local found = {}
for at, key in ipairs(KEYS) do
  redis.call('SET', key, '', 'NX', 'PX', ARGV[at])
  found[at] = redis.call('GET', key)
end
return found
"""

SCRIPTS = (BEGIN, WITHDRAW)


def loads() -> list[Command]:
    """What makes the broker know the scripts."""
    return [("SCRIPT", "LOAD", script) for script in SCRIPTS]


class RedisBroker:
    """`broker.Broker`: a Redis, where kombu keeps lists for its queues, and we our streams.

    Args:
        url: kombu has no word in it for a prefix of its keys (`global_keyprefix`); here its query may have one.

    Raises:
        SettingsError: it is no URL of a Redis.
    """

    def __init__(self, url: str, namespace: str) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._prefix = query.pop(PREFIX, "")
        # By hand: urllib leaves out the // of a scheme that it does not know, where there is no host.
        where = f"{parts.netloc}{parts.path}"
        self.url = f"{parts.scheme.replace('unix', 'socket')}://{where}?{urlencode(query)}".rstrip("?")
        self.options = {PREFIX: self._prefix} if self._prefix else {}
        # What kombu calls otherwise than redis-py.
        if "virtual_host" in query:
            query["db"] = query.pop("virtual_host")
        if "ssl_cert_reqs" in query:
            query["ssl_cert_reqs"] = query["ssl_cert_reqs"].removeprefix("CERT_").lower()
        self.address = address_of(f"{parts.scheme.replace('socket', 'unix')}://{where}?{urlencode(query)}")
        self.names = Names(namespace)

    def __repr__(self) -> str:
        return f"celery on {self.address}"

    @property
    def local(self) -> bool:
        return self.address.local

    def queue(self, name: str) -> str:
        """The list that is a queue."""
        return self._prefix + name

    def begun(self, rid: str, attempt: int, *, again: bool) -> str:
        """The key that says who has begun it: this attempt, or any where only one may begin."""
        key = f"{self.names.namespace}:begun:{rid}"
        return f"{key}:{attempt}" if again else key

    def web_end(
        self, epoch: str, pools: set[str | None], keys: Sequence[str], clock: Clock, user: User, largest: int
    ) -> "RedisWebEnd":
        return RedisWebEnd(self, epoch, pools, keys, clock, user)

    def worker_end(self, name: str, seal: Seal[Returned], keys: Sequence[str], clock: Clock) -> "RedisWorkerEnd":
        return RedisWorkerEnd(self, name, seal, keys, clock)


class RedisWebEnd:
    """`ends.WebEnd`."""

    def __init__(
        self, place: RedisBroker, epoch: str, pools: set[str | None], keys: Sequence[str], clock: Clock, user: User
    ):
        self._place = place
        self._clock = clock
        self._user = user
        self._inbox = place.names.inbox(epoch)
        queues = [queue_of(place.names.namespace, pool) for pool in sorted(pools, key=str)]
        self._staff = [place.names.workers(queue) for queue in queues]
        self._orders = orders(keys)
        self._sent = Recent()  # of which the broker, if it has forgotten nothing, knows who has begun it
        self._link = Link(place.address, clock, self)

    # ---- what the link says: `redis.link.User`

    @property
    def stream(self) -> str:
        return self._inbox

    def opening(self) -> Sequence[Command]:
        return [*loads(), *self._opens_inbox()]

    def _opens_inbox(self) -> list[Command]:
        # The group is never used: it is how one makes an empty stream.
        return [
            ("XGROUP", "CREATE", self._inbox, "owner", "$", "MKSTREAM"),
            ("PEXPIRE", self._inbox, round(INBOX_LIVES * 1000)),
        ]

    def up(self) -> None:
        created = self._link.opened[len(SCRIPTS)]
        if not isinstance(created, ReplyError):
            self._sent.clear()  # it was not there: the broker has lost its memory, if this is not the first time
        self._user.up()

    def down(self) -> None:
        self._user.down()

    def came(self, entries: Sequence[Reply]) -> None:
        self._user.came([fields for _, fields in entries])

    def beat(self, number: int) -> None:
        self._link.ask(("PEXPIRE", self._inbox, round(INBOX_LIVES * 1000)), self._prolonged)
        self._link.ask(("XTRIM", self._inbox, "MINID", self._link.last), passed_over)

    def _prolonged(self, reply: Reply) -> None:
        if reply == 0:
            log.warning("the broker has lost this process' inbox: what was sent into it is lost, it is made again")
            self._sent.clear()
            self._link.ask_together(self._opens_inbox(), lambda _: None)

    # ---- WebEnd

    @property
    def is_up(self) -> bool:
        return self._link.is_up

    @property
    def gate(self) -> str:
        return ""

    def knows(self, rid: str) -> bool:
        return rid in self._sent

    def shut(self, done: Callable[[], None]) -> None:
        """There is none: it is judged by a key."""

    async def connect(self) -> None:
        await self._link.connect()

    async def serve(self) -> None:
        await self._link.serve()

    def look(self) -> None:
        self._link.ask_together([("HGETALL", key) for key in self._staff], self._seen)

    def _seen(self, replies: list[Reply]) -> None:
        now = self._link.broker_time(self._clock())
        for command in forgetting(self._staff, replies, now):
            self._link.ask(command, passed_over)
        self._user.seen({name: each for reply in replies for name, each in present(reply, now).items()})

    def publish(self, letters: Sequence[Letter], answered: Callable[[Letter, str], None]) -> None:
        by_queue: dict[str, list[Letter]] = {}
        for letter in letters:
            self._sent.add(letter.rid)
            by_queue.setdefault(letter.queue, []).append(letter)
        for queue, many in by_queue.items():
            # The first in line is the one at the right.
            command: Command = ("LPUSH", self._place.queue(queue), *(message_of(letter) for letter in many))
            self._link.ask(command, partial(self._published, many, answered))

    @staticmethod
    def _published(letters: Sequence[Letter], answered: Callable[[Letter, str], None], reply: Reply) -> None:
        fault = str(reply) if isinstance(reply, ReplyError) else ""
        for letter in letters:
            answered(letter, fault)

    def withdraw(self, claims: Sequence[Claim], found: Callable[[list[str | None]], None]) -> None:
        keys = [self._place.begun(claim.rid, claim.attempt, again=claim.again) for claim in claims]
        kept = (kept_for(claim.left) for claim in claims)
        command: Command = ("EVALSHA", hash_of(WITHDRAW), len(keys), *keys, *kept)

        def answered(reply: Reply) -> None:
            if isinstance(reply, ReplyError):
                log.warning("the broker does not take requests back: %s", reply)
                found([None] * len(claims))
                return
            # That nobody has begun it, is known by a broker that has not forgotten who had.
            found(
                [
                    held.decode().partition(" ")[0] if held or claim.rid in self._sent else None
                    for claim, held in zip(claims, reply, strict=True)
                ]
            )

        def first(reply: Reply) -> None:
            if forgotten(reply):
                self._link.ask_together([*loads(), command], lambda replies: answered(replies[-1]))
            else:
                answered(reply)

        self._link.ask(command, first)

    def order(self, order: Order) -> None:
        stream = self._place.names.orders(order.worker)
        fields = self._orders.write(stream, order)
        # Not made where it is not: whoever was to read it has gone.
        self._link.ask(("XADD", stream, "NOMKSTREAM", "MAXLEN", "~", ORDERS_KEPT, "*", *fields), passed_over)

    def broker_time(self, at: float) -> float:
        return self._link.broker_time(at)

    def local_time(self, at: float) -> float:
        return self._link.local_time(at)

    def close(self) -> None:
        self._link.ask(("DEL", self._inbox), passed_over)


def kept_for(left: float) -> int:
    """Milliseconds for which it is remembered who has begun a request, or that nobody will."""
    return round((max(left, 0.0) + KEPT) * 1000)


def message_of(letter: Letter) -> bytes:
    """As kombu's Redis transport keeps a message in a list."""
    properties: dict[str, Any] = {
        **letter.properties, "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": letter.queue},
        "priority": 0, "delivery_tag": uuid4().hex,
    }  # fmt: skip
    around = _json(
        {
            "body": "", "content-encoding": CONTENT_ENCODING, "content-type": CONTENT_TYPE,
            "headers": letter.headers, "properties": properties,
        }
    )  # fmt: skip
    # A text within a text: of the base64, which is most of it, nothing has to be escaped.
    return b"".join((BODY, _inside(letter.head), letter.text, _inside(letter.tail), around[len(BODY) :]))


BODY = b'{"body":"'


@lru_cache(1024)
def _inside(text: bytes) -> bytes:
    return _json(text.decode())[1:-1]


class RedisWorkerEnd:
    """`ends.WorkerEnd`. A connection for each thread: none waits for another's."""

    def __init__(self, place: RedisBroker, name: str, seal: Seal[Returned], keys: Sequence[str], clock: Clock):
        self._place = place
        self._name = name
        self._seal = seal
        self._clock = clock
        self._orders = orders(keys)
        self._refusals = Refusals("an order", clock)
        self._lines = threading.local()
        self._made: list[tuple[int, Line]] = []
        self._offset = math.inf
        self._read_at = -math.inf
        self._over = threading.Event()

    # ---- time

    def local_time(self, at: float) -> float:
        if self._clock() - self._read_at > BELIEVED:
            self._read_clock()
        return at - self._offset

    def broker_time(self, at: float) -> float:
        return at + self._offset if at else 0.0

    def _read_clock(self) -> None:
        """A reading is late by what the question took, never early. The least late counts, but not for ever."""
        asked = self._clock()
        [told] = self._exchange([("TIME",)])
        offset = int(told[0]) + int(told[1]) / 1e6 - asked
        if offset < self._offset or asked - self._read_at > BELIEVED:
            self._offset = offset
        self._read_at = asked

    # ---- what is said

    @property
    def remembers(self) -> bool:
        return True

    def begin(self, parcel: Parcel, begun: Returned) -> str:
        rid, attempt, expires = parcel.envelope.rid, parcel.envelope.attempt, parcel.expires
        inbox = self._place.names.inbox(epoch_of(rid))
        kept = kept_for(expires - self.broker_time(self._clock()))
        fields = self._seal.write(inbox, begun)
        # A mark of this very call: this process may be given the same request again.
        who = f"{self._name} {token_hex(4)}"
        key = self._place.begun(rid, attempt, again=parcel.again)
        asked: Command = ("EVALSHA", hash_of(BEGIN), 2, key, inbox, who)
        before = ""
        while True:
            try:
                [answer] = self._exchange([(*asked, f"{expires:.6f}", kept, before, *fields)])
            except OSError:
                if self._clock() >= expires - self._offset or self._over.wait(AGAIN_AFTER / 10):
                    raise
                before = "asked"
                continue
            if isinstance(answer, ReplyError):
                raise BrokerError(str(answer))
            return str(answer.decode())

    def tell(self, rid: str, report: Returned, *, heard: bool) -> None:
        inbox = self._place.names.inbox(epoch_of(rid))
        command = ("XADD", inbox, "NOMKSTREAM", "*", *self._seal.write(inbox, report))
        if not heard:
            self._send(command)
            return
        for last in range(TRIES):
            try:
                [answer] = self._exchange([command])
            except OSError:
                if last == TRIES - 1:
                    raise
            else:
                if isinstance(answer, ReplyError):
                    raise BrokerError(str(answer))
                return

    def settled(self) -> bool:
        found: tuple[int, Line] | None = getattr(self._lines, "line", None)
        torn, self._lines.torn = getattr(self._lines, "torn", False), False
        if found is None:
            return not torn
        try:
            found[1].settle()
        except OSError:
            self._drop()
            return False
        refused, found[1].refused = found[1].refused, 0
        return not (torn or refused)

    def announce(self, queues: Sequence[str], loops: int, busy: int) -> None:
        """That this worker is there, for as long as `redis.names.ANNOUNCED` says."""
        self.local_time(0.0)
        value = announcement(self.broker_time(self._clock()), loops, busy)
        keys = [self._place.names.workers(queue) for queue in queues]
        self._exchange([command for key in keys for command in announcing(key, (self._name, value))])

    def depart(self, queues: Sequence[str]) -> None:
        """That it is there no more."""
        self._exchange([("HDEL", self._place.names.workers(queue), self._name) for queue in queues])

    # ---- what it is told

    def orders(self) -> Iterator[Order]:
        stream, last = self._place.names.orders(self._name), b"0-0"
        opening: list[Command] = [("XGROUP", "CREATE", stream, "owner", "$", "MKSTREAM")]
        waits = round(WAITS * 1000)
        line: Line | None = None
        while not self._over.is_set():
            try:
                if line is None:
                    line = Line(self._place.address)
                    line.exchange(opening)  # that it is there already does no harm
                lives, reply = line.exchange(
                    [
                        ("PEXPIRE", stream, round(INBOX_LIVES * 1000)),
                        ("XREAD", "COUNT", 1000, "BLOCK", waits, "STREAMS", stream, last),
                    ],
                    WAITS,
                )
                if lives == 0:  # the broker has lost it
                    line.exchange(opening)
                for id_, fields in reply[0][1] if reply and not isinstance(reply, ReplyError) else ():
                    last = id_
                    try:
                        yield self._orders.read(stream, fields)
                    except NotOurs as fault:
                        self._refusals.add(fault)
            except OSError:
                if line is not None:
                    line.close()
                    line = None
                self._over.wait(AGAIN_AFTER)
        if line is not None:
            line.send([("DEL", stream)])
            line.close()

    def close(self) -> None:
        self._over.set()
        for pid, line in self._made:
            if pid == os.getpid():
                line.close()

    # ---- connections

    def _line(self) -> Line:
        """This thread's own, made in this process: a child that was forked has none of its parent's."""
        found: tuple[int, Line] | None = getattr(self._lines, "line", None)
        if found is None or found[0] != os.getpid():
            line = Line(self._place.address, scripts=SCRIPTS)
            found = self._lines.line = os.getpid(), line
            self._made.append(found)
        return found[1]

    def _send(self, command: Command) -> None:
        try:
            self._line().send([command])
        except OSError:
            self._drop()
            self._lines.torn = True
            raise

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            return self._line().exchange(commands)
        except OSError:
            self._drop()
            self._lines.torn = True
            raise

    def _drop(self) -> None:
        found: tuple[int, Line] | None = getattr(self._lines, "line", None)
        if found is not None:
            found[1].close()
            self._made.remove(found)
            self._lines.line = None
