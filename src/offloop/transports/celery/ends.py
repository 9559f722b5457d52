"""What a broker has to do for the two ends of this transport. Protocols only; `redis` and `amqp` fulfil them.

Time between hosts is told by one clock that both ends read: the broker's, where it has one, else each host's own.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from offloop.transports.brokered import Way
from offloop.transports.celery.letters import Letter
from offloop.transports.parcels import Order, Parcel, Returned

Fields = Sequence[bytes]
"""Of a parcel, names and values in turn."""


class TooLarge(OSError):
    """The broker is there, and takes nothing so large."""


class Claim(NamedTuple):
    """A request that is to be taken back before it begins.

    Attributes:
        left: seconds until its deadline, after which it would not begin by itself.
        cut: by a drain, at whose end it is to be known whether it has begun.
        again: whether each attempt may begin, and not one of them alone.
    """

    rid: str
    attempt: int
    left: float
    cut: bool
    again: bool = False


class User(Protocol):
    """Whoever a web process' end is for. Called on its event loop."""

    def up(self) -> None:
        """Letters are taken from now on."""

    def down(self) -> None:
        """None are any more. Whether those without an answer have arrived is not known."""

    def came(self, parcels: Sequence[Fields]) -> None:
        """What has been pushed into the inbox, in order."""

    def seen(self, there: dict[str, tuple[int, int]]) -> None:
        """Who takes requests: (loops, of which busy) by name."""


class WebEnd(Way, Protocol):
    """One web process' way to a broker. It never blocks; nothing is sent while it is not `is_up`.

    Attributes:
        gate: by which what is sent from now on is to say that it begins. Empty where the broker itself remembers who
            has begun a request, and lets nobody else begin it.
    """

    @property
    def gate(self) -> str: ...

    def knows(self, rid: str) -> bool:
        """Whether all has come, or will, that was said of it: not so when it was said into an inbox that is lost."""

    def shut(self, done: Callable[[], None]) -> None:
        """Have another gate from now on. Once `done`, nothing begins by the last, and all that has is known here.

        Where the connection is lost meanwhile, that will not be known, and `done` is not called.
        """

    def look(self) -> None:
        """Ask who is there; `User.seen` tells."""

    def publish(self, letters: Sequence[Letter], answered: Callable[[Letter, str], None]) -> None:
        """Send them in one go. `answered`, once for each that the broker has judged: empty, or why it refuses it."""

    def withdraw(self, claims: Sequence[Claim], found: Callable[[list[str | None]], None]) -> None:
        """For each: empty, it will never begin; a worker's name, that has begun it; None: that cannot be known.

        Once a drain has cut one before its deadline, nothing is to begin for this process any more.
        """

    def order(self, order: Order) -> None:
        """To the process that has said that it began."""

    def close(self) -> None:
        """The inbox goes with it."""


class WorkerEnd(Protocol):
    """A process' way to the broker, on the worker side. Thread-safe; blocks, but never for long.

    What it raises is an OSError: the broker is gone, and what was said may have been heard or not.

    Attributes:
        remembers: whether the broker lets nobody begin what somebody has begun. Where it does not, what it gives out
            a second time is not to begin: whoever had it first may have begun it, or may yet.
    """

    @property
    def remembers(self) -> bool: ...

    def local_time(self, at: float) -> float:
        """An instant of the common clock, in this host's monotonic one; never late, so that no deadline is put off."""

    def broker_time(self, at: float) -> float:
        """The reverse; 0.0, which is no instant, stays so."""

    def begin(self, parcel: Parcel, begun: Returned) -> str:
        """Claim it, and say so where no kill can erase it. Empty: go on. Otherwise why it must not begin."""

    def tell(self, rid: str, report: Returned, *, heard: bool) -> None:
        """Push it into the inbox of whoever asked. `heard`: returns when the broker has it."""

    def settled(self) -> bool:
        """Whether the broker has taken all that this thread told unheard since the last time it asked this."""

    def announce(self, queues: Sequence[str], loops: int, busy: int) -> None:
        """That this worker takes from these, for a while; for a broker that does not know it by itself."""

    def depart(self, queues: Sequence[str]) -> None:
        """That it does so no more."""

    def orders(self) -> Iterable[Order]:
        """What this process is told, for a thread of its own; ends with `close`."""

    def close(self) -> None: ...
