"""What of offloop is done when a Celery worker starts, goes on and ends.

Owns which app has which part of offloop, and the signals by which Celery tells of a worker's life. What runs is in
`engine`.
"""

import logging
import os
import ssl
from typing import Any
from urllib.parse import parse_qsl, urlencode

from celery import Celery, signals
from celery._state import connect_on_app_finalize

from offloop import errors
from offloop.assembly import warn_unsigned
from offloop.celery.engine import Engine
from offloop.celery.presence import Presence
from offloop.celery.task import ending, task_of
from offloop.settings import Settings
from offloop.transports.celery.broker import MARK, Broker, broker_at
from offloop.transports.celery.letters import name_of, queue_of

log = logging.getLogger("offloop")

POOLS = {"prefork": "prefork", "thread": "threads", "solo": "solo"}
"""Celery's pools that blocking work can run in: the last word of the module, and what people call it."""
PROCESSES = "prefork"
SECURE = {"redis": "rediss", "rediss": "rediss", "amqp": "amqps", "amqps": "amqps", "pyamqp": "amqps"}
TLS = {
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_check_hostname",
}  # fmt: skip
"""What can be said of it in a URL of ours."""
LOOK_EVERY = 0.1
"""Seconds between two looks of a prefork pool at its processes. Celery's own are five: it looks as well when one has
closed its files, but that may be a moment before the system says that it has ended."""


class Part:
    """offloop's part in one Celery app. Nothing of the program is imported before a worker starts."""

    def __init__(self, app: Celery, packages: tuple[str, ...], settings: Settings) -> None:
        self.settings = settings
        self.app = app
        self.engine = Engine(packages, settings, lambda: _broker_of(app, settings), ending)
        self.presence: Presence | None = None
        self.watch: Any = None

    @property
    def queues(self) -> list[str]:
        """Of its endpoints."""
        return [queue_of(self.settings.namespace, pool) for pool in sorted(self.engine.pools, key=str)]

    def taken(self) -> list[str]:
        """Queues of its namespace that this worker takes from, now. Told by their names: nothing has to be imported."""
        namespace = self.settings.namespace
        return [
            queue
            for queue in list(self.app.amqp.queues.consume_from)
            if queue == namespace or queue.startswith(f"{namespace}.")
        ]


registered: dict[Celery, Part] = {}
"""By app: signals are Celery's, and whose worker one is of, is seen when it is sent."""


def connect() -> None:
    """Hear of every app and worker in this process, once however often this is called."""
    connect_on_app_finalize(add_task)
    signals.celeryd_after_setup.connect(_set_up, weak=False, dispatch_uid="offloop")
    signals.worker_process_init.connect(_process_started, weak=False, dispatch_uid="offloop")
    signals.worker_ready.connect(_ready, weak=False, dispatch_uid="offloop")
    signals.worker_shutting_down.connect(_leaving, weak=False, dispatch_uid="offloop")
    signals.worker_process_shutdown.connect(_process_ends, weak=False, dispatch_uid="offloop")
    signals.worker_shutdown.connect(_process_ends, weak=False, dispatch_uid="offloop")


def add_task(app: Celery) -> None:
    """Ours, for an app that is being finalized or has been; it is bound to its configuration as others are."""
    part = registered.get(app)
    if part is not None:
        task = task_of(app, name_of(part.settings.namespace), part.engine)
        app.tasks[task.name] = task
        task.bind(app)


def _set_up(instance: Any, **_: Any) -> None:
    """Before anything runs, and before processes are made: the program is loaded once, or the worker ends."""
    part = registered.get(instance.app)
    if part is None:
        return
    queues = instance.app.amqp.queues
    if queues._consume_from is not None and not part.taken():  # noqa: SLF001  (-Q was given, which is told nowhere else)
        return  # this worker is for other tasks, and may have nothing of what the program needs
    try:
        _check_accepted(instance.app)
        broker = part.engine.load()[1]
    except Exception as fault:
        log.exception("offloop's part of this worker cannot be loaded")
        raise SystemExit(f"offloop: {type(fault).__name__}: {fault}") from fault
    warn_unsigned(part.settings, broker.local, str(broker))
    _add_queues(part, queues)
    _ready_pool(part, instance)
    for unused in ("OFFLOOP_WORKERS", "OFFLOOP_THREADS", "OFFLOOP_MAX_REQUESTS"):
        if unused in os.environ:
            log.warning(
                "%s does not apply to a Celery worker: use its own --concurrency and --max-tasks-per-child", unused
            )


def _add_queues(part: Part, queues: Any) -> None:
    if queues._consume_from is None:  # noqa: SLF001  (as above)
        for queue in part.queues:
            if queue not in queues:  # else the app says itself what it is like, and whether it is taken from
                queues.select_add(queues.new_missing(queue))


def _ready_pool(part: Part, instance: Any) -> None:
    pool = instance.pool_cls.__module__.rpartition(".")[2]
    if pool not in POOLS:
        log.warning(
            "the pool %s is not served by offloop: blocking nodes need one of %s", pool, ", ".join(POOLS.values())
        )
    if pool != PROCESSES:  # this very process runs them
        part.engine.start()


def _check_accepted(app: Celery) -> None:
    accepted = app.conf.accept_content or ()
    if not {"json", "application/json"}.intersection(accepted):
        raise errors.SettingsError(
            f"accept_content of the Celery app is {', '.join(accepted)}: offloop's messages are JSON, add 'json'"
        )


def _process_started(**_: Any) -> None:
    for part in list(registered.values()):
        if part.engine.loaded:
            part.engine.start()


def _ready(sender: Any, **_: Any) -> None:
    """Also after a connection was lost: what was begun for the last one ends."""
    part = registered.get(sender.app)
    if part is None:
        return
    if part.presence is None:
        part.presence = Presence(part.engine.end, part.taken, name_of(part.settings.namespace), sender.pool)
    look = getattr(sender.pool, "maintain_pool", None)
    if look is not None and sender.hub is not None:
        if part.watch is not None:
            part.watch.cancel()
        part.watch = sender.hub.call_repeatedly(LOOK_EVERY, look)


def _leaving(**_: Any) -> None:
    for part in list(registered.values()):
        if part.presence is not None:
            part.presence.end()


def _process_ends(**_: Any) -> None:
    for part in list(registered.values()):
        part.engine.close()


INSTEAD = "say where requests are by OFFLOOP_BROKER_URL, as celery+redis:// or celery+amqp://"


def _broker_of(app: Celery, settings: Settings) -> Broker:
    """Where its tasks come from: what the setting says, else the app's own.

    Raises:
        SettingsError: it is none that is served, there are several, or its TLS cannot be followed.
    """
    if (settings.broker_url or "").startswith(MARK):
        return broker_at(settings.broker_url or "", settings.namespace)
    connection = app.connection_for_read()
    if len(connection.alt or ()) > 1:
        raise errors.SettingsError(f"the Celery app has several brokers, and a web process cannot follow it: {INSTEAD}")
    url = str(connection.as_uri(include_password=True))
    try:
        return broker_at(_with_tls(url, connection.ssl), settings.namespace)
    except errors.SettingsError as fault:
        raise errors.SettingsError(
            str(fault).replace("OFFLOOP_BROKER_URL cannot", "broker_url of the Celery app cannot")
        ) from None


def _with_tls(url: str, use: Any) -> str:
    """A URL that says what `broker_use_ssl` does: of a Redis its names begin with `ssl_`, of a RabbitMQ they do not."""
    if use is None or use is False:
        return url
    scheme, _, rest = url.partition("://")
    options = {} if use is True else {f"ssl_{name.removeprefix('ssl_')}": value for name, value in dict(use).items()}
    unknown = [name.removeprefix("ssl_") for name in options if name not in TLS]
    if unknown or scheme not in SECURE:
        what = f"{', '.join(map(repr, unknown))} of broker_use_ssl" if unknown else f"broker_use_ssl with {scheme}://"
        raise errors.SettingsError(f"{what} is nothing that a web process is told: {INSTEAD}")
    said = {
        name: value.name.removeprefix("CERT_").lower() if isinstance(value, ssl.VerifyMode) else str(value)
        for name, value in options.items()
    }
    rest, _, query = rest.partition("?")
    return f"{SECURE[scheme]}://{rest}?{urlencode({**dict(parse_qsl(query)), **said})}"
