"""A connection to a RabbitMQ on an event loop, as thin as it can be.

Owns addresses (as kombu reads URLs), the greeting, frames and their limits, and which message has been confirmed. pamqp
writes and reads methods; what is said with every message is written and read here, in a fifth of the time. A connection
is never mended: whoever uses it opens another. No queue and no meaning may enter. It is longer than most files: what
reads frames has to know all that a broker may say.
"""

import asyncio
import logging
import os
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from struct import Struct, error
from typing import Any, NamedTuple

from kombu.utils.url import url_to_parts
from pamqp import base, commands, frame, header
from pamqp.exceptions import PAMQPException

from offloop.clock import Clock, monotonic
from offloop.errors import SettingsError

log = logging.getLogger("offloop")

CONNECT_WITHIN = 1.0
"""Seconds to connect and to be greeted."""
HEARTBEAT = 5
"""Seconds, at the most, between two signs of life; after twice that without one each gives up the other."""
FRAME_MAX = 2**17
"""Bytes of a frame, at the most."""
MAIN, LOOK, BULK = 1, 2, 3
"""Channels: where messages go and come, and where a question, or a large message, may fail without harm to these."""
BULKY = 2**16
"""Bytes of a message from which on it may be larger than a broker takes, which closes the channel that it comes by."""
CLIENT = {
    "product": "offloop",
    "capabilities": {
        "publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True, "connection.blocked": True,
        "authentication_failure_close": True,
    },
}  # fmt: skip

Method = base.Frame
Answered = Callable[[Method], None]
"""Called with what the broker answers: `Channel.Close`, with a code and a text, where it refuses."""
Confirmed = Callable[[str], None]
"""Called with nothing, or with why the broker does not take a message."""


class BrokerError(OSError):
    """There is no connection, or there is none any more. What was said and not confirmed may have been heard."""


class _Strange(Exception):
    """No RabbitMQ says that."""


# ---- addresses


@dataclass(frozen=True, repr=False)
class Address:
    """Where a RabbitMQ is, and how one presents oneself. Shown without credentials."""

    host: str
    port: int
    vhost: str
    username: str
    password: str
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.vhost.removeprefix('/')}"

    @property
    def local(self) -> bool:
        """Whether nobody but this host can listen."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def address_of(url: str) -> Address:
    """Read an `amqp://`, `pyamqp://` or `amqps://` URL. The latter's options are those of redis-py: `ssl_ca_certs` etc.

    Raises:
        SettingsError: it is none; the text has no credentials.
    """
    try:
        parts = url_to_parts(url)
        if "@" in (parts.path or "") or any("@" in value for value in parts.query.values()):
            raise SettingsError(
                "OFFLOOP_BROKER_URL cannot be used: an @ is where none can be; in a password / is %2F, ? is %3F, # is "
                "%23"
            )
        tls = _tls(parts.query) if parts.scheme == "amqps" else None
        return Address(
            parts.hostname or "localhost", parts.port or (5672 if tls is None else 5671), parts.path or "/",
            parts.username or "guest", parts.password or "guest", tls,
        )  # fmt: skip
    except (ValueError, OSError) as fault:
        raise SettingsError(f"OFFLOOP_BROKER_URL cannot be used: {type(fault).__name__} in it") from None


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    """Certificates are checked, unless the URL says otherwise."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    required = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    checked = options.get("ssl_check_hostname", "true").lower() not in ("false", "no", "0")
    context.check_hostname = checked and required == "required"
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}.get(required, ssl.CERT_REQUIRED)
    if (certificate := options.get("ssl_certfile")) is not None:
        context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password"))
    return context


# ---- frames

_FRAME, _INDEX, _CONFIRM, _CONTENT = Struct(">BHI"), Struct(">I"), Struct(">QB"), Struct(">BHIHHQ")
_SIZE, _WORD, _REAL, _WHOLE = Struct(">Q"), Struct(">I"), Struct(">d"), Struct(">q")
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_KINDS = frozenset((_METHOD, _HEADER, _BODY, _HEARTBEAT))
_END = b"\xce"
_DELIVER, _RETURN, _ACK = commands.Basic.Deliver.index, commands.Basic.Return.index, commands.Basic.Ack.index

BARE = b"\0\0"
"""The properties of a message that has none: it is not kept on disk."""


class Message(NamedTuple):
    """One message.

    Attributes:
        key: the routing key: the queue's name, at the default exchange.
        properties: as `properties` writes them.
        id: the correlation id among them, by which one is known that comes back because it is `mandatory`.
    """

    key: str
    body: bytes
    properties: bytes = BARE
    id: str = ""
    mandatory: bool = False
    exchange: str = ""


def properties(content_type: str, encoding: str, headers: Mapping[str, Any], id_: str, reply_to: str) -> bytes:
    """Of a message that is not kept on disk.

    The order is AMQP 0-9-1's, and so are the flags (section 4.2.6.1; bits from 15 downwards: content type, content
    encoding, headers, delivery mode, priority, correlation id, reply-to).
    """
    return b"".join(
        (b"\xf6\0", _short(content_type), _short(encoding), _table(headers), b"\1", _short(id_), _short(reply_to))
    )


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


_name = lru_cache(1024)(_short)


def _table(fields: Mapping[str, Any]) -> bytes:
    """Of what JSON knows; pamqp takes five times as long."""
    data = b"".join([part for name, value in fields.items() for part in (_name(name), _value(value))])
    return _WORD.pack(len(data)) + data


def _value(value: Any) -> bytes:
    if value is None:
        return b"V"
    if isinstance(value, str):
        data = value.encode()
        return b"S" + _WORD.pack(len(data)) + data
    if isinstance(value, bool):
        return b"t\1" if value else b"t\0"
    if isinstance(value, int):
        return b"l" + _WHOLE.pack(value)
    if isinstance(value, float):
        return b"d" + _REAL.pack(value)
    if isinstance(value, Mapping):
        return b"F" + _table(value)
    data = b"".join([_value(each) for each in value])
    return b"A" + _WORD.pack(len(data)) + data


@lru_cache(1024)
def _publish(channel: int, exchange: str, key: str, mandatory: bool) -> bytes:
    return frame.marshal(commands.Basic.Publish(0, exchange, key, mandatory), channel)


def written(message: Message, frame_max: int, channel: int = MAIN) -> list[bytes | memoryview]:
    """A message's frames."""
    exchange, size, most = message.exchange, len(message.body), frame_max - _FRAME.size - len(_END)
    content = _CONTENT.pack(_HEADER, channel, 12 + len(message.properties), commands.Basic.frame_id, 0, size)
    parts: list[bytes | memoryview] = [
        _publish(channel, exchange, message.key, message.mandatory), content, message.properties, _END,
    ]  # fmt: skip
    body = memoryview(message.body)  # of which a part is no copy
    for at in range(0, size, most):
        part = body[at : at + most]
        parts += (_FRAME.pack(_BODY, channel, len(part)), part, _END)
    return parts


# ---- on an event loop


class Wire(asyncio.Protocol):
    """A connection on an event loop. Made by `open_wire`; used on its loop only; calls, and is not awaited.

    Args:
        largest: bytes of a message that is taken whole; of a larger one nothing is kept, and it comes empty.

    Attributes:
        lost: called once, when it has broken or was dropped: what was said and not answered never will be.
        came: called with the bodies that have come, in order.
        blocked: called when the broker stops taking messages, and when it goes on (False).
        is_blocked: which of the two it is.
        why: what the broker said when it closed the connection, if it did.
    """

    def __init__(self, clock: Clock, largest: int) -> None:
        self.lost: Callable[[], None] = lambda: None
        self.came: Callable[[list[bytes]], None] = lambda _: None
        self.blocked: Callable[[bool], None] = lambda _: None
        self.is_blocked = False
        self.why = ""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._largest = largest
        self._frame_max = FRAME_MAX
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._waiting: dict[int, deque[Answered]] = {0: deque(), MAIN: deque(), LOOK: deque(), BULK: deque()}
        self._awaited: set[asyncio.Future[Method]] = set()
        self._number = 0
        self._unconfirmed: dict[int, tuple[str, Confirmed]] = {}
        self._returned: set[str] = set()
        # Large messages, one after the other: if their channel is closed, it is known which was refused.
        self._bulk: deque[tuple[Message, Confirmed]] = deque()
        self._moving: Confirmed | None = None
        self._bounced = False
        # what is coming in at the moment
        self._returning = self._keeping = False
        self._left = 0
        self._parts: list[bytes] | None = None
        self._bodies: list[bytes] = []
        # signs of life
        self._alive = self._heard = clock()
        self._unwritten = 0

    # ---- out

    def ask(self, channel: int, method: Method, answered: Answered) -> None:
        """Say it; `answered` is called with what comes back, in order."""
        self.asks(channel, (method,), (answered,))

    def asks(self, channel: int, methods: Sequence[Method], answered: Sequence[Answered]) -> None:
        """The same for several, in one write."""
        if self._transport is None:
            return
        self._begins()
        self._waiting[channel].extend(answered)
        self._transport.write(b"".join([frame.marshal(method, channel) for method in methods]))

    def publish(self, messages: Sequence[Message], confirmed: Sequence[Confirmed]) -> None:
        """Send messages, in one write but for large ones; each is told of by its own of `confirmed`."""
        if self._transport is None or not messages:
            return
        self._begins()
        parts: list[bytes | memoryview] = []
        for message, told in zip(messages, confirmed, strict=True):
            if len(message.body) >= BULKY:
                self._bulk.append((message, told))
                continue
            self._number += 1
            self._unconfirmed[self._number] = message.id, told
            parts += written(message, self._frame_max)
        if parts:
            self._transport.write(b"".join(parts))
        self._move()

    def unsend(self, ids: AbstractSet[str]) -> set[str]:
        """Drop what is large and still waits to be sent, of these ids. Returns whose it was: they will never arrive.

        `confirmed` is not called for them.
        """
        found = {message.id for message, _ in self._bulk if message.id in ids}
        if found:
            self._bulk = deque(each for each in self._bulk if each[0].id not in found)
        return found

    def _move(self) -> None:
        """The next large message, if none is under way and its channel is open."""
        if self._transport is not None and self._bulk and self._moving is None and not self._waiting[BULK]:
            message, self._moving = self._bulk.popleft()
            self._transport.write(b"".join(written(message, self._frame_max, BULK)))

    def _moved(self, fault: str) -> None:
        told, self._moving = self._moving, None
        bounced, self._bounced = self._bounced, False
        if told is not None:
            _guarded(told, fault or ("there is no such queue" if bounced else ""))
        self._move()

    async def told(self, channel: int, *methods: Method) -> Method:
        """Say these, and wait for what the last is answered. Raises BrokerError where it is refused or lost."""
        answer: asyncio.Future[Method] = self._loop.create_future()
        self._awaited.add(answer)
        left = len(methods) or 1

        def answered(method: Method) -> None:
            nonlocal left
            left -= 1
            if isinstance(method, commands.Channel.Close):
                if not answer.done():
                    answer.set_exception(BrokerError(f"the broker refuses: {method.reply_text}"))
            elif not left and not answer.done():
                answer.set_result(method)

        if methods:
            self.asks(channel, methods, [answered] * len(methods))
        else:
            self._waiting[channel].append(answered)
        if self._transport is None:
            self._fail()
        try:
            return await answer
        finally:
            self._awaited.discard(answer)

    def _say(self, channel: int, *methods: Method) -> None:
        if self._transport is not None:
            self._transport.write(b"".join([frame.marshal(method, channel) for method in methods]))

    # ---- is it alive?

    @property
    def _under_way(self) -> bool:
        return bool(self._unconfirmed or self._moving) or any(self._waiting.values())

    def _begins(self) -> None:
        if not self._under_way:
            self._heard = self._clock()

    def overdue(self, now: float, patience: float) -> bool:
        """Whether something is to be answered, and nothing has gone on for longer than it may."""
        if self._transport is None or not self._under_way:
            return False
        unwritten = self._transport.get_write_buffer_size()
        if unwritten < self._unwritten:
            self._heard = now  # much is being said, and the broker takes it
        self._unwritten = unwritten
        return now - self._heard > patience

    def silent(self, now: float) -> bool:
        """Whether there is not even a heartbeat."""
        return now - self._alive > 2 * HEARTBEAT

    # ---- its end

    def drop(self) -> None:
        """Give it up: at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)

    def close(self) -> None:
        """Say goodbye, after all that was said before. When that has been heard, or nobody hears it, it is `lost`."""
        if self._transport is not None:
            for message, _ in self._bulk:
                self._transport.write(b"".join(written(message, self._frame_max, BULK)))
            self._bulk.clear()
            self._say(0, commands.Connection.Close(200, "goodbye", 0, 0))
            self._loop.call_later(CONNECT_WITHIN, self.drop)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        for waiting in self._waiting.values():
            waiting.clear()
        self._unconfirmed.clear()
        self._bulk.clear()
        self._moving = None
        self._fail()
        self.lost()

    def _fail(self) -> None:
        for answer in self._awaited:
            if not answer.done():
                answer.set_exception(BrokerError(self.why or "the connection was lost"))

    # ---- in: asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream; uvloop's have no common base

    def data_received(self, data: bytes) -> None:
        self._alive = self._clock()
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        try:
            while end - at > _FRAME.size:
                kind, channel, size = _FRAME.unpack_from(data, at)
                first, last = at + _FRAME.size, at + _FRAME.size + size
                if kind not in _KINDS or size > self._frame_max:
                    raise _Strange("no frame that was agreed on")
                if last >= end:
                    break
                if data[last] != _END[0]:
                    raise _Strange("a frame has no end")
                if kind != _HEARTBEAT:
                    self._heard = self._alive
                    self._take(kind, channel, data, first, last)
                at = last + 1
                if self._transport is None:
                    return
        except (_Strange, PAMQPException, error, KeyError, ValueError) as fault:
            log.warning("what answers is no RabbitMQ: %s", fault)
            self.drop()
            return
        self._rest = data[at:] if at else data
        self._hand_over()

    def _hand_over(self) -> None:
        if self._bodies:
            bodies, self._bodies = self._bodies, []
            _guarded(self.came, bodies)

    def _take(self, kind: int, channel: int, data: bytes, first: int, last: int) -> None:
        """One frame, whose payload lies from `first` to `last`."""
        if kind != _METHOD:
            if channel == BULK and self._bounced:
                return  # what was sent there, once more
            self._take_part(kind, channel, data[first:last])
            return
        (index,) = _INDEX.unpack_from(data, first)
        if channel == BULK and index in (_ACK, _RETURN):
            if index == _ACK:
                self._moved("")
            else:
                self._bounced = True
        elif index == _ACK:
            number, multiple = _CONFIRM.unpack_from(data, first + 4)
            self._confirm(number, bool(multiple), "")
        elif index in (_DELIVER, _RETURN):
            if channel != MAIN or self._parts is not None:
                raise _Strange("a message where none can be")
            self._returning, self._left, self._parts = index == _RETURN, -1, []
        else:
            self._hear(channel, frame.unmarshal(data[first - _FRAME.size : last + 1])[2])  # type: ignore[arg-type]

    def _take_part(self, kind: int, channel: int, part: bytes) -> None:
        """Of a message: first its header, then its body."""
        if channel != MAIN or self._parts is None or (kind == _HEADER) != (self._left < 0):
            raise _Strange("a part of no message")
        if kind == _HEADER:
            (self._left,) = _SIZE.unpack_from(part, 4)
            self._keeping = not self._returning and self._left <= self._largest
            if self._returning:
                self._came_back(part)
        else:
            self._left -= len(part)
            if self._left < 0:
                raise _Strange("a message larger than it says")
            if self._keeping:
                self._parts.append(part)
        if not self._left:
            if not self._returning:
                self._bodies.append(b"".join(self._parts))
            self._parts = None

    def _came_back(self, head: bytes) -> None:
        """It could not be delivered; that it was confirmed follows."""
        read = header.ContentHeader()
        read.unmarshal(head)
        self._returned.add(read.properties.correlation_id or "")

    def _confirm(self, number: int, multiple: bool, fault: str) -> None:
        unconfirmed = self._unconfirmed
        for each in list(takewhile(lambda sent: sent <= number, unconfirmed)) if multiple else (number,):
            if (found := unconfirmed.pop(each, None)) is not None:
                id_, confirmed = found
                returned = id_ in self._returned
                if returned:
                    self._returned.discard(id_)
                _guarded(confirmed, fault or ("there is no such queue" if returned else ""))

    def _refused(self, channel: int, method: commands.Basic.Nack) -> None:
        if channel == BULK:
            self._moved("it refuses the message")
        else:
            self._confirm(method.delivery_tag or 0, bool(method.multiple), "it refuses the message")

    def _hear(self, channel: int, method: Method) -> None:
        """Whatever is not said with every message."""
        match method:
            case commands.Basic.Nack():
                self._refused(channel, method)
            case commands.Connection.Blocked():
                self._now_blocked(True)
            case commands.Connection.Unblocked():
                self._now_blocked(False)
            case commands.Channel.Close():
                self._hand_over()
                self._channel_closed(channel, method)
            case commands.Connection.Close() | commands.Basic.Cancel():
                said = getattr(method, "reply_text", "what comes back cannot be read any more")
                self.why = f"the broker closes the connection: {said}"
                self._hand_over()
                self._say(0, commands.Connection.CloseOk())
                self.drop()
            case commands.Connection.CloseOk():
                self.drop()
            case _:
                if not self._waiting[channel]:
                    raise _Strange("an answer to no question")
                _guarded(self._waiting[channel].popleft(), method)

    def _channel_closed(self, channel: int, method: commands.Channel.Close) -> None:
        self._say(channel, commands.Channel.CloseOk())
        waiting, self._waiting[channel] = self._waiting[channel], deque()
        for answered in waiting:
            _guarded(answered, method)
        if channel == BULK:
            self._open_bulk()
            self._moved(f"it refuses the message: {method.reply_text}")
        elif channel == MAIN:
            self.why = f"the broker refuses: {method.reply_text}"
            self.drop()

    def _open_bulk(self) -> None:
        """Nothing is sent there before it has been answered."""

        def opened(_: Method) -> None:
            self._move()

        self.asks(BULK, (commands.Channel.Open(), commands.Confirm.Select()), (_ignored, opened))

    def _now_blocked(self, blocked: bool) -> None:
        if blocked is not self.is_blocked:
            self.is_blocked = blocked
            _guarded(self.blocked, blocked)

    # ---- the greeting

    async def greet(self, address: Address) -> None:
        """What comes first on every connection. Raises BrokerError."""
        assert self._transport is not None
        start = self.told(0)
        self._transport.write(header.ProtocolHeader().marshal())
        await start
        who = f"\0{address.username}\0{address.password}"
        client: Any = {**CLIENT, "connection_name": f"offloop-{os.getpid()}"}
        tune = await self.told(0, commands.Connection.StartOk(client, "PLAIN", who, "en_US"))
        if not isinstance(tune, commands.Connection.Tune):
            raise BrokerError("the broker asks for another way to log in")
        agreed = tune.frame_max or FRAME_MAX
        self._frame_max = min(agreed, FRAME_MAX)
        self._say(0, commands.Connection.TuneOk(tune.channel_max, self._frame_max, HEARTBEAT))
        await self.told(0, commands.Connection.Open(address.vhost))
        await self.told(LOOK, commands.Channel.Open())
        await self.told(BULK, commands.Channel.Open(), commands.Confirm.Select())
        await self.told(MAIN, commands.Channel.Open(), commands.Confirm.Select())


def _ignored(_: Method) -> None: ...


def _guarded(call: Callable[[Any], None], value: object) -> None:
    try:
        call(value)
    except Exception:
        log.exception("what the broker said could not be used")  # and what comes next is not to suffer


async def open_wire(address: Address, largest: int, clock: Clock = monotonic) -> Wire:
    """Connect and present oneself, in time. Raises BrokerError."""
    wire = Wire(clock, largest)
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            await asyncio.get_running_loop().create_connection(
                lambda: wire, address.host, address.port, ssl=address.tls,
                server_hostname=address.host if address.tls is not None else None,
            )  # fmt: skip
            await wire.greet(address)
    except (OSError, TimeoutError) as fault:
        wire.drop()
        raise BrokerError(f"{address}: {str(fault) or type(fault).__name__}") from None
    except BaseException:
        wire.drop()
        raise
    return wire
