"""Connections to a Redis, as thin as they can be: one that blocks, one on an event loop.

Owns addresses (as redis-py reads URLs), the greeting, and the pairing of replies with commands; hiredis writes and
reads the protocol. A connection is never mended: whoever uses it opens another. No key and no meaning may enter.

It is longer than most files because both connections speak the same protocol.
"""

import asyncio
import logging
import math
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import hiredis
from redis.connection import parse_url

from offloop.clock import Clock, monotonic
from offloop.errors import SettingsError

log = logging.getLogger("offloop")

Command = tuple[str | bytes | int, ...]
Reply = Any
"""Bytes, an integer, None, a list of these, or a `ReplyError` that is given back and not raised."""
ReplyError = hiredis.ReplyError

CONNECT_WITHIN = 1.0
"""Seconds to connect and to be greeted."""
READ = 2**18
"""Bytes that are read at once."""
LARGE = 2**16
"""Bytes of an argument from which on a command is put together here."""
SLOWEST = 2**20
"""Bytes a second of the slowest way on which a large command is waited for. Whatever lies between here and the broker
may have taken all of it at once, and say nothing until it has passed it on."""
UNHEARD = 1000
"""Answers that nobody waits for, after which they are read all the same: they lie in the broker's memory."""


class BrokerError(OSError):
    """There is no connection, or there is none any more. What was asked and not answered may have been done."""


@dataclass(frozen=True, repr=False)
class Address:
    """Where a Redis is, and how one presents oneself. Shown without credentials."""

    host: str
    port: int
    path: str
    database: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        where = self.path or f"{self.host}:{self.port}"
        return f"{where}/{self.database}"

    @property
    def local(self) -> bool:
        """Whether nobody but this host can listen."""
        return bool(self.path) or self.host in ("localhost", "::1") or self.host.startswith("127.")

    def greeting(self) -> list[Command]:
        """The commands that come first on every connection."""
        commands: list[Command] = []
        if self.password is not None:
            user = () if self.username is None else (self.username,)
            commands.append(("AUTH", *user, self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        commands.append(("CLIENT", "SETNAME", f"offloop-{os.getpid()}"))
        return commands


def address_of(url: str) -> Address:
    """Read a `redis://`, `rediss://` or `redis+unix://` URL, with the options of redis-py that are of use here.

    Raises:
        SettingsError: it is none; the text has no credentials.
    """
    try:
        _check_userinfo(url)
        found: dict[str, Any] = parse_url(url.replace("redis+unix://", "unix://", 1))  # type: ignore[no-untyped-call]
        tls = _tls(found) if url.startswith("rediss://") else None
        return Address(
            found.get("host", "localhost"), int(found.get("port", 6379)), found.get("path", ""),
            int(found.get("db", 0)), found.get("username"), found.get("password"), tls,
        )  # fmt: skip
    except (ValueError, OSError) as fault:
        raise SettingsError(f"OFFLOOP_BROKER_URL cannot be used: {type(fault).__name__} in its options") from None


def _check_userinfo(url: str) -> None:
    """A password that is not quoted would be cut short, and the rest of it taken for a host or a path, and shown."""
    parts = urlsplit(url)
    if "@" in parts.path + parts.query + parts.fragment:
        raise SettingsError(
            "OFFLOOP_BROKER_URL cannot be used: an @ is where none can be; in a password / is %2F, ? is %3F, # is %23"
        )


def _tls(found: dict[str, Any]) -> ssl.SSLContext:
    """As redis-py: certificates are checked, unless the URL says otherwise."""
    context = ssl.create_default_context(cafile=found.get("ssl_ca_certs"), capath=found.get("ssl_ca_path"))
    required = str(found.get("ssl_cert_reqs", "required"))
    checked = str(found.get("ssl_check_hostname", "true")).lower() not in ("false", "no", "0")
    context.check_hostname = checked and required == "required"
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}.get(required, ssl.CERT_REQUIRED)
    if (certificate := found.get("ssl_certfile")) is not None:
        context.load_cert_chain(certificate, found.get("ssl_keyfile"), found.get("ssl_password"))
    return context


def pack(commands: Sequence[Command]) -> bytes:
    """Several commands, as they are sent."""
    parts: list[bytes] = []
    for command in commands:
        if any(isinstance(each, bytes) and len(each) > LARGE for each in command):
            parts += _parts(command)
        else:
            parts.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # also integers
    return b"".join(parts)


def _parts(command: Command) -> list[bytes]:
    """What hiredis would copy several times, as its buffer grows."""
    parts = [b"*%d\r\n" % len(command)]
    for each in command:
        data = each if isinstance(each, bytes) else str(each).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return parts


def passed_over(reply: Reply) -> None:
    """For an answer that changes nothing."""
    if isinstance(reply, ReplyError):
        log.debug("the broker: %s", reply)


def _greeted(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyError):
            said = str(reply).partition(", with args")[0]  # what follows repeats what was said: a password, perhaps
            raise BrokerError(f"the broker refuses the connection: {said}")


def demoted(reply: Reply) -> bool:
    """Whether who answers is no broker any more, or not yet: a replica, or one that reads its data. Its address may
    lead to another by now, and a connection that stays would never come there.
    """
    return isinstance(reply, ReplyError) and str(reply).startswith(("READONLY", "LOADING", "MASTERDOWN"))


def forgotten(reply: Reply) -> bool:
    """Whether the broker does not know a script by its hash: it was started again, or told to forget them."""
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


class Line:
    """A blocking connection, for one thread at a time.

    Args:
        patience: seconds to wait for a reply, beyond what a command itself may wait.
        scripts: texts of those that are called by their hash; told to the broker when it does not know one.

    Attributes:
        refused: how many commands that were sent without waiting were answered by an error, or by nothing.

    Raises:
        BrokerError: it cannot be opened; and by every call, once it has broken.
    """

    def __init__(self, address: Address, patience: float = 1.0, scripts: Sequence[str] = ()) -> None:
        self._patience = patience
        self._scripts = scripts
        self.refused = 0
        self._reader = hiredis.Reader()
        self._owed = 0
        self._timeout = CONNECT_WITHIN
        try:
            self._socket = _connected(address)
        except OSError as fault:
            raise BrokerError(f"{address}: {fault}") from None
        try:
            _greeted(self.exchange(address.greeting()))
        except BrokerError as fault:
            self.close()
            raise BrokerError(f"{address}: {fault}") from None

    def send(self, commands: Sequence[Command]) -> None:
        """Without waiting; what they answer is read by and by, and passed over: see `refused`."""
        self._owed += len(commands)
        self._write(pack(commands))
        if self._owed > UNHEARD:
            self._wait_for(0.0)
            self.settle()

    def settle(self) -> None:
        """Until all that was sent has been answered."""
        while self._owed:
            reply = self._read()
            self._owed -= 1
            self.refused += reply is None or isinstance(reply, ReplyError)

    def exchange(self, commands: Sequence[Command], waits: float = 0.0) -> list[Reply]:
        """Send them together, and give back what each was answered.

        Args:
            waits: seconds that the commands themselves may wait (BLOCK).
        """
        data = pack(commands)
        self._write(data)
        self._wait_for(waits + len(data) // SLOWEST)
        self.settle()
        replies = [self._read() for _ in commands]
        errors = [reply for reply in replies if isinstance(reply, ReplyError)]
        if not errors:
            return replies
        if (fault := next(filter(demoted, errors), None)) is not None:
            raise BrokerError(str(fault))
        if self._scripts and any(map(forgotten, errors)):
            scripts, self._scripts = self._scripts, ()  # once: a broker that forgets at once is not to be argued with
            self.exchange([("SCRIPT", "LOAD", script) for script in scripts])
            for place, command in enumerate(commands):
                if forgotten(replies[place]):
                    [replies[place]] = self.exchange([command])
            self._scripts = scripts
        return replies

    def _wait_for(self, waits: float) -> None:
        timeout = self._patience + waits
        if timeout != self._timeout:
            self._socket.settimeout(timeout)
            self._timeout = timeout

    def _write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
            if sent < len(data):  # it may take long, as long as it goes on: `sendall` has one limit for the whole
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self._socket.send(rest) :]
        except OSError as fault:
            raise BrokerError(str(fault)) from None

    def _read(self) -> Reply:
        try:
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(READ)
                if not data:
                    raise BrokerError("the broker has closed the connection")
                self._reader.feed(data)
        except (OSError, hiredis.ProtocolError) as fault:
            raise BrokerError(str(fault)) from None
        return reply

    def close(self) -> None:
        self._socket.close()


def _connected(address: Address) -> socket.socket:
    if not address.path:
        line = socket.create_connection((address.host, address.port), CONNECT_WITHIN)
    else:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(CONNECT_WITHIN)
    try:
        if address.path:
            line.connect(address.path)
        else:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line if address.tls is None else address.tls.wrap_socket(line, server_hostname=address.host)
    except OSError:
        line.close()
        raise


class Waiting(NamedTuple):
    """Somebody who waits for a reply, since when, and how many seconds the command itself and its way may take."""

    answered: Callable[[Reply], None]
    since: float
    waits: float


class Channel(asyncio.Protocol):
    """A connection on an event loop. Made by `open_channel`; used on its loop only; calls, and is not awaited.

    Attributes:
        lost: called once, when it has broken or was dropped: what was asked and not answered never will be.
        fault: what the broker has answered that takes no writes, after which the connection is of no use.
        scripts: said again when the broker does not know a script; what was asked then has its error.
    """

    def __init__(self, clock: Clock) -> None:
        self.lost: Callable[[], None] = lambda: None
        self.scripts: Sequence[Command] = ()
        self._clock = clock
        self._reader = hiredis.Reader()
        self._waiting: deque[Waiting] = deque()
        self._transport: asyncio.Transport | None = None
        self.fault: ReplyError | None = None
        self._alive = -math.inf  # when bytes have last passed, in either direction
        self._unsent = 0

    def ask(self, command: Command, answered: Callable[[Reply], None], waits: float = 0.0) -> None:
        """Send it; `answered` is called with the reply, in order."""
        self.asks((command,), (answered,), waits)

    def asks(
        self, commands: Sequence[Command], answered: Sequence[Callable[[Reply], None]], waits: float = 0.0
    ) -> None:
        """The same for several, in one write."""
        if self._transport is None:
            return
        now, data = self._clock(), pack(commands)
        waits += len(data) / SLOWEST
        self._waiting.extend(Waiting(each, now, waits) for each in answered)
        self._transport.write(data)

    def overdue(self, now: float, patience: float) -> bool:
        """Whether the oldest command has been waiting for longer than it may, and nothing has passed for as long."""
        if self._transport is None or not self._waiting:
            return False
        unsent, before = self._transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        if unsent < before:
            self._alive = now
        first = self._waiting[0]
        return now - max(first.since, self._alive) > patience + first.waits

    def drop(self) -> None:
        """Give it up: at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream; uvloop's have no common base

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._alive = self._clock()
        known = True
        while (reply := self._next()) is not False:
            if isinstance(reply, ReplyError):
                known = known and not forgotten(reply)
                if demoted(reply):
                    self.fault = reply
            try:
                self._waiting.popleft().answered(reply)
            except Exception:
                log.exception("an answer of the broker could not be used")  # and the next ones are not to suffer
        if self.fault is not None:
            self.drop()
        elif not known:
            self.asks(self.scripts, [passed_over] * len(self.scripts))

    def _next(self) -> Reply:
        """False: nothing more is whole, or what came is no Redis' answer, and the connection is given up."""
        try:
            return self._reader.gets()
        except hiredis.ProtocolError as fault:
            log.warning("what answers is no Redis: %s", fault)
            self.drop()
            return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._waiting.clear()
        self.lost()


async def open_channel(address: Address, clock: Clock = monotonic) -> Channel:
    """Connect and present oneself, in time. Raises BrokerError."""
    loop = asyncio.get_running_loop()
    channel = Channel(clock)
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            if address.path:
                await loop.create_unix_connection(lambda: channel, address.path)
            else:
                await loop.create_connection(
                    lambda: channel, address.host, address.port, ssl=address.tls,
                    server_hostname=address.host if address.tls is not None else None,
                )  # fmt: skip
            _greeted(await ask_all(channel, address.greeting()))
    except (OSError, TimeoutError, BrokerError) as fault:
        channel.drop()
        raise BrokerError(f"{address}: {str(fault) or type(fault).__name__}") from None
    except BaseException:
        channel.drop()
        raise
    return channel


async def ask_all(channel: Channel, commands: Sequence[Command]) -> list[Reply]:
    """For what is not on the way of a request. Raises BrokerError where the channel breaks meanwhile."""
    done: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
    replies: list[Reply] = []
    before = channel.lost

    def answered(reply: Reply) -> None:
        replies.append(reply)
        if len(replies) == len(commands) and not done.done():
            done.set_result(replies)

    def lost() -> None:
        if not done.done():
            done.set_exception(BrokerError("the connection was lost"))
        before()

    channel.lost = lost
    channel.asks(commands, [answered] * len(commands))
    try:
        return await done
    finally:
        channel.lost = before
