"""What a plant is made of: what a request comes to, who holds it, who runs it. Plain records that decide nothing."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from offloop.core.respawn import Respawn
from offloop.messages import WINDOW, Envelope


@dataclass(frozen=True)
class Plan:
    """What one attempt at a request comes to.

    Attributes:
        seconds: until its reply, or what stands for it.
        end: `ok`, a reason, a Problem's reason (`too-many`), or `die`.
        after: seconds of work after the reply; 0.0 for none.
        chunks: how many come before the reply.
        size: bytes that each of them counts for.
        twice: whether the reply is sent twice.
        heeds: whether the work notices that it is cancelled or late.
    """

    seconds: float
    end: str
    after: float = 0.0
    chunks: int = 0
    size: int = 0
    twice: bool = False
    heeds: bool = True


class Delivery:
    """An envelope on its way or in a worker's hands.

    Attributes:
        begun: None until it has begun, or never will.
        room: bytes of stream messages that may be sent.
        waits: goes on with its work once there is room.
    """

    __slots__ = ("asked", "begun", "begun_at", "cancelled", "envelope", "put_at", "replied", "room", "waits", "where")

    def __init__(self, envelope: Envelope, where: "Worker | None", put_at: float) -> None:
        self.envelope = envelope
        self.where = where
        self.put_at = put_at
        self.begun: bool | None = None
        self.begun_at = 0.0
        self.asked = False
        self.replied = False
        self.cancelled = False
        self.room = WINDOW
        self.waits: Callable[[], None] | None = None


@dataclass(eq=False)
class Worker:
    """One loop (shared), or one process with some loops.

    Attributes:
        limit: after so many requests a successor is started; 0: never.
        succeeded: one is on its way, or there.
        finishing: it has a successor, and ends when it holds nothing.
        leaving: it is a thread that was left to its node.
        condemned: it will be killed in a moment.
    """

    name: str
    loops: int
    respawn: Respawn
    ready_at: float
    limit: int = 0
    handed: int = 0
    succeeded: bool = False
    finishing: bool = False
    buffer: deque[Delivery] = field(default_factory=deque)
    running: dict[str, Delivery] = field(default_factory=dict)
    control: list[Delivery] = field(default_factory=list)
    frozen_until: float = 0.0
    leaving: bool = False
    condemned: bool = False
    alive: bool = True
