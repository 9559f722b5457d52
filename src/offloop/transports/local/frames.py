"""The wire between a web process and one of its workers: frames, and what they say besides envelopes and reports.

A frame is two lengths (unsigned 32-bit, little-endian), a head (MessagePack, by msgspec) and a body (bytes, as they
are). A small payload travels in its head; a large one is the body, so that it is neither encoded nor decoded.

Owns the layout, the caps that are checked before anything is decoded, and the reader of both sides. No policy, and
nothing that waits.
"""

import socket
from struct import Struct
from typing import Generic, TypeVar

import msgspec

from offloop.messages import Chunk, Envelope, Freed, Outcome, Progressed, Withdrawn

LENGTHS = Struct("<II")
HEAD_LIMIT = 2**20
"""Bytes of the largest head: an envelope's labels and fields, and a payload of at most `INLINE`."""
INLINE = 2**14
"""Bytes of the largest payload that travels in its head."""
ROOM = 2**18
"""Bytes that a reader takes at once."""
KEPT = 2**22
"""Bytes of the largest buffer that a reader keeps for the next large frame."""
MAX_BODY = 2**32 - 1


class FrameError(Exception):
    """What came is no frame that the other side may send. Nothing after it can be understood."""


# ---- to a worker


class Cluster(msgspec.Struct, frozen=True, array_like=True):
    """Where a worker gets its work from, and answers it to, where that is not the socket.

    Attributes:
        url: the broker's, credentials and all.
        name: the worker's among all: that of its supervisor, a slash, and its own.
        keys: that sign.
        fingerprints: by endpoint.
        max_body: bytes.
        limit: how many requests it may have; 0: any number.
        event_log: a path, or None.
        scarce: not every loop has a seat at the broker: see `core/seats`.
    """

    url: str
    namespace: str
    pool: str
    name: str
    keys: tuple[str, ...]
    fingerprints: dict[str, str]
    max_body: int
    limit: int
    event_log: str | None
    scarce: bool = False

    def __repr__(self) -> str:
        return f"Cluster({self.name!r})"  # what else there is has credentials


class Setup(msgspec.Struct, frozen=True, array_like=True, tag="setup"):
    """The first frame: what a worker has to know.

    Attributes:
        packages: the user's, to import.
        path: `sys.path` of the web process, as the system writes it: a folder's name need not be text.
        name: the worker's, in reports.
        endpoints: that the web process serves; the worker's program must have them.
        loops: how many.
        max_reply: bytes.
        levels: of the web process' loggers, by name; "" is the root.
        cluster: where its work is; None: it comes over the socket.
    """

    packages: tuple[str, ...]
    path: tuple[bytes, ...]
    name: str
    endpoints: tuple[str, ...]
    loops: int
    max_reply: int
    gc_freeze: bool
    debug: bool
    levels: dict[str, int]
    cluster: Cluster | None = None


class Work(msgspec.Struct, frozen=True, array_like=True, tag="work"):
    """An envelope. `place` is its own in the table of what has begun; `number` counts what this worker is sent."""

    place: int
    number: int
    envelope: Envelope


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    """Nothing comes after this: end when all that came before has ended."""


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag="withdraw"):
    """Do not begin it; answered by `Withdrawn`. Known by its number as well: it may not have been read yet."""

    rid: str
    number: int


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for it any more."""

    rid: str


class Grant(msgspec.Struct, frozen=True, array_like=True, tag="grant"):
    """Its caller has taken `room` bytes of its stream: as many more may be sent."""

    rid: str
    room: int


class Sit(msgspec.Struct, frozen=True, array_like=True, tag="sit"):
    """That loop may wait at the broker, as it has asked for its so manieth turn."""

    loop: int
    turn: int


class Stand(msgspec.Struct, frozen=True, array_like=True, tag="stand"):
    """That loop is to wait there no more, in its turn of that number: fewer are enough."""

    loop: int
    turn: int


# ---- to the web process, besides reports


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """What the worker does before it is ready, in words for a log."""

    doing: str


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Its services are built: it can take work."""


class Worn(msgspec.Struct, frozen=True, array_like=True, tag="worn"):
    """It has had as many requests as it may."""


class Asks(msgspec.Struct, frozen=True, array_like=True, tag="asks"):
    """A loop that takes its work elsewhere has none, and would wait there: see `core/seats`."""

    loop: int
    turn: int


class Leaves(msgspec.Struct, frozen=True, array_like=True, tag="leaves"):
    """It does not wait there any more, and will not."""

    loop: int
    turn: int


class Crowded(msgspec.Struct, frozen=True, array_like=True, tag="crowded"):
    """What it takes elsewhere lies there for too long: more loops are to wait there."""


class Disbelieved(msgspec.Struct, frozen=True, array_like=True, tag="disbelieved"):
    """One more entry of what it takes elsewhere was refused."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """It cannot start, and ends. `line` says why, `trace` is the traceback."""

    line: str
    trace: str


Orders = Setup | Work | Stop
"""What goes to a worker on its work socket."""
Controls = Withdraw | Cancel | Grant | Sit | Stand
"""What goes to a worker on its control socket."""
Said = Progress | Ready | Worn | Asks | Leaves | Crowded | Disbelieved | Failed
"""What a worker says of itself."""
Reported = Outcome | Chunk | Progressed | Freed | Withdrawn
"""What a worker reports; that a request has begun is in the table."""
Answers = Reported | Said
"""What comes from a worker on its work socket."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


def work(envelope: Envelope, place: int, number: int) -> list[bytes]:
    """A frame, in pieces to be sent one after the other.

    Raises:
        ValueError: what goes into its head (a file's name, the fields of a path or query, a header) is too long, or is
            text that cannot be written as UTF-8.
    """
    payload = envelope.payload
    if len(payload) <= INLINE:
        return [_headed(Work(place, number, envelope), 0)]
    headed = _headed(Work(place, number, msgspec.structs.replace(envelope, payload=b"")), len(payload))
    return [headed, payload]


def report(said: Outcome | Chunk) -> list[bytes]:
    """As `work` does it for an envelope, and raises."""
    payload = said.payload
    if len(payload) <= INLINE:
        return [_headed(said, 0)]
    return [_headed(msgspec.structs.replace(said, payload=b""), len(payload)), payload]


def plain(message: object) -> list[bytes]:
    """The frame of a message without a large payload."""
    return [_headed(message, 0)]


def _headed(message: object, body: int) -> bytes:
    head = _encode(message)
    if len(head) > HEAD_LIMIT:
        raise ValueError(f"its labels make a head of {len(head)} bytes, of {HEAD_LIMIT} that are taken")
    return LENGTHS.pack(len(head), body) + head


class Reader(Generic[T]):
    """Reads frames from a socket, blocking or not. Not thread-safe.

    Args:
        kind: what may come; a union of Structs.
        max_body: bytes of the largest body that may come.

    Attributes:
        fault: set once something came that is no frame. What had come before it was given back; read no more.
    """

    fault: FrameError | None = None

    def __init__(self, kind: object, max_body: int) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._max_body = max_body
        self._buffer = bytearray(ROOM)
        self._view = memoryview(self._buffer)
        self._filled = 0

    def read(self, line: socket.socket, flags: int = 0) -> list[T] | None:
        """Read once, and give back what is whole by now; None at the end of the stream.

        Args:
            flags: as `recv` takes them.

        Raises:
            BlockingIOError: nothing is there, or (blocking) nothing came in the socket's time.
            OSError: the connection is broken.
        """
        got = line.recv_into(self._view[self._filled :], 0, flags)
        if not got:
            return None
        self._filled += got
        found: list[T] = []
        try:
            at, needed = self._whole(found)
        except FrameError as fault:
            self.fault = fault
            return found
        if at == self._filled and len(self._buffer) <= KEPT:
            self._filled = 0  # the usual case: nothing is left over
        else:
            self._keep(at, needed)
        return found

    def _whole(self, found: list[T]) -> tuple[int, int]:
        """Those that are. Returns where the rest begins, and how many bytes it will have as far as is known."""
        view, at, filled = self._view, 0, self._filled
        needed = LENGTHS.size
        while filled - at >= LENGTHS.size:
            head, body = LENGTHS.unpack_from(view, at)
            if head > HEAD_LIMIT or body > self._max_body:
                raise FrameError(f"a frame with a head of {head} and a body of {body} bytes")
            needed = LENGTHS.size + head + body
            if filled - at < needed:
                break
            start = at + LENGTHS.size
            try:
                message: T = self._decode(view[start : start + head])
            except (msgspec.DecodeError, ValueError, RecursionError) as fault:
                raise FrameError(f"a head that cannot be read: {fault}") from None
            at += needed
            found.append(self._with_body(message, view[start + head : at]) if body else message)
            needed = LENGTHS.size
        return at, needed

    def _with_body(self, message: T, body: memoryview) -> T:
        if isinstance(message, Work):
            whole = msgspec.structs.replace(message.envelope, payload=bytes(body))
            return msgspec.structs.replace(message, envelope=whole)
        if isinstance(message, Outcome | Chunk):
            return msgspec.structs.replace(message, payload=bytes(body))
        raise FrameError(f"a {type(message).__name__} with a body of {len(body)} bytes")

    def _keep(self, at: int, needed: int) -> None:
        """Move what is not whole to the front, into a buffer that has room for all of it."""
        left = self._filled - at
        if needed > len(self._buffer) or (len(self._buffer) > KEPT and needed <= KEPT):
            fresh = bytearray(max(ROOM, needed))
            fresh[:left] = self._view[at : self._filled]
            self._buffer, self._view = fresh, memoryview(fresh)
        elif at and left:
            self._buffer[:left] = bytes(self._view[at : self._filled])
        self._filled = left
