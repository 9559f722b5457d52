"""What of offloop is done when a Celery worker starts, goes on and ends.

Owns which app has which part of offloop, and the signals by which Celery tells of a worker's life. What runs is in
`engine`.
"""

import logging
import os
from typing import Any

from celery import Celery, signals
from celery.utils.imports import cwd_in_path

from offloop import errors
from offloop.assembly import warn_unsigned
from offloop.celery.engine import Engine
from offloop.celery.presence import Presence
from offloop.celery.task import ending
from offloop.settings import Settings
from offloop.transports.celery.broker import MARK, Broker, broker_at
from offloop.transports.celery.letters import name_of, queue_of

log = logging.getLogger("offloop")

POOLS = {"prefork": "prefork", "thread": "threads", "solo": "solo"}
"""Celery's pools that blocking work can run in: the last word of the module, and what people call it."""
PROCESSES = "prefork"
LOOK_EVERY = 0.1
"""Seconds between two looks of a prefork pool at its processes. Celery's own are five: it looks as well when one has
closed its files, but that may be a moment before the system says that it has ended."""


class Part:
    """offloop's part in one Celery app. Nothing of the program is imported before a worker starts."""

    def __init__(self, app: Celery, packages: tuple[str, ...], settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine(packages, settings, lambda: _broker_of(app, settings), ending)
        self.presence: Presence | None = None
        self.watch: Any = None

    @property
    def queues(self) -> list[str]:
        """Of its endpoints."""
        return [queue_of(self.settings.namespace, pool) for pool in sorted(self.engine.pools, key=str)]


registered: dict[Celery, Part] = {}
"""By app: signals are Celery's, and whose worker one is of, is seen when it is sent."""


def connect() -> None:
    """Hear of every worker in this process, once however often this is called."""
    signals.celeryd_after_setup.connect(_set_up, weak=False, dispatch_uid="offloop")
    signals.worker_process_init.connect(_process_started, weak=False, dispatch_uid="offloop")
    signals.worker_ready.connect(_ready, weak=False, dispatch_uid="offloop")
    signals.worker_shutting_down.connect(_leaving, weak=False, dispatch_uid="offloop")
    signals.worker_process_shutdown.connect(_process_ends, weak=False, dispatch_uid="offloop")
    signals.worker_shutdown.connect(_process_ends, weak=False, dispatch_uid="offloop")


def _set_up(instance: Any, **_: Any) -> None:
    """Before anything runs, and before processes are made: the program is loaded once, or the worker ends."""
    part = registered.get(instance.app)
    if part is None:
        return
    try:
        with cwd_in_path():  # as for the app itself: a program may lie where `celery` was called
            broker = part.engine.load()[1]
    except Exception as fault:
        log.exception("offloop's part of this worker cannot be loaded")
        raise SystemExit(f"offloop: {type(fault).__name__}: {fault}") from fault
    warn_unsigned(part.settings, broker.local, str(broker))
    queues = instance.app.amqp.queues
    if queues._consume_from is None:  # noqa: SLF001  (no -Q was given, which is told nowhere else)
        for queue in part.queues:
            queues.select_add(queues.new_missing(queue))
    pool = instance.pool_cls.__module__.rpartition(".")[2]
    if pool not in POOLS:
        log.warning(
            "the pool %s is not served by offloop: blocking nodes need one of %s", pool, ", ".join(POOLS.values())
        )
    if pool != PROCESSES:  # this very process runs them
        part.engine.start()
    for unused in ("OFFLOOP_WORKERS", "OFFLOOP_THREADS", "OFFLOOP_MAX_REQUESTS"):
        if unused in os.environ:
            log.warning(
                "%s does not apply to a Celery worker: use its own --concurrency and --max-tasks-per-child", unused
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
        taken = sender.app.amqp.queues.consume_from
        queues = [queue for queue in part.queues if queue in taken]
        task = name_of(part.settings.namespace)
        part.presence = Presence(part.engine.end(), queues, task, sender.pool)
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


def _broker_of(app: Celery, settings: Settings) -> Broker:
    """Where its tasks come from: what the setting says, else the app's own."""
    if (settings.broker_url or "").startswith(MARK):
        return broker_at(settings.broker_url or "", settings.namespace)
    try:
        return broker_at(str(app.connection_for_read().as_uri(include_password=True)), settings.namespace)
    except errors.SettingsError as fault:
        raise errors.SettingsError(str(fault).replace("OFFLOOP_BROKER_URL", "broker_url of the Celery app")) from None
