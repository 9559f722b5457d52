"""A connection to a RabbitMQ that blocks: py-amqp's, which Celery brings along, and what it lacks.

Owns which message has been confirmed, refused or returned, for how long the broker is waited for, and the edge where
py-amqp's errors become ours. A connection is never mended: whoever uses it opens another. No queue and no meaning may
enter.
"""

import contextlib
import os
from collections.abc import Iterator
from itertools import takewhile
from struct import error
from typing import Any

import amqp
from amqp.exceptions import AMQPError, PreconditionFailed
from amqp.transport import SSLTransport, TCPTransport

from offloop.transports.celery.amqp_wire import CONNECT_WITHIN, Address, BrokerError
from offloop.transports.celery.ends import TooLarge

PATIENCE = 1.0
"""Seconds to wait for the broker."""
SLOWEST = 2**20
"""Bytes per second with which it takes a large message, at the least."""
UNHEARD = 1000
"""Confirms that nobody waits for, after which they are read all the same: they lie in the broker's memory."""


class Blocked(BrokerError):
    """The broker takes nothing for now. The connection stays; what was said may be heard once it goes on."""


class _Tls(SSLTransport):  # type: ignore[misc]  # py-amqp has no types
    """With a context of our own, which py-amqp does not take."""

    def _wrap_socket(self, sock: Any, context: Any = None, **_: Any) -> Any:
        return context.wrap_socket(sock, server_hostname=self.host, do_handshake_on_connect=False)


class _Connection(amqp.Connection):  # type: ignore[misc]
    def Transport(self, host: str, connect_timeout: float, ssl: Any = None, *_: Any, **__: Any) -> Any:  # noqa: N802
        if ssl is None:
            return TCPTransport(host, connect_timeout=connect_timeout)
        return _Tls(host, connect_timeout=connect_timeout, ssl={"context": ssl})


class Line:
    """A blocking connection, for one thread at a time.

    Args:
        heartbeat: for one that listens, and calls `listen` again and again: seconds after which silence is noticed.

    Attributes:
        refused: numbers of messages that the broker has not taken.
        returned: whether a mandatory one has come back: it had nowhere to go.

    Raises:
        BrokerError: it cannot be opened; and by every call, once it has broken.
        TooLarge: the broker does not take what was sent, and has closed its end for that.
    """

    def __init__(self, address: Address, heartbeat: int = 0) -> None:
        self.refused: set[int] = set()
        self.returned = False
        self._owner = os.getpid()
        self._number = 0
        self._unconfirmed: dict[int, None] = {}
        self._blocked = False
        self._came: list[tuple[str, bytes]] = []
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._connection = _Connection(
            f"{host}:{address.port}", address.username, address.password, virtual_host=address.vhost,
            login_method="PLAIN", ssl=address.tls, connect_timeout=CONNECT_WITHIN, heartbeat=heartbeat,
            on_blocked=lambda _: self._now_blocked(True), on_unblocked=lambda: self._now_blocked(False),
        )  # fmt: skip
        try:
            with _translated():
                self._connection.connect()
                self._connection.transport.sock.settimeout(PATIENCE)
                self._channel = self._connection.channel()
                self._channel.auto_decode = False
                self._channel.confirm_select()
        except BrokerError as fault:
            self.drop()
            raise BrokerError(f"{address}: {fault}") from None
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._came_back)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.drop()

    # ---- what it hears

    def _now_blocked(self, blocked: bool) -> None:
        self._blocked = blocked

    def _acked(self, number: int, multiple: bool) -> None:
        for each in list(takewhile(lambda sent: sent <= number, self._unconfirmed)) if multiple else (number,):
            self._unconfirmed.pop(each, None)

    def _nacked(self, number: int, multiple: bool) -> None:
        before = set(self._unconfirmed)
        self._acked(number, multiple)
        self.refused |= before - set(self._unconfirmed)

    def _came_back(self, *_: Any) -> None:
        self.returned = True

    # ---- calls

    def declare(self, exchange: str, kind: str) -> None:
        """Make it, if it is not there: it stays."""
        with _translated():
            self._channel.exchange_declare(exchange, kind, durable=True, auto_delete=False)

    def send(self, exchange: str, key: str, body: bytes, *, mandatory: bool = False) -> int:
        """Without waiting. Gives back its number: see `refused`."""
        with _translated():
            if self._blocked:
                with contextlib.suppress(TimeoutError):
                    self._connection.drain_events(timeout=0.001)
            if self._blocked:
                raise Blocked("the broker takes nothing: it is short of memory or disk")
            if len(self._unconfirmed) >= UNHEARD:
                self.settle()
            self._channel.basic_publish(
                amqp.Message(body), exchange, key, mandatory=mandatory, timeout=PATIENCE + len(body) / SLOWEST
            )
            self._number += 1
            self._unconfirmed[self._number] = None
        return self._number

    def settle(self) -> None:
        """Until all that was sent has been confirmed, or refused."""
        with _translated():
            while self._unconfirmed:
                if self._blocked:
                    raise Blocked("the broker takes nothing: it is short of memory or disk")
                self._connection.drain_events(timeout=PATIENCE)

    def open_queue(self, queue: str, *exchanges: str) -> None:
        """Make a queue that lives as long as this connection, with all that comes to these exchanges, and listen."""
        with _translated():
            self._channel.queue_declare(queue, exclusive=True, auto_delete=True)
            for exchange in exchanges:
                self._channel.queue_bind(queue, exchange)
            self._channel.basic_consume(queue, no_ack=True, exclusive=True, callback=self._delivered)

    def _delivered(self, message: Any) -> None:
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        self._came.append((message.delivery_info["exchange"], body))

    def listen(self, timeout: float) -> list[tuple[str, bytes]]:
        """What has come, (exchange, body) each; after so many seconds, if nothing has."""
        with _translated():
            self._connection.heartbeat_tick()
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=timeout)
        came, self._came = self._came, []
        return came

    def close(self) -> None:
        """In good order, if the broker is there."""
        if self._owner == os.getpid() and self._connection.connected:
            with contextlib.suppress(BrokerError), _translated():
                self._connection.close()
        self.drop()

    def drop(self) -> None:
        """At once. What a parent process has opened is the parent's."""
        if self._owner == os.getpid():
            with contextlib.suppress(BrokerError), _translated():
                self._connection.collect()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """py-amqp's errors, at the one edge where they are known."""
    try:
        yield
    except (BrokerError, TooLarge):
        raise
    except PreconditionFailed as fault:
        raise (TooLarge if "message size" in str(fault) else BrokerError)(str(fault)) from None
    except (AMQPError, OSError, error) as fault:
        raise BrokerError(str(fault) or type(fault).__name__) from None
