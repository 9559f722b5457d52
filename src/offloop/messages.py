"""What travels: envelopes out, reports back; all frozen.

Owns the shapes that cross a transport, and `Blob`. No behaviour, no policy, and nothing that could not be sent to
another host: a field here is a plain value.
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes of any kind, as a message.

    Attributes:
        data: the bytes.
        media_type: what they are, such as `application/pdf`; None where unknown.
        filename: the name they came with, without a path; None where there was none.
    """

    data: bytes
    media_type: str | None = None
    filename: str | None = None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "binary"}


Form = Literal["json", "raw", "multipart", "packed", "none"]
"""How an envelope's payload is written: a JSON document; a Blob's bytes; the body of a multipart form as it came; a
message as `ask` packs it, with or without Blob fields; no body at all (all is in `fields`)."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One message on its way to a runner.

    Attributes:
        rid: the correlation id: ours, unguessable, carrying the web process's epoch.
        endpoint: the endpoint's name.
        payload: the bytes as they came; decoded and validated by the worker.
        form: how `payload` is written.
        media_type: the body's Content-Type, parameters and all (a multipart boundary is among them).
        filename: the name the bytes came with.
        fields: (where, name, value) of the few values that travel beside the bytes; where is `path` or `query`.
        deadline: monotonic seconds of this host after which no node may begin.
        request_id: the caller's label; never used to correlate.
        reply_to: the inbox of the web process that asked.
        trace: (name, value) of `traceparent`, `tracestate` and `baggage`, as they came.
        attempt: 1 for the first delivery.
        stream: whether the caller takes stream messages.
    """

    rid: str
    endpoint: str
    payload: bytes
    deadline: float
    form: Form = "json"
    media_type: str | None = None
    filename: str | None = None
    fields: tuple[tuple[str, str, str], ...] = ()
    request_id: str = ""
    reply_to: str = ""
    trace: tuple[tuple[str, str], ...] = ()
    attempt: int = 1
    stream: bool = False


class Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    """A worker is about to call the first node. Made visible before that call, never together with the outcome.

    `at` is monotonic seconds; `worker` the loop or process that holds it from now on.
    """

    rid: str
    attempt: int
    worker: str
    at: float


WINDOW = 2**20
"""Bytes of stream messages that may be on their way to one caller. Whoever makes them waits then."""
FRAME = 512
"""Bytes that a stream message counts for besides its payload: a flood of small ones takes memory, too."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag="chunk"):
    """One stream message, encoded; `number` counts from 1 within an attempt."""

    rid: str
    attempt: int
    number: int
    payload: bytes
    media_type: str | None = None
    filename: str | None = None


class Progressed(msgspec.Struct, frozen=True, array_like=True, tag="progressed"):
    """How far the work has come: `done` of `total`, where that is known, and a note for people."""

    rid: str
    attempt: int
    done: float
    total: float | None = None
    note: str | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag="outcome"):
    """What ends a request: a reply (`reason` is `ok`) or one named failure.

    Attributes:
        reason: `ok`, a reason of the contract's table, or a Problem's.
        payload: a reply's bytes; for `invalid-payload` the JSON list of errors; for a Problem the JSON object
            `{"title", "detail", "members"}`; otherwise empty.
        status: a Problem's status; 0 for everything else, whose status is known without it.
        media_type, filename: of a Blob reply.
        started: whether a node had begun; None where it cannot be known.
        begun_at, ended_at: monotonic seconds at the worker; 0.0 where it never came so far.
        last: False if the loop still has to finish what was emitted before the reply; a `Freed` follows.
        debug: a traceback, only under DEBUG.
    """

    rid: str
    reason: str = "ok"
    payload: bytes = b""
    status: int = 0
    media_type: str | None = None
    filename: str | None = None
    attempt: int = 1
    started: bool | None = True
    begun_at: float = 0.0
    ended_at: float = 0.0
    worker: str = ""
    last: bool = True
    debug: str | None = None


class Freed(msgspec.Struct, frozen=True, array_like=True, tag="freed"):
    """The loop that ran `rid` is free again: its outcome is long sent, or nobody wants one."""

    rid: str
    attempt: int
    worker: str


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag="withdrawn"):
    """The late answer to a withdrawal: `begun` is False if it never will begin, True if it had, None if unknown."""

    rid: str
    begun: bool | None


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """A transport could not take an envelope (a shared bound, a dead broker): it will never begin."""

    rid: str
    reason: str


class WorkerUp(msgspec.Struct, frozen=True, array_like=True, tag="up"):
    """A worker is ready to take `loops` requests at once.

    Attributes:
        replaces: who is handed no more from now on, if anyone.
        rank: of workers that have equally much to do, one of a lower rank is asked first.
    """

    worker: str
    loops: int = 1
    replaces: str = ""
    rank: int = 0


class WorkerGone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """A worker is gone, and everything it had sent has been read. `cause` is for the log and the metrics.

    One that had never been reported as up could not be started.

    Attributes:
        marks: by the number of a loop that takes its work elsewhere, how far it had come in that: see `Table.mark`.
    """

    worker: str
    cause: str
    marks: dict[int, tuple[int, int]] = {}


class Taken(msgspec.Struct, frozen=True):
    """A transport whose bound is shared has judged an envelope and queued it: that was its admission."""

    rid: str


class Requeued(msgspec.Struct, frozen=True, array_like=True, tag="requeued"):
    """Its worker is gone, and it lies in a shared queue once more, as this attempt.

    `begun`: whether an earlier one had begun; None if that cannot be known.
    """

    rid: str
    attempt: int
    begun: bool | None = True


class Linked(msgspec.Struct, frozen=True):
    """Whether what lies between here and the workers can be reached."""

    up: bool


class Staffed(msgspec.Struct, frozen=True):
    """Who has announced themselves elsewhere: (loops, of which busy) by name. Whoever is not in it is not there.

    `pools`: those that they take from; None: all.
    """

    workers: dict[str, tuple[int, int]]
    pools: frozenset[str] | None = None


Report = (
    Begun
    | Chunk
    | Progressed
    | Outcome
    | Freed
    | Withdrawn
    | Refused
    | WorkerUp
    | WorkerGone
    | Taken
    | Requeued
    | Linked
    | Staffed
)
"""All that can come back from the worker side."""
