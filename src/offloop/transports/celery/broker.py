"""Which broker it is that Celery uses, by its URL: the one place that knows both. It chooses, and does nothing else."""

from collections.abc import Sequence
from typing import Any, Protocol

from offloop.clock import Clock
from offloop.errors import SettingsError
from offloop.transports.celery.ends import User, WebEnd, WorkerEnd
from offloop.transports.parcels import Returned, Seal

MARK = "celery+"
"""What a URL of ours has before Celery's own."""


class Broker(Protocol):
    """A broker, and how one gets there. Shown without credentials.

    Attributes:
        url, options: for Celery's `broker_url` and `broker_transport_options`.
        local: whether nobody but this host can listen.
    """

    @property
    def url(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...
    @property
    def local(self) -> bool: ...

    def web_end(
        self, epoch: str, pools: set[str | None], keys: Sequence[str], clock: Clock, user: User, largest: int
    ) -> WebEnd:
        """For a web process. `largest`: bytes of a message that it takes."""

    def worker_end(self, name: str, seal: Seal[Returned], keys: Sequence[str], clock: Clock) -> WorkerEnd:
        """For a process that runs tasks, which is told things by that name."""


def broker_at(url: str, namespace: str) -> Broker:
    """Read a URL of Celery's, with or without our mark before it.

    Raises:
        SettingsError: it is none that is served, or what it needs is not installed.
    """
    url = url.removeprefix(MARK)
    scheme = url.partition("://")[0]
    try:
        if scheme in ("redis", "rediss", "redis+socket", "redis+unix"):
            from offloop.transports.celery.redis import RedisBroker

            return RedisBroker(url, namespace)
        if scheme in ("amqp", "amqps", "pyamqp"):
            from offloop.transports.celery.amqp import AmqpBroker

            return AmqpBroker(url, namespace)
    except ModuleNotFoundError as missing:
        raise SettingsError(f"this broker needs {missing.name}: pip install 'offloop[celery,redis]'") from None
    raise SettingsError(f"a Celery on {scheme}:// is not served: use celery+redis:// or celery+amqp://")
