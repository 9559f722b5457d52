"""A request as the message of a Celery task, and back.

Owns what a task of ours looks like to Celery and to whoever watches it (`celery inspect`, events, Flower): its name,
its id, its queue, and of the request nothing but the endpoint's name. The rest travels beside the arguments, where
Celery puts callbacks and chains, and is shown nowhere.
"""

from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from celery import Celery

from offloop.transports.parcels import NotOurs, parts_of

BESIDE = "offloop"
"""Where a parcel is in the message, and so in a task's request."""
UNTIL = "offloop_until"
"""The header that says when whoever still runs it is killed, by the clock that both sides read."""
CONTENT_TYPE, CONTENT_ENCODING = "application/json", "utf-8"

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class Letter(NamedTuple):
    """One message.

    Attributes:
        rid, attempt: whose.
        queue: where it goes.
        headers, properties: Celery's, as its task protocol 2 has them.
        head, text, tail: of the body, which is JSON: what comes before the parcel in it and after, and that as base64.
            They are not put together before they are sent, so that what is large is not copied more often than need be.
    """

    rid: str
    attempt: int
    queue: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    head: bytes
    text: bytes
    tail: bytes

    @property
    def body(self) -> bytes:
        return b"".join((self.head, self.text, self.tail))


class _Made(NamedTuple):
    """What is the same in all messages for one endpoint."""

    queue: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    head: bytes
    tail: bytes

    @classmethod
    def of(cls, queue: str, message: Any) -> "_Made":
        args, kwargs, embed = message.body
        head, mark, tail = _json([args, kwargs, {**embed, BESIDE: ""}]).rpartition(b'""')
        return cls(queue, message.headers, message.properties, head + mark[:1], mark[1:] + tail)


def name_of(namespace: str) -> str:
    """The task's name."""
    return f"{namespace}.run"


def queue_of(namespace: str, pool: str | None) -> str:
    """The queue of a pool; the namespace's own for endpoints that name none."""
    return namespace if pool is None else f"{namespace}.{pool}"


def id_of(rid: str, attempt: int) -> str:
    """A task's id: all that some ends of a task tell of it."""
    return f"{rid}.{attempt}"


def read_id(task_id: str) -> tuple[str, int]:
    """The reverse. Raises NotOurs."""
    rid, _, attempt = task_id.rpartition(".")
    if not rid or not attempt.isascii() or not attempt.isdigit():
        raise NotOurs("its task's id is none of ours")
    return rid, int(attempt)


class Letters:
    """Writes messages, as Celery itself would.

    Args:
        namespace: of the task and its queues.
        pools: by endpoint.
        grace: seconds past its deadline after which a pool that can do so kills whoever runs it.
    """

    def __init__(self, namespace: str, pools: Mapping[str, str | None], grace: float) -> None:
        app = Celery(set_as_current=False)
        self._grace = grace
        # Once for each: all but ids, time and the parcel is the same every time.
        self._made = {
            endpoint: _Made.of(
                queue_of(namespace, pool),
                app.amqp.create_task_message("-", name_of(namespace), args=(endpoint,), kwargs={}),
            )
            for endpoint, pool in pools.items()
        }

    def queue(self, endpoint: str) -> str:
        """Where its requests go."""
        return self._made[endpoint].queue

    def write(
        self, endpoint: str, rid: str, attempt: int, parcel: Sequence[str | bytes], left: float, expires: float
    ) -> Letter:
        """Celery's message with a parcel in it; `left`: seconds until the deadline, `expires`: the same as an instant.

        Both of Celery's time limits are said, so that an app's own, which are for other tasks, do not hold.
        """
        return self._letter(endpoint, rid, attempt, b2a_base64(boxed(parcel), newline=False), left, expires)

    def writing(
        self, endpoint: str, rid: str, attempt: int, parcel: Sequence[str | bytes], left: float, expires: float
    ) -> Generator[None, None, Letter]:
        """The same, with a pause after each part of a large one."""
        box = boxed(parcel)
        parts: list[bytes] = []
        for part in parts_of(box):
            parts.append(b2a_base64(part, newline=False))
            yield
        return self._letter(endpoint, rid, attempt, b"".join(parts), left, expires)

    def _letter(self, endpoint: str, rid: str, attempt: int, text: bytes, left: float, expires: float) -> Letter:
        queue, headers, properties, head, tail = self._made[endpoint]
        id_ = id_of(rid, attempt)
        limit = round(max(left, 0.0) + self._grace, 3)
        return Letter(
            rid, attempt, queue,
            {**headers, "id": id_, "root_id": id_, "timelimit": [limit, limit], UNTIL: expires + self._grace},
            {**properties, "correlation_id": id_},
            head, text, tail,
        )  # fmt: skip


def boxed(parcel: Sequence[str | bytes]) -> bytes:
    """A parcel's fields in one piece."""
    return _pack([field.encode() if isinstance(field, str) else field for field in parcel])


def unboxed(data: bytes) -> list[bytes]:
    """The reverse. Raises NotOurs."""
    try:
        return _unpack(data)
    except (ValueError, msgspec.DecodeError):
        raise NotOurs("it cannot be read") from None


def packed(parcel: Sequence[str | bytes]) -> str:
    """A parcel's fields as text."""
    return b2a_base64(boxed(parcel), newline=False).decode()


def unpacked(text: object) -> list[bytes]:
    """The reverse. Raises NotOurs."""
    try:
        data = b64decode(text)  # type: ignore[arg-type]  # whatever was sent
    except (TypeError, ValueError):
        raise NotOurs("it cannot be read") from None
    return unboxed(data)
