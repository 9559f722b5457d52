"""The modes that a test runs in, and what settings make so many loops in each.

Owns the words and the arithmetic. What a mode is to do is for the tests to say.
"""

from contextlib import ExitStack
from enum import StrEnum
from typing import Any
from uuid import uuid4

from offloop import Settings

broker_url = ""
"""Where cluster mode meets: a server of the tests' own, for as long as there is one."""
rabbit_url = ""
"""The same for Celery on RabbitMQ."""
program = ""
"""What a Celery worker is to run that is started beside a server."""
beside: list[ExitStack] = []
"""Celery workers that were started so, each to be closed by whoever looks after the tests."""


NOT_ITS_OWN = {"mode", "workers", "threads"}
"""Settings that are no Celery worker's."""


class Mode(StrEnum):
    THREAD = "thread"
    PROCESS = "process"
    CLUSTER = "cluster"
    """Behind a Redis, with workers that the web process supervises: OFFLOOP_MODE=process and a broker's URL."""
    CELERY = "celery"
    """Behind a Redis as Celery's broker, with a Celery worker that is started whenever settings are asked for."""
    RABBIT = "rabbit"
    """The same, behind a RabbitMQ."""

    @property
    def over_celery(self) -> bool:
        return self in (Mode.CELERY, Mode.RABBIT)

    @property
    def setting(self) -> str:
        """The value of OFFLOOP_MODE."""
        return (Mode.PROCESS if self is Mode.CLUSTER else Mode.CLUSTER if self.over_celery else self).value

    def _fields(self, loops: int | None, per_worker: int, more: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"mode": self.setting}
        if loops is not None and self is Mode.THREAD:
            fields |= {"threads": loops}
        elif loops is not None and not self.over_celery:
            fields |= {"workers": loops // per_worker, "threads": per_worker}
        if self is Mode.CLUSTER:
            assert broker_url, "no broker was started: take the fixture `mode`, or `redis`"
            fields |= {"broker_url": broker_url, "namespace": f"test-{uuid4().hex}"}
        if self.over_celery:
            url = broker_url if self is Mode.CELERY else rabbit_url
            assert url, "no broker was started: take the fixture `mode`"
            fields |= {"broker_url": f"celery+{url}", "namespace": f"test-{uuid4().hex}"}
            self._worker(loops or 2, fields | more)
        return fields | more

    def _worker(self, loops: int, fields: dict[str, Any]) -> None:
        """With so many loops, and the same settings. Ready when it returns."""
        from tests.support.celery import celery
        from tests.support.rabbit import swept

        named = {name: value for name, value in fields.items() if value is not None and name not in NOT_ITS_OWN}
        url, namespace = named.pop("broker_url"), named.pop("namespace")
        stack = ExitStack()
        if self is Mode.RABBIT:
            stack.callback(swept, rabbit_url, namespace)
        stack.enter_context(celery(url, namespace, concurrency=loops, TEST_PROGRAM=program, **named))
        beside.append(stack)

    def settings(self, loops: int | None = None, *, per_worker: int = 1, **more: Any) -> Settings:
        """For an Offloop with so many loops; None: as many as the mode has by itself. Its namespace is its own."""
        return Settings(**self._fields(loops, per_worker, more))

    def env(self, loops: int | None = None, *, per_worker: int = 1, **more: Any) -> dict[str, str | None]:
        """The same as the environment of a server; None as a value takes a name out of it."""
        fields = self._fields(loops, per_worker, more)
        return {f"OFFLOOP_{name.upper()}": None if value is None else str(value) for name, value in fields.items()}
