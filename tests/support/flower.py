"""A real Flower that watches a broker: its pages and its API, as people who look on see them. It knows no task."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.celery import Worker
from tests.support.cluster import wait_until
from tests.support.daemon import Daemon, free_port

STARTS = 30.0
ANSWERS = 2.0
"""Seconds that it gives a worker for its answer; one second, as it does by itself, is little on a busy machine."""


class Flower(Daemon):
    """Made by `flower`.

    Args:
        broker: its URL.
    """

    name, up, deadline = "flower", "Connected to", STARTS

    def __init__(self, folder: Path, broker: str) -> None:
        super().__init__(folder)
        self._broker = broker
        self._environment = {**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"}

    def _settle_down(self) -> None:
        self.port = free_port()

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "celery", "-b", self._broker, "flower"]
        return [*command, "--address=127.0.0.1", f"--port={self.port}", f"--inspect_timeout={ANSWERS * 1000:g}"]

    def page(self, path: str) -> str:
        """One of its pages, as it is."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=20)
        assert answer.status_code == 200, f"{path}: {answer.status_code}"
        return answer.text

    def api(self, path: str) -> Any:
        """What its API answers; None where it knows of nothing."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/api{path}", timeout=20)
        return answer.json() if answer.status_code == 200 else None

    def wait_state(self, task: str, state: str) -> dict[str, Any]:
        """Until it shows that task as this."""
        found: list[Any] = []
        wait_until(
            lambda: found.append(self.api(f"/task/info/{task}")) or (found[-1] or {}).get("state") == state,  # type: ignore[func-returns-value]
            f"{task} is shown as {state}",
        )
        shown: dict[str, Any] = found[-1]
        return shown

    def pages(self, worker: Worker, task: str) -> str:
        """All that it shows of a worker and of a task, in one text."""
        where = (
            "/workers",
            f"/worker/{worker.name}",
            "/tasks",
            f"/task/{task}",
            "/api/tasks",
            "/api/workers?refresh=1",
        )
        return "\n".join([*map(self.page, where), *self.log])


@contextmanager
def flower(broker: str, worker: Worker) -> Iterator[Flower]:
    """One that watches that worker, which sends events."""
    with tempfile.TemporaryDirectory(prefix="offloop-flower-") as folder:
        one = Flower(Path(folder), broker)
        try:
            one.start()
            # Asked by it, and heard of: those who do not answer in time it asks again only when it is told to.
            known = "the worker has answered it"
            wait_until(lambda: worker.name in (one.api("/workers?refresh=1") or {}), known, STARTS)
            wait_until(lambda: worker.name in one.page("/workers"), "it hears the worker's events")
            yield one
        finally:
            one.kill()
