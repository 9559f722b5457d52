"""What lies where on a Redis: the keys of one namespace, and how long each lives by itself.

Every name begins with the namespace, so that several share a Redis without seeing each other, and one pattern of an
ACL covers each. No connection and no command may enter.
"""

from dataclasses import dataclass

GROUP = "workers"
"""The consumer group of every stream of requests."""
POOL = "default"
"""Where endpoints go that name no pool."""

LEASE = 1.2
"""Seconds for which what was delivered is its worker's, unless the lease is renewed."""
ANNOUNCED = 3.0
"""Seconds for which a worker counts as there after it has said so."""
FORGOTTEN = 60.0
"""Seconds after which nobody knows any more that a worker was there."""
INBOX_LIVES = 60.0
"""Seconds that an inbox outlives the last sign of its owner."""


def consumer(worker: str, loop: int) -> str:
    """Who takes from a stream: one loop of a worker, so that each knows what it was given. `worker`: `host/worker`."""
    return f"{worker}/{loop}"


Mark = tuple[int, int]
"""The id of an entry, by which those of one stream are in order."""
NOTHING: Mark = (0, 0)
"""Before all of them."""


def mark_of(id: bytes) -> Mark:  # noqa: A002
    """An id as the broker writes it."""
    upper, _, lower = id.partition(b"-")
    return int(upper), int(lower)


def worker_of(consumer: str) -> str:
    """The worker whose loop that is."""
    return "/".join(consumer.split("/")[:2])


@dataclass(frozen=True)
class Names:
    """The keys of one namespace."""

    namespace: str

    def requests(self, pool: str) -> str:
        """A stream: requests that wait, and those that are being worked on."""
        return f"{self.namespace}:requests:{pool}"

    def workers(self, pool: str) -> str:
        """A hash: who takes from that stream, and until when that counts."""
        return f"{self.namespace}:workers:{pool}"

    def dead(self, pool: str) -> str:
        """A stream: requests whose workers died once too often."""
        return f"{self.namespace}:dead:{pool}"

    def inbox(self, epoch: str) -> str:
        """A stream: what comes back to one web process."""
        return f"{self.namespace}:inbox:{epoch}"

    def orders(self, host: str) -> str:
        """A stream: what a supervisor is to tell to requests that its workers run."""
        return f"{self.namespace}:orders:{host}"

    def seen(self, rid: str, attempt: int) -> str:
        """A key that says that a signed request was taken: it is not to be taken again."""
        return f"{self.namespace}:seen:{rid}:{attempt}"
